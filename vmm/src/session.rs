//! One `nestling run`: a machine, booted again after each reset, with the
//! user's terminal in between.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::Arc;

use nestling_arch::nested::Extension;

use crate::api::machine::MachineApi;
use crate::api::{self, Server, directory};
use crate::builder::{self, BuildError, Prepared};
use crate::channel::{How, MonitorEvent};
use crate::cli::Verdict;
use crate::config::{ApiSocket, VmConfig};
use crate::console::keyboard::Keyboard;
use crate::console::streams::{StreamError, Streams, duplicate};
use crate::console::terminal::RawMode;
use crate::exit::End;
use crate::machine::{Controls, MachineError, Report};
use crate::network::{Places, PlacesError};
use crate::signals::Signals;
use crate::stats::live::Current;
use crate::stats::report;

/// Why a machine did not run.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A stream can't be had.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The machine can't be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The virtual network can't be had.
    #[error(transparent)]
    Network(#[from] PlacesError),
    /// Its control socket can't be had.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The machine broke down.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The system refused something around it.
    #[error("can't {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Those that ask the machine to end, and the one that tells of a new terminal size.
const SIGNALS: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGWINCH];

/// Boots the machine, stays until it ends, and says how it was.
///
/// All inputs are opened, and all that can be checked is checked, before the
/// terminal changes its mode and before the first vCPU runs.
pub fn run(config: &VmConfig, json: bool) -> Result<Verdict, SessionError> {
    let host = |what| move |source| SessionError::Host { what, source };
    // Before any thread starts, so that all of them have the signals blocked.
    let signals = Signals::block(&SIGNALS).map_err(host("block signals"))?;
    let streams = Streams::open(config)?;
    let mut events = EventLog::new(&streams)?;
    let prepared = Prepared::new(config)?;
    let places = Places::open(config)?;
    let mut machine = prepared.build(&streams, &places, &events)?;
    let current = Arc::<Current>::default();
    // Removed at the end, before the last words.
    let server = listen(config, prepared.extension(), &current)?;

    let terminal = if builder::takes_keys(config) && io::stdin().is_terminal() {
        RawMode::enter(&io::stdin()).map_err(host("put the terminal into raw mode"))?
    } else {
        None
    };
    let mut controls = Controls {
        signals,
        keyboard: Keyboard::default(),
        stdin_open: true,
        asked_to_end: false,
        current,
    };
    let report = loop {
        for view in mem::take(&mut machine.views) {
            events.write(&MonitorEvent::Vcpu(view));
        }
        events.write(&MonitorEvent::Started);
        let report = machine.run(&mut controls)?;
        match &report.end {
            End::Reset if !config.no_reboot => tracing::debug!("the guest reset the machine"),
            End::TripleFault if !config.no_reboot => {
                tracing::warn!("the guest's processor shut down (triple fault); booting again");
            }
            _ => break report,
        }
        machine = prepared.build(&streams, &places, &events)?;
    };
    drop(terminal);
    drop(server);
    finish(config, &report, &mut events, json)
}

/// Listens where others may ask about the machine. Without a folder for the
/// socket the machine runs all the same, unless a place was named.
fn listen(
    config: &VmConfig,
    extension: Option<Extension>,
    current: &Arc<Current>,
) -> Result<Option<Server>, SessionError> {
    let who = Arc::new(MachineApi::new(config, extension, Arc::clone(current)));
    match &config.api_socket {
        ApiSocket::Off => Ok(None),
        ApiSocket::Path(path) => Ok(Some(Server::listen(path, who)?)),
        ApiSocket::Default => {
            let listening = directory::socket_of(std::process::id())
                .map_err(api::Error::Directory)
                .and_then(|path| Server::listen(&path, who));
            Ok(listening
                .inspect_err(|error| tracing::debug!("`nestling stat` can't ask: {error}"))
                .ok())
        }
    }
}

