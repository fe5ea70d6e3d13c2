//! What Slurm says of its configuration and of its jobs.

use std::collections::BTreeMap;
use std::fmt;

use crate::channel::printable;

/// What squeue(1) is to print of each task: job and index, state, reason.
pub(super) const FORMAT: &str = "%i %T %r";

/// The states that a task doesn't leave any more (squeue(1), JOB STATE CODES).
const OVER: [&str; 9] = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
];

/// The longest name that is kept, in bytes.
const MAX_NAME: usize = 128;

/// What Slurm says of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its state: `RUNNING`.
    pub state: String,
    /// Why it is in that state, where there is a reason: `Resources`.
    pub reason: Option<String>,
}

impl Task {
    /// Whether Slurm is done with it.
    pub(super) fn is_over(&self) -> bool {
        OVER.contains(&self.state.as_str())
    }

    /// Whether it hasn't begun.
    pub(super) fn is_pending(&self) -> bool {
        self.state == "PENDING"
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{}, {reason}", self.state),
            None => f.write_str(&self.state),
        }
    }
}

/// The tasks of `job` in what squeue(1) has printed, by their indexes.
pub(super) fn tasks(listing: &str, job: u64) -> BTreeMap<usize, Task> {
    listing
        .lines()
        .filter_map(|line| {
            let (id, rest) = line.trim().split_once(' ')?;
            let (number, index) = id.split_once('_')?;
            let (state, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let reason = printable(reason.trim(), MAX_NAME);
            let task = Task {
                state: printable(state, MAX_NAME),
                reason: Some(reason).filter(|reason| !["", "None"].contains(&reason.as_str())),
            };
            (number.parse() == Ok(job)).then_some((index.parse().ok()?, task))
        })
        .collect()
}

/// Whether squeue(1) has said that it doesn't know the job: some minutes after its end
/// (MinJobAge, slurm.conf(5)) that is so.
pub(super) fn is_forgotten(said: &str) -> bool {
    said.contains("Invalid job id")
}

/// One more than the highest index of an array, in what `scontrol show config` has
/// printed.
pub(super) fn max_array_size(config: &str) -> Option<usize> {
    config
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == "MaxArraySize")
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_one_job_are_read() {
        let listing = "7_2 PENDING JobArrayTaskLimit\n7_0 RUNNING None\n\
                       7_1 FAILED NonZeroExitCode\n8_1 RUNNING None\n7 RUNNING None\n\
                       7_[3-5] PENDING Resources\n\nsqueue: odd\n";
        let found = tasks(listing, 7);
        let text: Vec<String> = found
            .iter()
            .map(|(index, task)| format!("{index} {task}"))
            .collect();
        assert_eq!(
            text,
            [
                "0 RUNNING",
                "1 FAILED, NonZeroExitCode",
                "2 PENDING, JobArrayTaskLimit"
            ]
        );
        assert!(found[&1].is_over() && !found[&0].is_over());
        assert!(found[&2].is_pending() && !found[&0].is_pending());
    }

    #[test]
    fn the_size_of_arrays_is_found() {
        let config = "Configuration data as of 2026\nMaxArraySize            = 1001\n";
        assert_eq!(max_array_size(config), Some(1001));
        assert_eq!(max_array_size("MaxArraySizes = 1\n"), None);
    }
}
