//! A pair of receive and transmit queue at work, with its port.

use std::io;
use std::sync::Arc;

use event_manager::EventSet;
use nestling_arch::GuestMemory;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
};

use super::control::Control;
use super::shared::Shared;
use super::window::{Room, Window};
use crate::net::port::{FRAME_HEADER, MAX_FRAME, Port};
use crate::virtio::device::Interrupt;
use crate::virtio::queue::{Chain, Malformed, VirtQueue};
use crate::virtio::worker::{Handler, Watch};

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const CONTROL: u32 = 2;
const PORT: u32 = 3;
const WAKE: u32 = 4;

/// Frames in one direction before the other direction gets its turn.
const BUDGET: usize = 64;

/// Features with which a received frame may be longer than the MTU.
const LONG_FRAMES: u64 = 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6;

/// What a pair is made of.
pub(super) struct Parts {
    /// Its number among the device's pairs.
    pub(super) number: u16,
    /// The device's name in log lines.
    pub(super) name: String,
    pub(super) port: Box<dyn Port>,
    pub(super) receive: VirtQueue,
    pub(super) transmit: VirtQueue,
}

/// A queue pair and its port.
pub(super) struct Pair {
    parts: Parts,
    control: Option<Control>,
    window: Window,
    /// The bytes that hold any frame.
    wanted: usize,
    outgoing: Chain,
    /// Whether the frame in `outgoing` is yet to be sent.
    pending: bool,
    shared: Arc<Shared>,
    interrupt: Arc<dyn Interrupt>,
}

impl Pair {
    pub(super) fn new(
        parts: Parts,
        features: u64,
        control: Option<Control>,
        memory: Arc<GuestMemory>,
        shared: Arc<Shared>,
        interrupt: Arc<dyn Interrupt>,
    ) -> Self {
        let plain = parts
            .port
            .mtu()
            .map(|mtu| FRAME_HEADER + 14 + 4 + usize::from(mtu));
        let long = features & LONG_FRAMES != 0;
        let wanted = plain.filter(|_| !long).unwrap_or(MAX_FRAME);
        Self {
            control,
            window: Window::new(memory.clone(), features),
            wanted,
            outgoing: Chain::new(&memory),
            pending: false,
            parts,
            shared,
            interrupt,
        }
    }

    pub(super) fn into_port(self) -> Box<dyn Port> {
        self.parts.port
    }

    /// Sends what the guest has, until the port takes no more.
    fn send(&mut self) -> Result<(), Malformed> {
        let queue = &mut self.parts.transmit;
        queue.disable_doorbell()?;
        for _ in 0..BUDGET {
            if !self.pending {
                self.pending = queue.pop(&mut self.outgoing)?;
            }
            if !self.pending {
                queue.signal_used()?;
                if !queue.enable_doorbell()? {
                    return Ok(());
                }
                continue;
            }
            if self.outgoing.readable.len() < FRAME_HEADER {
                return Err(queue.bad_request(self.outgoing.head, "too short for a frame header"));
            }
            let sent = if self.shared.link_up() {
                self.parts.port.send(&self.outgoing.readable)
            } else {
                Ok(())
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The port's readiness brings us back.
                    return queue.signal_used();
                }
                // A frame that the port refuses is lost, as on any wire.
                Err(error) => tracing::trace!(%error, "frame dropped"),
            }
            queue.push_used(self.outgoing.head, 0)?;
            self.pending = false;
        }
        queue.ring_doorbell();
        queue.signal_used()
    }

    /// Gives the guest what the port has, as long as there are buffers.
    fn receive(&mut self) -> Result<(), Malformed> {
        if !self.shared.link_up() {
            return Ok(());
        }
        let queue = &mut self.parts.receive;
        queue.disable_doorbell()?;
        for _ in 0..BUDGET {
            // A frame for which the buffers are too small is cut off.
            if self.window.fill(queue, self.wanted)? == Room::Lacking {
                queue.signal_used()?;
                if !queue.enable_doorbell()? {
                    return Ok(());
                }
                continue;
            }
            let buffers = self.window.buffers();
            match self.parts.port.receive(buffers) {
                // Cut off: drop it, and use the buffers for the next frame.
                Ok(length)
                    if self.window.mergeable()
                        && length == buffers.len()
                        && length < self.wanted => {}
                Ok(length) => {
                    self.window.deliver(length, queue)?;
                    queue.publish_used()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return queue.signal_used();
                }
                Err(error) => {
                    tracing::warn!(device = self.parts.name, %error, "the NIC's port failed: link down");
                    self.shared.set_link(false);
                    return queue.signal_used();
                }
            }
        }
        queue.ring_doorbell();
        queue.signal_used()
    }

    /// Follows a change of the link, or of the number of pairs that the driver
    /// uses.
    fn follow(&mut self) -> Result<(), Malformed> {
        let active = self.parts.number < self.shared.active_pairs();
        if let Err(error) = self.parts.port.set_active(active) {
            tracing::debug!(device = self.parts.name, %error, "cannot change a port's activity");
        }
        self.receive()
    }
}

impl Handler for Pair {
    fn watch(&mut self, watch: &mut Watch<'_, '_>) -> io::Result<()> {
        let Parts {
            port,
            receive,
            transmit,
            number,
            ..
        } = &self.parts;
        watch.add(receive, RECEIVE, EventSet::IN)?;
        watch.add(transmit, TRANSMIT, EventSet::IN)?;
        watch.add(&port.readiness(), PORT, EventSet::IN | EventSet::OUT)?;
        watch.add(
            &self.shared.wakers[usize::from(*number)],
            WAKE,
            EventSet::IN,
        )?;
        receive.ring_doorbell();
        transmit.ring_doorbell();
        if let Some(control) = &self.control {
            watch.add(&control.queue, CONTROL, EventSet::IN)?;
            control.queue.ring_doorbell();
        }
        Ok(())
    }

    fn ready(&mut self, token: u32, _watch: &mut Watch<'_, '_>) -> Result<(), Malformed> {
        match token {
            RECEIVE => self.receive(),
            TRANSMIT => self.send(),
            PORT => {
                if self.pending {
                    self.send()?;
                }
                self.receive()
            }
            WAKE => self.follow(),
            _ => self.control.as_mut().map_or(Ok(()), Control::serve),
        }
    }

    fn identity(&self) -> (&str, &dyn Interrupt) {
        (&self.parts.name, &*self.interrupt)
    }
}
