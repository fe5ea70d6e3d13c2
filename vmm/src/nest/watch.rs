//! What a machine's signs mean: the verdict on a level, from what its console,
//! its channel, its monitor and its process say, and from what they don't.
//!
//! Pure: signs and the time go in, events and a verdict come out.

use std::process::ExitStatus;
use std::time::Duration;

use crate::channel::{
    Event, Fault, FaultKind, How, MAX_COUNTS, MAX_TEXT, Mark, MonitorEvent, What, WorkloadResult,
    printable,
};
use crate::order::Limits;
use crate::stats::live::Hypervisor;
use crate::stats::{self, Counts};

/// The most events per second taken from below.
const RATE: u32 = 1000;
/// The most in one burst.
const BURST: u32 = 8000;
/// How many of them are kept for events other than text.
const RESERVE: u32 = 1000;
/// How long a guest that is done may take to power off.
const POWER_OFF: Duration = Duration::from_secs(120);
/// The monitor is on this side, but it is what a guest would break out into: its
/// words are bounded and made printable as a guest's are, in bytes.
const MAX_DETAIL: usize = 1024;
const MAX_NAME: usize = 64;
/// What the Linux kernel prints first when it panics.
const PANIC_TEXT: &str = "Kernel panic - not syncing: ";

/// Watches one machine on behalf of the level below it.
#[derive(Debug)]
pub struct Watch {
    level: u8,
    limits: Limits,
    /// The time of the last sign of life of this level's init.
    heard: Duration,
    /// How long nobody may tell anything, and when somebody did last.
    quiet: Option<Duration>,
    told: Duration,
    up: bool,
    done: Option<Duration>,
    panicked: bool,
    panic_text: Option<String>,
    started: bool,
    ended: Option<(How, String)>,
    fault: Option<Fault>,
    stopping: bool,
    bucket: Bucket,
    other: Option<Other>,
}

/// Another system than nestling, of which only its console and its end tell.
#[derive(Debug)]
struct Other {
    name: String,
    /// The exit status by which it says that it has done its work, if it has one.
    status: Option<u8>,
    /// The start of what its console said.
    output: String,
}

/// What became of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How it ended.
    pub how: How,
    /// What went wrong with the level, if something did.
    pub fault: Option<Fault>,
    /// What came of a system that can't report its result itself.
    pub result: Option<WorkloadResult>,
}

impl Watch {
    /// A watch over the machine of `level`, which is started at time zero.
    #[must_use]
    pub fn new(level: u8, limits: Limits) -> Self {
        Self {
            level,
            limits,
            heard: Duration::ZERO,
            quiet: None,
            told: Duration::ZERO,
            up: false,
            done: None,
            panicked: false,
            panic_text: None,
            started: false,
            ended: None,
            fault: None,
            stopping: false,
            bucket: Bucket {
                tokens: BURST,
                at: Duration::ZERO,
                dropped: 0,
            },
            other: None,
        }
    }

    /// As this watch, but once init is up, somebody of this level or one above has to tell
    /// something every so often; that init is alive is not enough. It is for levels whose
    /// own clocks don't go by this one.
    #[must_use]
    pub fn never_quiet_for(self, limit: Duration) -> Self {
        Self {
            quiet: Some(limit),
            ..self
        }
    }

    /// A watch over a machine of `level` with another system, which the order
    /// calls `name`: it has only its end to reach within `total_s` seconds, by a
    /// debug exit with `status`, or by powering off.
    #[must_use]
    pub fn other(level: u8, name: &str, status: Option<u8>, total_s: u32) -> Self {
        let limits = Limits {
            boot_s: total_s,
            silence_s: total_s,
            total_s,
        };
        Self {
            other: Some(Other {
                name: name.to_owned(),
                status,
                output: String::new(),
            }),
            ..Self::new(level, limits)
        }
    }

