//! Address prefixes of both families.

use std::fmt;
use std::net::{AddrParseError, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A family of addresses, as a prefix sees it.
pub trait Address: Copy + Ord + fmt::Display + FromStr<Err = AddrParseError> {
    /// The bits of an address.
    const BITS: u8;

    /// The address as a number, in host order.
    fn number(self) -> u128;

    /// The address of a number below 2^[`BITS`](Self::BITS).
    fn from_number(number: u128) -> Self;
}

impl Address for Ipv4Addr {
    const BITS: u8 = 32;

    fn number(self) -> u128 {
        u32::from(self).into()
    }

    fn from_number(number: u128) -> Self {
        u32::try_from(number)
            .expect("the number of an IPv4 address is below 2^32")
            .into()
    }
}

impl Address for Ipv6Addr {
    const BITS: u8 = 128;

    fn number(self) -> u128 {
        self.into()
    }

    fn from_number(number: u128) -> Self {
        number.into()
    }
}

/// The addresses that share their first bits, such as 192.168.100.0/24
/// (RFC 4632, 3.1; RFC 4291, 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix<A> {
    first: A,
    length: u8,
}

/// A prefix of IPv4 addresses.
pub type Prefix4 = Prefix<Ipv4Addr>;

/// A prefix of IPv6 addresses.
pub type Prefix6 = Prefix<Ipv6Addr>;

/// A text or a pair that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not an address, a slash and a length.
    #[error("{0:?} is not a prefix: write it like 192.168.100.0/24 or fd00::/64")]
    Form(String),
    /// A length longer than an address.
    #[error("a prefix of {length} bits is too long: an address has {bits}")]
    Length {
        /// The length in bits.
        length: u8,
        /// The bits of an address.
        bits: u8,
    },
    /// Bits set behind the prefix.
    #[error("{address}/{length} has bits set behind the prefix: did you mean {meant}/{length}?")]
    HostBits {
        /// The address given.
        address: String,
        /// The length in bits.
        length: u8,
        /// The prefix's first address.
        meant: String,
    },
}

impl<A: Address> Prefix<A> {
    /// The prefix of `length` bits that starts at `first`.
    pub fn new(first: A, length: u8) -> Result<Self, PrefixError> {
        let prefix = Self::around(first, length)?;
        if prefix.first != first {
            return Err(PrefixError::HostBits {
                address: first.to_string(),
                length,
                meant: prefix.first.to_string(),
            });
        }
        Ok(prefix)
    }

    /// The prefix of `length` bits that `address` belongs to.
    pub fn around(address: A, length: u8) -> Result<Self, PrefixError> {
        if length > A::BITS {
            return Err(PrefixError::Length {
                length,
                bits: A::BITS,
            });
        }
        let first = A::from_number(address.number() & !host_bits::<A>(length));
        Ok(Self { first, length })
    }

    /// The first address: of an IPv4 subnet, the subnet's own.
    pub fn first(self) -> A {
        self.first
    }

    /// The last address: of an IPv4 subnet, its broadcast address.
    pub fn last(self) -> A {
        A::from_number(self.first.number() | host_bits::<A>(self.length))
    }

    /// The length in bits.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The mask: ones where the prefix is.
    pub fn mask(self) -> A {
        A::from_number(host_bits::<A>(0) & !host_bits::<A>(self.length))
    }

    /// Whether `address` belongs to the prefix.
    pub fn contains(self, address: A) -> bool {
        address.number() & !host_bits::<A>(self.length) == self.first.number()
    }
}

impl Prefix4 {
    /// Whether `address` can be a host's: the subnet's own and its broadcast
    /// address can't, except where a prefix has no other (RFC 3021).
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        let reserved = self.length < 31 && (address == self.first || address == self.last());
        self.contains(address) && !reserved
    }
}

/// Ones in the bits of an address that follow a prefix of `length` bits.
fn host_bits<A: Address>(length: u8) -> u128 {
    let bits = u32::from(A::BITS - length);
    u128::MAX.checked_shr(128 - bits).unwrap_or(0)
}

impl<A: Address> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.length)
    }
}

impl<A: Address> FromStr for Prefix<A> {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let form = || PrefixError::Form(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(form)?;
        let address = address.parse().map_err(|_| form())?;
        if !length.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(form());
        }
        let length = length.parse().map_err(|_| form())?;
        Self::new(address, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["0.0.0.0/0", "192.168.100.0/24", "10.1.2.3/32"] {
            assert_eq!(text.parse::<Prefix4>().unwrap().to_string(), text);
        }
        for text in ["::/0", "fd00:1::/64", "::1/128"] {
            assert_eq!(text.parse::<Prefix6>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_text_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/+8",
            "fd00::/64",
        ] {
            let error = text.parse::<Prefix4>().unwrap_err();
            assert_eq!(error, PrefixError::Form(text.to_owned()));
        }
        let error = "10.0.0.0/33".parse::<Prefix4>().unwrap_err();
        assert_eq!(
            error,
            PrefixError::Length {
                length: 33,
                bits: 32
            }
        );
        let error = "192.168.100.1/24".parse::<Prefix4>().unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("did you mean 192.168.100.0/24?")
        );
    }

    #[test]
    fn a_prefix_knows_its_addresses() {
        let prefix: Prefix4 = "192.168.100.64/26".parse().unwrap();
        assert_eq!(prefix.mask(), Ipv4Addr::new(255, 255, 255, 192));
        assert_eq!(prefix.last(), Ipv4Addr::new(192, 168, 100, 127));
        for (last, contained, host) in [
            (63, false, false),
            (64, true, false),
            (65, true, true),
            (126, true, true),
            (127, true, false),
            (128, false, false),
        ] {
            let address = Ipv4Addr::new(192, 168, 100, last);
            assert_eq!(prefix.contains(address), contained, "{address}");
            assert_eq!(prefix.is_host(address), host, "{address}");
        }
        let everything: Prefix6 = "::/0".parse().unwrap();
        assert_eq!(everything.last(), Ipv6Addr::from(u128::MAX));
        assert!(everything.contains(Ipv6Addr::LOCALHOST));
        let link: Prefix4 = "10.0.0.0/31".parse().unwrap();
        assert!(link.is_host(link.first()) && link.is_host(link.last()));
    }
}
