//! From the events of a nest to what each of its levels has measured.

use std::collections::BTreeMap;

use crate::bench::results::{Clock, Environment, Level, Measured, Outcome, Phase};
use crate::bench::row::Row;
use crate::bench::work::{BASELINE, BOOT, Turn};
use crate::channel::{Edge, Event, Mark, What};
use crate::nest::account::{Phases, difference};
use crate::stats::Counts;

/// The most samples kept of one row of one boot: a guest is believed no more.
const MAX_SAMPLES: usize = 1 << 20;

/// What each machine has counted.
type Machines = BTreeMap<u8, Counts>;

/// Gathers what the levels of one boot measure.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// What each level is to measure; nothing else is taken from it.
    expected: BTreeMap<u8, Vec<Turn>>,
    tell_samples: bool,
    phases: Phases,
    levels: BTreeMap<u8, Gathered>,
}

/// What one level has told, and was counted of it.
#[derive(Debug, Default)]
struct Gathered {
    environment: Environment,
    samples: BTreeMap<Turn, Vec<u64>>,
    phases: Vec<Phase>,
    boot_ns: Option<u64>,
    /// What all machines had counted when this level's was started, and when its init
    /// was up.
    started: Machines,
    up: Machines,
}

impl Collector {
    /// A collector of what these levels are to measure.
    pub(super) fn new(expected: BTreeMap<u8, Vec<Turn>>, tell_samples: bool) -> Self {
        let levels = expected.keys().map(|level| (*level, Gathered::default()));
        Self {
            levels: levels.collect(),
            expected,
            tell_samples,
            phases: Phases::default(),
        }
    }

    /// Takes an event in, if it tells something that is to be measured.
    pub(super) fn observe(&mut self, event: Event) {
        let Event { level, what } = event;
        match what {
            What::Exits {
                counts,
                at: Some(mark),
                ..
            } => self.counted(level, &mark, counts),
            What::Booted(booted) => {
                self.with(level, |level| level.boot_ns = Some(booted.boot_ns));
            }
            What::Environment(environment) => {
                self.with(level, |level| level.environment = *environment);
            }
            What::Samples { turn, samples } if self.expects(level, turn) => {
                self.with(level, |level| {
                    let all = level.samples.entry(turn).or_default();
                    let room = MAX_SAMPLES - all.len().min(MAX_SAMPLES);
                    all.extend(samples.into_iter().take(room));
                });
            }
            What::Measured(phase) => {
                let turn = phase.turn();
                if self.expects(level, turn) {
                    self.measured(level, turn, *phase);
                }
            }
            _ => {}
        }
    }

    fn with(&mut self, level: u8, change: impl FnOnce(&mut Gathered)) {
        if let Some(level) = self.levels.get_mut(&level) {
            change(level);
        }
    }

    /// Whether `turn` is one that this level is to measure itself, and hasn't yet.
    fn expects(&self, level: u8, turn: Turn) -> bool {
        if turn.row == Row::Boot {
            return false;
        }
        let expected = self.expected.get(&level);
        let told = self.levels.get(&level).is_some_and(|level| {
            let mut phases = level.phases.iter();
            phases.any(|phase| phase.turn() == turn)
        });
        expected.is_some_and(|turns| turns.contains(&turn)) && !told
    }

    fn counted(&mut self, machine: u8, mark: &Mark, counts: Counts) {
        self.phases.counted(machine, mark, &counts);
        if mark.edge == Edge::Begin && mark.phase == format!("L{}", mark.level + 1) {
            self.with(mark.level + 1, |level| {
                level.started.insert(machine, counts);
            });
        } else if mark.edge == Edge::End && mark.phase == BOOT {
            self.with(mark.level, |level| {
                level.up.insert(machine, counts);
            });
        }
    }

    fn measured(&mut self, level: u8, turn: Turn, mut phase: Phase) {
        if let Outcome::Measured(measured) = &mut phase.outcome {
            measured.counts = self.between(level, &turn.phase());
            measured.baseline = self.baseline(level);
        }
        self.with(level, |level| {
            let samples = level.samples.remove(&turn).unwrap_or_default();
            if let Outcome::Measured(measured) = &mut phase.outcome {
                measured.samples = samples;
            }
            level.phases.push(phase);
        });
    }

