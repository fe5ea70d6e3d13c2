//! From the host to the guests.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::config::MIN_MTU;
use super::counters::Reason;
use super::{Engine, World};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::fragment::Fragmenter;
use crate::net::nat::icmp::EchoReply;
use crate::net::nat::sockets::{SocketError, SocketId, Sockets};
use crate::net::nat::udp::Delivery;
use crate::net::payload::{Part, Payload};
use crate::net::wire::WireError;
use crate::net::wire::build::{Body, HeaderBuf};
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::icmp::{self, Icmp4, Icmp6};
use crate::net::wire::ip::{Ip4Header, Ip6Header, IpHeader, Protocol};
use crate::net::wire::vnet::VnetHeader;
use crate::net::wire::{ip4, ip6, udp};

impl Engine {
    /// Takes what a socket of UDP received: one datagram, or several of
    /// `segment` bytes.
    pub fn datagram<S: Sockets>(
        &mut self,
        world: &mut World<'_, S>,
        socket: SocketId,
        from: Endpoint,
        segment: Option<NonZeroU16>,
        payload: &[u8],
    ) {
        if self.names.owns(socket) {
            self.answered(world, socket, from, payload);
            return;
        }
        // What isn't delivered has been counted.
        if let Ok(delivery) = self.udp.from_host(world.now, socket, from, segment) {
            self.deliver_datagram(world, &delivery, &payload);
        }
    }

    /// Takes the echo reply that a ping socket received, from its ICMP header
    /// on.
    pub fn echo_reply<S>(
        &mut self,
        world: &mut World<'_, S>,
        socket: SocketId,
        from: IpAddr,
        message: &[u8],
    ) {
        if let Ok(reply) = self.echoes.from_host(socket, from, message) {
            let data = message.get(icmp::LEN..).unwrap_or_default();
            self.deliver_echo(world, &reply, &data);
        }
    }

    /// Takes an error about a datagram that a socket sent to `to`; `reporter`
    /// is who said so, if it wasn't the host itself.
    pub fn datagram_error<S>(
        &mut self,
        world: &mut World<'_, S>,
        socket: SocketId,
        to: Endpoint,
        (error, reporter): (SocketError, Option<IpAddr>),
        payload_len: usize,
    ) {
        if self.names.owns(socket) {
            self.unanswered(world, socket, to);
        } else if let Some(message) = self.udp.error(socket, to, error, reporter, payload_len) {
            self.lan.send_error(world.now, world.ports, &message);
        }
    }

    /// Takes an error about an echo request that a socket sent to `to`;
    /// `request` is what the error quotes of it.
    pub fn echo_error<S>(
        &mut self,
        world: &mut World<'_, S>,
        socket: SocketId,
        to: IpAddr,
        (error, reporter): (SocketError, Option<IpAddr>),
        request: &[u8],
    ) {
        if let Some(message) = self.echoes.error(socket, to, error, reporter, request) {
            self.lan.send_error(world.now, world.ports, &message);
        }
    }

    pub(super) fn deliver_datagram<S>(
        &mut self,
        world: &mut World<'_, S>,
        delivery: &Delivery,
        payload: &dyn Payload,
    ) {
        let Delivery {
            source,
            destination,
            segment,
        } = *delivery;
        let Some(ip) = IpHeader::new(source.address, destination.address, Protocol::UDP) else {
            return;
        };
        let ports = (source.port, destination.port);
        let to = destination.address;
        let step = segment.map_or(payload.len(), |size| size.get().into());
        let headers = ip.header_len() + udp::LEN;
        if headers + step <= self.mtu_to(world, to, headers + step) {
            let len = payload.len();
            let segment = segment.map(NonZeroU16::get);
            let body = Body::Offloaded { len, segment };
            self.lan
                .send(world.now, world.ports, to, payload, |ether, headers| {
                    headers.udp(ether, &ip, ports, body)
                });
            return;
        }
        for start in (0..payload.len()).step_by(step) {
            let datagram = Part::new(payload, start..start + step);
            self.deliver_whole(world, to, headers, &datagram, |ether, headers| {
                headers.udp(ether, &ip, ports, Body::Whole(&datagram))
            });
        }
    }

    /// The longest packet that may go to a guest, if one of `len` bytes is to.
    fn mtu_to<S>(&mut self, world: &mut World<'_, S>, to: IpAddr, len: usize) -> usize {
        let most = usize::from(self.config.mtu);
        if len <= usize::from(MIN_MTU) {
            return most;
        }
        let port = self.lan.port_of(world.now, world.ports, to);
        let receiver = port.and_then(|port| world.ports.receiver(port));
        receiver.map_or(most, |receiver| most.min(receiver.mtu.into()))
    }

    /// Delivers a packet that leaves nothing to its receiver, in fragments if
    /// it is longer than the link takes. Before its payload are `headers`
    /// bytes of IP and what it carries.
    fn deliver_whole<S>(
        &mut self,
        world: &mut World<'_, S>,
        to: IpAddr,
        headers: usize,
        payload: &dyn Payload,
        compose: impl FnOnce(&EtherHeader, &mut HeaderBuf) -> Result<VnetHeader, WireError>,
    ) {
        let len = headers + payload.len();
        let mtu = self.mtu_to(world, to, len);
        if len <= mtu {
            self.lan.send(world.now, world.ports, to, payload, compose);
            return;
        }
        let mut whole = HeaderBuf::default();
        if compose(&EtherHeader::default(), &mut whole).is_err() {
            self.lan.missed(Reason::TooLong, 1);
            return;
        }
        self.identification = self.identification.wrapping_add(1);
        let mtu = u16::try_from(mtu).unwrap_or(self.config.mtu);
        let pieces = Fragmenter::new(&whole, mtu, self.identification);
        for piece in pieces.into_iter().flatten() {
            let part = Part::new(payload, piece.payload.clone());
            self.lan
                .send(world.now, world.ports, to, &part, |ether, headers| {
                    piece.compose(ether, headers)
                });
        }
    }

    pub(super) fn deliver_echo<S>(
        &mut self,
        world: &mut World<'_, S>,
        reply: &EchoReply,
        data: &dyn Payload,
    ) {
        let EchoReply {
            source,
            destination,
            echo,
        } = *reply;
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                let ip = Ip4Header::new(source, to, Protocol::ICMP);
                let icmp = Icmp4::EchoReply(echo);
                let headers = ip4::LEN + icmp::LEN;
                self.deliver_whole(world, to.into(), headers, data, |ether, headers| {
                    headers.icmp4(ether, &ip, &icmp, data)
                });
            }
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                let ip = Ip6Header::new(source, to, Protocol::ICMPV6);
                let icmp = Icmp6::EchoReply(echo);
                let headers = ip6::LEN + icmp::LEN;
                self.deliver_whole(world, to.into(), headers, data, |ether, headers| {
                    headers.icmp6(ether, &ip, &icmp, data)
                });
            }
            _ => {}
        }
    }
}
