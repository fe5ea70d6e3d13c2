//! Control messages: ICMP (RFC 792) and ICMPv6 (RFC 4443), neighbour
//! discovery (RFC 4861, 4) included. Its options are in [`super::ndp`].

use std::net::Ipv6Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::{Ip4Header, IpHeader, Protocol};
use super::{WireError, put, read};

/// The length of the header of all ICMP messages, and of those of ICMPv6 that
/// aren't neighbour discovery.
pub const LEN: usize = 8;

/// Where in the header the checksum stands.
pub const CHECKSUM_OFFSET: u16 = 2;

const NAME: &str = "ICMP";
const NAME6: &str = "ICMPv6";

/// Codes of [`Icmp4::Unreachable`].
pub mod unreachable4 {
    /// The network can't be reached.
    pub const NETWORK: u8 = 0;
    /// The host can't be reached.
    pub const HOST: u8 = 1;
    /// The host doesn't speak the protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nobody has the port.
    pub const PORT: u8 = 3;
    /// The packet is too big for the next hop and must not be fragmented.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Communication is administratively prohibited (RFC 1812, 5.2.7.1).
    pub const PROHIBITED: u8 = 13;
}

/// Codes of [`Icmp6::Unreachable`].
pub mod unreachable6 {
    /// There is no route.
    pub const NO_ROUTE: u8 = 0;
    /// Communication is administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// The address can't be reached.
    pub const ADDRESS: u8 = 3;
    /// Nobody has the port.
    pub const PORT: u8 = 4;
}

mod kind4 {
    pub(super) const ECHO_REPLY: u8 = 0;
    pub(super) const UNREACHABLE: u8 = 3;
    pub(super) const ECHO_REQUEST: u8 = 8;
    pub(super) const TIME_EXCEEDED: u8 = 11;
    pub(super) const PARAMETER_PROBLEM: u8 = 12;
}

mod kind6 {
    pub(super) const UNREACHABLE: u8 = 1;
    pub(super) const TOO_BIG: u8 = 2;
    pub(super) const TIME_EXCEEDED: u8 = 3;
    pub(super) const PARAMETER_PROBLEM: u8 = 4;
    pub(super) const ECHO_REQUEST: u8 = 128;
    pub(super) const ECHO_REPLY: u8 = 129;
    pub(super) const ROUTER_SOLICITATION: u8 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(super) const NEIGHBOR_SOLICITATION: u8 = 135;
    pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    kind: u8,
    code: u8,
    checksum: U16,
    rest: [u8; 4],
}

/// What marks a query and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Echo {
    /// Whose query it is: to a NAT what a port is.
    pub identifier: u16,
    /// Which of its queries it is.
    pub sequence: u16,
}

impl Echo {
    const fn parse([a, b, c, d]: [u8; 4]) -> Self {
        Self {
            identifier: u16::from_be_bytes([a, b]),
            sequence: u16::from_be_bytes([c, d]),
        }
    }

    const fn bytes(self) -> [u8; 4] {
        let [a, b] = self.identifier.to_be_bytes();
        let [c, d] = self.sequence.to_be_bytes();
        [a, b, c, d]
    }
}

/// The header of an ICMP message. Echoes carry data, errors the start of the
/// packet that they are about: see [`Quoted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp4 {
    /// Asks for a reply with the same data.
    EchoRequest(Echo),
    /// Answers with the request's data.
    EchoReply(Echo),
    /// The packet didn't reach its destination.
    Unreachable {
        /// Why, as in [`unreachable4`].
        code: u8,
        /// The next hop's MTU, if the packet was too big for it and the
        /// router said so (RFC 1191, 4); else 0.
        mtu: u16,
    },
    /// The packet took too many hops (code 0), or its fragments too long (1).
    TimeExceeded {
        /// Which of both.
        code: u8,
    },
    /// The packet's header is wrong.
    ParameterProblem {
        /// What is wrong.
        code: u8,
        /// Which byte is wrong.
        pointer: u8,
    },
    /// Any other message, with the second half of its header.
    Other {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// Bytes 4 to 7.
        rest: [u8; 4],
    },
}

