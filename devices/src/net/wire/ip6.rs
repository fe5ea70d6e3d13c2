//! IPv6 headers and extension headers (RFC 8200, 3 and 4).

use std::net::Ipv6Addr;

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ip::{DEFAULT_TTL, Fragment, Protocol};
use super::{WireError, put, read};

/// The length of a header without extension headers.
pub const LEN: usize = 40;

/// The length of a fragment header.
pub const FRAGMENT_LEN: usize = 8;

/// Extension headers that are walked before a packet is refused: RFC 8200,
/// 4.1, has each occur once, destination options twice.
const MAX_EXTENSIONS: usize = 5;

const NAME: &str = "IPv6";
const FRAGMENT_NAME: &str = "IPv6 fragment";

/// Extension headers (IANA, IPv6 Extension Header Types) that can be walked
/// over. Behind any other protocol number stands a payload.
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const DESTINATION: u8 = 60;
}

/// A packet's header, with what its extension headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip6Header {
    /// The sender.
    pub source: Ipv6Addr,
    /// The receiver.
    pub destination: Ipv6Addr,
    /// The protocol behind the extension headers. In a fragment: what its
    /// fragment header names, which may be another extension header.
    pub protocol: Protocol,
    /// The hops that the packet may still take.
    pub hop_limit: u8,
    /// The service that is asked for (RFC 2474): six bits.
    pub dscp: u8,
    /// The congestion notification (RFC 3168): two bits.
    pub ecn: u8,
    /// The flow's label: 20 bits.
    pub flow_label: u32,
    /// Bytes behind the extension headers.
    pub payload_len: u16,
    /// Where the packet belongs, if it is a fragment. One that is the whole
    /// packet is none (RFC 6946).
    pub fragment: Option<Fragment>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    version_class_label: U32,
    payload_length: U16,
    next: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFragment {
    next: u8,
    reserved: u8,
    offset_and_more: U16,
    identification: U32,
}

/// What a walk over extension headers found.
struct Walk {
    protocol: Protocol,
    length: usize,
    fragment: Option<Fragment>,
}

impl Ip6Header {
    /// The header of a packet that starts here.
    pub const fn new(source: Ipv6Addr, destination: Ipv6Addr, protocol: Protocol) -> Self {
        Self {
            source,
            destination,
            protocol,
            hop_limit: DEFAULT_TTL,
            dscp: 0,
            ecn: 0,
            flow_label: 0,
            payload_len: 0,
            fragment: None,
        }
    }

    /// The header at the front of `bytes`, and its length with extension
    /// headers. The payload need not be there.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), WireError> {
        let raw: Raw = read(bytes, NAME)?;
        let first = raw.version_class_label.get();
        if first >> 28 != 6 {
            return Err(invalid("version", first >> 28));
        }
        let walk = walk(raw.next, &bytes[LEN..], true)?;
        let [class, ..] = (first << 4).to_be_bytes();
        let total = raw.payload_length.get();
        let payload_len = usize::from(total)
            .checked_sub(walk.length)
            .and_then(|length| u16::try_from(length).ok())
            .ok_or(invalid("payload length", total.into()))?;
        let header = Self {
            source: raw.source.into(),
            destination: raw.destination.into(),
            protocol: walk.protocol,
            hop_limit: raw.hop_limit,
            dscp: class >> 2,
            ecn: class & 3,
            flow_label: first & 0xF_FFFF,
            payload_len,
            fragment: walk.fragment,
        };
        Ok((header, LEN + walk.length))
    }

    /// The bytes that [`Self::write`] writes.
    pub const fn header_len(&self) -> usize {
        match self.fragment {
            Some(_) => LEN + FRAGMENT_LEN,
            None => LEN,
        }
    }

    /// Writes the header, with a fragment header if the packet is a fragment
    /// and no other extension headers, and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let extension = self.header_len() - LEN;
        let total = usize::from(self.payload_len) + extension;
        let class = u32::from(self.dscp << 2 | self.ecn & 3);
        let raw = Raw {
            version_class_label: (6 << 28 | class << 20 | self.flow_label & 0xF_FFFF).into(),
            payload_length: u16::try_from(total)
                .map_err(|_| WireError::TooLong(total))?
                .into(),
            next: match self.fragment {
                Some(_) => extension::FRAGMENT,
                None => self.protocol.0,
            },
            hop_limit: self.hop_limit,
            source: self.source.octets(),
            destination: self.destination.octets(),
        };
        let length = put(&raw, out, NAME)?;
        let Some(fragment) = self.fragment else {
            return Ok(length);
        };
        let raw = RawFragment {
            next: self.protocol.0,
            reserved: 0,
            offset_and_more: (fragment.offset & !7 | u16::from(fragment.more)).into(),
            identification: fragment.identification.into(),
        };
        Ok(length + put(&raw, &mut out[length..], FRAGMENT_NAME)?)
    }
}

