//! The one parse of a frame: what it is, and whether it is what it says.

use super::arp::Arp;
use super::checksum::Sum;
use super::ether::{EtherHeader, ethertype};
use super::icmp::{self, Icmp4, Icmp6};
use super::ip::{Fragment, Ip4Header, Ip6Header, IpHeader, Protocol};
use super::ip6::walk_reassembled;
use super::tcp::{self, TcpHeader};
use super::udp::{self, UdpHeader};
use super::vnet::{Checksum, Gso, VnetHeader};
use super::{WireError, ndp};
use crate::net::payload::{Part, Payload};

/// The bytes of a frame that are enough to parse it: Ethernet with a VLAN
/// tag, IPv6 with more extension headers than anybody sends, and TCP with all
/// its options.
pub const HEAD_LEN: usize = 256;

/// The smallest payload of a segment (TCP_MIN_GSO_SIZE of Linux: the smallest
/// MSS, 48, less all the options that may take from it).
pub const MIN_GSO_SIZE: u16 = 8;

/// The most datagrams in one frame (UDP_MAX_SEGMENTS of Linux).
pub const MAX_DATAGRAMS: usize = 128;

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Drop {
    /// The frame is too short for Ethernet, or its VLAN tag is cut off.
    Ethernet,
    /// Its virtio header asks for a checksum outside of the frame.
    ChecksumRequest,
    /// Its virtio header asks for segments that it can't be cut into.
    Segmentation,
    /// Bad ARP.
    Arp,
    /// Bad IPv4 header, or a packet longer than the frame.
    Ip4,
    /// The IPv4 header's checksum is wrong.
    Ip4Checksum,
    /// Bad IPv6 or extension header, or a packet longer than the frame.
    Ip6,
    /// A fragment that can't be part of any packet.
    Fragment,
    /// Bad TCP header.
    Tcp,
    /// The TCP checksum is wrong.
    TcpChecksum,
    /// Bad UDP header.
    Udp,
    /// The UDP checksum is wrong, or missing over IPv6.
    UdpChecksum,
    /// Bad ICMP or ICMPv6 header.
    Icmp,
    /// The ICMP or ICMPv6 checksum is wrong.
    IcmpChecksum,
    /// Neighbour discovery from another link, or with bad options.
    Discovery,
}

impl Drop {
    /// All reasons, in the order of [`Self::index`].
    pub const ALL: [Self; 15] = [
        Self::Ethernet,
        Self::ChecksumRequest,
        Self::Segmentation,
        Self::Arp,
        Self::Ip4,
        Self::Ip4Checksum,
        Self::Ip6,
        Self::Fragment,
        Self::Tcp,
        Self::TcpChecksum,
        Self::Udp,
        Self::UdpChecksum,
        Self::Icmp,
        Self::IcmpChecksum,
        Self::Discovery,
    ];

    /// The reason's place in an array of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason's name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "bad_ethernet",
            Self::ChecksumRequest => "bad_checksum_request",
            Self::Segmentation => "bad_segmentation",
            Self::Arp => "bad_arp",
            Self::Ip4 => "bad_ipv4",
            Self::Ip4Checksum => "ipv4_checksum",
            Self::Ip6 => "bad_ipv6",
            Self::Fragment => "bad_fragment",
            Self::Tcp => "bad_tcp",
            Self::TcpChecksum => "tcp_checksum",
            Self::Udp => "bad_udp",
            Self::UdpChecksum => "udp_checksum",
            Self::Icmp => "bad_icmp",
            Self::IcmpChecksum => "icmp_checksum",
            Self::Discovery => "bad_discovery",
        }
    }
}

/// A frame taken apart. Offsets count from the first byte of the frame, which
/// follows the virtio header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What is left to do for the frame.
    pub vnet: VnetHeader,
    /// Its Ethernet header.
    pub ether: EtherHeader,
    /// What Ethernet carries.
    pub network: Network,
    /// What IP carries.
    pub transport: Transport,
    /// What is known about the transport's checksum.
    pub checksum: ChecksumState,
    /// Where the network header begins.
    pub network_offset: usize,
    /// Where what IP carries begins.
    pub transport_offset: usize,
    /// Where the payload of the innermost known header begins.
    pub payload_offset: usize,
    /// The payload's length, without the frame's padding.
    pub payload_len: usize,
}

