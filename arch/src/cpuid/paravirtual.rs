//! Keeps KVM's own interface, less what needs more than KVM to work.
//!
//! The clock comes first in what it saves: kvmclock gives Linux the TSC's
//! frequency, so that a guest calibrates nothing against the PIT. That also
//! makes the timing leaf 0x40000010 of no use, which is why it is not added.

use super::{Cpuid, CpuidContext, Error};

/// Where KVM says who it is; the answer is the highest leaf and the signature
/// "KVMKVMKVM" (Documentation/virt/kvm/x86/cpuid.rst).
const SIGNATURE: u32 = 0x4000_0000;
/// KVM's features in EAX, its hints in EDX.
const FEATURES: u32 = 0x4000_0001;

/// Features that work as soon as they are seen: KVM_FEATURE_ with the names
/// beside them.
const KEPT: u32 = 1 << 0 // CLOCKSOURCE
    | 1 << 1 // NOP_IO_DELAY
    | 1 << 3 // CLOCKSOURCE2
    | 1 << 4 // ASYNC_PF
    | 1 << 5 // STEAL_TIME
    | 1 << 6 // PV_EOI
    | 1 << 7 // PV_UNHALT
    | 1 << 9 // PV_TLB_FLUSH
    | 1 << 10 // ASYNC_PF_VMEXIT
    | 1 << 11 // PV_SEND_IPI
    | 1 << 12 // POLL_CONTROL
    | 1 << 13 // PV_SCHED_YIELD
    | 1 << 14 // ASYNC_PF_INT
    | 1 << 24; // CLOCKSOURCE_STABLE_BIT
// Not kept: MMU_OP (2), which KVM has dropped; MSI_EXT_DEST_ID (15), which the
// monitor's interrupt routes would have to know; HC_MAP_GPA_RANGE (16) and
// MIGRATION_CONTROL (17), for encrypted guests.

pub(super) fn apply(cpuid: &mut Cpuid, _: &CpuidContext) -> Result<(), Error> {
    // KVM's list has one answer for each of the two; what else it lists in
    // this range are other hypervisors' faces.
    let kvm = [SIGNATURE, FEATURES].map(|leaf| (leaf, cpuid.get(leaf, 0)));
    for leaf in cpuid.leaves(0x4000_0000..=0x4FFF_FFFF) {
        cpuid.remove_leaf(leaf);
    }
    for (leaf, mut registers) in kvm {
        if leaf == FEATURES {
            registers.eax &= KEPT;
            // A vCPU is not promised a processor of its own.
            registers.edx = 0;
        }
        cpuid.insert(leaf, None, registers);
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
    fn kvm_signs_and_offers_what_works_alone() {
        // Leaf 0x40000001 EAX, as KVM lists it and as a guest sees it.
        let cases = [
            ("intel-skylake-sp", 0x0100_7EFB, 0x0100_7EFB),
            ("amd-milan", 0x0100_7EFB, 0x0100_7EFB),
            ("amd-milan", 0x0103_FFFF, 0x0100_7EFB),
            ("amd-milan", 0, 0),
        ];
        for (name, listed, seen) in cases {
            let mut cpuid = dumps::named(name).facts.supported;
            cpuid.insert(
                FEATURES,
                None,
                Registers {
                    eax: listed,
                    edx: 1,
                    ..Registers::ZERO
                },
            );
            apply(&mut cpuid, &CONTEXT).unwrap();
            let signature = cpuid.get(SIGNATURE, 0);
            let bytes = [signature.ebx, signature.ecx, signature.edx].map(u32::to_le_bytes);
            assert_eq!(bytes.concat(), b"KVMKVMKVM\0\0\0", "{name}");
            let features = cpuid.get(FEATURES, 0);
            assert_eq!(
                features,
                Registers {
                    eax: seen,
                    ..Registers::ZERO
                },
                "{name}"
            );
        }
    }

    #[test]
    fn no_other_hypervisor_shows_its_face() {
        let mut cpuid = dumps::named("intel-skylake-sp").facts.supported;
        let expected = cpuid.clone();
        let answer = Registers {
            eax: 1,
            ebx: 2,
            ecx: 3,
            edx: 4,
        };
        cpuid.insert(0x4000_0010, None, answer);
        cpuid.insert(0x4000_0100, Some(1), answer);
        apply(&mut cpuid, &CONTEXT).unwrap();
        assert_eq!(cpuid, expected);
    }
}