/// Walks the extension headers of a packet that was put together again: `next`
/// is what its fragment headers named, `payload` what they carried. Returns
/// the protocol behind them and their length.
pub(super) fn walk_reassembled(
    next: Protocol,
    payload: &[u8],
) -> Result<(Protocol, usize), WireError> {
    let walk = walk(next.0, payload, false)?;
    match walk.fragment {
        // A fragment of a fragment is nothing that a sender makes.
        Some(_) => Err(invalid("next header", extension::FRAGMENT.into())),
        None => Ok((walk.protocol, walk.length)),
    }
}

/// Hop-by-hop options may only come `first` (RFC 8200, 4.1).
fn walk(mut next: u8, bytes: &[u8], first: bool) -> Result<Walk, WireError> {
    let mut length = 0;
    for index in 0..=MAX_EXTENSIONS {
        let rest = bytes.get(length..).unwrap_or_default();
        match next {
            extension::HOP_BY_HOP if !first || index > 0 => break,
            extension::HOP_BY_HOP | extension::DESTINATION => {
                let (body, after) = body(rest)?;
                check_options(&body[2..])?;
                next = after;
                length += body.len();
            }
            extension::ROUTING => {
                let (body, after) = body(rest)?;
                // Nobody but the router that is named may look further, and
                // the engine is none (RFC 8200, 4.4; RFC 5095).
                if body[3] != 0 {
                    return Err(invalid("segments left", body[3].into()));
                }
                next = after;
                length += body.len();
            }
            extension::FRAGMENT => {
                let raw: RawFragment = read(rest, FRAGMENT_NAME)?;
                next = raw.next;
                length += FRAGMENT_LEN;
                let fragment = Fragment {
                    identification: raw.identification.get(),
                    offset: raw.offset_and_more.get() & !7,
                    more: raw.offset_and_more.get() & 1 != 0,
                };
                if fragment.offset != 0 || fragment.more {
                    return Ok(Walk {
                        protocol: Protocol(next),
                        length,
                        fragment: Some(fragment),
                    });
                }
            }
            _ => {
                return Ok(Walk {
                    protocol: Protocol(next),
                    length,
                    fragment: None,
                });
            }
        }
    }
    Err(invalid("next header", next.into()))
}

/// The extension header at the front of `bytes` and the number of what
/// follows it.
fn body(bytes: &[u8]) -> Result<(&[u8], u8), WireError> {
    let [next, words, ..] = bytes else {
        return Err(WireError::Truncated("IPv6 extension"));
    };
    let length = (usize::from(*words) + 1) * 8;
    let body = bytes.get(..length);
    Ok((body.ok_or(WireError::Truncated("IPv6 extension"))?, *next))
}

/// Options must fill their header, and those that aren't known must allow to
/// be skipped (RFC 8200, 4.2).
fn check_options(mut options: &[u8]) -> Result<(), WireError> {
    const PAD1: u8 = 0;
    while let [kind, rest @ ..] = options {
        if *kind == PAD1 {
            options = rest;
            continue;
        }
        let length = rest.first().copied().unwrap_or(u8::MAX);
        options = rest
            .get(1 + usize::from(length)..)
            .ok_or(invalid("option length", length.into()))?;
        if kind >> 6 != 0 {
            return Err(invalid("option type", (*kind).into()));
        }
    }
    Ok(())
}