/// What Ethernet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Address resolution.
    Arp(Arp),
    /// IPv4 or IPv6.
    Ip(IpHeader),
    /// Anything else, by EtherType.
    Other(u16),
}

/// What IP carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A segment of TCP.
    Tcp(TcpHeader),
    /// A datagram of UDP, or several if the frame is to be segmented.
    Udp(UdpHeader),
    /// An ICMP message.
    Icmp4(Icmp4),
    /// An ICMPv6 message.
    Icmp6(Icmp6),
    /// A piece of a packet; the payload begins behind the fragment header.
    Fragment(Fragment),
    /// Another protocol of IP, or no IP.
    Other,
}

/// What is known about the checksum of the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// It is right, or vouched for, or there is none.
    Good,
    /// It is left to the receiver: the frame never was on a wire.
    Partial,
    /// The head didn't hold all of the frame: [`Packet::verify`] tells.
    Unchecked,
    /// Another checksum than the transport's is left to the receiver, as in a
    /// tunnel; the transport's may be right only once that is completed.
    Inner(Checksum),
}

impl Packet {
    /// Takes a frame of `total_len` bytes apart. `head` holds at least its
    /// first [`HEAD_LEN`] bytes, or all if it has fewer. Where it holds all,
    /// checksums are verified.
    pub fn parse(vnet: VnetHeader, head: &[u8], total_len: usize) -> Result<Self, Drop> {
        let head = &head[..head.len().min(total_len)];
        let (ether, offset) = EtherHeader::parse(head).map_err(|_| Drop::Ethernet)?;
        check_request(&vnet, offset, total_len)?;
        let rest = &head[offset..head.len().min(HEAD_LEN)];
        let mut packet = Self {
            vnet,
            ether,
            network: Network::Other(ether.ethertype),
            transport: Transport::Other,
            checksum: vnet
                .needs_checksum
                .map_or(ChecksumState::Good, ChecksumState::Inner),
            network_offset: offset,
            transport_offset: offset,
            payload_offset: offset,
            payload_len: total_len - offset,
        };
        match ether.ethertype {
            ethertype::ARP => {
                packet.network = Network::Arp(Arp::parse(rest).map_err(|_| Drop::Arp)?);
            }
            ethertype::IPV4 => {
                let (header, length) = Ip4Header::parse(rest).map_err(|error| match error {
                    WireError::Checksum(_) => Drop::Ip4Checksum,
                    _ => Drop::Ip4,
                })?;
                packet.take_ip(header.into(), length, Drop::Ip4)?;
                packet.take_transport(header.into(), head)?;
            }
            ethertype::IPV6 => {
                let (header, length) = Ip6Header::parse(rest).map_err(|_| Drop::Ip6)?;
                packet.take_ip(header.into(), length, Drop::Ip6)?;
                packet.take_transport(header.into(), head)?;
            }
            _ => {}
        }
        packet.check_segmentation()?;
        Ok(packet)
    }

    /// Takes a packet apart that was put together from fragments: `ip` is the
    /// header of its first one, and `payload` is what they carried. Offsets
    /// count from the start of `payload`.
    pub fn reassembled(ether: EtherHeader, ip: IpHeader, payload: &[u8]) -> Result<Self, Drop> {
        let payload_len = u16::try_from(payload.len()).map_err(|_| Drop::Fragment)?;
        let (ip, offset) = match ip {
            IpHeader::V4(header) => {
                let whole = Ip4Header {
                    more_fragments: false,
                    fragment_offset: 0,
                    payload_len,
                    ..header
                };
                (IpHeader::V4(whole), 0)
            }
            IpHeader::V6(header) => {
                let (protocol, length) =
                    walk_reassembled(header.protocol, payload).map_err(|_| Drop::Ip6)?;
                let rest = payload_len - u16::try_from(length).map_err(|_| Drop::Ip6)?;
                let whole = Ip6Header {
                    protocol,
                    payload_len: rest,
                    fragment: None,
                    ..header
                };
                (IpHeader::V6(whole), length)
            }
        };
        let mut packet = Self {
            vnet: VnetHeader::default(),
            ether,
            network: Network::Ip(ip),
            transport: Transport::Other,
            checksum: ChecksumState::Good,
            network_offset: 0,
            transport_offset: offset,
            payload_offset: offset,
            payload_len: payload.len() - offset,
        };
        packet.take_transport(ip, payload)?;
        Ok(packet)
    }

