//! The translation of UDP (RFC 4787).

use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::bindings::{Bindings, OUTSIDE, Outcome, Refusal, hop_limit};
use super::drops::{DropReason, Drops};
use super::flows::{Endpoint, Guest, Limits};
use super::icmp::{About, ErrorMessage};
use super::reach::Reach;
use super::sockets::{
    Family, MAX_SEGMENTS, SendOptions, SocketError, SocketId, SocketKind, Sockets,
};
use crate::net::payload::{Part, Payload};
use crate::net::time::Time;
use crate::net::wire::icmp::{Quoted, QuotedTransport};

/// How long a mapping lives after the last datagram that a guest sent by it
/// (RFC 4787, REQ-5).
pub const IDLE: Duration = Duration::from_secs(300);

/// Whose datagrams reach a guest's mapping (RFC 4787, 5). Static mappings are
/// open to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody's.
    #[default]
    EndpointIndependent,
    /// Only those of endpoints that the guest sent to by this mapping, within
    /// the last [`IDLE`].
    AddressAndPortDependent,
}

/// A datagram of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The guest's address and port.
    pub source: Endpoint,
    /// Where the guest sends it.
    pub destination: Endpoint,
    /// The hops that its packet may still take.
    pub hop_limit: u8,
    /// No router may fragment the packet. So it is in IPv6, unless the guest
    /// itself sent it in fragments.
    pub dont_fragment: bool,
    /// The payload is that of several datagrams of this length, the last one
    /// perhaps shorter.
    pub segment: Option<NonZeroU16>,
}

/// A datagram for a guest; its payload is the one that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The sender as the guest sees it.
    pub source: Endpoint,
    /// The guest's address and port.
    pub destination: Endpoint,
    /// The payload is that of several datagrams of this length, the last one
    /// perhaps shorter.
    pub segment: Option<NonZeroU16>,
}

/// The translation of UDP.
///
/// Each inner address and port has a socket of its own, whomever it sends to
/// (REQ-1), so that no two share an outer port (REQ-3); that is the inner one
/// if it is free. All of a guest's sockets have the host's address (REQ-2).
#[derive(Debug)]
pub struct Udp {
    bindings: Bindings,
    filtering: Filtering,
    reach: Reach,
    drops: Drops,
}

impl Udp {
    /// No mappings; the hash of their table has the keys of `hasher`.
    pub fn new(limits: Limits, filtering: Filtering, reach: Reach, hasher: RandomState) -> Self {
        Self {
            bindings: Bindings::new(limits, IDLE, hasher),
            filtering,
            reach,
            drops: Drops::default(),
        }
    }

    /// Sends a guest's datagram.
    pub fn from_guest(
        &mut self,
        now: Time,
        guest: Guest,
        datagram: &Datagram,
        payload: &dyn Payload,
        sockets: &mut impl Sockets,
    ) -> Outcome<Delivery> {
        let len = datagram
            .segment
            .map_or(usize::MAX, |size| size.get().into());
        let len = len.min(payload.len());
        let about = About::udp(datagram.source, datagram.destination, len);
        let outcome = self.try_send(now, guest, datagram, payload, sockets);
        outcome.unwrap_or_else(|refusal| {
            self.drops.count(refusal.reason);
            refusal.outcome(&self.reach, about)
        })
    }

    fn try_send(
        &mut self,
        now: Time,
        guest: Guest,
        datagram: &Datagram,
        payload: &dyn Payload,
        sockets: &mut impl Sockets,
    ) -> Result<Outcome<Delivery>, Refusal> {
        let Datagram {
            source: inner,
            destination,
            ..
        } = *datagram;
        if !self.reach.is_guest(inner.address) {
            return Err(DropReason::MartianSource.into());
        }
        let hop_limit = hop_limit(datagram.hop_limit).ok_or(DropReason::HopLimit)?;
        let kind = SocketKind::Udp(Family::from(inner.address));
        let route = self.bindings.route(now, kind, inner, destination);
        let (socket, to) = match route {
            Some(route) => {
                self.bindings.touch(now, kind, inner);
                route
            }
            None => self.direct(now, guest, datagram, sockets)?,
        };
        if let Some(target) = self.hairpin(destination) {
            let sender = self.bindings.inside(socket).ok_or(DropReason::NoFlow)?;
            let sender = Endpoint::new(destination.address, sender.port);
            let delivery = self.inbound(now, target, sender, datagram.segment)?;
            return Ok(Outcome::Deliver(delivery));
        }
        let options = SendOptions {
            segment: datagram.segment,
            hop_limit,
            dont_fragment: datagram.dont_fragment,
        };
        match send(socket, to, payload, options, sockets) {
            Ok(rest) => {
                self.drops.add(DropReason::NotSent, rest);
                Ok(Outcome::Sent)
            }
            Err(SocketError::WouldBlock) => Ok(Outcome::Blocked(socket)),
            Err(error) => Err(Refusal::not_sent(error)),
        }
    }