impl Icmp4 {
    /// The header at the front of `bytes`, [`LEN`] long.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let Raw {
            kind, code, rest, ..
        } = read(bytes, NAME)?;
        Ok(match (kind, code) {
            (kind4::ECHO_REQUEST, 0) => Self::EchoRequest(Echo::parse(rest)),
            (kind4::ECHO_REPLY, 0) => Self::EchoReply(Echo::parse(rest)),
            (kind4::UNREACHABLE, code) => Self::Unreachable {
                code,
                mtu: match code {
                    unreachable4::FRAGMENTATION_NEEDED => u16::from_be_bytes([rest[2], rest[3]]),
                    _ => 0,
                },
            },
            (kind4::TIME_EXCEEDED, code) => Self::TimeExceeded { code },
            (kind4::PARAMETER_PROBLEM, code) => Self::ParameterProblem {
                code,
                pointer: rest[0],
            },
            (kind, code) => Self::Other { kind, code, rest },
        })
    }

    /// Writes the header with its checksum zero and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let (kind, code, rest) = match *self {
            Self::EchoRequest(echo) => (kind4::ECHO_REQUEST, 0, echo.bytes()),
            Self::EchoReply(echo) => (kind4::ECHO_REPLY, 0, echo.bytes()),
            Self::Unreachable { code, mtu } => {
                let [a, b] = mtu.to_be_bytes();
                (kind4::UNREACHABLE, code, [0, 0, a, b])
            }
            Self::TimeExceeded { code } => (kind4::TIME_EXCEEDED, code, [0; 4]),
            Self::ParameterProblem { code, pointer } => {
                (kind4::PARAMETER_PROBLEM, code, [pointer, 0, 0, 0])
            }
            Self::Other { kind, code, rest } => (kind, code, rest),
        };
        put(&raw(kind, code, rest), out, NAME)
    }

    /// Whether this is an error, which nothing answers with an error
    /// (RFC 1122, 3.2.2).
    pub const fn is_error(&self) -> bool {
        match *self {
            Self::Unreachable { .. } | Self::TimeExceeded { .. } => true,
            Self::ParameterProblem { .. } => true,
            // Source quench and redirect.
            Self::Other { kind, .. } => matches!(kind, 4 | 5),
            Self::EchoRequest(_) | Self::EchoReply(_) => false,
        }
    }
}

/// The header of an ICMPv6 message. Echoes carry data, errors the start of the
/// packet that they are about, neighbour discovery options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp6 {
    /// The packet didn't reach its destination.
    Unreachable {
        /// Why, as in [`unreachable6`].
        code: u8,
    },
    /// The packet is too big for the next hop.
    TooBig {
        /// The next hop's MTU.
        mtu: u32,
    },
    /// The packet took too many hops (code 0), or its fragments too long (1).
    TimeExceeded {
        /// Which of both.
        code: u8,
    },
    /// The packet's header is wrong.
    ParameterProblem {
        /// What is wrong.
        code: u8,
        /// Which byte is wrong.
        pointer: u32,
    },
    /// Asks for a reply with the same data.
    EchoRequest(Echo),
    /// Answers with the request's data.
    EchoReply(Echo),
    /// Asks routers to advertise themselves.
    RouterSolicitation,
    /// A router says that and for what it is there.
    RouterAdvertisement(RouterAdvertisement),
    /// Asks whose the target is.
    NeighborSolicitation {
        /// The address that is asked for.
        target: Ipv6Addr,
    },
    /// Says whose the target is.
    NeighborAdvertisement {
        /// The address that is answered for.
        target: Ipv6Addr,
        /// The sender is a router.
        router: bool,
        /// A solicitation is answered.
        solicited: bool,
        /// What was known about the target is to be replaced.
        override_: bool,
    },
    /// Any other message, with the second half of its header.
    Other {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// Bytes 4 to 7.
        rest: [u8; 4],
    },
}

/// What a router advertises, apart from options (RFC 4861, 4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// The hop limit for packets of hosts; 0 says nothing.
    pub hop_limit: u8,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Other configuration is to be had by DHCPv6.
    pub other: bool,
    /// Seconds for which the router is a default router; 0: it is none.
    pub lifetime: u16,
    /// Milliseconds for which a neighbour counts as reachable; 0 says nothing.
    pub reachable: u32,
    /// Milliseconds between solicitations; 0 says nothing.
    pub retransmit: u32,
}

const MANAGED: u8 = 1 << 7;
const OTHER: u8 = 1 << 6;
const ROUTER: u8 = 1 << 7;
const SOLICITED: u8 = 1 << 6;
const OVERRIDE: u8 = 1 << 5;

