//! The switch: which port a frame may come from, and which ports it goes to.
//!
//! It sees headers and lengths only; whoever moves the frames asks
//! [`Switch::ingress`] where each goes. No frame goes where a bridge in Linux or
//! Hyper-V's internal switch wouldn't bring it, and policy narrows that:
//!
//! - A port without MAC address spoofing sends from its own addresses only, and
//!   gets frames for these and for groups.
//! - With spoofing, the stations behind the port (a nested guest, say) are
//!   learned, up to a bound, and known until they were silent for
//!   [`AGEING_TIME`]. The port also gets frames for stations that nobody is
//!   known to have, as far as its NIC wants them.
//! - An address that is known to be behind one port can't be taken by another,
//!   and the gateway's never.
//! - Tagged frames pass between ports that are members of their VLAN; the
//!   gateway is a member of none. A station is behind one port in all VLANs
//!   (shared VLAN learning of IEEE 802.1Q).
//!
//! Every frame that goes nowhere is counted with its reason.

mod bucket;
mod config;
mod counters;
mod egress;
mod filter;
mod guard;
mod stations;
mod vlan;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub(crate) use bucket::Limiter;
pub use bucket::{Limits, Rate};
pub use config::{Error, MAX_ADDRESSES, PortConfig, PortId, SwitchConfig};
pub use counters::{Counters, DropReason, Traffic};
pub use egress::{Egress, PortSet};
pub use filter::{MAX_FILTER_ADDRESSES, ReceiveFilter, ReceiveModes};
pub use stations::AGEING_TIME;
pub use vlan::{NotAVlan, VlanSet};

use std::net::IpAddr;

use stations::Stations;
use vlan::Network;

use crate::net::mac::{Mac, MacAddress};
use crate::net::time::Time;
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::packet::Packet;

/// A switch with its ports.
#[derive(Debug)]
pub struct Switch {
    /// By their index; the first is the gateway's.
    ports: Vec<Option<Box<Port>>>,
    present: PortSet,
    /// The port that was added last.
    last: PortId,
    stations: Stations,
    gateway: MacAddress,
    gateway_addresses: Vec<IpAddr>,
}

#[derive(Debug)]
struct Port {
    config: PortConfig,
    link: bool,
    filter: ReceiveFilter,
    ingress: Limiter,
    flood: Limiter,
    egress: Limiter,
    counters: Counters,
}

impl Port {
    fn new(config: PortConfig, filter: ReceiveFilter) -> Self {
        Self {
            link: true,
            filter,
            ingress: Limiter::new(config.ingress),
            flood: Limiter::new(config.flood),
            egress: Limiter::new(config.egress),
            counters: Counters::default(),
            config,
        }
    }

    /// Counts a copy for the port, unless its limits forbid it.
    fn take(&mut self, now: Time, len: usize) -> bool {
        let admitted = self.egress.admit(now, len);
        if admitted {
            self.counters.sent.add(len);
        } else {
            self.counters.drop_for(DropReason::EgressLimit);
        }
        admitted
    }
}

impl Switch {
    /// A switch with the gateway's port only.
    pub fn new(config: &SwitchConfig) -> Self {
        let mut switch = Self {
            ports: (0..PortId::COUNT).map(|_| None).collect(),
            present: PortSet::default(),
            last: PortId::GATEWAY,
            stations: Stations::new(config.stations_per_port, config.seed),
            gateway: config.gateway,
            gateway_addresses: config.gateway_addresses.clone(),
        };
        let gateway = PortConfig {
            addresses: vec![config.gateway],
            ..PortConfig::default()
        };
        switch.insert(
            PortId::GATEWAY,
            Port::new(gateway, ReceiveFilter::default()),
        );
        switch
    }

    /// Adds a port whose link is up and whose NIC wants all it may get.
    pub fn add_port(&mut self, config: PortConfig) -> Result<PortId, Error> {
        self.check(&config)?;
        let id = self.free_port().ok_or(Error::TooManyPorts)?;
        self.last = id;
        self.insert(id, Port::new(config, ReceiveFilter::default()));
        Ok(id)
    }

    /// Removes a port and what was learned behind it; returns its last counts.
    pub fn remove_port(&mut self, id: PortId) -> Result<Counters, Error> {
        self.changeable(id)?;
        let port = self.ports[id.index()].take().ok_or(Error::NoSuchPort(id))?;
        self.present.remove(id);
        self.stations.remove_port(id, &port.config.addresses);
        Ok(port.counters)
    }

    /// Sets the port's link up or down. A link that goes down makes the switch
    /// forget who was behind it.
    pub fn set_link(&mut self, id: PortId, up: bool) -> Result<(), Error> {
        self.changeable(id)?.link = up;
        if !up {
            self.stations.forget_learned(id);
        }
        Ok(())
    }

    /// Turns MAC address spoofing on or off.
    pub fn set_spoofing(&mut self, id: PortId, on: bool) -> Result<(), Error> {
        let port = self.changeable(id)?;
        if !on && port.config.addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        port.config.spoofing = on;
        if !on {
            self.stations.forget_learned(id);
        }
        Ok(())
    }

