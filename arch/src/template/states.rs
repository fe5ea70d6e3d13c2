//! Brings leaf 0xD, XSAVE's, into line with what is left of it and of the
//! features (SDM vol. 1, 13.2): no feature without its state, no state without
//! its place, and sizes that follow.

use crate::cpuid::feature::TOPOLOGY_EXTENSIONS;
use crate::cpuid::{Cpuid, Feature, Registers, names};

const XSAVE_LEAF: u32 = 0xD;
/// Legacy region and header of XSAVE's area in bytes.
const LEGACY_AREA: u32 = 576;
/// The bits of XCR0 for the x87 and SSE states, which are in the legacy region.
const LEGACY: u64 = 0b11;

/// States that are managed all together or not at all.
const TOGETHER: [u64; 3] = [
    // BNDREGS, BNDCSR.
    0b11 << 3,
    // opmask, ZMM_Hi256, Hi16_ZMM.
    0b111 << 5,
    // XTILECFG, XTILEDATA.
    0b11 << 17,
];

/// The states that features work on, as bits of XCR0.
const NEEDS: [(u64, &[&str]); 6] = [
    (
        0b100,
        &[
            "AVX",
            "AVX2",
            "F16C",
            "FMA",
            "VAES",
            "VPCLMULQDQ",
            "AVX_VNNI",
            "AVX_IFMA",
            "AVX_VNNI_INT8",
            "AVX_NE_CONVERT",
            "AVX_VNNI_INT16",
            "SHA512",
            "SM3",
            "SM4",
            "XOP",
            "FMA4",
        ],
    ),
    (0b11 << 3, &["MPX"]),
    (
        0b111 << 5,
        &[
            "AVX512F",
            "AVX512DQ",
            "AVX512_IFMA",
            "AVX512PF",
            "AVX512ER",
            "AVX512CD",
            "AVX512BW",
            "AVX512VL",
            "AVX512_VBMI",
            "AVX512_VBMI2",
            "AVX512_VNNI",
            "AVX512_BITALG",
            "AVX512_VPOPCNTDQ",
            "AVX512_4VNNIW",
            "AVX512_4FMAPS",
            "AVX512_VP2INTERSECT",
            "AVX512_FP16",
            "AVX512_BF16",
            "AVX10",
        ],
    ),
    (1 << 9, &["PKU"]),
    (
        0b11 << 17,
        &[
            "AMX_TILE",
            "AMX_BF16",
            "AMX_INT8",
            "AMX_FP16",
            "AMX_COMPLEX",
        ],
    ),
    (1 << 19, &["APX_F"]),
];

/// Brings the set into line.
pub(super) fn settle(cpuid: &mut Cpuid) {
    let user = managed(cpuid);
    for (states, features) in NEEDS {
        if user & states != states {
            for feature in features.iter().map(|name| named(name)) {
                cpuid.clear(feature);
            }
        }
    }
    describe(cpuid, user);
    if !cpuid.has(TOPOLOGY_EXTENSIONS) {
        cpuid.remove_leaf(0x8000_001D);
    }
}

fn named(name: &str) -> Feature {
    names::find(name).expect("the tables above hold names of features")
}

/// The states that XCR0 can manage, of those that leaf 0xD lists: none without
/// XSAVE, none without its place, and none without its companions.
fn managed(cpuid: &Cpuid) -> u64 {
    if !cpuid.has(named("XSAVE")) {
        return 0;
    }
    let listed = cpuid.get(XSAVE_LEAF, 0);
    let mut states = u64::from(listed.edx) << 32 | u64::from(listed.eax);
    for bit in 2..=62 {
        if cpuid.get(XSAVE_LEAF, bit) == Registers::ZERO {
            states &= !(1 << bit);
        }
    }
    for group in TOGETHER {
        if states & group != group {
            states &= !group;
        }
    }
    // The upper halves of ZMM build on those of YMM.
    if states & 0b100 == 0 {
        states &= !(0b111 << 5);
    }
    states
}

