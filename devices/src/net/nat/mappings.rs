//! Static mappings: what outside reaches what inside.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::flows::Endpoint;
use super::reach::is_global_unicast;

/// The most outer ports of all mappings together: each takes a socket.
pub const MAX_PORTS: usize = 4096;

/// The protocols that can be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// The Transmission Control Protocol.
    Tcp,
    /// The User Datagram Protocol.
    Udp,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a mapping can't be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The text has another form.
    #[error(
        "{0:?} is not a mapping: write PROTOCOL:ADDRESS:PORT:INNER:PORT, like \
         tcp:0.0.0.0:2222:192.168.100.10:22, udp:[::]:53:[fd00::2]:53, or with a range of \
         outer ports 8000-8010"
    )]
    Form(String),
    /// Neither TCP nor UDP.
    #[error("{0:?} cannot be mapped: use tcp or udp")]
    Protocol(String),
    /// Something isn't an address.
    #[error("{0:?} is not an IP address: write an IPv6 address in brackets")]
    Address(String),
    /// Something isn't a port.
    #[error("{0:?} is not a port: use 1 to 65535, or 0 as the outer port to have one chosen")]
    Port(String),
    /// The range of outer ports is empty or has no fixed start.
    #[error("{0:?} is not a range of ports: write the lower one first, and not 0")]
    Range(String),
    /// The range is longer than there are inner ports from the first one on.
    #[error("{0} leads past inner port 65535")]
    InnerRange(Mapping),
    /// One address is of IPv4, the other of IPv6.
    #[error("{0} mixes IPv4 and IPv6")]
    Families(Mapping),
    /// No guest can have the inner address.
    #[error("{0} leads to {address}, which no guest can have", address = .0.inner.address)]
    NotAGuest(Mapping),
    /// The host isn't reached at the outer address.
    #[error(
        "{0} listens at {address}, where no host is reached: use an address of this host, or \
         0.0.0.0 or [::] for all",
        address = .0.outer.address
    )]
    NotAHost(Mapping),
    /// The text names no mapping.
    #[error("{0:?} names no mapping: write PROTOCOL:ADDRESS:PORT, like tcp:0.0.0.0:2222")]
    Name(String),
    /// An outer port is in use by another mapping.
    #[error("{new} conflicts with {existing}: remove that first, or use another port")]
    Conflict {
        /// The mapping that isn't added.
        new: Mapping,
        /// The one that has a port of it.
        existing: Mapping,
    },
    /// There are too many ports.
    #[error("{0} makes more than {MAX_PORTS} mapped ports")]
    TooMany(Mapping),
}

/// Outer ports of one address, and the inner ports they lead to in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The protocol.
    pub transport: Transport,
    /// The outer address, or the unspecified one for all of the host's, and
    /// the first outer port, or 0 for any.
    pub outer: Endpoint,
    /// How many ports follow the first.
    pub more: u16,
    /// The inner address and first port.
    pub inner: Endpoint,
}

impl Mapping {
    /// The outer ports.
    pub fn outer_ports(&self) -> RangeInclusive<u16> {
        self.outer.port..=self.outer.port.saturating_add(self.more)
    }

    /// Each outer endpoint with the inner one that it leads to.
    pub fn pairs(&self) -> impl Iterator<Item = (Endpoint, Endpoint)> + use<> {
        let Self { outer, inner, .. } = *self;
        let ports = self.outer_ports().zip(inner.port..=u16::MAX);
        ports.map(move |(outer_port, inner_port)| {
            let outer = Endpoint::new(outer.address, outer_port);
            (outer, Endpoint::new(inner.address, inner_port))
        })
    }

    /// This mapping with the outer port that was chosen for it.
    #[must_use]
    pub fn with_outer_port(mut self, port: u16) -> Self {
        self.outer.port = port;
        self
    }

    /// What no other mapping is called.
    pub fn name(&self) -> MappingName {
        MappingName {
            transport: self.transport,
            outer: self.outer,
        }
    }

    fn conflicts_with(&self, other: &Self) -> bool {
        let (a, b) = (self.outer.address, other.outer.address);
        self.transport == other.transport
            && a.is_ipv4() == b.is_ipv4()
            && (a == b || a.is_unspecified() || b.is_unspecified())
            // Each chosen port is free, so nothing conflicts with it yet.
            && self.outer.port != 0
            && self.outer.port <= *other.outer_ports().end()
            && other.outer.port <= *self.outer_ports().end()
    }

