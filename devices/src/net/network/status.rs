//! What the network is doing, for those who ask.

use std::net::IpAddr;
use std::time::Duration;

use crate::net::mac::MacAddress;
use crate::net::nat::mappings::Mapping;
use crate::net::switch::Traffic;

/// What the network is doing.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The switch's ports, the gateway's first.
    pub ports: Vec<PortStatus>,
    /// The static mappings.
    pub mappings: Vec<Mapping>,
    /// The leases that haven't ended.
    pub leases: Vec<LeaseStatus>,
    /// Flows of the translation.
    pub flows: Flows,
    /// The host's sockets that are open for them.
    pub sockets: usize,
    /// What the translation dropped, by reason.
    pub drops: Vec<(&'static str, u64)>,
}

/// A port of the switch.
#[derive(Clone, Debug)]
pub struct PortStatus {
    /// Its number.
    pub number: u8,
    /// What it was called when it was added.
    pub name: String,
    /// Its own addresses.
    pub addresses: Vec<MacAddress>,
    /// Whether MAC address spoofing is on.
    pub spoofing: bool,
    /// Whether somebody is plugged in.
    pub plugged: bool,
    /// The stations learned behind it.
    pub stations: Vec<MacAddress>,
    /// What came from it.
    pub received: Traffic,
    /// What was sent to it.
    pub sent: Traffic,
    /// What was dropped, by reason.
    pub drops: Vec<(&'static str, u64)>,
}

/// A lease of an address.
#[derive(Clone, Debug)]
pub struct LeaseStatus {
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub mac: MacAddress,
    /// What its client calls itself.
    pub name: Option<String>,
    /// How long it lasts.
    pub rest: Duration,
}

/// How many flows there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flows {
    /// Connections of TCP.
    pub tcp: usize,
    /// Mappings of UDP.
    pub udp: usize,
    /// Mappings of ICMP queries.
    pub icmp: usize,
}
