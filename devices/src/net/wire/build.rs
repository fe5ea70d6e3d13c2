//! Frames of the engine's own: headers in a buffer of fixed size, before a
//! payload that stays where it is.

use super::arp::Arp;
use super::checksum::Sum;
use super::ether::{EtherHeader, ethertype};
use super::icmp::{self, Icmp4, Icmp6};
use super::ip::{Ip4Header, Ip6Header, IpHeader, Protocol};
use super::packet::HEAD_LEN;
use super::tcp::{self, TcpFlags, TcpHeader};
use super::udp::{self, UdpHeader};
use super::vnet::{Checksum, Gso, VnetHeader};
use super::{WireError, arp};
use crate::net::payload::Payload;
use crate::net::port::FRAME_HEADER;

/// The headers of one frame, with its virtio header in front. Used again for
/// frame after frame, it costs nothing to make.
#[derive(Clone, Debug)]
pub struct HeaderBuf {
    bytes: [u8; FRAME_HEADER + HEAD_LEN],
    /// Bytes used, the virtio header included.
    len: usize,
}

/// What is to become of the payload of TCP or UDP.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// The receiver completes the checksum, and cuts the payload into
    /// segments of `segment` bytes if it is longer.
    Offloaded {
        /// The payload's length.
        len: usize,
        /// The payload of one segment; None if the frame is one.
        segment: Option<u16>,
    },
    /// The receiver does nothing: the checksum is made over this payload.
    Whole(&'a dyn Payload),
}

impl Body<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Offloaded { len, .. } => *len,
            Self::Whole(payload) => payload.len(),
        }
    }
}

impl Default for HeaderBuf {
    fn default() -> Self {
        Self {
            bytes: [0; FRAME_HEADER + HEAD_LEN],
            len: FRAME_HEADER,
        }
    }
}

impl HeaderBuf {
    /// The virtio header and the frame's headers.
    pub fn with_vnet(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The frame's headers, from Ethernet on.
    pub fn frame(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER..self.len]
    }

    /// Composes a frame of TCP. Of `ip`, protocol and payload length are
    /// filled in. Returns the frame's virtio header, which the buffer also
    /// holds.
    pub fn tcp(
        &mut self,
        ether: &EtherHeader,
        ip: &IpHeader,
        tcp: &TcpHeader,
        body: Body,
    ) -> Result<VnetHeader, WireError> {
        let length = tcp.header_len() + body.len();
        let at = self.start(ether, ip, Protocol::TCP, length)?;
        self.len += tcp.write(&mut self.bytes[self.len..])?;
        let ecn = tcp.flags.contains(TcpFlags::CWR);
        self.finish(ip, Protocol::TCP, at, body, |size| match ip {
            IpHeader::V4(_) => Gso::Tcp4 { size, ecn },
            IpHeader::V6(_) => Gso::Tcp6 { size, ecn },
        })
    }

    /// Composes a frame of UDP from port `source` to port `destination`, as
    /// [`Self::tcp`] does.
    pub fn udp(
        &mut self,
        ether: &EtherHeader,
        ip: &IpHeader,
        (source, destination): (u16, u16),
        body: Body,
    ) -> Result<VnetHeader, WireError> {
        let length = udp::LEN + body.len();
        let at = self.start(ether, ip, Protocol::UDP, length)?;
        let header = UdpHeader {
            source,
            destination,
            payload_len: u16::try_from(body.len()).map_err(|_| WireError::TooLong(length))?,
            checksum: 0,
        };
        self.len += header.write(&mut self.bytes[self.len..])?;
        self.finish(ip, Protocol::UDP, at, body, |size| Gso::UdpL4 { size })
    }

    /// Composes a frame of ICMP. Its checksum is always made, as nobody
    /// offloads it; so are those of [`Self::icmp6`].
    pub fn icmp4(
        &mut self,
        ether: &EtherHeader,
        ip: &Ip4Header,
        icmp: &Icmp4,
        payload: &dyn Payload,
    ) -> Result<VnetHeader, WireError> {
        let length = icmp::LEN + payload.len();
        let at = self.start(ether, &(*ip).into(), Protocol::ICMP, length)?;
        self.len += icmp.write(&mut self.bytes[self.len..])?;
        let checksum = self.sum(Sum::default(), at, payload).checksum();
        self.set_checksum(at + usize::from(icmp::CHECKSUM_OFFSET), checksum);
        Ok(self.set_vnet(VnetHeader::default()))
    }

    /// Composes a frame of ICMPv6; `payload` holds the options of neighbour
    /// discovery.
    pub fn icmp6(
        &mut self,
        ether: &EtherHeader,
        ip: &Ip6Header,
        icmp: &Icmp6,
        payload: &dyn Payload,
    ) -> Result<VnetHeader, WireError> {
        let length = icmp.header_len() + payload.len();
        let at = self.start(ether, &(*ip).into(), Protocol::ICMPV6, length)?;
        self.len += icmp.write(&mut self.bytes[self.len..])?;
        let pseudo = Sum::pseudo6(ip.source, ip.destination, Protocol::ICMPV6, length);
        let checksum = self.sum(pseudo, at, payload).checksum();
        self.set_checksum(at + usize::from(icmp::CHECKSUM_OFFSET), checksum);
        Ok(self.set_vnet(VnetHeader::default()))
    }

