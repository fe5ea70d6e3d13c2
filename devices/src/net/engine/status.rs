//! What the engine tells of itself.

use std::net::IpAddr;

use super::Engine;
use crate::net::network::{Flows, LeaseStatus, PortStatus, Status};
use crate::net::services::leases::{Lease, State};
use crate::net::switch::{PortConfig, PortId};
use crate::net::time::Time;

impl Engine {
    /// The switch's ports, the gateway's first.
    pub fn ports(&self) -> impl Iterator<Item = PortId> {
        self.lan.switch.ports()
    }

    /// What a port is and has counted; what it is called, others know.
    pub fn port_status(&self, port: PortId, now: Time) -> PortStatus {
        let switch = &self.lan.switch;
        let config = switch.config(port);
        let counters = switch.counters(port).copied().unwrap_or_default();
        let by_switch = counters
            .drops()
            .map(|(reason, count)| (reason.name(), count));
        PortStatus {
            number: port.into(),
            name: String::new(),
            addresses: config.map_or_else(Vec::new, |config: &PortConfig| config.addresses.clone()),
            spoofing: config.is_some_and(|config| config.spoofing),
            plugged: false,
            stations: switch.stations(port, now).collect(),
            received: counters.received,
            sent: counters.sent,
            drops: by_switch.chain(self.lan.counters.of(port)).collect(),
        }
    }

    /// What the gateway has given and what goes through it; its ports and
    /// sockets aside.
    pub fn status(&self, now: Time) -> Status {
        let leases4 = self.dhcp4.iter().flat_map(|server| server.leases());
        let leases6 = self.dhcp6.iter().flat_map(|server| server.leases());
        let leases4 = leases4.filter_map(|(address, lease)| status_of(address, lease, now));
        let leases6 = leases6.filter_map(|(address, lease)| status_of(address, lease, now));
        let drops = [
            self.tcp.drops(),
            self.udp.drops(),
            self.echoes.drops(),
            self.fragments.drops(),
        ];
        let mut total = drops[0]
            .iter()
            .map(|(reason, _)| (reason.name(), 0))
            .collect::<Vec<_>>();
        for drops in drops {
            for ((_, total), (_, count)) in total.iter_mut().zip(drops.iter()) {
                *total += count;
            }
        }
        Status {
            mappings: self.mappings.iter().copied().collect(),
            leases: leases4.chain(leases6).collect(),
            flows: Flows {
                tcp: self.tcp.len(),
                udp: self.udp.len(),
                icmp: self.echoes.len(),
            },
            drops: total,
            ..Status::default()
        }
    }
}

/// A lease, if a client has it now.
fn status_of<K>(address: impl Into<IpAddr>, lease: &Lease<K>, now: Time) -> Option<LeaseStatus> {
    let bound = lease.state == State::Bound && lease.expires > now;
    bound.then(|| LeaseStatus {
        address: address.into(),
        mac: lease.mac,
        name: lease.name.clone(),
        rest: lease.expires.since(now),
    })
}