    /// What was counted in the last phase of this name.
    fn between(&self, level: u8, name: &str) -> Machines {
        let mut phases = self.phases.done().iter().rev();
        let found = phases.find(|phase| phase.level == level && phase.name == name);
        found.map_or_else(Machines::new, |phase| phase.counts.clone())
    }

    /// What two marks cost: of each count the median of the phases with nothing in
    /// them.
    fn baseline(&self, level: u8) -> Machines {
        let phases = self.phases.done().iter();
        let empty: Vec<&Machines> = phases
            .filter(|phase| phase.level == level && phase.name == BASELINE)
            .map(|phase| &phase.counts)
            .collect();
        let mut medians = Machines::new();
        for machine in empty.iter().flat_map(|counts| counts.keys()) {
            let names = empty.iter().filter_map(|counts| counts.get(machine));
            let medians = medians.entry(*machine).or_default();
            for name in names.flat_map(|counts| counts.keys()) {
                let of = |counts: &&Machines| {
                    let count = counts.get(machine).and_then(|counts| counts.get(name));
                    count.copied().unwrap_or(0)
                };
                let mut all: Vec<u64> = empty.iter().map(of).collect();
                all.sort_unstable();
                medians.insert(name.clone(), all[all.len() / 2]);
            }
        }
        medians
    }

    /// What each level has measured. `fault` says what went wrong at a level, if it
    /// did.
    pub(super) fn finish(self, fault: impl Fn(u8) -> Option<String>) -> Vec<Level> {
        let Self {
            expected,
            tell_samples,
            levels,
            ..
        } = self;
        let level = |(level, gathered): (u8, Gathered)| {
            let turns = &expected[&level];
            let boots = turns.iter().any(|turn| turn.row == Row::Boot);
            let boot = gathered.boot(tell_samples).filter(|_| boots);
            Level {
                level,
                environment: gathered.environment,
                fault: fault(level),
                phases: boot.into_iter().chain(gathered.phases).collect(),
            }
        };
        levels.into_iter().map(level).collect()
    }
}

