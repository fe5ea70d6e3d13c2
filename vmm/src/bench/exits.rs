//! Exits by kind, as far as KVM's counters name them.

use serde::Serialize;

use crate::bench::results::Measured;

/// Why a guest was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An access to a port.
    Port,
    /// An access to a memory-mapped register that the monitor answers.
    Mmio,
    /// A page that the level's tables don't map.
    PageFault,
    /// A hypercall.
    Hypercall,
    /// The guest entered a guest of its own.
    NestedEntry,
    /// An interrupt for the host, or a guest that can take one now.
    Interrupt,
    /// The guest has nothing to do.
    Halt,
    /// What no counter names: CPUID, MSRs, instructions of VMX or SVM, and all that a
    /// guest's own guest does.
    Other,
}

impl Kind {
    /// All kinds, in the order in which they are stacked.
    pub const ALL: [Self; 8] = [
        Self::Port,
        Self::Mmio,
        Self::PageFault,
        Self::Hypercall,
        Self::NestedEntry,
        Self::Interrupt,
        Self::Halt,
        Self::Other,
    ];

    /// What it is called in a table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Mmio => "MMIO",
            Self::PageFault => "page fault",
            Self::Hypercall => "hypercall",
            Self::NestedEntry => "nested entry",
            Self::Interrupt => "interrupt",
            Self::Halt => "halt",
            Self::Other => "other",
        }
    }

    /// KVM's counters of it (struct kvm_vcpu_stat, arch/x86/include/asm/kvm_host.h).
    fn counters(self) -> &'static [&'static str] {
        match self {
            Self::Port => &["io_exits"],
            Self::Mmio => &["mmio_exits"],
            Self::PageFault => &["pf_taken"],
            Self::Hypercall => &["hypercalls"],
            Self::NestedEntry => &["nested_run"],
            Self::Interrupt => &["irq_exits", "irq_window_exits", "nmi_window_exits"],
            Self::Halt => &["halt_exits"],
            Self::Other => &[],
        }
    }
}

/// One kind's share of the exits for one operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Which kind.
    pub kind: Kind,
    /// Exits for one operation.
    pub exits: f64,
}

/// The exits of `machine`'s level for one operation, all kinds together.
pub fn total(measured: &Measured, machine: u8) -> Option<f64> {
    measured.per_operation(machine, "exits")
}

/// The exits of `machine`'s level for one operation, by kind; they add up to the
/// [`total`].
pub fn by_kind(measured: &Measured, machine: u8) -> Option<Vec<Share>> {
    // In whole exits: the rest of fractions would be a little more than nothing.
    let mut rest = measured.counted(machine, "exits")?;
    let share = |kind: Kind| {
        let exits = if kind == Kind::Other {
            rest
        } else {
            let named = kind.counters().iter();
            let sum = named
                .filter_map(|name| measured.counted(machine, name))
                .fold(0, u64::saturating_add);
            // One exit can be counted as two kinds.
            sum.min(rest)
        };
        rest -= exits;
        let exits = measured.each(exits)?;
        Some(Share { kind, exits })
    };
    Kind::ALL.into_iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::bench::results::Clock;

    fn shares(counts: &[(&str, u64)]) -> Option<Vec<(Kind, f64)>> {
        let counts = counts
            .iter()
            .map(|&(name, n)| (name.to_owned(), n))
            .collect();
        let measured = Measured {
            clock: Clock::Monotonic,
            timer_cost: 0,
            work: 1,
            samples: Vec::new(),
            operations: 10,
            counts: BTreeMap::from([(1, counts)]),
            baseline: BTreeMap::new(),
        };
        let shares = by_kind(&measured, 1)?;
        let sum: f64 = shares.iter().map(|share| share.exits).sum();
        assert!((sum - total(&measured, 1)?).abs() < 1e-12);
        let some = shares.into_iter().filter(|share| share.exits > 0.0);
        Some(some.map(|share| (share.kind, share.exits)).collect())
    }

    #[test]
    fn kinds_add_up_to_all_exits() {
        assert_eq!(
            shares(&[
                ("exits", 100),
                ("io_exits", 10),
                ("irq_exits", 3),
                ("irq_window_exits", 2)
            ]),
            Some(vec![
                (Kind::Port, 1.0),
                (Kind::Interrupt, 0.5),
                (Kind::Other, 8.5)
            ])
        );
        // Counted as two kinds: the first has it.
        assert_eq!(
            shares(&[("exits", 10), ("mmio_exits", 10), ("pf_taken", 10)]),
            Some(vec![(Kind::Mmio, 1.0)])
        );
        assert_eq!(shares(&[("exits", 0)]), Some(vec![]));
        // 1.1 - 1.0 - 0.1 isn't nothing.
        assert_eq!(
            shares(&[("exits", 11), ("hypercalls", 10), ("irq_exits", 1)]),
            Some(vec![(Kind::Hypercall, 1.0), (Kind::Interrupt, 0.1)])
        );
        // A machine that was counted, and not left.
        assert_eq!(shares(&[]), Some(vec![]));
    }
}
