//! SVM's features in CPUID (APM vol. 3, appendix E, Fn8000_000A).

use bitflags::bitflags;

use super::control::{Control, Place};
use crate::cpuid::Cpuid;

/// The leaf that lists what a processor with SVM has of it.
pub const SVM_LEAF: u32 = 0x8000_000A;

bitflags! {
    /// EDX of leaf 0x8000000A, by the APM's names.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SvmFeatures: u32 {
        /// Nested paging.
        const NP = 1 << 0;
        /// LBR virtualization.
        const LBR_VIRT = 1 << 1;
        /// SVM lock.
        const SVML = 1 << 2;
        /// The next instruction's address is saved on an exit.
        const NRIPS = 1 << 3;
        /// MSR-based TSC ratio.
        const TSC_RATE_MSR = 1 << 4;
        /// VMCB clean bits.
        const VMCB_CLEAN = 1 << 5;
        /// TLB flush by ASID.
        const FLUSH_BY_ASID = 1 << 6;
        /// Decode assists.
        const DECODE_ASSISTS = 1 << 7;
        /// Virtualized performance counters.
        const PMC_VIRT = 1 << 8;
        /// Pause filter.
        const PAUSE_FILTER = 1 << 10;
        /// Pause filter's cycle threshold.
        const PAUSE_FILTER_THRESHOLD = 1 << 12;
        /// Virtual interrupt controller.
        const AVIC = 1 << 13;
        /// Virtualized VMLOAD and VMSAVE.
        const VMSAVE_VIRT = 1 << 15;
        /// Virtualized global interrupt flag.
        const VGIF = 1 << 16;
        /// Guest mode execute trap.
        const GMET = 1 << 17;
        /// Virtual interrupt controller in x2APIC mode.
        const X2AVIC = 1 << 18;
        /// Supervisor shadow stack restrictions.
        const SSS_CHECK = 1 << 19;
        /// Virtualized SPEC_CTRL.
        const SPEC_CTRL = 1 << 20;
        /// Read-only guest page tables.
        const ROGPT = 1 << 21;
        /// A machine check in a guest always exits.
        const HOST_MCE_OVERRIDE = 1 << 23;
        /// INVLPGB and TLBSYNC in guests.
        const TLBI_CTL = 1 << 24;
        /// Virtualized non-maskable interrupts.
        const VNMI = 1 << 25;
        /// Virtualized instruction-based sampling.
        const IBS_VIRT = 1 << 26;
        /// The virtual interrupt controller's accesses to extended local vectors
        /// fault rather than trap.
        const EXT_LVT_AVIC_ACCESS_CHG = 1 << 27;
        /// VMCB address checks no longer depend on the mode.
        const SVME_ADDR_CHK = 1 << 28;
        /// Bus lock threshold.
        const BUS_LOCK_THRESHOLD = 1 << 29;
        /// HLT exits only if no interrupt is pending.
        const IDLE_HLT_INTERCEPT = 1 << 30;
        /// An exit tells of a shutdown with its cause.
        const ENHANCED_SHUTDOWN_INTERCEPT = 1 << 31;
        // Bits that have no name yet are kept as they are.
        const _ = !0;
    }
}

impl SvmFeatures {
    /// The features of this set; none where the leaf is absent.
    pub fn of(cpuid: &Cpuid) -> Self {
        Self::from_bits_retain(cpuid.get(SVM_LEAF, 0).edx)
    }
}

/// The fewest address space identifiers that are of use: 0 is the host's own.
pub const MIN_ASIDS: u32 = 2;

/// What a processor with SVM has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvmCapabilities {
    /// EDX of leaf 0x8000000A.
    pub features: SvmFeatures,
    /// How many address space identifiers there are (EBX).
    pub asids: u32,
}

impl SvmCapabilities {
    /// What this set says; nothing where the leaf is absent.
    pub fn of(cpuid: &Cpuid) -> Self {
        Self {
            features: SvmFeatures::of(cpuid),
            asids: cpuid.get(SVM_LEAF, 0).ebx,
        }
    }

