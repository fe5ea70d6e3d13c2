//! Who has which address: the gateway's part in ARP and neighbour discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::counters::Reason;
use super::dispatch::Outgoing;
use super::lan::{Lan, count};
use super::ports::Ports;
use crate::net::attachment::Content;
use crate::net::mac::{Mac, MacAddress};
use crate::net::port::FRAME_HEADER;
use crate::net::services::neighbours::{Evidence, Learned, Station, Timeout};
use crate::net::services::{PortNumber, arp, ndp};
use crate::net::switch::PortId;
use crate::net::time::Time;
use crate::net::wire::arp::Arp;
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::icmp::Icmp6;
use crate::net::wire::ip::Ip6Header;
use crate::net::wire::vnet::VnetHeader;

/// The sender of a frame: its port and its station.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) port: PortId,
    pub(super) mac: MacAddress,
}

impl From<Sender> for Station {
    fn from(sender: Sender) -> Self {
        Self {
            mac: sender.mac,
            port: port_number(sender.port),
        }
    }
}

/// A port's number, as services count by it.
pub(super) fn port_number(port: PortId) -> PortNumber {
    PortNumber::try_from(port.index()).expect("a port's index is a byte")
}

impl Lan {
    /// Takes a message of ARP. False says that it is bad.
    pub(super) fn on_arp(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        sender: Sender,
        arp: &Arp,
    ) -> bool {
        let Some(responder) = &self.arp else {
            return false;
        };
        match responder.receive(sender.mac, arp) {
            Ok(outcome) => {
                if let Some(reply) = outcome.reply {
                    self.send_arp(now, ports, sender.mac.into(), &reply);
                }
                if let Some((address, mac, evidence)) = outcome.sender {
                    let station = Station {
                        mac,
                        ..sender.into()
                    };
                    self.learn4(now, ports, address, station, evidence);
                }
                true
            }
            Err(arp::Ignored::Conflict(address)) => {
                let announcement = responder.announcement(address);
                self.send_arp(now, ports, Mac::BROADCAST, &announcement);
                false
            }
            // Guests ask each other.
            Err(arp::Ignored::NotForUs) => true,
            Err(_) => false,
        }
    }

    /// Takes a message of neighbour discovery; returns who asks for a router
    /// advertisement, which may be the unspecified address.
    pub(super) fn on_discovery(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        sender: Sender,
        (ip, icmp, options): (&Ip6Header, &Icmp6, &[u8]),
    ) -> Result<Option<Ipv6Addr>, ()> {
        let responder = self.ndp.as_ref().ok_or(())?;
        match responder.receive(sender.mac, ip, icmp, options) {
            Ok(outcome) => {
                if let Some(reply) = &outcome.reply {
                    self.send_message(now, ports, reply);
                }
                if let Some((address, mac, evidence)) = outcome.neighbour {
                    let station = Station {
                        mac,
                        ..sender.into()
                    };
                    self.learn6(now, ports, address, station, evidence);
                }
                Ok(outcome.solicits_router)
            }
            Err(ndp::Ignored::Conflict(address)) => {
                let announcement = responder.announcement(address);
                self.send_message(now, ports, &announcement);
                Err(())
            }
            // Guests ask each other.
            Err(ndp::Ignored::NotForUs) => Ok(None),
            Err(_) => Err(()),
        }
    }

    /// Notes that a packet came from `address`. False says that this is the
    /// address of another, behind another port.
    pub(super) fn heard(&mut self, now: Time, address: IpAddr, sender: Sender) -> bool {
        match address {
            IpAddr::V4(address) => self.stations4.heard(now, address, sender.into()),
            IpAddr::V6(address) => self.stations6.heard(now, address, sender.into()),
        }
    }

    /// Notes that the gateway itself gave `address` to the sender's station.
    pub(super) fn assigned(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        address: IpAddr,
        sender: Sender,
    ) {
        match address {
            IpAddr::V4(address) => {
                self.learn4(now, ports, address, sender.into(), Evidence::Claim);
            }
            IpAddr::V6(address) => {
                self.learn6(now, ports, address, sender.into(), Evidence::Claim);
            }
        }
    }

    /// Notes that the sender gave `address` back.
    pub(super) fn freed(&mut self, address: IpAddr, sender: Sender) {
        let port = port_number(sender.port);
        match address {
            IpAddr::V4(address) => self.stations4.forget(address, port),
            IpAddr::V6(address) => self.stations6.forget(address, port),
        }
    }

    fn learn4(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        address: Ipv4Addr,
        station: Station,
        evidence: Evidence,
    ) {
        let learned = self.stations4.learn(now, address, station, evidence);
        self.follow(now, ports, address.into(), station, learned);
    }

    fn learn6(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        address: Ipv6Addr,
        station: Station,
        evidence: Evidence,
    ) {
        let learned = self.stations6.learn(now, address, station, evidence);
        self.follow(now, ports, address.into(), station, learned);
    }

    fn follow(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        address: IpAddr,
        station: Station,
        learned: Learned,
    ) {
        match learned {
            Learned::Resolved => self.release(now, ports, address, station.mac),
            Learned::Contested(holder) => self.ask(now, ports, address, Some(holder.mac)),
            Learned::Unchanged | Learned::Moved | Learned::Refused => {}
        }
    }

    /// Sends what waited for the station of `address`.
    fn release(&mut self, now: Time, ports: &mut dyn Ports, address: IpAddr, mac: MacAddress) {
        self.resolved = true;
        for frame in self.pending.take(address, mac.into()) {
            let (vnet, rest) = frame
                .split_first_chunk::<FRAME_HEADER>()
                .expect("pending frames have headers");
            let (Ok(vnet), Ok((ether, _))) = (VnetHeader::parse(vnet), EtherHeader::parse(rest))
            else {
                continue;
            };
            let Ok(egress) = self
                .switch
                .ingress(PortId::GATEWAY, now, &ether, rest.len())
            else {
                continue;
            };
            for port in egress.ports() {
                let outgoing = Outgoing::ours(vnet, &frame, Content::Payload(&[]));
                let sent = self.dispatcher.send(ports, port, outgoing);
                count(&mut self.switch, port, rest.len(), sent);
            }
        }
    }

    /// Asks again whom to ask again, and gives up what nobody answered for.
    pub(super) fn expire(&mut self, now: Time, ports: &mut dyn Ports) {
        while let Some(timeout) = self.stations4.timeout(now) {
            match timeout {
                Timeout::Ask(address, station) => {
                    self.ask(
                        now,
                        ports,
                        address.into(),
                        station.map(|station| station.mac),
                    );
                }
                Timeout::Lost(address) => self.lost(address.into()),
            }
        }
        while let Some(timeout) = self.stations6.timeout(now) {
            match timeout {
                Timeout::Ask(address, station) => {
                    self.ask(
                        now,
                        ports,
                        address.into(),
                        station.map(|station| station.mac),
                    );
                }
                Timeout::Lost(address) => self.lost(address.into()),
            }
        }
    }

    fn lost(&mut self, address: IpAddr) {
        let dropped = self.pending.drop(address);
        self.missed(Reason::Unresolved, dropped);
    }

    /// When to call [`Lan::expire`] next.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        let deadlines = [self.stations4.deadline(), self.stations6.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Forgets who was behind a port.
    pub(super) fn forget_port(&mut self, port: PortId) {
        self.stations4.forget_port(port_number(port));
        self.stations6.forget_port(port_number(port));
    }
}