    /// Sets what the port's NIC wants to receive.
    pub fn set_filter(&mut self, id: PortId, filter: ReceiveFilter) -> Result<(), Error> {
        self.changeable(id)?.filter = filter;
        Ok(())
    }

    /// Takes the header of a frame of `len` bytes, without what stands before
    /// its Ethernet header, from the port `from`, and says where it goes.
    ///
    /// The frame is counted as sent at each port it goes to; a port that can't
    /// take it is told by [`Switch::undelivered`].
    ///
    /// What the frame carries isn't looked at: this is for frames of the
    /// gateway, [`Switch::ingress_inspected`] for those of guests.
    pub fn ingress(
        &mut self,
        from: PortId,
        now: Time,
        ether: &EtherHeader,
        len: usize,
    ) -> Result<Egress, DropReason> {
        self.enter(from, now, ether, None, len)
    }

    /// As [`Switch::ingress`], and refuses frames that claim the gateway's IP
    /// addresses by ARP or neighbour discovery, or come from a router or DHCP
    /// server where none may be.
    ///
    /// A frame that can't be parsed mustn't be forwarded: what is bad to
    /// [`Packet::parse`] may still be good to a guest.
    pub fn ingress_inspected(
        &mut self,
        from: PortId,
        now: Time,
        packet: &Packet,
        len: usize,
    ) -> Result<Egress, DropReason> {
        self.enter(from, now, &packet.ether, Some(packet), len)
    }

    /// When the port's limits let its next frame in: `now` if at once. Frames
    /// that wait until then aren't dropped for the limits.
    pub fn ingress_ready(&mut self, id: PortId, now: Time) -> Time {
        let port = self.ports[id.index()].as_mut();
        port.map_or(now, |port| port.ingress.ready_at(now))
    }

    /// When the port's limits let the next frame out to it: `now` if at once.
    pub fn egress_ready(&mut self, id: PortId, now: Time) -> Time {
        let port = self.ports[id.index()].as_mut();
        port.map_or(now, |port| port.egress.ready_at(now))
    }

    /// Counts a frame of `len` bytes that [`Switch::ingress`] sent to the port,
    /// which didn't get it for this reason.
    pub fn undelivered(&mut self, id: PortId, len: usize, reason: DropReason) {
        if let Some(port) = &mut self.ports[id.index()] {
            port.counters.sent.remove(len);
            port.counters.drop_for(reason);
        }
    }

    /// Takes back the count of a frame of `len` bytes that [`Switch::ingress`]
    /// sent to the port: its sender keeps it until there is room.
    pub fn postponed(&mut self, id: PortId, len: usize) {
        if let Some(port) = &mut self.ports[id.index()] {
            port.counters.sent.remove(len);
        }
    }

    /// The ports, in order; the gateway's is the first.
    pub fn ports(&self) -> impl Iterator<Item = PortId> + use<> {
        self.present.iter()
    }

    /// What the port was told to be, with changes made since.
    pub fn config(&self, id: PortId) -> Option<&PortConfig> {
        Some(&self.ports[id.index()].as_ref()?.config)
    }

    /// What the port counted since it was added.
    pub fn counters(&self, id: PortId) -> Option<&Counters> {
        Some(&self.ports[id.index()].as_ref()?.counters)
    }

