//! Looking at the machines and nests of a user again and again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::look::{Look, Seen};
use super::trace::Tracer;
use crate::api::message::{MachineInfo, Reply, Request, What};
use crate::api::{self, directory};

/// Looks at all that run, or at one.
#[derive(Debug)]
pub struct Watcher {
    /// What a person calls it, if only one is to be looked at.
    one: Option<String>,
    trace: bool,
    tracers: BTreeMap<PathBuf, Tracer>,
    /// The machines of the last look, and how often their vCPUs were seen in a
    /// guest of their guest since.
    seen: BTreeMap<PathBuf, Vec<Seen>>,
    fault: Option<String>,
}

impl Watcher {
    /// How often to call [`Self::tick`] between two looks.
    pub const TICK: Duration = Duration::from_millis(100);

    /// One that looks at what a person calls `one`, or at all; with `trace` at the
    /// reasons of exits, too.
    #[must_use]
    pub fn new(one: Option<String>, trace: bool) -> Self {
        Self {
            one,
            trace,
            tracers: BTreeMap::new(),
            seen: BTreeMap::new(),
            fault: None,
        }
    }

    /// Looks at all of them. One that ends meanwhile is left out.
    ///
    /// # Errors
    /// The one isn't there, or there is no folder of sockets.
    pub fn look(&mut self) -> Result<Vec<Look>, api::Error> {
        let found = match &self.one {
            Some(name) => vec![directory::find(name)?],
            None => directory::running()?,
        };
        self.tick();
        let mut seen = std::mem::take(&mut self.seen);
        let mut looks = Vec::new();
        for (socket, info) in found {
            let Ok(Reply::Stat(stat)) = api::ask(&socket, Request::Stat) else {
                continue;
            };
            let mut look = Look {
                info,
                stat: *stat,
                seen: seen.remove(&socket).unwrap_or_default(),
            };
            if let What::Machine(machine) = &look.info.what {
                self.seen.insert(socket.clone(), Vec::new());
                if self.trace {
                    let reasons = self.reasons(&socket, machine);
                    look.add(&reasons);
                }
            }
            looks.push(look);
        }
        self.tracers
            .retain(|socket, _| self.seen.contains_key(socket));
        Ok(looks)
    }

    /// Sees which vCPUs are in a guest of their guest now.
    pub fn tick(&mut self) {
        for (socket, seen) in &mut self.seen {
            let Ok(Reply::Stat(stat)) = api::ask(socket, Request::Stat) else {
                continue;
            };
            let Some(machine) = stat.machines.first() else {
                continue;
            };
            seen.resize(machine.vcpus.len(), Seen::default());
            for ((index, seen), vcpu) in seen.iter_mut().enumerate().zip(&machine.vcpus) {
                let in_guest = vcpu.instants.get("guest_mode").is_some_and(|on| *on != 0);
                seen.vcpu = index;
                seen.looks += 1;
                seen.in_guest += u32::from(in_guest);
            }
        }
    }

    /// Why exits aren't traced, said once.
    pub fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    /// The exits of a machine by reason since it was first looked at.
    fn reasons(&mut self, socket: &PathBuf, machine: &MachineInfo) -> super::Counts {
        let known = self.tracers.get(socket);
        if known.is_none_or(|tracer| tracer.threads() != machine.threads) {
            match Tracer::start(&machine.threads) {
                Ok(tracer) => {
                    self.tracers.insert(socket.clone(), tracer);
                }
                Err(error) => {
                    self.fault = Some(error.to_string());
                    self.trace = false;
                }
            }
        }
        let tracer = self.tracers.get(socket);
        tracer
            .and_then(|tracer| tracer.read().ok())
            .unwrap_or_default()
    }
}
