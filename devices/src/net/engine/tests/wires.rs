//! What the engine sends, frame by frame: each is taken apart and verified as
//! the one at the port would.

use std::collections::{BTreeMap, HashSet};
use std::io::IoSlice;
use std::sync::Arc;

use nestling_arch::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::net::attachment::{Content, Frame, Sent};
use crate::net::engine::{Ports, Receiver};
use crate::net::port::FRAME_HEADER;
use crate::net::switch::PortId;
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::packet::{ChecksumState, Packet};
use crate::net::wire::segment::{Checksums, Segmenter, complete};
use crate::net::wire::vnet::{Gso, VnetHeader};
use crate::scatter::ScatterList;

/// Room for any frame.
const MEMORY: usize = 0x4_0000;

/// A frame that the engine sent, as it was sent.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) vnet: VnetHeader,
    /// From Ethernet on.
    pub(super) bytes: Vec<u8>,
}

impl Received {
    /// The frames that are on the wire once the receiver has done what was
    /// left to it.
    pub(super) fn finished(&self) -> Vec<Vec<u8>> {
        let Self { vnet, bytes } = self;
        if vnet.gso != Gso::None {
            let packet = Packet::parse(*vnet, bytes, bytes.len()).unwrap();
            let made = Checksums::Made(bytes);
            let mut segments = Segmenter::new(&packet, bytes, made).unwrap();
            let mut headers = HeaderBuf::default();
            let mut frames = Vec::new();
            while let Some(range) = segments.next(&mut headers) {
                frames.push([headers.frame(), &bytes[range.unwrap()]].concat());
            }
            return frames;
        }
        let mut whole = bytes.clone();
        if vnet.needs_checksum.is_some() {
            let (at, field) = complete(vnet, bytes).expect("room for the checksum");
            whole[at..at + 2].copy_from_slice(&field);
        }
        vec![whole]
    }
}

/// One who is plugged in.
#[derive(Debug)]
pub(super) struct Plugged {
    pub(super) receiver: Receiver,
    /// Whether there is anybody to receive.
    pub(super) up: bool,
    /// How many more frames it takes.
    pub(super) room: usize,
    pub(super) sent: Vec<Received>,
    /// Its frames that the engine has.
    pub(super) out: HashSet<u32>,
    /// Its frames lie in guest memory.
    pub(super) scattered: bool,
    /// What is sent to it is right in all its checksums; so it needn't be if
    /// another guest made it.
    pub(super) strict: bool,
}

/// All who are plugged in.
#[derive(Debug)]
pub(super) struct Wires {
    plugged: BTreeMap<PortId, Plugged>,
    next: u32,
    memory: Arc<GuestMemory>,
}

impl Wires {
    pub(super) fn new() -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        Self {
            plugged: BTreeMap::new(),
            next: 0,
            memory: Arc::new(memory),
        }
    }

    pub(super) fn plug(&mut self, port: PortId, receiver: Receiver) {
        let plugged = Plugged {
            receiver,
            up: true,
            room: usize::MAX,
            sent: Vec::new(),
            out: HashSet::new(),
            scattered: false,
            strict: true,
        };
        self.plugged.insert(port, plugged);
    }

    pub(super) fn unplug(&mut self, port: PortId) -> Plugged {
        self.plugged.remove(&port).unwrap()
    }

    pub(super) fn at(&mut self, port: PortId) -> &mut Plugged {
        self.plugged.get_mut(&port).unwrap()
    }

    pub(super) fn ports(&self) -> Vec<PortId> {
        self.plugged.keys().copied().collect()
    }

    /// A frame of a guest's with these bytes, the virtio header first.
    pub(super) fn frame(&mut self, port: PortId, bytes: &[u8]) -> Frame {
        let token = self.next;
        self.next += 1;
        let memory = self.memory.clone();
        let plugged = self.at(port);
        plugged.out.insert(token);
        if !plugged.scattered {
            return Frame::owned(bytes.into(), bytes.len(), token);
        }
        memory.write_slice(bytes, GuestAddress(0)).unwrap();
        let mut list = ScatterList::new(memory);
        let mut at = 0;
        for piece in bytes.chunks(bytes.len() / 3 + 1) {
            list.push(GuestAddress(at), piece.len()).unwrap();
            at += u64::try_from(piece.len()).unwrap();
        }
        Frame::scattered(list, token)
    }
}

impl Ports for Wires {
    fn receiver(&self, port: PortId) -> Option<Receiver> {
        let plugged = self.plugged.get(&port).filter(|plugged| plugged.up)?;
        Some(plugged.receiver)
    }

    fn send(&mut self, port: PortId, headers: &[u8], content: Content<'_>) -> Sent {
        let plugged = self.at(port);
        assert!(plugged.up, "a frame for nobody");
        if plugged.room == 0 {
            return Sent::Full;
        }
        plugged.room -= 1;
        let (vnet, start) = headers.split_first_chunk::<FRAME_HEADER>().unwrap();
        let mut bytes = start.to_vec();
        match content {
            Content::Payload(payload) => {
                let start = bytes.len();
                bytes.resize(start + payload.len(), 0);
                assert_eq!(payload.read_at(0, &mut bytes[start..]), payload.len());
            }
            Content::Waiting(streams, source) => {
                let mut take = |pieces: &[IoSlice<'_>]| {
                    pieces
                        .iter()
                        .for_each(|piece| bytes.extend_from_slice(piece));
                };
                streams.view(source, &mut take).unwrap();
            }
        }
        let vnet = VnetHeader::parse(vnet).unwrap();
        let received = Received { vnet, bytes };
        check(plugged, &received);
        plugged.sent.push(received);
        Sent::Yes
    }

    fn release(&mut self, port: PortId, frame: Frame) {
        let known = self.at(port).out.remove(&frame.token());
        assert!(known, "a frame that wasn't given, or was given back");
    }
}

/// Asserts that the frame is one that its receiver takes, and that it is what
/// it says that it is.
fn check(plugged: &Plugged, received: &Received) {
    let needs = received.vnet.needs();
    assert!(plugged.receiver.offloads.contains(needs), "{needs:?}");
    assert!(!received.vnet.data_valid);
    for frame in received.finished() {
        let packet = Packet::parse(VnetHeader::default(), &frame, frame.len());
        if plugged.strict {
            let packet = packet.unwrap_or_else(|drop| panic!("{drop:?}: {frame:02x?}"));
            assert_eq!(packet.checksum, ChecksumState::Good);
            let len = frame.len() - packet.network_offset;
            assert!(len <= plugged.receiver.mtu.into(), "{len} bytes");
        }
    }
}
