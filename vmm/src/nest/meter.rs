//! What a machine under supervision has counted, by its monitor's control socket,
//! and why, by KVM's tracepoints.

use std::path::PathBuf;

use thiserror::Error;

use crate::api;
use crate::api::message::{Reply, Request, What};
use crate::stats::trace::{self, Tracer};
use crate::stats::{self, Counts};

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

    /// Counts exits by reason from now on. The vCPUs must run.
    pub(super) fn trace(&mut self) -> Result<(), Error> {
        let Reply::Info(info) = api::ask(&self.socket, Request::Info)? else {
            return Ok(());
        };
        if let What::Machine(machine) = info.what {
            self.tracer = Some(Tracer::start(&machine.threads)?);
        }
        Ok(())
    }

    /// The counts until now: the machine's own, and its vCPUs' added up. None while
    /// the monitor doesn't listen.
    pub(super) fn read(&self) -> Option<Counts> {
        let Ok(Reply::Stat(stat)) = api::ask(&self.socket, Request::Stat) else {
            return None;
        };
        let machine = stat.machines.into_iter().next()?;
        let mut counts = machine.vm;
        stats::add(&mut counts, &machine.total);
        stats::add(&mut counts, &self.reasons());
        Some(counts)
    }

    /// The exits by reason, where they are traced.
    pub(super) fn reasons(&self) -> Counts {
        let traced = self.tracer.as_ref().and_then(|tracer| tracer.read().ok());
        traced.unwrap_or_default()
    }
}
