//! Whom guests may reach, and as whom it shows itself to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flows::Endpoint;
use crate::net::services::dns;

/// The border between the guests' addresses and the host's.
///
/// The host's loopback is behind the gateway's address, if it is behind
/// anything: guests can't name it otherwise, since their own loopback has its
/// addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The gateway's IPv4 address among the guests.
    pub gateway4: Option<Ipv4Addr>,
    /// The gateway's IPv6 address among the guests.
    pub gateway6: Option<Ipv6Addr>,
    /// Whether guests reach the host's loopback by the gateway's address.
    pub host_loopback: bool,
    /// The resolver that connections to the gateway's DNS lead to.
    pub resolver: Option<Endpoint>,
    /// The host's addresses: at these, the outer ports of flows and mappings
    /// are reached.
    pub host: Vec<IpAddr>,
}

impl Reach {
    /// Where a packet of a guest goes to; `None` if it goes nowhere.
    ///
    /// Only unicast addresses that mean the same everywhere are let through,
    /// by a rule for each kind, since a socket would take some of the others
    /// for the host itself: 0.0.0.0, :: and mapped addresses.
    pub fn outward(&self, destination: IpAddr) -> Option<IpAddr> {
        if self.is_gateway(destination) {
            return self.host_loopback.then_some(match destination {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        is_global_unicast(destination).then_some(destination)
    }

    /// Where a guest's connection goes to; `None` if it goes nowhere. What
    /// guests ask the gateway's DNS by TCP, the host's resolver answers
    /// (RFC 5625, 4.4).
    pub fn connection(&self, destination: Endpoint) -> Option<Endpoint> {
        if destination.port == dns::PORT && self.is_gateway(destination.address) {
            return self.resolver;
        }
        let address = self.outward(destination.address)?;
        Some(Endpoint::new(address, destination.port))
    }

    /// As whom a sender outside is shown to guests; `None` if they couldn't
    /// answer it.
    pub fn inward(&self, source: IpAddr) -> Option<IpAddr> {
        if source.is_loopback() {
            return self.gateway(source);
        }
        (is_global_unicast(source) && !self.is_gateway(source)).then_some(source)
    }

    /// Whether a guest may have the address that it sends from.
    pub fn is_guest(&self, source: IpAddr) -> bool {
        is_global_unicast(source) && !self.is_gateway(source)
    }

    /// As whom one who reports an error about a guest's packet is shown to the
    /// guest at `to`: the gateway if it isn't known.
    pub fn reporter(&self, reporter: Option<IpAddr>, to: IpAddr) -> Option<IpAddr> {
        let shown = reporter.filter(|reporter| reporter.is_ipv4() == to.is_ipv4());
        let shown = shown.and_then(|reporter| self.inward(reporter));
        shown.or_else(|| self.gateway(to))
    }

    /// The gateway's address of the same family.
    pub fn gateway(&self, family_of: IpAddr) -> Option<IpAddr> {
        match family_of {
            IpAddr::V4(_) => self.gateway4.map(IpAddr::from),
            IpAddr::V6(_) => self.gateway6.map(IpAddr::from),
        }
    }

    /// Whether this is an address of the gateway.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.gateway(address) == Some(address)
    }

    /// Whether this is an address of the host.
    pub fn is_host(&self, address: IpAddr) -> bool {
        self.host.contains(&address)
    }
}

/// Whether an address is one interface's, and routers may forward to it
/// (IANA's special-purpose address registries). Private addresses are.
pub(super) fn is_global_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            // "This network" (RFC 791, 3.2), and reserved, with broadcast
            // (RFC 1112, 4).
            !matches!(address.octets(), [0 | 240..=255, ..])
                && !address.is_loopback()
                // Not to be forwarded (RFC 3927, 2.7).
                && !address.is_link_local()
                && !address.is_multicast()
        }
        IpAddr::V6(address) => {
            !address.is_multicast()
                && !address.is_unicast_link_local()
                // Unspecified, loopback, IPv4-compatible (RFC 4291, 2.5) and
                // IPv4-mapped addresses; and nothing else is in ::/64.
                && address.segments()[..4] != [0; 4]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(host_loopback: bool) -> Reach {
        Reach {
            gateway4: Some(Ipv4Addr::new(192, 168, 100, 1)),
            gateway6: "fd00::1".parse().ok(),
            host_loopback,
            resolver: None,
            host: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
        }
    }

    #[test]
    fn guests_reach_unicast_addresses_only() {
        for (address, reached) in [
            ("192.0.2.1", true),
            ("10.1.2.3", true),
            ("100.64.0.1", true),
            ("223.255.255.255", true),
            ("2001:db8::1", true),
            ("fd12:3456::1", true),
            ("64:ff9b::c000:201", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("127.0.0.1", false),
            ("127.255.255.254", false),
            ("169.254.169.254", false),
            ("224.0.0.1", false),
            ("239.255.255.250", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("::", false),
            ("::1", false),
            ("::127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:192.0.2.1", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let expected = reached.then_some(address);
            for loopback in [false, true] {
                assert_eq!(reach(loopback).outward(address), expected, "{address}");
            }
            if !address.is_loopback() {
                assert_eq!(reach(false).inward(address), expected, "{address}");
            }
        }
    }

    #[test]
    fn loopback_is_behind_the_gateway() {
        for (gateway, loopback) in [("192.168.100.1", "127.0.0.1"), ("fd00::1", "::1")] {
            let gateway: IpAddr = gateway.parse().unwrap();
            let loopback: IpAddr = loopback.parse().unwrap();
            assert_eq!(reach(false).outward(gateway), None);
            assert_eq!(reach(true).outward(gateway), Some(loopback));
            assert_eq!(reach(false).inward(loopback), Some(gateway));
            assert_eq!(reach(false).inward(gateway), None);
        }
        let local = Ipv4Addr::LOCALHOST.into();
        assert_eq!(Reach::default().inward(local), None);
    }
}