    fn check(self) -> Result<Self, MappingError> {
        if self.inner.port.checked_add(self.more).is_none() {
            return Err(MappingError::InnerRange(self));
        }
        let (outer, inner) = (self.outer.address, self.inner.address);
        if inner.is_ipv4() != outer.is_ipv4() {
            return Err(MappingError::Families(self));
        }
        if !is_global_unicast(inner) {
            return Err(MappingError::NotAGuest(self));
        }
        // Linux would bind a socket of UDP to groups, too.
        if !(is_global_unicast(outer) || outer.is_unspecified() || outer.is_loopback()) {
            return Err(MappingError::NotAHost(self));
        }
        Ok(self)
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport, self.outer)?;
        if self.more > 0 {
            write!(f, "-{}", self.outer_ports().end())?;
        }
        write!(f, ":{}", self.inner)
    }
}

/// What a mapping is called: its protocol, outer address and first outer port,
/// which no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappingName {
    /// The protocol.
    pub transport: Transport,
    /// The outer address and the first outer port, which has been chosen.
    pub outer: Endpoint,
}

impl fmt::Display for MappingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport, self.outer)
    }
}

impl FromStr for MappingName {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        let form = || MappingError::Name(text.to_owned());
        let (protocol, rest) = text.split_once(':').ok_or_else(form)?;
        let transport = parse_transport(protocol)?;
        let (address, port) = split_address(rest).ok_or_else(form)?;
        match parse_port(port) {
            Ok(0) | Err(_) => Err(form()),
            Ok(port) => Ok(Self {
                transport,
                outer: Endpoint::new(parse_address(address)?, port),
            }),
        }
    }
}

impl FromStr for Mapping {
    type Err = MappingError;

    fn from_str(text: &str) -> Result<Self, MappingError> {
        let form = || MappingError::Form(text.to_owned());
        let (protocol, rest) = text.split_once(':').ok_or_else(form)?;
        let transport = parse_transport(protocol)?;
        let (outer, rest) = split_address(rest).ok_or_else(form)?;
        let (ports, rest) = rest.split_once(':').ok_or_else(form)?;
        let (inner, inner_port) = split_address(rest).ok_or_else(form)?;
        let (first, last) = match ports.split_once('-') {
            Some((first, last)) => (parse_port(first)?, parse_port(last)?),
            None => (parse_port(ports)?, parse_port(ports)?),
        };
        let range = || MappingError::Range(ports.to_owned());
        let more = last.checked_sub(first).ok_or_else(range)?;
        if first == 0 && more > 0 {
            return Err(range());
        }
        let inner_port = match parse_port(inner_port)? {
            0 => return Err(MappingError::Port(inner_port.to_owned())),
            port => port,
        };
        let mapping = Self {
            transport,
            outer: Endpoint::new(parse_address(outer)?, first),
            more,
            inner: Endpoint::new(parse_address(inner)?, inner_port),
        };
        mapping.check()
    }
}

fn parse_transport(text: &str) -> Result<Transport, MappingError> {
    let mut all = [Transport::Tcp, Transport::Udp].into_iter();
    let found = all.find(|transport| transport.name() == text);
    found.ok_or_else(|| MappingError::Protocol(text.to_owned()))
}

/// Splits after an address and its colon; an IPv6 address has brackets.
fn split_address(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        let end = text.find(']')? + 1;
        Some((&text[..end], text[end..].strip_prefix(':')?))
    } else {
        text.split_once(':')
    }
}

fn parse_address(text: &str) -> Result<IpAddr, MappingError> {
    let six = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = match six {
        Some(six) => six.parse::<Ipv6Addr>().map(IpAddr::from),
        None => text.parse::<Ipv4Addr>().map(IpAddr::from),
    };
    address.map_err(|_| MappingError::Address(text.to_owned()))
}

fn parse_port(text: &str) -> Result<u16, MappingError> {
    let port = text.bytes().all(|digit| digit.is_ascii_digit());
    let port = port.then(|| text.parse().ok()).flatten();
    port.ok_or_else(|| MappingError::Port(text.to_owned()))
}

/// The mappings there are; none conflicts with another.
#[derive(Clone, Debug, Default)]
pub struct Mappings(Vec<Mapping>);

impl Mappings {
    /// No mappings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a mapping could be added: to be asked before its sockets are
    /// opened, since a port that is to be chosen is known only then.
    pub fn check(&self, new: &Mapping) -> Result<(), MappingError> {
        let new = new.check()?;
        if let Some(existing) = self.0.iter().find(|old| new.conflicts_with(old)) {
            let existing = *existing;
            return Err(MappingError::Conflict { new, existing });
        }
        let ports = |mapping: &Mapping| 1 + usize::from(mapping.more);
        if self.0.iter().map(ports).sum::<usize>() + ports(&new) > MAX_PORTS {
            return Err(MappingError::TooMany(new));
        }
        Ok(())
    }

