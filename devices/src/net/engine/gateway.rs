//! Frames for the gateway: its own services, and the way out.

use std::net::Ipv6Addr;

use super::counters::Reason;
use super::discovery::{Sender, port_number};
use super::{Engine, World};
use crate::net::attachment::Frame;
use crate::net::nat::Outcome;
use crate::net::nat::flows::{Endpoint, FlowId, Guest};
use crate::net::nat::icmp::{EchoReply, EchoRequest};
use crate::net::nat::sockets::Sockets;
use crate::net::nat::tcp::streams::Streams;
use crate::net::nat::udp::Datagram;
use crate::net::payload::{Part, Payload};
use crate::net::port::FRAME_HEADER;
use crate::net::services::dns;
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6};
use crate::net::wire::ip::IpHeader;
use crate::net::wire::packet::{ChecksumState, Drop, Network, Packet, Transport};
use crate::net::wire::segment::complete;
use crate::net::wire::vnet::{Gso, VnetHeader};

/// The longest message of a service that is read at once: longer than any
/// frame's that isn't put together from fragments or segments.
const MAX_MESSAGE: usize = 9000;

/// A packet on its way through the gateway: what was parsed, and the bytes
/// that its offsets count in.
pub(super) struct Inner<'a> {
    pub(super) sender: Sender,
    pub(super) packet: Packet,
    pub(super) ip: IpHeader,
    pub(super) bytes: &'a dyn Payload,
    /// The guest sent it in fragments.
    pub(super) fragmented: bool,
}

impl<'a> Inner<'a> {
    /// What the innermost header is followed by.
    pub(super) fn payload(&self) -> Part<'a> {
        let start = self.packet.payload_offset;
        Part::new(self.bytes, start..start + self.packet.payload_len)
    }

    /// The message that IP carries, with its header.
    fn message(&self) -> Part<'a> {
        let end = self.packet.payload_offset + self.packet.payload_len;
        Part::new(self.bytes, self.packet.transport_offset..end)
    }

    /// Whether nobody may fragment the packet: in IPv6, only who sends it may.
    fn dont_fragment(&self) -> bool {
        !self.fragmented
            && match self.ip {
                IpHeader::V4(ip) => ip.dont_fragment,
                IpHeader::V6(_) => true,
            }
    }

    /// Whom the packet's flow is counted to.
    pub(super) fn guest(&self) -> Guest {
        Guest(port_number(self.sender.port))
    }
}

