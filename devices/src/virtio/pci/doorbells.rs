//! How a driver tells a device of available buffers (virtio 1.3, 4.1.4.4).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::host::Host;
use crate::ratelimit::{RateLimit, warn_limited};

/// Bytes from one queue's notification address to the next.
pub(super) const NOTIFY_STEP: u32 = 4;

/// The doorbells of a device's queues.
///
/// While the device runs and its BAR is mapped, a write to a queue's address
/// goes to the queue's eventfd without leaving the kernel. Before the driver is
/// ready it has nothing to notify of, and nothing happens.
pub(super) struct Doorbells {
    name: String,
    host: Arc<dyn Host>,
    eventfds: Vec<EventFd>,
    /// Where the first queue's address is.
    base: Option<u64>,
    /// The queues that are in use.
    running: Vec<u16>,
    /// What the host has: addresses and queues.
    lent: Vec<(u64, u16)>,
    refused: RateLimit,
}

impl Doorbells {
    pub(super) fn new(name: &str, queues: usize, host: Arc<dyn Host>) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            host,
            eventfds: (0..queues)
                .map(|_| EventFd::new(EFD_NONBLOCK))
                .collect::<Result<_, _>>()?,
            base: None,
            running: Vec::new(),
            lent: Vec::new(),
            refused: RateLimit::new(3, Duration::from_secs(60)),
        })
    }

    /// The eventfd of a queue, for the device, without a signal from before.
    pub(super) fn fresh(&self, queue: u16) -> io::Result<EventFd> {
        let eventfd = &self.eventfds[usize::from(queue)];
        // It fails if there is no signal.
        let _ = eventfd.read();
        eventfd.try_clone()
    }

    /// The device runs with these queues.
    pub(super) fn start(&mut self, queues: Vec<u16>) {
        self.running = queues;
        self.lend();
    }

    /// The device doesn't run any more.
    pub(super) fn stop(&mut self) {
        self.take_back();
        self.running.clear();
    }

    /// The first queue's address is now `base`, or none.
    pub(super) fn moved(&mut self, base: Option<u64>) {
        self.take_back();
        self.base = base;
        self.lend();
    }

    /// Takes a write that came to user space, at `offset` from the first
    /// queue's address.
    pub(super) fn ring(&self, offset: u64) {
        let step = u64::from(NOTIFY_STEP);
        let queue = u16::try_from(offset / step).ok();
        let running = self.running.iter().find(|running| Some(**running) == queue);
        if let Some(queue) = running.filter(|_| offset.is_multiple_of(step)) {
            // It fails only if the counter is at its end, with a signal there.
            let _ = self.eventfds[usize::from(*queue)].write(1);
        }
    }

    fn lend(&mut self) {
        let Some(base) = self.base else { return };
        for &queue in &self.running {
            let address = base + u64::from(NOTIFY_STEP) * u64::from(queue);
            match self
                .host
                .add_doorbell(address, &self.eventfds[usize::from(queue)])
            {
                Ok(()) => self.lent.push((address, queue)),
                // Writes come to user space instead.
                Err(error) => warn_limited!(
                    self.refused,
                    "queue {queue} of {} is notified by exits: {error}",
                    self.name
                ),
            }
        }
    }

    fn take_back(&mut self) {
        for (address, queue) in self.lent.drain(..) {
            let eventfd = &self.eventfds[usize::from(queue)];
            if let Err(error) = self.host.remove_doorbell(address, eventfd) {
                warn_limited!(
                    self.refused,
                    "the doorbell of queue {queue} of {} stays at {address:#x}: {error}",
                    self.name
                );
            }
        }
    }
}
