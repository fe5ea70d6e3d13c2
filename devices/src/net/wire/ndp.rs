//! Options of neighbour discovery (RFC 4861, 4.6; RFC 8106; RFC 4191).

use std::net::Ipv6Addr;

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{WireError, put, read};
use crate::net::mac::Mac;

const NAME: &str = "NDP option";

/// Option types (IANA, IPv6 Neighbor Discovery Option Formats).
mod kind {
    pub(super) const SOURCE_LINK_LAYER: u8 = 1;
    pub(super) const TARGET_LINK_LAYER: u8 = 2;
    pub(super) const PREFIX: u8 = 3;
    pub(super) const MTU: u8 = 5;
    pub(super) const NONCE: u8 = 14;
    pub(super) const ROUTE: u8 = 24;
    pub(super) const RDNSS: u8 = 25;
    pub(super) const DNSSL: u8 = 31;
}

/// Options are counted in units of so many bytes.
const UNIT: usize = 8;

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpOption<'a> {
    /// The sender's link-layer address.
    SourceLinkLayer(Mac),
    /// The target's link-layer address.
    TargetLinkLayer(Mac),
    /// A prefix of the link.
    Prefix(Prefix),
    /// The link's MTU.
    Mtu(u32),
    /// A route through the sender (RFC 4191, 2.3).
    Route {
        /// Where the route leads.
        prefix: Ipv6Addr,
        /// The bits of `prefix` that count, at most 128.
        length: u8,
        /// Seconds for which it holds.
        lifetime: u32,
    },
    /// Recursive DNS servers (RFC 8106, 5.1).
    Rdnss {
        /// Seconds for which they may be used.
        lifetime: u32,
        /// Their addresses.
        servers: &'a [[u8; 16]],
    },
    /// Domains to search (RFC 8106, 5.2).
    Dnssl {
        /// Seconds for which they may be used.
        lifetime: u32,
        /// Names in DNS form, one after another.
        names: &'a [u8],
    },
    /// What ties an advertisement to its solicitation (RFC 3971, 5.3.2), and
    /// tells one's own probes (RFC 7527).
    Nonce(&'a [u8]),
    /// Any other option.
    Other {
        /// Its type.
        kind: u8,
        /// What follows its length.
        body: &'a [u8],
    },
}

/// What a router says about a prefix (RFC 4861, 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix.
    pub prefix: Ipv6Addr,
    /// The bits of it that count, at most 128.
    pub length: u8,
    /// Its addresses are on the link.
    pub on_link: bool,
    /// Hosts may make addresses of it (RFC 4862).
    pub autonomous: bool,
    /// Seconds for which addresses of it are valid.
    pub valid: u32,
    /// Seconds for which they are preferred.
    pub preferred: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPrefix {
    length: u8,
    flags: u8,
    valid: U32,
    preferred: U32,
    reserved: [u8; 4],
    prefix: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRoute {
    length: u8,
    preference: u8,
    lifetime: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawLifetime {
    reserved: U16,
    lifetime: U32,
}

const ON_LINK: u8 = 1 << 7;
const AUTONOMOUS: u8 = 1 << 6;

impl NdpOption<'_> {
    /// Writes the option, padded with zeroes, and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let (kind, length) = match self {
            Self::SourceLinkLayer(_) => (kind::SOURCE_LINK_LAYER, 8),
            Self::TargetLinkLayer(_) => (kind::TARGET_LINK_LAYER, 8),
            Self::Prefix(_) => (kind::PREFIX, 32),
            Self::Mtu(_) => (kind::MTU, 8),
            Self::Route { length, .. } => (kind::ROUTE, 8 + route_bytes(*length)),
            Self::Rdnss { servers, .. } => (kind::RDNSS, 8 + servers.len() * 16),
            Self::Dnssl { names, .. } => (kind::DNSSL, 8 + names.len()),
            Self::Nonce(nonce) => (kind::NONCE, 2 + nonce.len()),
            Self::Other { kind, body } => (*kind, 2 + body.len()),
        };
        let units = length.div_ceil(UNIT);
        let encoded = u8::try_from(units).map_err(|_| WireError::TooLong(length))?;
        let out = out.get_mut(..units * UNIT).ok_or(WireError::NoRoom(NAME))?;
        out.fill(0);
        out[0] = kind;
        out[1] = encoded;
        self.write_body(&mut out[2..])?;
        Ok(units * UNIT)
    }

    fn write_body(&self, out: &mut [u8]) -> Result<(), WireError> {
        match *self {
            Self::SourceLinkLayer(mac) | Self::TargetLinkLayer(mac) => put(&mac.0, out, NAME)?,
            Self::Prefix(prefix) => put(&RawPrefix::from(prefix), out, NAME)?,
            Self::Mtu(mtu) => put(&mtu.to_be_bytes(), &mut out[2..], NAME)?,
            Self::Route {
                prefix,
                length,
                lifetime,
            } => {
                let raw = RawRoute {
                    length,
                    preference: 0,
                    lifetime: lifetime.into(),
                };
                let at = put(&raw, out, NAME)?;
                out[at..].copy_from_slice(&prefix.octets()[..route_bytes(length)]);
                at
            }
            Self::Rdnss { lifetime, servers } => {
                let at = put_lifetime(lifetime, out)?;
                put(servers, &mut out[at..], NAME)?
            }
            Self::Dnssl { lifetime, names } => {
                let at = put_lifetime(lifetime, out)?;
                put(names, &mut out[at..], NAME)?
            }
            Self::Nonce(body) | Self::Other { body, .. } => put(body, out, NAME)?,
        };
        Ok(())
    }
}

