//! A job that Slurm has been given.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Error;
use super::command::{Signalled, ask};
use super::queue::{self, Task};
use crate::nest::process;
use crate::signals::Signals;

/// How long Slurm may not answer before it is given up.
const PATIENCE: Duration = Duration::from_secs(600);

/// What became of each task, by its index.
pub(super) type Tasks = BTreeMap<usize, Task>;

/// An array that was submitted.
pub(super) struct Job<'a> {
    /// The array's number.
    pub(super) number: u64,
    /// The folder of results.
    pub(super) folder: &'a Path,
    /// What ends it.
    pub(super) stop: &'a Signals,
}

impl Job<'_> {
    /// Waits until all tasks are over, and tells of them meanwhile.
    pub(super) fn see_through(
        &self,
        told: &mut dyn FnMut(&Tasks) -> Result<(), Error>,
    ) -> Result<Tasks, Error> {
        let begin = Instant::now();
        let mut answered = begin;
        let mut tasks = Tasks::new();
        loop {
            match self.tasks() {
                Ok(now) => {
                    answered = Instant::now();
                    let over = now.values().all(Task::is_over);
                    // Those that Slurm no longer tells of are as they were.
                    tasks.extend(now);
                    told(&tasks)?;
                    if over {
                        return Ok(tasks);
                    }
                }
                Err(error) if answered.elapsed() > PATIENCE => {
                    return Err(Error::Lost {
                        job: self.number,
                        said: error.to_string(),
                        folder: self.folder.to_owned(),
                    });
                }
                // A controller may be started anew, which does jobs no harm.
                Err(_) => {}
            }
            let signalled = process::poll(&[self.stop.as_fd()], interval(begin.elapsed()));
            if signalled.map_err(Error::Signals)? == [true] {
                return Err(self.cancel());
            }
        }
    }

    /// The tasks that Slurm tells of. It forgets them some minutes after their end.
    fn tasks(&self) -> Result<Tasks, Error> {
        let arguments = [
            "--noheader".into(),
            "--array".into(),
            "--states=all".into(),
            format!("--jobs={}", self.number).into(),
            format!("--format={}", queue::FORMAT).into(),
        ];
        match ask("squeue", &arguments, Signalled::Ends) {
            Ok(listing) => Ok(queue::tasks(&listing, self.number)),
            Err(Error::Refused(said)) if queue::is_forgotten(&said) => Ok(Tasks::new()),
            Err(error) => Err(error),
        }
    }

    /// Takes the job back.
    fn cancel(&self) -> Error {
        let job = self.number;
        match ask("scancel", &[job.to_string().into()], Signalled::GoesOn) {
            Ok(_) => Error::Stopped {
                job,
                folder: self.folder.to_owned(),
            },
            Err(source) => Error::NotCancelled {
                job,
                source: Box::new(source),
            },
        }
    }
}

/// How long to wait before Slurm is asked again: short runs are seen through soon, and
/// long ones don't bother a controller that has many to serve.
fn interval(elapsed: Duration) -> Duration {
    (elapsed / 10).clamp(Duration::from_secs(1), Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurm_is_asked_often_at_first() {
        let seconds = |elapsed| interval(Duration::from_secs(elapsed)).as_secs();
        assert_eq!([0, 60, 3600].map(seconds), [1, 6, 30]);
    }
}
