//! IPv4 headers (RFC 791, 3.1).

use std::net::Ipv4Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checksum::checksum;
use super::ip::{DEFAULT_TTL, Fragment, Protocol};
use super::{WireError, put, read};

/// The length of a header without options.
pub const LEN: usize = 20;

/// Where in the header the checksum stands.
pub(super) const CHECKSUM_OFFSET: usize = 10;

const NAME: &str = "IPv4";
const DONT_FRAGMENT: u16 = 1 << 14;
const MORE_FRAGMENTS: u16 = 1 << 13;
const FRAGMENT_OFFSET: u16 = MORE_FRAGMENTS - 1;

/// Option types (IANA, IP Option Numbers).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// A packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip4Header {
    /// The sender.
    pub source: Ipv4Addr,
    /// The receiver, or the next router of a source route.
    pub destination: Ipv4Addr,
    /// The protocol of the payload.
    pub protocol: Protocol,
    /// The hops that the packet may still take.
    pub ttl: u8,
    /// The service that is asked for (RFC 2474): six bits.
    pub dscp: u8,
    /// The congestion notification (RFC 3168): two bits.
    pub ecn: u8,
    /// What fragments of one packet have in common.
    pub identification: u16,
    /// No router may fragment the packet.
    pub dont_fragment: bool,
    /// Fragments follow that lie behind this one.
    pub more_fragments: bool,
    /// Where the payload lies in the whole packet's, in bytes; a multiple of 8.
    pub fragment_offset: u16,
    /// Bytes behind the header.
    pub payload_len: u16,
    /// An option asks for a route of the sender's choice. Never written.
    pub source_route: bool,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    version_and_words: u8,
    service: u8,
    total_length: U16,
    identification: U16,
    flags_and_offset: U16,
    ttl: u8,
    protocol: u8,
    checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
}

impl Ip4Header {
    /// The header of a packet that starts here and isn't to be fragmented;
    /// its identification may be any then (RFC 6864, 4.1).
    pub const fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: DEFAULT_TTL,
            dscp: 0,
            ecn: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: 0,
            source_route: false,
        }
    }

    /// The header at the front of `bytes`, and its length with options. The
    /// payload need not be there.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), WireError> {
        let (header, length) = Self::parse_quoted(bytes)?;
        if checksum(&bytes[..length]) != 0 {
            return Err(WireError::Checksum(NAME));
        }
        Ok((header, length))
    }

    /// As [`Self::parse`], but with any checksum: routers have been known to
    /// quote packets with theirs updated late (RFC 5508, 4.1).
    pub fn parse_quoted(bytes: &[u8]) -> Result<(Self, usize), WireError> {
        let raw: Raw = read(bytes, NAME)?;
        let invalid = |field, value| WireError::Invalid {
            header: NAME,
            field,
            value,
        };
        if raw.version_and_words >> 4 != 4 {
            return Err(invalid("version", u32::from(raw.version_and_words >> 4)));
        }
        let words = raw.version_and_words & 0xF;
        let length = u16::from(words) * 4;
        let options = bytes.get(LEN..usize::from(length));
        if usize::from(length) < LEN {
            return Err(invalid("IHL", words.into()));
        }
        let total = raw.total_length.get();
        let payload_len = total.checked_sub(length);
        let flags_and_offset = raw.flags_and_offset.get();
        let header = Self {
            source: raw.source.into(),
            destination: raw.destination.into(),
            protocol: Protocol(raw.protocol),
            ttl: raw.ttl,
            dscp: raw.service >> 2,
            ecn: raw.service & 3,
            identification: raw.identification.get(),
            dont_fragment: flags_and_offset & DONT_FRAGMENT != 0,
            more_fragments: flags_and_offset & MORE_FRAGMENTS != 0,
            fragment_offset: (flags_and_offset & FRAGMENT_OFFSET) * 8,
            payload_len: payload_len.ok_or(invalid("total length", total.into()))?,
            source_route: has_source_route(options.ok_or(WireError::Truncated(NAME))?)?,
        };
        Ok((header, length.into()))
    }

    /// Where the packet belongs, if it is a fragment of another.
    pub const fn fragment(&self) -> Option<Fragment> {
        if !self.more_fragments && self.fragment_offset == 0 {
            return None;
        }
        Some(Fragment {
            identification: self.identification as u32,
            offset: self.fragment_offset,
            more: self.more_fragments,
        })
    }

    /// Writes the header without options, with its checksum, and returns its
    /// length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let total = self.payload_len.checked_add(20);
        let mut flags_and_offset = self.fragment_offset / 8;
        if self.dont_fragment {
            flags_and_offset |= DONT_FRAGMENT;
        }
        if self.more_fragments {
            flags_and_offset |= MORE_FRAGMENTS;
        }
        let raw = Raw {
            version_and_words: 0x45,
            service: self.dscp << 2 | self.ecn & 3,
            total_length: total
                .ok_or(WireError::TooLong(self.payload_len.into()))?
                .into(),
            identification: self.identification.into(),
            flags_and_offset: flags_and_offset.into(),
            ttl: self.ttl,
            protocol: self.protocol.0,
            checksum: 0.into(),
            source: self.source.octets(),
            destination: self.destination.octets(),
        };
        put(&raw, out, NAME)?;
        let sum = checksum(&out[..LEN]);
        out[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&sum.to_be_bytes());
        Ok(LEN)
    }
}

