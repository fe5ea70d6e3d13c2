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
