//! The clean channel: what a level tells the one that booted it.
//!
//! One JSON object a line, the first a [`What::Hello`]. Events climb from level
//! to level; each level adds its own and what it sees of its guest's machine.
//! Nothing from below is trusted: lines are bounded, text is made printable, and
//! an event may only speak of the level it came from or of one above that.
//!
//! One thing goes the other way: a level that marks a moment waits until those
//! below it have counted, for which [`Answer`] is the sign.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bench::results::{Environment, Phase};
use crate::bench::work::Turn;
use crate::cpu::CpuView;
use crate::order::MAX_LEVEL;
use crate::stats::live::Hypervisor;

/// The version of the format.
pub const VERSION: u32 = 1;
/// The name of the virtio-console port that carries the channel.
pub const PORT_NAME: &str = "nestling.channel";
/// The kernel parameter that names a serial line instead, where no such port is:
/// `nestling.channel=ttyS1`.
pub const PARAMETER: &str = "nestling.channel";
/// The longest line accepted, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// The longest text put into one event, in bytes. A line is then short enough
/// for one write to a virtio-console port, which the driver splits at 32 KiB.
pub const MAX_TEXT: usize = 4 * 1024;
/// The most kinds of exits one event may count.
pub const MAX_COUNTS: usize = 256;
/// The most MSRs that one event may tell of.
pub const MAX_MSRS: usize = 256;
/// The most samples that one event may tell. A sample is up to twenty digits, so that
/// a line of them fits one write as well.
pub const MAX_SAMPLES: usize = 1024;

/// Why a line isn't an event.
#[derive(Debug, Error)]
pub enum Error {
    /// Not JSON, or not of this shape.
    #[error("event is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It speaks of a level that isn't its sender's to speak of.
    #[error(
        "event speaks of level {found}, its sender may speak of levels {lowest} to {MAX_LEVEL}"
    )]
    Level {
        /// The level named.
        found: u8,
        /// The sender's own level.
        lowest: u8,
    },
    /// More counters than KVM could have.
    #[error("event has {0} counters, at most {MAX_COUNTS} are taken")]
    Counts(usize),
    /// More MSRs than are ever looked at.
    #[error("event has {0} MSRs, at most {MAX_MSRS} are taken")]
    Msrs(usize),
    /// More samples than a line has room for.
    #[error("event has {0} samples, at most {MAX_SAMPLES} are taken")]
    Samples(usize),
    /// The sender speaks another version.
    #[error("channel has version {0}, this nestling reads {VERSION}")]
    Version(u32),
}

/// Something that happened at a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The level it happened at.
    pub level: u8,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What an [`Event`] reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The level's init runs and speaks this version.
    Hello {
        /// [`VERSION`].
        v: u32,
    },
    /// The level is up; what it found.
    Booted(Booted),
    /// The level's init is alive.
    Heartbeat,
    /// What the level does now.
    Progress {
        /// In a few words.
        text: String,
    },
    /// What the level, or the one below on its behalf, can't do and goes on without.
    Warning {
        /// In one line.
        text: String,
    },
    /// The level's machine is started, reported by the level below it.
    Starts {
        /// What the order calls it, where it gives it a name.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        name: String,
        /// Its kernel, where its system is another than nestling's image.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        kernel: String,
    },
    /// What a vCPU of the level's machine tells, reported by the level below it,
    /// which has set it.
    Vcpu(CpuView),
    /// What a processor of the level tells there.
    Cpu(CpuView),
    /// A workload starts.
    Runs {
        /// Its name, as in its result.
        workload: String,
    },
    /// A line of the level's console, reported by the level below it.
    Console {
        /// The line without its end.
        line: String,
    },
    /// A workload ended.
    Workload(WorkloadResult),
    /// What the level measures on.
    Environment(Box<Environment>),
    /// Samples of a row that the level has measured, in their order. The rest of what
    /// was measured follows them.
    Samples {
        /// Of what.
        turn: Turn,
        /// As in [`Measured`](crate::bench::results::Measured).
        samples: Vec<u64>,
    },
    /// A row that the level has measured, besides its samples and what was counted.
    Measured(Box<Phase>),
    /// The level begins or ends a step, and waits for the levels below to count.
    Mark {
        /// What the step is called.
        phase: String,
        /// Whether it begins or ends.
        edge: Edge,
    },
    /// KVM's counts for the level's machine, reported by the level below it: now and
    /// then, at a mark, and at the end.
    Exits {
        /// Counter name to count, summed over the machine's vCPUs.
        counts: BTreeMap<String, u64>,
        /// The mark at which they were taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Mark>,
        /// Whether a hypervisor runs in the level, as it was looked for now and then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hypervisor: Option<Hypervisor>,
    },
    /// The level failed.
    Fault(Fault),
    /// The level's order is done; it powers off next.
    Done,
    /// The level's machine ended, reported by the level below it.
    Ended {
        /// In which way.
        how: How,
    },
}