    /// The level of the machine.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// A line of the console. Answers the event that reports it, if the rate allows.
    pub fn console(&mut self, line: &[u8], now: Duration) -> Option<Event> {
        let line = printable(&String::from_utf8_lossy(line), MAX_TEXT);
        if let Some((_, text)) = line.split_once(PANIC_TEXT) {
            self.panic_text.get_or_insert_with(|| text.to_owned());
        }
        if let Some(Other { output, .. }) = &mut self.other
            && output.len() + line.len() < MAX_TEXT
        {
            output.push_str(&line);
            output.push('\n');
        }
        let what = What::Console { line };
        self.bucket.take(now, RESERVE).then_some(Event {
            level: self.level,
            what,
        })
    }

    /// An event that came up the channel and may speak of this level. Answers it
    /// if it is to be passed on.
    pub fn event(&mut self, event: Event, now: Duration) -> Option<Event> {
        let own = event.level == self.level;
        if own {
            self.heard = now;
            self.up = true;
        }
        if event.what != What::Heartbeat {
            self.told = now;
        }
        match &event.what {
            What::Heartbeat => return None,
            // How this level's machine started and ended and what it cost is for
            // this side to say, and its console is read here.
            What::Starts { .. }
            | What::Ended { .. }
            | What::Exits { .. }
            | What::Vcpu(_)
            | What::Console { .. }
                if own =>
            {
                return None;
            }
            What::Fault(fault) if own => {
                self.fault.get_or_insert_with(|| fault.clone());
                return None;
            }
            What::Done if own => {
                self.done.get_or_insert(now);
            }
            _ => {}
        }
        // Text gives way first, so that a chatty guest's results still arrive.
        let text = matches!(event.what, What::Console { .. } | What::Progress { .. });
        self.bucket
            .take(now, if text { RESERVE } else { 0 })
            .then_some(event)
    }

    /// An event of the monitor itself. Answers what it reports upward.
    pub fn monitor(&mut self, event: MonitorEvent) -> Option<Event> {
        match event {
            MonitorEvent::Started => self.started = true,
            MonitorEvent::Panicked => self.panicked = true,
            MonitorEvent::Vcpu(view) => {
                return Some(Event {
                    level: self.level,
                    what: What::Vcpu(view),
                });
            }
            MonitorEvent::Ended { how, detail } => {
                self.ended = Some((how, printable(&detail, MAX_DETAIL)));
            }
            MonitorEvent::Exits { vm, vcpus } => {
                let mut counts = vm;
                for vcpu in &vcpus {
                    stats::add(&mut counts, vcpu);
                }
                return Some(self.counted(counts, None, None));
            }
        }
        None
    }

