//! Model-specific registers, by the names the SDM gives them (vol. 4), and
//! what a vCPU starts with.

use std::collections::BTreeSet;

use crate::cpuid::{Cpuid, Vendor};
use crate::nested::{CAPABILITY_MSRS, Exposure};
use crate::template;

mod set;

pub use set::MsrSet;

/// Controls features in the processor, until it is locked.
pub const IA32_FEATURE_CONTROL: u32 = 0x3A;
/// Which faults of processors this one has not, and what helps against others.
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10A;
/// The highest index in the encoding of a VMCS field.
pub const IA32_VMX_VMCS_ENUM: u32 = 0x48A;
/// AMD's switches for instruction decoding, among them whether LFENCE waits.
pub const MSR_AMD64_DE_CFG: u32 = 0xC001_1029;
/// Enables miscellaneous features.
pub const IA32_MISC_ENABLE: u32 = 0x1A0;
/// The memory type where no MTRR says otherwise.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2FF;

/// Basic VMX capabilities.
pub const IA32_VMX_BASIC: u32 = 0x480;
/// Pin-based VM-execution controls, with the default1 class as 1.
pub const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
/// Primary processor-based VM-execution controls, with the default1 class as 1.
pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
/// Primary VM-exit controls, with the default1 class as 1.
pub const IA32_VMX_EXIT_CTLS: u32 = 0x483;
/// VM-entry controls, with the default1 class as 1.
pub const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
/// Miscellaneous VMX capabilities.
pub const IA32_VMX_MISC: u32 = 0x485;
/// Bits of CR0 that may be 1 in VMX operation.
pub const IA32_VMX_CR0_FIXED1: u32 = 0x487;
/// Bits of CR4 that may be 1 in VMX operation.
pub const IA32_VMX_CR4_FIXED1: u32 = 0x489;
/// Secondary processor-based VM-execution controls.
pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48B;
/// Capabilities of EPT and VPIDs.
pub const IA32_VMX_EPT_VPID_CAP: u32 = 0x48C;
/// Pin-based VM-execution controls.
pub const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48D;
/// Primary processor-based VM-execution controls.
pub const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48E;
/// Primary VM-exit controls.
pub const IA32_VMX_TRUE_EXIT_CTLS: u32 = 0x48F;
/// VM-entry controls.
pub const IA32_VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
/// VM functions.
pub const IA32_VMX_VMFUNC: u32 = 0x491;

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

/// The MSRs that a vCPU must have before it first runs, as index and value, in
/// the order in which KVM takes them: what firmware would have written, and no
/// more. `vendor` is the guest's.
///
/// What KVM resets to the value a boot wants is not here: SYSENTER, STAR and
/// KERNEL_GS_BASE are 0, PAT is at its architectural default, the local APIC
/// is enabled at its usual place, with the first vCPU as boot processor.
pub fn boot_msrs(vendor: Vendor, exposure: &Exposure) -> Vec<(u32, u64)> {
    let mut msrs = Vec::new();
    if let Exposure::Vmx(capabilities) = exposure {
        msrs = capabilities.writes();
        // KVM resets to 0, as a processor does. VMXON then faults, and some
        // hypervisors refuse to start rather than set the bits.
        let value = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
        msrs.push((IA32_FEATURE_CONTROL, value));
    }
    // KVM resets to 0: MTRRs off, all memory uncacheable. Linux up to 6.1
    // then also leaves PAT off, and write-combining with it.
    msrs.push((IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK));
    if vendor == Vendor::Intel {
        // Without fast strings Linux turns its REP MOVSB copies off. The rest
        // is KVM's reset value: no counters, so no sampling on them.
        let unavailable = MISC_ENABLE_BTS_UNAVAILABLE | MISC_ENABLE_PEBS_UNAVAILABLE;
        msrs.push((IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS | unavailable));
    }
    msrs
}

/// What a guest with this CPUID and exposure reads in the MSRs that `boot`
/// sets, and in those that KVM derives from them.
pub fn guest_msrs(boot: &[(u32, u64)], cpuid: &Cpuid, exposure: &Exposure) -> MsrSet {
    let mut msrs = match exposure {
        Exposure::Vmx(capabilities) => capabilities.read_with(cpuid),
        Exposure::Svm(_) | Exposure::Off => MsrSet::default(),
    };
    msrs.extend(boot.iter().copied());
    msrs
}

/// The MSRs that [`guest_msrs`] may tell of: what a boot sets, a template may
/// set, and VMX's capabilities.
pub fn told_to_guests() -> BTreeSet<u32> {
    [IA32_FEATURE_CONTROL, IA32_MISC_ENABLE, IA32_MTRR_DEF_TYPE]
        .into_iter()
        .chain(template::feature_msrs())
        .chain(CAPABILITY_MSRS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::dumps;
    use crate::nested::{Extension, SvmCapabilities, VmxCapabilities};

    #[test]
    fn boot_msrs_by_vendor_and_exposure() {
        let write_back = (0x2FF, 0x806);
        let fast_strings = (0x1A0, 0x1801);
        let vmx_outside_smx = (0x3A, 5);
        let capabilities: VmxCapabilities =
            [(0x481, 1), (0x48B, 2), (0x48D, 3)].into_iter().collect();
        let cases = [
            (
                Vendor::Intel,
                Exposure::Vmx(capabilities),
                vec![
                    (0x48D, 3),
                    (0x48B, 2),
                    vmx_outside_smx,
                    write_back,
                    fast_strings,
                ],
            ),
            (Vendor::Intel, Exposure::Off, vec![write_back, fast_strings]),
            (
                Vendor::Amd,
                Exposure::Svm(SvmCapabilities::default()),
                vec![write_back],
            ),
            (Vendor::Amd, Exposure::Off, vec![write_back]),
        ];
        for (vendor, exposure, expected) in cases {
            assert_eq!(
                boot_msrs(vendor, &exposure),
                expected,
                "{vendor} {exposure}"
            );
        }
    }

    #[test]
    fn a_guest_reads_what_is_set_and_what_follows_from_it() {
        for name in ["intel-skylake-sp", "intel-bochs-haswell"] {
            let facts = dumps::named(name).facts;
            let exposure = Exposure::full(Extension::Vmx, &facts);
            let boot = boot_msrs(Vendor::Intel, &exposure);
            let read = guest_msrs(&boot, &facts.supported, &exposure);
            assert_eq!(read.get(0x3A), Some(5));
            for msr in 0x480..=0x491 {
                if msr != IA32_VMX_CR4_FIXED1 {
                    assert_eq!(read.get(msr), facts.vmx.get(msr), "{name} {msr:#x}");
                }
            }
            // CR4 has the host's bits that the guest's CPUID has, and no other.
            let [guest, host] = [read.get(0x489), facts.vmx.get(0x489)].map(Option::unwrap);
            assert_eq!(guest & !host, 0, "{name}");
        }
        let amd = dumps::named("amd-milan").facts;
        let exposure = Exposure::full(Extension::Svm, &amd);
        let read = guest_msrs(
            &boot_msrs(Vendor::Amd, &exposure),
            &amd.supported,
            &exposure,
        );
        assert_eq!(read.iter().collect::<Vec<_>>(), [(0x2FF, 0x806)]);
    }
}
