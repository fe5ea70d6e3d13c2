//! The network's engine: everything that happens to frames.
//!
//! It is pure: frames, the time and what sockets report go in; frames and
//! operations on sockets come out, through [`Ports`], [`Sockets`] and
//! [`Streams`]. One thread owns it and all that it is told of.
//!
//! A frame's way: it is parsed once ([`Packet::parse`]); the switch says where
//! it may go; to other ports it is forwarded, whole if they take it so. What
//! is for the gateway goes to a service of its own, or by the translation to
//! the host's sockets. A frame that goes nowhere is counted with the reason.

mod config;
mod counters;
mod dhcp;
mod discovery;
mod dispatch;
mod errors;
mod gateway;
mod inbound;
mod lan;
mod mapping;
mod names;
mod pending;
mod ports;
mod status;
mod tcp;

pub use config::{Config, ConfigError, Network4, Network6, Seed};
pub use counters::{Counters, Reason};
pub use mapping::MapError;
pub use ports::{Ports, Receiver};

use std::hash::RandomState;

use crate::net::attachment::{Frame, Settings};
use crate::net::nat::flows::{FlowId, Guest};
use crate::net::nat::fragments::Fragments;
use crate::net::nat::icmp::Echoes;
use crate::net::nat::mappings::Mappings;
use crate::net::nat::sockets::Sockets;
use crate::net::nat::tcp::Tcp;
use crate::net::nat::tcp::streams::Streams;
use crate::net::nat::udp::Udp;
use crate::net::payload::{Part, Payload, Place};
use crate::net::port::FRAME_HEADER;
use crate::net::services::dns::Dns;
use crate::net::services::{arp, dhcp4, dhcp6, ndp, ra};
use crate::net::switch::{
    self, Counters as PortCounters, PortConfig, PortId, Switch, SwitchConfig,
};
use crate::net::time::Time;
use crate::net::wire::packet::{Drop, HEAD_LEN, Packet};
use crate::net::wire::vnet::VnetHeader;

use discovery::{Sender, port_number};
use lan::Lan;
use names::Forwarder;
use tcp::Parking;

/// The gateway's host name.
const GATEWAY_NAME: &str = "gateway";

/// What the engine works on.
pub struct World<'a, S> {
    /// The time now.
    pub now: Time,
    /// The host's sockets.
    pub host: &'a mut S,
    /// Those who are plugged into the switch.
    pub ports: &'a mut dyn Ports,
}

/// The network's engine.
pub struct Engine {
    config: Config,
    lan: Lan,
    dhcp4: Option<dhcp4::Server>,
    dhcp6: Option<dhcp6::Server>,
    router: Option<ra::Advertiser>,
    tcp: Tcp,
    udp: Udp,
    echoes: Echoes,
    fragments: Fragments,
    names: Forwarder,
    mappings: Mappings,
    mapped: Vec<mapping::Held>,
    parking: Parking,
    /// Of the last packet that was cut into fragments.
    identification: u32,
}

impl Engine {
    /// The engine of a network that nobody is plugged into yet. `seed` is for
    /// what others mustn't guess.
    pub fn new(config: Config, now: Time, seed: Seed) -> Result<Self, ConfigError> {
        config.check()?;
        let switch = Switch::new(&SwitchConfig {
            gateway: config.mac,
            gateway_addresses: config.gateways().collect(),
            stations_per_port: config.stations_per_port,
            seed: seed.switch,
        });
        let arp = config
            .v4
            .as_ref()
            .map(|v4| arp::Responder::new(config.mac, v4.prefix, vec![v4.gateway]));
        let ndp = config
            .v6
            .as_ref()
            .map(|v6| ndp::Responder::new(config.mac, v6.prefix, &[v6.gateway]));
        let dhcp4 = config.v4.as_ref().and_then(|v4| v4.dhcp.clone());
        let dhcp6 = config.v6.as_ref().and_then(|v6| v6.dhcp.clone());
        let advertised = config.v6.as_ref().and_then(|v6| v6.router.clone());
        let router = advertised.map(|router| ra::Advertiser::new(router, now, seed.router));
        let mut dns = Dns::new(config.dns.clone(), RandomState::new())?;
        for address in config.named() {
            dns.names.fix(GATEWAY_NAME, address);
        }
        let reach = &config.reach;
        Ok(Self {
            lan: Lan::new(config.mac, switch, arp, ndp),
            dhcp4: dhcp4.map(dhcp4::Server::new).transpose()?,
            dhcp6: dhcp6.map(dhcp6::Server::new).transpose()?,
            router: router.transpose()?,
            tcp: Tcp::new(config.connections, reach.clone(), RandomState::new()),
            udp: Udp::new(
                config.flows,
                config.filtering,
                reach.clone(),
                RandomState::new(),
            ),
            echoes: Echoes::new(config.flows, reach.clone(), RandomState::new()),
            fragments: Fragments::new(config.fragments),
            names: Forwarder::new(dns),
            mappings: Mappings::new(),
            mapped: Vec::new(),
            parking: Parking::default(),
            identification: seed.identification,
            config,
        })
    }

    /// Gives the switch a new port.
    pub fn add_port(&mut self, config: PortConfig) -> Result<PortId, switch::Error> {
        let port = self.lan.switch.add_port(config)?;
        self.lan.counters.reset(port);
        self.lan.errors.reset(port);
        Ok(port)
    }