/// A moment that a level has marked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The level whose step it is.
    pub level: u8,
    /// What the step is called.
    pub phase: String,
    /// Whether it begins or ends.
    pub edge: Edge,
}

/// An end of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// It begins.
    Begin,
    /// It is over.
    End,
}

/// What a level is told by the one that booted it, one JSON object a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// All levels below have counted: what follows a mark may begin.
    Counted,
}

/// What a level found when it came up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// From the kernel's start to init, in nanoseconds of the level's clock.
    pub boot_ns: u64,
    /// Processors online.
    pub cpus: u32,
    /// Memory the kernel manages, in MiB.
    pub memory_mib: u64,
    /// The processor's vendor: `GenuineIntel`, `AuthenticAMD`.
    pub vendor: String,
    /// `vmx`, `svm` or `off`: what the level was shown.
    pub exposure: String,
    /// KVM's module parameters that matter for nesting, e.g. `kvm_amd.npt`.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadResult {
    /// Its name.
    pub name: String,
    /// Whether it did its work.
    pub ok: bool,
    /// Its exit status, where it was a process that exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// The start of what it printed, or what it found.
    #[serde(default)]
    pub output: String,
}

/// A level's failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// What is known beyond the kind.
    #[serde(default)]
    pub detail: String,
}

/// The kinds of failure of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Its kernel panicked.
    Panic,
    /// Its kernel killed a process, or gave up, for want of memory.
    OutOfMemory,
    /// It gave no sign of life for too long.
    Hang,
    /// It wasn't up in time.
    BootTimeout,
    /// It wasn't done in time.
    Timeout,
    /// It reset itself unasked.
    Reset,
    /// Its processor triple-faulted.
    TripleFault,
    /// It powered off before its order was done.
    PowerOff,
    /// Its init died.
    InitDied,
    /// Its machine couldn't be started.
    NotStarted,
    /// Its monitor or emulator died.
    MonitorDied,
    /// It was stopped from below.
    Stopped,
}

impl FaultKind {
    /// The name used in events, tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::OutOfMemory => "out-of-memory",
            Self::Hang => "hang",
            Self::BootTimeout => "boot-timeout",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::TripleFault => "triple-fault",
            Self::PowerOff => "power-off",
            Self::InitDied => "init-died",
            Self::NotStarted => "not-started",
            Self::MonitorDied => "monitor-died",
            Self::Stopped => "stopped",
        }
    }
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// The guest powered off.
    PowerOff,
    /// The guest ended it by its debug exit.
    DebugExit,
    /// The guest asked for a reset, and the machine doesn't restart.
    Reset,
    /// A vCPU triple-faulted.
    TripleFault,
    /// It was killed from outside.
    Killed,
    /// The monitor couldn't go on.
    Error,
    /// It ended in a way its emulator doesn't tell.
    Exited,
}

/// What a monitor says of itself, one JSON object a line, on the descriptor that
/// `run --events` names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum MonitorEvent {
    /// The vCPUs run.
    Started,
    /// The guest's kernel reported a panic through the pvpanic device.
    Panicked,
    /// What a vCPU tells the guest; one for each, before the machine is started.
    Vcpu(CpuView),
    /// KVM's statistics at the end.
    Exits {
        /// Counters of the machine.
        #[serde(default)]
        vm: BTreeMap<String, u64>,
        /// Counters of each vCPU.
        #[serde(default)]
        vcpus: Vec<BTreeMap<String, u64>>,
    },
    /// The machine ended.
    Ended {
        /// In which way.
        how: How,
        /// What is known beyond that.
        #[serde(default)]
        detail: String,
    },
}

impl Event {
    /// Reads one line that came from a level `lowest` or through it.
    ///
    /// # Errors
    /// [`Error`] names what is wrong; the line is then dropped and counted.
    pub fn parse(line: &[u8], lowest: u8) -> Result<Self, Error> {
        let mut event: Self = serde_json::from_slice(line)?;
        // A machine counts at the marks of its own level and of those above.
        let marked = match &event.what {
            What::Exits { at: Some(mark), .. } => Some((mark.level, event.level)),
            _ => None,
        };
        for (found, lowest) in [(event.level, lowest)].into_iter().chain(marked) {
            if !(lowest..=MAX_LEVEL).contains(&found) {
                return Err(Error::Level { found, lowest });
            }
        }
        event.what.clean()?;
        Ok(event)
    }

    /// The mark that it is, if it is one.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        match &self.what {
            What::Mark { phase, edge } => Some(Mark {
                level: self.level,
                phase: phase.clone(),
                edge: *edge,
            }),
            _ => None,
        }
    }

    /// The event as a line with its end, its texts shortened to [`MAX_TEXT`].
    #[must_use]
    pub fn line(mut self) -> Vec<u8> {
        // Cleaning fails only for counters and versions, which are this side's own.
        let _ = self.what.clean();
        let mut line = serde_json::to_vec(&self).expect("events are plain maps and strings");
        line.push(b'\n');
        line
    }
}

