//! A level's part in a benchmark: it measures its rows, each in a process of its own,
//! and marks when samples are taken, so that the levels below count around them.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::report::Reporter;
use super::sys::{self, Pid, Status};
use crate::bench::results::{Environment, Outcome, Phase};
use crate::bench::work::{BASELINE, Turn, Work};
use crate::bench::workloads::{Observer, Resources, Session, measure};
use crate::channel::{Edge, MAX_SAMPLES, What};
use crate::nest::process;
use crate::signals::Signals;

/// How many phases with nothing in them are counted: an interrupt falls into one of
/// them now and then.
const BASELINES: usize = 5;
/// What a process exits with that has told why it couldn't measure.
const MISSED: i32 = 3;

/// Measures all that `work` names; the result says how much of it that was.
///
/// # Errors
/// What the system says when no process can be made.
pub(crate) fn run(
    work: &Work,
    level: u8,
    reporter: &mut Reporter,
    stop: &Signals,
) -> io::Result<String> {
    let environment = Environment::gather(Path::new("/"));
    reporter.send(What::Environment(Box::new(environment)));
    for _ in 0..BASELINES {
        reporter.mark(BASELINE, Edge::Begin);
        reporter.mark(BASELINE, Edge::End);
    }
    let mut measured = 0;
    for &turn in &work.turns {
        reporter.send(What::Progress {
            text: format!("measures {}", turn.row),
        });
        // What a row does to its process, such as pinning it, is gone with that; and
        // one that dies leaves the others.
        let child = sys::fork(|| turn_in_process(turn, work, level, reporter))?;
        match wait(child, stop)? {
            Some(Status::Exited(0)) => measured += 1,
            Some(Status::Exited(MISSED)) => {}
            Some(Status::Exited(code)) => failed(turn, &format!("exited with {code}"), reporter),
            Some(Status::Killed(signal)) => {
                failed(turn, &format!("was killed by signal {signal}"), reporter);
            }
            None => break,
        }
    }
    Ok(format!("{measured} of {} measured", work.turns.len()))
}

/// Waits for a process that measures. A stop ends it, and then there is no status.
fn wait(child: Pid, stop: &Signals) -> io::Result<Option<Status>> {
    let ended = child.exit_descriptor()?;
    let ready = process::poll(&[ended.as_fd(), stop.as_fd()], Duration::MAX)?;
    if ready == [false, true] {
        child.signal(libc::SIGKILL);
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}

fn failed(turn: Turn, how: &str, reporter: &mut Reporter) {
    let why = format!("the process that measured it {how}");
    send(turn, Outcome::Failed(why), reporter);
}

/// Measures `turn` and tells what came of it; the result is the process's exit code.
fn turn_in_process(turn: Turn, work: &Work, level: u8, reporter: &mut Reporter) -> i32 {
    let resources = Resources {
        disk: work.disk.clone(),
        server: work.server,
        processors: work.processors.clone(),
    };
    let mut marks = Marks {
        phase: turn.phase(),
        reporter,
    };
    let mut session = Session {
        level,
        samples: work.samples,
        resources: &resources,
        observer: &mut marks,
    };
    match measure(turn.row, &mut session) {
        Ok(mut measured) => {
            let samples = std::mem::take(&mut measured.samples);
            let told = samples.chunks(MAX_SAMPLES).filter(|_| work.tell_samples);
            for samples in told {
                reporter.send(What::Samples {
                    turn,
                    samples: samples.to_vec(),
                });
            }
            send(turn, Outcome::Measured(measured), reporter);
            0
        }
        Err(error) => {
            send(turn, Outcome::Failed(error.to_string()), reporter);
            MISSED
        }
    }
}

fn send(turn: Turn, outcome: Outcome, reporter: &mut Reporter) {
    reporter.send(What::Measured(Box::new(Phase {
        row: turn.row,
        pass: turn.pass,
        outcome,
    })));
}

/// Marks the phase in which samples are taken.
struct Marks<'a> {
    phase: String,
    reporter: &'a mut Reporter,
}

impl Observer for Marks<'_> {
    fn begins(&mut self) {
        self.reporter.mark(&self.phase, Edge::Begin);
    }

    fn ends(&mut self) {
        self.reporter.mark(&self.phase, Edge::End);
    }
}
