//! What a run found, for people and for programs.

mod analysis;
mod csv;
pub(super) mod environment;
mod html;
mod markdown;
mod tables;
mod text;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exits::Share;
use super::results::{Configuration, Damage, Environment, Plan};
use super::row::Row;
use super::statistics::{Control, Estimate, Quantiles, Sorted};

/// The version of the JSON form; docs/json.md describes it.
pub const VERSION: u32 = 1;

/// A report; its JSON form is `report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// The version of nestling that measured.
    pub nestling: String,
    /// When the run began, in seconds since 1970, UTC.
    pub began_s: u64,
    /// What everybody has to know before they read on, in a sentence or two.
    pub statement: String,
    /// Whether what should be the same was found not to be.
    pub noisy: bool,
    /// The same, in words; empty if it isn't noisy.
    pub complaints: Vec<String>,
    /// What was to be measured.
    pub plan: Plan,
    /// How many boots the report is made from.
    pub boots: usize,
    /// The numbers of boots that the plan has and the folder hasn't.
    pub missing: Vec<usize>,
    /// Files of the folder that couldn't be used.
    pub damaged: Vec<Damage>,
    /// Levels that didn't come to their end.
    pub faults: Vec<Ending>,
    /// Boots that were measured again, because a level of an emulated L0 died.
    pub repeated: Vec<Repeated>,
    /// The A/A controls.
    pub controls: Vec<ControlCell>,
    /// What each level measured on.
    pub environments: Vec<LevelEnvironment>,
    /// What was measured.
    pub rows: Vec<RowReport>,
}

/// A level that didn't come to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ending {
    /// In which boot.
    pub boot: usize,
    /// Which level.
    pub level: u8,
    /// What happened.
    pub fault: String,
}

/// A boot that was measured again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repeated {
    /// Which.
    pub boot: usize,
    /// What happened the time before.
    pub lost: String,
}

/// An A/A control.
#[derive(Clone, Debug, Serialize)]
pub struct ControlCell {
    /// In which configuration.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// At which level.
    pub level: u8,
    /// By which row.
    pub row: Row,
    /// What it says.
    #[serde(flatten)]
    pub control: Control,
}

/// What a level measured on.
#[derive(Clone, Debug, Serialize)]
pub struct LevelEnvironment {
    /// In which configuration.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// Which level.
    pub level: u8,
    /// Its environment, in the first boot.
    pub environment: Environment,
    /// How many boots had another one.
    pub others: usize,
}

/// One row.
#[derive(Clone, Debug, Serialize)]
pub struct RowReport {
    /// Which.
    pub row: Row,
    /// What was found, by configuration and level.
    pub cells: Vec<Cell>,
}

/// One row, at one level, in one configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// In which configuration.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// At which level.
    pub level: u8,
    /// How many boots have measured it.
    pub boots: usize,
    /// Times or throughputs; none on an emulated processor.
    pub figures: Option<Figures>,
    /// Exits for one operation, of the level's own machine first, then of those below.
    pub exits: Vec<Exits>,
    /// Why boots couldn't measure it.
    pub failed: Vec<String>,
}

/// Times or throughputs.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// How many samples there are, without the warm-up.
    pub samples: usize,
    /// How many samples of the warm-up were left out.
    pub discarded: usize,
    /// How many boots hadn't settled after half of their samples.
    pub unsettled: usize,
    /// Quantiles of all boots' samples together.
    pub quantiles: Quantiles,
    /// The median over boots of each boot's median.
    pub median: Estimate,
    /// The same in cycles of the time-stamp counter, where that was the clock.
    pub cycles: Option<f64>,
    /// How many times as long it takes as at the levels below.
    pub ratios: Vec<Ratio>,
    #[serde(skip)]
    pooled: Sorted,
}

/// How many times as long something takes as at another level.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratio {
    /// The other level.
    pub to: u8,
    /// The ratio.
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// The exits of one machine for one operation.
#[derive(Clone, Debug, Serialize)]
pub struct Exits {
    /// The level that runs in the machine; they were counted by the level below it.
    pub machine: u8,
    /// All together.
    pub total: Estimate,
    /// By kind.
    pub kinds: Vec<Share>,
    /// How far boots are apart, as a share of the median.
    pub differs: f64,
}

