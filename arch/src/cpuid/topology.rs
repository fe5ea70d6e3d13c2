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
