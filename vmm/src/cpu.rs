//! A processor as software sees it: what CPUID and the MSRs tell.

use nestling_arch::cpuid::Cpuid;
use nestling_arch::msr::MsrSet;
use serde::{Deserialize, Serialize};

/// What one processor tells of itself: as its monitor has set it, or as it was
/// read on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuView {
    /// Its number, from 0.
    pub index: u32,
    /// What CPUID answers, without answers of zeros.
    pub cpuid: Cpuid,
    /// MSRs, those that the monitor sets and those that follow from them.
    pub msrs: MsrSet,
    /// XCR0, where the system has enabled XSAVE; it decides on sizes that CPUID
    /// tells. Not the monitor's to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xcr0: Option<u64>,
}
