//! The guests' link, as the gateway uses it: from an IP address to a station,
//! and to the port that the station is behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::counters::{Counters, Reason};
use super::dispatch::{Dispatcher, Outgoing};
use super::errors::ErrorLimits;
use super::pending::Pending;
use super::ports::Ports;
use crate::net::attachment::{Content, Sent};
use crate::net::mac::{Mac, MacAddress};
use crate::net::nat::icmp::ErrorMessage;
use crate::net::payload::Payload;
use crate::net::port::FRAME_HEADER;
use crate::net::services::arp;
use crate::net::services::leases::Limits;
use crate::net::services::ndp::{self, HOP_LIMIT, Message};
use crate::net::services::neighbours::{Neighbours, Next};
use crate::net::switch::{DropReason, PortId, Switch};
use crate::net::time::Time;
use crate::net::wire::WireError;
use crate::net::wire::arp::Arp;
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::ip::{Ip6Header, Protocol};
use crate::net::wire::packet::Packet;
use crate::net::wire::vnet::VnetHeader;

/// The switch, and what the gateway knows of the stations behind it.
pub(super) struct Lan {
    pub(super) mac: MacAddress,
    pub(super) switch: Switch,
    pub(super) arp: Option<arp::Responder>,
    pub(super) ndp: Option<ndp::Responder>,
    pub(super) stations4: Neighbours<Ipv4Addr>,
    pub(super) stations6: Neighbours<Ipv6Addr>,
    pub(super) pending: Pending,
    /// A station that was asked for is known since this was last taken.
    pub(super) resolved: bool,
    pub(super) dispatcher: Dispatcher,
    /// How many errors guests are told, port by port.
    pub(super) errors: ErrorLimits,
    /// What was dropped, port by port; the gateway's is what guests miss.
    pub(super) counters: Counters,
    headers: HeaderBuf,
}

/// Where a packet for an address goes now.
enum Hop {
    Station(Mac),
    /// Its station is being asked for.
    Unknown,
    /// Nobody is asked any more.
    Nowhere,
}

/// What becomes of a packet for which there is no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    Lose,
    /// Its sender keeps it.
    Keep,
}

impl Lan {
    pub(super) fn new(
        mac: MacAddress,
        switch: Switch,
        arp: Option<arp::Responder>,
        ndp: Option<ndp::Responder>,
    ) -> Self {
        Self {
            mac,
            switch,
            arp,
            ndp,
            stations4: Neighbours::new(Limits::default()),
            stations6: Neighbours::new(Limits::default()),
            pending: Pending::default(),
            resolved: false,
            dispatcher: Dispatcher::default(),
            errors: ErrorLimits::default(),
            counters: Counters::default(),
            headers: HeaderBuf::default(),
        }
    }

    /// Passes a guest's frame on to a port. `head` begins with its virtio
    /// header, and `rest` is what follows `head`.
    pub(super) fn forward(
        &mut self,
        ports: &mut dyn Ports,
        to: PortId,
        packet: &Packet,
        head: &[u8],
        rest: &dyn Payload,
    ) {
        let len = head.len() + rest.len() - FRAME_HEADER;
        let frame = Outgoing {
            vnet: packet.vnet,
            headers: head,
            repeated: match packet.vnet.gso.size() {
                Some(_) => FRAME_HEADER + packet.payload_offset,
                None => head.len(),
            },
            content: Content::Payload(rest),
        };
        let sent = self.dispatcher.send(ports, to, frame);
        count(&mut self.switch, to, len, sent);
    }

    /// Sends a packet of the gateway to the guest that has the address `to`.
    /// `compose` writes its headers, given those of Ethernet. A packet whose
    /// station isn't known yet waits for it; one for which there is no room is
    /// lost, as on any full link.
    pub(super) fn send(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        to: IpAddr,
        payload: &dyn Payload,
        compose: impl FnOnce(&EtherHeader, &mut HeaderBuf) -> Result<VnetHeader, WireError>,
    ) {
        let link = (now, ports, Full::Lose);
        // What is lost was counted.
        let _ = self.route(link, to, Content::Payload(payload), compose);
    }

