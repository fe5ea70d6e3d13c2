//! virtio-net (virtio 1.3, 5.1): the NIC; its wire is a [`Port`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
    VIRTIO_NET_S_LINK_UP,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::{Immutable, IntoBytes, LE, U16};

mod control;
mod pair;
#[cfg(test)]
pub(super) mod tests;

use control::Control;
use pair::Pair;

use crate::net::mac::MacAddress;
use crate::net::port::{Offloads, Port};
use crate::virtio::config;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::{RING_FEATURES, VirtQueue};
use crate::virtio::worker::Worker;

/// Entries in each receive and transmit queue.
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;

/// The features that follow from what a port takes over, and from what it
/// leaves to a guest that can do it.
const OFFLOAD_FEATURES: [(Offloads, u64, u64); 5] = [
    (
        Offloads::CHECKSUM,
        1 << VIRTIO_NET_F_CSUM,
        1 << VIRTIO_NET_F_GUEST_CSUM,
    ),
    (
        Offloads::TSO4,
        1 << VIRTIO_NET_F_HOST_TSO4,
        1 << VIRTIO_NET_F_GUEST_TSO4,
    ),
    (
        Offloads::TSO6,
        1 << VIRTIO_NET_F_HOST_TSO6,
        1 << VIRTIO_NET_F_GUEST_TSO6,
    ),
    (
        Offloads::ECN,
        1 << VIRTIO_NET_F_HOST_ECN,
        1 << VIRTIO_NET_F_GUEST_ECN,
    ),
    (
        Offloads::USO,
        1 << VIRTIO_NET_F_HOST_USO,
        1 << VIRTIO_NET_F_GUEST_USO4 | 1 << VIRTIO_NET_F_GUEST_USO6,
    ),
];

/// How a NIC appears to the guest.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The device's number among the NICs, for thread names and log lines.
    pub number: usize,
    /// The NIC's address.
    pub mac: MacAddress,
}

/// struct virtio_net_config (virtio 1.3, 5.1.4) up to the MTU.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    mac: [u8; 6],
    status: U16<LE>,
    max_virtqueue_pairs: U16<LE>,
    mtu: U16<LE>,
}

/// What the device and its workers have in common.
#[derive(Debug)]
struct Shared {
    /// The address in the lower six bytes, its first byte uppermost.
    mac: AtomicU64,
    link_up: AtomicBool,
    /// How many queue pairs the driver uses.
    active_pairs: AtomicU16,
    /// Wakes each pair when their number changes.
    wakers: Vec<EventFd>,
}

impl Shared {
    fn mac(&self) -> [u8; 6] {
        let [_, _, mac @ ..] = self.mac.load(Ordering::Relaxed).to_be_bytes();
        mac
    }

    fn set_mac(&self, mac: MacAddress) {
        let [a, b, c, d, e, f] = mac.bytes();
        self.mac.store(
            u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
            Ordering::Relaxed,
        );
    }

    fn set_active_pairs(&self, pairs: u16) {
        self.active_pairs.store(pairs, Ordering::Relaxed);
        for waker in &self.wakers {
            // Only a counter at its limit could make this fail, and then the
            // descriptor is readable as it should be.
            let _ = waker.write(1);
        }
    }
}

/// A virtio NIC.
pub struct Net {
    /// The ports of the queue pairs while no worker has them.
    ports: Vec<Box<dyn Port>>,
    pairs: u16,
    offloads: Offloads,
    mtu: Option<u16>,
    number: usize,
    mac: MacAddress,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
    workers: Vec<Worker<Pair>>,
}

