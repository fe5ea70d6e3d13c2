//! Sets the bits that KVM leaves to the monitor, which knows the interrupt
//! controllers.

use super::{Cpuid, CpuidContext, Error, feature::*};

pub(super) fn apply(cpuid: &mut Cpuid, context: &CpuidContext) -> Result<(), Error> {
    cpuid.set(HYPERVISOR);
    // The local APIC is KVM's, and KVM emulates x2APIC on any host. A guest in
    // x2APIC mode reaches it by MSRs, which KVM need not decode.
    cpuid.set(X2APIC);
    // One MSR write for each timer, and no calibration of the APIC's own clock
    // while a guest boots.
    cpuid.assign(TSC_DEADLINE, context.tsc_deadline);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::dumps;
    use super::*;
    use crate::nested::Exposure;

    #[test]
    fn the_machines_bits_are_set_and_no_others() {
        // Leaf 1 ECX, as KVM lists it, and with and without the deadline timer.
        let cases = [
            ("intel-skylake-sp", 0x76FA_B223, 0xF7FA_B223, 0xF6FA_B223),
            ("amd-milan", 0x76FA_3203, 0xF7FA_3203, 0xF6FA_3203),
            ("amd-epyc-pvm", 0x8120_2000, 0x8120_2000, 0x8020_2000),
        ];
        for (name, listed, with_deadline, without) in cases {
            for (tsc_deadline, expected) in [(true, with_deadline), (false, without)] {
                let context = CpuidContext {
                    vcpu: 0,
                    vcpus: 1,
                    exposure: Exposure::Off,
                    tsc_deadline,
                };
                let supported = dumps::named(name).facts.supported;
                assert_eq!(supported.get(1, 0).ecx, listed, "{name}");
                let mut cpuid = supported.clone();
                apply(&mut cpuid, &context).unwrap();
                assert_eq!(cpuid.get(1, 0).ecx, expected, "{name}");
                cpuid.get_mut(1, None).unwrap().ecx = listed;
                assert_eq!(cpuid, supported, "{name}");
            }
        }
    }
}