impl Answer {
    /// The answer as a line with its end.
    #[must_use]
    pub fn line(self) -> Vec<u8> {
        let mut line = serde_json::to_vec(&self).expect("an answer is a word");
        line.push(b'\n');
        line
    }
}

impl What {
    fn clean(&mut self) -> Result<(), Error> {
        match self {
            Self::Hello { v } if *v != VERSION => return Err(Error::Version(*v)),
            Self::Vcpu(view) | Self::Cpu(view) if view.msrs.len() > MAX_MSRS => {
                return Err(Error::Msrs(view.msrs.len()));
            }
            Self::Samples { samples, .. } if samples.len() > MAX_SAMPLES => {
                return Err(Error::Samples(samples.len()));
            }
            Self::Environment(environment) => {
                **environment = std::mem::take(&mut **environment).bounded();
            }
            Self::Measured(phase) => phase.clean(),
            Self::Hello { .. }
            | Self::Samples { .. }
            | Self::Heartbeat
            | Self::Vcpu(_)
            | Self::Cpu(_)
            | Self::Done
            | Self::Ended { .. } => {}
            Self::Booted(booted) => {
                for text in [&mut booted.kernel, &mut booted.vendor, &mut booted.exposure] {
                    *text = printable(text, 128);
                }
                booted.parameters = std::mem::take(&mut booted.parameters)
                    .into_iter()
                    .take(16)
                    .map(|(name, value)| (printable(&name, 64), printable(&value, 64)))
                    .collect();
            }
            Self::Progress { text }
            | Self::Warning { text }
            | Self::Runs { workload: text }
            | Self::Mark { phase: text, .. } => {
                *text = printable(text, 512);
            }
            Self::Starts { name, kernel } => {
                *name = printable(name, 256);
                *kernel = printable(kernel, 256);
            }
            Self::Console { line } => *line = printable(line, MAX_TEXT),
            Self::Workload(result) => {
                result.name = printable(&result.name, 256);
                result.output = printable_lines(&result.output, MAX_TEXT);
            }
            Self::Fault(fault) => fault.detail = printable(&fault.detail, 1024),
            Self::Exits { counts, at, .. } => {
                if let Some(mark) = at {
                    mark.phase = printable(&mark.phase, 256);
                }
                if counts.len() > MAX_COUNTS {
                    return Err(Error::Counts(counts.len()));
                }
                *counts = std::mem::take(counts)
                    .into_iter()
                    .map(|(name, count)| (printable(&name, 64), count))
                    .collect();
            }
        }
        Ok(())
    }
}

/// `text` on one line, without terminal control sequences or other control
/// characters (tabs become spaces), cut after at most `limit` bytes.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    filter(text, limit, false)
}

/// Like [`printable`], but keeps line ends.
#[must_use]
pub fn printable_lines(text: &str, limit: usize) -> String {
    filter(text, limit, true)
}

fn filter(text: &str, limit: usize, line_ends: bool) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let kept = match c {
            '\x1b' => {
                // ECMA-48 control sequence: CSI, parameters, one final byte.
                if chars.next_if_eq(&'[').is_some() {
                    while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
                    let _ = chars.next_if(|c| ('@'..='~').contains(c));
                }
                continue;
            }
            '\t' => ' ',
            '\n' if line_ends => '\n',
            c if c.is_control() => continue,
            c => c,
        };
        if out.len() + kept.len_utf8() > limit {
            break;
        }
        out.push(kept);
    }
    out
}

/// What becomes of a line longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlong {
    /// It is dropped and counted.
    Drop,
    /// It is delivered in pieces.
    Split,
}

/// Cuts a byte stream into lines, with bounded memory.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    overlong: Overlong,
    pending: Vec<u8>,
    skipping: bool,
    dropped: u64,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize, overlong: Overlong) -> Self {
        Self {
            limit,
            overlong,
            pending: Vec::new(),
            skipping: false,
            dropped: 0,
        }
    }

    /// Takes `bytes` and hands each line completed by them to `each`, without its
    /// end. A carriage return before the line end belongs to it.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for &byte in bytes {
            if byte == b'\n' {
                if !std::mem::take(&mut self.skipping) {
                    each(self.pending.strip_suffix(b"\r").unwrap_or(&self.pending));
                }
                self.pending.clear();
            } else if self.skipping {
            } else if self.pending.len() < self.limit {
                self.pending.push(byte);
            } else {
                match self.overlong {
                    Overlong::Drop => {
                        self.dropped += 1;
                        self.skipping = true;
                        self.pending.clear();
                    }
                    Overlong::Split => {
                        each(&self.pending);
                        self.pending.clear();
                        self.pending.push(byte);
                    }
                }
            }
        }
    }

    /// Hands a last line without an end to `each`.
    pub fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        if !self.pending.is_empty() && !self.skipping {
            each(&self.pending);
        }
        self.pending.clear();
    }

    /// How many lines were dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests;
