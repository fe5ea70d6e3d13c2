//! TCP headers (RFC 9293, 3.1).

use bitflags::bitflags;
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{WireError, put, read};

/// The length of a header without options.
pub const MIN_LEN: usize = 20;

/// The length of a header with as many options as fit.
pub const MAX_LEN: usize = 60;

/// Where in the header the checksum stands.
pub const CHECKSUM_OFFSET: u16 = 16;

const NAME: &str = "TCP";

/// Kinds of options (IANA, TCP Option Kind Numbers).
mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const TIMESTAMPS: u8 = 8;
}

bitflags! {
    /// The control bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TcpFlags: u8 {
        /// The sender has no more data.
        const FIN = 1 << 0;
        /// The sequence number is the initial one.
        const SYN = 1 << 1;
        /// The connection is no more.
        const RST = 1 << 2;
        /// The data should reach the application now.
        const PSH = 1 << 3;
        /// The acknowledgement number is valid.
        const ACK = 1 << 4;
        /// The urgent pointer is valid.
        const URG = 1 << 5;
        /// Congestion was experienced (RFC 3168).
        const ECE = 1 << 6;
        /// The congestion window was reduced (RFC 3168).
        const CWR = 1 << 7;
    }
}

/// A segment's header. Its checksum is the frame's concern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpHeader {
    /// The sender's port.
    pub source: u16,
    /// The receiver's port.
    pub destination: u16,
    /// The sequence number of the first byte of data, or of the SYN.
    pub seq: u32,
    /// The next sequence number that the sender expects, if ACK is set.
    pub ack: u32,
    /// The control bits.
    pub flags: TcpFlags,
    /// The receive window as it stands in the header, not scaled.
    pub window: u16,
    /// The urgent pointer, if URG is set.
    pub urgent: u16,
    /// The options.
    pub options: TcpOptions,
}

/// The options that the engine knows; others are passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// The largest segment that the sender takes.
    pub mss: Option<u16>,
    /// The shift of the sender's windows (RFC 7323, 2), at most 14.
    pub window_scale: Option<u8>,
    /// The sender takes selective acknowledgements (RFC 2018, 2).
    pub sack_permitted: bool,
    /// Timestamps (RFC 7323, 3).
    pub timestamps: Option<Timestamps>,
}

/// The timestamps option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub value: u32,
    /// TSecr: the value that is echoed.
    pub echo: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    source: U16,
    destination: U16,
    seq: U32,
    ack: U32,
    data_offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

impl TcpHeader {
    /// The header at the front of `bytes`, and its length with options.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), WireError> {
        let raw: Raw = read(bytes, NAME)?;
        let length = usize::from(raw.data_offset >> 4) * 4;
        if length < MIN_LEN {
            return Err(WireError::Invalid {
                header: NAME,
                field: "data offset",
                value: u32::from(raw.data_offset >> 4),
            });
        }
        let options = bytes
            .get(MIN_LEN..length)
            .ok_or(WireError::Truncated(NAME))?;
        let header = Self {
            source: raw.source.get(),
            destination: raw.destination.get(),
            seq: raw.seq.get(),
            ack: raw.ack.get(),
            flags: TcpFlags::from_bits_retain(raw.flags),
            window: raw.window.get(),
            urgent: raw.urgent.get(),
            options: TcpOptions::parse(options)?,
        };
        Ok((header, length))
    }

    /// The bytes that the header takes with its options.
    pub const fn header_len(&self) -> usize {
        MIN_LEN + self.options.len()
    }

    /// Writes the header with its checksum zero and returns its length.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let length = self.header_len();
        let words = u8::try_from(length / 4).expect("at most 15 words");
        let raw = Raw {
            source: self.source.into(),
            destination: self.destination.into(),
            seq: self.seq.into(),
            ack: self.ack.into(),
            data_offset: words << 4,
            flags: self.flags.bits(),
            window: self.window.into(),
            checksum: 0.into(),
            urgent: self.urgent.into(),
        };
        put(&raw, out, NAME)?;
        let options = out
            .get_mut(MIN_LEN..length)
            .ok_or(WireError::NoRoom(NAME))?;
        self.options.write(options);
        Ok(length)
    }
}

impl TcpOptions {
    /// Options may have any order and repeat; the last one counts. Where a
    /// known kind has a wrong length it is passed over; a length that leads
    /// nowhere makes the header invalid.
    fn parse(mut bytes: &[u8]) -> Result<Self, WireError> {
        let mut options = Self::default();
        loop {
            let (kind, rest) = match bytes {
                [] | [kind::END, ..] => return Ok(options),
                [kind::NO_OPERATION, rest @ ..] => {
                    bytes = rest;
                    continue;
                }
                [kind, rest @ ..] => (*kind, rest),
            };
            let Some((length, body)) = rest.split_first() else {
                return Err(bad_option_length(0));
            };
            let body = usize::from(*length)
                .checked_sub(2)
                .and_then(|length| body.split_at_checked(length));
            let Some((body, rest)) = body else {
                return Err(bad_option_length(*length));
            };
            options.set(kind, body);
            bytes = rest;
        }
    }