    /// The machine's counts as they were `at` a mark, or now. Answers what reports
    /// them upward.
    #[must_use]
    pub fn counted(
        &self,
        counts: Counts,
        at: Option<Mark>,
        hypervisor: Option<Hypervisor>,
    ) -> Event {
        let counts = counts
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| (printable(&name, MAX_NAME), n))
            .take(MAX_COUNTS)
            .collect();
        Event {
            level: self.level,
            what: What::Exits {
                counts,
                at,
                hypervisor,
            },
        }
    }

    /// The machine is being stopped from this side.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether time is up, and for what. The machine must then be killed.
    pub fn overdue(&mut self, now: Duration) -> bool {
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        let Limits {
            boot_s,
            silence_s,
            total_s,
        } = self.limits;
        let (kind, detail) = if now >= seconds(total_s) {
            (FaultKind::Timeout, format!("not done within {total_s} s"))
        } else if !self.up && now >= seconds(boot_s) {
            (
                FaultKind::BootTimeout,
                format!("init not up within {boot_s} s"),
            )
        } else if self.done.is_some_and(|done| now >= done + POWER_OFF) {
            (FaultKind::Hang, "done, but did not power off".into())
        } else if self.up && self.done.is_none() && now >= self.heard + seconds(silence_s) {
            (
                FaultKind::Hang,
                format!("no sign of life for {silence_s} s"),
            )
        } else if let Some((limit, end)) = self.quiet()
            && now >= end
        {
            (
                FaultKind::Hang,
                format!("no level has told anything for {} s", limit.as_secs()),
            )
        } else {
            return false;
        };
        self.fault.get_or_insert(Fault { kind, detail });
        true
    }

    /// The next time at which [`overdue`](Self::overdue) may say yes.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        let phase = match (self.up, self.done) {
            (_, Some(done)) => done + POWER_OFF,
            (true, None) => self.heard + seconds(self.limits.silence_s),
            (false, None) => seconds(self.limits.boot_s),
        };
        let quiet = self.quiet().map_or(Duration::MAX, |(_, end)| end);
        phase.min(quiet).min(seconds(self.limits.total_s))
    }

    /// How long nobody may tell anything, if that matters now, and when it is too long.
    fn quiet(&self) -> Option<(Duration, Duration)> {
        let limit = self.quiet.filter(|_| self.up && self.done.is_none())?;
        Some((limit, self.told + limit))
    }

    /// How many events were dropped because they came too fast.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.bucket.dropped
    }

    /// The process has ended: what became of the machine. `messages` is what it
    /// said last.
    #[must_use]
    pub fn verdict(self, status: ExitStatus, messages: &str) -> Verdict {
        let (how, detail) = match self.ended {
            Some((how, detail)) => (how, detail),
            // A monitor that runs tells its end, so one that didn't was killed.
            None if self.started || self.fault.is_some() => (How::Killed, String::new()),
            None => (How::Exited, String::new()),
        };
        let said = |fallback: &str| {
            [detail.as_str(), messages, fallback]
                .into_iter()
                .find(|text| !text.is_empty())
                .unwrap_or_default()
                .to_owned()
        };
        let did_its_work = match &self.other {
            Some(Other { status: None, .. }) => how == How::PowerOff,
            Some(Other {
                status: Some(wanted),
                ..
            }) => how == How::DebugExit && status.code() == Some((*wanted).into()),
            None => self.done.is_some() && !matches!(how, How::Killed | How::Error),
        };
        let fault = if self.panicked || (self.panic_text.is_some() && how != How::PowerOff) {
            let text = self.panic_text.unwrap_or_default();
            let memory = text.contains("Out of memory") || text.contains("deadlocked on memory");
            let kind = if memory {
                FaultKind::OutOfMemory
            } else {
                FaultKind::Panic
            };
            Some(Fault { kind, detail: text })
        } else if self.fault.is_some() {
            self.fault
        } else if self.stopping {
            Some(Fault {
                kind: FaultKind::Stopped,
                detail: "from below".into(),
            })
        } else if let (How::TripleFault, _) | (How::Reset, None) = (how, self.done) {
            let kind = if how == How::Reset {
                FaultKind::Reset
            } else {
                FaultKind::TripleFault
            };
            Some(Fault { kind, detail })
        } else if did_its_work || how == How::DebugExit {
            None
        } else if how == How::Exited && self.up && status.success() {
            // An emulator told to end at a reset ends as if all were well.
            Some(Fault {
                kind: FaultKind::Reset,
                detail: "the emulator ended before the order was done".into(),
            })
        } else if how == How::PowerOff {
            Some(Fault {
                kind: FaultKind::PowerOff,
                detail: "before its order was done".into(),
            })
        } else {
            let kind = if self.up || self.started {
                FaultKind::MonitorDied
            } else {
                FaultKind::NotStarted
            };
            Some(Fault {
                kind,
                detail: said(&status.to_string()),
            })
        };
        let result = self.other.map(|other| WorkloadResult {
            name: other.name,
            ok: did_its_work && fault.is_none(),
            status: status.code(),
            output: other.output,
        });
        Verdict { how, fault, result }
    }
}

/// A token bucket over events.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    at: Duration,
    dropped: u64,
}

impl Bucket {
    fn refill(&mut self, now: Duration) {
        let millis = now.saturating_sub(self.at).as_millis();
        let fresh = u32::try_from(millis * u128::from(RATE) / 1000).unwrap_or(BURST);
        if fresh > 0 {
            self.at = now;
            self.tokens = self.tokens.saturating_add(fresh).min(BURST);
        }
    }

    /// Takes a token unless that leaves fewer than `reserve`.
    fn take(&mut self, now: Duration, reserve: u32) -> bool {
        self.refill(now);
        if self.tokens > reserve {
            self.tokens -= 1;
            return true;
        }
        self.dropped += 1;
        false
    }
}

#[cfg(test)]
mod tests;