impl Cell {
    fn ratio(&self, to: u8) -> Option<&Estimate> {
        let ratios = &self.figures.as_ref()?.ratios;
        let ratio = ratios.iter().find(|ratio| ratio.to == to)?;
        Some(&ratio.estimate)
    }
}

impl RowReport {
    fn cell(&self, configuration: &Configuration, level: u8) -> Option<&Cell> {
        let mut cells = self.cells.iter();
        cells.find(|cell| cell.level == level && cell.configuration == *configuration)
    }

    fn exits(&self, configuration: &Configuration, level: u8, machine: u8) -> Option<&Exits> {
        let exits = &self.cell(configuration, level)?.exits;
        exits.iter().find(|exits| exits.machine == machine)
    }

    /// Why the row couldn't be measured, by level.
    fn failures(&self) -> Vec<(u8, &str)> {
        let cells = self.cells.iter();
        let failures =
            cells.flat_map(|cell| cell.failed.iter().map(|why| (cell.level, why.as_str())));
        let mut failures: Vec<(u8, &str)> = failures.collect();
        failures.dedup();
        failures
    }
}

impl Report {
    /// The report as `report.json` holds it.
    ///
    /// # Errors
    /// If it can't be put into JSON.
    pub fn json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Writes `report.json`, `report.csv`, `report.md` and `report.html` into `folder`,
    /// over those of an earlier report, and names them.
    ///
    /// # Errors
    /// The file that couldn't be written, and why.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
        let forms = [
            ("report.json", self.json().map_err(io::Error::from)),
            ("report.csv", Ok(csv::text(self))),
            ("report.md", Ok(markdown::text(self))),
            ("report.html", Ok(html::text(self))),
        ];
        let mut written = Vec::new();
        for (name, text) in forms {
            let path = folder.join(name);
            match text.and_then(|text| fs::write(&path, text)) {
                Ok(()) => written.push(path),
                Err(error) => return Err((path, error)),
            }
        }
        Ok(written)
    }

    /// The figures, for a terminal.
    pub fn text(&self) -> String {
        text::text(self)
    }

    /// What went wrong, if anything did, in words.
    fn notes(&self) -> Vec<String> {
        let faults = self.faults.iter();
        let faults = faults.map(|end| format!("boot {}: L{}: {}", end.boot, end.level, end.fault));
        let repeated = self.repeated.iter();
        let repeated = repeated.map(|it| format!("boot {} again, after {}", it.boot, it.lost));
        let damaged = self.damaged.iter();
        let damaged =
            damaged.map(|damage| format!("{} wasn't used: {}", damage.file, damage.reason));
        let missing = match self.missing.len() {
            0 => None,
            1 => Some("1 boot of the plan is missing".to_owned()),
            missing => Some(format!("{missing} boots of the plan are missing")),
        };
        let complaints = self.complaints.iter().cloned();
        complaints
            .chain(faults)
            .chain(repeated)
            .chain(damaged)
            .chain(missing)
            .collect()
    }

    /// Each level over the one below it, then each over the lowest.
    fn level_pairs(&self) -> Vec<(u8, u8)> {
        let mut levels = self.plan.levels.clone();
        levels.sort_unstable();
        let mut pairs: Vec<(u8, u8)> = levels.windows(2).map(|pair| (pair[1], pair[0])).collect();
        pairs.extend(levels.iter().skip(2).map(|&level| (level, levels[0])));
        pairs
    }

    /// At which levels exits were counted: of what was done in the first level, the
    /// machine of the second, in order.
    fn exit_places(&self) -> Vec<(u8, u8)> {
        let cells = self.rows.iter().flat_map(|row| &row.cells);
        let places =
            cells.flat_map(|cell| cell.exits.iter().map(|exits| (cell.level, exits.machine)));
        let mut places: Vec<(u8, u8)> = places.collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// All configurations, and what to call each; nothing where there is only one.
    fn columns(&self) -> Vec<(Configuration, String)> {
        let all: Vec<Configuration> = self.plan.configurations().collect();
        let name = |configuration: &Configuration| match (
            self.plan.exposures.len() > 1,
            self.plan.monitors.len() > 1,
        ) {
            (true, true) => format!("{} {}", configuration.monitor, configuration.exposure),
            (true, false) => configuration.exposure.clone(),
            (false, true) => configuration.monitor.clone(),
            (false, false) => String::new(),
        };
        all.iter().map(|c| (c.clone(), name(c))).collect()
    }
}

#[cfg(test)]
mod tests;