fn finish(
    config: &VmConfig,
    report: &Report,
    events: &mut EventLog,
    json: bool,
) -> Result<Verdict, SessionError> {
    events.write(&report::exits_event(report));
    let (how, detail) = how(&report.end);
    events.write(&MonitorEvent::Ended {
        how,
        detail: detail.clone(),
    });
    if config.stats {
        let text = if json {
            report::json(report)
        } else {
            report::text(report)
        };
        // Standard output is the guest's; the summary goes beside it.
        io::stderr()
            .write_all(text.as_bytes())
            .map_err(|source| SessionError::Host {
                what: "print the counts",
                source,
            })?;
    }
    if let Some(fault) = fault(report) {
        tracing::error!("{fault}");
        return Ok(Verdict::Failed);
    }
    Ok(match report.end {
        End::DebugExit(status) => Verdict::Guest(status),
        _ => Verdict::Done,
    })
}

/// What went wrong with a machine that has ended, if anything did.
fn fault(report: &Report) -> Option<String> {
    match &report.end {
        End::Failed(reason) => Some(format!("the machine can't go on: {reason}")),
        End::TripleFault => Some("the guest's processor shut down (triple fault)".into()),
        End::PowerOff | End::DebugExit(_) | End::Stopped | End::Reset => report
            .panicked
            .then(|| "the guest's kernel panicked".into()),
    }
}

fn how(end: &End) -> (How, String) {
    match end {
        End::PowerOff => (How::PowerOff, String::new()),
        End::DebugExit(_) => (How::DebugExit, String::new()),
        End::Reset => (How::Reset, String::new()),
        End::TripleFault => (How::TripleFault, String::new()),
        End::Stopped => (How::Killed, String::new()),
        End::Failed(reason) => (How::Error, reason.clone()),
    }
}

/// The machine's life as JSON lines, for whoever asked for it.
#[derive(Debug)]
pub struct EventLog(Option<File>);

impl EventLog {
    fn new(streams: &Streams) -> Result<Self, StreamError> {
        streams
            .events
            .as_ref()
            .map(duplicate)
            .transpose()
            .map(|fd| Self(fd.map(File::from)))
    }

    /// A second writer to the same log.
    pub fn another(&self) -> io::Result<Self> {
        self.0.as_ref().map(File::try_clone).transpose().map(Self)
    }

    /// Writes one event. A listener that has gone away stops nothing.
    pub fn write(&mut self, event: &MonitorEvent) {
        let Some(file) = &mut self.0 else { return };
        let mut line = serde_json::to_vec(event).expect("events are maps of strings and numbers");
        line.push(b'\n');
        if file.write_all(&line).is_err() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::stats::Counts;

    fn ended(end: End, panicked: bool) -> Report {
        Report {
            end,
            panicked,
            vm: Counts::new(),
            vcpus: Vec::new(),
        }
    }

    #[test]
    fn every_end_has_its_event_and_its_verdict() {
        for (end, event, wrong) in [
            (End::PowerOff, How::PowerOff, None),
            (End::DebugExit(3), How::DebugExit, None),
            (End::Reset, How::Reset, None),
            (End::Stopped, How::Killed, None),
            (End::TripleFault, How::TripleFault, Some("triple fault")),
            (End::Failed("reason".into()), How::Error, Some("reason")),
        ] {
            let said = fault(&ended(end.clone(), false));
            assert_eq!(said.is_some(), wrong.is_some(), "{end:?}");
            assert!(said.unwrap_or_default().contains(wrong.unwrap_or_default()));
            let detail = if event == How::Error { "reason" } else { "" };
            assert_eq!(how(&end), (event, detail.to_owned()));
        }
    }

    #[test]
    fn a_panic_makes_an_orderly_end_a_failure_and_hides_no_worse_one() {
        for end in [End::PowerOff, End::Reset, End::Stopped] {
            let said = fault(&ended(end, true)).expect("a failure");
            assert!(said.contains("panicked"));
        }
        let said = fault(&ended(End::Failed("worse".into()), true)).expect("a failure");
        assert!(said.contains("worse"));
    }

    #[test]
    fn events_are_lines_and_a_listener_may_leave() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut log = EventLog(Some(File::from(std::os::fd::OwnedFd::from(writer))));
        log.write(&MonitorEvent::Started);
        let mut line = [0; 64];
        let count = (&reader).read(&mut line).expect("a line");
        assert!(line[..count].ends_with(b"\n"));
        let event: MonitorEvent = serde_json::from_slice(&line[..count]).expect("an event");
        assert_eq!(event, MonitorEvent::Started);
        drop(reader);
        log.write(&MonitorEvent::Started);
        assert!(log.0.is_none());
        log.write(&MonitorEvent::Started);
    }
}
