//! The passes together, over every recorded host and over arbitrary ones.

use proptest::prelude::*;

use super::dumps::{self, Dump};
use super::feature::*;
use super::*;
use crate::nested::{Exposure, SVM_LEAF, SvmCapabilities, VmxCapabilities};

fn guest(dump: &Dump, context: &CpuidContext) -> Cpuid {
    guest_cpuid(dump.supported(), context)
        .unwrap_or_else(|error| panic!("{}: {context:?}: {error}", dump.name))
}

#[test]
fn every_vcpu_sees_the_exposure_and_no_other() {
    for dump in dumps::all() {
        for context in dump.contexts() {
            let cpuid = guest(&dump, &context);
            let shown = (cpuid.has(VMX), cpuid.has(SVM), cpuid.has_leaf(SVM_LEAF));
            let expected = match context.exposure {
                Exposure::Off => (false, false, false),
                Exposure::Vmx(_) => (true, false, false),
                Exposure::Svm(shown) => {
                    assert_eq!(SvmCapabilities::of(&cpuid), shown, "{}", dump.name);
                    (false, true, true)
                }
            };
            assert_eq!(shown, expected, "{}: {context:?}", dump.name);
        }
    }
}

#[test]
fn passes_change_nothing_the_second_time() {
    for dump in dumps::all() {
        for context in dump.contexts() {
            let once = guest(&dump, &context);
            assert_eq!(
                guest_cpuid(&once, &context),
                Ok(once),
                "{}: {context:?}",
                dump.name
            );
        }
    }
}

#[test]
fn vcpus_differ_in_their_ids_alone() {
    for dump in dumps::all() {
        for exposure in dump.exposures() {
            let [first, last] = [0, 63].map(|vcpu| {
                guest(
                    &dump,
                    &CpuidContext {
                        vcpu,
                        vcpus: 64,
                        exposure: exposure.clone(),
                        tsc_deadline: true,
                    },
                )
            });
            let places = |cpuid: &Cpuid| cpuid.iter().map(|(key, _)| key).collect::<Vec<_>>();
            let differing: Vec<Key> = places(&last)
                .into_iter()
                .filter(|&(leaf, subleaf)| {
                    let subleaf = subleaf.unwrap_or(0);
                    first.get(leaf, subleaf) != last.get(leaf, subleaf)
                })
                .collect();
            for (leaf, _) in &differing {
                assert!(
                    [0x1, 0xB, 0x8000_001E].contains(leaf),
                    "{}: {leaf:#x}",
                    dump.name
                );
            }
            assert!(differing.contains(&(0x1, None)), "{}", dump.name);
        }
    }
}

#[test]
fn the_brand_string_is_the_hosts() {
    for name in ["intel-skylake-sp", "amd-milan"] {
        let dump = dumps::named(name);
        let context = CpuidContext {
            vcpu: 0,
            vcpus: 1,
            exposure: Exposure::Off,
            tsc_deadline: true,
        };
        let cpuid = guest(&dump, &context);
        assert_ne!(cpuid.get(0x8000_0002, 0), Registers::ZERO, "{name}");
        for leaf in 0x8000_0002..=0x8000_0004 {
            assert_eq!(cpuid.get(leaf, 0), dump.supported().get(leaf, 0), "{name}");
        }
    }
}

#[test]
fn exposing_what_the_host_lacks_fails() {
    let cases = [
        ("intel-skylake-sp-nested-off", VMX),
        ("intel-skylake-sp", SVM),
        ("amd-milan-nested-off", SVM),
        ("amd-milan", VMX),
        ("amd-epyc-pvm", SVM),
    ];
    for (name, feature) in cases {
        let dump = dumps::named(name);
        let exposure = match feature {
            VMX => Exposure::Vmx(VmxCapabilities::default()),
            _ => Exposure::Svm(SvmCapabilities::default()),
        };
        let context = CpuidContext {
            vcpu: 0,
            vcpus: 1,
            exposure,
            tsc_deadline: true,
        };
        assert_eq!(
            guest_cpuid(dump.supported(), &context),
            Err(Error::NotSupported { feature }),
            "{name} {feature}"
        );
    }
}

