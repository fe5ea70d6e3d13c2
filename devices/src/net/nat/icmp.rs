//! The translation of ICMP (RFC 5508): echoes through the host's ping sockets,
//! and errors for guests about what they sent.

use std::hash::RandomState;
use std::net::IpAddr;
use std::ops::Deref;
use std::time::Duration;

use super::bindings::{Bindings, Outcome, hop_limit};
use super::drops::{DropReason, Drops};
use super::flows::{Endpoint, Guest, Limits};
use super::reach::Reach;
use super::sockets::{Family, SendOptions, SocketError, SocketId, SocketKind, Sockets};
use crate::net::payload::Payload;
use crate::net::time::Time;
use crate::net::wire::WireError;
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6, unreachable4, unreachable6};
use crate::net::wire::ip::{Ip4Header, Ip6Header, IpHeader, Protocol};
use crate::net::wire::vnet::VnetHeader;

/// How long a query's mapping lives after the last query (RFC 5508, REQ-2).
pub const IDLE: Duration = Duration::from_secs(60);

/// The longest quotation: an IPv6 header and 8 bytes.
const MAX_QUOTE: usize = 40 + 8;

/// An error for a guest about a packet that it sent.
///
/// The quoted packet is made from what is known of the flow: so it has the
/// guest's addresses, whatever the packet that the error is about had outside
/// (RFC 5508, REQ-4 and REQ-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    /// Who reports the error.
    pub source: IpAddr,
    /// What is wrong.
    pub error: SocketError,
    /// The packet.
    pub about: About,
}

/// The start of a packet that a guest sent: its addresses and the first 8
/// bytes behind its IP header, which name the flow (RFC 792).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The guest's address.
    pub source: IpAddr,
    /// Where the guest sent it.
    pub destination: IpAddr,
    protocol: Protocol,
    start: [u8; 8],
    len: u16,
}

impl About {
    /// A datagram of UDP.
    pub fn udp(source: Endpoint, destination: Endpoint, payload_len: usize) -> Self {
        let len = u16::try_from(payload_len.saturating_add(8)).unwrap_or(u16::MAX);
        let [a, b] = source.port.to_be_bytes();
        let [c, d] = destination.port.to_be_bytes();
        let [e, f] = len.to_be_bytes();
        Self {
            source: source.address,
            destination: destination.address,
            protocol: Protocol::UDP,
            start: [a, b, c, d, e, f, 0, 0],
            len,
        }
    }

    /// A segment of TCP without options and data.
    pub fn tcp(source: Endpoint, destination: Endpoint, sequence: u32) -> Self {
        let [a, b] = source.port.to_be_bytes();
        let [c, d] = destination.port.to_be_bytes();
        let [e, f, g, h] = sequence.to_be_bytes();
        Self {
            source: source.address,
            destination: destination.address,
            protocol: Protocol::TCP,
            start: [a, b, c, d, e, f, g, h],
            len: 20,
        }
    }

    /// An echo request with `data_len` bytes of data.
    pub fn echo(source: IpAddr, destination: IpAddr, echo: Echo, data_len: usize) -> Self {
        let mut start = [0; 8];
        // Headers of 8 bytes fit.
        let (protocol, _written) = match source {
            IpAddr::V4(_) => (Protocol::ICMP, Icmp4::EchoRequest(echo).write(&mut start)),
            IpAddr::V6(_) => (Protocol::ICMPV6, Icmp6::EchoRequest(echo).write(&mut start)),
        };
        Self {
            source,
            destination,
            protocol,
            start,
            len: u16::try_from(data_len.saturating_add(8)).unwrap_or(u16::MAX),
        }
    }
}

/// What an error quotes of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    bytes: [u8; MAX_QUOTE],
    len: usize,
}

impl Deref for Quote {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl ErrorMessage {
    /// The error in ICMP's words, if it has any for it.
    pub fn new(source: IpAddr, error: SocketError, about: About) -> Option<Self> {
        message4(error)?;
        let families = [source, about.source, about.destination].map(Family::from);
        (families == [families[0]; 3]).then_some(Self {
            source,
            error,
            about,
        })
    }