impl Net {
    /// A NIC with a queue pair for each of `ports`, of which there must be at
    /// least one.
    pub fn new(ports: Vec<Box<dyn Port>>, config: &NetConfig) -> io::Result<Self> {
        let pairs = u16::try_from(ports.len())
            .ok()
            .filter(|pairs| (1..=256).contains(pairs));
        let Some(pairs) = pairs else {
            let message = format!("a NIC has 1 to 256 queue pairs, not {}", ports.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * ports.len()];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let wakers = ports
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC));
        let shared = Shared {
            mac: AtomicU64::new(0),
            link_up: AtomicBool::new(true),
            active_pairs: AtomicU16::new(1),
            wakers: wakers.collect::<io::Result<_>>()?,
        };
        shared.set_mac(config.mac);
        Ok(Self {
            offloads: ports
                .iter()
                .fold(Offloads::all(), |all, port| all & port.offloads()),
            mtu: ports.iter().filter_map(|port| port.mtu()).min(),
            ports,
            pairs,
            number: config.number,
            mac: config.mac,
            queue_sizes,
            shared: Arc::new(shared),
            workers: Vec::new(),
        })
    }

    /// What the guest, by the features it chose, does with received frames.
    fn guest_offloads(features: u64) -> Offloads {
        let chosen = OFFLOAD_FEATURES
            .iter()
            .filter(|(_, _, guest)| features & guest == *guest);
        let mut offloads: Offloads = chosen.map(|(offload, _, _)| *offload).collect();
        // Some need others (5.1.3.1); a driver that left those out gets none.
        if !offloads.contains(Offloads::CHECKSUM) {
            return Offloads::empty();
        }
        if !offloads.intersects(Offloads::TSO4 | Offloads::TSO6) {
            offloads.remove(Offloads::ECN);
        }
        offloads
    }

    fn prepare_ports(&mut self, features: u64) -> io::Result<()> {
        let offloads = Self::guest_offloads(features) & self.offloads;
        for (number, port) in self.ports.iter_mut().enumerate() {
            // Settings need an attached queue; then the first pair alone is
            // used, until the driver asks for more.
            port.set_active(true)?;
            port.accept(offloads)?;
            port.set_active(number == 0)?;
        }
        Ok(())
    }

    /// Takes queues `2n` and `2n + 1` of each pair, and the control queue.
    fn pairs(&mut self, activation: Activation) -> Result<Vec<Pair>, ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let multiqueue = features & 1 << VIRTIO_NET_F_MQ != 0;
        // Without multiqueue the control queue has the place of a second
        // pair's receive queue (5.1.2).
        let pairs = if multiqueue { self.pairs } else { 1 };
        let enabled = queues.len();
        let mut queues = queues.into_iter().peekable();
        let mut next = |index: u16| {
            let queue = queues.next_if(|queue| queue.index == index)?;
            Some(VirtQueue::new(
                queue,
                features,
                memory.clone(),
                interrupt.clone(),
            ))
        };
        // A driver may leave out pairs that it will not use.
        let taken: Vec<_> = (0..pairs)
            .map_while(|pair| Some((next(2 * pair)?, next(2 * pair + 1)?)))
            .collect();
        let mut control = next(2 * pairs)
            .map(|queue| Control::new(queue, memory.clone(), self.shared.clone(), multiqueue));
        if taken.is_empty() {
            return Err(ActivateError::MissingQueues { enabled, needed: 2 });
        }
        let ports = self.ports.drain(..taken.len());
        let pairs = (0..)
            .zip(taken)
            .zip(ports)
            .map(|((number, (receive, transmit)), port)| {
                let name = format!("NIC {}", self.number);
                let parts = pair::Parts {
                    number,
                    name,
                    port,
                    receive,
                    transmit,
                };
                let shared = self.shared.clone();
                Pair::new(
                    parts,
                    features,
                    control.take(),
                    memory.clone(),
                    shared,
                    interrupt.clone(),
                )
            });
        Ok(pairs.collect())
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let mut features = RING_FEATURES
            | 1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_STATUS
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | 1 << VIRTIO_NET_F_CTRL_VQ
            | 1 << VIRTIO_NET_F_CTRL_RX
            | 1 << VIRTIO_NET_F_CTRL_RX_EXTRA
            | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR;
        for (offload, host, guest) in OFFLOAD_FEATURES {
            if self.offloads.contains(offload) {
                features |= host | guest;
            }
        }
        if self.mtu.is_some() {
            features |= 1 << VIRTIO_NET_F_MTU;
        }
        if self.pairs > 1 {
            features |= 1 << VIRTIO_NET_F_MQ;
        }
        features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let up = self.shared.link_up.load(Ordering::Relaxed);
        let status = if up { VIRTIO_NET_S_LINK_UP } else { 0 };
        let space = ConfigSpace {
            mac: self.shared.mac(),
            status: U16::new(u16::try_from(status).expect("one bit")),
            max_virtqueue_pairs: self.pairs.into(),
            mtu: self.mtu.unwrap_or(0).into(),
        };
        config::read(space.as_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.prepare_ports(activation.features)
            .map_err(|source| ActivateError::Host {
                what: "set up the NIC's port",
                source,
            })?;
        let mut failure = None;
        for (number, pair) in self.pairs(activation)?.into_iter().enumerate() {
            if failure.is_some() {
                self.ports.push(pair.into_port());
                continue;
            }
            match Worker::spawn(&format!("nestling-net{}.{number}", self.number), pair) {
                Ok(worker) => self.workers.push(worker),
                Err(failed) => {
                    self.ports.push(failed.handler.into_port());
                    failure = Some(failed.error);
                }
            }
        }
        match failure {
            None => Ok(()),
            Some(error) => {
                self.reset();
                Err(error)
            }
        }
    }

    fn reset(&mut self) {
        let running = self
            .workers
            .drain(..)
            .map(|worker| worker.stop().into_port());
        // Ports keep their order: those of the workers come first.
        self.ports.splice(0..0, running);
        self.shared.set_mac(self.mac);
        self.shared.active_pairs.store(1, Ordering::Relaxed);
    }
}
