//! Single controls over every recorded host.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{Exposure, Extension, HostFacts, Obstacle, Reason, VmxCapabilities};
use super::super::{available, control, resolve, table};
use super::request;
use crate::cpuid::{dumps, feature};

fn vmx(text: &str, facts: &HostFacts) -> VmxCapabilities {
    match resolve(&request(text), facts) {
        Ok(Exposure::Vmx(capabilities)) => capabilities,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn what_is_hidden_leaves_the_msrs() {
    // The MSRs that change on a Skylake-SP, and what they then hold.
    let cases: [(&str, &[(u32, u64)]); 8] = [
        (
            "vmx,-ept",
            &[
                (0x48B, 0x0211_5B7D_0000_0000),
                (0x48C, 0x0000_0F01_0000_0000),
                (0x491, 0),
            ],
        ),
        (
            "vmx,-vpid",
            &[
                (0x48B, 0x0213_7BDF_0000_0000),
                (0x48C, 0x0000_0000_0633_4041),
            ],
        ),
        ("vmx,-unrestricted_guest", &[(0x48B, 0x0213_7B7F_0000_0000)]),
        (
            "vmx,-ept_accessed_dirty",
            &[
                (0x48B, 0x0211_7BFF_0000_0000),
                (0x48C, 0x0000_0F01_0613_4041),
            ],
        ),
        (
            "vmx,-preemption_timer",
            &[
                (0x481, 0x0000_00BF_0000_0016),
                (0x483, 0x00BF_FFFF_0003_6DFF),
                (0x48D, 0x0000_00BF_0000_0016),
                (0x48F, 0x00BF_FFFF_0003_6DFB),
            ],
        ),
        (
            "vmx,-secondary_controls",
            &[
                (0x481, 0x0000_007F_0000_0016),
                (0x482, 0x7FF9_FFFE_0401_E172),
                (0x48B, 0),
                (0x48C, 0),
                (0x48D, 0x0000_007F_0000_0016),
                (0x48E, 0x7FF9_FFFE_0400_6172),
                (0x491, 0),
            ],
        ),
        (
            "vmx,-true_controls,-activity_hlt",
            &[
                (0x480, 0x0058_1000_11E5_7ED0),
                (0x485, 0x0000_0000_2000_0125),
            ],
        ),
        // What the host lacks can be hidden all the same.
        ("vmx,-sub_page_write", &[]),
    ];
    let facts = dumps::named("intel-skylake-sp").facts;
    for (text, changed) in cases {
        let shown = vmx(text, &facts);
        for msr in 0x480..=0x491 {
            let changed = changed.iter().find(|(index, _)| *index == msr);
            let expected = changed.map_or(facts.vmx.get(msr), |(_, value)| Some(*value));
            assert_eq!(shown.get(msr), expected, "{text} {msr:#x}");
        }
    }
}

#[test]
fn what_follows_from_a_hidden_control_is_told() {
    let facts = dumps::named("intel-skylake-sp").facts;
    let rows = table(&request("vmx,-ept,-apicv"), &facts).unwrap();
    let row = |name: &str| rows.iter().find(|row| row.control.name == name).unwrap();
    let needs = |name| Some(Reason::Needs(control(name).unwrap()));
    let cases = [
        ("ept", true, false, Some(Reason::Request)),
        ("unrestricted_guest", true, false, needs("ept")),
        ("pml", true, false, needs("ept_accessed_dirty")),
        ("eptp_switching", true, false, needs("ept")),
        ("vmfunc", true, false, Some(Reason::Nothing)),
        ("posted_interrupts", true, false, Some(Reason::Request)),
        ("vpid", true, true, None),
        ("secondary_controls", true, true, None),
        ("sub_page_write", false, false, None),
    ];
    for (name, host, guest, reason) in cases {
        let row = row(name);
        assert_eq!(
            (row.host, row.guest, row.reason),
            (host, guest, reason),
            "{name}"
        );
    }
    assert_eq!(
        row("pml").reason.unwrap().to_string(),
        "needs ept_accessed_dirty"
    );
}

#[test]
fn what_only_activates_goes_with_the_last_it_activates() {
    let facts = dumps::named("intel-bochs-haswell").facts;
    let shown = vmx("vmx,-eptp_switching", &facts);
    assert_eq!(shown.get(0x48B), Some(0x0002_5BFF_0000_0000));

    let secondaries: Vec<String> = Extension::Vmx
        .controls()
        .iter()
        .filter(|control| control.needs.contains(&"secondary_controls"))
        .map(|control| format!("-{}", control.name))
        .collect();
    let shown = vmx(&format!("vmx,{}", secondaries.join(",")), &facts);
    assert_eq!(shown.get(0x48B), Some(0));
    assert_eq!(shown.get(0x48E), Some(0x77F9_FFFE_0400_6172));
}

#[test]
fn controls_of_absent_instructions_go() {
    let facts = dumps::named("intel-skylake-sp").facts;
    let full = available(&facts).unwrap();
    let mut cpuid = facts.supported.clone();
    for (instruction, name) in [
        (feature::RDSEED, "rdseed_exiting"),
        (feature::INVPCID, "invpcid"),
        (feature::XSAVES, "xsaves"),
    ] {
        let control = control(name).unwrap();
        assert!(full.within(&cpuid).has(control), "{name}");
        cpuid.clear(instruction);
        assert!(!full.within(&cpuid).has(control), "{name}");
    }
    assert_eq!(full.within(&facts.supported), full);
    assert_eq!(Exposure::Off.within(&cpuid), Exposure::Off);
}

#[test]
fn what_the_host_can_not_give_is_an_error_when_asked_for() {
    let cases = [
        ("intel-bochs-haswell", "vmx,+pml", None),
        (
            "intel-bochs-haswell",
            "vmx,+tsc_scaling",
            Some(Obstacle::Lacks("tsc_scaling")),
        ),
        ("intel-bochs-haswell", "auto,+tsc_scaling", None),
        ("intel-skylake-sp", "vmx,+tsc_scaling", None),
        (
            "intel-skylake-sp",
            "svm",
            Some(Obstacle::OtherVendor {
                asked: Extension::Svm,
                host: Extension::Vmx,
            }),
        ),
        (
            "amd-milan",
            "auto,-ept",
            Some(Obstacle::OtherVendor {
                asked: Extension::Vmx,
                host: Extension::Svm,
            }),
        ),
        ("amd-qemu-tcg", "svm,+nrips", Some(Obstacle::Lacks("nrips"))),
        ("amd-qemu-tcg", "svm,asids=8", None),
        (
            "amd-qemu-tcg",
            "svm,asids=9",
            Some(Obstacle::Asids { wanted: 9, most: 8 }),
        ),
        ("amd-qemu-tcg", "auto,asids=9", None),
        ("amd-milan-nested-off", "auto,+npt", None),
    ];
    for (name, text, obstacle) in cases {
        let resolved = resolve(&request(text), &dumps::named(name).facts);
        assert_eq!(resolved.err(), obstacle, "{name} {text}");
    }
    let mut silent = dumps::named("intel-skylake-sp").facts;
    silent.vmx = VmxCapabilities::default();
    assert_eq!(
        resolve(&request("vmx,-ept"), &silent),
        Err(Obstacle::NoChoice)
    );
    assert_eq!(
        resolve(&request("vmx"), &silent),
        Ok(Exposure::Vmx(VmxCapabilities::default()))
    );
}

#[test]
fn the_table_has_every_control_of_the_hosts_vendor() {
    for dump in dumps::all().into_iter().filter(|dump| dump.can_nest) {
        let rows = table(&request("auto"), &dump.facts).unwrap();
        let extension = Extension::of(dump.facts.vendor()).unwrap();
        assert_eq!(rows.len(), extension.controls().len(), "{}", dump.name);
        assert!(rows.iter().any(|row| row.host), "{}", dump.name);
        // No recorded host shows a control without one that it needs.
        for row in rows {
            let fits = matches!(row.reason, None | Some(Reason::Instruction(_)));
            assert!(fits, "{} {row:?}", dump.name);
            assert_eq!(row.host, row.guest || row.reason.is_some(), "{row:?}");
        }
        let off = table(&request("off"), &dump.facts).unwrap();
        assert!(off.iter().all(|row| !row.guest), "{}", dump.name);
    }
    let facts = dumps::named("amd-milan-nested-off").facts;
    assert!(matches!(
        table(&request("auto"), &facts),
        Err(Obstacle::Missing(_))
    ));
}

/// What KVM takes of a guest's VMX capabilities (vmx_set_vmx_msr in the kernel's
/// vmx/nested.c): nothing that the host lacks, nothing less that must be, and
/// nothing else that its checks know.
fn kvm_takes(host: &VmxCapabilities, msr: u32, value: u64) -> bool {
    let most = host.get(msr).unwrap();
    match msr {
        0x48B | 0x48D..=0x490 => {
            let (must, may) = (most & 0xFFFF_FFFF, most >> 32);
            must & !value == 0 && (value >> 32) & !may == 0
        }
        0x480 => (value ^ most) & !(1 << 49 | 1 << 54 | 1 << 55) == 0 && value & !most == 0,
        0x485 => (value ^ most) & !0x7000_C1E0 == 0 && value & !most == 0,
        0x48C | 0x491 => value & !most == 0,
        // KVM looks at nothing there.
        0x48A => true,
        _ => false,
    }
}

/// A host that nests, and controls of its extension.
fn host_and_names() -> impl Strategy<Value = (HostFacts, BTreeSet<&'static str>)> {
    let hosts: Vec<HostFacts> = dumps::all()
        .into_iter()
        .filter(|dump| dump.can_nest)
        .map(|dump| dump.facts)
        .collect();
    prop::sample::select(hosts).prop_flat_map(|facts| {
        let extension = Extension::of(facts.vendor()).unwrap();
        let names: Vec<&str> = extension.controls().iter().map(|c| c.name).collect();
        (
            Just(facts),
            prop::collection::btree_set(prop::sample::select(names), 0..12),
        )
    })
}

proptest! {
    #[test]
    fn the_rest_is_the_hosts_closed_and_taken_by_kvm((facts, hidden) in host_and_names()) {
        let full = available(&facts).unwrap();
        let mut shown = full.clone();
        let gone = shown.hide(&hidden, &facts.supported);
        for control in full.extension().unwrap().controls() {
            prop_assert_eq!(
                shown.has(control),
                full.has(control) && !gone.contains_key(control.name),
                "{}", control.name
            );
            prop_assert!(!(shown.has(control) && hidden.contains(control.name)));
            for need in control.needs {
                let parent = super::super::control(need).unwrap();
                prop_assert!(!shown.has(control) || shown.has(parent), "{}", control.name);
            }
        }
        match &shown {
            Exposure::Vmx(capabilities) => {
                for (msr, value) in capabilities.writes() {
                    prop_assert!(kvm_takes(&facts.vmx, msr, value), "{msr:#x} {value:#x}");
                }
                let read = capabilities.read_with(&facts.supported);
                for msr in [0x481, 0x482, 0x483, 0x484] {
                    // What may be 1 is the same by both MSRs on one kind of controls.
                    let newer = capabilities.get(msr + 0xC).unwrap();
                    prop_assert_eq!(read.get(msr).unwrap() >> 32, newer >> 32);
                }
            }
            Exposure::Svm(capabilities) => {
                let Exposure::Svm(host) = &full else { panic!("one vendor") };
                prop_assert!(host.features.contains(capabilities.features));
            }
            Exposure::Off => panic!("the host can nest"),
        }
        // Nothing more goes the second time.
        prop_assert!(shown.hide(&hidden, &facts.supported).is_empty());
    }
}
