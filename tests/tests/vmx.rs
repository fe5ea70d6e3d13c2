//! Nests on emulated VT-x with EPT: Bochs, which takes minutes for a level, so one
//! boot of L0 carries everything.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::time::Duration;

use nestling_tests::nest::{Nest, Shared, network};
use nestling_tests::plan::{System, Template, disk_digest, disk_write};
use nestling_tests::{cpu, fleet, hypervisor, or_skip, pattern, skip};
use serde_json::{Value, json};

/// Not a multiple of a page, and short: every sector costs exits at three levels.
const LENGTH: usize = 64 * 1024 + 512;
/// The bare-metal hypervisor in the image.
const HYPERVISOR: &str = "/hypervisor";
/// The disk that L0 keeps in its memory.
const L0_FILE: &str = "/run/disk.img";

/// L1 without EPT, and without five controls that KVM can do without.
const NO_EPT: &str = "vmx,-ept";
const NO_FIVE: &str = "vmx,-vpid,-unrestricted_guest,-preemption_timer,-flexpriority,-shadow_vmcs";

fn run() -> Result<&'static Nest, String> {
    static RUN: Shared<Nest> = Shared::new();
    for program in ["bochs", "xorriso"] {
        skip::needs(program)?;
    }
    Ok(RUN.get(|| {
        let folder = tempfile::tempdir().unwrap();
        let payload = folder.path().join("hypervisor");
        fs::write(&payload, hypervisor::image()).unwrap();
        let arguments = ["--metal", "vmx", "--l2-net", "off", "--memory", "256M"];
        let template = Template::of(&arguments);
        let l2 = |name| template.machine(2, name);
        let main = template
            .machine(1, "main")
            .disk(json!({ "path": L0_FILE, "create_mib": 1 }))
            .runs("probe")
            .runs("cpu-dump")
            .boots(
                l2("work")
                    .disk(json!({ "path": "/dev/vda" }))
                    .runs("hello")
                    .runs(disk_write("/dev/vda", LENGTH, 4))
                    .runs("reset"),
            )
            .boots(l2("triple").runs("triple-fault"))
            .boots(l2("panic").runs("panic"))
            .runs(disk_digest("/dev/vda", LENGTH))
            .runs("hello");
        let off = template
            .machine(1, "shown off")
            .nested("off")
            .with_kvm()
            .runs("probe")
            .runs("cpu-dump");
        let pair = template
            .machine(1, "pair")
            .cpus(2)
            .runs("cpu-dump")
            .boots(l2("inner pair").cpus(2).runs("hello"));
        let without = |controls, name| {
            template
                .machine(1, controls)
                .nested(controls)
                .runs("probe")
                .runs("cpu-dump")
                .boots(l2(name).runs("hello"))
        };
        let hyperv = template
            .machine(1, "Hyper-V")
            .hyperv("on")
            .runs("probe")
            .boots(l2("in Hyper-V").runs("hello"));
        let bare_metal = System::new(template.machine(1, "bare metal"), HYPERVISOR, 600)
            .cmdline("cpuid=1000")
            .ends_with(hypervisor::DONE);
        let plan = template
            .machine(0, "L0")
            .boots_system(bare_metal)
            .boots(main)
            .runs(disk_digest(L0_FILE, LENGTH))
            .boots(off)
            .boots(pair)
            .boots(without(NO_EPT, "without EPT"))
            .boots(without(NO_FIVE, "without five"))
            .boots(fleet::machine(&template, "vmx"))
            .boots(hyperv)
            .runs("hello");
        let addition = format!("{}:{HYPERVISOR}", payload.display());
        let arguments = ["--metal", "vmx", "--add", &addition];
        Nest::boot(&plan, &arguments, Duration::from_secs(1800))
    }))
}

