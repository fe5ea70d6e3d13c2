//! What a machine under supervision has counted, by its monitor's control socket or,
//! under another monitor than nestling, by KVM's debugfs; and why, by KVM's
//! tracepoints.

use std::cell::OnceCell;
use std::path::Path;
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::machine::CountedBy;
use crate::api;
use crate::api::message::{MachineInfo, Reply, Request, What};
use crate::stats::debugfs::{self, Vm};
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
    by: CountedBy,
    /// The monitor's process.
    pid: u32,
    /// The machine's counters in debugfs, once they are found.
    vm: OnceCell<Vm>,
    tracer: Option<Tracer>,
}

impl Meter {
    /// The meter of the machine of the process `pid`.
    pub(super) fn new(by: CountedBy, pid: u32) -> Self {
        Self {
            by,
            pid,
            vm: OnceCell::new(),
            tracer: None,
        }
    }

    /// Whether only KVM tells of the machine, and its monitor of neither its start nor
    /// its end.
    pub(super) fn by_kernel(&self) -> bool {
        self.by == CountedBy::Kernel
    }

    /// Counts exits by reason from now on. The vCPUs must be about to run.
    pub(super) fn trace(&mut self) -> Result<(), Error> {
        let threads = match &self.by {
            CountedBy::Monitor(socket) => threads(socket)?,
            CountedBy::Kernel => self.running().unwrap_or_default(),
        };
        self.tracer = Some(Tracer::start(&threads)?);
        Ok(())
    }

    /// The threads of the vCPUs, where KVM knows that all of them run.
    pub(super) fn running(&self) -> Option<Vec<i32>> {
        self.vm().ok()?.threads()
    }

    /// Whether a hypervisor runs in the guest, which may cost it an exit to tell; none
    /// where only its monitor could.
    pub(super) fn hypervisor(&self) -> Option<Hypervisor> {
        let CountedBy::Monitor(socket) = &self.by else {
            return None;
        };
        let machine = info(socket).ok().flatten();
        machine.map(|machine| machine.hypervisor)
    }

    fn vm(&self) -> Result<&Vm, debugfs::Error> {
        match self.vm.get() {
            Some(vm) => Ok(vm),
            None => Vm::of(self.pid).map(|vm| self.vm.get_or_init(|| vm)),
        }
    }

    /// Those of the counts that a table shows: few, for they are reported often, and
    /// an emulated L0's channel is a serial line.
    pub(super) fn read_most_telling(&self) -> Option<Counts> {
        let mut counts = self.counts().ok()??;
        counts.retain(|name, _| look::shows(name));
        Some(counts)
    }

    /// All counts until now, reasons included: the machine's own, and its vCPUs' added up. None while
    /// the monitor doesn't listen, or if the machine has ended.
    pub(super) fn read(&self) -> Result<Option<Counts>, debugfs::Error> {
        let mut counts = self.counts()?;
        if let Some(counts) = &mut counts {
            stats::add(counts, &self.reasons());
        }
        Ok(counts)
    }

    fn counts(&self) -> Result<Option<Counts>, debugfs::Error> {
        match &self.by {
            CountedBy::Monitor(socket) => Ok(counts(socket)),
            CountedBy::Kernel => Ok(self.vm()?.read().ok()),
        }
    }

    /// The exits by reason, where they are traced.
    pub(super) fn reasons(&self) -> Counts {
        let traced = self.tracer.as_ref().and_then(|tracer| tracer.read().ok());
        traced.unwrap_or_default()
    }
}

/// The threads of the vCPUs, as the monitor tells them once all have theirs.
fn threads(socket: &Path) -> Result<Vec<i32>, api::Error> {
    let mut threads = Vec::new();
    for _ in 0..TRIES {
        let Some(machine) = info(socket)? else { break };
        let all = machine.threads.len() >= usize::try_from(machine.cpus).unwrap_or(0);
        threads = machine.threads;
        if all {
            break;
        }
        thread::sleep(PAUSE);
    }
    Ok(threads)
}

fn info(socket: &Path) -> Result<Option<MachineInfo>, api::Error> {
    Ok(match api::ask(socket, Request::Info)? {
        Reply::Info(info) => match info.what {
            What::Machine(machine) => Some(machine),
            What::Nest(_) => None,
        },
        _ => None,
    })
}

fn counts(socket: &Path) -> Option<Counts> {
    let Ok(Reply::Stat(stat)) = api::ask(socket, Request::Stat) else {
        return None;
    };
    let machine = stat.machines.into_iter().next()?;
    let mut counts = machine.vm;
    stats::add(&mut counts, &machine.total);
    Some(counts)
}