    /// The socket and the real outer endpoint of what leaves through the inner
    /// endpoint's own mapping.
    fn direct(
        &mut self,
        now: Time,
        guest: Guest,
        datagram: &Datagram,
        sockets: &mut impl Sockets,
    ) -> Result<(SocketId, Endpoint), DropReason> {
        let Datagram {
            source: inner,
            destination,
            ..
        } = *datagram;
        let address = self.reach.outward(destination.address);
        let address = address.filter(|_| destination.port != 0);
        let to = Endpoint::new(address.ok_or(DropReason::Destination)?, destination.port);
        let kind = SocketKind::Udp(Family::from(inner.address));
        let socket = self.bindings.outbound(now, guest, kind, inner, sockets)?;
        if self.filtering == Filtering::AddressAndPortDependent {
            let flow = (kind, inner, destination);
            self.bindings.set_route(now, guest, flow, (socket, to))?;
        }
        Ok((socket, to))
    }

    /// The socket of a guest that is reached at this endpoint of the host
    /// (RFC 4787, REQ-9).
    fn hairpin(&self, destination: Endpoint) -> Option<SocketId> {
        let host = self.reach.is_host(destination.address);
        host.then(|| self.bindings.at(destination)).flatten()
    }

    /// Takes the datagram that a socket received; `segment` says that it is
    /// several (UDP_GRO, udp(7)).
    pub fn from_host(
        &mut self,
        now: Time,
        socket: SocketId,
        from: Endpoint,
        segment: Option<NonZeroU16>,
    ) -> Result<Delivery, DropReason> {
        let delivery = self.inbound(now, socket, from, segment);
        delivery.inspect_err(|reason| self.drops.count(*reason))
    }

    fn inbound(
        &mut self,
        now: Time,
        socket: SocketId,
        from: Endpoint,
        segment: Option<NonZeroU16>,
    ) -> Result<Delivery, DropReason> {
        let inside = self.bindings.inside(socket).ok_or(DropReason::NoFlow)?;
        let inner = inside.inner;
        let shown = self.reach.inward(from.address);
        let shown = shown.filter(|shown| shown.is_ipv4() == inner.address.is_ipv4());
        let source = Endpoint::new(shown.ok_or(DropReason::Sender)?, from.port);
        let flow = (SocketKind::Udp(inner.address.into()), inner, source);
        // The host's loopback, where guests may not start anything.
        let shut = from.address.is_loopback() && !self.reach.host_loopback;
        if inside.mapped {
            self.lead_back(now, flow, (socket, from), shut || !inside.primary)?;
        } else if shut {
            return Err(DropReason::Sender);
        } else if self.filtering == Filtering::AddressAndPortDependent
            && !self.bindings.has_route(flow)
        {
            return Err(DropReason::Filtered);
        }
        Ok(Delivery {
            source,
            destination: inner,
            segment,
        })
    }

    /// Sees to it that answers to what came by a static mapping leave by the
    /// same socket. They do without a route of their own (unless `needed`), if
    /// there is none that leads elsewhere.
    fn lead_back(
        &mut self,
        now: Time,
        flow: (SocketKind, Endpoint, Endpoint),
        back: (SocketId, Endpoint),
        needed: bool,
    ) -> Result<(), DropReason> {
        if needed || self.bindings.has_route(flow) {
            self.bindings.set_route(now, OUTSIDE, flow, back)?;
        }
        Ok(())
    }

