//! What one boot has measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Configuration, VERSION};
use crate::bench::row::{Quantity, Row};
use crate::bench::work::Turn;
use crate::channel::printable;
use crate::stats::Counts;

/// The longest reason why a row couldn't be measured, in bytes.
const MAX_REASON: usize = 1024;

/// One boot of a nest: `boot-0000.json` and so on. Written when the boot is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// [`VERSION`].
    pub version: u32,
    /// Its number in the plan, from 0.
    pub number: usize,
    /// What was booted.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// When it began, in seconds since 1970, UTC.
    pub began_s: u64,
    /// What became of it the times before, where it had to be measured again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// What each level measured, in the order in which they did.
    pub levels: Vec<Level>,
}

impl Boot {
    /// A boot that has measured `levels`.
    pub fn new(
        number: usize,
        configuration: Configuration,
        began_s: u64,
        levels: Vec<Level>,
    ) -> Self {
        Self {
            version: VERSION,
            number,
            configuration,
            began_s,
            lost: Vec::new(),
            levels,
        }
    }

    /// What became of the levels that didn't come to their end, if there are any.
    pub fn died(&self) -> Option<String> {
        let died = self.levels.iter().filter_map(|level| {
            let fault = level.fault.as_ref()?;
            Some(format!("L{}: {fault}", level.level))
        });
        let died: Vec<String> = died.collect();
        (!died.is_empty()).then(|| died.join("; "))
    }

    /// What `level` measured of `row`: `pass` is 0, or 1 for the A/A control's second
    /// time.
    pub fn measured(&self, row: Row, level: u8, pass: u8) -> Option<&Measured> {
        let phase = self.phase(row, level, pass)?;
        match &phase.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Failed(_) => None,
        }
    }

    /// The phase in which `level` measured `row`.
    pub fn phase(&self, row: Row, level: u8, pass: u8) -> Option<&Phase> {
        let level = self.levels.iter().find(|found| found.level == level)?;
        let mut phases = level.phases.iter();
        phases.find(|phase| phase.row == row && phase.pass == pass)
    }
}

/// What one level measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Its number.
    pub level: u8,
    /// What it measured on.
    pub environment: Environment,
    /// What went wrong, if the level didn't come to its end: the phases are those
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What it measured, one after another.
    pub phases: Vec<Phase>,
}

/// One row, measured at one level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// Which row.
    pub row: Row,
    /// 0; 1 where the A/A control measures the row a second time.
    #[serde(default)]
    pub pass: u8,
    /// What came of it.
    pub outcome: Outcome,
}

impl Phase {
    /// Which of a level's turns it is.
    pub fn turn(&self) -> Turn {
        Turn {
            row: self.row,
            pass: self.pass,
        }
    }

    /// Makes what a guest has told safe to show and to keep: samples and counts come
    /// other ways.
    pub(crate) fn clean(&mut self) {
        match &mut self.outcome {
            Outcome::Measured(measured) => {
                measured.samples.clear();
                measured.counts.clear();
                measured.baseline.clear();
            }
            Outcome::Failed(why) => *why = printable(why, MAX_REASON),
        }
    }
}

/// What came of a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was measured.
    Measured(Measured),
    /// It couldn't be, and why not.
    Failed(String),
}

/// Samples as they were taken, and what KVM counted meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// What `samples` are read from.
    pub clock: Clock,
    /// What a sample of nothing takes, in ticks of the clock. It is in `samples` still.
    #[serde(default)]
    pub timer_cost: u64,
    /// How much work one sample is: operations, or bytes where the row is a throughput.
    pub work: u64,
    /// Ticks that each sample took, in the order in which they were taken, from the
    /// first.
    pub samples: Vec<u64>,
    /// How many operations there were between the marks that `counts` are taken at,
    /// samples and whatever else together.
    pub operations: u64,
    /// By how much the counts of each level's machine grew between the marks, for the
    /// level itself and those below, as far as they were counted.
    #[serde(default)]
    pub counts: BTreeMap<u8, Counts>,
    /// By how much they grow between two marks with nothing between them. It is in
    /// `counts` still.
    #[serde(default)]
    pub baseline: BTreeMap<u8, Counts>,
}

/// A clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Clock {
    /// The processor's time-stamp counter, as the level reads it.
    Tsc {
        /// Its frequency.
        khz: u64,
    },
    /// CLOCK_MONOTONIC, in nanoseconds.
    Monotonic,
}

impl Clock {
    fn ns(self, ticks: f64) -> f64 {
        match self {
            Self::Tsc { khz } => ticks * 1e6 / khz as f64,
            Self::Monotonic => ticks,
        }
    }
}

