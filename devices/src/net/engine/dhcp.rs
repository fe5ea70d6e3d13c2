//! Guests' addresses: the servers of DHCP, and what follows from a lease.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::counters::Reason;
use super::discovery::{Sender, port_number};
use super::gateway::{Inner, read};
use super::{Engine, World};
use crate::net::mac::Mac;
use crate::net::nat::flows::Endpoint;
use crate::net::services::ndp::link_local;
use crate::net::services::{dhcp4, dhcp6};
use crate::net::time::Time;
use crate::net::wire::build::Body;
use crate::net::wire::ip::{Ip4Header, Ip6Header, IpHeader, Protocol};

/// What became of an address.
enum Change {
    Bound(IpAddr, Option<String>, Time),
    Freed(IpAddr),
}

impl From<dhcp4::Event> for Change {
    fn from(event: dhcp4::Event) -> Self {
        match event {
            dhcp4::Event::Bound {
                address,
                name,
                until,
            } => Self::Bound(address.into(), name, until),
            dhcp4::Event::Freed(address) => Self::Freed(address.into()),
        }
    }
}

impl From<dhcp6::Event> for Change {
    fn from(event: dhcp6::Event) -> Self {
        match event {
            dhcp6::Event::Bound {
                address,
                name,
                until,
            } => Self::Bound(address.into(), name, until),
            dhcp6::Event::Freed(address) => Self::Freed(address.into()),
        }
    }
}

impl Engine {
    /// Takes a message to a server of DHCP; false says that it is none.
    pub(super) fn dhcp<S>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
        to: Endpoint,
    ) -> Result<bool, Reason> {
        let for_us = self.config.is_gateway(to.address) || self.config.is_group(to.address);
        match (inner.ip, to.port) {
            (IpHeader::V4(_), dhcp4::SERVER_PORT) if for_us => self.dhcp4(world, inner)?,
            (IpHeader::V6(ip), dhcp6::SERVER_PORT) if for_us => self.dhcp6(world, inner, &ip)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn dhcp4<S>(&mut self, world: &mut World<'_, S>, inner: &Inner<'_>) -> Result<(), Reason> {
        let network = self.config.v4.as_ref().ok_or(Reason::Dhcp)?;
        let server = self.dhcp4.as_mut().ok_or(Reason::Dhcp)?;
        let Sender { port, mac } = inner.sender;
        let message = read(&inner.payload());
        let outcome = server
            .receive(world.now, port_number(port), mac, &message)
            .map_err(|_| Reason::Dhcp)?;
        if let Some((destination, reply)) = &outcome.reply {
            let (station, address) = match *destination {
                dhcp4::Destination::Broadcast => (Mac::BROADCAST, Ipv4Addr::BROADCAST),
                dhcp4::Destination::Client(address) => (mac.into(), address),
            };
            let ip = Ip4Header::new(network.gateway, address, Protocol::UDP).into();
            let ports = (dhcp4::SERVER_PORT, dhcp4::CLIENT_PORT);
            self.answer_dhcp(world, station, &ip, ports, reply);
        }
        if let Some(event) = outcome.event {
            self.follow(world, inner.sender, event.into());
        }
        Ok(())
    }

    fn dhcp6<S>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
        ip: &Ip6Header,
    ) -> Result<(), Reason> {
        let server = self.dhcp6.as_mut().ok_or(Reason::Dhcp)?;
        let Sender { port, mac } = inner.sender;
        let message = read(&inner.payload());
        let client = (port_number(port), mac);
        let outcome = server
            .receive(world.now, client, ip.source, ip.destination, &message)
            .map_err(|_| Reason::Dhcp)?;
        let from: Ipv6Addr = link_local(self.config.mac);
        let reply = Ip6Header::new(from, ip.source, Protocol::UDP).into();
        let ports = (dhcp6::SERVER_PORT, dhcp6::CLIENT_PORT);
        self.answer_dhcp(world, mac.into(), &reply, ports, &outcome.reply);
        for event in outcome.events {
            self.follow(world, inner.sender, event.into());
        }
        Ok(())
    }

    fn answer_dhcp<S>(
        &mut self,
        world: &mut World<'_, S>,
        station: Mac,
        ip: &IpHeader,
        ports: (u16, u16),
        reply: &Vec<u8>,
    ) {
        self.lan
            .send_to_station(world.now, world.ports, station, reply, |ether, headers| {
                headers.udp(ether, ip, ports, Body::Whole(reply))
            });
    }

    /// Has the other services know what became of an address.
    fn follow<S>(&mut self, world: &mut World<'_, S>, sender: Sender, change: Change) {
        let now = world.now;
        let names = &mut self.names.dns.names;
        match change {
            Change::Bound(address, name, until) => {
                let guest = (port_number(sender.port), sender.mac);
                names.lease(now, guest, address, name.as_deref(), until);
                self.lan.assigned(now, world.ports, address, sender);
            }
            Change::Freed(address) => {
                names.free(address);
                self.lan.freed(address, sender);
            }
        }
    }
}