    /// The error for a guest when a socket reports one about a datagram of
    /// `payload_len` bytes that it sent to `to`; `reporter` is who said so.
    /// The mapping stays (RFC 4787, REQ-12).
    pub fn error(
        &self,
        socket: SocketId,
        to: Endpoint,
        error: SocketError,
        reporter: Option<IpAddr>,
        payload_len: usize,
    ) -> Option<ErrorMessage> {
        let inner = self.bindings.inner(socket)?;
        let destination = Endpoint::new(self.reach.inward(to.address)?, to.port);
        let about = About::udp(inner, destination, payload_len);
        ErrorMessage::new(self.reach.reporter(reporter, inner.address)?, error, about)
    }

    /// The error for a guest about a datagram that it sent to another by an
    /// outer address, when that one reports an error about what it received
    /// (RFC 5508, REQ-7).
    pub fn hairpin_error(&self, quoted: &Quoted, error: SocketError) -> Option<ErrorMessage> {
        let QuotedTransport::Ports {
            source,
            destination,
            next,
        } = quoted.transport
        else {
            return None;
        };
        let sender = Endpoint::new(quoted.ip.source(), source);
        let receiver = Endpoint::new(quoted.ip.destination(), destination);
        let kind = SocketKind::Udp(Family::from(receiver.address));
        let outer = self.bindings.leads_out(kind, receiver, sender)?;
        let outer = Endpoint::new(sender.address, self.bindings.inside(outer)?.port);
        let inner = self.bindings.inner(self.hairpin(sender)?)?;
        let [a, b, ..] = next.to_be_bytes();
        let len = u16::from_be_bytes([a, b]).saturating_sub(8);
        let about = About::udp(inner, outer, len.into());
        ErrorMessage::new(outer.address, error, about)
    }

    /// Lets datagrams to an outer address and port, 0 for any, reach an inner
    /// one, until [`Udp::unmap`]. Returns the socket and its port.
    pub fn map(
        &mut self,
        outer: Endpoint,
        inner: Endpoint,
        sockets: &mut impl Sockets,
    ) -> Result<(SocketId, u16), SocketError> {
        let kind = SocketKind::Udp(Family::from(inner.address));
        self.bindings.map(kind, outer, inner, sockets)
    }

    /// Ends a static mapping by its socket; false if it isn't one's.
    pub fn unmap(&mut self, socket: SocketId, sockets: &mut impl Sockets) -> bool {
        self.bindings.unmap(socket, sockets)
    }

    /// Ends the mappings whose time is over.
    pub fn expire(&mut self, now: Time, sockets: &mut impl Sockets) {
        self.bindings.expire(now, sockets);
    }

    /// Ends all mappings of a guest but the static ones.
    pub fn remove_guest(&mut self, guest: Guest, sockets: &mut impl Sockets) {
        self.bindings.remove_guest(guest, sockets);
    }

    /// When to call [`Udp::expire`] next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.bindings.next_deadline()
    }

    /// The number of flows: mappings, and what is kept of single peers.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was dropped.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
}

/// Sends a payload, in as few calls as the host lets do. Returns how many
/// datagrams at its end weren't sent.
fn send(
    socket: SocketId,
    to: Endpoint,
    payload: &dyn Payload,
    options: SendOptions,
    sockets: &mut impl Sockets,
) -> Result<usize, SocketError> {
    let one = SendOptions {
        segment: None,
        ..options
    };
    let size = match options.segment {
        Some(size) if payload.len() > usize::from(size.get()) => usize::from(size.get()),
        _ => return sockets.send_to(socket, to, payload, one).map(|()| 0),
    };
    let mut sent = 0;
    let (mut step, mut options) = (size * MAX_SEGMENTS, options);
    while sent < payload.len() {
        let part = Part::new(payload, sent..sent + step);
        match sockets.send_to(socket, to, &part, options) {
            Ok(()) => sent += step,
            // Too old a kernel, or longer than the interface's MTU, where the
            // host would have to fragment each.
            Err(SocketError::Unsupported) if options.segment.is_some() => {
                (step, options) = (size, one);
            }
            // What was sent isn't to be sent again: the rest is lost, as on
            // any full link.
            Err(SocketError::WouldBlock) if sent > 0 => {
                return Ok((payload.len() - sent).div_ceil(size));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