impl Icmp6 {
    /// The header at the front of `bytes`, and its length.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), WireError> {
        let Raw {
            kind, code, rest, ..
        } = read(bytes, NAME6)?;
        let message = match (kind, code) {
            (kind6::UNREACHABLE, code) => Self::Unreachable { code },
            (kind6::TOO_BIG, _) => Self::TooBig {
                mtu: u32::from_be_bytes(rest),
            },
            (kind6::TIME_EXCEEDED, code) => Self::TimeExceeded { code },
            (kind6::PARAMETER_PROBLEM, code) => Self::ParameterProblem {
                code,
                pointer: u32::from_be_bytes(rest),
            },
            (kind6::ECHO_REQUEST, 0) => Self::EchoRequest(Echo::parse(rest)),
            (kind6::ECHO_REPLY, 0) => Self::EchoReply(Echo::parse(rest)),
            (kind6::ROUTER_SOLICITATION, 0) => Self::RouterSolicitation,
            (kind6::ROUTER_ADVERTISEMENT, 0) => {
                let [a, b, c, d, e, f, g, h] = read(&bytes[LEN..], NAME6)?;
                Self::RouterAdvertisement(RouterAdvertisement {
                    hop_limit: rest[0],
                    managed: rest[1] & MANAGED != 0,
                    other: rest[1] & OTHER != 0,
                    lifetime: u16::from_be_bytes([rest[2], rest[3]]),
                    reachable: u32::from_be_bytes([a, b, c, d]),
                    retransmit: u32::from_be_bytes([e, f, g, h]),
                })
            }
            (kind6::NEIGHBOR_SOLICITATION, 0) => {
                let target: [u8; 16] = read(&bytes[LEN..], NAME6)?;
                Self::NeighborSolicitation {
                    target: target.into(),
                }
            }
            (kind6::NEIGHBOR_ADVERTISEMENT, 0) => {
                let target: [u8; 16] = read(&bytes[LEN..], NAME6)?;
                Self::NeighborAdvertisement {
                    target: target.into(),
                    router: rest[0] & ROUTER != 0,
                    solicited: rest[0] & SOLICITED != 0,
                    override_: rest[0] & OVERRIDE != 0,
                }
            }
            (kind, code) => Self::Other { kind, code, rest },
        };
        Ok((message, message.header_len()))
    }

    /// The header's length.
    pub const fn header_len(&self) -> usize {
        match self {
            Self::RouterAdvertisement(_) => LEN + 8,
            Self::NeighborSolicitation { .. } | Self::NeighborAdvertisement { .. } => LEN + 16,
            _ => LEN,
        }
    }

    /// Writes the header with its checksum zero and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let (kind, code, rest) = match *self {
            Self::Unreachable { code } => (kind6::UNREACHABLE, code, [0; 4]),
            Self::TooBig { mtu } => (kind6::TOO_BIG, 0, mtu.to_be_bytes()),
            Self::TimeExceeded { code } => (kind6::TIME_EXCEEDED, code, [0; 4]),
            Self::ParameterProblem { code, pointer } => {
                (kind6::PARAMETER_PROBLEM, code, pointer.to_be_bytes())
            }
            Self::EchoRequest(echo) => (kind6::ECHO_REQUEST, 0, echo.bytes()),
            Self::EchoReply(echo) => (kind6::ECHO_REPLY, 0, echo.bytes()),
            Self::RouterSolicitation => (kind6::ROUTER_SOLICITATION, 0, [0; 4]),
            Self::RouterAdvertisement(router) => {
                let flags = flag(router.managed, MANAGED) | flag(router.other, OTHER);
                let [a, b] = router.lifetime.to_be_bytes();
                let rest = [router.hop_limit, flags, a, b];
                (kind6::ROUTER_ADVERTISEMENT, 0, rest)
            }
            Self::NeighborSolicitation { .. } => (kind6::NEIGHBOR_SOLICITATION, 0, [0; 4]),
            Self::NeighborAdvertisement {
                router,
                solicited,
                override_,
                ..
            } => {
                let flags =
                    flag(router, ROUTER) | flag(solicited, SOLICITED) | flag(override_, OVERRIDE);
                (kind6::NEIGHBOR_ADVERTISEMENT, 0, [flags, 0, 0, 0])
            }
            Self::Other { kind, code, rest } => (kind, code, rest),
        };
        let length = put(&raw(kind, code, rest), out, NAME6)?;
        let more = &mut out[length..];
        Ok(length
            + match *self {
                Self::RouterAdvertisement(router) => {
                    let times = [router.reachable, router.retransmit].map(u32::to_be_bytes);
                    put(&times, more, NAME6)?
                }
                Self::NeighborSolicitation { target }
                | Self::NeighborAdvertisement { target, .. } => put(&target.octets(), more, NAME6)?,
                _ => 0,
            })
    }

    /// Whether this is an error, which nothing answers with an error
    /// (RFC 4443, 2.1 and 2.4).
    pub const fn is_error(&self) -> bool {
        match *self {
            Self::Unreachable { .. }
            | Self::TooBig { .. }
            | Self::TimeExceeded { .. }
            | Self::ParameterProblem { .. } => true,
            // Redirects are no errors, but aren't answered by any either.
            Self::Other { kind, .. } => kind < 128 || kind == 137,
            _ => false,
        }
    }

    /// Whether this is neighbour discovery, which never crosses a router.
    pub const fn is_discovery(&self) -> bool {
        matches!(
            self,
            Self::RouterSolicitation
                | Self::RouterAdvertisement(_)
                | Self::NeighborSolicitation { .. }
                | Self::NeighborAdvertisement { .. }
                | Self::Other { kind: 137, .. }
        )
    }
}

