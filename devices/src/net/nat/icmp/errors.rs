//! Errors for guests about what they sent (RFC 792, RFC 4443, RFC 5508).

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;

use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::{Family, SocketError};
use crate::net::wire::WireError;
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6, unreachable4, unreachable6};
use crate::net::wire::ip::{Ip4Header, Ip6Header, IpHeader, Protocol};
use crate::net::wire::vnet::VnetHeader;

/// The addresses aren't all of one family, or ICMP has no words for the error:
/// [`ErrorMessage::new`] makes no such message.
const MIXED: WireError = WireError::Invalid {
    header: "ICMP",
    field: "error",
    value: 0,
};

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
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    start: [u8; 8],
    len: u16,
}

impl About {
    /// The address of the guest that sent it.
    pub fn source(&self) -> IpAddr {
        self.source
    }

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
    /// The error in ICMP's words, if it has any for it. There is none about
    /// what was sent to many (RFC 1122, 3.2.2; RFC 4443, 2.4).
    pub fn new(source: IpAddr, error: SocketError, about: About) -> Option<Self> {
        message4(error)?;
        let to = about.destination;
        if to.is_multicast() || to == IpAddr::from(Ipv4Addr::BROADCAST) {
            return None;
        }
        let families = [source, about.source, about.destination].map(Family::from);
        (families == [families[0]; 3]).then_some(Self {
            source,
            error,
            about,
        })
    }

    /// What follows the frame's headers.
    pub fn quote(&self) -> Result<Quote, WireError> {
        let about = self.about;
        let ip = IpHeader::new(about.source, about.destination, about.protocol).ok_or(MIXED)?;
        let mut quote = Quote {
            bytes: [0; MAX_QUOTE],
            len: 0,
        };
        let ip = ip.with_payload(about.protocol, about.len);
        let header = ip.write(&mut quote.bytes)?;
        quote.len = header + about.start.len();
        quote.bytes[header..quote.len].copy_from_slice(&about.start);
        Ok(quote)
    }

    /// Composes the frame's headers, before its quote.
    pub fn compose(
        &self,
        ether: &EtherHeader,
        headers: &mut HeaderBuf,
        quote: &Quote,
    ) -> Result<VnetHeader, WireError> {
        let quote: &[u8] = quote;
        match (self.source, self.about.source) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                let ip = Ip4Header::new(source, to, Protocol::ICMP);
                let message = message4(self.error).ok_or(MIXED)?;
                headers.icmp4(ether, &ip, &message, &quote)
            }
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                let ip = Ip6Header::new(source, to, Protocol::ICMPV6);
                let message = message6(self.error).ok_or(MIXED)?;
                headers.icmp6(ether, &ip, &message, &quote)
            }
            _ => Err(MIXED),
        }
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

/// What an error of ICMP means, if it ends what it is about or says why that
/// got lost.
pub fn error4(message: &Icmp4) -> Option<SocketError> {
    Some(match *message {
        Icmp4::Unreachable { code, mtu } => match code {
            unreachable4::NETWORK => SocketError::NetUnreachable,
            unreachable4::HOST => SocketError::HostUnreachable,
            unreachable4::PROTOCOL => SocketError::ProtocolUnreachable,
            unreachable4::PORT => SocketError::Refused,
            unreachable4::FRAGMENTATION_NEEDED => SocketError::TooBig(mtu.into()),
            unreachable4::PROHIBITED => SocketError::Prohibited,
            _ => return None,
        },
        Icmp4::TimeExceeded { code: 0 } => SocketError::TimeExceeded,
        _ => return None,
    })
}

/// What an error of ICMPv6 means, as [`error4`] says it.
pub fn error6(message: &Icmp6) -> Option<SocketError> {
    Some(match *message {
        Icmp6::Unreachable { code } => match code {
            unreachable6::NO_ROUTE => SocketError::NetUnreachable,
            unreachable6::PROHIBITED => SocketError::Prohibited,
            unreachable6::ADDRESS => SocketError::HostUnreachable,
            unreachable6::PORT => SocketError::Refused,
            _ => return None,
        },
        Icmp6::ParameterProblem { code: 1, .. } => SocketError::ProtocolUnreachable,
        Icmp6::TooBig { mtu } => SocketError::TooBig(mtu),
        Icmp6::TimeExceeded { code: 0 } => SocketError::TimeExceeded,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
