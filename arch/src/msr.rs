//! Model-specific registers, by the names the SDM gives them (vol. 4), and
//! what a vCPU starts with.

use crate::cpuid::Vendor;
use crate::nested::Exposure;

/// Controls features in the processor, until it is locked.
pub const IA32_FEATURE_CONTROL: u32 = 0x3A;
/// Enables miscellaneous features.
pub const IA32_MISC_ENABLE: u32 = 0x1A0;
/// The memory type where no MTRR says otherwise.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2FF;
/// Capabilities of the primary processor-based VM-execution controls.
pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
/// Capabilities of the secondary processor-based VM-execution controls.
pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48B;

/// IA32_FEATURE_CONTROL: no write passes until the next reset.
const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON is allowed outside SMX operation.
const FEATURE_CONTROL_VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// IA32_MISC_ENABLE: fast strings.
const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
/// IA32_MISC_ENABLE: no branch trace store.
const MISC_ENABLE_BTS_UNAVAILABLE: u64 = 1 << 11;
/// IA32_MISC_ENABLE: no processor event-based sampling.
const MISC_ENABLE_PEBS_UNAVAILABLE: u64 = 1 << 12;

/// IA32_MTRR_DEF_TYPE: MTRRs are enabled.
const MTRR_ENABLE: u64 = 1 << 11;
/// IA32_MTRR_DEF_TYPE: write-back.
const MTRR_WRITE_BACK: u64 = 6;

/// The MSRs that a vCPU must have before it first runs, as index and value:
/// what firmware would have written, and no more. `vendor` is the guest's.
///
/// What KVM resets to the value a boot wants is not here: SYSENTER, STAR and
/// KERNEL_GS_BASE are 0, PAT is at its architectural default, the local APIC
/// is enabled at its usual place, with the first vCPU as boot processor.
pub fn boot_msrs(vendor: Vendor, exposure: Exposure) -> Vec<(u32, u64)> {
    // KVM resets to 0: MTRRs off, all memory uncacheable. Linux up to 6.1
    // then also leaves PAT off, and write-combining with it.
    let mut msrs = vec![(IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK)];
    if vendor == Vendor::Intel {
        // Without fast strings Linux turns its REP MOVSB copies off. The rest
        // is KVM's reset value: no counters, so no sampling on them.
        let unavailable = MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
        msrs.push((IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS | unavailable));
    }
    if exposure == Exposure::Vmx {
        // KVM resets to 0, as a processor does. VMXON then faults, and some
        // hypervisors refuse to start rather than set the bits.
        let value = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
        msrs.push((IA32_FEATURE_CONTROL, value));
    }
    msrs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_msrs_by_vendor_and_exposure() {
        let write_back = (0x2FF, 0x806);
        let fast_strings = (0x1A0, 0x1801);
        let vmx_outside_smx = (0x3A, 5);
        let cases = [
            (
                Vendor::Intel,
                Exposure::Vmx,
                vec![write_back, fast_strings, vmx_outside_smx],
            ),
            (Vendor::Intel, Exposure::Off, vec![write_back, fast_strings]),
            (Vendor::Amd, Exposure::Svm, vec![write_back]),
            (Vendor::Amd, Exposure::Off, vec![write_back]),
        ];
        for (vendor, exposure, expected) in cases {
            assert_eq!(boot_msrs(vendor, exposure), expected, "{vendor} {exposure}");
        }
    }
}
