//! What a run is to measure, and who measures it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::VERSION;
use crate::bench::row::Row;
pub use crate::monitor::Monitor;
use crate::order::MAX_LEVEL;

/// More boots than any run has.
const MAX_BOOTS: usize = 100_000;

/// The file that makes a folder one of results: `manifest.json`. Written once, at the
/// run's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The version of nestling that runs.
    pub nestling: String,
    /// When the run began, in seconds since 1970, UTC.
    pub began_s: u64,
    /// What it measures.
    pub plan: Plan,
}

impl Manifest {
    /// The manifest of a run by this nestling.
    pub fn new(began_s: u64, plan: Plan) -> Self {
        Self {
            version: VERSION,
            nestling: env!("CARGO_PKG_VERSION").to_owned(),
            began_s,
            plan,
        }
    }
}

/// What a run measures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What L0 runs on: `host`, `svm`, `vmx`.
    pub metal: String,
    /// Whether that is an emulated processor. Times then mean nothing, counts do.
    pub emulated: bool,
    /// The levels, the lowest first.
    pub levels: Vec<u8>,
    /// The rows.
    pub rows: Vec<Row>,
    /// How many boots of each configuration.
    pub boots: u32,
    /// What guests are shown of VMX or SVM, as `--nested` takes it: each is a column.
    pub exposures: Vec<String>,
    /// The monitors that boot the levels above L0: each is a column.
    pub monitors: Vec<Monitor>,
    /// Where the random order of rows and levels begins.
    pub seed: u64,
    /// How every boot is made.
    #[serde(default)]
    pub settings: Settings,
}

/// How a boot is made, whoever makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Samples of each row; a row to which each is dear takes fewer.
    pub samples: usize,
    /// vCPUs of each level above L0.
    pub cpus: u32,
    /// The deepest level's memory in MiB; none for what suits the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// This host's processors that L1's vCPUs are pinned to, in order; empty where they
    /// aren't pinned.
    pub pin: Vec<u32>,
    /// The kernel of every level, as `--kernel` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// The kernel's modules, where it is a bzImage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules: Option<PathBuf>,
    /// Further arguments for every level's kernel.
    pub cmdline: String,
    /// The processor of an emulated metal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metal_cpu: Option<String>,
    /// Whether the clock of an emulated metal counts instructions, so that a run repeats
    /// whatever else the host does.
    pub count_instructions: bool,
    /// How long a boot may take, in seconds.
    pub timeout_s: u32,
}

/// One column of a report: what is compared with the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Configuration {
    /// One of the plan's exposures.
    pub exposure: String,
    /// The name of one of the plan's monitors.
    pub monitor: String,
}

impl Plan {
    /// Every configuration, in the order of the report.
    pub fn configurations(&self) -> impl Iterator<Item = Configuration> {
        self.exposures.iter().flat_map(|exposure| {
            self.monitors.iter().map(|monitor| Configuration {
                exposure: exposure.clone(),
                monitor: monitor.name.clone(),
            })
        })
    }

    /// The number of boots in all.
    pub fn total_boots(&self) -> usize {
        let each = usize::try_from(self.boots).unwrap_or(usize::MAX);
        self.configurations().count().saturating_mul(each)
    }