impl Gathered {
    /// The row that is measured by booting.
    fn boot(&self, tell_samples: bool) -> Option<Phase> {
        let nothing = Counts::new();
        let counts = self.up.iter().map(|(machine, up)| {
            let started = self.started.get(machine).unwrap_or(&nothing);
            (*machine, difference(started, up))
        });
        let measured = Measured {
            clock: Clock::Monotonic,
            timer_cost: 0,
            work: 1,
            samples: self.boot_ns.filter(|_| tell_samples).into_iter().collect(),
            operations: 1,
            counts: counts.collect(),
            baseline: Machines::new(),
        };
        self.boot_ns.is_some().then_some(Phase {
            row: Row::Boot,
            pass: 0,
            outcome: Outcome::Measured(measured),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Booted;
    use proptest::prelude::*;

    const NOP: Turn = Turn {
        row: Row::Nop,
        pass: 0,
    };
    const CPUID: Turn = Turn {
        row: Row::Cpuid,
        pass: 0,
    };
    const CPUID_AGAIN: Turn = Turn {
        row: Row::Cpuid,
        pass: 1,
    };
    const BOOTS: Turn = Turn {
        row: Row::Boot,
        pass: 0,
    };

    /// What L1 and L2 measure.
    fn collector() -> Collector {
        let turns = vec![NOP, CPUID, CPUID_AGAIN, BOOTS];
        Collector::new([(1, turns.clone()), (2, turns)].into(), true)
    }

    fn samples(level: u8, turn: Turn, samples: &[u64]) -> Event {
        let samples = samples.to_vec();
        let what = What::Samples { turn, samples };
        Event { level, what }
    }

    fn outcome(level: u8, turn: Turn, outcome: Outcome) -> Event {
        let Turn { row, pass } = turn;
        let what = What::Measured(Box::new(Phase { row, pass, outcome }));
        Event { level, what }
    }

    fn measured(level: u8, turn: Turn) -> Event {
        let measured = Measured {
            clock: Clock::Tsc { khz: 1_000_000 },
            timer_cost: 1,
            work: 1,
            samples: Vec::new(),
            operations: 100,
            counts: Machines::new(),
            baseline: Machines::new(),
        };
        outcome(level, turn, Outcome::Measured(measured))
    }

    /// What the machine of level `machine` has counted at a mark of `level`'s.
    fn exits(machine: u8, level: u8, phase: &str, edge: Edge, exits: u64) -> Event {
        let what = What::Exits {
            counts: counts(exits),
            at: Some(Mark {
                level,
                phase: phase.to_owned(),
                edge,
            }),
            hypervisor: None,
        };
        Event {
            level: machine,
            what,
        }
    }

    fn counts(exits: u64) -> Counts {
        Counts::from([("exits".to_owned(), exits)])
    }

    fn booted(level: u8) -> Event {
        let what = What::Booted(Booted {
            boot_ns: 5_000_000,
            ..Booted::default()
        });
        Event { level, what }
    }

    fn gather(events: impl IntoIterator<Item = Event>) -> Vec<Level> {
        let mut collector = collector();
        events
            .into_iter()
            .for_each(|event| collector.observe(event));
        collector.finish(|_| None)
    }

    /// What `level` has measured in its phases.
    fn all(levels: &[Level], level: u8) -> Vec<(Turn, &Measured)> {
        let level = levels.iter().find(|found| found.level == level).unwrap();
        let phases = level.phases.iter().filter_map(|phase| {
            let turn = phase.turn();
            match &phase.outcome {
                Outcome::Measured(measured) => Some((turn, measured)),
                Outcome::Failed(_) => None,
            }
        });
        phases.collect()
    }

    #[test]
    fn samples_are_joined_in_their_order() {
        let levels = gather([
            samples(1, CPUID, &[3, 1]),
            samples(2, CPUID, &[7]),
            samples(1, NOP, &[9]),
            samples(1, CPUID, &[2]),
            measured(1, CPUID),
            measured(1, NOP),
            // They belong to a phase that is over.
            samples(1, CPUID, &[4]),
            measured(2, CPUID),
        ]);
        let found: Vec<(Turn, &[u64])> = all(&levels, 1)
            .into_iter()
            .map(|(turn, measured)| (turn, &measured.samples[..]))
            .collect();
        assert_eq!(found, [(CPUID, &[3, 1, 2][..]), (NOP, &[9])]);
        assert_eq!(all(&levels, 2)[0].1.samples, [7]);
    }

    #[test]
    fn a_guest_that_tells_samples_without_end_is_bounded() {
        let many = vec![5; MAX_SAMPLES / 4 + 1];
        let told = (0..5).map(|_| samples(1, NOP, &many));
        let levels = gather(told.chain([measured(1, NOP)]));
        assert_eq!(all(&levels, 1)[0].1.samples.len(), MAX_SAMPLES);
    }

    #[test]
    fn what_is_not_to_be_measured_is_not_taken() {
        let again = Turn { pass: 1, ..NOP };
        let failed = || Outcome::Failed("why".to_owned());
        let levels = gather([
            measured(1, again),
            samples(1, again, &[1]),
            outcome(
                1,
                Turn {
                    row: Row::Syscall,
                    pass: 0,
                },
                failed(),
            ),
            measured(0, NOP),
            measured(3, NOP),
            measured(1, NOP),
            outcome(1, NOP, failed()),
            outcome(2, NOP, failed()),
            samples(2, NOP, &[1]),
            measured(2, NOP),
        ]);
        let numbers: Vec<u8> = levels.iter().map(|level| level.level).collect();
        assert_eq!(numbers, [1, 2]);
        let [(turn, measured)] = all(&levels, 1)[..] else {
            panic!("{:?}", levels[0])
        };
        assert_eq!((turn, measured.samples.len()), (NOP, 0));
        assert_eq!(levels[0].phases.len(), 1);
        assert_eq!(levels[1].phases[0].outcome, failed());
        assert_eq!(levels[1].phases.len(), 1);
    }

    #[test]
    fn counts_are_those_between_the_marks_and_the_baseline_is_a_median() {
        use Edge::{Begin, End};
        let cpuid = CPUID.phase();
        let mut events = Vec::new();
        // An interrupt falls into the second.
        for (begin, end) in [(10, 12), (20, 29), (30, 33)] {
            events.push(exits(2, 2, BASELINE, Begin, begin));
            events.push(exits(1, 2, BASELINE, Begin, begin * 20));
            events.push(exits(2, 2, BASELINE, End, end));
            events.push(exits(1, 2, BASELINE, End, end * 20));
        }
        // One of another level.
        events.push(exits(1, 1, BASELINE, Begin, 0));
        events.push(exits(1, 1, BASELINE, End, 700));
        events.extend([
            exits(2, 2, &cpuid, Begin, 100),
            exits(1, 2, &cpuid, Begin, 1000),
            exits(2, 2, &cpuid, End, 200),
            exits(1, 2, &cpuid, End, 3100),
            // What comes between phases is nobody's.
            exits(2, 2, &NOP.phase(), Begin, 500),
            measured(2, CPUID),
        ]);
        let levels = gather(events);
        let (_, measured) = all(&levels, 2)[0];
        let expected = [(1, counts(2100)), (2, counts(100))];
        assert_eq!(measured.counts, expected.into());
        let expected = [(1, counts(60)), (2, counts(3))];
        assert_eq!(measured.baseline, expected.into());
        assert_eq!(measured.per_operation(2, "exits"), Some(0.97));
    }

    #[test]
    fn a_boot_is_counted_from_the_start_of_its_machine() {
        use Edge::{Begin, End};
        let levels = gather([
            // L1 boots L2 in a step that it marks, at which only L1's machine is there.
            exits(1, 1, "L2", Begin, 1000),
            exits(2, 2, BOOT, End, 300),
            exits(1, 2, BOOT, End, 7000),
            booted(2),
            // Later steps don't change it.
            exits(2, 2, &NOP.phase(), End, 900),
            exits(1, 1, "L2", End, 9000),
        ]);
        let (turn, measured) = all(&levels, 2)[0];
        assert_eq!((turn, &measured.samples[..]), (BOOTS, &[5_000_000][..]));
        assert_eq!((measured.clock, measured.operations), (Clock::Monotonic, 1));
        let expected = [(1, counts(6000)), (2, counts(300))];
        assert_eq!(measured.counts, expected.into());
        // L1 hasn't told that it is up.
        assert_eq!(all(&levels, 1), []);
    }

    #[test]
    fn where_times_mean_nothing_a_boot_has_no_sample() {
        let mut collector = Collector::new([(1, vec![BOOTS])].into(), false);
        collector.observe(booted(1));
        let levels = collector.finish(|_| None);
        let (_, measured) = all(&levels, 1)[0];
        assert!(measured.samples.is_empty());
    }

    #[test]
    fn a_level_that_dies_keeps_what_it_has_measured() {
        let mut collector = collector();
        let environment = Environment {
            kernel: "6.12".to_owned(),
            ..Environment::default()
        };
        collector.observe(Event {
            level: 2,
            what: What::Environment(Box::new(environment)),
        });
        collector.observe(samples(2, CPUID, &[1, 2]));
        collector.observe(measured(2, CPUID));
        collector.observe(samples(2, NOP, &[1, 2]));
        let levels = collector.finish(|level| (level == 2).then(|| "panic: oops".to_owned()));
        assert_eq!((levels[0].level, &levels[0].fault), (1, &None));
        assert_eq!(levels[1].fault.as_deref(), Some("panic: oops"));
        assert_eq!(levels[1].environment.kernel, "6.12");
        let [(CPUID, measured)] = all(&levels, 2)[..] else {
            panic!("{:?}", levels[1])
        };
        assert_eq!(measured.samples, [1, 2]);
    }

    proptest! {
        #[test]
        fn whatever_is_told_only_planned_phases_are_kept_and_each_once(
            told in prop::collection::vec((0u8..4, 0..Row::ALL.len(), 0u8..3, any::<bool>()), 0..200),
        ) {
            let told = told.into_iter().map(|(level, row, pass, ends)| {
                let turn = Turn { row: Row::ALL[row], pass };
                if ends { measured(level, turn) } else { samples(level, turn, &[1]) }
            });
            let levels = gather((0..4).map(booted).chain(told));
            for level in &levels {
                let mut turns: Vec<Turn> =
                    all(&levels, level.level).into_iter().map(|(turn, _)| turn).collect();
                prop_assert!(turns.iter().all(|turn| [NOP, CPUID, CPUID_AGAIN, BOOTS].contains(turn)));
                let kept = turns.len();
                turns.sort_unstable();
                turns.dedup();
                prop_assert_eq!(turns.len(), kept);
            }
        }
    }
}
