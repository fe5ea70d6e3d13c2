//! VMX's capabilities, which are in MSRs (SDM vol. 3D, appendix A).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::msr::{IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2};

/// The VMX capability MSRs, IA32_VMX_BASIC to IA32_VMX_VMFUNC.
pub const CAPABILITY_MSRS: RangeInclusive<u32> = 0x480..=0x491;

/// "Activate secondary controls", among the controls that may be 1, which are
/// the high half (SDM vol. 3D, A.3.2).
const SECONDARY_CONTROLS: u64 = 1 << (32 + 31);
/// "Enable EPT", among those that may be 1 (SDM vol. 3D, A.3.3).
const ENABLE_EPT: u64 = 1 << (32 + 1);

/// The values of the VMX capability MSRs that KVM can give a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct VmxCapabilities(BTreeMap<u32, u64>);

impl VmxCapabilities {
    /// The MSR's value, if KVM offers it.
    pub fn get(&self, msr: u32) -> Option<u64> {
        self.0.get(&msr).copied()
    }

    /// Whether a guest hypervisor finds EPT, or `None` where KVM does not tell.
    pub fn ept(&self) -> Option<bool> {
        let primary = self.get(IA32_VMX_PROCBASED_CTLS)?;
        let secondary = self.get(IA32_VMX_PROCBASED_CTLS2).unwrap_or(0);
        Some(primary & SECONDARY_CONTROLS != 0 && secondary & ENABLE_EPT != 0)
    }
}

impl FromIterator<(u32, u64)> for VmxCapabilities {
    /// Takes the capability MSRs out of a list of MSRs and their values.
    fn from_iter<I: IntoIterator<Item = (u32, u64)>>(msrs: I) -> Self {
        Self(
            msrs.into_iter()
                .filter(|(msr, _)| CAPABILITY_MSRS.contains(msr))
                .collect(),
        )
    }
}

impl From<VmxCapabilities> for BTreeMap<String, String> {
    fn from(capabilities: VmxCapabilities) -> Self {
        let text = |(msr, value)| (format!("{msr:#x}"), format!("{value:#018x}"));
        capabilities.0.into_iter().map(text).collect()
    }
}

impl TryFrom<BTreeMap<String, String>> for VmxCapabilities {
    type Error = String;

    fn try_from(text: BTreeMap<String, String>) -> Result<Self, String> {
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        text.iter()
            .map(|(msr, value)| {
                let index = hex(msr).and_then(|index| u32::try_from(index).ok());
                index
                    .filter(|index| CAPABILITY_MSRS.contains(index))
                    .zip(hex(value))
                    .ok_or_else(|| format!("{msr} = {value} is no VMX capability MSR"))
            })
            .collect()
    }
}