    /// What of this plan isn't as in `other`, if anything.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let Self {
            metal,
            emulated,
            levels,
            rows,
            boots,
            exposures,
            monitors,
            seed,
            settings,
        } = self;
        let same = [
            (
                "metals",
                (metal, emulated) == (&other.metal, &other.emulated),
            ),
            ("levels", *levels == other.levels),
            ("rows", *rows == other.rows),
            ("numbers of boots", *boots == other.boots),
            ("exposures", *exposures == other.exposures),
            ("monitors", *monitors == other.monitors),
            ("seeds", *seed == other.seed),
            ("settings", *settings == other.settings),
        ];
        same.into_iter()
            .find_map(|(what, same)| (!same).then_some(what))
    }

    /// Why nothing can be measured by this plan, if so.
    pub fn problem(&self) -> Option<String> {
        let all = self.configurations();
        let (boots, different) = (self.total_boots(), all.collect::<BTreeSet<_>>().len());
        if self.rows.is_empty() || self.levels.is_empty() || boots == 0 {
            Some("its plan has no rows, levels or boots".to_owned())
        } else if let Some(level) = self.levels.iter().find(|level| **level > MAX_LEVEL) {
            Some(format!(
                "its plan has level {level}, and {MAX_LEVEL} is the highest"
            ))
        } else if boots > MAX_BOOTS {
            Some(format!(
                "its plan has {boots} boots, at most {MAX_BOOTS} are taken"
            ))
        } else if different < self.exposures.len() * self.monitors.len() {
            Some("its plan names an exposure or a monitor twice".to_owned())
        } else {
            None
        }
    }

    /// What boot `number` (from 0) boots; repetitions of all configurations take turns,
    /// so that what changes while a run lasts meets all of them.
    pub fn configuration(&self, number: usize) -> Option<Configuration> {
        let all: Vec<Configuration> = self.configurations().collect();
        (number < self.total_boots()).then(|| all[number % all.len()].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let monitor = |name: &str| Monitor {
            name: name.into(),
            command: None,
        };
        Plan {
            metal: "host".into(),
            emulated: false,
            levels: vec![0, 1],
            rows: vec![Row::Cpuid],
            boots: 2,
            exposures: vec!["svm".into(), "svm,-npt".into()],
            monitors: vec![monitor("nestling"), monitor("qemu-q35")],
            seed: 0,
            settings: Settings::default(),
        }
    }

    #[test]
    fn configurations_take_turns() {
        let plan = plan();
        assert_eq!(plan.total_boots(), 8);
        let named = |number| {
            let found = plan.configuration(number)?;
            Some(format!("{} {}", found.exposure, found.monitor))
        };
        assert_eq!(named(0).as_deref(), Some("svm nestling"));
        assert_eq!(named(1).as_deref(), Some("svm qemu-q35"));
        assert_eq!(named(6).as_deref(), Some("svm,-npt nestling"));
        assert_eq!(named(8), None);
    }

    #[test]
    fn what_differs_between_plans_is_named() {
        type Change = fn(&mut Plan);
        let difference = |change: Change| {
            let mut other = plan();
            change(&mut other);
            assert_eq!(plan().difference(&other), other.difference(&plan()));
            plan().difference(&other).unwrap_or_default()
        };
        let cases: [(Change, &str); 11] = [
            (|_| {}, ""),
            (|plan| plan.metal = "svm".into(), "metals"),
            (|plan| plan.emulated = true, "metals"),
            (|plan| plan.levels = vec![0, 1, 2], "levels"),
            (|plan| plan.rows.push(Row::Nop), "rows"),
            (|plan| plan.boots = 3, "numbers of boots"),
            (|plan| plan.exposures.swap(0, 1), "exposures"),
            (
                |plan| plan.monitors[1].name = "qemu-microvm".into(),
                "monitors",
            ),
            (|plan| plan.seed = 1, "seeds"),
            (|plan| plan.settings.timeout_s = 1, "settings"),
            (
                |plan| plan.settings.kernel = Some("host".into()),
                "settings",
            ),
        ];
        for (change, what) in cases {
            assert_eq!(difference(change), what);
        }
    }

    #[test]
    fn a_plan_that_cannot_be_is_told_why() {
        let problem = |change: fn(&mut Plan)| {
            let mut plan = plan();
            change(&mut plan);
            plan.problem().unwrap_or_default()
        };
        assert_eq!(problem(|_| {}), "");
        assert!(problem(|plan| plan.rows.clear()).contains("no rows"));
        assert!(problem(|plan| plan.monitors.clear()).contains("no rows"));
        assert!(problem(|plan| plan.boots = 0).contains("no rows"));
        assert!(problem(|plan| plan.boots = u32::MAX).contains("at most"));
        assert!(problem(|plan| plan.levels.push(8)).contains("level 8"));
        assert!(problem(|plan| plan.exposures.push("svm".into())).contains("twice"));
    }
}
