//! The control queue (virtio 1.3, 5.1.6.5): receive modes, addresses, and the
//! number of queue pairs.

use std::sync::Arc;

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MAC_TABLE_SET,
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_RX_NOBCAST, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};

use super::shared::Shared;
use crate::net::mac::{Mac, MacAddress};
use crate::net::switch::{MAX_FILTER_ADDRESSES, ReceiveFilter, ReceiveModes};
use crate::scatter::ScatterList;
use crate::virtio::queue::{Chain, Malformed, VirtQueue};

/// The control queue at work.
pub(super) struct Control {
    pub(super) queue: VirtQueue,
    chain: Chain,
    state: State,
}

/// What the driver's commands change.
struct State {
    shared: Arc<Shared>,
    multiqueue: bool,
    modes: ReceiveModes,
    unicast: Vec<Mac>,
    multicast: Vec<Mac>,
}

impl Control {
    pub(super) fn new(
        queue: VirtQueue,
        memory: &Arc<GuestMemory>,
        shared: Arc<Shared>,
        multiqueue: bool,
    ) -> Self {
        Self {
            queue,
            chain: Chain::new(memory),
            state: State {
                shared,
                multiqueue,
                modes: ReceiveModes::PROMISCUOUS,
                unicast: Vec::new(),
                multicast: Vec::new(),
            },
        }
    }

    /// The frames that the driver wants.
    pub(super) fn filter(&self) -> ReceiveFilter {
        let state = &self.state;
        // The table leaves the NIC's own address out, which may not be the one
        // that its port was given.
        let own = Mac(state.shared.mac());
        let unicast = [&[own], &state.unicast[..]].concat();
        ReceiveFilter::new(state.modes, &unicast, &state.multicast)
    }

    /// Answers the driver's commands.
    pub(super) fn serve(&mut self) -> Result<(), Malformed> {
        let budget = self.queue.size();
        let state = &mut self.state;
        self.queue.serve(&mut self.chain, budget, |chain| {
            let mut header = [0; 2];
            if !chain.readable.take(&mut header) {
                return Err("too short for a control command");
            }
            if chain.writable.is_empty() {
                return Err("no room for a control command's answer");
            }
            let accepted = state.execute(header, &mut chain.readable);
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

impl State {
    /// Carries a command out; `None` if it is unknown or makes no sense.
    fn execute(&mut self, [class, command]: [u8; 2], data: &mut ScatterList) -> Option<()> {
        match (class.into(), command.into()) {
            (VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC..=VIRTIO_NET_CTRL_RX_NOBCAST) => {
                let [on] = take(data)?;
                // The commands are numbered as the modes' bits are.
                let mode = ReceiveModes::from_bits(1 << command)?;
                self.modes.set(mode, on != 0);
            }
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET) => {
                let (unicast, multicast) = (take_table(data)?, take_table(data)?);
                (self.unicast, self.multicast) = (unicast, multicast);
            }
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET) => {
                self.shared.set_mac(MacAddress::new(take(data)?)?);
            }
            (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) if self.multiqueue => {
                let pairs = u16::from_le_bytes(take(data)?);
                if !(1..=self.shared.max_pairs).contains(&pairs) {
                    return None;
                }
                self.shared.set_active_pairs(pairs);
            }
            _ => return None,
        }
        Some(())
    }
}

fn take<const N: usize>(data: &mut ScatterList) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    data.take(&mut bytes).then_some(bytes)
}

/// Takes a table of addresses, which starts with their number. Of a table too
/// long for a filter, just so much is kept that the filter notices.
fn take_table(data: &mut ScatterList) -> Option<Vec<Mac>> {
    let count = usize::try_from(u32::from_le_bytes(take(data)?)).ok()?;
    let length = count.checked_mul(6)?;
    if length > data.len() {
        return None;
    }
    let kept = count.min(MAX_FILTER_ADDRESSES + 1);
    let table = (0..kept).map(|_| take(data).map(Mac)).collect();
    data.advance(length - 6 * kept);
    table
}
