//! Boots spread over a Slurm cluster.
//!
//! Each boot is a task of a job array, which measures it by `nestling bench boot` and
//! adds its file to the folder of results. The nodes share that folder, and files are
//! only ever added, so that there is nothing to merge.

mod array;
mod command;
mod error;
mod job;
mod queue;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

pub use self::error::{Error, Failed};
pub use self::queue::Task;

use self::array::Array;
use self::command::{Signalled, ask};
use self::job::{Job, Tasks};
use super::results;
use crate::channel::printable;
use crate::signals::Signals;

/// MaxArraySize where Slurm doesn't tell, which is its default (slurm.conf(5)).
const MAX_ARRAY_SIZE: usize = 1001;

/// How boots are given to Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slurm {
    /// Further options of sbatch(1), such as `--partition=x`.
    pub options: Vec<String>,
    /// How many boots may run at once; as many as Slurm lets, if that isn't said.
    pub parallel: Option<u32>,
}

/// How far the boots are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Those whose results are there.
    pub done: usize,
    /// Those that run.
    pub running: usize,
    /// Those that wait.
    pub pending: usize,
    /// Those that Slurm is done with, and that have left no results.
    pub failed: usize,
    /// What the first of those that wait waits for, as squeue(1) names reasons.
    pub reason: Option<String>,
}

impl Slurm {
    /// Measures the boots `missing` of `folder`, each by `program`; both paths are
    /// absolute and lead to the same on every node. Tells how far that is, now and then,
    /// until all are over or `stop` has a signal.
    ///
    /// # Errors
    /// [`Error`] says what to do; what was measured stays.
    pub fn run(
        &self,
        program: &Path,
        folder: &Path,
        missing: &[usize],
        stop: &Signals,
        told: &mut dyn FnMut(Progress),
    ) -> Result<(), Error> {
        if missing.is_empty() {
            return Ok(());
        }
        let show = ["show".into(), "config".into()];
        let config = ask("scontrol", &show, Signalled::Ends)?;
        let size = queue::max_array_size(&config).unwrap_or(MAX_ARRAY_SIZE);
        let mut failed = Vec::new();
        // One after another: each has as many tasks as Slurm lets one have, and
        // `parallel` counts for each.
        for array in Array::of(missing, size) {
            let job = Job {
                number: self.submit(&array, program, folder)?,
                folder,
                stop,
            };
            let tasks = job.see_through(&mut |tasks| {
                let kept = results::kept(folder)?;
                let mut progress = progress(&array, tasks, &kept);
                progress.done = missing.iter().filter(|boot| kept.contains(boot)).count();
                progress.failed += failed.len();
                let begun = progress.done + progress.running + progress.failed;
                progress.pending = missing.len().saturating_sub(begun);
                told(progress);
                Ok(())
            })?;
            let kept = results::kept(folder)?;
            let lost = array.boots().filter(|(boot, _)| !kept.contains(boot));
            failed.extend(lost.map(|(boot, index)| Failed {
                boot,
                task: tasks.get(&index).cloned(),
                log: folder.join(array::log(job.number, index)),
            }));
        }
        if failed.is_empty() {
            Ok(())
        } else {
            Err(Error::Failed(failed))
        }
    }

    /// Submits an array; its job's number.
    fn submit(&self, array: &Array, program: &Path, folder: &Path) -> Result<u64, Error> {
        let mut arguments: Vec<OsString> = vec![
            "--parsable".into(),
            "--job-name=nestling-bench".into(),
            // Whoever else is on a node disturbs what is measured there.
            "--exclusive".into(),
            array.option(self.parallel).into(),
            array::output(folder),
        ];
        arguments.extend(self.options.iter().map(OsString::from));
        arguments.push("--wrap".into());
        arguments.push(array.script(program, folder));
        let said = ask("sbatch", &arguments, Signalled::GoesOn)?;
        // The cluster's name may stand behind it.
        let number = said.trim().split(';').next().unwrap_or_default();
        number
            .parse()
            .map_err(|_| Error::NoJob(printable(&said, 64)))
    }
}

/// What became of those boots of an array whose results aren't there.
fn progress(array: &Array, tasks: &Tasks, kept: &BTreeSet<usize>) -> Progress {
    let mut progress = Progress::default();
    for (_, index) in array.boots().filter(|(boot, _)| !kept.contains(boot)) {
        match tasks.get(&index) {
            Some(task) if task.is_over() => progress.failed += 1,
            Some(task) if !task.is_pending() => progress.running += 1,
            Some(task) if progress.reason.is_none() => progress.reason.clone_from(&task.reason),
            _ => {}
        }
    }
    progress
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_done_when_its_results_are_there() {
        let array = &Array::of(&[10, 11, 12, 13, 14], 10)[0];
        let listing = "1_0 COMPLETED None\n1_1 COMPLETED None\n1_2 RUNNING None\n\
                       1_3 PENDING Resources\n1_4 PENDING Priority\n";
        let tasks = queue::tasks(listing, 1);
        let expected = Progress {
            running: 1,
            failed: 1,
            reason: Some("Resources".into()),
            ..Progress::default()
        };
        assert_eq!(progress(array, &tasks, &BTreeSet::from([10])), expected);
    }
}
