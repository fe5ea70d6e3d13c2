//! What the engine asks of those who are plugged into its switch.

use crate::net::attachment::{Content, Frame, Sent};
use crate::net::port::Offloads;
use crate::net::switch::PortId;
use crate::net::wire::ether::{LEN, TAG_LEN, ethertype};
use crate::net::wire::vnet::VnetHeader;

/// What one at a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The work on frames that it does itself.
    pub offloads: Offloads,
    /// The longest packet, without the Ethernet header.
    pub mtu: u16,
}

impl Receiver {
    /// Whether it does all the work that is left to do.
    pub(super) fn finishes(&self, vnet: &VnetHeader) -> bool {
        self.offloads.contains(vnet.needs())
    }

    /// Whether a frame, or each of its segments, is short enough. `ether` is
    /// the frame's start; its first `headers` bytes are repeated in each
    /// segment, and `content` follows.
    pub(super) fn takes(
        &self,
        vnet: &VnetHeader,
        ether: &[u8],
        (headers, content): (usize, usize),
    ) -> bool {
        let content = vnet
            .gso
            .size()
            .map_or(content, |size| content.min(size.into()));
        let tagged = ether.get(LEN - 2..LEN) == Some(&ethertype::VLAN.to_be_bytes());
        let tag = if tagged { TAG_LEN } else { 0 };
        headers + content <= LEN + tag + usize::from(self.mtu)
    }
}

/// Those who are plugged in, by their ports.
pub trait Ports {
    /// What the one at a port takes now; none if nobody can be sent anything.
    fn receiver(&self, port: PortId) -> Option<Receiver>;

    /// Sends a frame that the one at the port takes: `headers`, the virtio
    /// header first, then `content`.
    fn send(&mut self, port: PortId, headers: &[u8], content: Content<'_>) -> Sent;

    /// Gives a frame back to the port that it came from.
    fn release(&mut self, port: PortId, frame: Frame);
}
