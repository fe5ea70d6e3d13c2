//! Contenders side by side, each with a guest, and the servers that all share.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::Failure;
use crate::contender::{Contender, Settings, Site};
use crate::lab::{self, Lab, Place, Process, SERVICE, SERVICE_PORTS};
use crate::plan::Bench;
use crate::traffic::{Client, PATIENCE, Role, Test};

/// From where to where a client's flows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The client is in the guest.
    Up,
    /// The client is on the host, and goes through a static mapping.
    Down,
}

/// Contenders side by side.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    lab: &'a Lab,
    settings: Settings,
    sites: Vec<(Contender, Site)>,
    _servers: Process,
}

impl<'a> Stage<'a> {
    /// Starts those of whom a cell of these rows is wanted; nothing, if none is. Who
    /// doesn't start has failed in all of them.
    pub(super) fn start(
        bench: &mut Bench<'a>,
        rows: &[&'static str],
        settings: Settings,
    ) -> Result<Option<Self>, Failure> {
        let wanted = bench.wanted(rows);
        Self::start_some(bench, rows, &wanted, settings)
    }

    /// Starts these contenders.
    pub(super) fn start_some(
        bench: &mut Bench<'a>,
        rows: &[&'static str],
        wanted: &[Contender],
        settings: Settings,
    ) -> Result<Option<Self>, Failure> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let lab = bench.lab;
        let servers = serve(lab, settings.cpu)?;
        let mut sites = Vec::new();
        for &contender in wanted {
            match contender.start(lab, settings) {
                Ok(site) => sites.push((contender, site)),
                Err(error) => bench.give_up(rows, contender, &error)?,
            }
        }
        Ok(Some(Self {
            lab,
            settings,
            sites,
            _servers: servers,
        }))
    }

    /// Those that have started.
    pub(super) fn contenders(&self) -> Vec<Contender> {
        self.sites.iter().map(|(contender, _)| *contender).collect()
    }

    /// A contender's guest.
    pub(super) fn site(&mut self, contender: Contender) -> Result<&mut Site, Failure> {
        self.sites
            .iter_mut()
            .find(|(name, _)| *name == contender)
            .map(|(_, site)| site)
            .ok_or_else(|| format!("{contender} did not start").into())
    }

    /// Runs a client to its end and reads what it measured.
    pub(super) fn run<T: DeserializeOwned>(
        &mut self,
        contender: Contender,
        direction: Direction,
        test: Test,
        duration: Duration,
    ) -> Result<T, Failure> {
        let client = self.client(contender, direction, test, duration)?;
        let running = self.spawn(contender, direction, &client)?;
        let outcome = collect(running, duration);
        // That the contender has died explains more than what its client says.
        self.site(contender)?.check()?;
        outcome
    }

    /// How many retransmissions have timed out so far, in the guest and on the host.
    pub(super) fn timeouts(&mut self, contender: Contender) -> Result<u64, Failure> {
        let host = self.lab.host.timeouts()?;
        Ok(host + self.site(contender)?.guest.timeouts()?)
    }

    /// A client's task, as `run` gives it.
    pub(super) fn client(
        &mut self,
        contender: Contender,
        direction: Direction,
        test: Test,
        duration: Duration,
    ) -> Result<Client, Failure> {
        let site = self.site(contender)?;
        Ok(match direction {
            Direction::Up => Client::new(test, SERVICE, SERVICE_PORTS, duration),
            Direction::Down => Client::new(test, site.address, site.first, duration),
        })
    }

    /// Starts a client.
    pub(super) fn spawn(
        &mut self,
        contender: Contender,
        direction: Direction,
        client: &Client,
    ) -> Result<Process, Failure> {
        let (lab, cpu) = (self.lab, self.settings.cpu);
        let site = self.site(contender)?;
        let namespace = match direction {
            Direction::Up => &site.guest,
            Direction::Down => &lab.host,
        };
        let place = Place {
            namespace: Some(namespace),
            cpu,
        };
        lab::traffic_process("client", &place, &Role::Client(client.clone()))
    }
}

/// Starts the host's servers.
pub(super) fn serve(lab: &Lab, cpu: Option<usize>) -> Result<Process, Failure> {
    let place = Place {
        namespace: Some(&lab.host),
        cpu,
    };
    lab::serve(&place, SERVICE, SERVICE_PORTS)
}

/// Waits until a client is done and reads what it measured.
pub(super) fn collect<T: DeserializeOwned>(
    client: Process,
    duration: Duration,
) -> Result<T, Failure> {
    let said = client.finish(duration + 3 * PATIENCE)?;
    Ok(serde_json::from_str(&said)?)
}
