//! Hypervisors in L1 besides nestling: KVM with QEMU as its monitor, on both metals,
//! and Xen. What they boot is in `tests/guests`.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::path::PathBuf;
use std::time::Duration;

use nestling_tests::nest::{Life, Nest, Shared};
use nestling_tests::plan::{Machine, System, Template, disk_digest};
use nestling_tests::xen::Xen;
use nestling_tests::{or_skip, pattern, qemu, skip};
use serde_json::json;

/// What Xen is told. Its guest's memory is what its dom0 leaves.
const XEN: &str = "console=com1 com1=115200,8n1 noreboot dom0_mem=384M";
/// dom0's disk, which L0 keeps in its memory, and what `tests/guests/dom0.json` writes there.
const DISK: &str = "/run/xen.img";
const LENGTH: usize = 65536;
const SEED: u64 = 5;
/// What only the template is made with: enough memory for either hypervisor in L1.
const TEMPLATE: [&str; 4] = ["--l2-net", "off", "--memory", "384M"];

fn guests() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("guests")
}

/// The arguments for `metal` with QEMU and the guests in the image.
fn arguments(metal: &str) -> Vec<String> {
    let guests = format!("{}:/guests", guests().display());
    let own = ["--metal", metal, "--add", &guests];
    let qemu = qemu::image_arguments(qemu::SMALL_PROGRAM);
    own.into_iter().chain(qemu).map(str::to_owned).collect()
}

/// L1 with KVM, where QEMU boots L2.
fn kvm(template: &Template) -> Machine {
    let l2 = template.machine(2, "");
    let cmdline = &l2.json()["machine"]["cmdline"];
    template
        .machine(1, "kvm")
        .with_kvm()
        .runs(json!({ "kind": "program", "argv": ["/guests/qemu", cmdline] }))
}

/// L1 with Xen, whose dom0 boots L2.
fn xen(template: &Template) -> System {
    let machine = template
        .machine(1, "xen")
        .disk(json!({ "path": DISK, "create_mib": 1 }));
    let cmdline = machine.json()["machine"]["cmdline"].as_str().unwrap();
    // Xen's console is dom0's as well.
    let cmdline = cmdline.replace("console=ttyS0", "console=hvc0");
    let kernel = format!("/dom0/vmlinuz,{cmdline}");
    System::new(machine, "/xen", 600)
        .cmdline(XEN)
        .modules(&[&kernel, "/dom0/dom0.img"])
}

/// Both in one boot of L0; Xen only where it is.
fn svm() -> Result<&'static Nest, String> {
    static RUN: Shared<Nest> = Shared::new();
    skip::needs("qemu-system-x86_64")?;
    qemu::needs(qemu::SMALL_PROGRAM)?;
    Ok(RUN.get(|| {
        let mut arguments = arguments("svm");
        let built = Xen::build(&guests());
        if let Ok(xen) = &built {
            arguments.extend(xen.image_arguments());
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let template = Template::of(&[&arguments[..], &TEMPLATE].concat());
        let l0 = template.machine(0, "L0").more_memory(64);
        let mut plan = l0.boots(kvm(&template));
        if built.is_ok() {
            plan = plan
                .boots_system(xen(&template))
                .runs(disk_digest(DISK, LENGTH));
        }
        Nest::boot(&plan, &arguments, Duration::from_secs(1800))
    }))
}

fn vmx() -> Result<&'static Nest, String> {
    static RUN: Shared<Nest> = Shared::new();
    for program in ["bochs", "xorriso"] {
        skip::needs(program)?;
    }
    qemu::needs(qemu::SMALL_PROGRAM)?;
    Ok(RUN.get(|| {
        let arguments = arguments("vmx");
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let template = Template::of(&[&arguments[..], &TEMPLATE].concat());
        let plan = template.machine(0, "L0").boots(kvm(&template));
        Nest::boot(&plan, &arguments, Duration::from_secs(1800))
    }))
}

/// Asserts that QEMU booted L2 by KVM, and that this took nested guests of L0's.
fn qemu_boots_l2(nest: &Nest, vendor: &str) {
    let l1 = nest.machine("kvm");
    let said = l1.output("/guests/qemu");
    assert!(said.contains("hello from L2: Linux 6."), "{said}");
    assert!(said.contains(vendor), "{said}");
    assert_eq!((l1.fault(), l1.how()), (None, "power-off"));
    ran_nested(&l1);
}

fn ran_nested(l1: &Life<'_>) {
    let counts = l1.exits();
    assert!(counts["nested_run"].as_u64() > Some(1000), "{counts}");
}

#[test]
fn qemu_in_l1_boots_l2_on_amd() {
    qemu_boots_l2(or_skip!(svm()), "AuthenticAMD");
}

#[test]
fn qemu_in_l1_boots_l2_on_intel() {
    qemu_boots_l2(or_skip!(vmx()), "GenuineIntel");
}

#[test]
fn xen_in_l1_boots_its_dom0_and_a_guest() {
    or_skip!(nestling_tests::xen::needs());
    let nest = or_skip!(svm());
    let l1 = nest.machine("xen");
    let lines: Vec<_> = l1
        .own("console")
        .filter_map(|event| event["line"].as_str())
        .collect();
    for said in [
        "(XEN) HVM: Hardware Assisted Paging (HAP) detected",
        "hello from L1: Linux 6.",
        "hello from L2: Linux 6.",
        "(XEN) Entering ACPI S5 state.",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(said)),
            "{said}: {lines:#?}"
        );
    }
    assert_eq!((l1.fault(), l1.how()), (None, "power-off"));
    ran_nested(&l1);
}

#[test]
fn xens_dom0_writes_to_a_virtio_disk() {
    or_skip!(nestling_tests::xen::needs());
    let nest = or_skip!(svm());
    let expected = pattern::digest(&pattern::bytes(SEED, LENGTH));
    let l0 = nest.machine("L0");
    assert_eq!(l0.output(&format!("disk-digest {DISK}")), expected);
}