impl Measured {
    /// The samples in the row's quantity, the timer's cost subtracted, in their order.
    /// Samples that can't be converted aren't finite.
    pub fn values(&self, quantity: Quantity) -> Vec<f64> {
        let work = self.work as f64;
        let sample = |&ticks: &u64| {
            let ns = self.clock.ns(ticks as f64 - self.timer_cost as f64);
            match quantity {
                Quantity::Time => ns / work,
                Quantity::Throughput => work * 1e9 / ns,
            }
        };
        self.samples.iter().map(sample).collect()
    }

    /// How often `name` was counted at `machine`'s level, without what the marks
    /// themselves cost. What that level's machine hasn't counted at all is zero; of a
    /// machine that wasn't counted there is nothing to say.
    pub fn counted(&self, machine: u8, name: &str) -> Option<u64> {
        let of = |counts: &BTreeMap<u8, Counts>| {
            let counts = counts.get(&machine)?;
            Some(counts.get(name).copied().unwrap_or(0))
        };
        Some(of(&self.counts)?.saturating_sub(of(&self.baseline).unwrap_or(0)))
    }

    /// As [`counted`](Self::counted), for one operation.
    pub fn per_operation(&self, machine: u8, name: &str) -> Option<f64> {
        self.each(self.counted(machine, name)?)
    }

    /// A count's share of one operation.
    pub fn each(&self, count: u64) -> Option<f64> {
        (self.operations > 0).then(|| count as f64 / self.operations as f64)
    }
}

/// What a level measured on. What isn't known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// The version of nestling.
    pub nestling: String,
    /// What the level was shown of VMX or SVM.
    pub exposure: String,
    /// The processor's vendor.
    pub vendor: String,
    /// The processor's name.
    pub processor: String,
    /// The revision of its microcode.
    pub microcode: Option<String>,
    /// Processors online.
    pub cpus: u32,
    /// Memory that the kernel manages, in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// Every parameter of `kvm`, `kvm_intel` and `kvm_amd`, by `module.parameter`.
    pub parameters: BTreeMap<String, String>,
    /// The governor of frequencies.
    pub governor: Option<String>,
    /// Whether the processor may go beyond its nominal frequency.
    pub turbo: Option<bool>,
    /// Whether cores run several threads.
    pub smt: Option<bool>,
    /// What the kernel does about the processor's faults, by their names.
    pub mitigations: BTreeMap<String, String>,
    /// When transparent huge pages are used: `always`, `madvise`, `never`.
    pub transparent_huge_pages: Option<String>,
    /// Reserved huge pages.
    pub huge_pages: Vec<HugePages>,
    /// What the kernel tells time by.
    pub clock_source: Option<String>,
    /// The processors of the level below that each vCPU is pinned to, in order; empty
    /// where they aren't pinned.
    pub pinning: Vec<u32>,
}

/// A pool of reserved huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// The size of one, in KiB.
    pub size_kib: u64,
    /// How many nobody uses.
    pub free: u64,
    /// How many are reserved.
    pub total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(clock: Clock, work: u64) -> Measured {
        Measured {
            clock,
            timer_cost: 20,
            work,
            samples: vec![120, 20, 220],
            operations: 4,
            counts: BTreeMap::from([(1, Counts::from([("exits".into(), 9)]))]),
            baseline: BTreeMap::from([(1, Counts::from([("exits".into(), 3)]))]),
        }
    }

    #[test]
    fn samples_become_times_and_throughputs() {
        let tsc = measured(Clock::Tsc { khz: 2_000_000 }, 1);
        assert_eq!(tsc.values(Quantity::Time), [50.0, 0.0, 100.0]);
        let monotonic = measured(Clock::Monotonic, 10);
        assert_eq!(monotonic.values(Quantity::Time), [10.0, 0.0, 20.0]);
        let throughput = monotonic.values(Quantity::Throughput);
        assert_eq!((throughput[0], throughput[2]), (1e8, 5e7));
        assert!(throughput[1].is_infinite());
        assert!(!measured(Clock::Tsc { khz: 0 }, 1).values(Quantity::Time)[0].is_finite());
    }

    #[test]
    fn counts_are_given_for_one_operation() {
        let mut measured = measured(Clock::Monotonic, 1);
        assert_eq!(measured.per_operation(1, "exits"), Some(1.5));
        assert_eq!(measured.per_operation(1, "halt_exits"), Some(0.0));
        assert_eq!(measured.per_operation(2, "exits"), None);
        // Less than what the marks cost as a rule.
        measured.baseline = BTreeMap::from([(1, Counts::from([("exits".into(), 10)]))]);
        assert_eq!(measured.per_operation(1, "exits"), Some(0.0));
        measured.operations = 0;
        assert_eq!(measured.per_operation(1, "exits"), None);
    }
}
