//! Where the translator's segments go.

use std::net::IpAddr;

use super::flow::Link;
use super::streams::{Source, Streams};
use crate::net::nat::flows::{Endpoint, FlowId, Guest};
use crate::net::nat::sockets::{Family, SocketError};
use crate::net::wire::tcp::TcpHeader;

/// A connection as it is seen between a guest and the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Whom the connection is counted to. The guest that it leads to is
    /// found by the inner address.
    pub guest: Guest,
    /// The guest's end.
    pub inner: Endpoint,
    /// The other end, as the guest sees it.
    pub outer: Endpoint,
}

/// The guests' network, from the translator's side.
///
/// No method is to call the translator: what one of them leads to waits until
/// the translator has returned.
pub trait Outlet {
    /// What the link to a guest takes.
    fn link(&self, guest: Guest, family: Family) -> Link;

    /// The guest that has an inner address, if that is known.
    fn guest_of(&mut self, inner: IpAddr) -> Option<Guest>;

    /// Sends a segment to the guest: `header`, with its ports, and what waits
    /// at `content`, which is to be had from `streams`. False says that there
    /// is no room for it now: [`Tcp::room`](super::Tcp::room) will tell when
    /// to try again. A segment that can't be sent at all is lost, which is
    /// true.
    fn segment(
        &mut self,
        leg: &Leg,
        header: &TcpHeader,
        content: Option<Source>,
        streams: &mut dyn Streams,
    ) -> bool;

    /// Tells the guest by ICMP why its SYN with the sequence number `seq`
    /// leads nowhere.
    fn unreachable(&mut self, leg: &Leg, error: SocketError, seq: u32);

    /// Asks for a flow's parked frames: each is to be given to
    /// [`Tcp::from_guest`](super::Tcp::from_guest) again, in their order.
    fn unpark(&mut self, flow: FlowId);
}