    /// As [`Lan::send`], but a packet for which there is no room is to be sent
    /// again, as is one whose station isn't known if its content waits in a
    /// socket.
    pub(super) fn try_send(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        to: IpAddr,
        content: Content<'_>,
        compose: impl FnOnce(&EtherHeader, &mut HeaderBuf) -> Result<VnetHeader, WireError>,
    ) -> Sent {
        self.route((now, ports, Full::Keep), to, content, compose)
    }

    fn route(
        &mut self,
        (now, ports, full): (Time, &mut dyn Ports, Full),
        to: IpAddr,
        content: Content<'_>,
        compose: impl FnOnce(&EtherHeader, &mut HeaderBuf) -> Result<VnetHeader, WireError>,
    ) -> Sent {
        let hop = self.hop(now, ports, to);
        let destination = match hop {
            Hop::Station(mac) => mac,
            Hop::Unknown => Mac::default(),
            Hop::Nowhere => {
                self.missed(Reason::Unresolved, 1);
                return Sent::Refused;
            }
        };
        let ether = self.ether(destination);
        let Ok(vnet) = compose(&ether, &mut self.headers) else {
            self.missed(Reason::TooLong, 1);
            return Sent::Refused;
        };
        match (hop, content) {
            (Hop::Station(_), content) => self.transmit((now, ports, full), &ether, vnet, content),
            (_, Content::Payload(payload)) => {
                if !self.pending.keep(to, self.headers.with_vnet(), payload) {
                    self.missed(Reason::Unresolved, 1);
                }
                Sent::Yes
            }
            (_, Content::Waiting(..)) => Sent::Full,
        }
    }

    /// Sends a frame of the gateway to a station or group. `compose` writes
    /// its headers, given those of Ethernet.
    pub(super) fn send_to_station(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        to: Mac,
        payload: &dyn Payload,
        compose: impl FnOnce(&EtherHeader, &mut HeaderBuf) -> Result<VnetHeader, WireError>,
    ) {
        let ether = self.ether(to);
        if let Ok(vnet) = compose(&ether, &mut self.headers) {
            // Nobody waits for it: who misses it asks again.
            let link = (now, ports, Full::Lose);
            let _ = self.transmit(link, &ether, vnet, Content::Payload(payload));
        }
    }

    /// Counts frames of the gateway's that a guest misses.
    pub(super) fn missed(&mut self, reason: Reason, frames: usize) {
        for _ in 0..frames {
            self.counters.count(PortId::GATEWAY, reason);
        }
    }

    fn ether(&self, destination: Mac) -> EtherHeader {
        EtherHeader {
            destination,
            source: self.mac.into(),
            ..EtherHeader::default()
        }
    }

    /// Brings the frame whose headers are composed to the switch.
    fn transmit(
        &mut self,
        (now, ports, full): (Time, &mut dyn Ports, Full),
        ether: &EtherHeader,
        vnet: VnetHeader,
        mut content: Content<'_>,
    ) -> Sent {
        let headers = self.headers.with_vnet();
        let len = headers.len() - FRAME_HEADER + content.len();
        let Ok(egress) = self.switch.ingress(PortId::GATEWAY, now, ether, len) else {
            return Sent::Refused;
        };
        let mut result = Sent::Refused;
        for port in egress.ports() {
            let frame = Outgoing::ours(vnet, headers, content.again());
            match self.dispatcher.send(ports, port, frame) {
                Sent::Yes => result = Sent::Yes,
                // Nobody has it: it is sent again once there is room.
                Sent::Full if full == Full::Keep && result != Sent::Yes => {
                    self.switch.postponed(port, len);
                    result = Sent::Full;
                }
                sent => count(&mut self.switch, port, len, sent),
            }
        }
        result
    }