    /// Composes the headers of a piece of a packet: those up to IP's, and the
    /// `start` of what `ip` carries, with its checksum, before `payload_len`
    /// bytes more.
    pub fn fragment(
        &mut self,
        ether: &EtherHeader,
        ip: &IpHeader,
        start: &[u8],
        payload_len: usize,
    ) -> Result<VnetHeader, WireError> {
        let at = self.start(ether, ip, ip.protocol(), start.len() + payload_len)?;
        let room = self.bytes.get_mut(at..at + start.len());
        room.ok_or(WireError::NoRoom("fragmented"))?
            .copy_from_slice(start);
        self.len += start.len();
        Ok(self.set_vnet(VnetHeader::default()))
    }

    /// Composes a frame of ARP, which has no payload.
    pub fn arp(&mut self, ether: &EtherHeader, arp: &Arp) -> Result<VnetHeader, WireError> {
        self.ether(ether, ethertype::ARP)?;
        self.bytes[self.len..self.len + arp::LEN].copy_from_slice(&arp.bytes());
        self.len += arp::LEN;
        Ok(self.set_vnet(VnetHeader::default()))
    }

    /// Takes over headers as they are; they are at most [`HEAD_LEN`] long.
    pub(super) fn copy(&mut self, headers: &[u8]) -> Result<&mut [u8], WireError> {
        let end = FRAME_HEADER + headers.len();
        let room = self.bytes.get_mut(FRAME_HEADER..end);
        let room = room.ok_or(WireError::NoRoom("copied"))?;
        room.copy_from_slice(headers);
        self.len = end;
        Ok(room)
    }

    fn ether(&mut self, ether: &EtherHeader, ethertype: u16) -> Result<(), WireError> {
        let header = EtherHeader {
            ethertype,
            ..*ether
        };
        self.len = FRAME_HEADER + header.write(&mut self.bytes[FRAME_HEADER..])?;
        Ok(())
    }

    /// Writes the headers before the transport's, which has `length` bytes
    /// with its payload; returns where it begins in `bytes`.
    fn start(
        &mut self,
        ether: &EtherHeader,
        ip: &IpHeader,
        protocol: Protocol,
        length: usize,
    ) -> Result<usize, WireError> {
        let length = u16::try_from(length).map_err(|_| WireError::TooLong(length))?;
        let ethertype = match ip {
            IpHeader::V4(_) => ethertype::IPV4,
            IpHeader::V6(_) => ethertype::IPV6,
        };
        self.ether(ether, ethertype)?;
        let ip = ip.with_payload(protocol, length);
        self.len += ip.write(&mut self.bytes[self.len..])?;
        Ok(self.len)
    }

    /// Fills in the checksum of the transport header that begins `at` in
    /// `bytes`, and the virtio header; `gso` says what each segment of an
    /// offloaded payload is to be, given its size.
    fn finish(
        &mut self,
        ip: &IpHeader,
        protocol: Protocol,
        at: usize,
        body: Body,
        gso: impl Fn(u16) -> Gso,
    ) -> Result<VnetHeader, WireError> {
        let offset = match protocol {
            Protocol::TCP => tcp::CHECKSUM_OFFSET,
            _ => udp::CHECKSUM_OFFSET,
        };
        let field = at + usize::from(offset);
        let pseudo = ip.pseudo_sum(protocol, self.len - at + body.len());
        let (len, segment) = match body {
            Body::Whole(payload) => {
                let checksum = self.sum(pseudo, at, payload).transport_checksum();
                self.set_checksum(field, checksum);
                return Ok(self.set_vnet(VnetHeader::default()));
            }
            Body::Offloaded { len, segment } => (len, segment),
        };
        self.set_checksum(field, pseudo.partial());
        let narrow = |value: usize| u16::try_from(value).map_err(|_| WireError::TooLong(value));
        let segment = segment.filter(|size| *size != 0 && len > usize::from(*size));
        let request = Checksum {
            start: narrow(at - FRAME_HEADER)?,
            offset,
        };
        Ok(self.set_vnet(VnetHeader {
            needs_checksum: Some(request),
            data_valid: false,
            gso: segment.map_or(Gso::None, gso),
            header_len: narrow(self.len - FRAME_HEADER)?,
        }))
    }

    /// The sum of what begins `at` in `bytes` and goes on with `payload`.
    fn sum(&self, mut sum: Sum, at: usize, payload: &dyn Payload) -> Sum {
        sum.add(&self.bytes[at..self.len]);
        sum.add_payload(payload);
        sum
    }

    fn set_checksum(&mut self, at: usize, checksum: u16) {
        self.bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    pub(super) fn set_vnet(&mut self, vnet: VnetHeader) -> VnetHeader {
        self.bytes[..FRAME_HEADER].copy_from_slice(&vnet.bytes());
        vnet
    }
}
