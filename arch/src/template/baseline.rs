//! Named templates: the feature levels of the x86-64 psABI, supplement of the
//! System V ABI, section 3.1.1.
//!
//! A level without a vendor bounds the features that programs use and leaves
//! the processor its name, its caches and what helps against its faults. One
//! with a vendor fixes all of it, so that a guest can't tell hosts apart.

use super::text::list;
use super::{Rule, Template, TextError, Unnamed};
use crate::cpuid::{Feature, Key, Register, Registers, Vendor, names};

use Register::{Eax, Ebx, Ecx, Edx};

/// A level of the psABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    V2,
    V3,
    V4,
}

/// A named template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in a line.
    pub description: &'static str,
    level: Level,
    vendor: Option<Vendor>,
}

const fn of_any(name: &'static str, level: Level, description: &'static str) -> Baseline {
    Baseline {
        name,
        description,
        level,
        vendor: None,
    }
}

const fn of(
    vendor: Vendor,
    name: &'static str,
    level: Level,
    description: &'static str,
) -> Baseline {
    Baseline {
        name,
        description,
        level,
        vendor: Some(vendor),
    }
}

/// All of them.
#[rustfmt::skip]
pub const BASELINES: [Baseline; 9] = [
    of_any("x86-64-v2", Level::V2, "up to SSE4.2 and POPCNT; the processor stays recognizable"),
    of_any("x86-64-v3", Level::V3, "up to AVX2, BMI2 and FMA; the processor stays recognizable"),
    of_any("x86-64-v4", Level::V4, "up to AVX-512 with BW, CD, DQ and VL; the processor stays recognizable"),
    of(Vendor::Intel, "x86-64-v2-intel", Level::V2, "the same on Intel hosts since Westmere"),
    of(Vendor::Intel, "x86-64-v3-intel", Level::V3, "the same on Intel hosts since Haswell"),
    of(Vendor::Intel, "x86-64-v4-intel", Level::V4, "the same on Intel hosts since Skylake-SP"),
    of(Vendor::Amd, "x86-64-v2-amd", Level::V2, "the same on AMD hosts since Bulldozer"),
    of(Vendor::Amd, "x86-64-v3-amd", Level::V3, "the same on AMD hosts since Zen"),
    of(Vendor::Amd, "x86-64-v4-amd", Level::V4, "the same on AMD hosts since Zen 4"),
];

/// The features of each level beyond the one before: those of the psABI, and
/// those that a kernel needs or has on every processor of the level.
const FEATURES: [(Level, &[&str]); 3] = [
    (
        Level::V2,
        &[
            "FPU",
            "DE",
            "PSE",
            "TSC",
            "MSR",
            "PAE",
            "MCE",
            "CX8",
            "APIC",
            "SEP",
            "MTRR",
            "PGE",
            "MCA",
            "CMOV",
            "PAT",
            "PSE-36",
            "CLFSH",
            "MMX",
            "FXSR",
            "SSE",
            "SSE2",
            "ARAT",
            "SYSCALL",
            "NX",
            "RDTSCP",
            "LM",
            "SSE3",
            "SSSE3",
            "CMPXCHG16B",
            "SSE4.1",
            "SSE4.2",
            "POPCNT",
            "LahfSahf",
        ],
    ),
    (
        Level::V3,
        &[
            "FMA",
            "MOVBE",
            "XSAVE",
            "AVX",
            "F16C",
            "BMI1",
            "AVX2",
            "BMI2",
            "ABM",
            "x87-state",
            "SSE-state",
            "AVX-state",
            "XSAVEOPT",
            "FSGSBASE",
            "SMEP",
            "Page1GB",
        ],
    ),
    (
        Level::V4,
        &[
            "AVX512F",
            "AVX512DQ",
            "AVX512CD",
            "AVX512BW",
            "AVX512VL",
            "opmask",
            "ZMM_Hi256",
            "Hi16_ZMM",
        ],
    ),
];