    /// The stations learned behind the port and heard within [`AGEING_TIME`],
    /// the longest silent first.
    pub fn stations(&self, id: PortId, now: Time) -> impl Iterator<Item = MacAddress> + '_ {
        self.stations.learned(id, now)
    }

    /// The port that the station is behind, if that is known.
    pub fn find(&self, station: MacAddress, now: Time) -> Option<PortId> {
        self.stations.find(station, now)
    }

    fn insert(&mut self, id: PortId, port: Port) {
        for &address in &port.config.addresses {
            self.stations.assign(address, id);
        }
        self.present.insert(id);
        self.ports[id.index()] = Some(Box::new(port));
    }

    fn check(&self, config: &PortConfig) -> Result<(), Error> {
        let addresses = &config.addresses;
        if addresses.is_empty() && !config.spoofing {
            return Err(Error::NoAddress);
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(Error::TooManyAddresses(addresses.len()));
        }
        for (index, &address) in addresses.iter().enumerate() {
            if let Some(port) = self.stations.owner(address) {
                return Err(Error::AddressInUse { address, port });
            }
            if addresses[..index].contains(&address) {
                return Err(Error::Repeated(address));
            }
        }
        Ok(())
    }

    /// An identity that isn't taken, and wasn't for as long as may be.
    fn free_port(&self) -> Option<PortId> {
        (1..=u8::MAX)
            .chain([0])
            .map(|step| PortId(self.last.0.wrapping_add(step)))
            .find(|&id| !self.present.contains(id))
    }

    fn changeable(&mut self, id: PortId) -> Result<&mut Port, Error> {
        match &mut self.ports[id.index()] {
            Some(port) if id != PortId::GATEWAY => Ok(port),
            _ => Err(Error::NoSuchPort(id)),
        }
    }

    fn enter(
        &mut self,
        from: PortId,
        now: Time,
        ether: &EtherHeader,
        packet: Option<&Packet>,
        len: usize,
    ) -> Result<Egress, DropReason> {
        let egress = self
            .admit(from, now, ether, packet, len)
            .and_then(|network| self.forward(from, now, ether.destination, network, len));
        if let Some(port) = &mut self.ports[from.index()] {
            match egress {
                Ok(_) | Err(DropReason::EgressLimit) => port.counters.received.add(len),
                Err(reason) => port.counters.drop_for(reason),
            }
        }
        egress
    }

    /// Whether a frame may come from the port, and the network it is in.
    fn admit(
        &mut self,
        from: PortId,
        now: Time,
        ether: &EtherHeader,
        packet: Option<&Packet>,
        len: usize,
    ) -> Result<Network, DropReason> {
        let port = match &mut self.ports[from.index()] {
            Some(port) if port.link => port,
            _ => return Err(DropReason::LinkDown),
        };
        if !port.ingress.admit(now, len) {
            return Err(DropReason::IngressLimit);
        }
        let network = Network::of(ether)
            .filter(|&network| port.config.vlans.admits(network))
            .ok_or(DropReason::Vlan)?;
        if let Some(packet) = packet {
            guard::inspect(&port.config, &self.gateway_addresses, network, packet)?;
        }
        let source = ether.source.station().ok_or(DropReason::InvalidSource)?;
        if port.config.addresses.contains(&source) {
            return Ok(network);
        }
        if source == self.gateway {
            return Err(DropReason::GatewayAddress);
        }
        if !port.config.spoofing {
            return Err(DropReason::SpoofedSource);
        }
        self.stations.hear(source, from, now)?;
        Ok(network)
    }

    /// Where a frame goes that may come from its port.
    fn forward(
        &mut self,
        from: PortId,
        now: Time,
        destination: Mac,
        network: Network,
        len: usize,
    ) -> Result<Egress, DropReason> {
        let copy = Outgoing {
            from,
            now,
            network,
            len,
        };
        if destination.is_group() {
            if is_reserved(destination) {
                return Err(DropReason::ReservedDestination);
            }
            let wants = |port: &Port| port.filter.wants_group(destination);
            return self.flood(copy, DropReason::NoListener, wants);
        }
        let station = destination
            .station()
            .ok_or(DropReason::InvalidDestination)?;
        match self.stations.find(station, now) {
            Some(to) if to == from => Err(DropReason::SamePort),
            Some(to) => self.deliver(copy, to),
            None => self.flood(copy, DropReason::UnknownDestination, |port| {
                port.config.spoofing && port.filter.wants_unknown(destination)
            }),
        }
    }

    fn deliver(&mut self, copy: Outgoing, to: PortId) -> Result<Egress, DropReason> {
        let isolated = self.is_isolated(copy.from);
        let Some(port) = &mut self.ports[to.index()] else {
            return Err(DropReason::DestinationDown);
        };
        if !port.config.vlans.admits(copy.network) {
            return Err(DropReason::Vlan);
        }
        if isolated && port.config.isolated {
            return Err(DropReason::Isolated);
        }
        if !port.link || !port.filter.wants_own() {
            return Err(DropReason::DestinationDown);
        }
        if !port.take(copy.now, copy.len) {
            return Err(DropReason::EgressLimit);
        }
        Ok(Egress::One(to))
    }

    /// Gives a copy to each port that may have one and wants it; the reason
    /// says what it means that there is none.
    fn flood(
        &mut self,
        copy: Outgoing,
        nobody: DropReason,
        wants: impl Fn(&Port) -> bool,
    ) -> Result<Egress, DropReason> {
        if let Some(sender) = &mut self.ports[copy.from.index()]
            && !sender.flood.admit(copy.now, copy.len)
        {
            return Err(DropReason::FloodLimit);
        }
        let isolated = self.is_isolated(copy.from);
        let mut others = self.present;
        others.remove(copy.from);
        let mut takers = PortSet::default();
        let mut reason = nobody;
        for id in others.iter() {
            let Some(port) = &mut self.ports[id.index()] else {
                continue;
            };
            let may = port.link
                && port.config.vlans.admits(copy.network)
                && !(isolated && port.config.isolated);
            if !may || !wants(port) {
                continue;
            }
            if port.take(copy.now, copy.len) {
                takers.insert(id);
            } else {
                reason = DropReason::EgressLimit;
            }
        }
        if takers.is_empty() {
            return Err(reason);
        }
        Ok(Egress::Many(takers))
    }

    fn is_isolated(&self, id: PortId) -> bool {
        let port = self.ports[id.index()].as_ref();
        port.is_some_and(|port| port.config.isolated)
    }
}

/// A frame on its way out.
#[derive(Clone, Copy)]
struct Outgoing {
    from: PortId,
    now: Time,
    network: Network,
    len: usize,
}

/// Whether bridges keep frames for the group to their own link (IEEE 802.1Q,
/// table 8-1): spanning tree, flow control, link discovery.
fn is_reserved(Mac(group): Mac) -> bool {
    matches!(group, [0x01, 0x80, 0xC2, 0x00, 0x00, 0x00..=0x0F])
}
