//! VMX's capabilities, which are in MSRs (SDM vol. 3D, appendix A).

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::control::{Place, control};
use crate::cpuid::{Cpuid, Feature, feature::*};
use crate::msr::*;

mod controls;

pub(super) use controls::{CONTROLS, GROUPS};

/// The VMX capability MSRs, IA32_VMX_BASIC to IA32_VMX_VMFUNC.
pub const CAPABILITY_MSRS: RangeInclusive<u32> = IA32_VMX_BASIC..=IA32_VMX_VMFUNC;

/// The capability MSRs that hold controls, in an order in which KVM takes them:
/// IA32_VMX_MISC is checked against the pin-based controls. What the other
/// control MSRs say, those without TRUE in their names, KVM derives from these.
const WRITABLE: [u32; 10] = [
    IA32_VMX_BASIC,
    IA32_VMX_TRUE_PINBASED_CTLS,
    IA32_VMX_TRUE_PROCBASED_CTLS,
    IA32_VMX_TRUE_EXIT_CTLS,
    IA32_VMX_TRUE_ENTRY_CTLS,
    IA32_VMX_PROCBASED_CTLS2,
    IA32_VMX_MISC,
    IA32_VMX_EPT_VPID_CAP,
    IA32_VMX_VMFUNC,
    IA32_VMX_VMCS_ENUM,
];

/// Controls that stand for whole parts of MSRs: without the control the part
/// says nothing.
const PARTS: [(&str, u32, u64); 4] = [
    ("secondary_controls", IA32_VMX_PROCBASED_CTLS2, u64::MAX),
    ("ept", IA32_VMX_EPT_VPID_CAP, 0xFFFF_FFFF),
    ("vpid", IA32_VMX_EPT_VPID_CAP, 0xFFFF_FFFF << 32),
    ("vmfunc", IA32_VMX_VMFUNC, u64::MAX),
];

/// The control that only activates those in another MSR.
pub(super) fn activated_by(name: &str) -> Option<u32> {
    match name {
        "secondary_controls" => Some(IA32_VMX_PROCBASED_CTLS2),
        "vmfunc" => Some(IA32_VMX_VMFUNC),
        _ => None,
    }
}

/// A capability MSR's name.
pub(super) const fn msr_name(msr: u32) -> Option<&'static str> {
    Some(match msr {
        IA32_VMX_BASIC => "IA32_VMX_BASIC",
        IA32_VMX_MISC => "IA32_VMX_MISC",
        IA32_VMX_PROCBASED_CTLS2 => "IA32_VMX_PROCBASED_CTLS2",
        IA32_VMX_EPT_VPID_CAP => "IA32_VMX_EPT_VPID_CAP",
        IA32_VMX_TRUE_PINBASED_CTLS => "IA32_VMX_TRUE_PINBASED_CTLS",
        IA32_VMX_TRUE_PROCBASED_CTLS => "IA32_VMX_TRUE_PROCBASED_CTLS",
        IA32_VMX_TRUE_EXIT_CTLS => "IA32_VMX_TRUE_EXIT_CTLS",
        IA32_VMX_TRUE_ENTRY_CTLS => "IA32_VMX_TRUE_ENTRY_CTLS",
        IA32_VMX_VMFUNC => "IA32_VMX_VMFUNC",
        _ => return None,
    })
}

/// The older MSR on the same controls, and which of them are in the default1
/// class: they must be 1 by that MSR, and may be 0 only by the newer one
/// (SDM vol. 3D, A.3 to A.5).
const fn older(msr: u32) -> Option<(u32, u32)> {
    Some(match msr {
        IA32_VMX_TRUE_PINBASED_CTLS => (IA32_VMX_PINBASED_CTLS, 0x0000_0016),
        IA32_VMX_TRUE_PROCBASED_CTLS => (IA32_VMX_PROCBASED_CTLS, 0x0401_E172),
        IA32_VMX_TRUE_EXIT_CTLS => (IA32_VMX_EXIT_CTLS, 0x0003_6DFF),
        IA32_VMX_TRUE_ENTRY_CTLS => (IA32_VMX_ENTRY_CTLS, 0x0000_11FF),
        _ => return None,
    })
}

/// Whether a control is in the default1 class: no processor is without it.
pub(super) fn is_default1(place: Place) -> bool {
    match place {
        Place::Setting { msr, bit } => {
            older(msr).is_some_and(|(_, default1)| default1 & 1 << bit != 0)
        }
        Place::Capability { .. } | Place::Svm { .. } => false,
    }
}

/// The values of the VMX capability MSRs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "MsrSet", into = "MsrSet")]
pub struct VmxCapabilities(MsrSet);

