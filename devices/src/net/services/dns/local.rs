//! Which questions the gateway answers itself: those about its own network,
//! which nobody else can answer and nobody else is to hear of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::{encode_name, is_domain};
use super::message::{CLASS_IN, Query, Record, kind};
use super::names::Names;
use crate::net::prefix::{Prefix4, Prefix6};
use crate::net::time::Time;

/// For how long an answer may be kept, in seconds: a lease may end and its
/// name may go to another address.
const TTL: u32 = 30;

/// What belongs to the virtual network.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// The domain of guests' names, if they have one. What is in it, the
    /// gateway knows or it isn't there.
    pub domain: Option<String>,
    /// The networks whose addresses have names here or none.
    pub prefixes4: Vec<Prefix4>,
    /// The same of IPv6.
    pub prefixes6: Vec<Prefix6>,
}

/// What the network knows about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The name is there, with these records of the type asked for.
    Records(Vec<Record>),
    /// The name isn't there.
    NoSuchName,
}

impl Zone {
    /// The answer to `query`, unless others are to be asked.
    pub(super) fn answer(&self, now: Time, names: &Names, query: &Query) -> Option<Known> {
        if query.class != CLASS_IN {
            return None;
        }
        let [rest @ .., last] = &query.labels[..] else {
            return None;
        };
        let addresses = |addresses: &[IpAddr]| Known::Records(of_kind(addresses, query.kind));
        // The client's own machine, whatever is asked (RFC 6761, 6.3).
        if last.eq_ignore_ascii_case(b"localhost") {
            return Some(addresses(&[
                Ipv4Addr::LOCALHOST.into(),
                Ipv6Addr::LOCALHOST.into(),
            ]));
        }
        let known = |host: &[u8]| {
            let host = std::str::from_utf8(host).ok()?.to_ascii_lowercase();
            names.addresses(now, &host)
        };
        if let Some(host) = self.in_domain(&query.labels) {
            return Some(match host {
                // The domain itself has no records.
                [] => Known::Records(Vec::new()),
                [host] => known(host).map_or(Known::NoSuchName, |found| addresses(&found)),
                _ => Known::NoSuchName,
            });
        }
        if let Some(address) = reverse(&query.labels).filter(|address| self.contains(*address)) {
            let name = names.name_of(now, address);
            return Some(name.map_or(Known::NoSuchName, |name| self.pointer(name, query.kind)));
        }
        if !rest.is_empty() {
            return None;
        }
        match known(last) {
            Some(found) => Some(addresses(&found)),
            // A plain name is a host's. Where hosts are in a domain, it is
            // nothing that servers of the world should be asked for.
            None if self.domain.is_some() && matches!(query.kind, kind::A | kind::AAAA) => {
                Some(Known::NoSuchName)
            }
            None => None,
        }
    }

    /// What stands before the domain in a name of it.
    fn in_domain<'q, 'a>(&self, labels: &'q [&'a [u8]]) -> Option<&'q [&'a [u8]]> {
        let domain = self.domain.as_deref()?;
        let length = domain.split('.').count();
        let (host, suffix) = labels.split_at(labels.len().checked_sub(length)?);
        domain
            .split('.')
            .zip(suffix)
            .all(|(ours, theirs)| theirs.eq_ignore_ascii_case(ours.as_bytes()))
            .then_some(host)
    }

    fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.prefixes4.iter().any(|of| of.contains(address)),
            IpAddr::V6(address) => self.prefixes6.iter().any(|of| of.contains(address)),
        }
    }

    fn pointer(&self, host: &str, wanted: u16) -> Known {
        if !matches!(wanted, kind::PTR | kind::ANY) {
            return Known::Records(Vec::new());
        }
        let full = self
            .domain
            .as_ref()
            .map(|domain| format!("{host}.{domain}"))
            .filter(|full| is_domain(full));
        let name = encode_name(full.as_deref().unwrap_or(host));
        Known::Records(vec![Record::pointer(name, TTL)])
    }
}

/// The records of the type `wanted`. To who wants any, those of one family
/// are enough (RFC 8482, 4.1).
fn of_kind(addresses: &[IpAddr], wanted: u16) -> Vec<Record> {
    let v4 = match wanted {
        kind::A => true,
        kind::AAAA => false,
        kind::ANY => addresses.iter().any(IpAddr::is_ipv4),
        _ => return Vec::new(),
    };
    addresses
        .iter()
        .filter(|address| address.is_ipv4() == v4)
        .map(|address| Record::address(*address, TTL))
        .collect()
}

/// The address that a name in the reverse tree stands for (RFC 1035, 3.5;
/// RFC 3596, 2.5).
fn reverse(labels: &[&[u8]]) -> Option<IpAddr> {
    let [reversed @ .., tree, arpa] = labels else {
        return None;
    };
    if !arpa.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    if tree.eq_ignore_ascii_case(b"in-addr") {
        let mut octets = [0; 4];
        for (octet, label) in octets.iter_mut().rev().zip(exactly(reversed, 4)?) {
            *octet = decimal(label)?;
        }
        return Some(octets.into());
    }
    if tree.eq_ignore_ascii_case(b"ip6") {
        let mut number = 0u128;
        for label in exactly(reversed, 32)?.iter().rev() {
            let &[digit] = *label else {
                return None;
            };
            let digit = char::from(digit).to_digit(16)?;
            number = number << 4 | u128::from(digit);
        }
        return Some(Ipv6Addr::from(number).into());
    }
    None
}

fn exactly<T>(items: &[T], count: usize) -> Option<&[T]> {
    (items.len() == count).then_some(items)
}

/// A byte in decimal, without zeroes before it.
fn decimal(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    let number: u8 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(name: &str) -> Vec<&[u8]> {
        name.split('.').map(str::as_bytes).collect()
    }

    #[test]
    fn reverse_names_are_read() {
        for (name, address) in [
            ("1.100.168.192.in-addr.arpa", Some("192.168.100.1")),
            ("1.100.168.192.IN-ADDR.ARPA", Some("192.168.100.1")),
            ("100.168.192.in-addr.arpa", None),
            ("01.100.168.192.in-addr.arpa", None),
            ("+1.100.168.192.in-addr.arpa", None),
            ("256.100.168.192.in-addr.arpa", None),
            ("0.1.100.168.192.in-addr.arpa", None),
            ("1.100.168.192.in-addr.example", None),
            (
                "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa",
                Some("4321:0:1:2:3:4:567:89ab"),
            ),
            ("1.ip6.arpa", None),
            ("arpa", None),
        ] {
            let expected = address.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(reverse(&split(name)), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_address_has_its_reverse_name(number: u128) {
            let nibbles = format!("{number:032x}");
            let reversed: Vec<String> = nibbles.chars().rev().map(String::from).collect();
            let name = format!("{}.ip6.arpa", reversed.join("."));
            prop_assert_eq!(reverse(&split(&name)), Some(Ipv6Addr::from(number).into()));
        }
    }
}
