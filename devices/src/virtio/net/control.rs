//! The control queue (virtio 1.3, 5.1.6.5): receive modes, addresses, and the
//! number of queue pairs.

use std::sync::Arc;

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MAC_TABLE_SET,
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_RX_NOBCAST, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use super::Shared;
use crate::net::mac::MacAddress;
use crate::scatter::ScatterList;
use crate::virtio::queue::{Chain, Malformed, VirtQueue};

/// The control queue at work.
pub(super) struct Control {
    pub(super) queue: VirtQueue,
    chain: Chain,
    shared: Arc<Shared>,
    multiqueue: bool,
}

impl Control {
    pub(super) fn new(
        queue: VirtQueue,
        memory: Arc<GuestMemory>,
        shared: Arc<Shared>,
        multiqueue: bool,
    ) -> Self {
        Self {
            queue,
            chain: Chain::new(&memory),
            shared,
            multiqueue,
        }
    }

    /// Answers the driver's commands.
    pub(super) fn serve(&mut self) -> Result<(), Malformed> {
        let (shared, multiqueue) = (&*self.shared, self.multiqueue);
        let budget = self.queue.size();
        self.queue.serve(&mut self.chain, budget, |chain| {
            let mut header = [0; 2];
            if !chain.readable.take(&mut header) {
                return Err("too short for a control command");
            }
            if chain.writable.is_empty() {
                return Err("no room for a control command's answer");
            }
            let [class, command] = header.map(u32::from);
            let accepted = execute(shared, multiqueue, class, command, &mut chain.readable);
            let answer = if accepted.is_some() {
                VIRTIO_NET_OK
            } else {
                VIRTIO_NET_ERR
            };
            chain.writable.write_at(0, &answer.to_le_bytes()[..1]);
            Ok(1)
        })?;
        Ok(())
    }
}

/// Carries a command out; `None` if it is unknown or makes no sense.
fn execute(
    shared: &Shared,
    multiqueue: bool,
    class: u32,
    command: u32,
    data: &mut ScatterList,
) -> Option<()> {
    match (class, command) {
        // Filters are best effort (5.1.6.5.1): the driver gets all frames,
        // and drops those it doesn't want.
        (VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC..=VIRTIO_NET_CTRL_RX_NOBCAST) => {
            take::<1>(data).map(|_| ())
        }
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) => {
            // Unicast addresses, then multicast addresses.
            skip_table(data)?;
            skip_table(data)
        }
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => {
            shared.set_mac(MacAddress::new(take(data)?)?);
            Some(())
        }
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) if multiqueue => {
            let pairs = u16::from_le_bytes(take(data)?);
            if pairs == 0 || usize::from(pairs) > shared.wakers.len() {
                return None;
            }
            shared.set_active_pairs(pairs);
            Some(())
        }
        _ => None,
    }
}

fn take<const N: usize>(data: &mut ScatterList) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    data.take(&mut bytes).then_some(bytes)
}

/// Passes over a table of addresses, which starts with their number.
fn skip_table(data: &mut ScatterList) -> Option<()> {
    let length = usize::try_from(u32::from_le_bytes(take(data)?))
        .ok()?
        .checked_mul(6)?;
    if length > data.len() {
        return None;
    }
    data.advance(length);
    Some(())
}
