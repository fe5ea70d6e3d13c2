//! The header before every frame that says what work on it is left to do:
//! struct virtio_net_hdr_mrg_rxbuf (virtio 1.3, 5.1.6), little endian.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP_L4,
};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::WireError;
use crate::net::port::{FRAME_HEADER, Offloads};

const NAME: &str = "virtio-net";

// The constants are small, but bindgen types them u32.
#[expect(clippy::cast_possible_truncation, reason = "bits 0 and 1")]
const NEEDS_CHECKSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
#[expect(clippy::cast_possible_truncation, reason = "bits 0 and 1")]
const DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID as u8;

/// What is left to do for a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum that is to be completed. Its field holds the folded sum
    /// of the pseudo header.
    pub needs_checksum: Option<Checksum>,
    /// The sender vouches for the checksum.
    pub data_valid: bool,
    /// How the frame is to be cut into segments.
    pub gso: Gso,
    /// The length of the headers that each segment repeats. Only a hint.
    pub header_len: u16,
}

/// A checksum over the rest of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Where in the frame the summed bytes begin.
    pub start: u16,
    /// Where the checksum stands, from `start`.
    pub offset: u16,
}

/// The kind of segments that a frame is to be cut into. `size` is the payload
/// of each segment but the last, never zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// The frame is one segment.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4 {
        /// Payload of a segment.
        size: u16,
        /// CWR is set in the first segment only (RFC 3168, 6.1.2).
        ecn: bool,
    },
    /// TCP over IPv6.
    Tcp6 {
        /// Payload of a segment.
        size: u16,
        /// CWR is set in the first segment only (RFC 3168, 6.1.2).
        ecn: bool,
    },
    /// UDP datagrams, over IPv4 or IPv6.
    UdpL4 {
        /// Payload of a datagram.
        size: u16,
    },
}