/// The options of one message, all of which lead somewhere.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// The options that fill `bytes`. One without a length makes the whole
    /// message invalid (RFC 4861, 4.6).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, rest) = split(rest)?;
        }
        Ok(Self(bytes))
    }

    /// The first source link-layer address.
    pub fn source_link_layer(self) -> Option<Mac> {
        self.into_iter().find_map(|option| match option {
            NdpOption::SourceLinkLayer(mac) => Some(mac),
            _ => None,
        })
    }

    /// The first target link-layer address.
    pub fn target_link_layer(self) -> Option<Mac> {
        self.into_iter().find_map(|option| match option {
            NdpOption::TargetLinkLayer(mac) => Some(mac),
            _ => None,
        })
    }

    /// The first nonce.
    pub fn nonce(self) -> Option<&'a [u8]> {
        self.into_iter().find_map(|option| match option {
            NdpOption::Nonce(nonce) => Some(nonce),
            _ => None,
        })
    }
}

impl<'a> IntoIterator for Options<'a> {
    type Item = NdpOption<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        Iter(self.0)
    }
}

/// Goes through the options of a message.
#[derive(Clone, Debug)]
pub struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = NdpOption<'a>;

    fn next(&mut self) -> Option<NdpOption<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let (option, rest) = split(self.0).ok()?;
        self.0 = rest;
        let (kind, body) = (option[0], &option[2..]);
        // Where an option is too short for its kind, it is of no known kind.
        Some(decode(kind, body).unwrap_or(NdpOption::Other { kind, body }))
    }
}

/// The first option, with its type and length, and what follows it.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    match bytes {
        [_, 0, ..] => Err(WireError::Invalid {
            header: NAME,
            field: "length",
            value: 0,
        }),
        [_, units, ..] => bytes
            .split_at_checked(usize::from(*units) * UNIT)
            .ok_or(WireError::Truncated(NAME)),
        _ => Err(WireError::Truncated(NAME)),
    }
}