/// What a level without a vendor leaves as the host has it, besides the
/// extension for nesting: what only kernels use, and what tells of the
/// processor's faults and helps against them.
const KEPT: [&str; 40] = [
    "VMX",
    "SVM",
    "VME",
    "PCID",
    "TSC_ADJUST",
    "INVPCID",
    "SMAP",
    "UMIP",
    "XSAVEC",
    "XGETBV_ECX1",
    "TopologyExtensions",
    "TscInvariant",
    "FDP_EXCPTN_ONLY",
    "ZERO_FCS_FDS",
    "SRBDS_CTRL",
    "MD_CLEAR",
    "IBRS_IBPB",
    "STIBP",
    "L1D_FLUSH",
    "ARCH_CAPABILITIES",
    "SSBD",
    "PSFD",
    "IPRED_CTRL",
    "RRSBA_CTRL",
    "DDPD_U",
    "BHI_CTRL",
    "MCDT_NO",
    "IBPB",
    "IBRS",
    "AMD_STIBP",
    "IbrsAlwaysOn",
    "StibpAlwaysOn",
    "AMD_SSBD",
    "SsbdVirtSpecCtrl",
    "SsbdNotRequired",
    "BTC_NO",
    "LFenceAlwaysSerializing",
    "NullSelectClearsBase",
    "AutomaticIBRS",
    "SRSO_NO",
];

/// What a level for AMD leaves as the host has it of SVM: what Zen began with.
/// It isn't set, for a host can have any of it switched off.
const SVM_KEPT: [&str; 12] = [
    "SVM",
    "NP",
    "LbrVirt",
    "NRIPS",
    "TscRateMsr",
    "VmcbClean",
    "FlushByAsid",
    "DecodeAssists",
    "PauseFilter",
    "PauseFilterThreshold",
    "VMSAVEvirt",
    "VGIF",
];

/// Answers that a level without a vendor leaves as the host has them: make,
/// caches, brand string, places of XSAVE's states, KVM's features, SVM's.
const KEPT_ANSWERS: [Key; 22] = [
    (0x2, None),
    (0x4, Some(0)),
    (0x4, Some(1)),
    (0x4, Some(2)),
    (0x4, Some(3)),
    (0xD, Some(2)),
    (0xD, Some(5)),
    (0xD, Some(6)),
    (0xD, Some(7)),
    (0x4000_0001, None),
    (0x8000_0002, None),
    (0x8000_0003, None),
    (0x8000_0004, None),
    (0x8000_0005, None),
    (0x8000_0006, None),
    (0x8000_000A, None),
    (0x8000_0019, None),
    (0x8000_001A, None),
    (0x8000_001D, Some(0)),
    (0x8000_001D, Some(1)),
    (0x8000_001D, Some(2)),
    (0x8000_001D, Some(3)),
];

/// The bits of leaf 1's EDX that AMD repeats in leaf 0x80000001's.
const REPEATED: u32 = 0x0183_F3FF;

impl Baseline {
    /// The template.
    pub fn template(&self) -> Template {
        let mut template = Template::new(self.name, Unnamed::Hide);
        template.description = self.description.to_owned();
        template.vendor = self.vendor;
        for (level, names) in FEATURES {
            if level <= self.level {
                change(&mut template, names, |feature, rule| {
                    rule.set |= feature.mask()
                });
            }
        }
        match self.vendor {
            None => keep(&mut template),
            Some(vendor) => fix(&mut template, vendor, self.level),
        }
        template
    }
}

impl Template {
    /// The baseline of that name.
    ///
    /// # Errors
    /// When there is none; the names that there are.
    pub fn named(name: &str) -> Result<Self, TextError> {
        let found = BASELINES.iter().find(|baseline| baseline.name == name);
        found
            .map(Baseline::template)
            .ok_or_else(|| TextError::Unknown {
                name: name.to_owned(),
                known: list(BASELINES.iter().map(|baseline| baseline.name)),
            })
    }
}