/// Asserts that L1 and L0 went on after a fault in L2.
fn lower_levels_went_on(nest: &Nest) {
    let main = nest.machine("main");
    assert!(main.output("hello").starts_with("hello from L1"));
    assert_eq!((main.fault(), main.how()), (None, "power-off"));
    let l0 = nest.machine("L0");
    assert!(l0.output("hello").starts_with("hello from L0"));
    assert_eq!(l0.fault(), None);
}

#[test]
fn l2_boots_and_says_hello() {
    let nest = or_skip!(run());
    let l2 = nest.machine("work");
    assert!(l2.output("hello").starts_with("hello from L2: Linux 6."));
    assert_eq!(l2.booted()["vendor"], "GenuineIntel");
}

#[test]
fn on_shows_l1_vmx() {
    let nest = or_skip!(run());
    let probe = nest.machine("main").probe();
    assert_eq!(probe["flags"]["vmx"], true, "{probe}");
    assert_eq!(probe["kvm"], true, "{probe}");
    assert_eq!(probe["parameters"]["kvm_intel.ept"], "Y", "{probe}");
}

#[test]
fn off_leaves_l1_without_the_flag_and_without_kvm() {
    let nest = or_skip!(run());
    let l1 = nest.machine("shown off");
    let probe = l1.probe();
    for flag in ["vmx", "ept", "svm", "npt"] {
        assert_eq!(probe["flags"][flag], false, "{probe}");
    }
    assert_eq!(probe["kvm"], false, "{probe}");
    assert_eq!((l1.fault(), l1.how()), (None, "power-off"));
}

#[test]
fn l1_reads_what_its_vcpus_were_given() {
    let nest = or_skip!(run());
    for name in ["main", "pair", NO_EPT, NO_FIVE] {
        for view in cpu::read_as_set(&nest.machine(name)) {
            assert_eq!(view.msrs.range(cpu::VMX_MSRS).count(), 18, "{name}");
        }
    }
    let [off] = &cpu::read_as_set(&nest.machine("shown off"))[..] else {
        panic!("one processor")
    };
    assert_eq!(off.msrs.range(cpu::VMX_MSRS).count(), 0);
}

/// KVM's parameters in L1 with all of VMX, and with what `controls` leaves.
fn parameters(nest: &Nest, controls: &str) -> [Value; 2] {
    ["main", controls].map(|name| nest.machine(name).probe()["parameters"].clone())
}

/// Asserts that L1's KVM, which could, does without these.
fn does_without(nest: &Nest, controls: &str, names: &[&str]) {
    let [with, without] = parameters(nest, controls);
    for name in names {
        let name = format!("kvm_intel.{name}");
        assert_eq!(
            (&with[&name], &without[&name]),
            (&json!("Y"), &json!("N")),
            "{name}"
        );
    }
}

#[test]
fn without_ept_l1s_kvm_keeps_shadow_page_tables_and_l2_boots() {
    let nest = or_skip!(run());
    // What needs EPT is gone with it.
    let names = ["ept", "eptad", "pml", "unrestricted_guest"];
    does_without(nest, NO_EPT, &names);
    assert_eq!(parameters(nest, NO_EPT)[1]["kvm_intel.vpid"], "Y");
    let [with, without] = ["work", "without EPT"].map(|name| nest.machine(name));
    assert!(without.output("hello").starts_with("hello from L2"));
    assert_eq!((without.fault(), without.how()), (None, "power-off"));
    // Every change of L2's page tables is an exit.
    let [with, without] = [with.exit_count(), without.exit_count()];
    assert!(without > 3 * with, "{with} -> {without}");
}

#[test]
fn five_controls_of_vmx_are_hidden_and_l2_boots() {
    let nest = or_skip!(run());
    let names = [
        "vpid",
        "unrestricted_guest",
        "preemption_timer",
        "flexpriority",
        "enable_shadow_vmcs",
    ];
    does_without(nest, NO_FIVE, &names);
    assert_eq!(parameters(nest, NO_FIVE)[1]["kvm_intel.ept"], "Y");
    let l2 = nest.machine("without five");
    assert!(l2.output("hello").starts_with("hello from L2"));
    assert_eq!((l2.fault(), l2.how()), (None, "power-off"));
}

