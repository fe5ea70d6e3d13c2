//! The feature MSRs that KVM lets a machine set for a vCPU: what hosts have in
//! common of them, and what a guest may see that its host hasn't.

use crate::msr::*;

/// What an MSR says, and so how it is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bits that each say that something is there, but for `limits`, which say
    /// that something is not.
    Features {
        /// The bits that say so.
        limits: u64,
    },
    /// Controls: the low half says which must be 1, the high half which may be
    /// (SDM vol. 3D, A.2).
    Controls,
    /// The highest index in use, in bits 9 to 1 (SDM vol. 3D, A.9).
    Level,
}

use Kind::{Controls, Features, Level};

const FEATURES: Kind = Features { limits: 0 };
/// RSBA and RRSBA: what predicts returns isn't only what returns put there.
const RETURN_STACK_BUFFER_ALTERNATES: u64 = 1 << 2 | 1 << 19;

/// The MSRs by number, with the manuals' names. Those that KVM derives from
/// others aren't here.
#[rustfmt::skip]
const MSRS: [(u32, &str, Kind); 12] = [
    (IA32_ARCH_CAPABILITIES, "IA32_ARCH_CAPABILITIES",
     Features { limits: RETURN_STACK_BUFFER_ALTERNATES }),
    (IA32_VMX_BASIC, "IA32_VMX_BASIC", FEATURES),
    (IA32_VMX_MISC, "IA32_VMX_MISC", FEATURES),
    (IA32_VMX_VMCS_ENUM, "IA32_VMX_VMCS_ENUM", Level),
    (IA32_VMX_PROCBASED_CTLS2, "IA32_VMX_PROCBASED_CTLS2", Controls),
    (IA32_VMX_EPT_VPID_CAP, "IA32_VMX_EPT_VPID_CAP", FEATURES),
    (IA32_VMX_TRUE_PINBASED_CTLS, "IA32_VMX_TRUE_PINBASED_CTLS", Controls),
    (IA32_VMX_TRUE_PROCBASED_CTLS, "IA32_VMX_TRUE_PROCBASED_CTLS", Controls),
    (IA32_VMX_TRUE_EXIT_CTLS, "IA32_VMX_TRUE_EXIT_CTLS", Controls),
    (IA32_VMX_TRUE_ENTRY_CTLS, "IA32_VMX_TRUE_ENTRY_CTLS", Controls),
    (IA32_VMX_VMFUNC, "IA32_VMX_VMFUNC", FEATURES),
    (MSR_AMD64_DE_CFG, "MSR_AMD64_DE_CFG", FEATURES),
];

/// The bits of IA32_ARCH_CAPABILITIES from bit 0 on (SDM vol. 4, table 2-2).
const ARCH_CAPABILITIES: &str = "RDCL_NO IBRS_ALL RSBA SKIP_L1DFL_VMENTRY SSB_NO MDS_NO \
    IF_PSCHANGE_MC_NO TSX_CTRL TAA_NO MCU_CONTROL MISC_PACKAGE_CTLS ENERGY_FILTERING_CTL DOITM \
    SBDR_SSDP_NO FBSDP_NO PSDP_NO - FB_CLEAR FB_CLEAR_CTRL RRSBA BHI_NO XAPIC_DISABLE_STATUS - \
    OVERCLOCKING_STATUS PBRSB_NO GDS_CTRL GDS_NO RFDS_NO RFDS_CLEAR";

/// What the MSR is; none for one that a template can't decide about.
pub(super) fn kind(msr: u32) -> Option<Kind> {
    let found = MSRS.iter().find(|(index, _, _)| *index == msr)?;
    Some(found.2)
}

/// The numbers of those that a template can decide about.
pub fn known() -> impl Iterator<Item = u32> {
    MSRS.iter().map(|(index, _, _)| *index)
}

/// The MSR of that name or number.
pub(super) fn find(text: &str) -> Option<u32> {
    let number = text
        .strip_prefix("0x")
        .and_then(|digits| u32::from_str_radix(digits, 16).ok());
    MSRS.iter()
        .find(|(index, name, _)| number == Some(*index) || *name == text)
        .map(|(index, _, _)| *index)
}

