use proptest::prelude::*;

use super::*;
use crate::net::port::FRAME_HEADER;
use crate::net::wire::packet::ChecksumState;
use crate::net::wire::testing::{Frame, Parts, Upper, hex, offloadable};

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

/// Headers of frames that Linux left to a tap to be cut, with the virtio
/// header, and the payload behind them.
fn linux() -> [(Vec<u8>, Vec<u8>, usize); 4] {
    let letters: Vec<u8> = (b'a'..=b'y').collect();
    let numbers: Vec<u8> = (0..110).collect();
    let uso4 = "01052a000a00220006000000 020000000002 020000000001 0800 \
        45000035e6984000401138cbc0a84d01c0a84d02 a5f0000900211b87";
    let uso6 = "01053e000a00360006000000 020000000002 020000000001 86dd 6009a52800211140 \
        fd770000000000000000000000000001 fd770000000000000000000000000002 947e00090021fb24";
    let tso4 = "010136003200220010000000 020000000002 020000000001 0800 \
        45000096e15f400040063daec0a84d01c0a84d02 cb9c00507d46dcf8000003e95018faf01bdd0000";
    let tso6 = "01044a003200360010000000 020000000002 020000000001 86dd 600ed81900820640 \
        fd770000000000000000000000000001 fd770000000000000000000000000002 \
        98740050f85647eb000003e95018fd20fb7a0000";
    [
        (hex(uso4), letters.clone(), 10),
        (hex(uso6), letters, 10),
        (hex(tso4), numbers.clone(), 50),
        (hex(tso6), numbers, 50),
    ]
}

#[test]
fn frames_of_linux_are_built_alike_and_cut() {
    for (bytes, payload, size) in linux() {
        let (vnet, headers) = bytes.split_first_chunk().unwrap();
        let frame = Frame {
            vnet: VnetHeader::parse(vnet).unwrap(),
            bytes: [headers, &payload].concat(),
        };
        let packet = Packet::parse(frame.vnet, &frame.bytes, frame.bytes.len()).unwrap();
        let upper = match packet.transport {
            Transport::Tcp(header) => Upper::Tcp(header),
            Transport::Udp(header) => Upper::Udp(header.source, header.destination),
            other => panic!("{other:?}"),
        };
        let parts = Parts {
            ether: packet.ether,
            ip: *packet.ip().unwrap(),
            upper,
            payload: payload.clone(),
        };
        let built = parts.frame(Some(packet.vnet.gso.size()));
        assert_eq!(built.bytes, frame.bytes);
        assert_eq!(built.vnet.bytes(), *vnet);

        let mut carried = Vec::new();
        for segment in cut(&frame, true) {
            let bytes = &segment.bytes;
            let packet = Packet::parse(segment.vnet, bytes, bytes.len()).unwrap();
            assert_eq!(packet.checksum, ChecksumState::Good);
            assert!(packet.payload_len <= size);
            carried.extend_from_slice(&bytes[packet.payload_offset..]);
        }
        assert_eq!(carried, payload);
    }
}

#[test]
fn numbers_wrap_around() {
    let [_, _, (bytes, payload, _), _] = linux();
    let (vnet, headers) = bytes.split_first_chunk().unwrap();
    let mut frame = Frame {
        vnet: VnetHeader::parse(vnet).unwrap(),
        bytes: [headers, &payload].concat(),
    };
    let ip = &mut frame.bytes[14..34];
    ip[4..6].fill(0xFF);
    ip[10..12].fill(0);
    let sum = checksum(ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    frame.bytes[38..42].fill(0xFF);
    let numbers: Vec<_> = cut(&frame, true)
        .iter()
        .map(|segment| {
            let bytes = &segment.bytes;
            let packet = Packet::parse(segment.vnet, bytes, bytes.len()).unwrap();
            match (packet.ip(), packet.transport) {
                (Some(IpHeader::V4(ip)), Transport::Tcp(tcp)) => (ip.identification, tcp.seq),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(numbers, [(u16::MAX, u32::MAX), (0, 49), (1, 99)]);
}

/// Options of IPv4 and extension headers of IPv6, which are never written
/// otherwise, go into each segment.
#[test]
fn all_headers_are_repeated() {
    let [(uso4, letters, _), _, _, (tso6, numbers, _)] = linux();
    let record_route = [7, 7, 4, 0, 0, 0, 0, 0];
    let destination_options = [6, 0, 1, 4, 0, 0, 0, 0];
    for (bytes, payload, at, inserted) in [
        (uso4, letters, 34, record_route),
        (tso6, numbers, 54, destination_options),
    ] {
        let (vnet, headers) = bytes.split_first_chunk().unwrap();
        let mut vnet = VnetHeader::parse(vnet).unwrap();
        let request = vnet.needs_checksum.as_mut().unwrap();
        request.start += 8;
        let (lower, upper) = headers.split_at(at);
        let mut bytes = [lower, &inserted, upper, &payload].concat();
        if at == 34 {
            bytes[14] = 0x47;
            bytes[17] += 8;
            bytes[24..26].fill(0);
            let sum = checksum(&bytes[14..42]).to_be_bytes();
            bytes[24..26].copy_from_slice(&sum);
        } else {
            bytes[14 + 5] += 8;
            bytes[14 + 6] = 60;
        }
        let segments = cut(&Frame { vnet, bytes }, true);
        assert_eq!(segments.len(), 3);
        for segment in segments {
            let bytes = &segment.bytes;
            let packet = Packet::parse(segment.vnet, bytes, bytes.len()).unwrap();
            assert_eq!(packet.checksum, ChecksumState::Good);
            assert_eq!(packet.transport_offset, at + 8);
            assert_eq!(bytes[at..at + 8], inserted);
            assert_eq!(packet.payload_offset + packet.payload_len, bytes.len());
        }
    }
}

#[test]
fn whole_frames_are_not_cut() {
    let [(bytes, payload, _), ..] = linux();
    let bytes = [&bytes[FRAME_HEADER..], &payload].concat();
    let valid = VnetHeader {
        data_valid: true,
        ..VnetHeader::default()
    };
    let packet = Packet::parse(valid, &bytes, bytes.len()).unwrap();
    assert!(Segmenter::new(&packet, &bytes, Checksums::Left).is_none());
    assert_eq!(complete(&valid, &bytes), None);
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
