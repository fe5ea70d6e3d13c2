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