/// The manual's name.
pub fn name(msr: u32) -> String {
    let found = MSRS.iter().find(|(index, _, _)| *index == msr);
    found.map_or_else(
        || format!("MSR {msr:#x}"),
        |(_, name, _)| (*name).to_owned(),
    )
}

/// A bit as the manuals write it, with its name before the place if it has one.
pub(super) fn describe(msr: u32, bit: u32) -> String {
    let place = format!("{}[{bit}]", name(msr));
    let names = match msr {
        IA32_ARCH_CAPABILITIES => ARCH_CAPABILITIES,
        _ => "",
    };
    let index = usize::try_from(bit).unwrap_or(usize::MAX);
    match names.split_ascii_whitespace().nth(index) {
        None | Some("-") => place,
        Some(name) => format!("{name} ({place})"),
    }
}

impl Kind {
    /// What two hosts have in common.
    pub(super) fn common(self, a: u64, b: u64) -> u64 {
        match self {
            Features { limits } => a & b & !limits | (a | b) & limits,
            Controls => (a | b) & LOW | a & b & !LOW,
            Level => a.min(b),
        }
    }

    /// The bits of `wanted` that a host with the value `host` can't give.
    pub(super) fn excess(self, wanted: u64, host: u64) -> u64 {
        match self {
            Features { limits } => wanted & !host & !limits | host & !wanted & limits,
            Controls => host & !wanted & LOW | wanted & !host & !LOW,
            Level => 0,
        }
    }
}

/// The half that says which controls must be 1.
const LOW: u64 = 0xFFFF_FFFF;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_least_in_common() {
        let limited = Features { limits: 0b100 };
        for (kind, a, b, common) in [
            (FEATURES, 0b110, 0b011, 0b010),
            (limited, 0b101, 0b001, 0b101),
            (
                Controls,
                0x0000_0006_0000_0002,
                0x0000_000C_0000_0001,
                0x0000_0004_0000_0003,
            ),
            (Level, 0x32, 0x2E, 0x2E),
        ] {
            assert_eq!(
                [kind.common(a, b), kind.common(b, a)],
                [common; 2],
                "{kind:?}"
            );
            for host in [a, b] {
                assert_eq!(kind.excess(common, host), 0, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_a_host_cannot_give_is_found() {
        let limited = Features { limits: 0b100 };
        for (kind, wanted, host, excess) in [
            (FEATURES, 0b011, 0b001, 0b010),
            // A limit that isn't told of would be a lie.
            (limited, 0b000, 0b100, 0b100),
            (limited, 0b100, 0b000, 0),
            // A control that may not be 1, and one that must be.
            (Controls, 1 << 33, 0, 1 << 33),
            (Controls, 0, 1 << 2, 1 << 2),
            (Controls, 1 << 2, 0, 0),
            (Level, 0x40, 0x30, 0),
        ] {
            assert_eq!(kind.excess(wanted, host), excess, "{kind:?}");
        }
    }

    #[test]
    fn msrs_are_found_by_name_and_number() {
        for (text, msr) in [
            ("0x10a", Some(0x10A)),
            ("IA32_ARCH_CAPABILITIES", Some(0x10A)),
            ("0x10A", Some(0x10A)),
            ("0x482", None),
            ("10a", None),
            ("IA32_TSC", None),
        ] {
            assert_eq!(find(text), msr, "{text}");
        }
        assert_eq!(describe(0x10A, 19), "RRSBA (IA32_ARCH_CAPABILITIES[19])");
        assert_eq!(
            describe(0x10A, 28),
            "RFDS_CLEAR (IA32_ARCH_CAPABILITIES[28])"
        );
        assert_eq!(describe(0x10A, 16), "IA32_ARCH_CAPABILITIES[16]");
        assert_eq!(describe(0x48B, 33), "IA32_VMX_PROCBASED_CTLS2[33]");
    }
}
