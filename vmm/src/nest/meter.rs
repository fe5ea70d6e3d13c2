//! What a machine under supervision has counted, by its monitor's control socket.

use std::path::PathBuf;

use crate::api;
use crate::api::message::{Reply, Request};
use crate::stats::{self, Counts};

/// Reads a machine's counts.
#[derive(Debug)]
pub(super) struct Meter {
    socket: PathBuf,
}

impl Meter {
    /// The meter of the machine whose monitor listens at `socket`.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The counts until now: the machine's own, and its vCPUs' added up. None while
    /// the monitor doesn't listen.
    pub(super) fn read(&mut self) -> Option<Counts> {
        let Ok(Reply::Stat(stat)) = api::ask(&self.socket, Request::Stat) else {
            return None;
        };
        let machine = stat.machines.into_iter().next()?;
        let mut counts = machine.vm;
        stats::add(&mut counts, &machine.total);
        Some(counts)
    }
}
