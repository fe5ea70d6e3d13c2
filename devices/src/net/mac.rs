//! Ethernet addresses.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An Ethernet address of a station, never of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

/// Any address that a frame may name: a station's, a group's or nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The group of all stations.
    pub const BROADCAST: Self = Self([0xFF; 6]);

    /// Whether this is a group's address, broadcast included (IEEE 802, 8.2).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The address as a station's, if it is one.
    pub fn station(self) -> Option<MacAddress> {
        MacAddress::new(self.0)
    }

    /// The group that IPv4 multicast to `group` goes to (RFC 1112, 6.4).
    pub const fn of_group4(group: Ipv4Addr) -> Self {
        let [_, b, c, d] = group.octets();
        Self([0x01, 0x00, 0x5E, b & 0x7F, c, d])
    }

    /// The group that IPv6 multicast to `group` goes to (RFC 2464, 7).
    pub const fn of_group6(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl From<MacAddress> for Mac {
    fn from(address: MacAddress) -> Self {
        Self(address.0)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text or six bytes that are no station's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not six pairs of hexadecimal digits.
    #[error("{0:?} is not a MAC address: write six bytes like 02:00:00:00:00:01")]
    Form(String),
    /// A group's address, or all zeroes.
    #[error(
        "{0:?} is not the address of one station: the first byte must be even, and not all may be zero"
    )]
    NotAStation(String),
}

impl MacAddress {
    /// The address, unless it is a group's (IEEE 802, 8.2) or all zeroes.
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// A random locally administered address (IEEE 802, 8.4).
    pub fn random() -> Self {
        // Each RandomState has keys that the system drew at random.
        let [.., a, b, c, d, e, f] = RandomState::new().hash_one(0).to_be_bytes();
        Self([a & 0xFC | 0x02, b, c, d, e, f])
    }

    /// The address's bytes in the order of transmission.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Mac::from(*self).fmt(f)
    }
}

impl FromStr for MacAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let form = || ParseError::Form(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(form)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(form());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| form())?;
        }
        if parts.next().is_some() {
            return Err(form());
        }
        Self::new(bytes).ok_or_else(|| ParseError::NotAStation(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["02:00:00:00:00:01", "52:54:00:ab:cd:ef"] {
            assert_eq!(text.parse::<MacAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_text_is_refused() {
        for text in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+1",
            "02-00-00-00-00-01",
        ] {
            assert!(
                matches!(text.parse::<MacAddress>(), Err(ParseError::Form(_))),
                "{text}"
            );
        }
        for text in [
            "01:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            assert!(
                matches!(text.parse::<MacAddress>(), Err(ParseError::NotAStation(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn groups_are_no_stations() {
        let station = Mac([2, 0, 0, 0, 0, 1]);
        assert_eq!(station.station().map(Mac::from), Some(station));
        assert!(!station.is_group());
        let all_nodes = Mac::of_group6("ff02::1:ff00:1234".parse().unwrap());
        assert_eq!(all_nodes.to_string(), "33:33:ff:00:12:34");
        let mdns = Mac::of_group4(Ipv4Addr::new(224, 128 + 1, 0, 251));
        assert_eq!(mdns.to_string(), "01:00:5e:01:00:fb");
        for group in [Mac::BROADCAST, all_nodes, mdns] {
            assert!(group.is_group());
            assert_eq!(group.station(), None);
        }
        assert_eq!(Mac::default().station(), None);
    }

    #[test]
    fn random_addresses_are_local_stations() {
        for _ in 0..100 {
            let address = MacAddress::random();
            assert_eq!(address.bytes()[0] & 3, 2);
            assert_eq!(MacAddress::new(address.bytes()), Some(address));
        }
        assert_ne!(MacAddress::random(), MacAddress::random());
    }
}