    /// Whether the bit of a control is set.
    pub(super) fn has(&self, place: Place) -> bool {
        self.features.bits() & mask(place) != 0
    }

    /// Clears the bit of a control.
    pub(super) fn hide(&mut self, place: Place) {
        self.features = SvmFeatures::from_bits_retain(self.features.bits() & !mask(place));
    }
}

impl Default for SvmCapabilities {
    /// Nothing.
    fn default() -> Self {
        Self {
            features: SvmFeatures::empty(),
            asids: 0,
        }
    }
}

fn mask(place: Place) -> u32 {
    match place {
        Place::Svm { bit } => 1 << bit,
        Place::Setting { .. } | Place::Capability { .. } => 0,
    }
}

const fn feature(
    feature: SvmFeatures,
    name: &'static str,
    needs: &'static [&'static str],
) -> Control {
    Control {
        name,
        place: Place::Svm {
            bit: feature.bits().trailing_zeros(),
        },
        needs,
        instructions: &[],
    }
}

const NPT: &[&str] = &["npt"];
const AVIC: &[&str] = &["avic"];

/// The features as controls (APM vol. 2, chapter 15, says what needs nested
/// paging). Each stands behind those that it needs.
pub(super) const CONTROLS: &[Control] = &[
    feature(SvmFeatures::NP, "npt", &[]),
    feature(SvmFeatures::LBR_VIRT, "lbrv", &[]),
    feature(SvmFeatures::SVML, "svm_lock", &[]),
    feature(SvmFeatures::NRIPS, "nrips", &[]),
    feature(SvmFeatures::TSC_RATE_MSR, "tsc_rate", &[]),
    feature(SvmFeatures::VMCB_CLEAN, "vmcb_clean", &[]),
    feature(SvmFeatures::FLUSH_BY_ASID, "flush_by_asid", &[]),
    feature(SvmFeatures::DECODE_ASSISTS, "decode_assists", &[]),
    feature(SvmFeatures::PMC_VIRT, "pmc_virt", &[]),
    feature(SvmFeatures::PAUSE_FILTER, "pause_filter", &[]),
    feature(
        SvmFeatures::PAUSE_FILTER_THRESHOLD,
        "pause_filter_threshold",
        &["pause_filter"],
    ),
    feature(SvmFeatures::AVIC, "avic", NPT),
    feature(SvmFeatures::VMSAVE_VIRT, "vls", NPT),
    feature(SvmFeatures::VGIF, "vgif", &[]),
    feature(SvmFeatures::GMET, "gmet", NPT),
    feature(SvmFeatures::X2AVIC, "x2avic", AVIC),
    feature(SvmFeatures::SSS_CHECK, "sss_check", NPT),
    feature(SvmFeatures::SPEC_CTRL, "spec_ctrl", &[]),
    feature(SvmFeatures::ROGPT, "rogpt", NPT),
    feature(SvmFeatures::HOST_MCE_OVERRIDE, "host_mce_override", &[]),
    feature(SvmFeatures::TLBI_CTL, "tlbi_ctl", &[]),
    feature(SvmFeatures::VNMI, "vnmi", &[]),
    feature(SvmFeatures::IBS_VIRT, "ibs_virt", &[]),
    feature(
        SvmFeatures::EXT_LVT_AVIC_ACCESS_CHG,
        "ext_lvt_avic_access_chg",
        AVIC,
    ),
    feature(SvmFeatures::SVME_ADDR_CHK, "svme_addr_chk", &[]),
    feature(SvmFeatures::BUS_LOCK_THRESHOLD, "bus_lock_threshold", &[]),
    feature(SvmFeatures::IDLE_HLT_INTERCEPT, "idle_hlt_intercept", &[]),
    feature(
        SvmFeatures::ENHANCED_SHUTDOWN_INTERCEPT,
        "enhanced_shutdown_intercept",
        &[],
    ),
];
