//! A NIC's rings that another program has set up for its guest: the data path
//! of a back end of vhost-user.

use std::io;
use std::sync::Arc;

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use zerocopy::IntoBytes;

use super::attached::Attached;
use super::shared::Shared;
use super::{Active, ConfigSpace, Queues, guest_offloads, offload_features};
use crate::net::attachment::Attachment;
use crate::net::mac::MacAddress;
use crate::net::port::Offloads;
use crate::virtio::config;
use crate::virtio::device::{ActiveQueue, Interrupt};
use crate::virtio::queue::{RING_FEATURES, VirtQueue};

/// The features of a NIC whose control queue, if it has one, is somebody
/// else's.
pub(crate) const FEATURES: u64 = RING_FEATURES
    | 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_MQ
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_MTU;

/// The features that are offered with all that the network takes over.
pub(crate) fn features() -> u64 {
    FEATURES | offload_features(Offloads::all())
}

/// The configuration space of such a NIC.
pub(crate) struct Space(ConfigSpace);

impl Space {
    /// What a driver is told.
    pub(crate) fn new(mac: MacAddress, max_pairs: u16, mtu: u16) -> Self {
        Self(ConfigSpace::new(mac.bytes(), true, max_pairs, mtu))
    }

    /// Reads `data` at `offset`; what lies past the end is zero.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        config::read(self.0.as_bytes(), offset, data);
    }
}

/// Rings in use by their driver.
pub(crate) struct Rings {
    /// The NIC's name in log lines.
    pub(crate) name: String,
    /// What the driver chose, VIRTIO_F_VERSION_1 among it.
    pub(crate) features: u64,
    /// Receive and transmit queue of each pair, at least of one.
    pub(crate) pairs: Vec<(ActiveQueue, ActiveQueue)>,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) interrupt: Arc<dyn Interrupt>,
    /// The NIC's address.
    pub(crate) mac: MacAddress,
    /// The longest packet without the Ethernet header.
    pub(crate) mtu: u16,
}

/// How many of a NIC's queue pairs its driver uses.
pub(crate) struct ActivePairs(Arc<Shared>);

impl ActivePairs {
    /// Frames to the guest go to so many pairs from now on.
    pub(crate) fn set(&self, pairs: u16) {
        self.0.set_active_pairs(pairs);
    }
}

impl Rings {
    /// What is plugged into the network for them.
    pub(crate) fn attach(self) -> io::Result<(Box<dyn Attachment>, ActivePairs)> {
        let count = u16::try_from(self.pairs.len()).unwrap_or(u16::MAX);
        let shared = Arc::new(Shared::new(self.mac, count, 1)?);
        let (features, memory, interrupt) = (self.features, &self.memory, &self.interrupt);
        let queue = |queue| VirtQueue::new(queue, features, memory.clone(), interrupt.clone());
        let pairs = self.pairs.into_iter();
        let active = Active {
            name: self.name,
            features,
            offloads: guest_offloads(features),
            queues: Queues {
                pairs: pairs.map(|(rx, tx)| (queue(rx), queue(tx))).collect(),
                control: None,
            },
            memory: memory.clone(),
            interrupt: interrupt.clone(),
            shared: shared.clone(),
        };
        let attached = Attached::new(active, self.mac, self.mtu);
        Ok((Box::new(attached), ActivePairs(shared)))
    }
}
