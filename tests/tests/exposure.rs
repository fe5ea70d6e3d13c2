//! What L1 is shown of VMX or SVM, control by control: L1 reads what its monitor
//! has set, its KVM does without what is hidden, and L2 boots all the same.
//!
//! One boot of L0 a metal carries an L1 for each exposure.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::time::Duration;

use nestling_tests::cpu::View;
use nestling_tests::nest::{Life, Nest, Shared};
use nestling_tests::plan::{Machine, Template};
use nestling_tests::{or_skip, skip};

/// EDX of leaf 0x8000000A, where SVM's features are.
const SVM_FEATURES: (u32, Option<u32>) = (0x8000_000A, None);

/// An L1 under each exposure, called by it, and an L2 in each.
fn run(metal: &str, exposures: &[&str]) -> Nest {
    let template = Template::of(&["--metal", metal, "--l2-net", "off"]);
    let l1 = |exposure: &str| -> Machine {
        template
            .machine(1, exposure)
            .nested(exposure)
            .with_kvm()
            .runs("cpu-dump")
            .runs("probe")
    };
    let hosts = exposures.iter().map(|exposure| {
        let l2 = template.machine(2, &format!("in {exposure}"));
        l1(exposure).boots(l2.runs("hello"))
    });
    let plan = hosts.fold(template.machine(0, "L0"), Machine::boots);
    let plan = plan.boots(l1("off").cpus(2));
    Nest::boot(&plan, &["--metal", metal], Duration::from_secs(2400))
}

/// All that emulated AMD-V has for guests of its guests, and each taken away.
const SVM: [&str; 6] = [
    "svm",
    "svm,-npt",
    "svm,-vgif",
    "svm,-vmcb_clean",
    "svm,-flush_by_asid,asids=2",
    "svm,-svme_addr_chk",
];

fn svm() -> Result<&'static Nest, String> {
    static RUN: Shared<Nest> = Shared::new();
    skip::needs("qemu-system-x86_64")?;
    Ok(RUN.get(|| run("svm", &SVM)))
}

/// All that emulated VT-x has, without EPT, and without five that KVM can do
/// without.
const VMX: [&str; 3] = [
    "vmx",
    "vmx,-ept",
    "vmx,-vpid,-unrestricted_guest,-preemption_timer,-flexpriority,-shadow_vmcs",
];

fn vmx() -> Result<&'static Nest, String> {
    static RUN: Shared<Nest> = Shared::new();
    for program in ["bochs", "xorriso"] {
        skip::needs(program)?;
    }
    Ok(RUN.get(|| run("vmx", &VMX)))
}

/// What its monitor has set on each vCPU, and what is read there.
fn views(l1: &Life<'_>) -> Vec<(View, View)> {
    let [set, read] = ["vcpu", "cpu"].map(|kind| l1.own(kind).map(View::of).collect::<Vec<_>>());
    assert_eq!(l1.booted()["cpus"], set.len());
    assert_eq!(set.len(), read.len());
    set.into_iter().zip(read).collect()
}

/// Asserts that every CPUID bit and every MSR reads as the monitor has set it.
fn reads_what_was_set(l1: &Life<'_>) {
    for (set, read) in views(l1) {
        assert_eq!(read.cpuid, set.read_under(read.xcr0));
        for (msr, value) in &set.msrs {
            assert_eq!(read.msrs.get(msr), Some(value), "MSR {msr:#x}");
        }
        for (msr, value) in &read.msrs {
            // What nobody sets: no VMX capability, and no right to use VMX.
            let unset = *msr == 0x1A0 || (*msr == 0x3A && *value == 0);
            assert!(
                set.msrs.contains_key(msr) || unset,
                "MSR {msr:#x}: {value:#x}"
            );
        }
    }
}

fn l2_boots(nest: &Nest, exposure: &str) {
    let l2 = nest.machine(&format!("in {exposure}"));
    assert!(l2.output("hello").starts_with("hello from L2: Linux 6."));
    assert_eq!((l2.fault(), l2.how()), (None, "power-off"), "{exposure}");
}

/// KVM's parameters in this L1.
fn parameters(nest: &Nest, exposure: &str) -> serde_json::Value {
    nest.machine(exposure).probe()["parameters"].clone()
}

/// L2's exits in L1, and L1's in L0.
fn exits(nest: &Nest, exposure: &str) -> [u64; 2] {
    let inner = format!("in {exposure}");
    [inner.as_str(), exposure].map(|name| nest.machine(name).exits()["exits"].as_u64().unwrap())
}

