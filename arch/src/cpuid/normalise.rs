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