    /// Removes a port, with all flows of the guests behind it.
    pub fn remove_port<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        port: PortId,
    ) -> Result<PortCounters, switch::Error> {
        let counters = self.lan.switch.remove_port(port)?;
        self.unplugged(world, port);
        self.lan.forget_port(port);
        self.names.dns.names.forget_port(port_number(port));
        if let Some(server) = &mut self.dhcp4 {
            server.forget_port(port_number(port));
        }
        if let Some(server) = &mut self.dhcp6 {
            server.forget_port(port_number(port));
        }
        Ok(counters)
    }

    /// Ends the flows of the guests behind a port whose NIC is about to be
    /// unplugged, and gives all of its frames back.
    pub fn unplugged<S: Sockets + Streams>(&mut self, world: &mut World<'_, S>, port: PortId) {
        let guest = Guest(port_number(port));
        for frame in self.parking.take_port(port) {
            world.ports.release(port, frame);
        }
        self.remove_connections(world, guest);
        self.udp.remove_guest(guest, world.host);
        self.echoes.remove_guest(guest, world.host);
        self.forget_queries(world, guest.0);
    }

    /// When a port's limits let its next frame in: `now` if at once.
    pub fn ingress_ready(&mut self, port: PortId, now: Time) -> Time {
        self.lan.switch.ingress_ready(port, now)
    }

    /// Follows a change of what the one at a port wants.
    pub fn set(&mut self, port: PortId, settings: &Settings) -> Result<(), switch::Error> {
        self.lan.switch.set_filter(port, settings.filter.clone())?;
        self.lan.switch.set_link(port, settings.link)
    }

    /// Turns MAC address spoofing on or off at a port.
    pub fn set_spoofing(&mut self, port: PortId, on: bool) -> Result<(), switch::Error> {
        self.lan.switch.set_spoofing(port, on)
    }

    /// Tells the guests that the network ends: who can, looks for another
    /// router (RFC 4861, 6.2.5).
    pub fn farewell<S>(&mut self, world: &mut World<'_, S>) {
        if let Some(router) = &self.router {
            let message = router.farewell();
            self.lan.send_message(world.now, world.ports, &message);
        }
    }

    /// Does what time asks for.
    pub fn expire<S: Sockets + Streams>(&mut self, world: &mut World<'_, S>) {
        let now = world.now;
        self.lan.expire(now, world.ports);
        self.udp.expire(now, world.host);
        self.echoes.expire(now, world.host);
        self.expire_fragments(world);
        if let Some(message) = self.router.as_mut().and_then(|router| router.poll(now)) {
            self.lan.send_message(now, world.ports, &message);
        }
        self.expire_queries(world);
        self.expire_connections(world);
    }

    /// When to call [`Engine::expire`] next.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.lan.next_deadline(),
            self.tcp.next_deadline(),
            self.udp.next_deadline(),
            self.echoes.next_deadline(),
            self.fragments.next_deadline(),
            self.names.dns.deadline(),
            self.router.as_ref().map(ra::Advertiser::deadline),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Takes a frame that came from a port, and gives it back to it.
    pub fn receive<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        from: PortId,
        frame: Frame,
    ) {
        match self.switch_frame(world, from, &frame) {
            // The socket has no room: the frame stays until it has.
            Some(flow) => self.parking.park(flow, from, frame),
            None => world.ports.release(from, frame),
        }
    }

    /// Takes a frame, and returns the flow that it is to wait for, if any.
    fn switch_frame<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        from: PortId,
        frame: &Frame,
    ) -> Option<FlowId> {
        let mut head = [0; FRAME_HEADER + HEAD_LEN];
        let copied = frame.read_at(0, &mut head);
        let head = &mut head[..copied];
        let packet = match parse(head, frame) {
            Ok(packet) => packet,
            Err(reason) => {
                self.lan.counters.count(from, Reason::Malformed(reason));
                return None;
            }
        };
        let len = frame.len() - FRAME_HEADER;
        let egress = self
            .lan
            .switch
            .ingress_inspected(from, world.now, &packet, len);
        let Ok(egress) = egress else {
            // The switch has counted it.
            return None;
        };
        // What a guest vouches for isn't passed on to others, nor anything
        // that it may have changed since it was parsed.
        let vnet = VnetHeader {
            data_valid: false,
            ..packet.vnet
        };
        head[..FRAME_HEADER].copy_from_slice(&vnet.bytes());
        let rest = Part::new(frame, copied..frame.len());
        for port in egress.ports().filter(|port| *port != PortId::GATEWAY) {
            self.lan.forward(world.ports, port, &packet, head, &rest);
        }
        let sender = Sender {
            port: from,
            mac: packet.ether.source.station()?,
        };
        if !egress.gateway() {
            return None;
        }
        let outcome = self.enter_gateway(world, sender, packet, frame);
        outcome.unwrap_or_else(|reason| {
            self.lan.counters.count(from, reason);
            None
        })
    }
}

/// Parses a frame by its first bytes, virtio header first; those of a frame in
/// our own memory are all there, and cost no second look.
fn parse(head: &[u8], frame: &Frame) -> Result<Packet, Drop> {
    let (vnet, head) = head
        .split_first_chunk::<FRAME_HEADER>()
        .ok_or(Drop::Ethernet)?;
    let vnet = VnetHeader::parse(vnet).map_err(|_| Drop::Segmentation)?;
    let len = frame.len() - FRAME_HEADER;
    match frame.place() {
        Place::Slice(whole) => Packet::parse(vnet, &whole[FRAME_HEADER..], len),
        _ => Packet::parse(vnet, head, len),
    }
}

#[cfg(test)]
mod tests;
