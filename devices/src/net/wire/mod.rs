//! Formats of frames and packets: parsing and building, without state.
//!
//! A header is decoded by value from the front of a slice with `parse`, which
//! also returns the bytes it takes where those vary, and encoded with `write`
//! or `bytes`. Numbers are in the machine's order, lengths in bytes. No input
//! makes this panic or allocate.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod ether;
pub mod icmp;
pub mod ip;
pub mod ip4;
pub mod ip6;
pub mod ndp;
pub mod packet;
pub mod segment;
pub mod tcp;
pub mod udp;
pub mod vnet;

#[cfg(test)]
pub(crate) mod testing;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that are no header of their format, or no room to write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the header does.
    #[error("the {0} header is cut off")]
    Truncated(&'static str),
    /// A field has a value that its format forbids.
    #[error("the {header} header's {field} can't be {value:#x}")]
    Invalid {
        /// The header's name.
        header: &'static str,
        /// The field's name in the format's specification.
        field: &'static str,
        /// What the field holds.
        value: u32,
    },
    /// The checksum doesn't fit the bytes.
    #[error("the {0} checksum is wrong")]
    Checksum(&'static str),
    /// The slice to write to is too short.
    #[error("the {0} header doesn't fit where it is to be written")]
    NoRoom(&'static str),
    /// The frame would be longer than its length fields can say.
    #[error("{0} bytes are too many for one packet")]
    TooLong(usize),
}

/// The raw header at the front of `bytes`.
fn read<T: FromBytes + KnownLayout + Immutable>(
    bytes: &[u8],
    name: &'static str,
) -> Result<T, WireError> {
    match T::read_from_prefix(bytes) {
        Ok((raw, _)) => Ok(raw),
        Err(_) => Err(WireError::Truncated(name)),
    }
}

/// Writes a raw header to the front of `out`; returns its length.
fn put<T: IntoBytes + Immutable + ?Sized>(
    raw: &T,
    out: &mut [u8],
    name: &'static str,
) -> Result<usize, WireError> {
    raw.write_to_prefix(out)
        .map_err(|_| WireError::NoRoom(name))?;
    Ok(size_of_val(raw))
}
