//! IP headers: version 4 (RFC 791) and version 6 (RFC 8200).

use std::net::IpAddr;

pub use super::ip4::Ip4Header;
pub use super::ip6::Ip6Header;

use super::WireError;
use super::checksum::Sum;

/// Upper-layer protocols (IANA, Assigned Internet Protocol Numbers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// The internet control message protocol of IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// The internet control message protocol of IPv6.
    pub const ICMPV6: Self = Self(58);
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What fragments of one packet have in common, with its addresses; 16
    /// bits wide in IPv4.
    pub identification: u32,
    /// Where its payload lies in the packet's, in bytes; a multiple of 8.
    pub offset: u16,
    /// Whether fragments follow that lie behind it.
    pub more: bool,
}

/// The hop limit of packets that start here (IANA, IP Time to Live).
pub const DEFAULT_TTL: u8 = 64;

/// A header of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpHeader {
    /// Version 4.
    V4(Ip4Header),
    /// Version 6.
    V6(Ip6Header),
}

impl IpHeader {
    /// The header at the front of `bytes`, with IPv6's extension headers, and
    /// its length. The version is the first byte's.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), WireError> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Ip4Header::parse(bytes).map(|(header, length)| (Self::V4(header), length)),
            Some(6) => Ip6Header::parse(bytes).map(|(header, length)| (Self::V6(header), length)),
            Some(version) => Err(WireError::Invalid {
                header: "IP",
                field: "version",
                value: version.into(),
            }),
            None => Err(WireError::Truncated("IP")),
        }
    }

    /// The header of a packet that starts here: not fragmented, with the
    /// default hop limit. None if the addresses are of two versions.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: Protocol) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Some(Self::V4(Ip4Header::new(source, destination, protocol)))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Some(Self::V6(Ip6Header::new(source, destination, protocol)))
            }
            _ => None,
        }
    }

    /// The sender.
    pub const fn source(&self) -> IpAddr {
        match self {
            Self::V4(header) => IpAddr::V4(header.source),
            Self::V6(header) => IpAddr::V6(header.source),
        }
    }

    /// The receiver.
    pub const fn destination(&self) -> IpAddr {
        match self {
            Self::V4(header) => IpAddr::V4(header.destination),
            Self::V6(header) => IpAddr::V6(header.destination),
        }
    }

    /// The protocol of the payload.
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::V4(header) => header.protocol,
            Self::V6(header) => header.protocol,
        }
    }

    /// The hops that the packet may still take.
    pub const fn ttl(&self) -> u8 {
        match self {
            Self::V4(header) => header.ttl,
            Self::V6(header) => header.hop_limit,
        }
    }

    /// The service that is asked for (RFC 2474): six bits.
    pub const fn dscp(&self) -> u8 {
        match self {
            Self::V4(header) => header.dscp,
            Self::V6(header) => header.dscp,
        }
    }

    /// The congestion notification (RFC 3168): two bits.
    pub const fn ecn(&self) -> u8 {
        match self {
            Self::V4(header) => header.ecn,
            Self::V6(header) => header.ecn,
        }
    }

    /// Bytes behind the header, and behind IPv6's extension headers.
    pub const fn payload_len(&self) -> u16 {
        match self {
            Self::V4(header) => header.payload_len,
            Self::V6(header) => header.payload_len,
        }
    }

    /// Where the packet belongs, if it is a fragment of another.
    pub const fn fragment(&self) -> Option<Fragment> {
        match self {
            Self::V4(header) => header.fragment(),
            Self::V6(header) => header.fragment,
        }
    }

    /// The same header for another payload.
    #[must_use]
    pub const fn with_payload(self, protocol: Protocol, payload_len: u16) -> Self {
        match self {
            Self::V4(header) => Self::V4(Ip4Header {
                protocol,
                payload_len,
                ..header
            }),
            Self::V6(header) => Self::V6(Ip6Header {
                protocol,
                payload_len,
                ..header
            }),
        }
    }

    /// The bytes that [`Self::write`] writes.
    pub const fn header_len(&self) -> usize {
        match self {
            Self::V4(_) => super::ip4::LEN,
            Self::V6(header) => header.header_len(),
        }
    }

    /// Writes the header, without IPv4's options and IPv6's extension headers
    /// other than the fragment header, and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        match self {
            Self::V4(header) => header.write(out),
            Self::V6(header) => header.write(out),
        }
    }

    /// The sum of the pseudo header before `length` bytes of `protocol`
    /// (RFC 9293, 3.1; RFC 8200, 8.1).
    pub fn pseudo_sum(&self, protocol: Protocol, length: usize) -> Sum {
        match self {
            Self::V4(header) => Sum::pseudo4(header.source, header.destination, protocol, length),
            Self::V6(header) => Sum::pseudo6(header.source, header.destination, protocol, length),
        }
    }
}

impl From<Ip4Header> for IpHeader {
    fn from(header: Ip4Header) -> Self {
        Self::V4(header)
    }
}

impl From<Ip6Header> for IpHeader {
    fn from(header: Ip6Header) -> Self {
        Self::V6(header)
    }
}