/// Asserts that what `exposure` lacks costs L1 and L0 more than `times` the exits.
fn costs(nest: &Nest, all: &str, exposure: &str, times: u64) {
    let (with, without) = (exits(nest, all), exits(nest, exposure));
    for (with, without) in with.into_iter().zip(without) {
        assert!(without > times * with, "{exposure}: {with} -> {without}");
    }
}

#[test]
fn svm_is_read_as_it_was_set() {
    let nest = or_skip!(svm());
    for exposure in SVM {
        reads_what_was_set(&nest.machine(exposure));
    }
}

#[test]
fn vmx_is_read_as_it_was_set() {
    let nest = or_skip!(vmx());
    for exposure in VMX {
        let l1 = nest.machine(exposure);
        reads_what_was_set(&l1);
        let (set, _) = &views(&l1)[0];
        assert_eq!(set.msrs.range(0x480..=0x491).count(), 18);
    }
}

#[test]
fn two_processors_read_what_was_set_where_nothing_is_shown() {
    for nest in [svm(), vmx()] {
        let l1 = or_skip!(nest).machine("off");
        reads_what_was_set(&l1);
        assert_eq!(views(&l1).len(), 2);
        for (_, read) in views(&l1) {
            assert_eq!(read.msrs.range(0x480..=0x491).count(), 0);
            assert!(!read.cpuid.contains_key(&SVM_FEATURES));
        }
    }
}

#[test]
fn l2_boots_under_every_exposure() {
    for (nest, exposures) in [(svm(), &SVM[..]), (vmx(), &VMX)] {
        let nest = or_skip!(nest);
        for exposure in exposures {
            l2_boots(nest, exposure);
        }
    }
}

#[test]
fn without_npt_l1s_kvm_keeps_shadow_page_tables() {
    let nest = or_skip!(svm());
    assert_eq!(parameters(nest, "svm")["kvm_amd.npt"], "Y");
    assert_eq!(parameters(nest, "svm,-npt")["kvm_amd.npt"], "N");
    costs(nest, "svm", "svm,-npt", 2);
}

#[test]
fn without_ept_l1s_kvm_keeps_shadow_page_tables() {
    let nest = or_skip!(vmx());
    let [with, without] = ["vmx", "vmx,-ept"].map(|exposure| parameters(nest, exposure));
    for name in ["ept", "eptad", "unrestricted_guest", "pml"] {
        let name = format!("kvm_intel.{name}");
        assert_eq!((&with[&name], &without[&name]), (&"Y".into(), &"N".into()));
    }
    assert_eq!(without["kvm_intel.vpid"], "Y");
    costs(nest, "vmx", "vmx,-ept", 2);
}

#[test]
fn svms_features_go_one_by_one() {
    let nest = or_skip!(svm());
    let features = |exposure| views(&nest.machine(exposure))[0].1.cpuid[&SVM_FEATURES];
    let [_, asids, _, all] = features("svm");
    for (exposure, bit, left) in [
        ("svm,-npt", 0, asids),
        ("svm,-vgif", 16, asids),
        ("svm,-vmcb_clean", 5, asids),
        ("svm,-flush_by_asid,asids=2", 6, 2),
        ("svm,-svme_addr_chk", 28, asids),
    ] {
        let [_, ebx, _, edx] = features(exposure);
        assert_eq!((ebx, edx), (left, all & !(1 << bit)), "{exposure}");
        assert_ne!(all & 1 << bit, 0, "{exposure}");
    }
    assert_eq!(parameters(nest, "svm")["kvm_amd.vgif"], "1");
    assert_eq!(parameters(nest, "svm,-vgif")["kvm_amd.vgif"], "0");
}

#[test]
fn l1s_kvm_does_without_five_controls_of_vmx() {
    let nest = or_skip!(vmx());
    let [with, without] = [VMX[0], VMX[2]].map(|exposure| parameters(nest, exposure));
    for name in [
        "vpid",
        "unrestricted_guest",
        "preemption_timer",
        "flexpriority",
        "enable_shadow_vmcs",
    ] {
        let name = format!("kvm_intel.{name}");
        assert_eq!(
            (&with[&name], &without[&name]),
            (&"Y".into(), &"N".into()),
            "{name}"
        );
    }
    assert_eq!(without["kvm_intel.ept"], "Y");
}
