//! What the engine drops of what the switch let through, port by port, and of
//! what the gateway has for guests.

use crate::net::switch::PortId;
use crate::net::wire::packet::Drop;

/// Why a frame that came from a port isn't served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It isn't what it says that it is.
    Malformed(Drop),
    /// A packet from an address that isn't of the network, or is that of a
    /// guest behind another port.
    Source,
    /// A packet for another guest, which was to be sent to that one.
    OnLink,
    /// The gateway has nothing to do with its protocol.
    Protocol,
    /// ARP that the gateway has no use for.
    Arp,
    /// Neighbour discovery that the gateway has no use for.
    Discovery,
    /// A message of DHCP that isn't answered.
    Dhcp,
    /// A query of DNS that isn't answered.
    Dns,
    /// An ICMP message that the gateway has no use for.
    Icmp,
    /// A segment that took too many hops.
    HopLimit,
    /// The socket that was to send it is full.
    SocketFull,
    /// Counted at the gateway: nobody says that it has the address that the
    /// frame is for, or too much waits for that.
    Unresolved,
    /// Counted at the gateway: it would be longer than a packet can be.
    TooLong,
    /// Counted at the gateway: an error beyond those that a port's guests are
    /// told.
    ErrorLimit,
    /// The translation dropped it, and has counted why.
    Translation,
}

impl Reason {
    const OTHERS: [(Self, &'static str); 14] = [
        (Self::Source, "foreign_source"),
        (Self::OnLink, "on_link_destination"),
        (Self::Protocol, "protocol"),
        (Self::Arp, "arp_ignored"),
        (Self::Discovery, "discovery_ignored"),
        (Self::Dhcp, "dhcp_ignored"),
        (Self::Dns, "dns_ignored"),
        (Self::Icmp, "icmp_ignored"),
        (Self::HopLimit, "tcp_hop_limit"),
        (Self::SocketFull, "socket_full"),
        (Self::Unresolved, "unresolved"),
        (Self::TooLong, "too_long"),
        (Self::ErrorLimit, "icmp_error_limit"),
        (Self::Translation, "translation"),
    ];

    /// How many reasons there are.
    pub const COUNT: usize = Drop::ALL.len() + Self::OTHERS.len();

    /// All reasons with their names in statistics.
    pub fn all() -> impl Iterator<Item = (Self, &'static str)> {
        let malformed = Drop::ALL
            .into_iter()
            .map(|drop| (Self::Malformed(drop), drop.name()));
        malformed.chain(Self::OTHERS)
    }

    fn index(self) -> usize {
        match self {
            Self::Malformed(drop) => drop.index(),
            other => {
                let mut others = Self::OTHERS.iter();
                let place = others.position(|(reason, _)| *reason == other);
                Drop::ALL.len() + place.expect("all others are listed")
            }
        }
    }
}

/// The counts of each port.
#[derive(Debug, Default)]
pub struct Counters(Vec<[u64; Reason::COUNT]>);

impl Counters {
    pub(super) fn count(&mut self, port: PortId, reason: Reason) {
        let at = port.index();
        if self.0.len() <= at {
            self.0.resize(at + 1, [0; Reason::COUNT]);
        }
        self.0[at][reason.index()] += 1;
    }

    /// Begins anew for a port that was given to another.
    pub(super) fn reset(&mut self, port: PortId) {
        if let Some(counts) = self.0.get_mut(port.index()) {
            *counts = [0; Reason::COUNT];
        }
    }

    /// A port's counts with their names.
    pub fn of(&self, port: PortId) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.get(port.index());
        Reason::all()
            .map(move |(reason, name)| (name, counts.map_or(0, |counts| counts[reason.index()])))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::net::nat::drops::DropReason;
    use crate::net::switch;

    #[test]
    fn each_reason_has_a_name_and_a_count_of_its_own() {
        let mut counters = Counters::default();
        for (reason, _) in Reason::all() {
            counters.count(PortId::GATEWAY, reason);
        }
        counters.count(PortId::GATEWAY, Reason::HopLimit);
        let counts: Vec<_> = counters.of(PortId::GATEWAY).collect();
        assert_eq!(counts.len(), Reason::COUNT);
        for &(name, count) in &counts {
            assert_eq!(count, if name == "tcp_hop_limit" { 2 } else { 1 }, "{name}");
        }
        // Nor is one named as what others count.
        let switch = switch::DropReason::ALL.map(switch::DropReason::name);
        let translation = DropReason::ALL.map(DropReason::name);
        let names = counts.iter().map(|(name, _)| *name);
        let names: Vec<_> = names.chain(switch).chain(translation).collect();
        let distinct: HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        counters.reset(PortId::GATEWAY);
        assert!(counters.of(PortId::GATEWAY).all(|(_, count)| count == 0));
    }
}
