//! The enlightenments, by the names that QEMU's users know them by.

use super::{FEATURES_LEAF, NESTED_LEAF, RECOMMENDATIONS_LEAF};
use crate::cpuid::{Cpuid, Register};

use Register::{Eax, Ebx, Edx};

/// Something that Hyper-V does for its guests, or recommends to them.
#[derive(Debug, PartialEq, Eq)]
pub struct Enlightenment {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Those without which it can't be used, by name.
    pub needs: &'static [&'static str],
    /// Whether it is for guests that have guests of their own, by VMX.
    pub nested: bool,
    /// The bits that show it (Hyper-V TLFS, "Hypervisor CPUID Leaf Range").
    pub(super) bits: &'static [(u32, Register, u32)],
}

const fn plain(
    name: &'static str,
    about: &'static str,
    needs: &'static [&'static str],
    bits: &'static [(u32, Register, u32)],
) -> Enlightenment {
    Enlightenment {
        name,
        about,
        needs,
        nested: false,
        bits,
    }
}

const fn nested(
    name: &'static str,
    about: &'static str,
    needs: &'static [&'static str],
    bits: &'static [(u32, Register, u32)],
) -> Enlightenment {
    Enlightenment {
        nested: true,
        ..plain(name, about, needs, bits)
    }
}

/// How often a guest tries to get a lock before it tells the hypervisor, as on
/// Hyper-V.
const SPINLOCK_TRIES: u32 = 0xFFF;
/// Version 1 of enlightened VMCSs, as the lowest and the highest.
const EVMCS_VERSIONS: u32 = 0x0101;

/// All of them. Each stands behind those that it needs.
#[rustfmt::skip]
pub const ENLIGHTENMENTS: [Enlightenment; 21] = [
    plain("relaxed", "timers may be late: no watchdogs for them", &[],
        &[(RECOMMENDATIONS_LEAF, Eax, 1 << 5)]),
    plain("vapic", "the local APIC by MSRs, and a page for what is asked of it most", &[],
        &[(FEATURES_LEAF, Eax, 1 << 4), (RECOMMENDATIONS_LEAF, Eax, 1 << 3)]),
    plain("spinlocks", "the hypervisor is told of a lock that is tried for in vain", &[],
        &[(RECOMMENDATIONS_LEAF, Ebx, SPINLOCK_TRIES)]),
    plain("vpindex", "a vCPU reads its number; Linux takes no Hyper-V without", &[],
        &[(FEATURES_LEAF, Eax, 1 << 6)]),
    plain("runtime", "a vCPU reads for how long it has run", &[],
        &[(FEATURES_LEAF, Eax, 1 << 0)]),
    plain("crash", "the guest tells of its crash", &[],
        &[(FEATURES_LEAF, Edx, 1 << 10)]),
    plain("time", "a counter and a page by which the TSC gives the time", &[],
        &[(FEATURES_LEAF, Eax, 1 << 1 | 1 << 9)]),
    plain("reset", "the guest resets its machine by an MSR", &[],
        &[(FEATURES_LEAF, Eax, 1 << 7)]),
    plain("synic", "a synthetic interrupt controller", &["vpindex"],
        &[(FEATURES_LEAF, Eax, 1 << 2)]),
    plain("stimer", "timers that speak by the synthetic interrupt controller", &["synic", "time"],
        &[(FEATURES_LEAF, Eax, 1 << 3)]),
    plain("stimer-direct", "timers that interrupt by themselves", &["stimer"],
        &[(FEATURES_LEAF, Edx, 1 << 19)]),
    plain("frequencies", "the frequencies of the TSC and of the local APIC", &[],
        &[(FEATURES_LEAF, Eax, 1 << 11), (FEATURES_LEAF, Edx, 1 << 8)]),
    plain("reenlightenment", "the guest is told when the TSC's frequency changes", &[],
        &[(FEATURES_LEAF, Eax, 1 << 13)]),
    plain("tlbflush", "other vCPUs' TLBs are flushed by a hypercall", &["vpindex"],
        &[(RECOMMENDATIONS_LEAF, Eax, 1 << 2 | 1 << 11)]),
    plain("tlbflush-ext", "and only the pages that are named", &["tlbflush"],
        &[(FEATURES_LEAF, Edx, 1 << 14)]),
    plain("ipi", "interrupts to many vCPUs by one hypercall", &["vpindex"],
        &[(RECOMMENDATIONS_LEAF, Eax, 1 << 10 | 1 << 11)]),
    plain("avic", "no automatic end of interrupts, which stands in the way of APICv and AVIC", &[],
        &[(RECOMMENDATIONS_LEAF, Eax, 1 << 9)]),
    plain("xmm-input", "hypercalls take arguments in XMM registers", &[],
        &[(FEATURES_LEAF, Edx, 1 << 4)]),
    nested("evmcs", "enlightened VMCSs: the guest's hypervisor writes them as memory", &["vapic"],
        &[(RECOMMENDATIONS_LEAF, Eax, 1 << 14), (NESTED_LEAF, Eax, EVMCS_VERSIONS)]),
    nested("emsr-bitmap", "the guest's hypervisor tells when it has changed an MSR bitmap", &["evmcs"],
        &[(NESTED_LEAF, Eax, 1 << 19)]),
    nested("tlbflush-direct", "flushes that the guest's guests ask for go past it", &["evmcs"],
        &[(NESTED_LEAF, Eax, 1 << 17)]),
];

impl Enlightenment {
    /// The one of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ENLIGHTENMENTS.iter().find(|other| other.name == name)
    }

    /// Whether KVM lists it.
    pub(super) fn is_in(&self, supported: &Cpuid) -> bool {
        self.bits.iter().all(|(leaf, register, bits)| {
            let listed = supported.get(*leaf, 0).get(*register);
            match (*leaf, *register) {
                // A number of tries: any hypervisor can be told or not.
                (RECOMMENDATIONS_LEAF, Ebx) => listed != 0,
                (NESTED_LEAF, Eax) if *bits == EVMCS_VERSIONS => listed & 0xFF != 0,
                _ => listed & bits == *bits,
            }
        })
    }
}
