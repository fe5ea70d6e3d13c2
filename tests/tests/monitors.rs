//! Levels under other monitors than nestling: QEMU by the lines that nestling has, at
//! L1 and at L2, and by a line of one's own. One boot of L0 carries all.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::time::Duration;

use nestling_tests::nest::{Nest, Shared};
use nestling_tests::plan::{Machine, Template, cpuid, disk_digest, disk_write};
use nestling_tests::{or_skip, pattern, qemu, skip};
use serde_json::{Value, json};

/// A PC whose channel is its second serial line.
const OWN: &str = "/usr/bin/qemu-system-x86_64 -M q35 -accel kvm -cpu host -m {memory} \
    -nodefaults -display none -no-reboot -serial stdio -serial 'unix:{channel}' \
    -kernel {kernel} -initrd {initrd} -append '{cmdline} nestling.channel=ttyS1'";
const ABSENT: &str = "/nonexistent/vmm {kernel} {initrd} {cmdline}";

const LENGTH: usize = 65536;
const SEED: u64 = 11;

/// Asks the page that L0 serves.
fn fetch() -> Value {
    let command = "wget -q -O - http://192.0.2.1/";
    json!({ "kind": "program", "argv": ["/bin/sh", "-c", command] })
}

/// L1 with a disk, under the monitor of this name.
fn l1(template: &Template, name: &str, cpuids: u64) -> Machine {
    let disk = json!({ "path": format!("/run/{name}"), "create_mib": 1 });
    let l1 = template.machine(1, name).monitor(json!({ "name": name }));
    l1.disk(disk)
        .runs(cpuid(cpuids))
        .runs(fetch())
        .runs(disk_write("/dev/vda", LENGTH, SEED))
        .runs(disk_digest("/dev/vda", LENGTH))
}

fn svm() -> Result<&'static Nest, String> {
    static RUN: Shared<Nest> = Shared::new();
    skip::needs("qemu-system-x86_64")?;
    qemu::needs(qemu::PROGRAM)?;
    Ok(RUN.get(|| {
        let image = qemu::image_arguments(qemu::PROGRAM);
        let arguments = [&["--metal", "svm"], &image[..]].concat();
        let memory = ["--memory", "320M"];
        let template = Template::of(&[&arguments[..], &memory].concat());
        let l2 = template
            .machine(2, "L2")
            .monitor(json!({ "name": "qemu-microvm" }))
            .runs("hello")
            .runs(cpuid(1002))
            .runs(fetch());
        let own = template
            .machine(1, "own")
            .monitor(json!({ "name": "own", "command": OWN }))
            .runs("hello")
            .runs("reset");
        let absent = template
            .machine(1, "absent")
            .monitor(json!({ "name": "absent", "command": ABSENT }));
        let plan = template
            .machine(0, "L0")
            .more_memory(256)
            .boots(l1(&template, "qemu-q35", 1000))
            .boots(
                l1(&template, "qemu-microvm", 1001)
                    .more_memory(128)
                    .boots(l2),
            )
            .boots(own)
            .boots(absent);
        Nest::boot(&plan, &arguments, Duration::from_secs(1800))
    }))
}

/// The exits of the machine of `level` in the phase `name` of `of`.
fn exits(nest: &Nest, of: u64, name: &str, level: &str, kind: &str) -> u64 {
    let counts = &nest.phase(of, name)["counts"][level];
    counts[kind].as_u64().unwrap_or_else(|| panic!("{counts}"))
}

#[test]
fn ready_made_lines_give_what_nestling_gives() {
    let nest = or_skip!(svm());
    for name in ["qemu-q35", "qemu-microvm"] {
        let l1 = nest.machine(name);
        assert_eq!((l1.fault(), l1.how()), (None, "exited"), "{name}");
        let address = l1.output("address");
        assert!(address.starts_with("10.0.2.15/24 by DHCP"), "{address}");
        assert!(l1.output("/bin/sh").contains("served from within a nest"));
        let expected = pattern::digest(&pattern::bytes(SEED, LENGTH));
        assert_eq!(l1.output("disk-digest /dev/vda"), expected);
    }
}

#[test]
fn exits_under_another_monitor_are_counted_at_each_mark() {
    let nest = or_skip!(svm());
    for count in [1000, 1001] {
        let exits = exits(nest, 1, &format!("cpuid {count}"), "1", "exits");
        assert!((count..count + 500).contains(&exits), "{count}: {exits}");
    }
    for name in ["qemu-q35", "qemu-microvm"] {
        let counts = nest.machine(name).exits();
        for kind in ["exits", "io_exits", "mmio_exits", "irq_exits", "halt_exits"] {
            assert!(counts[kind].as_u64() > Some(0), "{name}, {kind}: {counts}");
        }
        // Values of the moment aren't counts.
        assert_eq!(counts["guest_mode"], Value::Null);
    }
}

#[test]
fn another_monitor_boots_l2_in_l1() {
    let nest = or_skip!(svm());
    let l2 = nest.machine("L2");
    assert_eq!((l2.fault(), l2.how()), (None, "exited"));
    assert!(l2.output("hello").starts_with("hello from L2: Linux 6."));
    assert!(l2.output("/bin/sh").contains("served from within a nest"));
    let own = exits(nest, 2, "cpuid 1002", "2", "exits");
    let entries = exits(nest, 2, "cpuid 1002", "1", "nested_run");
    let below = exits(nest, 2, "cpuid 1002", "1", "exits");
    assert!((1002..1502).contains(&own), "{own}");
    assert!(own.abs_diff(entries) * 20 <= own, "{own}, {entries}");
    assert!(below > 2 * own, "{own}, {below}");
}

#[test]
fn a_line_of_ones_own_may_carry_the_channel_elsewhere() {
    let nest = or_skip!(svm());
    let own = nest.machine("own");
    assert!(own.output("hello").starts_with("hello from L1: Linux 6."));
    // QEMU doesn't tell a reset from a power-off; that the order wasn't done does.
    assert_eq!((own.fault(), own.how()), (Some("reset"), "exited"));
}

#[test]
fn a_program_that_is_not_in_the_image_is_named() {
    let nest = or_skip!(svm());
    let absent = nest.machine("absent");
    assert_eq!(absent.fault(), Some("not-started"));
    let fault = absent.own("fault").next().unwrap();
    let detail = fault["detail"].as_str().unwrap();
    assert!(
        detail.contains("/nonexistent/vmm: No such file"),
        "{detail}"
    );
}