    /// Composes the frame's headers, and returns the payload that is to follow
    /// them.
    pub fn build(
        &self,
        ether: &EtherHeader,
        frame: &mut HeaderBuf,
    ) -> Result<(VnetHeader, Quote), WireError> {
        let Self {
            source,
            error,
            about,
        } = *self;
        let mixed = WireError::Invalid {
            header: "ICMP",
            field: "error",
            value: 0,
        };
        let ip = IpHeader::new(about.source, about.destination, about.protocol).ok_or(mixed)?;
        let mut quote = Quote {
            bytes: [0; MAX_QUOTE],
            len: 0,
        };
        let ip = ip.with_payload(about.protocol, about.len);
        let header = ip.write(&mut quote.bytes)?;
        quote.len = header + about.start.len();
        quote.bytes[header..quote.len].copy_from_slice(&about.start);
        let payload: &[u8] = &quote;
        let vnet = match (source, about.source) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                let ip = Ip4Header::new(source, to, Protocol::ICMP);
                let message = message4(error).ok_or(mixed)?;
                frame.icmp4(ether, &ip, &message, &payload)?
            }
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                let ip = Ip6Header::new(source, to, Protocol::ICMPV6);
                let message = message6(error).ok_or(mixed)?;
                frame.icmp6(ether, &ip, &message, &payload)?
            }
            _ => return Err(mixed),
        };
        Ok((vnet, quote))
    }
}

/// An error in the words of ICMP (RFC 792, RFC 1122, 3.2.2.1).
fn message4(error: SocketError) -> Option<Icmp4> {
    let (code, mtu) = match error {
        SocketError::Refused => (unreachable4::PORT, 0),
        SocketError::HostUnreachable | SocketError::TimedOut => (unreachable4::HOST, 0),
        SocketError::NetUnreachable => (unreachable4::NETWORK, 0),
        SocketError::ProtocolUnreachable => (unreachable4::PROTOCOL, 0),
        SocketError::Prohibited => (unreachable4::PROHIBITED, 0),
        SocketError::TooBig(mtu) => {
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
            (unreachable4::FRAGMENTATION_NEEDED, mtu)
        }
        SocketError::TimeExceeded => return Some(Icmp4::TimeExceeded { code: 0 }),
        _ => return None,
    };
    Some(Icmp4::Unreachable { code, mtu })
}

/// An error in the words of ICMPv6 (RFC 4443, 3).
fn message6(error: SocketError) -> Option<Icmp6> {
    let code = match error {
        SocketError::Refused => unreachable6::PORT,
        SocketError::HostUnreachable | SocketError::TimedOut => unreachable6::ADDRESS,
        SocketError::NetUnreachable => unreachable6::NO_ROUTE,
        SocketError::Prohibited => unreachable6::PROHIBITED,
        // An unrecognised next header, where the quoted header names it.
        SocketError::ProtocolUnreachable => {
            return Some(Icmp6::ParameterProblem {
                code: 1,
                pointer: 6,
            });
        }
        SocketError::TooBig(mtu) => return Some(Icmp6::TooBig { mtu }),
        SocketError::TimeExceeded => return Some(Icmp6::TimeExceeded { code: 0 }),
        _ => return None,
    };
    Some(Icmp6::Unreachable { code })
}

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
        let outcome = self.try_send(now, guest, request, message, sockets);
        outcome.unwrap_or_else(|reason| {
            self.drops.count(reason);
            Outcome::Dropped(reason)
        })
    }

    fn try_send(
        &mut self,
        now: Time,
        guest: Guest,
        request: &EchoRequest,
        message: &dyn Payload,
        sockets: &mut impl Sockets,
    ) -> Result<Outcome<EchoReply>, DropReason> {
        let EchoRequest {
            source,
            destination,
            echo,
            ..
        } = *request;
        let to = self.reach.outward(destination);
        let to = Endpoint::new(to.ok_or(DropReason::Unreachable)?, 0);
        let about = About::echo(source, destination, echo, message.len().saturating_sub(8));
        let Some(hop_limit) = hop_limit(request.hop_limit) else {
            self.drops.count(DropReason::HopLimit);
            return Ok(self.error_outcome(SocketError::TimeExceeded, about, DropReason::HopLimit));
        };
        let options = SendOptions {
            segment: None,
            hop_limit,
        };
        let kind = SocketKind::Echo(Family::from(source));
        let inner = Endpoint::new(source, echo.identifier);
        let socket = self.bindings.outbound(now, guest, kind, inner, sockets)?;
        match sockets.send_to(socket, to, message, options) {
            Ok(()) => Ok(Outcome::Sent),
            Err(SocketError::WouldBlock) => Ok(Outcome::Blocked(socket)),
            Err(error) => {
                self.drops.count(DropReason::NotSent);
                Ok(self.error_outcome(error, about, DropReason::NotSent))
            }
        }
    }

    fn error_outcome<T>(&self, error: SocketError, about: About, or: DropReason) -> Outcome<T> {
        let gateway = self.reach.gateway(about.source);
        let message = gateway.and_then(|gateway| ErrorMessage::new(gateway, error, about));
        message.map_or(Outcome::Dropped(or), Outcome::Error)
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
