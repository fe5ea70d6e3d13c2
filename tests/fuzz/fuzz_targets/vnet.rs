//! Frames behind a virtio header, and the work on them that it asks for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling_devices::net::port::FRAME_HEADER;
use nestling_devices::net::wire::build::HeaderBuf;
use nestling_devices::net::wire::packet::{ChecksumState, HEAD_LEN, Packet};
use nestling_devices::net::wire::segment::{Checksums, Segmenter, complete};
use nestling_devices::net::wire::vnet::{Gso, VnetHeader};

/// All segments, with their virtio headers.
fn segments(packet: &Packet, frame: &[u8], checksums: Checksums<'_>) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut segmenter = Segmenter::new(packet, frame, checksums).expect("it was checked");
    let mut headers = HeaderBuf::default();
    let mut segments = Vec::new();
    while let Some(range) = segmenter.next(&mut headers) {
        let range = range.expect("a segment is shorter than the whole");
        let vnet = headers.with_vnet().first_chunk().expect("a virtio header");
        let vnet = VnetHeader::parse(vnet).expect("a good one");
        segments.push((vnet, [headers.frame(), &frame[range]].concat()));
    }
    segments
}

/// The frame with its checksum completed.
fn completed(vnet: &VnetHeader, frame: &[u8]) -> Option<Vec<u8>> {
    let (at, field) = complete(vnet, &frame)?;
    let mut whole = frame.to_vec();
    whole[at..at + field.len()].copy_from_slice(&field);
    Some(whole)
}

fn check_segments(packet: &Packet, frame: &[u8], size: usize) {
    let made = segments(packet, frame, Checksums::Made(&frame));
    let left = segments(packet, frame, Checksums::Left);
    assert_eq!(made.len(), left.len());
    let mut carried = Vec::new();
    for ((vnet, segment), (left_vnet, left)) in made.iter().zip(&left) {
        assert_eq!(*vnet, VnetHeader::default());
        let parsed = Packet::parse(*vnet, segment, segment.len()).expect("a good segment");
        assert_eq!(parsed.checksum, ChecksumState::Good);
        assert!(parsed.payload_len <= size);
        carried.extend_from_slice(&segment[parsed.payload_offset..][..parsed.payload_len]);
        assert_eq!(completed(left_vnet, left).as_ref(), Some(segment));
    }
    let payload = &frame[packet.payload_offset..][..packet.payload_len];
    assert_eq!(carried, payload);
}

fuzz_target!(|data: &[u8]| {
    let Some((header, frame)) = data.split_first_chunk::<FRAME_HEADER>() else {
        return;
    };
    let Ok(vnet) = VnetHeader::parse(header) else {
        return;
    };
    // As from a tap, where all of it is at hand, and as from guest memory,
    // where its head is.
    let head = &frame[..frame.len().min(HEAD_LEN)];
    let whole = Packet::parse(vnet, frame, frame.len());
    let headed = Packet::parse(vnet, head, frame.len()).and_then(|mut packet| {
        packet.verify(&frame)?;
        Ok(packet)
    });
    assert_eq!(whole, headed);
    let Ok(packet) = whole else {
        return;
    };
    assert!(packet.network_offset <= packet.transport_offset);
    assert!(packet.transport_offset <= packet.payload_offset);
    assert!(packet.payload_offset + packet.payload_len <= frame.len());
    if let Some(size) = vnet.gso.size() {
        check_segments(&packet, frame, size.into());
    }
    if vnet.gso == Gso::None
        && let Some(whole) = completed(&vnet, frame)
    {
        // The bytes that count are still what they were.
        let bare = VnetHeader {
            data_valid: true,
            ..VnetHeader::default()
        };
        if packet.checksum == ChecksumState::Partial {
            let again = Packet::parse(bare, &whole, whole.len()).expect("as good as before");
            assert_eq!(again.payload_len, packet.payload_len);
        }
    }
});