    /// Adds a mapping, whose outer port is chosen by now.
    pub fn add(&mut self, new: Mapping) -> Result<(), MappingError> {
        self.check(&new)?;
        self.0.push(new);
        Ok(())
    }

    /// Removes the mapping whose outer address and first outer port these are.
    pub fn remove(&mut self, transport: Transport, outer: Endpoint) -> Option<Mapping> {
        let is_it = |mapping: &Mapping| mapping.transport == transport && mapping.outer == outer;
        let at = self.0.iter().position(is_it)?;
        Some(self.0.remove(at))
    }

    /// The mappings in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mapping(text: &str) -> Mapping {
        text.parse().unwrap()
    }

    #[test]
    fn text_round_trips() {
        for text in [
            "tcp:0.0.0.0:2222:192.168.100.10:22",
            "udp:127.0.0.1:0:192.168.100.10:53",
            "tcp:0.0.0.0:8000-8010:192.168.100.10:80",
            "udp:[::]:5353:[fd00::2]:53",
            "tcp:[::1]:1-4096:[fd00::2]:61440",
        ] {
            assert_eq!(mapping(text).to_string(), text);
        }
        assert_eq!(mapping("tcp:0.0.0.0:80-80:10.0.0.1:8080").more, 0);
    }

    #[test]
    fn bad_text_is_refused() {
        type Check = fn(&MappingError) -> bool;
        let form: Check = |e| matches!(e, MappingError::Form(_));
        let protocol: Check = |e| matches!(e, MappingError::Protocol(_));
        let address: Check = |e| matches!(e, MappingError::Address(_));
        let port: Check = |e| matches!(e, MappingError::Port(_));
        let range: Check = |e| matches!(e, MappingError::Range(_));
        let inner: Check = |e| matches!(e, MappingError::InnerRange(_));
        let families: Check = |e| matches!(e, MappingError::Families(_));
        let guest: Check = |e| matches!(e, MappingError::NotAGuest(_));
        let host: Check = |e| matches!(e, MappingError::NotAHost(_));
        for (text, is_it) in [
            ("", form),
            ("tcp", form),
            ("tcp:0.0.0.0:1:10.0.0.1", form),
            ("tcp:[::1:1:[fd00::2]:1", form),
            ("tcp:[::1]1:[fd00::2]:1", form),
            ("sctp:0.0.0.0:1:10.0.0.1:1", protocol),
            ("TCP:0.0.0.0:1:10.0.0.1:1", protocol),
            ("tcp:localhost:1:10.0.0.1:1", address),
            ("tcp:[0.0.0.0]:1:10.0.0.1:1", address),
            ("tcp:0.0.0.0:1:10.0.0.256:1", address),
            ("tcp::1:10.0.0.1:1", address),
            ("tcp:0.0.0.0:65536:10.0.0.1:1", port),
            ("tcp:0.0.0.0:+1:10.0.0.1:1", port),
            ("tcp:0.0.0.0::10.0.0.1:1", port),
            ("tcp:0.0.0.0:1:10.0.0.1:0", port),
            ("tcp:0.0.0.0:1:10.0.0.1:1-2", port),
            ("tcp:0.0.0.0:1:10.0.0.1:1:1", port),
            ("tcp:0.0.0.0:2-1:10.0.0.1:1", range),
            ("tcp:0.0.0.0:0-1:10.0.0.1:1", range),
            ("tcp:0.0.0.0:1-10:10.0.0.1:65527", inner),
            ("tcp:0.0.0.0:1:[fd00::2]:1", families),
            ("tcp:0.0.0.0:1:127.0.0.1:1", guest),
            ("tcp:0.0.0.0:1:0.0.0.0:1", guest),
            ("tcp:0.0.0.0:1:224.0.0.1:1", guest),
            ("tcp:[::]:1:[ff02::1]:1", guest),
            ("tcp:[::]:1:[fe80::1]:1", guest),
            ("tcp:[::]:1:[::ffff:10.0.0.1]:1", guest),
            ("udp:224.0.0.1:1:10.0.0.1:1", host),
            ("udp:255.255.255.255:1:10.0.0.1:1", host),
            ("udp:[fe80::1]:1:[fd00::2]:1", host),
            ("tcp:\n0.0.0.0:1:10.0.0.1:1", address),
        ] {
            let error = text.parse::<Mapping>().unwrap_err();
            assert!(is_it(&error), "{text}: {error:?}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn ports_lead_to_ports_in_order() {
        let range = mapping("tcp:0.0.0.0:8000-8010:192.168.100.10:80");
        let pairs: Vec<_> = range.pairs().collect();
        assert_eq!(pairs.len(), 11);
        assert_eq!(pairs[10].0.port, 8010);
        assert_eq!(pairs[10].1.to_string(), "192.168.100.10:90");
        let last = mapping("tcp:0.0.0.0:65535:192.168.100.10:65535");
        assert_eq!(last.pairs().count(), 1);
    }

    #[test]
    fn a_conflict_is_named() {
        let mut mappings = Mappings::new();
        let existing = mapping("tcp:0.0.0.0:8000-8010:192.168.100.10:80");
        mappings.add(existing).unwrap();
        for text in [
            "tcp:0.0.0.0:8000-8010:192.168.100.10:80",
            "tcp:0.0.0.0:8010:192.168.100.11:22",
            "tcp:127.0.0.1:7000-9000:192.168.100.11:22",
            "tcp:127.0.0.1:8000:192.168.100.11:22",
        ] {
            let new = mapping(text);
            let conflict = MappingError::Conflict { new, existing };
            assert_eq!(mappings.add(new), Err(conflict.clone()));
            let message = conflict.to_string();
            assert!(message.starts_with(&format!("{text} conflicts with {existing}")));
        }
        for text in [
            "udp:0.0.0.0:8000:192.168.100.10:80",
            "tcp:0.0.0.0:8011:192.168.100.10:80",
            "tcp:0.0.0.0:7999:192.168.100.10:80",
            "tcp:[::]:8000:[fd00::2]:80",
            "tcp:127.0.0.1:22:192.168.100.10:22",
            "tcp:127.0.0.2:22:192.168.100.10:22",
        ] {
            mappings.add(mapping(text)).unwrap();
        }
        assert_eq!(mappings.iter().count(), 7);
        assert_eq!(
            mappings
                .remove(Transport::Udp, existing.outer)
                .unwrap()
                .more,
            0
        );
        assert_eq!(
            mappings.remove(Transport::Tcp, existing.outer),
            Some(existing)
        );
        assert_eq!(mappings.remove(Transport::Tcp, existing.outer), None);
        mappings.add(existing).unwrap();
    }

    #[test]
    fn a_chosen_port_conflicts_once_it_is_known() {
        let mut mappings = Mappings::new();
        let any = mapping("udp:0.0.0.0:0:192.168.100.10:53");
        mappings.add(any.with_outer_port(40_000)).unwrap();
        mappings.check(&any).unwrap();
        let listed = mappings.iter().next().unwrap();
        assert_eq!(listed.to_string(), "udp:0.0.0.0:40000:192.168.100.10:53");
        let taken = mapping("udp:0.0.0.0:40000:192.168.100.11:53");
        let error = mappings.check(&taken).unwrap_err();
        assert!(matches!(error, MappingError::Conflict { .. }), "{error}");
    }

    #[test]
    fn a_mapping_is_found_by_its_name() {
        let mut mappings = Mappings::new();
        for (text, name) in [
            (
                "tcp:0.0.0.0:8000-8010:192.168.100.10:80",
                "tcp:0.0.0.0:8000",
            ),
            ("udp:127.0.0.1:53:192.168.100.10:53", "udp:127.0.0.1:53"),
            ("udp:[::]:53:[fd00::2]:53", "udp:[::]:53"),
        ] {
            mappings.add(mapping(text)).unwrap();
            assert_eq!(mapping(text).name().to_string(), name);
            let MappingName { transport, outer } = name.parse().unwrap();
            assert_eq!(mappings.remove(transport, outer), Some(mapping(text)));
        }
        for text in [
            "",
            "tcp",
            "tcp:0.0.0.0",
            "tcp:0.0.0.0:0",
            "tcp:0.0.0.0:8000-8010",
            "tcp:0.0.0.0:8000:192.168.100.10:80",
            "sctp:0.0.0.0:1",
            "tcp:localhost:1",
            "udp:[::1:1",
        ] {
            let error = text.parse::<MappingName>().unwrap_err();
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn ports_are_bounded() {
        let mut mappings = Mappings::new();
        mappings
            .add(mapping("tcp:0.0.0.0:1-4095:10.0.0.1:1"))
            .unwrap();
        let two = mapping("udp:0.0.0.0:1-2:10.0.0.1:1");
        assert_eq!(mappings.add(two), Err(MappingError::TooMany(two)));
        mappings.add(mapping("udp:0.0.0.0:1:10.0.0.1:1")).unwrap();
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "(tcp|udp|x)?[:0-9a-f.\\[\\]\n-]{0,40}") {
            match text.parse::<Mapping>() {
                Ok(mapping) => {
                    prop_assert_eq!(mapping.to_string().parse::<Mapping>(), Ok(mapping));
                }
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
            if let Ok(name) = text.parse::<MappingName>() {
                prop_assert_eq!(name.to_string().parse::<MappingName>(), Ok(name));
            }
        }
    }
}
