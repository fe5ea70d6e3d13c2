//! The workers of a NIC that moves its frames itself, and their ports.

use std::io;

use super::pair::{Pair, Parts};
use super::{Active, Queues};
use crate::net::port::{Offloads, Port};
use crate::virtio::device::ActivateError;
use crate::virtio::worker::Worker;

/// A worker for each queue pair that the driver uses. It takes the pair's port
/// along, and brings it back when it stops.
pub(super) struct Workers {
    /// Ports that no worker has.
    ports: Vec<Box<dyn Port>>,
    running: Vec<Worker<Pair>>,
}

impl Workers {
    /// None is running.
    pub(super) fn new(ports: Vec<Box<dyn Port>>) -> Self {
        Self {
            ports,
            running: Vec::new(),
        }
    }

    /// Starts a worker for each of the device's pairs. On an error, some may
    /// have been started.
    pub(super) fn start(&mut self, active: Active, number: usize) -> Result<(), ActivateError> {
        self.prepare(active.offloads)
            .map_err(|source| ActivateError::Host {
                what: "set up the NIC's port",
                source,
            })?;
        let Queues { pairs, mut control } = active.queues;
        let ports: Vec<_> = self.ports.drain(..pairs.len()).collect();
        let mut failure = None;
        for (index, ((receive, transmit), port)) in (0..).zip(pairs.into_iter().zip(ports)) {
            let parts = Parts {
                number: index,
                name: active.name.clone(),
                port,
                receive,
                transmit,
            };
            let pair = Pair::new(
                parts,
                active.features,
                control.take(),
                active.memory.clone(),
                active.shared.clone(),
                active.interrupt.clone(),
            );
            if failure.is_some() {
                self.ports.push(pair.into_port());
                continue;
            }
            match Worker::spawn(&format!("nestling-net{number}.{index}"), pair) {
                Ok(worker) => self.running.push(worker),
                Err(failed) => {
                    self.ports.push(failed.handler.into_port());
                    failure = Some(failed.error);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn prepare(&mut self, offloads: Offloads) -> io::Result<()> {
        for (number, port) in self.ports.iter_mut().enumerate() {
            // Settings need an attached queue; then the first pair alone is
            // used, until the driver asks for more.
            port.set_active(true)?;
            port.accept(offloads)?;
            port.set_active(number == 0)?;
        }
        Ok(())
    }

    /// Stops all workers.
    pub(super) fn stop(&mut self) {
        let running = self.running.drain(..);
        let ports = running.map(|worker| worker.stop().into_port());
        // Ports keep their order: those of the workers come first.
        self.ports.splice(0..0, ports);
    }

    /// The ports that no worker has.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.ports.len()
    }
}
