//! Takes out what KVM lists but this machine cannot give a guest.

use super::{Cpuid, CpuidContext, Error, feature::*};

/// What needs set-up that the monitor does not do, or mirrors state that a
/// fresh vCPU does not have.
const CLEARED: [Feature; 6] = [
    // CR4 starts with both bits clear; KVM mirrors them from then on.
    OSXSAVE, OSPKE, // An enclave needs pages of the EPC, which the machine has none of.
    SGX, SGX_LC,
    // KVM runs MWAIT as a no-op unless its exits are off: a guest that idles
    // by it would spin.
    MONITOR, // KVM does not emulate SKINIT.
    SKINIT,
];

/// Leaves that describe what is cleared, and others that KVM passes on from
/// the host although the machine has none of it.
const REMOVED: [u32; 4] = [
    // MONITOR and MWAIT.
    0x5,
    // SGX.
    0x12,
    // Memory encryption: for guests that are launched with it. A Linux guest
    // that sees SEV here reads an MSR that a plain guest lacks.
    0x8000_001F,
    // Reverse map table, for SEV-SNP.
    0x8000_0025,
];

/// Tile features, whose state XSAVE must manage for them to be of use. KVM
/// lists them even where the process has not been permitted that state.
const TILES: [Feature; 4] = [AMX_TILE, AMX_BF16, AMX_INT8, AMX_FP16];

pub(super) fn apply(cpuid: &mut Cpuid, _: &CpuidContext) -> Result<(), Error> {
    if let Some(leaf) = [0, 1].into_iter().find(|leaf| !cpuid.has_leaf(*leaf)) {
        return Err(Error::MissingLeaf { leaf });
    }
    for feature in CLEARED {
        cpuid.clear(feature);
    }
    for leaf in REMOVED {
        cpuid.remove_leaf(leaf);
    }
    if !(cpuid.has(XTILECFG) && cpuid.has(XTILEDATA)) {
        for feature in TILES {
            cpuid.clear(feature);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Registers, dumps};
    use super::*;
    use crate::nested::Exposure;

    const CONTEXT: CpuidContext = CpuidContext {
        vcpu: 0,
        vcpus: 1,
        exposure: Exposure::Off,
        tsc_deadline: true,
    };

    #[test]
    fn hosts_lose_what_the_machine_has_none_of() {
        // Leaves that go, of those the host has.
        let cases: [(&str, &[u32]); 3] = [
            ("intel-skylake-sp", &[]),
            ("amd-milan", &[0x8000_001F]),
            ("amd-qemu-tcg", &[]),
        ];
        for (name, gone) in cases {
            let supported = dumps::named(name).facts.supported;
            let mut cpuid = supported.clone();
            apply(&mut cpuid, &CONTEXT).unwrap();
            let mut expected = supported;
            for leaf in gone {
                assert!(expected.has_leaf(*leaf), "{name}: {leaf:#x}");
                expected.remove_leaf(*leaf);
            }
            assert_eq!(cpuid, expected, "{name}");
        }
    }

    #[test]
    fn mirrored_and_unsupported_bits_are_cleared() {
        for name in ["intel-skylake-sp", "amd-milan"] {
            let mut cpuid = dumps::named(name).facts.supported;
            for feature in CLEARED
                .into_iter()
                .filter(|feature| feature.subleaf.is_none())
            {
                cpuid.set(feature);
            }
            let leaf7 = cpuid.get_mut(7, Some(0)).unwrap();
            *leaf7 = Registers {
                ebx: leaf7.ebx | 1 << 2,
                ecx: leaf7.ecx | 1 << 30 | 1 << 4,
                ..*leaf7
            };
            apply(&mut cpuid, &CONTEXT).unwrap();
            for feature in CLEARED {
                assert!(!cpuid.has(feature), "{name}: {feature}");
            }
        }
    }

    #[test]
    fn tiles_stay_only_with_their_state() {
        let tiles = 1 << 22 | 1 << 24 | 1 << 25;
        for (state, expected) in [(0, 0), (1 << 17, 0), (1 << 17 | 1 << 18, tiles)] {
            let mut cpuid = dumps::named("intel-skylake-sp").facts.supported;
            let before = cpuid.get(7, 0).edx;
            cpuid.get_mut(7, Some(0)).unwrap().edx |= tiles;
            cpuid.get_mut(0xD, Some(0)).unwrap().eax |= state;
            apply(&mut cpuid, &CONTEXT).unwrap();
            assert_eq!(cpuid.get(7, 0).edx, before | expected, "state {state:#x}");
        }
    }

    #[test]
    fn a_host_without_the_first_leaves_is_refused() {
        for leaf in [0, 1] {
            let mut cpuid = dumps::named("amd-milan").facts.supported;
            cpuid.remove_leaf(leaf);
            assert_eq!(
                apply(&mut cpuid, &CONTEXT),
                Err(Error::MissingLeaf { leaf })
            );
        }
    }
}