/// Writes leaf 0xD for the states of XCR0 in `user`.
fn describe(cpuid: &mut Cpuid, user: u64) {
    if user == 0 {
        cpuid.remove_leaf(XSAVE_LEAF);
        return;
    }
    let area = (2..=62)
        .filter(|bit| user & 1 << bit != 0)
        .map(|bit| cpuid.get(XSAVE_LEAF, bit))
        // The size is in EAX, the offset in EBX.
        .map(|state| state.eax.saturating_add(state.ebx))
        .fold(LEGACY_AREA, u32::max);
    let half = |bits: u64| u32::try_from(bits & 0xFFFF_FFFF).expect("it is masked");
    let states = Registers {
        eax: half(user),
        // Of the states in use, which KVM keeps up to date.
        ebx: area,
        ecx: area,
        edx: half(user >> 32),
    };
    cpuid.insert(XSAVE_LEAF, Some(0), states);
    let mut kept = user | LEGACY;
    if let Some(more) = cpuid.get_mut(XSAVE_LEAF, Some(1)) {
        // The size of the compacted form, which KVM keeps up to date as well.
        more.ebx = 0;
        // The states that IA32_XSS can manage.
        kept |= u64::from(more.edx) << 32 | u64::from(more.ecx);
    }
    for (subleaf, state) in cpuid.leaf_mut(XSAVE_LEAF) {
        if subleaf.is_some_and(|bit| bit >= 2 && (bit > 62 || kept & 1 << bit == 0)) {
            *state = Registers::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::dumps;

    fn without(name: &str, hidden: &[&str]) -> Cpuid {
        let mut cpuid = dumps::named(name).facts.supported;
        for feature in hidden {
            cpuid.clear(named(feature));
        }
        settle(&mut cpuid);
        cpuid
    }

    /// Leaf 0xD: the states, the area's size, and the states with a place.
    fn seen(cpuid: &Cpuid) -> (u32, u32, Vec<u32>) {
        let all = cpuid.get(0xD, 0);
        let placed = (2..=62).filter(|bit| cpuid.get(0xD, *bit) != Registers::ZERO);
        (all.eax, all.ecx, placed.collect())
    }

    #[test]
    fn what_is_in_line_stays() {
        // One lists the states without XSAVE.
        let sound = |dump: &dumps::Dump| dump.supported().has(named("XSAVE"));
        for dump in dumps::all().into_iter().filter(sound) {
            let cpuid = without(&dump.name, &[]);
            let supported = dump.supported();
            assert_eq!(seen(&cpuid), seen(supported), "{}", dump.name);
            for leaf in [0x1, 0x7, 0x8000_0001] {
                assert_eq!(cpuid.get(leaf, 0), supported.get(leaf, 0), "{}", dump.name);
            }
            let mut again = cpuid.clone();
            settle(&mut again);
            assert_eq!(again, cpuid, "{}", dump.name);
        }
    }

    #[test]
    fn a_feature_goes_with_its_state() {
        for (name, hidden, gone, left) in [
            (
                "intel-skylake-sp",
                &["opmask"][..],
                &["AVX512F", "AVX512VL", "ZMM_Hi256"][..],
                &["AVX2", "AVX-state", "PKU"][..],
            ),
            (
                "intel-skylake-sp",
                &["AVX-state"],
                &["AVX", "FMA", "AVX512F", "opmask"],
                &["XSAVE", "SSE-state", "PKU"],
            ),
            ("amd-milan", &["PKRU"], &["PKU"], &["AVX2", "VAES"]),
            (
                "amd-milan",
                &["XSAVE"],
                &["AVX", "AVX2", "PKU", "x87-state", "XSAVEOPT"],
                &["BMI2", "SSE4.2"],
            ),
        ] {
            let cpuid = without(name, hidden);
            for feature in gone {
                assert!(!cpuid.has(named(feature)), "{name} {hidden:?}: {feature}");
            }
            for feature in left {
                assert!(cpuid.has(named(feature)), "{name} {hidden:?}: {feature}");
            }
        }
    }

    #[test]
    fn the_areas_size_follows() {
        assert_eq!(seen(&without("intel-skylake-sp", &["PKRU"])).1, 0xA80);
        assert_eq!(
            seen(&without(
                "intel-skylake-sp",
                &["PKRU", "opmask", "MPX", "BNDREGS"]
            )),
            (0b111, 0x340, vec![2])
        );
        assert_eq!(
            seen(&without(
                "intel-skylake-sp",
                &["PKRU", "BNDREGS", "AVX-state"]
            )),
            (0b11, 576, vec![])
        );
    }

    #[test]
    fn a_state_without_its_place_is_none() {
        let mut cpuid = dumps::named("amd-milan").facts.supported;
        *cpuid.get_mut(0xD, Some(9)).unwrap() = Registers::ZERO;
        settle(&mut cpuid);
        assert_eq!(seen(&cpuid), (0b111, 0x340, vec![2]));
        assert!(!cpuid.has(named("PKU")));
    }
}