fn decode(kind: u8, body: &[u8]) -> Option<NdpOption<'_>> {
    Some(match kind {
        kind::SOURCE_LINK_LAYER => NdpOption::SourceLinkLayer(Mac(*body.first_chunk()?)),
        kind::TARGET_LINK_LAYER => NdpOption::TargetLinkLayer(Mac(*body.first_chunk()?)),
        kind::PREFIX => NdpOption::Prefix(read::<RawPrefix>(body, NAME).ok()?.try_into().ok()?),
        kind::MTU => NdpOption::Mtu(u32::from_be_bytes(*body.get(2..)?.first_chunk()?)),
        kind::ROUTE => {
            let raw: RawRoute = read(body, NAME).ok()?;
            // What stands behind the bits that count is to be ignored.
            let bytes = body.get(size_of::<RawRoute>()..)?;
            let bytes = bytes.get(..route_bytes(raw.length))?;
            let mut prefix = [0; 16];
            if raw.length > 128 {
                return None;
            }
            prefix[..bytes.len()].copy_from_slice(bytes);
            NdpOption::Route {
                prefix: prefix.into(),
                length: raw.length,
                lifetime: raw.lifetime.get(),
            }
        }
        kind::RDNSS => {
            let (lifetime, rest) = lifetime(body)?;
            let (servers, rest) = rest.as_chunks();
            if servers.is_empty() || !rest.is_empty() {
                return None;
            }
            NdpOption::Rdnss { lifetime, servers }
        }
        kind::DNSSL => {
            let (lifetime, names) = lifetime(body)?;
            NdpOption::Dnssl { lifetime, names }
        }
        kind::NONCE => NdpOption::Nonce(body),
        _ => return None,
    })
}

impl From<Prefix> for RawPrefix {
    fn from(prefix: Prefix) -> Self {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        Self {
            length: prefix.length,
            flags: flag(prefix.on_link, ON_LINK) | flag(prefix.autonomous, AUTONOMOUS),
            valid: prefix.valid.into(),
            preferred: prefix.preferred.into(),
            reserved: [0; 4],
            prefix: prefix.prefix.octets(),
        }
    }
}

impl TryFrom<RawPrefix> for Prefix {
    type Error = WireError;

    fn try_from(raw: RawPrefix) -> Result<Self, WireError> {
        if raw.length > 128 {
            return Err(WireError::Invalid {
                header: NAME,
                field: "prefix length",
                value: raw.length.into(),
            });
        }
        Ok(Self {
            prefix: raw.prefix.into(),
            length: raw.length,
            on_link: raw.flags & ON_LINK != 0,
            autonomous: raw.flags & AUTONOMOUS != 0,
            valid: raw.valid.get(),
            preferred: raw.preferred.get(),
        })
    }
}

/// The bytes of a route's prefix that its option holds.
const fn route_bytes(length: u8) -> usize {
    match length {
        0 => 0,
        1..=64 => 8,
        _ => 16,
    }
}

fn put_lifetime(lifetime: u32, out: &mut [u8]) -> Result<usize, WireError> {
    let raw = RawLifetime {
        reserved: 0.into(),
        lifetime: lifetime.into(),
    };
    put(&raw, out, NAME)
}

