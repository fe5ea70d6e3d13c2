//! What can go wrong with a cluster.

use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::queue::Task;
use crate::bench::results;

/// The most failed boots that an error names.
const NAMED: usize = 5;

/// Why boots can't be measured by Slurm.
#[derive(Debug, Error)]
pub enum Error {
    /// Slurm's commands aren't here.
    #[error(
        "no {0} here: install Slurm's commands, Debian's package slurm-client, or measure \
         by --executor local"
    )]
    NotInstalled(&'static str),
    /// A command of Slurm's can't be run.
    #[error("can't run {program}: {source}")]
    Run {
        /// Which.
        program: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Nobody answers for the cluster.
    #[error(
        "no controller of Slurm's answers: {0}; see that slurmctld runs, and that \
         SLURM_CONF or /etc/slurm/slurm.conf names it"
    )]
    NoController(String),
    /// Slurm refuses.
    #[error("Slurm refuses: {0}")]
    Refused(String),
    /// sbatch hasn't answered with a job.
    #[error("sbatch was to print a job's number, and printed `{0}`")]
    NoJob(String),
    /// Slurm has stopped answering.
    #[error(
        "Slurm no longer answers for job {job}: {said}; what it measures still arrives in \
         {folder}, and the same command goes on later"
    )]
    Lost {
        /// The array's job.
        job: u64,
        /// What its command said last.
        said: String,
        /// The folder of results.
        folder: PathBuf,
    },
    /// A signal has ended it.
    #[error(
        "stopped: Slurm's job {job} is cancelled; what was measured stays in {folder}, and \
         the same command goes on with the rest"
    )]
    Stopped {
        /// The array's job.
        job: u64,
        /// The folder of results.
        folder: PathBuf,
    },
    /// A signal has ended it, and the job goes on.
    #[error("stopped, but Slurm's job {job} isn't cancelled: {source}; run `scancel {job}`")]
    NotCancelled {
        /// The array's job.
        job: u64,
        /// Why not.
        source: Box<Self>,
    },
    /// Boots have failed. All others are measured.
    #[error("{}", named(.0))]
    Failed(Vec<Failed>),
    /// Signals can't be waited for.
    #[error("can't wait for signals: {0}")]
    Signals(io::Error),
    /// The folder can't be read.
    #[error(transparent)]
    Results(#[from] results::Error),
}

/// A boot that Slurm is done with, and that has left no results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The boot's number.
    pub boot: usize,
    /// What became of its task, as far as Slurm has told.
    pub task: Option<Task>,
    /// The file that holds what it printed.
    pub log: PathBuf,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot {} (", self.boot)?;
        if let Some(task) = &self.task {
            write!(f, "{task}, ")?;
        }
        write!(f, "see {})", self.log.display())
    }
}

/// All of them in one line, or the first of many.
fn named(failed: &[Failed]) -> String {
    let boots = if failed.len() == 1 {
        "boot has"
    } else {
        "boots have"
    };
    let mut line = format!("{} {boots} left no results: ", failed.len());
    for (position, failed) in failed.iter().take(NAMED).enumerate() {
        let comma = if position == 0 { "" } else { ", " };
        write!(line, "{comma}{failed}").expect("a string takes all");
    }
    if failed.len() > NAMED {
        write!(line, " and {} more", failed.len() - NAMED).expect("a string takes all");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(boot: usize) -> Failed {
        Failed {
            boot,
            task: (boot > 0).then(|| Task {
                state: "FAILED".into(),
                reason: Some("NonZeroExitCode".into()),
            }),
            log: format!("/r/slurm-7_{boot}.log").into(),
        }
    }

    #[test]
    fn failed_boots_are_named_with_their_logs() {
        let said = Error::Failed(vec![failed(0)]).to_string();
        assert_eq!(
            said,
            "1 boot has left no results: boot 0 (see /r/slurm-7_0.log)"
        );
        let many = (1..=7).map(failed).collect();
        let said = Error::Failed(many).to_string();
        assert!(said.starts_with(
            "7 boots have left no results: boot 1 (FAILED, NonZeroExitCode, see \
             /r/slurm-7_1.log), boot 2 ("
        ));
        assert!(said.ends_with("/r/slurm-7_5.log) and 2 more"), "{said}");
    }
}
