//! The outer ports of the guests' connections.
//!
//! All connections of one inner endpoint leave from one outer port, wherever
//! they go (endpoint-independent mapping: RFC 5382, REQ-1), which is the inner
//! one where that is free. No two inner endpoints have the same (no port
//! overloading: RFC 5382, REQ-7).

use std::collections::HashMap;
use std::hash::RandomState;

use super::streams::LocalPort;
use crate::net::nat::flows::Endpoint;

/// The outer port of an inner endpoint.
#[derive(Debug)]
struct Mapping {
    port: u16,
    /// How many sockets have it; the mapping ends with the last.
    flows: u32,
}

/// A set of ports.
#[derive(Debug)]
struct PortSet(Box<[u64; 1024]>);

impl PortSet {
    fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    fn place(port: u16) -> (usize, u64) {
        (usize::from(port / 64), 1 << (port % 64))
    }

    fn contains(&self, port: u16) -> bool {
        let (word, bit) = Self::place(port);
        self.0[word] & bit != 0
    }

    fn insert(&mut self, port: u16) {
        let (word, bit) = Self::place(port);
        self.0[word] |= bit;
    }

    fn remove(&mut self, port: u16) {
        let (word, bit) = Self::place(port);
        self.0[word] &= !bit;
    }
}

/// Which inner endpoint has which outer port.
#[derive(Debug)]
pub(super) struct Ports {
    mappings: HashMap<Endpoint, Mapping, RandomState>,
    taken4: PortSet,
    taken6: PortSet,
}

impl Ports {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            mappings: HashMap::with_hasher(hasher),
            taken4: PortSet::new(),
            taken6: PortSet::new(),
        }
    }

    /// From where the next connection of an inner endpoint is to leave.
    pub(super) fn choose(&mut self, inner: Endpoint) -> LocalPort {
        if let Some(mapping) = self.mappings.get(&inner) {
            LocalPort::Shared(mapping.port)
        } else if self.taken(inner).contains(inner.port) {
            LocalPort::Prefer(0)
        } else {
            LocalPort::Prefer(inner.port)
        }
    }

    /// Counts a connection of `inner` that leaves from `port`. False if it
    /// may not: the inner endpoint has another, or another has this one.
    pub(super) fn take(&mut self, inner: Endpoint, port: u16) -> bool {
        if let Some(mapping) = self.mappings.get_mut(&inner) {
            let its = mapping.port == port;
            mapping.flows += u32::from(its);
            return its;
        }
        let taken = self.taken(inner);
        if taken.contains(port) {
            return false;
        }
        taken.insert(port);
        self.mappings.insert(inner, Mapping { port, flows: 1 });
        true
    }

    /// A connection of `inner` has ended.
    pub(super) fn release(&mut self, inner: Endpoint) {
        let Some(mapping) = self.mappings.get_mut(&inner) else {
            return;
        };
        mapping.flows -= 1;
        if mapping.flows == 0 {
            let port = mapping.port;
            self.mappings.remove(&inner);
            self.taken(inner).remove(port);
        }
    }

    /// The outer port of an inner endpoint.
    pub(super) fn of(&self, inner: Endpoint) -> Option<u16> {
        Some(self.mappings.get(&inner)?.port)
    }

    /// The ports in use; IPv4 and IPv6 have their own.
    fn taken(&mut self, of: Endpoint) -> &mut PortSet {
        if of.address.is_ipv4() {
            &mut self.taken4
        } else {
            &mut self.taken6
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn guest(last: u8, port: u16) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(192, 168, 100, last), port)
    }

    #[test]
    fn an_inner_endpoint_keeps_its_port_while_it_is_used() {
        let mut ports = Ports::new(RandomState::new());
        let inner = guest(10, 5000);
        assert_eq!(ports.choose(inner), LocalPort::Prefer(5000));
        assert!(ports.take(inner, 6000));
        assert_eq!(ports.choose(inner), LocalPort::Shared(6000));
        assert!(!ports.take(inner, 6001));
        assert!(ports.take(inner, 6000));
        ports.release(inner);
        assert_eq!(ports.of(inner), Some(6000));
        ports.release(inner);
        assert_eq!(ports.of(inner), None);
        assert_eq!(ports.choose(inner), LocalPort::Prefer(5000));
    }

    #[test]
    fn a_port_is_one_endpoints() {
        let mut ports = Ports::new(RandomState::new());
        assert!(ports.take(guest(10, 5000), 5000));
        let other = guest(11, 5000);
        assert_eq!(ports.choose(other), LocalPort::Prefer(0));
        assert!(!ports.take(other, 5000));
        let six = Endpoint::new(Ipv6Addr::LOCALHOST, 5000);
        assert_eq!(ports.choose(six), LocalPort::Prefer(5000));
        assert!(ports.take(six, 5000));
        ports.release(guest(10, 5000));
        assert!(ports.take(other, 5000));
        assert_eq!(ports.choose(six), LocalPort::Shared(5000));
    }
}