/// Any answers at all in the places that matter, with a leaf 0 and 1, a vendor
/// and the places in the shape KVM gives them.
fn any_supported() -> impl Strategy<Value = Cpuid> {
    let registers =
        || any::<[u32; 4]>().prop_map(|[eax, ebx, ecx, edx]| Registers { eax, ebx, ecx, edx });
    let plain = prop::sample::select(vec![
        0x2,
        0x5,
        0x6,
        0xA,
        0x4000_0000,
        0x4000_0001,
        0x4000_0003,
        0x8000_0000,
        0x8000_0001,
        0x8000_0005,
        0x8000_0008,
        0x8000_000A,
        0x8000_001E,
        0x8000_001F,
        0x8000_0021,
        0x8000_0022,
    ]);
    let indexed = prop::sample::select(vec![
        0x4,
        0x7,
        0xB,
        0xD,
        0x12,
        0x14,
        0x1F,
        0x8000_000A,
        0x8000_001D,
        0x8000_0001,
    ]);
    let vendor = prop::sample::select(vec![*b"GenuntelineI", *b"AuthcAMDenti", *b"HygouinenGen"]);
    (
        vendor,
        0u32..0x30,
        registers(),
        prop::collection::vec((plain, registers()), 0..20),
        prop::collection::vec((indexed, 0u32..6, registers()), 0..30),
    )
        .prop_map(|(vendor, max, leaf1, plain, indexed)| {
            let mut cpuid = Cpuid::default();
            let [ebx, ecx, edx] =
                [0, 4, 8].map(|at| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap()));
            for (leaf, registers) in plain {
                cpuid.insert(leaf, None, registers);
            }
            for (leaf, subleaf, registers) in indexed {
                cpuid.insert(leaf, Some(subleaf), registers);
            }
            cpuid.insert(
                0,
                None,
                Registers {
                    eax: max,
                    ebx,
                    ecx,
                    edx,
                },
            );
            cpuid.insert(1, None, leaf1);
            cpuid
        })
}

fn any_context() -> impl Strategy<Value = CpuidContext> {
    let exposure = prop::sample::select(vec![
        Exposure::Off,
        Exposure::Vmx(VmxCapabilities::default()),
        Exposure::Svm(SvmCapabilities::default()),
    ]);
    (1..=MAX_VCPUS, exposure, any::<bool>()).prop_flat_map(|(vcpus, exposure, tsc_deadline)| {
        (0..vcpus).prop_map(move |vcpu| CpuidContext {
            vcpu,
            vcpus,
            exposure: exposure.clone(),
            tsc_deadline,
        })
    })
}

proptest! {
    #[test]
    fn off_leaves_no_trace(supported in any_supported(), context in any_context()) {
        let context = CpuidContext { exposure: Exposure::Off, ..context };
        let cpuid = guest_cpuid(&supported, &context).unwrap();
        for ((leaf, subleaf), registers) in cpuid.iter() {
            let trace = match leaf {
                0x1 => registers.ecx & 1 << 5,
                0x8000_0001 => registers.ecx & 1 << 2,
                0x8000_000A => u32::MAX,
                0x4000_0001 => registers.eax & 1 << 10,
                _ => 0,
            };
            prop_assert_eq!(trace, 0, "leaf {:#x}, subleaf {:?}", leaf, subleaf);
        }
    }

    #[test]
    fn what_passes_is_within_the_host_and_stays_the_same(
        supported in any_supported(),
        context in any_context(),
    ) {
        let shown = nesting::shown(&context.exposure);
        match guest_cpuid(&supported, &context) {
            Ok(cpuid) => {
                prop_assert!(shown.is_none_or(|feature| supported.has(feature)));
                prop_assert_eq!(guest_cpuid(&cpuid, &context), Ok(cpuid.clone()));
                prop_assert!(cpuid.to_entries().is_ok());
            }
            Err(error) => {
                let feature = shown.filter(|feature| !supported.has(*feature));
                let expected = feature.map(|feature| Error::NotSupported { feature });
                prop_assert_eq!(Some(error), expected);
            }
        }
    }

    #[test]
    fn entries_and_text_keep_the_set(supported in any_supported()) {
        let entries = supported.to_entries().unwrap();
        prop_assert_eq!(Cpuid::from_entries(&entries), Ok(supported.clone()));
        let text = serde_json::to_string(&supported).unwrap();
        prop_assert_eq!(serde_json::from_str::<Cpuid>(&text).unwrap(), supported);
    }
}