impl Gso {
    /// Payload of each segment but the last, if there is more than one.
    pub const fn size(self) -> Option<u16> {
        match self {
            Self::None => None,
            Self::Tcp4 { size, .. } | Self::Tcp6 { size, .. } | Self::UdpL4 { size } => Some(size),
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    flags: u8,
    gso_type: u8,
    header_len: U16,
    gso_size: U16,
    checksum_start: U16,
    checksum_offset: U16,
    buffers: U16,
}

impl VnetHeader {
    /// The header of a frame. Whether the frame is what the header says is
    /// [`super::packet::Packet::parse`]'s to check.
    pub fn parse(bytes: &[u8; FRAME_HEADER]) -> Result<Self, WireError> {
        let raw: Raw = transmute!(*bytes);
        // Bits that have no meaning here are to be ignored (5.1.6.2.2).
        let checksum = Checksum {
            start: raw.checksum_start.get(),
            offset: raw.checksum_offset.get(),
        };
        let header = Self {
            needs_checksum: (raw.flags & NEEDS_CHECKSUM != 0).then_some(checksum),
            data_valid: raw.flags & DATA_VALID != 0,
            gso: gso(raw.gso_type, raw.gso_size.get())?,
            header_len: raw.header_len.get(),
        };
        if header.gso != Gso::None && header.needs_checksum.is_none() {
            // "If ... gso_type differs from VIRTIO_NET_HDR_GSO_NONE, the
            // driver MUST also set NEEDS_CSUM" (5.1.6.2.1).
            return Err(WireError::Invalid {
                header: NAME,
                field: "flags",
                value: raw.flags.into(),
            });
        }
        Ok(header)
    }

    /// The header's bytes; `num_buffers` is left to the NIC.
    pub fn bytes(&self) -> [u8; FRAME_HEADER] {
        let checksum = self.needs_checksum;
        let mut flags = 0;
        if checksum.is_some() {
            flags |= NEEDS_CHECKSUM;
        }
        if self.data_valid {
            flags |= DATA_VALID;
        }
        transmute!(Raw {
            flags,
            gso_type: gso_type(self.gso),
            header_len: self.header_len.into(),
            gso_size: self.gso.size().unwrap_or(0).into(),
            checksum_start: checksum.map_or(0, |checksum| checksum.start).into(),
            checksum_offset: checksum.map_or(0, |checksum| checksum.offset).into(),
            buffers: 0.into(),
        })
    }

    /// The work that the frame asks of its receiver.
    pub fn needs(&self) -> Offloads {
        let mut needs = match self.gso {
            Gso::None => Offloads::empty(),
            Gso::Tcp4 { ecn: false, .. } => Offloads::TSO4,
            Gso::Tcp4 { ecn: true, .. } => Offloads::TSO4 | Offloads::ECN,
            Gso::Tcp6 { ecn: false, .. } => Offloads::TSO6,
            Gso::Tcp6 { ecn: true, .. } => Offloads::TSO6 | Offloads::ECN,
            Gso::UdpL4 { .. } => Offloads::USO,
        };
        needs.set(Offloads::CHECKSUM, self.needs_checksum.is_some());
        needs
    }
}

fn gso(kind: u8, size: u16) -> Result<Gso, WireError> {
    let invalid = |field, value| WireError::Invalid {
        header: NAME,
        field,
        value,
    };
    let base = u32::from(kind) & !VIRTIO_NET_HDR_GSO_ECN;
    let ecn = base != u32::from(kind);
    let gso = match base {
        VIRTIO_NET_HDR_GSO_NONE if !ecn => return Ok(Gso::None),
        VIRTIO_NET_HDR_GSO_TCPV4 => Gso::Tcp4 { size, ecn },
        VIRTIO_NET_HDR_GSO_TCPV6 => Gso::Tcp6 { size, ecn },
        VIRTIO_NET_HDR_GSO_UDP_L4 if !ecn => Gso::UdpL4 { size },
        // UDP in fragments (UFO) among them: it is never offered.
        _ => return Err(invalid("gso_type", kind.into())),
    };
    if size == 0 {
        return Err(invalid("gso_size", 0));
    }
    Ok(gso)
}

#[expect(clippy::cast_possible_truncation, reason = "all fit the u8 field")]
const fn gso_type(gso: Gso) -> u8 {
    let (kind, ecn) = match gso {
        Gso::None => (VIRTIO_NET_HDR_GSO_NONE, false),
        Gso::Tcp4 { ecn, .. } => (VIRTIO_NET_HDR_GSO_TCPV4, ecn),
        Gso::Tcp6 { ecn, .. } => (VIRTIO_NET_HDR_GSO_TCPV6, ecn),
        Gso::UdpL4 { .. } => (VIRTIO_NET_HDR_GSO_UDP_L4, false),
    };
    (kind | if ecn { VIRTIO_NET_HDR_GSO_ECN } else { 0 }) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TSO: [u8; FRAME_HEADER] = [1, 0x81, 66, 0, 0xB4, 0x05, 34, 0, 16, 0, 3, 0];

    #[test]
    fn known_header() {
        let header = VnetHeader::parse(&TSO).unwrap();
        let expected = VnetHeader {
            needs_checksum: Some(Checksum {
                start: 34,
                offset: 16,
            }),
            data_valid: false,
            gso: Gso::Tcp4 {
                size: 1460,
                ecn: true,
            },
            header_len: 66,
        };
        assert_eq!(header, expected);
        assert_eq!(header.bytes()[..10], TSO[..10]);
        let needs = Offloads::CHECKSUM | Offloads::TSO4 | Offloads::ECN;
        assert_eq!(header.needs(), needs);
        assert_eq!(VnetHeader::default().needs(), Offloads::empty());
        assert_eq!(VnetHeader::default().bytes(), [0; FRAME_HEADER]);
    }

    #[test]
    fn lies_are_refused() {
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = TSO;
            for (at, value) in changes {
                bytes[*at] = *value;
            }
            bytes
        };
        for (bytes, field) in [
            (with(&[(1, 2)]), "gso_type"),
            (with(&[(1, 3)]), "gso_type"),
            (with(&[(1, 6)]), "gso_type"),
            (with(&[(1, 0x80)]), "gso_type"),
            (with(&[(1, 0x85)]), "gso_type"),
            (with(&[(4, 0), (5, 0)]), "gso_size"),
            (with(&[(0, 0)]), "flags"),
            (with(&[(0, 2)]), "flags"),
        ] {
            let error = VnetHeader::parse(&bytes).unwrap_err();
            let is = |is: &str| matches!(error, WireError::Invalid { field, .. } if field == is);
            assert!(is(field), "{bytes:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written(bytes: [u8; FRAME_HEADER]) {
            if let Ok(header) = VnetHeader::parse(&bytes) {
                prop_assert_eq!(VnetHeader::parse(&header.bytes()), Ok(header));
            }
        }
    }
}
