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