    /// The IP header, if the frame carries IP.
    pub const fn ip(&self) -> Option<&IpHeader> {
        match &self.network {
            Network::Ip(header) => Some(header),
            _ => None,
        }
    }

    /// Verifies the transport's checksum over `frame`, the whole of the bytes
    /// that this was parsed from, if that is yet to be done.
    pub fn verify(&mut self, frame: &dyn Payload) -> Result<(), Drop> {
        let (ChecksumState::Unchecked, Network::Ip(ip)) = (self.checksum, self.network) else {
            return Ok(());
        };
        let length = self.payload_offset - self.transport_offset + self.payload_len;
        let range = self.transport_offset..self.transport_offset + length;
        let mut sum = match ip.protocol() {
            Protocol::ICMP => Sum::default(),
            protocol => ip.pseudo_sum(protocol, length),
        };
        sum.add_payload(&Part::new(frame, range));
        if sum.checksum() != 0 {
            return Err(match self.transport {
                Transport::Tcp(_) => Drop::TcpChecksum,
                Transport::Udp(_) => Drop::UdpChecksum,
                _ => Drop::IcmpChecksum,
            });
        }
        self.checksum = ChecksumState::Good;
        Ok(())
    }

    /// Takes in the IP header: what it carries must lie within the frame.
    fn take_ip(&mut self, ip: IpHeader, length: usize, bad: Drop) -> Result<(), Drop> {
        let payload_len = usize::from(ip.payload_len());
        if length + payload_len > self.payload_len {
            return Err(bad);
        }
        self.network = Network::Ip(ip);
        self.transport_offset += length;
        self.payload_offset = self.transport_offset;
        self.payload_len = payload_len;
        Ok(())
    }

    /// Takes in what IP carries.
    fn take_transport(&mut self, ip: IpHeader, head: &[u8]) -> Result<(), Drop> {
        if let Some(fragment) = ip.fragment() {
            check_fragment(fragment, self.payload_len)?;
            self.transport = Transport::Fragment(fragment);
            return Ok(());
        }
        let headers = &head[..head.len().min(HEAD_LEN)];
        let body = headers.get(self.transport_offset..).unwrap_or_default();
        let body = &body[..body.len().min(self.payload_len)];
        let (transport, length, checksum_offset) = match (ip, ip.protocol()) {
            (_, Protocol::TCP) => {
                let (header, length) = TcpHeader::parse(body).map_err(|_| Drop::Tcp)?;
                (Transport::Tcp(header), length, tcp::CHECKSUM_OFFSET)
            }
            (_, Protocol::UDP) => {
                let header = UdpHeader::parse(body).map_err(|_| Drop::Udp)?;
                let length = udp::LEN + usize::from(header.payload_len);
                // What IP carries behind the datagram isn't its own.
                self.payload_len = Some(length)
                    .filter(|length| *length <= self.payload_len)
                    .ok_or(Drop::Udp)?;
                (Transport::Udp(header), udp::LEN, udp::CHECKSUM_OFFSET)
            }
            (IpHeader::V4(_), Protocol::ICMP) => {
                let header = Icmp4::parse(body).map_err(|_| Drop::Icmp)?;
                let offset = icmp::CHECKSUM_OFFSET;
                (Transport::Icmp4(header), icmp::LEN, offset)
            }
            (IpHeader::V6(ip), Protocol::ICMPV6) => {
                let (header, length) = Icmp6::parse(body).map_err(|_| Drop::Icmp)?;
                if header.is_discovery() {
                    let options = &body[length..];
                    check_discovery(&ip, options, self.payload_len - length)?;
                }
                (Transport::Icmp6(header), length, icmp::CHECKSUM_OFFSET)
            }
            _ => return Ok(()),
        };
        self.transport = transport;
        self.payload_offset += length;
        self.payload_len -= length;
        self.checksum = self.checksum_state(ip, checksum_offset)?;
        if self.payload_offset + self.payload_len <= head.len() {
            self.verify(&head)?;
        }
        Ok(())
    }

