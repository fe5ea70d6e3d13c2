//! What an exit of one level costs the levels below it: the counts of every
//! level's machine, taken at the same moments and lined up.
//!
//! Pure: counts go in, phases with their costs come out. docs/sight.md explains
//! what the figures mean and why they must agree.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::channel::{Edge, Mark};
use crate::stats::{Counts, EXIT, NESTED_EXIT, REFLECTED, sum_of};

/// The most phases kept of a nest.
const MAX_PHASES: usize = 1024;

/// A step of a level's order, with what was counted of every machine below it
/// meanwhile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// The level whose step it is.
    pub level: u8,
    /// What the step is called: the workload's name, or `L2` where the level boots
    /// that.
    pub name: String,
    /// What each level's machine counted, those counts that aren't zero.
    pub counts: BTreeMap<u8, Counts>,
    /// What the exits of each level from L2 up cost.
    pub costs: Vec<Cost>,
}

/// What the exits of one level's machine cost the levels below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The level whose machine's exits these are, L2 or above.
    pub level: u8,
    /// Its exits, as the level below took them.
    pub exits: u64,
    /// Those of them that went on to that level's user space.
    pub user_exits: u64,
    /// The entries that led to them, as the level two below carried them out
    /// (`nested_run`). Each entry ends with one exit that is reflected, so this must
    /// equal `exits`.
    pub entries: u64,
    /// By how much it doesn't, in percent of `exits`.
    pub difference_percent: f64,
    /// What it cost each level from the one two below down to L0.
    pub below: Vec<Share>,
    /// Where the level two below was traced: what its exits were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// What the exits of a level's machine cost one of the levels below.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The level that paid.
    pub level: u8,
    /// The exits that it took of its own machine meanwhile, all of them.
    pub exits: u64,
    /// How many that is for one exit of the level that they were for.
    pub per_exit: f64,
}

/// The exits of a machine, by whose they were and who handled them; from KVM's
/// tracepoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// While the machine itself ran: VM entries and all else that its hypervisor
    /// does.
    pub own: u64,
    /// While a guest of it ran, and the machine never saw them.
    pub handled: u64,
    /// Those that were reflected to the machine.
    pub reflected: u64,
}

impl Split {
    /// The split of the exits that `counts` has, if they were traced.
    #[must_use]
    pub fn of(counts: &Counts) -> Option<Self> {
        let exits = counts.get("exits").copied()?;
        let nested = sum_of(counts, NESTED_EXIT)?;
        let reflected = sum_of(counts, REFLECTED).unwrap_or(0);
        Some(Self {
            own: exits.saturating_sub(nested),
            handled: nested.saturating_sub(reflected),
            reflected,
        })
    }
}

/// The exits of a machine for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason<'a> {
    /// The reason, by the name in the processor's manual.
    pub name: &'a str,
    /// Whose they were.
    pub split: Split,
}

impl Reason<'_> {
    /// The reason and its three counts, as cells of a table.
    #[must_use]
    pub fn cells(&self) -> Vec<String> {
        let Split {
            own,
            handled,
            reflected,
        } = self.split;
        let counts = [own, handled, reflected].map(|count| count.to_string());
        [&[self.name.to_owned()], &counts[..]].concat()
    }
}

/// The traced exits that `counts` has by reason, the most frequent first.
#[must_use]
pub fn reasons(counts: &Counts) -> Vec<Reason<'_>> {
    let names: BTreeSet<&str> = [EXIT, REFLECTED]
        .into_iter()
        .flat_map(|prefix| {
            counts
                .keys()
                .filter_map(move |name| name.strip_prefix(prefix))
        })
        .collect();
    let mut reasons: Vec<Reason<'_>> = names
        .into_iter()
        .map(|name| {
            let of = |prefix| counts.get(&format!("{prefix}{name}")).copied();
            let (exits, nested) = (of(EXIT).unwrap_or(0), of(NESTED_EXIT).unwrap_or(0));
            let reflected = of(REFLECTED).unwrap_or(0);
            let split = Split {
                own: exits.saturating_sub(nested),
                handled: nested.saturating_sub(reflected),
                reflected,
            };
            Reason { name, split }
        })
        .collect();
    reasons
        .sort_by_key(|Reason { split, .. }| Reverse(split.own + split.handled + split.reflected));
    reasons
}

/// What the exits of each level from L2 up cost, by the counts of every level's
/// machine.
#[must_use]
pub fn costs(counts: &BTreeMap<u8, Counts>) -> Vec<Cost> {
    let pairs = counts.iter().skip(1);
    pairs
        .filter_map(|(level, own)| cost(*level, own, counts))
        .collect()
}

