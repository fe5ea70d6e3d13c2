//! What the registers of each leaf are, and the feature MSRs: what two hosts
//! have in common, and what a guest may see that its host hasn't.

use crate::cpuid::{Key, Register, Vendor, filled_in};

/// What a register of CPUID says, and so how it is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bits that each say that something is there: a guest sees none that its
    /// host lacks.
    Features,
    /// The highest leaf or subleaf, a revision, the number of ASIDs that KVM
    /// emulates. Hosts have the least in common, and a guest may see any.
    Level,
    /// A count in each byte, of which a guest may see no more than its host has.
    Counts,
    /// What the processor is called and how it is made: a guest may see any, and
    /// hosts have all of the oldest one's in common.
    Identity,
    /// What has a meaning only as a whole: it is in common where it is the same.
    Whole,
    /// Place and size of a state that XSAVE manages: the processor's own.
    State,
    /// Follows from other registers.
    Derived,
    /// The vendor's or the hypervisor's name: the host's, always.
    Name,
}

use Kind::{Counts, Derived, Features, Identity, Level, Name, State, Whole};

/// What the four registers of an answer are; none for a leaf that a template
/// can't decide about.
pub(super) fn kinds((leaf, subleaf): Key) -> Option<[Kind; 4]> {
    Some(match (leaf, subleaf) {
        (0x0 | 0x4000_0000 | 0x8000_0000, None) => [Level, Name, Name, Name],
        (0x1, None) => [Identity, Identity, Features, Features],
        // Caches and TLBs.
        (0x2, None) | (0x4, Some(_)) => [Identity; 4],
        (0x6, None) => [Features, Whole, Whole, Whole],
        (0x7, Some(0)) => [Level, Features, Features, Features],
        (0x7, Some(1 | 2)) => [Features; 4],
        (0xD, Some(0)) => [Features, Derived, Derived, Features],
        (0xD, Some(1)) => [Features, Derived, Features, Features],
        (0xD, Some(2..=62)) => [State; 4],
        // Processor trace, tiles, vector extensions by version.
        (0x14 | 0x1D | 0x1E | 0x24, Some(_)) => [Whole; 4],
        (0x4000_0001, None) => [Features; 4],
        (0x8000_0001, None) => [Identity, Identity, Features, Features],
        // The brand string; caches and TLBs; their paths' widths.
        (0x8000_0002..=0x8000_0006 | 0x8000_0019 | 0x8000_001A, None) => [Identity; 4],
        (0x8000_001D, Some(_)) => [Identity; 4],
        (0x8000_0007, None) => [Whole, Whole, Whole, Features],
        (0x8000_0008, None) => [Counts, Features, Identity, Whole],
        (0x8000_000A, None) => [Level, Level, Features, Features],
        (0x8000_0021, None) => [Features, Whole, Whole, Whole],
        _ => return None,
    })
}

/// Why a template can't decide about a leaf that is not in the catalogue.
pub(super) fn why_not((leaf, subleaf): Key) -> &'static str {
    match leaf {
        0xB | 0x1F | 0x8000_001E | 0x8000_0026 => {
            "the leaf follows from the machine's vCPUs; leave it out"
        }
        _ if subleaf.is_none() && kinds((leaf, Some(0))).is_some() => {
            "the leaf has subleaves; write the one that is meant, such as .0"
        }
        _ if subleaf.is_some() && kinds((leaf, None)).is_some() => {
            "the leaf has no subleaves; leave the part after the dot out"
        }
        0x7 | 0xD => "the leaf has no such subleaf; leave it out",
        _ => "no leaf that KVM shows to guests is known by this number; leave it out",
    }
}

/// Why a template can't decide about a register, if it can't.
pub(super) fn why_not_register(key: Key, register: Register) -> Option<&'static str> {
    let registers = Register::ALL.into_iter().zip(kinds(key)?);
    let (_, kind) = registers
        .into_iter()
        .find(|(other, _)| *other == register)?;
    match kind {
        Name => Some("it is part of a name, which is always the host's"),
        Derived => Some("it is a size that follows from the states"),
        Features | Level | Counts | Identity | Whole | State => None,
    }
}

/// Bits that say that something is *not* there: hosts have those of any in
/// common, and a guest may see them on a host that says nothing of the kind.
pub(super) fn limits(key: Key, register: Register) -> u32 {
    match (key, register) {
        // FDP_EXCPTN_ONLY, ZERO_FCS_FDS.
        ((0x7, Some(0)), Register::Ebx) => 1 << 6 | 1 << 13,
        _ => 0,
    }
}

/// Bits that the machine sets itself, whatever host and template say.
pub(super) fn of_the_machine(key: Key, register: Register, vendor: Vendor) -> u32 {
    filled_in(key.0, register, vendor == Vendor::Amd)
}

/// Without these no kernel for 64 bits runs.
pub(super) const NEEDED: [(Key, Register, u32); 2] = [
    // FPU, PSE, TSC, MSR, PAE, CX8, APIC, PGE, CMOV, FXSR, SSE, SSE2.
    ((0x1, None), Register::Edx, 0x0700_A379),
    // SYSCALL, NX, LM.
    ((0x8000_0001, None), Register::Edx, 0x2010_0800),
];
