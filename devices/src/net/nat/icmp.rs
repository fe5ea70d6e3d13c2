//! The translation of ICMP (RFC 5508): echoes through the host's ping sockets,
//! and errors for guests about what they sent.

mod errors;

pub use errors::{About, ErrorMessage, Quote, error4, error6};

use std::hash::RandomState;
use std::net::IpAddr;
use std::time::Duration;

use super::bindings::{Bindings, Outcome, Refusal, hop_limit};
use super::drops::{DropReason, Drops};
use super::flows::{Endpoint, Guest, Limits};
use super::reach::Reach;
use super::sockets::{Family, SendOptions, SocketError, SocketId, SocketKind, Sockets};
use crate::net::payload::Payload;
use crate::net::time::Time;
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6};

/// How long a query's mapping lives after the last query (RFC 5508, REQ-2).
pub const IDLE: Duration = Duration::from_secs(60);

/// An echo request of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoRequest {
    /// The guest's address.
    pub source: IpAddr,
    /// Whom it asks.
    pub destination: IpAddr,
    /// What marks the query.
    pub echo: Echo,
    /// The hops that its packet may still take.
    pub hop_limit: u8,
    /// No router may fragment the packet. So it is in IPv6, unless the guest
    /// itself sent it in fragments.
    pub dont_fragment: bool,
}

/// An echo reply for a guest; its data are those that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoReply {
    /// Who answers.
    pub source: IpAddr,
    /// The guest's address.
    pub destination: IpAddr,
    /// What marked the guest's query.
    pub echo: Echo,
}

/// The translation of echoes. Each inner address and identifier has a socket
/// of its own, and keeps its identifier where that is free (RFC 5508, REQ-1:
/// whomever it asks).
#[derive(Debug)]
pub struct Echoes {
    bindings: Bindings,
    reach: Reach,
    drops: Drops,
}

impl Echoes {
    /// No echoes; the hash of their table has the keys of `hasher`.
    pub fn new(limits: Limits, reach: Reach, hasher: RandomState) -> Self {
        Self {
            bindings: Bindings::new(limits, IDLE, hasher),
            reach,
            drops: Drops::default(),
        }
    }

    /// Sends a guest's echo request; `message` is all of it, with its ICMP
    /// header.
    pub fn from_guest(
        &mut self,
        now: Time,
        guest: Guest,
        request: &EchoRequest,
        message: &dyn Payload,
        sockets: &mut impl Sockets,
    ) -> Outcome<EchoReply> {
        let data_len = message.len().saturating_sub(8);
        let about = About::echo(request.source, request.destination, request.echo, data_len);
        let outcome = self.try_send(now, guest, request, message, sockets);
        outcome.unwrap_or_else(|refusal| {
            self.drops.count(refusal.reason);
            refusal.outcome(&self.reach, about)
        })
    }

    fn try_send(
        &mut self,
        now: Time,
        guest: Guest,
        request: &EchoRequest,
        message: &dyn Payload,
        sockets: &mut impl Sockets,
    ) -> Result<Outcome<EchoReply>, Refusal> {
        let EchoRequest {
            source,
            destination,
            echo,
            ..
        } = *request;
        if !self.reach.is_guest(source) {
            return Err(DropReason::MartianSource.into());
        }
        let hop_limit = hop_limit(request.hop_limit).ok_or(DropReason::HopLimit)?;
        let to = self.reach.outward(destination);
        let to = Endpoint::new(to.ok_or(DropReason::Destination)?, 0);
        let options = SendOptions {
            segment: None,
            hop_limit,
            dont_fragment: request.dont_fragment,
        };
        let kind = SocketKind::Echo(Family::from(source));
        let inner = Endpoint::new(source, echo.identifier);
        let socket = self.bindings.outbound(now, guest, kind, inner, sockets)?;
        match sockets.send_to(socket, to, message, options) {
            Ok(()) => Ok(Outcome::Sent),
            Err(SocketError::WouldBlock) => Ok(Outcome::Blocked(socket)),
            Err(error) => Err(Refusal::not_sent(error)),
        }
    }

    /// Takes the echo reply that a socket received, from its ICMP header on.
    pub fn from_host(
        &mut self,
        socket: SocketId,
        from: IpAddr,
        message: &[u8],
    ) -> Result<EchoReply, DropReason> {
        let reply = self.translate(socket, from, message);
        reply.inspect_err(|reason| self.drops.count(*reason))
    }

    fn translate(
        &self,
        socket: SocketId,
        from: IpAddr,
        message: &[u8],
    ) -> Result<EchoReply, DropReason> {
        let inner = self.bindings.inner(socket).ok_or(DropReason::NoFlow)?;
        let source = self.reach.inward(from).ok_or(DropReason::Sender)?;
        let echo = match inner.address {
            IpAddr::V4(_) => match Icmp4::parse(message) {
                Ok(Icmp4::EchoReply(echo)) => Some(echo),
                _ => None,
            },
            IpAddr::V6(_) => match Icmp6::parse(message) {
                Ok((Icmp6::EchoReply(echo), _)) => Some(echo),
                _ => None,
            },
        };
        let echo = echo.filter(|_| Family::from(source) == Family::from(inner.address));
        Ok(EchoReply {
            source,
            destination: inner.address,
            echo: Echo {
                identifier: inner.port,
                ..echo.ok_or(DropReason::Malformed)?
            },
        })
    }

    /// The error for a guest when a socket reports one about a request that it
    /// sent to `to`; `request` is what is known of that, from its ICMP header
    /// on, and `reporter` who said so. The mapping stays (RFC 5508, REQ-6).
    pub fn error(
        &self,
        socket: SocketId,
        to: IpAddr,
        error: SocketError,
        reporter: Option<IpAddr>,
        request: &[u8],
    ) -> Option<ErrorMessage> {
        let inner = self.bindings.inner(socket)?;
        let destination = self.reach.inward(to)?;
        let echo = match inner.address {
            IpAddr::V4(_) => match Icmp4::parse(request).ok()? {
                Icmp4::EchoRequest(echo) => echo,
                _ => return None,
            },
            IpAddr::V6(_) => match Icmp6::parse(request).ok()?.0 {
                Icmp6::EchoRequest(echo) => echo,
                _ => return None,
            },
        };
        let echo = Echo {
            identifier: inner.port,
            ..echo
        };
        let about = About::echo(
            inner.address,
            destination,
            echo,
            request.len().saturating_sub(8),
        );
        ErrorMessage::new(self.reach.reporter(reporter, inner.address)?, error, about)
    }

    /// Ends the mappings whose time is over.
    pub fn expire(&mut self, now: Time, sockets: &mut impl Sockets) {
        self.bindings.expire(now, sockets);
    }

    /// Ends all mappings of a guest.
    pub fn remove_guest(&mut self, guest: Guest, sockets: &mut impl Sockets) {
        self.bindings.remove_guest(guest, sockets);
    }

    /// When to call [`Echoes::expire`] next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.bindings.next_deadline()
    }

    /// The number of mappings.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Whether there is no mapping.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was dropped.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
}

#[cfg(test)]
mod tests;
