//! Hides the performance counters.
//!
//! Linux that finds them probes their MSRs while it boots, and then runs its
//! NMI watchdog on one for as long as it lives; each access is an exit, which
//! under a nested monitor costs twenty times as much. Without them the watchdog
//! is off and perf counts software events. AMD's four oldest counters have no
//! CPUID bit: only KVM_PMU_CAP_DISABLE takes those away.

use super::{Cpuid, CpuidContext, Error, feature::*};

const CLEARED: [Feature; 7] = [
    PDCM,
    DS,
    DTES64,
    ARCH_LBR,
    PERF_CTR_EXT_CORE,
    PERF_CTR_EXT_NB,
    PERF_CTR_EXT_LLC,
];

const REMOVED: [u32; 4] = [
    // Architectural performance monitoring, and its extension.
    0xA,
    0x23,
    // Architectural last branch records.
    0x1C,
    // AMD's performance monitoring, version 2.
    0x8000_0022,
];

pub(super) fn apply(cpuid: &mut Cpuid, _: &CpuidContext) -> Result<(), Error> {
    for feature in CLEARED {
        cpuid.clear(feature);
    }
    for leaf in REMOVED {
        cpuid.remove_leaf(leaf);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::dumps;
    use super::*;
    use crate::nested::Exposure;

    #[test]
    fn no_counter_is_left() {
        let context = CpuidContext {
            vcpu: 0,
            vcpus: 1,
            exposure: Exposure::Off,
            tsc_deadline: true,
        };
        let cases: [(&str, &[Feature], &[u32]); 4] = [
            ("intel-skylake-sp", &[PDCM], &[0xA]),
            ("amd-milan", &[PERF_CTR_EXT_CORE], &[]),
            ("amd-qemu-tcg", &[], &[]),
            ("intel-bochs-haswell", &[], &[]),
        ];
        for (name, cleared, removed) in cases {
            let supported = dumps::named(name).facts.supported;
            let mut cpuid = supported.clone();
            apply(&mut cpuid, &context).unwrap();
            let mut expected = supported;
            for feature in cleared {
                assert!(expected.has(*feature), "{name}: {feature}");
                expected.clear(*feature);
            }
            for leaf in removed {
                assert!(expected.has_leaf(*leaf), "{name}: {leaf:#x}");
                expected.remove_leaf(*leaf);
            }
            assert_eq!(cpuid, expected, "{name}");
        }
    }
}
