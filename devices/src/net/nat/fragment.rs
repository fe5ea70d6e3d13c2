//! Cutting packets into fragments that fit a guest's link (RFC 791, 3.2;
//! RFC 8200, 4.5).
//!
//! Hosts send datagrams of up to 64 KiB, and the host's own fragments are long
//! put together when a socket gives one away.

use std::iter::FusedIterator;
use std::ops::Range;

use crate::net::wire::WireError;
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::ip::{Fragment, Ip4Header, Ip6Header, IpHeader};
use crate::net::wire::ip6::FRAGMENT_LEN;
use crate::net::wire::vnet::VnetHeader;

/// The headers of UDP and of echoes: what stands before the payload in the
/// first fragment.
const START: usize = 8;

/// Cuts one packet into fragments: for each, headers of its own and a range of
/// the packet's payload.
#[derive(Clone, Debug)]
pub struct Fragmenter {
    ip: IpHeader,
    start: [u8; START],
    identification: u32,
    /// The most bytes behind the IP headers of a fragment that others follow.
    room: u16,
    /// How much of what IP carries went into fragments.
    done: u16,
}

/// One fragment of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    ip: IpHeader,
    /// What stands before the payload.
    start: Option<[u8; START]>,
    /// Where in the packet's payload that of the fragment lies.
    pub payload: Range<usize>,
}

impl Fragmenter {
    /// Begins to cut a packet of UDP or an echo, which `whole` holds the
    /// headers of, with their checksum made, into packets of at most `mtu`
    /// bytes. `identification` is one that no packet between the same
    /// addresses had of late; IPv4 takes 16 bits of it.
    pub fn new(whole: &HeaderBuf, mtu: u16, identification: u32) -> Result<Self, WireError> {
        let frame = whole.frame();
        let (_, ether_len) = EtherHeader::parse(frame)?;
        let (ip, ip_len) = IpHeader::parse(&frame[ether_len..])?;
        let start = &frame[ether_len + ip_len..];
        let start = start.try_into().map_err(|_| WireError::Invalid {
            header: "fragmented",
            field: "length",
            value: ip.payload_len().into(),
        })?;
        let headers = match ip {
            IpHeader::V4(_) => ip.header_len(),
            IpHeader::V6(_) => ip.header_len() + FRAGMENT_LEN,
        };
        // All but the last carry multiples of 8 bytes.
        let room = usize::from(mtu).saturating_sub(headers) / 8 * 8;
        let room = u16::try_from(room).ok().filter(|room| *room > 0);
        Ok(Self {
            ip,
            start,
            identification,
            room: room.ok_or(WireError::NoRoom("fragmented"))?,
            done: 0,
        })
    }
}

impl Iterator for Fragmenter {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let offset = self.done;
        let rest = self.ip.payload_len() - offset;
        if rest == 0 {
            return None;
        }
        let len = rest.min(self.room);
        self.done += len;
        let fragment = Fragment {
            identification: self.identification,
            offset,
            more: len < rest,
        };
        let payload = |end| usize::from(end).saturating_sub(START);
        Some(Piece {
            ip: part(self.ip, fragment),
            start: (offset == 0).then_some(self.start),
            payload: payload(offset)..payload(offset + len),
        })
    }
}

impl FusedIterator for Fragmenter {}

impl Piece {
    /// Composes the fragment's headers. Its payload follows.
    pub fn compose(
        &self,
        ether: &EtherHeader,
        headers: &mut HeaderBuf,
    ) -> Result<VnetHeader, WireError> {
        let start = self.start.as_ref().map_or(&[][..], |start| start);
        headers.fragment(ether, &self.ip, start, self.payload.len())
    }
}

/// The header of a fragment of a packet.
fn part(whole: IpHeader, fragment: Fragment) -> IpHeader {
    match whole {
        IpHeader::V4(header) => {
            let [.., a, b] = fragment.identification.to_be_bytes();
            IpHeader::V4(Ip4Header {
                identification: u16::from_be_bytes([a, b]),
                dont_fragment: false,
                more_fragments: fragment.more,
                fragment_offset: fragment.offset,
                ..header
            })
        }
        IpHeader::V6(header) => IpHeader::V6(Ip6Header {
            fragment: Some(fragment),
            ..header
        }),
    }
}

#[cfg(test)]
mod tests;