fn cost(level: u8, own: &Counts, counts: &BTreeMap<u8, Counts>) -> Option<Cost> {
    let of = |counts: &Counts, name| counts.get(name).copied().unwrap_or(0);
    let host = counts.get(&level.checked_sub(1)?)?;
    let (exits, entries) = (of(own, "exits"), of(host, "nested_run"));
    let shares = counts.range(..level).rev().map(|(machine, counts)| Share {
        // The machine of a level is the one below's to run.
        level: machine.saturating_sub(1),
        exits: of(counts, "exits"),
        per_exit: ratio(of(counts, "exits"), exits),
    });
    Some(Cost {
        level,
        exits,
        user_exits: of(own, "user_exits"),
        entries,
        difference_percent: 100.0 * ratio(entries.abs_diff(exits), exits),
        below: shares.collect(),
        split: Split::of(host),
    })
}

/// How many `part`s there are to one of `whole`; 0 where there is none.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    // Counts of exits are far below the 2^53 that a double holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let (part, whole) = (part as f64, whole as f64);
    part / whole
}

/// Puts phases together from counts as they arrive.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Phases {
    open: Vec<Begun>,
    done: Vec<Phase>,
}

/// A phase that hasn't ended, with what each level's machine had counted before.
#[derive(Debug, Clone, PartialEq)]
struct Begun {
    level: u8,
    name: String,
    before: BTreeMap<u8, Counts>,
    /// What each counted until the end.
    after: BTreeMap<u8, Counts>,
}

impl Phases {
    /// Takes in the counts of the machine of `level` as they were at `mark`.
    pub fn counted(&mut self, level: u8, mark: &Mark, counts: &Counts) {
        let is_it = |begun: &Begun| begun.level == mark.level && begun.name == mark.phase;
        match mark.edge {
            Edge::Begin => {
                // The machines of all levels count at one mark, the highest first.
                let fresh = |begun: &&mut Begun| is_it(begun) && !begun.before.contains_key(&level);
                if let Some(begun) = self.open.iter_mut().rev().find(fresh) {
                    begun.before.insert(level, counts.clone());
                } else if self.open.len() + self.done.len() < MAX_PHASES {
                    self.open.push(Begun {
                        level: mark.level,
                        name: mark.phase.clone(),
                        before: [(level, counts.clone())].into(),
                        after: BTreeMap::new(),
                    });
                }
            }
            Edge::End => {
                let Some(begun) = self.open.iter_mut().rev().find(|begun| is_it(begun)) else {
                    return;
                };
                begun.after.insert(level, counts.clone());
                // The lowest level's come last.
                if begun
                    .before
                    .keys()
                    .all(|level| begun.after.contains_key(level))
                {
                    self.close(mark);
                }
            }
        }
    }

    /// Takes in what the machine of `level` has counted in all. The level below
    /// boots it in a phase of its own, to which they belong.
    pub fn counted_in_all(&mut self, level: u8, counts: &Counts) {
        let boots = |begun: &&mut Begun| begun.level + 1 == level;
        if let Some(begun) = self.open.iter_mut().rev().find(boots) {
            begun.after.insert(level, counts.clone());
        }
    }

    fn close(&mut self, mark: &Mark) {
        let is_it = |begun: &Begun| begun.level == mark.level && begun.name == mark.phase;
        let Some(place) = self.open.iter().rposition(is_it) else {
            return;
        };
        let Begun {
            level,
            name,
            before,
            after,
        } = self.open.remove(place);
        let nothing = Counts::new();
        let counts = after
            .iter()
            .map(|(machine, after)| {
                (
                    *machine,
                    difference(before.get(machine).unwrap_or(&nothing), after),
                )
            })
            .collect();
        self.done.push(Phase {
            level,
            name,
            costs: costs(&counts),
            counts,
        });
    }

    /// Those that have ended, in the order of their ends.
    #[must_use]
    pub fn done(&self) -> &[Phase] {
        &self.done
    }
}

