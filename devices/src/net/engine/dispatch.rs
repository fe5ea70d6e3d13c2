//! The last step of a frame to a port: what the receiver can't do is done.

use super::ports::Ports;
use crate::net::attachment::{Content, Sent};
use crate::net::payload::Part;
use crate::net::port::{FRAME_HEADER, MAX_FRAME, Offloads};
use crate::net::switch::PortId;
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::packet::Packet;
use crate::net::wire::segment::{Checksums, Segmenter, complete};
use crate::net::wire::vnet::VnetHeader;

/// A frame on its way to a port.
pub(super) struct Outgoing<'a> {
    /// What is left to do for it.
    pub(super) vnet: VnetHeader,
    /// Its first bytes, behind the virtio header that says the same as `vnet`.
    pub(super) headers: &'a [u8],
    /// How many of `headers` each segment repeats, the virtio header included.
    pub(super) repeated: usize,
    /// What follows.
    pub(super) content: Content<'a>,
}

impl<'a> Outgoing<'a> {
    /// A frame of the gateway, whose virtio header says how long its headers
    /// are.
    pub(super) fn ours(vnet: VnetHeader, headers: &'a [u8], content: Content<'a>) -> Self {
        let repeated = match vnet.gso.size() {
            Some(_) => (FRAME_HEADER + usize::from(vnet.header_len)).min(headers.len()),
            None => headers.len(),
        };
        Self {
            vnet,
            headers,
            repeated,
            content,
        }
    }
}

/// Sends frames, finished as far as their receivers need it.
#[derive(Default)]
pub(super) struct Dispatcher {
    /// A frame that is worked on.
    whole: Vec<u8>,
    segment: HeaderBuf,
}

impl Dispatcher {
    /// Sends a frame to a port.
    pub(super) fn send(
        &mut self,
        ports: &mut dyn Ports,
        port: PortId,
        frame: Outgoing<'_>,
    ) -> Sent {
        let Some(receiver) = ports.receiver(port) else {
            return Sent::Refused;
        };
        let behind = frame.headers.len() - frame.repeated + frame.content.len();
        let lengths = (frame.repeated - FRAME_HEADER, behind);
        if !receiver.takes(&frame.vnet, &frame.headers[FRAME_HEADER..], lengths) {
            return Sent::Refused;
        }
        if receiver.finishes(&frame.vnet) {
            return ports.send(port, frame.headers, frame.content);
        }
        self.gather(frame.headers, frame.content);
        match frame.vnet.gso.size() {
            Some(_) => self.send_segments(ports, port, &frame.vnet, receiver.offloads),
            None => self.send_completed(ports, port, &frame.vnet),
        }
    }

    /// Brings a frame together.
    fn gather(&mut self, headers: &[u8], content: Content<'_>) {
        self.whole.clear();
        self.whole.extend_from_slice(headers);
        match content {
            Content::Payload(payload) => {
                let start = self.whole.len();
                let len = payload.len().min(MAX_FRAME);
                self.whole.resize(start + len, 0);
                let count = payload.read_at(0, &mut self.whole[start..]);
                self.whole.truncate(start + count);
            }
            Content::Waiting(streams, source) => {
                let whole = &mut self.whole;
                // What can't be had any more is missed by the guest's TCP.
                let _ = streams.view(source, &mut |pieces| {
                    pieces
                        .iter()
                        .for_each(|piece| whole.extend_from_slice(piece));
                });
            }
        }
    }

    fn send_completed(&mut self, ports: &mut dyn Ports, port: PortId, vnet: &VnetHeader) -> Sent {
        let frame = &self.whole[FRAME_HEADER..];
        let Some((at, field)) = complete(vnet, &frame) else {
            return Sent::Refused;
        };
        let at = FRAME_HEADER + at;
        self.whole[at..at + field.len()].copy_from_slice(&field);
        self.whole[..FRAME_HEADER].copy_from_slice(&VnetHeader::default().bytes());
        ports.send(port, &self.whole, Content::Payload(&[]))
    }

    /// Sends each segment. If there is room for some only, the rest is lost,
    /// as on any full link.
    fn send_segments(
        &mut self,
        ports: &mut dyn Ports,
        port: PortId,
        vnet: &VnetHeader,
        offloads: Offloads,
    ) -> Sent {
        let frame = &self.whole[FRAME_HEADER..];
        let Ok(packet) = Packet::parse(*vnet, frame, frame.len()) else {
            return Sent::Refused;
        };
        let checksums = if offloads.contains(Offloads::CHECKSUM) {
            Checksums::Left
        } else {
            Checksums::Made(&frame)
        };
        let Some(mut segments) = Segmenter::new(&packet, frame, checksums) else {
            return Sent::Refused;
        };
        let mut result = Sent::Refused;
        while let Some(Ok(range)) = segments.next(&mut self.segment) {
            let payload = Part::new(&frame, range);
            match ports.send(port, self.segment.with_vnet(), Content::Payload(&payload)) {
                Sent::Yes => result = Sent::Yes,
                failed if result == Sent::Refused => return failed,
                _ => break,
            }
        }
        result
    }
}
