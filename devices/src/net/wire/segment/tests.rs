use proptest::prelude::*;

use super::*;
use crate::net::port::FRAME_HEADER;
use crate::net::wire::packet::ChecksumState;
use crate::net::wire::testing::{Frame, Parts, Upper, offloadable};

/// The frames that `frame` is cut into.
fn cut(frame: &Frame, made: bool) -> Vec<Frame> {
    let bytes = &frame.bytes[..];
    let packet = Packet::parse(frame.vnet, bytes, bytes.len()).unwrap();
    let checksums = match made {
        true => Checksums::Made(&bytes),
        false => Checksums::Left,
    };
    let mut segmenter = Segmenter::new(&packet, bytes, checksums).unwrap();
    let mut headers = HeaderBuf::default();
    let mut frames = Vec::new();
    while let Some(range) = segmenter.next(&mut headers) {
        let vnet = headers.with_vnet().first_chunk::<FRAME_HEADER>().unwrap();
        frames.push(Frame {
            vnet: VnetHeader::parse(vnet).unwrap(),
            bytes: [headers.frame(), &bytes[range.unwrap()]].concat(),
        });
    }
    frames
}

/// What each piece of the payload looks like as a frame of its own.
fn expected(parts: &Parts, size: usize, made: bool) -> Vec<Frame> {
    let pieces = parts.payload.len().div_ceil(size).max(1);
    let piece = |number: usize| {
        let start = number * size;
        let end = parts.payload.len().min(start + size);
        let mut parts = Parts {
            payload: parts.payload[start..end].to_vec(),
            ..parts.clone()
        };
        if let IpHeader::V4(ip) = &mut parts.ip {
            let number = u16::try_from(number).unwrap();
            ip.identification = ip.identification.wrapping_add(number);
        }
        if let Upper::Tcp(tcp) = &mut parts.upper {
            tcp.seq = tcp.seq.wrapping_add(u32::try_from(start).unwrap());
            if number > 0 {
                tcp.flags -= TcpFlags::CWR;
            }
            if number + 1 < pieces {
                tcp.flags -= TcpFlags::FIN | TcpFlags::PSH;
            }
        }
        parts.frame((!made).then_some(None))
    };
    (0..pieces).map(piece).collect()
}

proptest! {
    #[test]
    fn segments_are_frames_of_their_own(parts in offloadable(2000..6000), size in 60u16..2000, made: bool) {
        let frame = parts.frame(Some(Some(size)));
        let (cut, expected) = (cut(&frame, made), expected(&parts, size.into(), made));
        prop_assert_eq!(cut.len(), expected.len());
        for (cut, expected) in cut.iter().zip(&expected) {
            prop_assert_eq!(&cut.bytes, &expected.bytes);
            prop_assert_eq!(cut.vnet, expected.vnet);
            let packet = Packet::parse(cut.vnet, &cut.bytes, cut.bytes.len()).unwrap();
            let state = if made { ChecksumState::Good } else { ChecksumState::Partial };
            prop_assert_eq!(packet.checksum, state);
        }
    }

    #[test]
    fn a_completed_checksum_is_the_one_made(parts in offloadable(0..3000)) {
        let mut frame = parts.frame(Some(None));
        let (at, checksum) = complete(&frame.vnet, &frame.bytes).unwrap();
        frame.bytes[at..at + 2].copy_from_slice(&checksum);
        prop_assert_eq!(frame.bytes, parts.frame(None).bytes);
    }

    #[test]
    fn any_request_is_survived(
        frame in prop::collection::vec(any::<u8>(), 0..100),
        start in 0u16..110,
        offset in 0u16..110,
    ) {
        let vnet = VnetHeader {
            needs_checksum: Some(Checksum { start, offset }),
            ..VnetHeader::default()
        };
        let field = usize::from(start) + usize::from(offset);
        match complete(&vnet, &frame) {
            Some((at, _)) => prop_assert!(at == field && at + 2 <= frame.len()),
            None => prop_assert!(field + 2 > frame.len()),
        }
    }
}