impl VmxCapabilities {
    /// The MSR's value, if KVM offers it.
    pub fn get(&self, msr: u32) -> Option<u64> {
        self.0.get(msr)
    }

    /// Whether nothing is known of them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a guest hypervisor finds EPT, or `None` where KVM does not tell.
    pub fn ept(&self) -> Option<bool> {
        let secondary = self.get(IA32_VMX_PROCBASED_CTLS2)?;
        Some(secondary & 1 << 33 != 0)
    }

    /// Whether the bit of a control is set.
    pub(super) fn has(&self, place: Place) -> bool {
        let (msr, mask) = high_bit(place);
        self.get(msr).is_some_and(|value| value & mask != 0)
    }

    /// Clears the bit of a control.
    pub(super) fn hide(&mut self, place: Place) {
        let (msr, mask) = high_bit(place);
        self.clear(msr, mask);
        if let Some((older, _)) = older(msr) {
            self.clear(older, mask);
        }
    }

    /// Clears what says nothing without a control that isn't there, also by
    /// bits that have no name here.
    pub(super) fn clear_parts(&mut self) {
        for (name, msr, mask) in PARTS {
            if !control(name).is_some_and(|control| self.has(control.place)) {
                self.clear(msr, mask);
            }
        }
    }

    fn clear(&mut self, msr: u32, mask: u64) {
        if let Some(value) = self.get(msr) {
            self.0.insert(msr, value & !mask);
        }
    }

    /// These, with the values of `others` in place of their own, and what follows
    /// from them.
    #[must_use]
    pub fn with(mut self, others: &MsrSet) -> Self {
        for (msr, value) in others.iter() {
            if self.get(msr).is_none() {
                continue;
            }
            self.0.insert(msr, value);
            if let Some((older, default1)) = older(msr) {
                self.0.insert(older, value | u64::from(default1));
            }
        }
        self
    }

    /// What KVM is to be told of them, in order. That comes before the first
    /// run, and after CPUID, by which KVM changes some.
    pub fn writes(&self) -> Vec<(u32, u64)> {
        let value = |msr| Some((msr, self.get(msr)?));
        WRITABLE.into_iter().filter_map(value).collect()
    }

    /// What the guest reads, given its CPUID: KVM lets CR4 have the bits whose
    /// features the guest has, and CR0 all (IA32_VMX_CR0_FIXED1,
    /// IA32_VMX_CR4_FIXED1).
    pub fn read_with(&self, cpuid: &Cpuid) -> MsrSet {
        let mut read = self.0.clone();
        for (msr, value) in [
            (IA32_VMX_CR0_FIXED1, 0xFFFF_FFFF),
            (IA32_VMX_CR4_FIXED1, cr4_fixed1(cpuid)),
        ] {
            if read.get(msr).is_some() {
                read.insert(msr, value);
            }
        }
        read
    }
}

/// The place as MSR and mask: of a setting, the bit that allows it to be 1.
fn high_bit(place: Place) -> (u32, u64) {
    match place {
        Place::Setting { msr, bit } => (msr, 1 << (32 + bit)),
        Place::Capability { msr, bit } => (msr, 1 << bit),
        // No MSR has this number, and so no value.
        Place::Svm { .. } => (u32::MAX, 0),
    }
}

/// The bits of CR4 that a guest with this CPUID may set in VMX operation.
fn cr4_fixed1(cpuid: &Cpuid) -> u64 {
    const PCE: u64 = 1 << 8;
    const BITS: [(u32, Feature); 21] = [
        (0, VME),
        (1, VME),
        (2, TSC),
        (3, DE),
        (4, PSE),
        (5, PAE),
        (6, MCE),
        (7, PGE),
        (9, FXSR),
        (10, SSE),
        (11, UMIP),
        (12, LA57),
        (13, VMX),
        (14, SMX),
        (16, FSGSBASE),
        (17, PCID),
        (18, XSAVE),
        (20, SMEP),
        (21, SMAP),
        (22, PKU),
        (28, LAM),
    ];
    BITS.iter()
        .filter(|(_, feature)| cpuid.has(*feature))
        .fold(PCE, |bits, (bit, _)| bits | 1 << bit)
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

impl From<VmxCapabilities> for MsrSet {
    fn from(capabilities: VmxCapabilities) -> Self {
        capabilities.0
    }
}

impl TryFrom<MsrSet> for VmxCapabilities {
    type Error = String;

    fn try_from(msrs: MsrSet) -> Result<Self, String> {
        let foreign = msrs.iter().find(|(msr, _)| !CAPABILITY_MSRS.contains(msr));
        match foreign.map(|(msr, _)| msr) {
            None => Ok(Self(msrs)),
            Some(msr) => Err(format!("{msr:#x} is no VMX capability MSR")),
        }
    }
}
