//! Ethernet addresses.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

/// An Ethernet address of a station, never of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

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
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
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
    fn random_addresses_are_local_stations() {
        for _ in 0..100 {
            let address = MacAddress::random();
            assert_eq!(address.bytes()[0] & 3, 2);
            assert_eq!(MacAddress::new(address.bytes()), Some(address));
        }
        assert_ne!(MacAddress::random(), MacAddress::random());
    }
}
