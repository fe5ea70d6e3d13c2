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
                let turn = Turn {
                    row: phase.row,
                    pass: phase.pass,
                };
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

    /// Whether `turn` is one that this level is to measure, and hasn't yet.
    fn expects(&self, level: u8, turn: Turn) -> bool {
        let expected = self.expected.get(&level);
        let told = self.levels.get(&level).is_some_and(|level| {
            let mut phases = level.phases.iter();
            phases.any(|phase| (phase.row, phase.pass) == (turn.row, turn.pass))
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