impl Engine {
    /// Serves a frame for the gateway; returns the flow that it is to wait
    /// for, if its socket has no room.
    pub(super) fn enter_gateway<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        sender: Sender,
        packet: Packet,
        frame: &Frame,
    ) -> Result<Option<FlowId>, Reason> {
        match packet.network {
            Network::Arp(arp) => {
                let useful = self.lan.on_arp(world.now, world.ports, sender, &arp);
                useful.then_some(None).ok_or(Reason::Arp)
            }
            Network::Ip(ip) => {
                let bytes = &Part::new(frame, FRAME_HEADER..frame.len());
                let inner = Inner {
                    sender,
                    packet,
                    ip,
                    bytes,
                    fragmented: false,
                };
                if let ChecksumState::Inner(_) = packet.checksum {
                    return self.enter_completed(world, inner).map(|()| None);
                }
                self.enter_ip(world, inner)
            }
            Network::Other(_) => Err(Reason::Protocol),
        }
    }

    /// Takes a packet that lacks a checksum in what it carries, as one in a
    /// tunnel: outside, nobody would complete it.
    fn enter_completed<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        inner: Inner<'_>,
    ) -> Result<(), Reason> {
        let mut bytes = vec![0; inner.bytes.len()];
        inner.bytes.read_at(0, &mut bytes);
        let (at, field) =
            complete(&inner.packet.vnet, &bytes).ok_or(Reason::Malformed(Drop::ChecksumRequest))?;
        bytes[at..at + field.len()].copy_from_slice(&field);
        let packet =
            Packet::parse(VnetHeader::default(), &bytes, bytes.len()).map_err(Reason::Malformed)?;
        let ip = *packet.ip().ok_or(Reason::Protocol)?;
        let inner = Inner {
            packet,
            ip,
            bytes: &bytes,
            ..inner
        };
        // The frame could wait for a socket, its copy can't: the guest sends
        // it again.
        self.enter_ip(world, inner).map(|_| ())
    }

    fn enter_ip<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        mut inner: Inner<'_>,
    ) -> Result<Option<FlowId>, Reason> {
        let source = inner.ip.source();
        let may = if self.config.is_inside(source) {
            self.lan.heard(world.now, source, inner.sender)
        } else {
            source.is_unspecified()
        };
        if !may {
            return Err(Reason::Source);
        }
        if let Transport::Fragment(_) = inner.packet.transport {
            return self.enter_fragment(world, &inner).map(|()| None);
        }
        inner
            .packet
            .verify(inner.bytes)
            .map_err(Reason::Malformed)?;
        self.enter_transport(world, &inner)
    }

    fn enter_fragment<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
    ) -> Result<(), Reason> {
        let whole = self
            .fragments
            .insert(world.now, inner.guest(), &inner.ip, &inner.payload());
        let Some(whole) = whole.map_err(|_| Reason::Translation)? else {
            return Ok(());
        };
        let ether = inner.packet.ether;
        let packet =
            Packet::reassembled(ether, whole.header, &whole.payload).map_err(Reason::Malformed)?;
        if matches!(packet.transport, Transport::Icmp6(icmp) if icmp.is_discovery()) {
            // RFC 6980, 5: the switch couldn't see what it claims.
            return Err(Reason::Discovery);
        }
        let inner = Inner {
            sender: inner.sender,
            ip: *packet.ip().ok_or(Reason::Protocol)?,
            packet,
            bytes: &whole.payload,
            fragmented: true,
        };
        // A frame can wait for a socket, a whole made of fragments can't: the
        // guest sends it again.
        self.enter_transport(world, &inner).map(|_| ())
    }

    fn enter_transport<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
    ) -> Result<Option<FlowId>, Reason> {
        let destination = inner.ip.destination();
        let to_all = self.config.is_group(destination);
        if !to_all && self.config.is_on_link(destination) {
            return Err(Reason::OnLink);
        }
        match (inner.packet.transport, inner.ip) {
            (Transport::Tcp(header), _) if !to_all => {
                return self.segment_from_guest(world, inner, &header);
            }
            (Transport::Udp(header), _) => {
                let source = Endpoint::new(inner.ip.source(), header.source);
                let destination = Endpoint::new(destination, header.destination);
                self.datagram_from_guest(world, inner, source, destination)?;
            }
            (Transport::Icmp6(icmp), IpHeader::V6(ip)) if icmp.is_discovery() => {
                let options = read(&inner.payload());
                let (now, sender) = (world.now, inner.sender);
                let solicits = self
                    .lan
                    .on_discovery(now, world.ports, sender, (&ip, &icmp, &options))
                    .map_err(|()| Reason::Discovery)?;
                if let Some(source) = solicits {
                    self.solicited(world, source, sender);
                }
            }
            // Guests speak to each other so, or say which groups they are in
            // (IGMP, MLD): the gateway is a bystander.
            _ if to_all => {}
            (
                Transport::Icmp4(Icmp4::EchoRequest(echo))
                | Transport::Icmp6(Icmp6::EchoRequest(echo)),
                _,
            ) => {
                self.echo_from_guest(world, inner, echo)?;
            }
            (Transport::Icmp4(_) | Transport::Icmp6(_), _) => {
                self.error_from_guest(world, inner)?;
            }
            (Transport::Tcp(_) | Transport::Fragment(_) | Transport::Other, _) => {
                return Err(Reason::Protocol);
            }
        }
        Ok(None)
    }

    fn datagram_from_guest<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
        source: Endpoint,
        destination: Endpoint,
    ) -> Result<(), Reason> {
        let for_us = self.config.is_gateway(destination.address);
        let to_all = self.config.is_group(destination.address);
        if self.dhcp(world, inner, destination)? {
            return Ok(());
        }
        if to_all {
            // Guests speak to each other so; the gateway is a bystander.
            return Ok(());
        }
        if source.address.is_unspecified() {
            return Err(Reason::Source);
        }
        if for_us && destination.port == dns::PORT {
            return self.query(world, inner, source, destination.address);
        }
        let datagram = Datagram {
            source,
            destination,
            hop_limit: inner.ip.ttl(),
            dont_fragment: inner.dont_fragment(),
            segment: match inner.packet.vnet.gso {
                Gso::UdpL4 { size } => size.try_into().ok(),
                _ => None,
            },
        };
        let payload = inner.payload();
        let (now, guest) = (world.now, inner.guest());
        let outcome = self
            .udp
            .from_guest(now, guest, &datagram, &payload, world.host);
        match outcome {
            Outcome::Sent => Ok(()),
            Outcome::Deliver(delivery) => {
                self.deliver_datagram(world, &delivery, &payload);
                Ok(())
            }
            // As on any full link.
            Outcome::Blocked(_) => Err(Reason::SocketFull),
            Outcome::Dropped(_) => Err(Reason::Translation),
            Outcome::Error(message) => {
                self.lan.send_error(world.now, world.ports, &message);
                Err(Reason::Translation)
            }
        }
    }

    fn echo_from_guest<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
        echo: Echo,
    ) -> Result<(), Reason> {
        let (source, destination) = (inner.ip.source(), inner.ip.destination());
        if source.is_unspecified() {
            return Err(Reason::Source);
        }
        if self.config.is_gateway(destination) {
            let reply = EchoReply {
                source: destination,
                destination: source,
                echo,
            };
            self.deliver_echo(world, &reply, &inner.payload());
            return Ok(());
        }
        let request = EchoRequest {
            source,
            destination,
            echo,
            hop_limit: inner.ip.ttl(),
            dont_fragment: inner.dont_fragment(),
        };
        let (now, guest) = (world.now, inner.guest());
        let outcome = self
            .echoes
            .from_guest(now, guest, &request, &inner.message(), world.host);
        match outcome {
            Outcome::Sent => Ok(()),
            Outcome::Deliver(reply) => {
                self.deliver_echo(world, &reply, &inner.payload());
                Ok(())
            }
            Outcome::Blocked(_) => Err(Reason::SocketFull),
            Outcome::Dropped(_) => Err(Reason::Translation),
            Outcome::Error(message) => {
                self.lan.send_error(world.now, world.ports, &message);
                Err(Reason::Translation)
            }
        }
    }

    fn solicited<S>(&mut self, world: &mut World<'_, S>, source: Ipv6Addr, sender: Sender) {
        let router = self.router.as_mut();
        let reply = router.and_then(|router| router.solicited(world.now, source, sender.mac));
        if let Some(reply) = reply {
            self.lan.send_message(world.now, world.ports, &reply);
        }
    }
}

/// A message's bytes, as far as any service reads.
pub(super) fn read(payload: &dyn Payload) -> Vec<u8> {
    let mut bytes = vec![0; payload.len().min(MAX_MESSAGE)];
    let count = payload.read_at(0, &mut bytes);
    bytes.truncate(count);
    bytes
}