    /// The station that has an address. If it isn't known, all are asked.
    fn hop(&mut self, now: Time, ports: &mut dyn Ports, to: IpAddr) -> Hop {
        let next = match to {
            IpAddr::V4(address) => self.stations4.next(now, address),
            IpAddr::V6(address) => self.stations6.next(now, address),
        };
        match next {
            Next::Send(station) => Hop::Station(station.mac.into()),
            Next::SendAndAsk(station) => {
                self.ask(now, ports, to, Some(station.mac));
                Hop::Station(station.mac.into())
            }
            Next::Ask => {
                self.ask(now, ports, to, None);
                Hop::Unknown
            }
            Next::Wait => Hop::Unknown,
            Next::Refuse => Hop::Nowhere,
        }
    }

    /// The port of the station that has an address, if that is known.
    pub(super) fn port_of(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        of: IpAddr,
    ) -> Option<PortId> {
        match self.hop(now, ports, of) {
            Hop::Station(mac) => self.switch.find(mac.station()?, now),
            Hop::Unknown | Hop::Nowhere => None,
        }
    }

    /// Asks who has an address: the station that had it, or all.
    pub(super) fn ask(
        &mut self,
        now: Time,
        ports: &mut dyn Ports,
        about: IpAddr,
        station: Option<MacAddress>,
    ) {
        let all = station.map_or(Mac::BROADCAST, Mac::from);
        match about {
            IpAddr::V4(address) => {
                let question = self.arp.as_ref().and_then(|arp| arp.question(address));
                if let Some(question) = question {
                    self.send_arp(now, ports, all, &question);
                }
            }
            IpAddr::V6(address) => {
                if let Some(ndp) = &self.ndp {
                    let question = ndp.question(address, station);
                    self.send_message(now, ports, &question);
                }
            }
        }
    }

    /// Tells a guest what became of a packet that it sent.
    pub(super) fn send_error(&mut self, now: Time, ports: &mut dyn Ports, error: &ErrorMessage) {
        let Ok(quote) = error.quote() else {
            return;
        };
        let content: &[u8] = &quote;
        let to = error.about.source();
        if !self.may_report(now, ports, to) {
            return;
        }
        self.send(now, ports, to, &content, |ether, headers| {
            error.compose(ether, headers, &quote)
        });
    }

    /// Whether the guest that has an address may be told of another error; if
    /// not, that is counted. Guests that aren't known yet are few
    /// ([`Pending`]).
    pub(super) fn may_report(&mut self, now: Time, ports: &mut dyn Ports, to: IpAddr) -> bool {
        let port = self.port_of(now, ports, to);
        let may = port.is_none_or(|port| self.errors.admit(port, now));
        if !may {
            self.missed(Reason::ErrorLimit, 1);
        }
        may
    }

    pub(super) fn send_arp(&mut self, now: Time, ports: &mut dyn Ports, to: Mac, arp: &Arp) {
        self.send_to_station(now, ports, to, &[], |ether, headers| {
            headers.arp(ether, arp)
        });
    }

    /// Sends a message of neighbour discovery.
    pub(super) fn send_message(&mut self, now: Time, ports: &mut dyn Ports, message: &Message) {
        let ip = Ip6Header {
            hop_limit: HOP_LIMIT,
            ..Ip6Header::new(message.source, message.destination, Protocol::ICMPV6)
        };
        let options = &message.options;
        self.send_to_station(now, ports, message.station, options, |ether, headers| {
            headers.icmp6(ether, &ip, &message.icmp, options)
        });
    }
}

/// Counts a frame of `len` bytes if the port didn't get it.
pub(super) fn count(switch: &mut Switch, port: PortId, len: usize, sent: Sent) {
    let reason = match sent {
        Sent::Yes => return,
        Sent::Full => DropReason::NoRoom,
        Sent::Refused => DropReason::NotTaken,
    };
    switch.undelivered(port, len, reason);
}