    fn set(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (kind::MSS, &[a, b]) => self.mss = Some(u16::from_be_bytes([a, b])),
            // "If a Window Scale option is received with a shift.cnt value
            // larger than 14, the TCP SHOULD log the error but MUST use 14"
            // (RFC 7323, 2.3).
            (kind::WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(14)),
            (kind::SACK_PERMITTED, []) => self.sack_permitted = true,
            (kind::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.timestamps = Some(Timestamps {
                    value: u32::from_be_bytes([a, b, c, d]),
                    echo: u32::from_be_bytes([e, f, g, h]),
                });
            }
            _ => {}
        }
    }

    const fn len(&self) -> usize {
        let mut length = 0;
        if self.mss.is_some() {
            length += 4;
        }
        if self.sack_permitted {
            length += 4;
        }
        if self.window_scale.is_some() {
            length += 4;
        }
        if self.timestamps.is_some() {
            length += 12;
        }
        length
    }

    /// Writes the options, each padded in front to a multiple of four bytes,
    /// to `out`, which is as long as they are.
    fn write(&self, out: &mut [u8]) {
        let mut at = 0;
        let mut put = |option: &[u8]| {
            out[at..at + option.len()].copy_from_slice(option);
            at += option.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[kind::MSS, 4, a, b]);
        }
        if self.sack_permitted {
            put(&[kind::NO_OPERATION, kind::NO_OPERATION]);
            put(&[kind::SACK_PERMITTED, 2]);
        }
        if let Some(shift) = self.window_scale {
            put(&[kind::NO_OPERATION, kind::WINDOW_SCALE, 3, shift]);
        }
        if let Some(Timestamps { value, echo }) = self.timestamps {
            put(&[kind::NO_OPERATION, kind::NO_OPERATION]);
            put(&[kind::TIMESTAMPS, 10]);
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        }
    }
}

fn bad_option_length(length: u8) -> WireError {
    WireError::Invalid {
        header: NAME,
        field: "option length",
        value: length.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0xC0, 0x01, 0x00, 0x50, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0x12, 0xFA, 0xF0, 0, 0, 0, 0,
        ];
        bytes[12] = u8::try_from((20 + options.len()) / 4).unwrap() << 4;
        bytes.extend(options);
        bytes
    }

    fn options(bytes: &[u8]) -> Result<TcpOptions, WireError> {
        TcpHeader::parse(&with_options(bytes)).map(|(header, length)| {
            assert_eq!(length, 20 + bytes.len());
            header.options
        })
    }

    #[test]
    fn a_syn_of_linux() {
        let bytes = with_options(&[
            2, 4, 0x05, 0xB4, 4, 2, 8, 10, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0, 1, 3, 3, 7,
        ]);
        let (header, length) = TcpHeader::parse(&bytes).unwrap();
        assert_eq!(length, 40);
        let expected = TcpHeader {
            source: 0xC001,
            destination: 80,
            seq: 0x0102_0304,
            ack: 0x0506_0708,
            flags: TcpFlags::SYN | TcpFlags::ACK,
            window: 64240,
            urgent: 0,
            options: TcpOptions {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: Some(Timestamps {
                    value: 0x1122_3344,
                    echo: 0,
                }),
            },
        };
        assert_eq!(header, expected);
    }

    #[test]
    fn odd_options_are_passed_over() {
        let none = TcpOptions::default();
        assert_eq!(options(&[]), Ok(none));
        assert_eq!(options(&[1, 1, 1, 1]), Ok(none));
        // Behind the end anything may stand.
        assert_eq!(options(&[0, 2, 0, 99]), Ok(none));
        // Known kinds with lengths that aren't theirs.
        assert_eq!(options(&[2, 3, 9, 1]), Ok(none));
        assert_eq!(options(&[4, 3, 9, 1]), Ok(none));
        // An unknown kind before a known one.
        let scaled = TcpOptions {
            window_scale: Some(14),
            ..none
        };
        assert_eq!(options(&[254, 5, 9, 9, 9, 3, 3, 200]), Ok(scaled));
    }

    #[test]
    fn lengths_that_lead_nowhere_are_refused() {
        for bad in [
            [2, 0, 5, 180],
            [2, 1, 5, 180],
            [1, 1, 1, 2],
            [1, 2, 4, 5],
            [254, 5, 0, 0],
        ] {
            assert!(options(&bad).is_err(), "{bad:?}");
        }
        let bytes = with_options(&[1; 20]);
        for length in 0..40 {
            let error = TcpHeader::parse(&bytes[..length]);
            assert_eq!(error, Err(WireError::Truncated(NAME)), "{length}");
        }
        for words in 0..5 {
            let mut bytes = bytes.clone();
            bytes[12] = words << 4;
            assert!(TcpHeader::parse(&bytes).is_err(), "{words}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (source, destination, seq, ack) in any::<(u16, u16, u32, u32)>(),
            (flags, window, urgent) in any::<(u8, u16, u16)>(),
            mss: Option<u16>,
            window_scale in prop::option::of(0u8..15),
            sack_permitted: bool,
            timestamps: Option<(u32, u32)>,
            room in 0usize..64,
        ) {
            let header = TcpHeader {
                source,
                destination,
                seq,
                ack,
                flags: TcpFlags::from_bits_retain(flags),
                window,
                urgent,
                options: TcpOptions {
                    mss,
                    window_scale,
                    sack_permitted,
                    timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }),
                },
            };
            let mut out = [0; 64];
            let length = header.write(&mut out).unwrap();
            prop_assert_eq!(length, header.header_len());
            prop_assert_eq!(TcpHeader::parse(&out[..length]), Ok((header, length)));
            prop_assert_eq!(header.write(&mut out[..room]).is_ok(), room >= length);
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..80), words: u8) {
            if let Some(byte) = bytes.get_mut(12) {
                *byte = words << 4;
            }
            if let Ok((_, length)) = TcpHeader::parse(&bytes) {
                prop_assert!((MIN_LEN..=MAX_LEN.min(bytes.len())).contains(&length));
            }
        }
    }
}