/// Whether the options hold a source route; an error if one's length leads
/// nowhere.
fn has_source_route(mut options: &[u8]) -> Result<bool, WireError> {
    let mut found = false;
    loop {
        let (kind, rest) = match options {
            [] | [option::END, ..] => return Ok(found),
            [option::NO_OPERATION, rest @ ..] => {
                options = rest;
                continue;
            }
            [kind, rest @ ..] => (*kind, rest),
        };
        let length = rest.first().copied().unwrap_or(0);
        options = usize::from(length)
            .checked_sub(2)
            .and_then(|body| rest.get(1 + body..))
            .ok_or(WireError::Invalid {
                header: NAME,
                field: "option length",
                value: length.into(),
            })?;
        found |= matches!(
            kind,
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [u8; LEN] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xB8, 0x61, 0xC0, 0xA8, 0x00,
        0x01, 0xC0, 0xA8, 0x00, 0xC7,
    ];

    /// A header with `options`, which are padded, and its checksum.
    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut bytes = KNOWN.to_vec();
        bytes.extend(options);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[0] = 0x40 | u8::try_from(bytes.len() / 4).unwrap();
        bytes[10..12].fill(0);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn known_header() {
        let source = Ipv4Addr::new(192, 168, 0, 1);
        let destination = Ipv4Addr::new(192, 168, 0, 199);
        let header = Ip4Header {
            payload_len: 0x73 - 20,
            ..Ip4Header::new(source, destination, Protocol::UDP)
        };
        assert_eq!(Ip4Header::parse(&KNOWN), Ok((header, LEN)));
        let mut out = [0; LEN];
        assert_eq!(header.write(&mut out), Ok(LEN));
        assert_eq!(out, KNOWN);
    }

    #[test]
    fn lies_are_refused() {
        for (at, value, field) in [
            (0, 0x65, "version"),
            (0, 0x44, "IHL"),
            (0, 0x40, "IHL"),
            (3, 19, "total length"),
        ] {
            let mut bytes = KNOWN;
            bytes[at] = value;
            let error = Ip4Header::parse(&bytes).unwrap_err();
            let is = |is: &str| matches!(error, WireError::Invalid { field, .. } if field == is);
            assert!(is(field), "{field}: {error}");
        }
        let mut bytes = KNOWN;
        bytes[8] -= 1;
        let error = Ip4Header::parse(&bytes);
        assert_eq!(error, Err(WireError::Checksum(NAME)));
        assert!(Ip4Header::parse_quoted(&bytes).is_ok());
        let bytes = with_options(&[1; 12]);
        for length in 0..32 {
            let error = Ip4Header::parse(&bytes[..length]);
            assert_eq!(error, Err(WireError::Truncated(NAME)), "{length}");
        }
        let header = Ip4Header {
            payload_len: 65516,
            ..Ip4Header::parse(&KNOWN).unwrap().0
        };
        assert_eq!(header.write(&mut [0; LEN]), Err(WireError::TooLong(65516)));
    }

    #[test]
    fn options_are_walked() {
        for (options, source_route) in [
            (&[1, 1, 1, 1][..], false),
            (&[148, 4, 0, 0], false),
            (&[7, 7, 4, 0, 0, 0, 0], false),
            (&[131, 7, 4, 10, 0, 0, 1], true),
            (&[1, 137, 3, 4], true),
            (&[148, 4, 0, 0, 131, 3, 4], true),
            // Behind the end anything may stand.
            (&[0, 131, 3, 4], false),
        ] {
            let bytes = with_options(options);
            let (header, length) = Ip4Header::parse(&bytes).unwrap();
            assert_eq!(length, bytes.len());
            assert_eq!(header.source_route, source_route, "{options:?}");
        }
        for options in [[148, 0, 0, 0], [148, 1, 0, 0], [148, 5, 0, 0], [1, 1, 1, 7]] {
            let error = Ip4Header::parse(&with_options(&options));
            let expected = matches!(
                error,
                Err(WireError::Invalid {
                    field: "option length",
                    ..
                })
            );
            assert!(expected, "{options:?}");
        }
    }

    #[test]
    fn fragments_are_told() {
        let whole = Ip4Header::parse(&KNOWN).unwrap().0;
        assert_eq!(whole.fragment(), None);
        let fragment = Ip4Header {
            identification: 7,
            dont_fragment: false,
            more_fragments: true,
            fragment_offset: 0xFFF8,
            ..whole
        };
        let mut out = [0; LEN];
        fragment.write(&mut out).unwrap();
        assert_eq!(out[6..8], [0x3F, 0xFF]);
        let (header, _) = Ip4Header::parse(&out).unwrap();
        let expected = Fragment {
            identification: 7,
            offset: 0xFFF8,
            more: true,
        };
        assert_eq!(header.fragment(), Some(expected));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written(mut bytes: [u8; 60], words in 4u8..16) {
            bytes[0] = 0x40 | words;
            // The reserved bit is the one that isn't kept.
            bytes[6] &= 0x7F;
            let Ok((header, length)) = Ip4Header::parse_quoted(&bytes) else {
                return Ok(());
            };
            prop_assert_eq!(length, usize::from(words) * 4);
            let mut out = [0; LEN];
            prop_assert_eq!(header.write(&mut out), Ok(LEN));
            let again = Ip4Header { source_route: false, ..header };
            prop_assert_eq!(Ip4Header::parse(&out), Ok((again, LEN)));
            // All but the version, the length and the checksum.
            prop_assert_eq!(&out[4..10], &bytes[4..10]);
            prop_assert_eq!(&out[12..], &bytes[12..LEN]);
        }
    }
}