/// The lifetime before a list, and the list.
fn lifetime(body: &[u8]) -> Option<(u32, &[u8])> {
    let (raw, rest) = RawLifetime::read_from_prefix(body).ok()?;
    Some((raw.lifetime.get(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(option: NdpOption) -> Vec<u8> {
        let mut out = vec![0xAA; 300];
        let length = option.write(&mut out).unwrap();
        assert!(option.write(&mut out[..length - 1]).is_err());
        assert!(out[length..].iter().all(|byte| *byte == 0xAA));
        out.truncate(length);
        out
    }

    fn all(bytes: &[u8]) -> Vec<NdpOption<'_>> {
        Options::parse(bytes).unwrap().into_iter().collect()
    }

    #[test]
    fn options_round_trip() {
        let servers = [[0xFD; 16], [0x20; 16]];
        let prefix = Prefix {
            prefix: "fd00:1::".parse().unwrap(),
            length: 64,
            on_link: true,
            autonomous: true,
            valid: 7200,
            preferred: 3600,
        };
        let route = |prefix: &str, length| NdpOption::Route {
            prefix: prefix.parse().unwrap(),
            length,
            lifetime: 1800,
        };
        for (option, length) in [
            (NdpOption::SourceLinkLayer(Mac([2, 0, 0, 0, 0, 1])), 8),
            (NdpOption::TargetLinkLayer(Mac([2, 0, 0, 0, 0, 2])), 8),
            (NdpOption::Prefix(prefix), 32),
            (NdpOption::Mtu(65520), 8),
            (route("::", 0), 8),
            (route("2001:db8::", 48), 16),
            (route("2001:db8::1", 128), 24),
            (
                NdpOption::Rdnss {
                    lifetime: 1200,
                    servers: &servers,
                },
                40,
            ),
            (
                NdpOption::Dnssl {
                    lifetime: 1200,
                    names: b"\x04test\x00\x00\x00",
                },
                16,
            ),
            (NdpOption::Nonce(&[1, 2, 3, 4, 5, 6]), 8),
            (
                NdpOption::Other {
                    kind: 200,
                    body: &[7; 14],
                },
                16,
            ),
        ] {
            let bytes = written(option);
            assert_eq!(bytes.len(), length, "{option:?}");
            assert_eq!(all(&bytes), [option]);
        }
    }

    #[test]
    fn known_option() {
        let bytes = written(NdpOption::Mtu(1500));
        assert_eq!(bytes, [5, 1, 0, 0, 0, 0, 0x05, 0xDC]);
        let bytes = written(NdpOption::Other {
            kind: 9,
            body: &[1],
        });
        assert_eq!(bytes, [9, 1, 1, 0, 0, 0, 0, 0]);
        let long = NdpOption::Nonce(&[0; 255 * 8]);
        assert_eq!(long.write(&mut [0; 4096]), Err(WireError::TooLong(2042)));
    }

    #[test]
    fn what_a_message_holds_is_found() {
        let (source, target) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let bytes = [
            written(NdpOption::Nonce(&[6; 6])),
            written(NdpOption::TargetLinkLayer(target)),
            written(NdpOption::SourceLinkLayer(source)),
            written(NdpOption::SourceLinkLayer(target)),
        ]
        .concat();
        let options = Options::parse(&bytes).unwrap();
        assert_eq!(options.source_link_layer(), Some(source));
        assert_eq!(options.target_link_layer(), Some(target));
        assert_eq!(options.nonce(), Some(&[6; 6][..]));
        let none = Options::parse(&[]).unwrap();
        assert_eq!(none.source_link_layer(), None);
        assert_eq!(none.target_link_layer(), None);
        assert_eq!(none.nonce(), None);
    }

    #[test]
    fn lengths_are_checked() {
        for bad in [
            &[1][..],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 2, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0, 0, 0, 0, 0, 1],
        ] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
        // Whole, but too short for their kinds, or with a prefix too long.
        let mut prefix = [0; 32];
        prefix[..3].copy_from_slice(&[3, 4, 129]);
        for odd in [
            &[3, 1, 0, 0, 0, 0, 0, 0][..],
            &[25, 1, 0, 0, 0, 0, 0, 0],
            &[24, 1, 64, 0, 0, 0, 0, 0],
            &prefix,
        ] {
            assert!(matches!(all(odd)[..], [NdpOption::Other { .. }]), "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn any_options_are_survived(
            pieces in prop::collection::vec((0u8..40, 0u8..6, any::<[u8; 46]>()), 0..8),
            cut in 0usize..400,
        ) {
            let mut bytes = Vec::new();
            for (kind, units, body) in pieces {
                let length = usize::from(units) * 8;
                bytes.extend([kind, units]);
                bytes.extend(&body[..length.saturating_sub(2)]);
            }
            bytes.truncate(cut);
            let Ok(options) = Options::parse(&bytes) else {
                return Ok(());
            };
            let mut again = [0; 400];
            let mut length = 0;
            for option in options {
                length += option.write(&mut again[length..]).unwrap();
            }
            let expected: Vec<_> = options.into_iter().collect();
            let reread: Vec<_> = Options::parse(&again[..length]).unwrap().into_iter().collect();
            prop_assert_eq!(reread, expected);
        }
    }
}
