//! One socket, one thread a core, and APIC ids that are the vCPUs' indices.

use super::{Cpuid, CpuidContext, Error, Registers, Vendor, feature::*};

/// Most vCPUs that the leaves can describe: leaf 4 counts cores in six bits.
pub const MAX_VCPUS: u32 = 64;

/// Leaf 0xB, level types (SDM vol. 2A, CPUID).
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

pub(super) fn apply(cpuid: &mut Cpuid, context: &CpuidContext) -> Result<(), Error> {
    let CpuidContext { vcpu, vcpus, .. } = *context;
    if vcpu >= vcpus || vcpus > MAX_VCPUS {
        return Err(Error::VcpuOutOfRange { vcpu, vcpus });
    }
    package(cpuid, vcpu, vcpus);
    caches(cpuid, vcpus);
    extended_topology(cpuid, vcpu, vcpus);
    amd(cpuid, vcpu, vcpus);
    Ok(())
}

/// How many low bits of an APIC id tell the cores of the package apart.
fn id_bits(vcpus: u32) -> u32 {
    vcpus.next_power_of_two().trailing_zeros()
}

/// Leaf 1: the id, how many ids the package has, and whether it is more than
/// one.
fn package(cpuid: &mut Cpuid, vcpu: u32, vcpus: u32) {
    for (_, leaf) in cpuid.leaf_mut(0x1) {
        leaf.ebx = vcpu << 24 | vcpus << 16 | leaf.ebx & 0xFFFF;
    }
    cpuid.assign(HTT, vcpus > 1);
}

/// Leaf 4 on Intel, 0x8000001D on AMD: the last level is shared by all, those
/// above belong to one core. A host's own counts would speak of its threads.
fn caches(cpuid: &mut Cpuid, vcpus: u32) {
    let ids = vcpus.next_power_of_two() - 1;
    for (_, cache) in cpuid
        .leaf_mut(0x4)
        .filter(|(_, cache)| cache.eax & 0x1F != 0)
    {
        cache.eax = ids << 26 | sharing(cache.eax, ids) << 14 | cache.eax & 0x3FFF;
    }
    for (_, cache) in cpuid
        .leaf_mut(0x8000_001D)
        .filter(|(_, cache)| cache.eax & 0x1F != 0)
    {
        cache.eax = sharing(cache.eax, vcpus - 1) << 14 | cache.eax & 0x3FFF;
    }
}

/// The sharers less one of a cache whose EAX this is; its level is in bits 7
/// to 5.
fn sharing(eax: u32, all: u32) -> u32 {
    if eax >> 5 & 0x7 >= 3 { all } else { 0 }
}

/// Leaf 0xB on either vendor. The leaves that extend it, 0x1F and 0x80000026,
/// add dies and clusters, of which there is one: without them a guest reads
/// 0xB, with fewer exits.
fn extended_topology(cpuid: &mut Cpuid, vcpu: u32, vcpus: u32) {
    for leaf in [0xB, 0x1F, 0x8000_0026] {
        cpuid.remove_leaf(leaf);
    }
    if cpuid.get(0, 0).eax < 0xB {
        return;
    }
    let smt = Registers {
        eax: 0,
        ebx: 1,
        ecx: LEVEL_SMT << 8,
        edx: vcpu,
    };
    let core = Registers {
        eax: id_bits(vcpus),
        ebx: vcpus,
        ecx: LEVEL_CORE << 8 | 1,
        edx: vcpu,
    };
    cpuid.insert(0xB, Some(0), smt);
    cpuid.insert(0xB, Some(1), core);
}

/// AMD's own (APM vol. 3, appendix E): the core count in 0x80000008, and the
/// ids in 0x8000001E where the topology extensions exist.
fn amd(cpuid: &mut Cpuid, vcpu: u32, vcpus: u32) {
    cpuid.remove_leaf(0x8000_001E);
    if Vendor::of(cpuid) != Vendor::Amd {
        return;
    }
    cpuid.assign(CMP_LEGACY, vcpus > 1);
    for (_, leaf) in cpuid.leaf_mut(0x8000_0008) {
        leaf.ecx = id_bits(vcpus) << 12 | (vcpus - 1);
    }
    if cpuid.has(TOPOLOGY_EXTENSIONS) {
        // EAX: the id; EBX: the core, with one thread; ECX: node 0 of one.
        let ids = Registers {
            eax: vcpu,
            ebx: vcpu,
            ecx: 0,
            edx: 0,
        };
        cpuid.insert(0x8000_001E, None, ids);
    }
}

#[cfg(test)]
mod tests {
    use super::super::dumps;
    use super::*;
    use crate::nested::Exposure;

    fn with_topology(name: &str, vcpu: u32, vcpus: u32) -> Cpuid {
        let mut cpuid = dumps::named(name).facts.supported;
        let exposure = Exposure::Off;
        apply(
            &mut cpuid,
            &CpuidContext {
                vcpu,
                vcpus,
                exposure,
                tsc_deadline: true,
            },
        )
        .unwrap();
        cpuid
    }