fn invalid(field: &'static str, value: u32) -> WireError {
    WireError::Invalid {
        header: NAME,
        field,
        value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Ip6Header {
        Ip6Header {
            dscp: 46,
            ecn: 1,
            flow_label: 0xA_BCDE,
            payload_len: 16,
            ..Ip6Header::new(
                "fd00::10".parse().unwrap(),
                "2001:db8::1".parse().unwrap(),
                Protocol::UDP,
            )
        }
    }

    /// A packet with `next` and these `extensions` before 16 bytes of payload.
    fn packet(next: u8, extensions: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        header().write(&mut bytes).unwrap();
        bytes[6] = next;
        bytes.extend(extensions.concat());
        bytes.extend([0; 16]);
        bytes[5] = u8::try_from(bytes.len() - LEN).unwrap();
        bytes
    }

    const UDP: u8 = 17;
    const PADDED: [u8; 6] = [1, 4, 0, 0, 0, 0];

    fn options(next: u8, options: [u8; 6]) -> Vec<u8> {
        [&[next, 0][..], &options].concat()
    }

    #[test]
    fn known_header() {
        let bytes = packet(UDP, &[]);
        assert_eq!(bytes[..8], [0x6B, 0x9A, 0xBC, 0xDE, 0, 16, 17, 64]);
        assert_eq!(Ip6Header::parse(&bytes), Ok((header(), LEN)));
        for length in 0..LEN {
            let error = Ip6Header::parse(&bytes[..length]);
            assert_eq!(error, Err(WireError::Truncated(NAME)));
        }
        let mut old = bytes;
        old[0] = 0x4B;
        assert_eq!(Ip6Header::parse(&old), Err(invalid("version", 4)));
    }

    #[test]
    fn extensions_are_walked() {
        let destination = options(UDP, PADDED);
        let routing = [UDP, 0, 4, 0, 0, 0, 0, 0];
        let alert = options(extension::DESTINATION, [5, 2, 0, 0, 1, 0]);
        for (next, extensions) in [
            (60, &[&destination[..]][..]),
            (0, &[&destination]),
            (43, &[&routing]),
            (0, &[&alert, &destination]),
            (60, &[&options(43, PADDED), &routing]),
            (60, &[&[UDP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]),
            // A fragment that is all of its packet.
            (44, &[&[UDP, 0, 0, 0, 1, 2, 3, 4]]),
        ] {
            let bytes = packet(next, extensions);
            let length = bytes.len() - 16;
            assert_eq!(
                Ip6Header::parse(&bytes),
                Ok((header(), length)),
                "{extensions:?}"
            );
            let cut = Ip6Header::parse(&bytes[..length - 1]);
            assert!(
                matches!(cut, Err(WireError::Truncated(_))),
                "{extensions:?}"
            );
        }
    }

    #[test]
    fn bad_extensions_are_refused() {
        let destination = options(UDP, PADDED);
        let again = options(extension::DESTINATION, PADDED);
        for (next, extensions, field) in [
            (
                60,
                &[&options(0, PADDED)[..], &destination][..],
                "next header",
            ),
            (0, &[&options(0, PADDED), &destination], "next header"),
            (
                60,
                &[&again, &again, &again, &again, &again, &destination],
                "next header",
            ),
            (43, &[&[UDP, 0, 0, 1, 0, 0, 0, 0]], "segments left"),
            (60, &[&options(UDP, [1, 5, 0, 0, 0, 0])], "option length"),
            (60, &[&options(UDP, [1, 3, 0, 0, 0, 1])], "option length"),
            (60, &[&options(UDP, [0xC2, 4, 0, 0, 0, 0])], "option type"),
            (60, &[&options(UDP, [0x42, 4, 0, 0, 0, 0])], "option type"),
        ] {
            let error = Ip6Header::parse(&packet(next, extensions)).unwrap_err();
            let is = |is: &str| matches!(error, WireError::Invalid { field, .. } if field == is);
            assert!(is(field), "{extensions:?}: {error}");
        }
        let mut bytes = packet(60, &[&destination]);
        bytes[5] = 7;
        assert_eq!(Ip6Header::parse(&bytes), Err(invalid("payload length", 7)));
    }

    #[test]
    fn fragments_are_told() {
        let fragment = Fragment {
            identification: 0x0102_0304,
            offset: 1448,
            more: true,
        };
        let header = Ip6Header {
            fragment: Some(fragment),
            ..header()
        };
        let mut out = [0; 64];
        assert_eq!(header.write(&mut out), Ok(48));
        assert_eq!(out[6], 44);
        assert_eq!(out[40..48], [17, 0, 0x05, 0xA9, 1, 2, 3, 4]);
        assert_eq!(Ip6Header::parse(&out), Ok((header, 48)));
        assert_eq!(
            header.write(&mut out[..47]),
            Err(WireError::NoRoom(FRAGMENT_NAME))
        );
        // What the fragment header names is not walked: it may be elsewhere.
        out[40] = 60;
        let (header, _) = Ip6Header::parse(&out).unwrap();
        assert_eq!(header.protocol, Protocol(60));
    }

    #[test]
    fn reassembled_payloads_are_walked() {
        let payload = [options(UDP, PADDED), vec![9; 8]].concat();
        assert_eq!(
            walk_reassembled(Protocol::UDP, &payload),
            Ok((Protocol::UDP, 0))
        );
        assert_eq!(
            walk_reassembled(Protocol(60), &payload),
            Ok((Protocol::UDP, 8))
        );
        assert!(walk_reassembled(Protocol(0), &payload).is_err());
        assert!(walk_reassembled(Protocol(44), &[17, 0, 0, 1, 0, 0, 0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn any_extensions_are_survived(
            next in prop::sample::select(vec![0u8, 43, 44, 60]),
            mut bytes in prop::collection::vec(0u8..64, 48..200),
            length: u16,
        ) {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
            bytes[6] = next;
            if let Ok((header, walked)) = Ip6Header::parse(&bytes) {
                prop_assert!(walked <= bytes.len());
                prop_assert_eq!(walked - LEN + usize::from(header.payload_len), usize::from(length));
                let mut out = [0; 48];
                let written = header.write(&mut out).unwrap();
                prop_assert_eq!(Ip6Header::parse(&out[..written]), Ok((header, written)));
            }
        }
    }
}
