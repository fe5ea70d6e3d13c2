//! The file format: PCAP Next Generation (draft-ietf-opsawg-pcapng), its
//! numbers in the machine's order.

use crate::net::payload::Payload;

/// Block types (section 11.1).
const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// Tells the order of bytes (section 4.1).
const MAGIC: u32 = 0x1A2B_3C4D;
/// A section of a length that isn't known beforehand (section 4.1).
const UNKNOWN_LENGTH: u64 = u64::MAX;

/// LINKTYPE_ETHERNET (draft-ietf-opsawg-pcaplinktype).
const ETHERNET: u16 = 1;
/// The most bytes of a frame, which programs that read it provide for: the
/// largest that libpcap takes. No frame is longer.
const SNAP_LENGTH: u32 = 256 << 10;

/// Options (sections 3.5, 4.1, 4.2 and 4.3).
const OPT_ENDOFOPT: u16 = 0;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_DROPCOUNT: u16 = 4;

/// The longest name of a port in bytes; the rest of a longer one is left out.
const MAX_NAME: usize = 255;

/// A port of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceId(pub(super) u32);

/// Which way a frame went, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came from who is plugged in.
    Inbound,
    /// It went there.
    Outbound,
}

/// What a frame is recorded with.
pub(super) struct Packet {
    pub(super) port: InterfaceId,
    pub(super) direction: Direction,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// Frames lost since the last one.
    pub(super) lost: u64,
}

/// Room for the block of a frame of `length` bytes.
pub(super) fn packet_room(length: usize) -> usize {
    32 + length.next_multiple_of(4) + 8 + 12 + 4
}

/// Begins a file (section 4.1, Section Header Block).
pub(super) fn section(out: &mut Vec<u8>) {
    block(out, SECTION, |out| {
        out.extend(MAGIC.to_ne_bytes());
        // Version 1.0.
        out.extend(1u16.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        out.extend(UNKNOWN_LENGTH.to_ne_bytes());
        option(out, SHB_USERAPPL, b"nestling");
        option(out, OPT_ENDOFOPT, &[]);
    });
}

/// Adds a port (section 4.2, Interface Description Block).
pub(super) fn interface(out: &mut Vec<u8>, name: &str) {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    block(out, INTERFACE, |out| {
        out.extend(ETHERNET.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        out.extend(SNAP_LENGTH.to_ne_bytes());
        option(out, IF_NAME, &name.as_bytes()[..end]);
        // Times are in units of 10^-9 s.
        option(out, IF_TSRESOL, &[9]);
        option(out, OPT_ENDOFOPT, &[]);
    });
}

/// Adds a frame (section 4.3, Enhanced Packet Block).
pub(super) fn packet(out: &mut Vec<u8>, packet: &Packet, parts: &[&dyn Payload]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let field = u32::try_from(length).unwrap_or(u32::MAX);
    let [high, low] = [packet.time >> 32, packet.time & u64::from(u32::MAX)];
    block(out, ENHANCED_PACKET, |out| {
        for word in [packet.port.0.into(), high, low, field.into(), field.into()] {
            let word = u32::try_from(word).expect("made of 32 bits");
            out.extend(word.to_ne_bytes());
        }
        for part in parts {
            let at = out.len();
            out.resize(at + part.len(), 0);
            part.read_at(0, &mut out[at..]);
        }
        pad(out, length);
        // The lowest two bits tell the direction.
        let flags: u32 = match packet.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        option(out, EPB_FLAGS, &flags.to_ne_bytes());
        if packet.lost > 0 {
            option(out, EPB_DROPCOUNT, &packet.lost.to_ne_bytes());
        }
        option(out, OPT_ENDOFOPT, &[]);
    });
}

/// Adds a block: its type, its length, its body and its length again.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() + 4 - start).expect("a frame and some words");
    out[start + 4..start + 8].copy_from_slice(&length.to_ne_bytes());
    out.extend(length.to_ne_bytes());
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("at most MAX_NAME");
    out.extend(code.to_ne_bytes());
    out.extend(length.to_ne_bytes());
    out.extend(value);
    pad(out, value.len());
}

/// Pads what has `length` bytes to 32 bits.
fn pad(out: &mut Vec<u8>, length: usize) {
    let padding = length.next_multiple_of(4) - length;
    out.resize(out.len() + padding, 0);
}