/// What was counted between two moments, those counts that grew.
#[must_use]
pub fn difference(before: &Counts, after: &Counts) -> Counts {
    let grown = after.iter().map(|(name, count)| {
        let earlier = before.get(name).copied().unwrap_or(0);
        (name.clone(), count.saturating_sub(earlier))
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        let pairs = pairs.iter();
        pairs
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    fn mark(level: u8, phase: &str, edge: Edge) -> Mark {
        Mark {
            level,
            phase: phase.into(),
            edge,
        }
    }

    #[test]
    fn an_exit_is_divided_among_the_levels_below() {
        let levels = BTreeMap::from([
            (1, counts(&[("exits", 16_000), ("nested_run", 990)])),
            (
                2,
                counts(&[("exits", 1000), ("user_exits", 40), ("nested_run", 98)]),
            ),
            (3, counts(&[("exits", 100)])),
        ]);
        let [l2, l3] = &costs(&levels)[..] else {
            panic!("L2 and L3 have costs")
        };
        assert_eq!(
            (l2.level, l2.exits, l2.user_exits, l2.entries),
            (2, 1000, 40, 990)
        );
        assert!((l2.difference_percent - 1.0).abs() < 1e-9);
        let share = |level, exits, per_exit| Share {
            level,
            exits,
            per_exit,
        };
        assert_eq!(l2.below, [share(0, 16_000, 16.0)]);
        assert_eq!(l3.below, [share(1, 1000, 10.0), share(0, 16_000, 160.0)]);
        assert_eq!((l3.entries, l3.split), (98, None));
    }

    #[test]
    fn a_level_without_exits_costs_nothing() {
        let levels = BTreeMap::from([(1, counts(&[("exits", 5)])), (2, Counts::new())]);
        let [l2] = &costs(&levels)[..] else { panic!() };
        assert_eq!((l2.below[0].per_exit, l2.difference_percent), (0.0, 0.0));
        assert!(costs(&BTreeMap::from([(1, counts(&[("exits", 5)]))])).is_empty());
    }

    #[test]
    fn traced_exits_are_split() {
        let traced = counts(&[
            ("exits", 100),
            ("nested_exit:CPUID", 30),
            ("nested_exit:INTR", 12),
            ("reflected:CPUID", 30),
        ]);
        let split = Split {
            own: 58,
            handled: 12,
            reflected: 30,
        };
        assert_eq!(Split::of(&traced), Some(split));
        assert_eq!(Split::of(&counts(&[("exits", 100)])), None);
    }

    #[test]
    fn reasons_are_split_each_the_most_frequent_first() {
        let traced = counts(&[
            ("exit:VMRUN", 33),
            ("exit:CPUID", 35),
            ("nested_exit:CPUID", 30),
            ("reflected:CPUID", 30),
            ("exit:NPF", 9),
            ("nested_exit:NPF", 9),
            ("reflected:INTR", 3),
        ]);
        let found: Vec<_> = reasons(&traced)
            .iter()
            .map(|reason| {
                (
                    reason.name,
                    reason.split.own,
                    reason.split.handled,
                    reason.split.reflected,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("CPUID", 5, 0, 30),
                ("VMRUN", 33, 0, 0),
                ("NPF", 0, 9, 0),
                ("INTR", 0, 0, 3),
            ]
        );
    }

    #[test]
    fn a_phase_has_what_was_counted_between_its_ends() {
        let mut phases = Phases::default();
        let exits = |count| counts(&[("exits", count), ("nested_run", 7)]);
        for (edge, l2, l1) in [(Edge::Begin, 10, 100), (Edge::End, 25, 400)] {
            phases.counted(2, &mark(2, "work", edge), &exits(l2));
            phases.counted(1, &mark(2, "work", edge), &exits(l1));
        }
        let [phase] = phases.done() else {
            panic!("{phases:?}")
        };
        assert_eq!((phase.level, phase.name.as_str()), (2, "work"));
        assert_eq!(phase.counts[&1], counts(&[("exits", 300)]));
        assert_eq!(phase.counts[&2], counts(&[("exits", 15)]));
        assert!((phase.costs[0].below[0].per_exit - 20.0).abs() < 1e-9);
    }

    #[test]
    fn the_whole_of_a_level_belongs_to_the_step_that_boots_it() {
        let mut phases = Phases::default();
        let exits = |count| counts(&[("exits", count)]);
        phases.counted(1, &mark(1, "L2", Edge::Begin), &exits(1000));
        // Within it, L2 has a phase of its own that never ends.
        phases.counted(2, &mark(2, "panic", Edge::Begin), &exits(3));
        phases.counted(1, &mark(2, "panic", Edge::Begin), &exits(1100));
        phases.counted_in_all(2, &exits(50));
        phases.counted(1, &mark(1, "L2", Edge::End), &exits(2000));
        let [phase] = phases.done() else {
            panic!("{phases:?}")
        };
        assert_eq!(
            phase.counts,
            BTreeMap::from([(1, exits(1000)), (2, exits(50))])
        );
    }

    #[test]
    fn phases_of_one_name_follow_each_other() {
        let mut phases = Phases::default();
        for (edge, count) in [
            (Edge::Begin, 1),
            (Edge::End, 2),
            (Edge::Begin, 5),
            (Edge::End, 9),
        ] {
            phases.counted(1, &mark(1, "same", edge), &counts(&[("exits", count)]));
        }
        let counted: Vec<_> = phases
            .done()
            .iter()
            .map(|p| p.counts[&1]["exits"])
            .collect();
        assert_eq!(counted, [1, 4]);
    }

    #[test]
    fn a_level_that_marks_without_end_takes_bounded_room() {
        let mut phases = Phases::default();
        for number in 0..2 * MAX_PHASES {
            phases.counted(
                1,
                &mark(1, &number.to_string(), Edge::Begin),
                &Counts::new(),
            );
        }
        assert_eq!(phases.open.len(), MAX_PHASES);
    }
}
