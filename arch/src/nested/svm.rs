//! SVM's features in CPUID (APM vol. 3, appendix E, Fn8000_000A).

use bitflags::bitflags;

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
        /// Virtualized non-maskable interrupts.
        const VNMI = 1 << 25;
        /// VMCB address checks no longer depend on the mode.
        const SVME_ADDR_CHK = 1 << 28;
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
