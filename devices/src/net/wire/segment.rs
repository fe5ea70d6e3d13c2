//! What a sender left to do, done for a receiver that can't: cutting frames
//! into segments and completing checksums.

use std::ops::Range;

use super::WireError;
use super::build::HeaderBuf;
use super::checksum::{Sum, checksum};
use super::ip::{IpHeader, Protocol};
use super::packet::{Packet, Transport};
use super::tcp::{self, TcpFlags};
use super::vnet::{Checksum, Gso, VnetHeader};
use super::{ip4, ip6, udp};
use crate::net::payload::{Part, Payload};

/// What becomes of the segments' checksums.
#[derive(Clone, Copy)]
pub enum Checksums<'a> {
    /// The receiver completes them.
    Left,
    /// They are made; here is the frame, from Ethernet on.
    Made(&'a dyn Payload),
}

/// Cuts one frame into segments: for each, headers of its own and a range of
/// the frame's payload.
pub struct Segmenter<'a> {
    ip: IpHeader,
    protocol: Protocol,
    /// The frame's headers.
    headers: &'a [u8],
    network_offset: usize,
    transport_offset: usize,
    /// The payload of each segment but the last.
    size: usize,
    checksums: Checksums<'a>,
    /// How much of the payload went into segments.
    done: usize,
    payload_len: usize,
    /// The number of the next segment; none follows the last.
    next: Option<u16>,
}

impl<'a> Segmenter<'a> {
    /// Begins to cut the frame that starts with `head` and was parsed as
    /// `packet`. None if it isn't to be segmented.
    pub fn new(packet: &Packet, head: &'a [u8], checksums: Checksums<'a>) -> Option<Self> {
        let ip = *packet.ip()?;
        let protocol = match packet.transport {
            Transport::Tcp(_) => Protocol::TCP,
            Transport::Udp(_) => Protocol::UDP,
            _ => return None,
        };
        Some(Self {
            ip,
            protocol,
            headers: head.get(..packet.payload_offset)?,
            network_offset: packet.network_offset,
            transport_offset: packet.transport_offset,
            size: packet.vnet.gso.size()?.into(),
            checksums,
            done: 0,
            payload_len: packet.payload_len,
            next: Some(0),
        })
    }

    /// Composes the next segment's headers, and returns where in the frame
    /// its payload lies. None after the last.
    pub fn next(&mut self, headers: &mut HeaderBuf) -> Option<Result<Range<usize>, WireError>> {
        let number = self.next?;
        let len = self.size.min(self.payload_len - self.done);
        let result = self.compose(headers, number, len);
        let start = self.headers.len() + self.done;
        self.done += len;
        let more = self.done < self.payload_len && result.is_ok();
        self.next = more.then(|| number.wrapping_add(1));
        Some(result.map(|()| start..start + len))
    }

    fn compose(&self, out: &mut HeaderBuf, number: u16, len: usize) -> Result<(), WireError> {
        let headers = out.copy(self.headers)?;
        let (lower, transport) = headers.split_at_mut(self.transport_offset);
        let transport_len = transport.len() + len;
        self.fix_ip(&mut lower[self.network_offset..], number, transport_len)?;
        let offset = match self.protocol {
            Protocol::TCP => {
                self.fix_tcp(transport, len)?;
                tcp::CHECKSUM_OFFSET
            }
            _ => {
                set(transport, 4, narrow(transport_len)?);
                udp::CHECKSUM_OFFSET
            }
        };
        let mut sum = self.ip.pseudo_sum(self.protocol, transport_len);
        let mut vnet = VnetHeader::default();
        let field = match self.checksums {
            Checksums::Left => {
                vnet.needs_checksum = Some(Checksum {
                    start: narrow(self.transport_offset)?,
                    offset,
                });
                vnet.header_len = narrow(self.headers.len())?;
                sum.partial()
            }
            Checksums::Made(frame) => {
                set(transport, offset.into(), 0);
                sum.add(transport);
                let start = self.headers.len() + self.done;
                sum.add_payload(&Part::new(frame, start..start + len));
                sum.transport_checksum()
            }
        };
        set(transport, offset.into(), field);
        out.set_vnet(vnet);
        Ok(())
    }

    /// Gives the IP header the segment's length and, in IPv4, an
    /// identification of its own.
    fn fix_ip(&self, header: &mut [u8], number: u16, payload: usize) -> Result<(), WireError> {
        match self.ip {
            IpHeader::V4(ip) => {
                set(header, 2, narrow(header.len() + payload)?);
                set(header, 4, ip.identification.wrapping_add(number));
                set(header, ip4::CHECKSUM_OFFSET, 0);
                set(header, ip4::CHECKSUM_OFFSET, checksum(header));
            }
            IpHeader::V6(_) => set(header, 4, narrow(header.len() - ip6::LEN + payload)?),
        }
        Ok(())
    }

    /// Gives the TCP header the segment's sequence number; FIN and PSH belong
    /// to the last segment, CWR to the first (RFC 3168, 6.1.2).
    fn fix_tcp(&self, header: &mut [u8], len: usize) -> Result<(), WireError> {
        const SEQ: Range<usize> = 4..8;
        const FLAGS: usize = 13;
        let mut seq = [0; 4];
        seq.copy_from_slice(&header[SEQ]);
        let ahead = u32::try_from(self.done).map_err(|_| WireError::TooLong(self.done))?;
        let seq = u32::from_be_bytes(seq).wrapping_add(ahead);
        header[SEQ].copy_from_slice(&seq.to_be_bytes());
        let mut flags = TcpFlags::from_bits_retain(header[FLAGS]);
        if self.done > 0 {
            flags.remove(TcpFlags::CWR);
        }
        if self.done + len < self.payload_len {
            flags.remove(TcpFlags::FIN | TcpFlags::PSH);
        }
        header[FLAGS] = flags.bits();
        Ok(())
    }
}

/// Completes the checksum that `vnet` asks for, over `frame` from Ethernet
/// on: returns where in the frame it belongs, and its bytes. None if there is
/// nothing to complete, or no room for it in the frame, or if the frame is to
/// be segmented first.
pub fn complete(vnet: &VnetHeader, frame: &dyn Payload) -> Option<(usize, [u8; 2])> {
    let request = vnet.needs_checksum.filter(|_| vnet.gso == Gso::None)?;
    let start = usize::from(request.start);
    let field = start + usize::from(request.offset);
    if field + 2 > frame.len() {
        return None;
    }
    let mut sum = Sum::default();
    sum.add_payload(&Part::new(frame, start..frame.len()));
    Some((field, sum.transport_checksum().to_be_bytes()))
}

fn set(header: &mut [u8], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn narrow(value: usize) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| WireError::TooLong(value))
}

#[cfg(test)]
mod tests;
