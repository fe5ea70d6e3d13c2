//! What a machine under supervision has counted, by its monitor's control socket,
//! and why, by KVM's tracepoints.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::api;
use crate::api::message::{MachineInfo, Reply, Request, What};
use crate::stats::live::Hypervisor;
use crate::stats::trace::{self, Tracer};
use crate::stats::{self, Counts, look};

/// How often it is looked whether all vCPUs have their threads, and how long it
/// is between two looks.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Why a machine's exits aren't traced.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error(transparent)]
    Api(#[from] api::Error),
    #[error(transparent)]
    Trace(#[from] trace::Error),
}

/// Reads a machine's counts.
#[derive(Debug)]
pub(super) struct Meter {
    socket: PathBuf,
    tracer: Option<Tracer>,
}

impl Meter {
    /// The meter of the machine whose monitor listens at `socket`.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            tracer: None,
        }
    }

    /// Counts exits by reason from now on. The vCPUs must be about to run.
    pub(super) fn trace(&mut self) -> Result<(), Error> {
        let mut threads = Vec::new();
        for _ in 0..TRIES {
            let Some(machine) = self.info()? else { break };
            let all = machine.threads.len() >= usize::try_from(machine.cpus).unwrap_or(0);
            threads = machine.threads;
            if all {
                break;
            }
            thread::sleep(PAUSE);
        }
        self.tracer = Some(Tracer::start(&threads)?);
        Ok(())
    }

    /// Whether a hypervisor runs in the guest, which may cost it an exit to tell.
    pub(super) fn hypervisor(&self) -> Option<Hypervisor> {
        let machine = self.info().ok().flatten();
        machine.map(|machine| machine.hypervisor)
    }

    fn info(&self) -> Result<Option<MachineInfo>, api::Error> {
        Ok(match api::ask(&self.socket, Request::Info)? {
            Reply::Info(info) => match info.what {
                What::Machine(machine) => Some(machine),
                What::Nest(_) => None,
            },
            _ => None,
        })
    }

    /// Those of the counts that a table shows: few, for they are reported often, and
    /// an emulated L0's channel is a serial line.
    pub(super) fn read_most_telling(&self) -> Option<Counts> {
        let mut counts = self.counts()?;
        counts.retain(|name, _| look::shows(name));
        Some(counts)
    }

    /// All counts until now, reasons included: the machine's own, and its vCPUs' added up. None while
    /// the monitor doesn't listen.
    pub(super) fn read(&self) -> Option<Counts> {
        let mut counts = self.counts()?;
        stats::add(&mut counts, &self.reasons());
        Some(counts)
    }

    fn counts(&self) -> Option<Counts> {
        let Ok(Reply::Stat(stat)) = api::ask(&self.socket, Request::Stat) else {
            return None;
        };
        let machine = stat.machines.into_iter().next()?;
        let mut counts = machine.vm;
        stats::add(&mut counts, &machine.total);
        Some(counts)
    }

    /// The exits by reason, where they are traced.
    pub(super) fn reasons(&self) -> Counts {
        let traced = self.tracer.as_ref().and_then(|tracer| tracer.read().ok());
        traced.unwrap_or_default()
    }
}
