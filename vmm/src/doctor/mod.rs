//! What this host can do for guests and nests, row by row, each shortcoming
//! with its remedy.
//!
//! [`Findings`] are gathered first, by looking only: nothing is loaded, created
//! or changed. A [`Diagnosis`] is a pure function of them.

mod controls;
mod findings;
mod rows;
mod text;

#[cfg(test)]
mod tests;

use nestling_arch::nested::{self, HostFacts};
use serde::Serialize;

pub use controls::{Controls, Row as ControlRow};
pub use findings::{Emulator, Findings, Kernels};
pub use text::text;

use crate::metal::Metal;

/// The version of the JSON form; docs/doctor.md describes it.
const VERSION: u32 = 1;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something is slower, or can't be used, that not everybody needs.
    Warn,
    /// Machines can't run on this host's KVM, or can't nest there.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was looked at.
    pub check: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it; `None` only where nothing has to be done.
    pub remedy: Option<String>,
}

impl Row {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            status: Status::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(check, found)
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: Status::Fail,
            remedy: Some(remedy.into()),
            ..Self::ok(check, found)
        }
    }
}

/// Whether `nest` can use a metal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usable {
    /// The metal, as `--metal` names it.
    pub metal: String,
    /// Whether a nest can start on it.
    pub usable: bool,
    /// Why not, where it can't.
    pub obstacle: Option<String>,
}

/// All that the doctor has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    version: u32,
    /// The checks, from the processor up.
    pub rows: Vec<Row>,
    /// Each metal's verdict.
    pub metals: Vec<Usable>,
    /// What the exposure policy goes by; `None` where KVM can't be asked.
    pub facts: Option<HostFacts>,
}

impl Diagnosis {
    /// What follows from `findings`.
    pub fn of(findings: Findings) -> Self {
        Self {
            version: VERSION,
            rows: rows::all(&findings),
            metals: metals(&findings),
            facts: findings.kvm.ok(),
        }
    }

    /// Whether a nest can start on any metal.
    pub fn can_nest(&self) -> bool {
        self.metals.iter().any(|metal| metal.usable)
    }
}

fn metals(findings: &Findings) -> Vec<Usable> {
    let host = match &findings.kvm {
        Err(error) => Some(error.what()),
        Ok(facts) => nested::available(facts).err().map(|missing| missing.what()),
    };
    let emulated = findings.emulators.iter().map(|emulator| {
        let missing = emulator.missing.first();
        (
            emulator.metal,
            missing.map(|(what, _)| format!("{what} isn't installed")),
        )
    });
    [(Metal::Host, host)]
        .into_iter()
        .chain(emulated)
        .map(|(metal, obstacle)| Usable {
            metal: metal.to_string(),
            usable: obstacle.is_none(),
            obstacle,
        })
        .collect()
}
