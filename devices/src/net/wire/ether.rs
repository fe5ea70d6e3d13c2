//! Ethernet headers (IEEE 802.3, 802.1Q).

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{WireError, put, read};
use crate::net::mac::Mac;

/// The header's length without a VLAN tag.
pub const LEN: usize = 14;

/// The length of a VLAN tag, which stands before the EtherType.
pub const TAG_LEN: usize = 4;

/// EtherTypes (IANA, IEEE 802 Numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// The address resolution protocol.
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86DD;
}

const NAME: &str = "Ethernet";

/// The VLAN identifier within a tag; the rest is priority.
const VLAN_ID: u16 = 0x0FFF;

/// A frame's header, with at most one VLAN tag: what follows a second tag is
/// nothing that the engine takes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EtherHeader {
    /// The station or group that is meant.
    pub destination: Mac,
    /// The station that sends.
    pub source: Mac,
    /// What the frame carries, behind the tag if it has one.
    pub ethertype: u16,
    /// The VLAN, if the frame is tagged; 0 tags priority only.
    pub vlan: Option<u16>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: U16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Tag {
    control: U16,
    ethertype: U16,
}

impl EtherHeader {
    /// The header of a frame, and its length.
    pub fn parse(frame: &[u8]) -> Result<(Self, usize), WireError> {
        let raw: Raw = read(frame, NAME)?;
        let mut header = Self {
            destination: Mac(raw.destination),
            source: Mac(raw.source),
            ethertype: raw.ethertype.get(),
            vlan: None,
        };
        if header.ethertype != ethertype::VLAN {
            return Ok((header, LEN));
        }
        let tag: Tag = read(&frame[LEN..], NAME)?;
        header.ethertype = tag.ethertype.get();
        header.vlan = Some(tag.control.get() & VLAN_ID);
        Ok((header, LEN + TAG_LEN))
    }

    /// Writes the header and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let raw = Raw {
            destination: self.destination.0,
            source: self.source.0,
            ethertype: match self.vlan {
                Some(_) => ethertype::VLAN.into(),
                None => self.ethertype.into(),
            },
        };
        let length = put(&raw, out, NAME)?;
        let Some(vlan) = self.vlan else {
            return Ok(length);
        };
        let tag = Tag {
            control: (vlan & VLAN_ID).into(),
            ethertype: self.ethertype.into(),
        };
        Ok(length + put(&tag, &mut out[length..], NAME)?)
    }

    /// The header of an answer: from `source`, to where this frame came from,
    /// in the same VLAN.
    #[must_use]
    pub fn reply(&self, source: Mac) -> Self {
        Self {
            destination: self.source,
            source,
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAGGED: [u8; 18] = [
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0x60, 0x05, 0x08, 0x06,
    ];

    #[test]
    fn known_headers() {
        let header = EtherHeader {
            destination: Mac::BROADCAST,
            source: Mac([2, 0, 0, 0, 0, 1]),
            ethertype: ethertype::ARP,
            vlan: Some(5),
        };
        assert_eq!(EtherHeader::parse(&TAGGED), Ok((header, 18)));
        let mut plain = TAGGED[..12].to_vec();
        plain.extend([0x86, 0xDD]);
        let header = EtherHeader {
            ethertype: ethertype::IPV6,
            vlan: None,
            ..header
        };
        assert_eq!(EtherHeader::parse(&plain), Ok((header, LEN)));
        let us = Mac([2, 0, 0, 0, 0, 9]);
        let reply = header.reply(us);
        assert_eq!((reply.source, reply.destination), (us, header.source));
    }

    #[test]
    fn short_headers_are_refused() {
        for length in (0..14).chain(14..18) {
            let error = EtherHeader::parse(&TAGGED[..length]);
            assert_eq!(error, Err(WireError::Truncated(NAME)), "{length}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            destination: [u8; 6],
            source: [u8; 6],
            ethertype: u16,
            vlan in prop::option::of(0u16..0x1000),
            room in 0usize..20,
        ) {
            prop_assume!(vlan.is_some() || ethertype != ethertype::VLAN);
            let header = EtherHeader {
                destination: Mac(destination),
                source: Mac(source),
                ethertype,
                vlan,
            };
            let mut out = [0; 20];
            let length = header.write(&mut out).unwrap();
            prop_assert_eq!(EtherHeader::parse(&out), Ok((header, length)));
            prop_assert_eq!(header.write(&mut out[..room]).is_ok(), room >= length);
        }
    }
}
