//! Results as a run could have left them, for tests.

use std::collections::BTreeMap;

use super::results::{
    Boot, Clock, Configuration, Environment, Level, Manifest, Measured, Monitor, Outcome, Phase,
    Plan, Results, Settings,
};
use super::row::{Quantity, Row};
use super::statistics::Random;
use crate::stats::Counts;

/// What is to be made up.
pub(super) struct Synthetic {
    pub(super) metal: &'static str,
    pub(super) boots: u32,
    pub(super) exposures: &'static [&'static str],
    pub(super) monitors: &'static [&'static str],
    /// How many times as long everything takes as usual.
    pub(super) slowness: f64,
    /// How many times as long the A/A control takes the second time.
    pub(super) drift: f64,
    pub(super) seed: u64,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self {
            metal: "host",
            boots: 10,
            exposures: &["svm"],
            monitors: &["nestling"],
            slowness: 1.0,
            drift: 1.0,
            seed: 1,
        }
    }
}

pub(super) const ROWS: [Row; 4] = [Row::Syscall, Row::Hypercall, Row::Cpuid, Row::Memory];
const LEVELS: [u8; 3] = [0, 1, 2];

impl Synthetic {
    pub(super) fn results(&self) -> Results {
        let monitor = |name: &&str| Monitor {
            name: (*name).to_owned(),
            command: None,
        };
        let plan = Plan {
            metal: self.metal.to_owned(),
            emulated: self.metal != "host",
            levels: LEVELS.to_vec(),
            rows: ROWS.to_vec(),
            boots: self.boots,
            exposures: self.exposures.iter().map(ToString::to_string).collect(),
            monitors: self.monitors.iter().map(monitor).collect(),
            seed: self.seed,
            settings: Settings::default(),
        };
        let mut random = Random::new(self.seed);
        let boots = (0..plan.total_boots())
            .map(|number| self.boot(number, plan.configuration(number).unwrap(), &mut random))
            .collect();
        Results {
            manifest: Manifest::new(1_800_000_000, plan),
            boots,
            damaged: Vec::new(),
        }
    }

    fn boot(&self, number: usize, configuration: Configuration, random: &mut Random) -> Boot {
        let fate = (0.01 * random.normal()).exp();
        let levels = LEVELS.map(|level| {
            let mut phases: Vec<Phase> = ROWS
                .into_iter()
                .map(|row| self.phase(row, level, 0, fate, random))
                .collect();
            phases.push(self.phase(Row::Syscall, level, 1, fate * self.drift, random));
            Level {
                level,
                environment: environment(level),
                fault: None,
                phases,
            }
        });
        Boot::new(number, configuration, 1_800_000_000, levels.into())
    }

    fn phase(&self, row: Row, level: u8, pass: u8, fate: f64, random: &mut Random) -> Phase {
        let outcome = if (row, level) == (Row::Hypercall, 0) {
            Outcome::Failed("L0 has nobody to call".into())
        } else {
            let cost = row_cost(row, level) * self.slowness * fate;
            Outcome::Measured(measured(row, level, cost, random))
        };
        Phase { row, pass, outcome }
    }
}

/// Nanoseconds of one sample.
fn row_cost(row: Row, level: u8) -> f64 {
    match row {
        Row::Syscall => 70.0,
        Row::Memory => 1000.0 * (1.0 + 0.1 * f64::from(level)),
        _ => [100.0, 1600.0, 37_000.0][usize::from(level)],
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "samples are positive and small"
)]
fn measured(row: Row, level: u8, cost: f64, random: &mut Random) -> Measured {
    let tail = |random: &mut Random| if random.below(50) == 0 { 3.0 } else { 1.0 };
    let samples = (0..200)
        .map(|_| {
            let ns = cost * (0.03 * random.normal()).exp() * tail(random);
            // At 2 GHz, the timer's cost included.
            (2.0 * ns) as u64 + 40
        })
        .collect();
    let exits = |machine: u8| match (row, level, machine) {
        (Row::Hypercall | Row::Cpuid, 1, 1) | (Row::Hypercall | Row::Cpuid, 2, 2) => 1000,
        (Row::Hypercall | Row::Cpuid, 2, 1) => 21_000,
        _ => 0,
    };
    let counts = |machine: u8| {
        let hypercalls = if row == Row::Hypercall && machine == level {
            1000
        } else {
            0
        };
        Counts::from([
            ("exits".to_owned(), exits(machine)),
            ("hypercalls".to_owned(), hypercalls),
        ])
    };
    Measured {
        clock: Clock::Tsc { khz: 2_000_000 },
        timer_cost: 40,
        work: if row.quantity() == Quantity::Throughput {
            4096
        } else {
            1
        },
        samples,
        operations: 1000,
        counts: (1..=level)
            .map(|machine| (machine, counts(machine)))
            .collect(),
        baseline: BTreeMap::new(),
    }
}

fn environment(level: u8) -> Environment {
    Environment {
        nestling: env!("CARGO_PKG_VERSION").into(),
        exposure: if level < 2 { "svm" } else { "off" }.into(),
        vendor: "AuthenticAMD".into(),
        processor: "EPYC <&>".into(),
        cpus: 2,
        memory_mib: 4096 >> level,
        kernel: "6.12.0".into(),
        parameters: [("kvm_amd.npt".to_owned(), "Y".to_owned())].into(),
        ..Environment::default()
    }
}
