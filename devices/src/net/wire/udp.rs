//! UDP headers (RFC 768).

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{WireError, put, read};

/// The header's length.
pub const LEN: usize = 8;

/// Where in the header the checksum stands.
pub const CHECKSUM_OFFSET: u16 = 6;

const NAME: &str = "UDP";

/// A datagram's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpHeader {
    /// The sender's port; 0 if it expects no answer.
    pub source: u16,
    /// The receiver's port.
    pub destination: u16,
    /// Bytes of payload.
    pub payload_len: u16,
    /// The checksum; 0 if the sender made none.
    pub checksum: u16,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    source: U16,
    destination: U16,
    length: U16,
    checksum: U16,
}

impl UdpHeader {
    /// The header at the front of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let raw: Raw = read(bytes, NAME)?;
        let payload_len = raw.length.get().checked_sub(8);
        Ok(Self {
            source: raw.source.get(),
            destination: raw.destination.get(),
            // 0 would be a jumbogram's (RFC 2675, 4), which no port carries.
            payload_len: payload_len.ok_or(WireError::Invalid {
                header: NAME,
                field: "length",
                value: raw.length.get().into(),
            })?,
            checksum: raw.checksum.get(),
        })
    }

    /// Writes the header and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let length = self.payload_len.checked_add(8);
        let length = length.ok_or(WireError::TooLong(self.payload_len.into()))?;
        let raw = Raw {
            source: self.source.into(),
            destination: self.destination.into(),
            length: length.into(),
            checksum: self.checksum.into(),
        };
        put(&raw, out, NAME)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_checked() {
        let mut bytes = [0xC0, 0x00, 0x00, 0x35, 0x00, 0x0C, 0xAB, 0xCD];
        let header = UdpHeader {
            source: 0xC000,
            destination: 53,
            payload_len: 4,
            checksum: 0xABCD,
        };
        assert_eq!(UdpHeader::parse(&bytes), Ok(header));
        assert_eq!(
            UdpHeader::parse(&bytes[..7]),
            Err(WireError::Truncated(NAME))
        );
        for length in 0..8 {
            bytes[5] = length;
            assert!(UdpHeader::parse(&bytes).is_err(), "{length}");
        }
        let long = UdpHeader {
            payload_len: u16::MAX - 7,
            ..header
        };
        let error = long.write(&mut bytes);
        assert_eq!(error, Err(WireError::TooLong(65528)));
        assert_eq!(header.write(&mut bytes[1..]), Err(WireError::NoRoom(NAME)));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written(bytes: [u8; LEN]) {
            if let Ok(header) = UdpHeader::parse(&bytes) {
                let mut out = [0; LEN];
                prop_assert_eq!(header.write(&mut out), Ok(LEN));
                prop_assert_eq!(out, bytes);
            }
        }
    }
}