/// Changes the rules of the features' registers.
fn change(template: &mut Template, names: &[&str], how: impl Fn(Feature, &mut Rule<u32>)) {
    for name in names {
        let feature = names::find(name).expect("the tables hold names of features");
        let key = (feature.leaf, feature.subleaf);
        let mut rule = template.rule(key, feature.register);
        how(feature, &mut rule);
        template.set_rule(key, feature.register, rule);
    }
}

fn leave(feature: Feature, rule: &mut Rule<u32>) {
    rule.mask |= feature.mask();
}

/// A level without a vendor.
fn keep(template: &mut Template) {
    change(template, &KEPT, leave);
    for key in KEPT_ANSWERS {
        for register in Register::ALL {
            template.set_rule(key, register, Rule::<u32>::KEEP);
        }
    }
    for (leaf, register) in [
        (0x1, Eax),
        (0x1, Ebx),
        (0x8000_0001, Eax),
        (0x8000_0001, Ebx),
    ] {
        template.set_rule((leaf, None), register, Rule::<u32>::KEEP);
    }
    for register in [Eax, Ecx] {
        template.set_rule((0x8000_0008, None), register, Rule::<u32>::KEEP);
    }
    let mut rule = template.rule((0x8000_0001, None), Edx);
    rule.mask |= REPEATED;
    template.set_rule((0x8000_0001, None), Edx, rule);
}

/// A vendor's processor of that level, the same wherever it runs.
fn fix(template: &mut Template, vendor: Vendor, level: Level) {
    let amd = vendor == Vendor::Amd;
    let mut put = |leaf, subleaf, [eax, ebx, ecx, edx]: [u32; 4]| {
        template.pin((leaf, subleaf), Registers { eax, ebx, ecx, edx });
    };
    // KVM's features since Linux 5.8 that the passes let through.
    put(0x4000_0001, None, [0x0100_7EFB, 0, 0, 0]);
    brand(&mut put, vendor, level);
    if amd {
        // 32 KiB of first-level caches, eight-way, with 64 entries of TLB each;
        // 512 KiB of second level and 8 MiB of third.
        put(
            0x8000_0005,
            None,
            [0xFF40_FF40, 0xFF40_FF40, 0x2008_0140, 0x2008_0140],
        );
        put(
            0x8000_0006,
            None,
            [0x4800_2200, 0x6800_4200, 0x0200_6140, 0x0040_9140],
        );
    } else {
        // 32 KiB of first-level caches, 256 KiB of second level, eight-way, and 8
        // MiB of third, sixteen-way.
        put(0x2, None, [0x00FF_0001, 0x0000_00F0, 0, 0]);
        put(0x4, Some(0), [0x0121, 0x01C0_003F, 0x3F, 0]);
        put(0x4, Some(1), [0x0122, 0x01C0_003F, 0x3F, 0]);
        put(0x4, Some(2), [0x0143, 0x01C0_003F, 0x1FF, 0]);
        put(0x4, Some(3), [0x0163, 0x03C0_003F, 0x1FFF, 0]);
        put(0x8000_0006, None, [0, 0, 0x0100_6040, 0]);
    }
    for (state, size, offset) in states(level, amd) {
        put(0xD, Some(state), [size, offset, 0, 0]);
    }
    let mut exactly = |leaf, subleaf, register, value| {
        template.set_rule((leaf, subleaf), register, Rule::<u32>::exactly(value));
    };
    exactly(0x0, None, Eax, 0xD);
    exactly(0x1, None, Eax, signature(vendor, level));
    // CLFLUSH writes back 8 times 8 bytes.
    exactly(0x1, None, Ebx, 0x0800);
    exactly(0x7, Some(0), Eax, 0);
    // 48 bits of linear address; of physical address what all such hosts have.
    exactly(0x8000_0008, None, Eax, if amd { 0x3028 } else { 0x3027 });
    exactly(
        0x8000_0000,
        None,
        Eax,
        if amd { 0x8000_000A } else { 0x8000_0008 },
    );
    if !amd {
        change(template, &["VMX"], leave);
        return;
    }
    exactly(0x8000_0001, None, Eax, signature(vendor, level));
    exactly(0x8000_000A, None, Eax, 1);
    // KVM emulates eight ASIDs.
    exactly(0x8000_000A, None, Ebx, 8);
    change(template, &SVM_KEPT, leave);
    let basic = template.rule((0x1, None), Edx).set & REPEATED;
    let mut rule = template.rule((0x8000_0001, None), Edx);
    rule.set |= basic;
    template.set_rule((0x8000_0001, None), Edx, rule);
}