#[test]
fn l1_and_l2_have_two_processors() {
    let nest = or_skip!(run());
    for name in ["pair", "inner pair"] {
        assert_eq!(nest.machine(name).booted()["cpus"], 2, "{name}");
    }
    let l2 = nest.machine("inner pair");
    assert!(l2.output("hello").contains(" 2 x "));
    assert_eq!((l2.fault(), l2.how()), (None, "power-off"));
}

#[test]
fn a_reset_in_l2_is_l2s_alone() {
    let nest = or_skip!(run());
    let l2 = nest.machine("work");
    assert_eq!((l2.fault(), l2.how()), (Some("reset"), "reset"));
    lower_levels_went_on(nest);
}

#[test]
fn a_triple_fault_in_l2_is_l2s_alone() {
    let nest = or_skip!(run());
    let l2 = nest.machine("triple");
    assert_eq!(
        (l2.fault(), l2.how()),
        (Some("triple-fault"), "triple-fault")
    );
    lower_levels_went_on(nest);
}

#[test]
fn a_panic_in_l2_is_l2s_alone() {
    let nest = or_skip!(run());
    assert_eq!(nest.machine("panic").fault(), Some("panic"));
    lower_levels_went_on(nest);
}

#[test]
fn a_disk_written_in_l2_reads_the_same_in_l1_and_l0() {
    let nest = or_skip!(run());
    let expected = pattern::digest(&pattern::bytes(4, LENGTH));
    nest.machine("work").output("disk-write /dev/vda");
    let l1 = nest.machine("main");
    assert_eq!(l1.output("disk-digest /dev/vda"), expected);
    let l0 = nest.machine("L0");
    assert_eq!(l0.output(&format!("disk-digest {L0_FILE}")), expected);
}

#[test]
fn a_bare_metal_hypervisor_in_l1_hosts_l2() {
    let nest = or_skip!(run());
    hypervisor::hosts_l2(&nest.machine("bare metal"), "bare metal", "VMLAUNCH");
}

#[test]
fn under_a_template_two_processors_are_the_same() {
    let nest = or_skip!(run());
    let view = fleet::same_on_both(nest, "vmx");
    assert_eq!(view.msrs.range(cpu::VMX_MSRS).count(), 18);
}

#[test]
fn l1_takes_hyperv_for_what_it_is_and_uses_enlightened_vmcs() {
    let nest = or_skip!(run());
    let probe = nest.machine("Hyper-V").probe();
    assert_eq!(probe["hypervisor"], "Microsoft Hyper-V", "{probe}");
    let uses = &probe["parameters"]["kvm_intel.enlightened_vmcs"];
    assert_eq!(uses, "Y", "{probe}");
    let l2 = nest.machine("in Hyper-V");
    assert!(l2.output("hello").starts_with("hello from L2"));
    assert_eq!((l2.fault(), l2.how()), (None, "power-off"));
    let probe = nest.machine("main").probe();
    assert_eq!(probe["hypervisor"], "KVM", "{probe}");
}

#[test]
fn every_level_above_l0_is_counted() {
    let nest = or_skip!(run());
    for name in ["main", "work", "shown off"] {
        let counts = nest.machine(name).exits();
        assert!(counts["exits"].as_u64() > Some(1000), "{name}: {counts}");
    }
}

#[test]
fn l2_is_a_full_member_of_l1s_network_by_a_bridge() {
    for program in ["bochs", "xorriso"] {
        or_skip!(skip::needs(program));
    }
    let nest = Nest::run(&["--metal", "vmx"], Duration::from_secs(1200));
    assert_eq!(nest.report["ok"], true, "{}", nest.console);
    network::is_used(&nest, &["192.168.100.11/24", "192.168.100.12/24"]);
}