fn raw(kind: u8, code: u8, rest: [u8; 4]) -> Raw {
    Raw {
        kind,
        code,
        checksum: 0.into(),
        rest,
    }
}

/// The packet that an error is about, as far as the error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its header.
    pub ip: IpHeader,
    /// Its first words, if they are there.
    pub transport: QuotedTransport,
    /// Where in the quotation the transport header begins.
    pub transport_offset: usize,
}

/// The start of a quoted packet's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotedTransport {
    /// TCP or UDP.
    Ports {
        /// The port of the quoted packet's sender.
        source: u16,
        /// The port of its receiver.
        destination: u16,
        /// TCP's sequence number; UDP's length and checksum.
        next: u32,
    },
    /// An echo request.
    EchoRequest(Echo),
    /// An echo reply.
    EchoReply(Echo),
    /// Anything else.
    Other,
}

impl Quoted {
    /// The packet that an error's payload quotes: its header whole, and at
    /// least 8 bytes behind it (RFC 792; RFC 4443, 3.1).
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let (ip, offset) = match bytes.first().map(|byte| byte >> 4) {
            Some(4) => {
                let (header, length) = Ip4Header::parse_quoted(bytes)?;
                (IpHeader::V4(header), length)
            }
            _ => IpHeader::parse(bytes)?,
        };
        let body = &bytes[offset..];
        let later = ip.fragment().is_some_and(|fragment| fragment.offset != 0);
        let transport = match ip.protocol() {
            _ if later => QuotedTransport::Other,
            Protocol::TCP | Protocol::UDP => {
                let [a, b, c, d, rest @ ..]: [u8; 8] = read(body, "quoted")?;
                QuotedTransport::Ports {
                    source: u16::from_be_bytes([a, b]),
                    destination: u16::from_be_bytes([c, d]),
                    next: u32::from_be_bytes(rest),
                }
            }
            Protocol::ICMP => match Icmp4::parse(body)? {
                Icmp4::EchoRequest(echo) => QuotedTransport::EchoRequest(echo),
                Icmp4::EchoReply(echo) => QuotedTransport::EchoReply(echo),
                _ => QuotedTransport::Other,
            },
            Protocol::ICMPV6 => match read::<Raw>(body, NAME6)? {
                Raw {
                    kind: kind6::ECHO_REQUEST,
                    rest,
                    ..
                } => QuotedTransport::EchoRequest(Echo::parse(rest)),
                Raw {
                    kind: kind6::ECHO_REPLY,
                    rest,
                    ..
                } => QuotedTransport::EchoReply(Echo::parse(rest)),
                _ => QuotedTransport::Other,
            },
            _ => QuotedTransport::Other,
        };
        Ok(Self {
            ip,
            transport,
            transport_offset: offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_messages() {
        let echo = Echo {
            identifier: 0x1234,
            sequence: 1,
        };
        for (message, bytes) in [
            (Icmp4::EchoRequest(echo), [8, 0, 0, 0, 0x12, 0x34, 0, 1]),
            (Icmp4::EchoReply(echo), [0, 0, 0, 0, 0x12, 0x34, 0, 1]),
            (
                Icmp4::Unreachable {
                    code: unreachable4::FRAGMENTATION_NEEDED,
                    mtu: 1400,
                },
                [3, 4, 0, 0, 0, 0, 0x05, 0x78],
            ),
            (Icmp4::TimeExceeded { code: 1 }, [11, 1, 0, 0, 0, 0, 0, 0]),
        ] {
            let mut out = [0; LEN];
            assert_eq!(message.write(&mut out), Ok(LEN));
            assert_eq!(out, bytes);
            assert_eq!(Icmp4::parse(&bytes), Ok(message));
        }
        let mtu = Icmp6::TooBig { mtu: 1280 };
        let mut out = [0; LEN];
        assert_eq!(mtu.write(&mut out), Ok(LEN));
        assert_eq!(out, [2, 0, 0, 0, 0, 0, 5, 0]);
    }

    #[test]
    fn a_neighbor_advertisement() {
        let target = "fe80::1".parse().unwrap();
        let message = Icmp6::NeighborAdvertisement {
            target,
            router: true,
            solicited: true,
            override_: false,
        };
        let mut out = [0; 24];
        assert_eq!(message.write(&mut out), Ok(24));
        assert_eq!(out[..8], [136, 0, 0, 0, 0xC0, 0, 0, 0]);
        assert_eq!(out[8..], target.octets());
        assert_eq!(Icmp6::parse(&out), Ok((message, 24)));
        assert_eq!(Icmp6::parse(&out[..23]), Err(WireError::Truncated(NAME6)));
        assert!(message.is_discovery());
        // With a code that it can't have it is no such message.
        out[1] = 1;
        let (message, _) = Icmp6::parse(&out).unwrap();
        assert!(matches!(message, Icmp6::Other { kind: 136, .. }));
    }

    #[test]
    fn errors_are_told() {
        for kind in 0..=u8::MAX {
            let message = Icmp4::parse(&[kind, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            assert_eq!(
                message.is_error(),
                [3, 4, 5, 11, 12].contains(&kind),
                "{kind}"
            );
            let (message, _) = Icmp6::parse(&[&[kind][..], &[0; 31]].concat()).unwrap();
            assert_eq!(message.is_error(), kind < 128 || kind == 137, "{kind}");
            let discovery = (133..=137).contains(&kind);
            assert_eq!(message.is_discovery(), discovery, "{kind}");
        }
    }

    #[test]
    fn quotations_name_the_flow() {
        let ip = Ip4Header {
            payload_len: 1000,
            ..Ip4Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::UDP)
        };
        let mut bytes = [0; 28];
        ip.write(&mut bytes).unwrap();
        bytes[20..].copy_from_slice(&[0xC0, 0, 0, 53, 3, 0xE8, 1, 2]);
        let quoted = Quoted::parse(&bytes).unwrap();
        let transport = QuotedTransport::Ports {
            source: 0xC000,
            destination: 53,
            next: 0x03E8_0102,
        };
        let expected = Quoted {
            ip: ip.into(),
            transport,
            transport_offset: 20,
        };
        assert_eq!(quoted, expected);
        for length in 0..28 {
            assert!(Quoted::parse(&bytes[..length]).is_err(), "{length}");
        }
        let ip = Ip4Header {
            protocol: Protocol::ICMP,
            ..ip
        };
        ip.write(&mut bytes).unwrap();
        bytes[20..].copy_from_slice(&[8, 0, 1, 2, 0x12, 0x34, 0, 1]);
        let echo = Echo {
            identifier: 0x1234,
            sequence: 1,
        };
        let quoted = Quoted::parse(&bytes).unwrap();
        assert_eq!(quoted.transport, QuotedTransport::EchoRequest(echo));
        // A later fragment has no transport header.
        let ip = Ip4Header {
            fragment_offset: 8,
            ..ip
        };
        ip.write(&mut bytes).unwrap();
        let quoted = Quoted::parse(&bytes).unwrap();
        assert_eq!(quoted.transport, QuotedTransport::Other);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written(kind: u8, code in 0u8..3, mut bytes: [u8; 24]) {
            bytes[0] = kind;
            bytes[1] = code;
            let mut out = [0; 24];
            let message = Icmp4::parse(&bytes).unwrap();
            prop_assert_eq!(message.write(&mut out), Ok(LEN));
            prop_assert_eq!(Icmp4::parse(&out), Ok(message));
            let (message, length) = Icmp6::parse(&bytes).unwrap();
            prop_assert_eq!(message.write(&mut out), Ok(length));
            prop_assert_eq!(Icmp6::parse(&out), Ok((message, length)));
            prop_assert!(message.write(&mut out[..length - 1]).is_err());
        }

        #[test]
        fn any_quotation_is_survived(
            version in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
            protocol in prop::sample::select(vec![1u8, 6, 17, 44, 58]),
            mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            for (at, value) in [(0, version), (6, protocol), (9, protocol)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Ok(quoted) = Quoted::parse(&bytes) {
                prop_assert!(quoted.transport_offset <= bytes.len());
            }
        }
    }
}