    fn answer(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Registers {
        Registers { eax, ebx, ecx, edx }
    }

    #[test]
    fn the_package_counts_its_vcpus() {
        // Leaf 1 EBX, and HTT.
        let cases = [
            ("intel-skylake-sp", 0, 1, 0x0001_0800, false),
            ("intel-skylake-sp", 1, 2, 0x0102_0800, true),
            ("intel-skylake-sp", 63, 64, 0x3F40_0800, true),
            ("amd-milan", 0, 1, 0x0001_0800, false),
            ("amd-milan", 2, 3, 0x0203_0800, true),
        ];
        for (name, vcpu, vcpus, ebx, htt) in cases {
            let cpuid = with_topology(name, vcpu, vcpus);
            assert_eq!(cpuid.get(1, 0).ebx, ebx, "{name} {vcpu}/{vcpus}");
            assert_eq!(cpuid.has(HTT), htt, "{name} {vcpu}/{vcpus}");
        }
    }

    #[test]
    fn the_last_cache_is_shared_by_all() {
        // Leaf 4 EAX from the first level's data to the third level.
        for (vcpus, expected) in [
            (1, [0x0000_0121, 0x0000_0122, 0x0000_0143, 0x0000_0163]),
            (3, [0x0C00_0121, 0x0C00_0122, 0x0C00_0143, 0x0C00_C163]),
            (64, [0xFC00_0121, 0xFC00_0122, 0xFC00_0143, 0xFC0F_C163]),
        ] {
            let cpuid = with_topology("intel-skylake-sp", 0, vcpus);
            let seen = [0, 1, 2, 3].map(|subleaf| cpuid.get(0x4, subleaf).eax);
            assert_eq!(seen, expected, "{vcpus} vCPUs");
        }
        for (vcpus, expected) in [
            (1, [0x0121, 0x0122, 0x0143, 0x0163]),
            (3, [0x0121, 0x0122, 0x0143, 0x8163]),
            (64, [0x0121, 0x0122, 0x0143, 0x000F_C163]),
        ] {
            let cpuid = with_topology("amd-milan", 0, vcpus);
            let seen = [0, 1, 2, 3].map(|subleaf| cpuid.get(0x8000_001D, subleaf).eax);
            assert_eq!(
                seen.map(|eax| eax & !0x3E00),
                expected.map(|eax| eax & !0x3E00)
            );
        }
    }

    #[test]
    fn extended_topology_is_one_thread_a_core() {
        for name in ["intel-skylake-sp", "amd-milan", "amd-qemu-tcg"] {
            for (vcpu, vcpus, bits) in [(0, 1, 0), (1, 2, 1), (2, 3, 2), (63, 64, 6)] {
                let cpuid = with_topology(name, vcpu, vcpus);
                assert_eq!(cpuid.get(0xB, 0), answer(0, 1, 0x100, vcpu), "{name}");
                assert_eq!(
                    cpuid.get(0xB, 1),
                    answer(bits, vcpus, 0x201, vcpu),
                    "{name}"
                );
                assert_eq!(cpuid.get(0xB, 2), Registers::ZERO, "{name}");
            }
        }
    }

    #[test]
    fn an_old_processor_gets_no_extended_topology() {
        let mut cpuid = dumps::named("intel-skylake-sp").facts.supported;
        cpuid.get_mut(0, None).unwrap().eax = 0xA;
        extended_topology(&mut cpuid, 0, 2);
        assert!(!cpuid.has_leaf(0xB));
    }

    #[test]
    fn amd_leaves_name_the_core() {
        // Leaf 0x80000008 ECX, CmpLegacy, and leaf 0x8000001E.
        let cases = [
            ("amd-epyc-pvm", 0, 1, 0x0000, false, answer(0, 0, 0, 0)),
            ("amd-epyc-pvm", 1, 2, 0x1001, true, answer(1, 1, 0, 0)),
            ("amd-epyc-pvm", 2, 3, 0x2002, true, answer(2, 2, 0, 0)),
            ("amd-epyc-pvm", 63, 64, 0x603F, true, answer(63, 63, 0, 0)),
            // No topology extensions.
            ("amd-qemu-tcg", 1, 2, 0x1001, true, Registers::ZERO),
        ];
        for (name, vcpu, vcpus, count, legacy, ids) in cases {
            let cpuid = with_topology(name, vcpu, vcpus);
            assert_eq!(
                cpuid.get(0x8000_0008, 0).ecx,
                count,
                "{name} {vcpu}/{vcpus}"
            );
            assert_eq!(cpuid.has(CMP_LEGACY), legacy, "{name} {vcpu}/{vcpus}");
            assert_eq!(cpuid.get(0x8000_001E, 0), ids, "{name} {vcpu}/{vcpus}");
        }
    }

    #[test]
    fn intel_has_none_of_amds_leaves() {
        let supported = dumps::named("intel-skylake-sp").facts.supported;
        let cpuid = with_topology("intel-skylake-sp", 1, 2);
        for leaf in [0x8000_0001, 0x8000_0008, 0x8000_001D, 0x8000_001E] {
            assert_eq!(cpuid.get(leaf, 0), supported.get(leaf, 0), "{leaf:#x}");
        }
    }

    #[test]
    fn vcpus_out_of_range_are_refused() {
        for (vcpu, vcpus) in [(0, 0), (1, 1), (64, 64), (0, 65), (0, u32::MAX)] {
            let context = CpuidContext {
                vcpu,
                vcpus,
                exposure: Exposure::Off,
                tsc_deadline: true,
            };
            let mut cpuid = dumps::named("amd-milan").facts.supported;
            let error = Error::VcpuOutOfRange { vcpu, vcpus };
            assert_eq!(apply(&mut cpuid, &context), Err(error));
        }
    }
}