/// Number, size and offset of the states that have a place of their own in
/// XSAVE's area.
fn states(level: Level, amd: bool) -> Vec<(u32, u32, u32)> {
    let avx = (2, 0x100, 0x240);
    let [opmask, upper, more] = if amd {
        [0x340, 0x380, 0x580]
    } else {
        [0x440, 0x480, 0x680]
    };
    match level {
        Level::V2 => Vec::new(),
        Level::V3 => vec![avx],
        Level::V4 => vec![avx, (5, 0x40, opmask), (6, 0x200, upper), (7, 0x400, more)],
    }
}

/// Leaf 1's EAX of a well-known processor of that level.
fn signature(vendor: Vendor, level: Level) -> u32 {
    match (vendor, level) {
        // Sandy Bridge-EP, Haswell-EP, Skylake-SP.
        (Vendor::Intel | Vendor::Other, Level::V2) => 0x0002_06D7,
        (Vendor::Intel | Vendor::Other, Level::V3) => 0x0003_06F2,
        (Vendor::Intel | Vendor::Other, Level::V4) => 0x0005_0654,
        // Zen, Zen 4.
        (Vendor::Amd, Level::V2 | Level::V3) => 0x0080_0F12,
        (Vendor::Amd, Level::V4) => 0x00A1_0F11,
    }
}

/// The brand string, of 48 bytes in three leaves.
fn brand(put: &mut impl FnMut(u32, Option<u32>, [u32; 4]), vendor: Vendor, level: Level) {
    let level = match level {
        Level::V2 => "v2",
        Level::V3 => "v3",
        Level::V4 => "v4",
    };
    let mut text = [0; 48];
    let words = format!("{vendor} x86-64-{level} processor");
    text[..words.len()].copy_from_slice(words.as_bytes());
    for (leaf, part) in (0x8000_0002..).zip(text.chunks_exact(16)) {
        let mut registers = [0; 4];
        for (register, bytes) in registers.iter_mut().zip(part.chunks_exact(4)) {
            *register = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        put(leaf, None, registers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_what_the_psabi_says() {
        // Leaf 1 ECX and EDX, leaf 7 EBX, leaf 0x80000001 ECX: required, but for
        // OSXSAVE, which follows from CR4.
        for (name, required) in [
            ("x86-64-v2", [0x0098_2201, 0x078B_FBFD, 0, 0x01]),
            ("x86-64-v3", [0x34D8_3201, 0x078B_FBFD, 0x1A9, 0x21]),
            ("x86-64-v4", [0x34D8_3201, 0x078B_FBFD, 0xD003_01A9, 0x21]),
        ] {
            for suffix in ["", "-intel", "-amd"] {
                let template = Template::named(&format!("{name}{suffix}")).unwrap();
                let set = |key, register| template.rule(key, register).set;
                let seen = [
                    set((0x1, None), Ecx),
                    set((0x1, None), Edx),
                    set((0x7, Some(0)), Ebx),
                    set((0x8000_0001, None), Ecx),
                ];
                assert_eq!(seen, required, "{template}");
            }
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known() {
        let error = Template::named("x86-64-v1").unwrap_err().to_string();
        assert!(
            error.contains("`x86-64-v1`; there are x86-64-v2, "),
            "{error}"
        );
    }
}