    fn checksum_state(&self, ip: IpHeader, offset: u16) -> Result<ChecksumState, Drop> {
        if let Some(request) = self.vnet.needs_checksum {
            let own = usize::from(request.start) == self.transport_offset;
            return Ok(if own && request.offset == offset {
                ChecksumState::Partial
            } else {
                ChecksumState::Inner(request)
            });
        }
        match (self.transport, ip) {
            (Transport::Udp(UdpHeader { checksum: 0, .. }), IpHeader::V4(_)) => {
                Ok(ChecksumState::Good)
            }
            // RFC 8200, 8.1.
            (Transport::Udp(UdpHeader { checksum: 0, .. }), IpHeader::V6(_)) => {
                Err(Drop::UdpChecksum)
            }
            _ if self.vnet.data_valid => Ok(ChecksumState::Good),
            _ => Ok(ChecksumState::Unchecked),
        }
    }

    /// Whether the frame can be cut into the segments that its header names.
    fn check_segmentation(&self) -> Result<(), Drop> {
        let transport = (&self.network, &self.transport);
        let fits = match (self.vnet.gso, transport) {
            (Gso::None, _) => return Ok(()),
            (Gso::Tcp4 { size, .. }, (Network::Ip(IpHeader::V4(_)), Transport::Tcp(_)))
            | (Gso::Tcp6 { size, .. }, (Network::Ip(IpHeader::V6(_)), Transport::Tcp(_))) => {
                size >= MIN_GSO_SIZE
            }
            (Gso::UdpL4 { size }, (_, Transport::Udp(_))) => {
                self.payload_len <= usize::from(size) * MAX_DATAGRAMS
            }
            _ => false,
        };
        (fits && self.checksum == ChecksumState::Partial)
            .then_some(())
            .ok_or(Drop::Segmentation)
    }
}

/// A checksum that is left to do must lie behind the Ethernet header and
/// within the frame.
fn check_request(vnet: &VnetHeader, ether_len: usize, total_len: usize) -> Result<(), Drop> {
    let Some(request) = vnet.needs_checksum else {
        return Ok(());
    };
    let start = usize::from(request.start);
    let end = start + usize::from(request.offset) + 2;
    (start >= ether_len && end <= total_len)
        .then_some(())
        .ok_or(Drop::ChecksumRequest)
}

/// All fragments but the last carry multiples of 8 bytes, none carries
/// nothing, and none ends behind the longest packet (RFC 791, 3.2; RFC 8200,
/// 4.5).
fn check_fragment(fragment: Fragment, payload_len: usize) -> Result<(), Drop> {
    let end = usize::from(fragment.offset) + payload_len;
    let whole_units = payload_len.is_multiple_of(8) || !fragment.more;
    (payload_len > 0 && whole_units && end <= usize::from(u16::MAX))
        .then_some(())
        .ok_or(Drop::Fragment)
}

/// Neighbour discovery must not have crossed a router (RFC 4861, 6.1 and 7.1).
/// Messages whose options don't fit in a frame's head are refused: only
/// routers send such.
fn check_discovery(ip: &Ip6Header, options: &[u8], len: usize) -> Result<(), Drop> {
    let whole = options.len() == len && ndp::Options::parse(options).is_ok();
    (ip.hop_limit == 255 && whole)
        .then_some(())
        .ok_or(Drop::Discovery)
}

#[cfg(test)]
mod tests;
