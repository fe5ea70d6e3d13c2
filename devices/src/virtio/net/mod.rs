//! virtio-net (virtio 1.3, 5.1): the NIC. It moves its frames itself, each of
//! its queue pairs in a thread between guest memory and a [`Port`]; or it is an
//! [`Attachment`](crate::net::attachment::Attachment) of the virtual network,
//! whose thread moves them.

use std::io;
use std::sync::Arc;

use nestling_arch::GuestMemory;
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
use zerocopy::{Immutable, IntoBytes, LE, U16};

mod attached;
mod control;
#[cfg(test)]
pub(super) mod loopback;
mod pair;
pub(crate) mod rings;
mod shared;
mod steering;
#[cfg(test)]
pub(super) mod tests;
mod window;
mod workers;

pub use shared::Link;

use attached::Attached;
use control::Control;
use shared::Shared;
use workers::Workers;

use crate::net::attachment::Plug;
use crate::net::mac::MacAddress;
use crate::net::port::{Offloads, Port};
use crate::virtio::config;
use crate::virtio::device::{ActivateError, Activation, Interrupt, VirtioDevice};
use crate::virtio::queue::{RING_FEATURES, VirtQueue};

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

/// The features that follow from what stands behind a NIC.
fn offload_features(offloads: Offloads) -> u64 {
    let table = OFFLOAD_FEATURES.iter();
    table
        .filter(|(offload, ..)| offloads.contains(*offload))
        .fold(0, |features, (_, host, guest)| features | host | guest)
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

/// struct virtio_net_config (virtio 1.3, 5.1.4) up to the MTU.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    mac: [u8; 6],
    status: U16<LE>,
    max_virtqueue_pairs: U16<LE>,
    mtu: U16<LE>,
}

/// The most queue pairs of a NIC with ports (5.1.4 allows more).
const MAX_PAIRS: u16 = 256;

/// Who moves the frames.
enum Backend {
    /// A worker for each queue pair, with its port.
    Ports(Workers),
    /// The network's thread, while the NIC is plugged in.
    Network { plug: Box<dyn Plug>, plugged: bool },
}

/// A virtio NIC.
pub struct Net {
    backend: Backend,
    offloads: Offloads,
    mtu: Option<u16>,
    number: usize,
    mac: MacAddress,
    queue_sizes: Vec<u16>,
    shared: Arc<Shared>,
}

/// A device that is activated, for who moves its frames.
struct Active {
    /// Its name in log lines.
    name: String,
    /// What its driver chose.
    features: u64,
    /// What its driver does with received frames itself.
    offloads: Offloads,
    queues: Queues,
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn Interrupt>,
    shared: Arc<Shared>,
}

/// The queues of a device that is activated.
struct Queues {
    /// Receive and transmit queue of each pair.
    pairs: Vec<(VirtQueue, VirtQueue)>,
    control: Option<Control>,
}

impl ConfigSpace {
    fn new(mac: [u8; 6], link_up: bool, max_pairs: u16, mtu: u16) -> Self {
        let status = if link_up { VIRTIO_NET_S_LINK_UP } else { 0 };
        Self {
            mac,
            status: U16::new(u16::try_from(status).expect("one bit")),
            max_virtqueue_pairs: max_pairs.into(),
            mtu: mtu.into(),
        }
    }
}

impl Net {
    /// A NIC with a queue pair for each of `ports`, of which there must be at
    /// least one.
    pub fn new(ports: Vec<Box<dyn Port>>, config: &NetConfig) -> io::Result<Self> {
        let pairs = u16::try_from(ports.len()).unwrap_or(u16::MAX);
        let offloads = ports
            .iter()
            .fold(Offloads::all(), |all, port| all & port.offloads());
        let mtu = ports.iter().filter_map(|port| port.mtu()).min();
        let backend = Backend::Ports(Workers::new(ports));
        Self::with(backend, (pairs, MAX_PAIRS), offloads, mtu, config)
    }

    /// A NIC with so many queue pairs at a place of the virtual network.
    pub fn on_network(plug: Box<dyn Plug>, pairs: u16, config: &NetConfig) -> io::Result<Self> {
        let (offloads, mtu) = (plug.offloads(), plug.mtu());
        let backend = Backend::Network {
            plug,
            plugged: false,
        };
        let pairs = (pairs, attached::MAX_PAIRS);
        Self::with(backend, pairs, offloads, Some(mtu), config)
    }

    fn with(
        backend: Backend,
        (pairs, most): (u16, u16),
        offloads: Offloads,
        mtu: Option<u16>,
        config: &NetConfig,
    ) -> io::Result<Self> {
        if !(1..=most).contains(&pairs) {
            let message = format!("a NIC of this kind has 1 to {most} queue pairs, not {pairs}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * usize::from(pairs)];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        let wakers = match backend {
            Backend::Ports(_) => usize::from(pairs),
            Backend::Network { .. } => 1,
        };
        Ok(Self {
            backend,
            offloads,
            mtu,
            number: config.number,
            mac: config.mac,
            queue_sizes,
            shared: Arc::new(Shared::new(config.mac, pairs, wakers)?),
        })
    }

    /// The NIC's cable.
    pub fn link(&self) -> Link {
        Link(self.shared.clone())
    }

    /// Takes queues `2n` and `2n + 1` of each pair, and the control queue.
    fn queues(&self, activation: Activation) -> Result<Queues, ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let multiqueue = features & 1 << VIRTIO_NET_F_MQ != 0;
        // Without multiqueue the control queue has the place of a second
        // pair's receive queue (5.1.2).
        let pairs = if multiqueue { self.shared.max_pairs } else { 1 };
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
        if taken.is_empty() {
            return Err(ActivateError::MissingQueues { enabled, needed: 2 });
        }
        let control = next(2 * pairs)
            .map(|queue| Control::new(queue, &memory, self.shared.clone(), multiqueue));
        Ok(Queues {
            pairs: taken,
            control,
        })
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
        features |= offload_features(self.offloads);
        if self.mtu.is_some() {
            features |= 1 << VIRTIO_NET_F_MTU;
        }
        if self.shared.max_pairs > 1 {
            features |= 1 << VIRTIO_NET_F_MQ;
        }
        features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let shared = &self.shared;
        let mtu = self.mtu.unwrap_or(0);
        let space = ConfigSpace::new(shared.mac(), shared.link_up(), shared.max_pairs, mtu);
        config::read(space.as_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let features = activation.features;
        let (memory, interrupt) = (activation.memory.clone(), activation.interrupt.clone());
        let queues = self.queues(activation)?;
        self.shared.set_interrupt(Some(interrupt.clone()));
        let active = Active {
            name: format!("NIC {}", self.number),
            features,
            offloads: guest_offloads(features) & self.offloads,
            queues,
            memory,
            interrupt,
            shared: self.shared.clone(),
        };
        let started = match &mut self.backend {
            Backend::Ports(workers) => workers.start(active, self.number),
            Backend::Network { plug, plugged } => {
                let attached = Attached::new(active, self.mac, plug.mtu());
                let done = plug.plug(Box::new(attached));
                *plugged = done.is_ok();
                done.map_err(|source| ActivateError::Host {
                    what: "plug the NIC into the virtual network",
                    source,
                })
            }
        };
        if started.is_err() {
            self.reset();
        }
        started
    }

    fn reset(&mut self) {
        match &mut self.backend {
            Backend::Ports(workers) => workers.stop(),
            Backend::Network { plug, plugged } => {
                if std::mem::take(plugged) {
                    plug.unplug();
                }
            }
        }
        self.shared.reset(self.mac);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.reset();
    }
}
