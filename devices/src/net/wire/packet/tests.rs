use proptest::prelude::*;

use super::*;
use crate::net::mac::Mac;
use crate::net::wire::build::{Body, HeaderBuf};
use crate::net::wire::ndp::NdpOption;
use crate::net::wire::tcp::TcpFlags;
use crate::net::wire::testing::{Frame, Parts, Upper, hex, parts};

fn parse(frame: &Frame) -> Result<Packet, Drop> {
    Packet::parse(frame.vnet, &frame.bytes, frame.bytes.len())
}

fn plain(bytes: &[u8]) -> Result<Packet, Drop> {
    Packet::parse(VnetHeader::default(), bytes, bytes.len())
}

/// Frames that Linux sent through a tap, from 192.168.77.1 and fd77::1.
mod linux {
    pub(super) const UDP4: &str = "020000000002 020000000001 0800 \
        45000024022e400040111d47c0a84d01c0a84d02 9c40003500108b59 6e6573746c696e67";
    pub(super) const UDP6: &str = "020000000002 020000000001 86dd 6006f71100101140 \
        fd770000000000000000000000000001 fd770000000000000000000000000002 \
        9c4000350010abbb 6e6573746c696e67";
    pub(super) const SYN4: &str = "020000000002 020000000001 0800 \
        4500003c33b740004006ebb0c0a84d01c0a84d02 \
        af000050a13afcc200000000a002faf0d6140000 020405b40402080a02940bc1000000000103030a";
    pub(super) const SYN6: &str = "020000000002 020000000001 86dd 6000c72200280640 \
        fd770000000000000000000000000001 fd770000000000000000000000000002 \
        d5a000506b835ba900000000a002fd20ed2e0000 020405a00402080a0f5fb652000000000103030a";
    pub(super) const PING: &str = "020000000002 020000000001 0800 \
        45000024a1bb400040017dc9c0a84d01c0a84d02 0800292012340001 6e6573746c696e67";
    pub(super) const ARP: &str = "ffffffffffff 020000000001 0806 \
        0001080006040001 020000000001 c0a84d01 000000000000 c0a84d03";
    pub(super) const SOLICITATION: &str = "3333ff000003 020000000001 86dd 6000000000203aff \
        fd770000000000000000000000000001 ff0200000000000000000001ff000003 \
        87007ca700000000 fd770000000000000000000000000003 0101020000000001";
    /// The second fragment, with 160 zeroes.
    pub(super) const FRAGMENT6: &str = "020000000002 020000000001 86dd 600625c100a82c40 \
        fd770000000000000000000000000001 fd770000000000000000000000000002 110005a813bb4248";
}

fn linux(text: &str) -> (Packet, Vec<u8>) {
    let bytes = hex(text);
    let packet = plain(&bytes).unwrap();
    assert_eq!(packet.ether.source, Mac([2, 0, 0, 0, 0, 1]));
    assert_eq!(packet.checksum, ChecksumState::Good);
    assert_eq!(packet.payload_offset + packet.payload_len, bytes.len());
    (packet, bytes)
}

#[test]
fn frames_of_linux_are_built_alike() {
    let mut built = HeaderBuf::default();
    for frame in [linux::UDP4, linux::UDP6] {
        let (packet, bytes) = linux(frame);
        let payload = &bytes[packet.payload_offset..];
        assert_eq!(payload, b"nestling");
        let (ip, ports) = (packet.ip().unwrap(), (40000, 53));
        built
            .udp(&packet.ether, ip, ports, Body::Whole(&payload))
            .unwrap();
        assert_eq!([built.frame(), payload].concat(), bytes);
    }

    let (packet, bytes) = linux(linux::PING);
    let (Network::Ip(IpHeader::V4(ip)), Transport::Icmp4(message)) =
        (packet.network, packet.transport)
    else {
        panic!("{packet:?}");
    };
    built
        .icmp4(&packet.ether, &ip, &message, b"nestling")
        .unwrap();
    assert_eq!([built.frame(), &b"nestling"[..]].concat(), bytes);

    let (packet, bytes) = linux(linux::SOLICITATION);
    let (Network::Ip(IpHeader::V6(ip)), Transport::Icmp6(message)) =
        (packet.network, packet.transport)
    else {
        panic!("{packet:?}");
    };
    let target = "fd77::3".parse().unwrap();
    assert_eq!(message, Icmp6::NeighborSolicitation { target });
    let mut option = [0; 8];
    let source = NdpOption::SourceLinkLayer(packet.ether.source);
    source.write(&mut option).unwrap();
    built.icmp6(&packet.ether, &ip, &message, &option).unwrap();
    assert_eq!([built.frame(), &option[..]].concat(), bytes);

    let mut bytes = hex(linux::ARP);
    let Network::Arp(arp) = plain(&bytes).unwrap().network else {
        panic!("no ARP");
    };
    built.arp(&plain(&bytes).unwrap().ether, &arp).unwrap();
    assert_eq!(built.frame(), bytes);
    bytes[14] = 9;
    assert_eq!(plain(&bytes), Err(Drop::Arp));
}

#[test]
fn connections_of_linux_are_understood() {
    for (frame, mss) in [(linux::SYN4, 1460), (linux::SYN6, 1440)] {
        let (packet, _) = linux(frame);
        let Transport::Tcp(tcp) = packet.transport else {
            panic!("{packet:?}");
        };
        assert_eq!(tcp.destination, 80);
        assert_eq!(tcp.flags, TcpFlags::SYN);
        assert_eq!(tcp.options.mss, Some(mss));
        assert_eq!(tcp.options.window_scale, Some(10));
        assert!(tcp.options.sack_permitted && tcp.options.timestamps.is_some());
    }
}

#[test]
fn fragments_of_linux_are_understood() {
    let mut bytes = hex(linux::FRAGMENT6);
    bytes.resize(222, 0);
    let packet = plain(&bytes).unwrap();
    let fragment = Fragment {
        identification: 0x13BB_4248,
        offset: 1448,
        more: false,
    };
    assert_eq!(packet.transport, Transport::Fragment(fragment));
    assert_eq!(packet.payload_len, 160);
    // All but the last are of whole units.
    bytes[14 + 40 + 3] |= 1;
    assert!(plain(&bytes).is_ok());
    bytes[14 + 5] -= 1;
    assert_eq!(plain(&bytes), Err(Drop::Fragment));
    // None ends behind the longest packet, and none is empty.
    bytes[14 + 5] += 1;
    bytes[14 + 40 + 2..14 + 40 + 4].fill(0xFF);
    assert_eq!(plain(&bytes), Err(Drop::Fragment));
    let mut bytes = hex(linux::FRAGMENT6);
    bytes[14 + 5] = 8;
    assert_eq!(plain(&bytes), Err(Drop::Fragment));
}

#[test]
fn every_reason_is_given() {
    let whole = |parts: &Parts| parts.frame(None).bytes;
    let changed = |text: &str, at: usize, value: u8| {
        let mut bytes = hex(text);
        bytes[at] = value;
        bytes
    };
    let mut no_checksum = whole(&udp6(b"payload"));
    no_checksum[14 + 40 + 6..][..2].fill(0);
    let cases = [
        (hex(linux::ARP)[..13].to_vec(), Drop::Ethernet),
        (hex(linux::ARP)[..41].to_vec(), Drop::Arp),
        (changed(linux::UDP4, 14, 0x44), Drop::Ip4),
        (hex(linux::UDP4)[..49].to_vec(), Drop::Ip4),
        (changed(linux::UDP4, 24, 0), Drop::Ip4Checksum),
        (changed(linux::UDP6, 14, 0x40), Drop::Ip6),
        (hex(linux::UDP6)[..69].to_vec(), Drop::Ip6),
        (changed(linux::UDP6, 14 + 40 + 5, 7), Drop::Udp),
        (changed(linux::UDP6, 14 + 40 + 5, 17), Drop::Udp),
        (changed(linux::UDP6, 60, 1), Drop::UdpChecksum),
        (changed(linux::UDP4, 49, 1), Drop::UdpChecksum),
        (no_checksum, Drop::UdpChecksum),
        (changed(linux::SYN4, 14 + 20 + 12, 0x40), Drop::Tcp),
        (changed(linux::SYN4, 14 + 20 + 12, 0xB0), Drop::Tcp),
        (changed(linux::SYN6, 14 + 40 + 3, 81), Drop::TcpChecksum),
        (changed(linux::SYN4, 73, 1), Drop::TcpChecksum),
        (changed(linux::PING, 40, 1), Drop::IcmpChecksum),
        (changed(linux::SOLICITATION, 60, 1), Drop::IcmpChecksum),
        (changed(linux::SOLICITATION, 14 + 7, 254), Drop::Discovery),
        (
            changed(linux::SOLICITATION, 14 + 40 + 25, 0),
            Drop::Discovery,
        ),
        (changed(linux::SOLICITATION, 14 + 5, 23), Drop::Icmp),
    ];
    for (bytes, reason) in cases {
        assert_eq!(plain(&bytes), Err(reason), "{bytes:02x?}");
    }
    for (index, reason) in Drop::ALL.into_iter().enumerate() {
        assert_eq!(reason.index(), index, "{}", reason.name());
    }
}

#[test]
fn a_datagram_without_checksum_is_good_in_ipv4_only() {
    let mut bytes = hex(linux::UDP4);
    bytes[14 + 20 + 6..][..2].fill(0);
    assert_eq!(plain(&bytes).unwrap().checksum, ChecksumState::Good);
}

#[test]
fn what_stands_behind_a_datagram_is_not_its_payload() {
    // IP is longer than UDP: surplus that UDP's checksum doesn't cover.
    let mut bytes = hex(linux::UDP6);
    bytes.extend([1, 2, 3, 4]);
    bytes[14 + 5] += 4;
    let packet = plain(&bytes).unwrap();
    assert_eq!(packet.payload_len, 8);
    assert_eq!(packet.checksum, ChecksumState::Good);
}

#[test]
fn left_checksums_are_told() {
    let frame = udp4(b"payload").frame(Some(None));
    assert_eq!(parse(&frame).unwrap().checksum, ChecksumState::Partial);
    // The same bytes without the request are wrong, unless vouched for.
    assert_eq!(plain(&frame.bytes), Err(Drop::UdpChecksum));
    let valid = VnetHeader {
        data_valid: true,
        ..VnetHeader::default()
    };
    let packet = Packet::parse(valid, &frame.bytes, frame.bytes.len());
    assert_eq!(packet.unwrap().checksum, ChecksumState::Good);
    let request = |start, offset| {
        let vnet = VnetHeader {
            needs_checksum: Some(Checksum { start, offset }),
            ..VnetHeader::default()
        };
        Packet::parse(vnet, &frame.bytes, frame.bytes.len()).map(|packet| packet.checksum)
    };
    assert_eq!(request(34, 6), Ok(ChecksumState::Partial));
    let inner = |start, offset| Ok(ChecksumState::Inner(Checksum { start, offset }));
    assert_eq!(request(34, 16), Err(Drop::ChecksumRequest));
    assert_eq!(request(34, 13), inner(34, 13));
    assert_eq!(request(42, 5), inner(42, 5));
    assert_eq!(request(42, 6), Err(Drop::ChecksumRequest));
    assert_eq!(request(13, 0), Err(Drop::ChecksumRequest));
    assert_eq!(request(u16::MAX, u16::MAX), Err(Drop::ChecksumRequest));
}

#[test]
fn segments_must_be_possible() {
    let parse = |parts: &Parts, gso| {
        let mut frame = parts.frame(Some(None));
        frame.vnet.gso = gso;
        Packet::parse(frame.vnet, &frame.bytes, frame.bytes.len()).map(|packet| packet.vnet.gso)
    };
    let (udp4, udp6) = (udp4(&[1; 1024]), udp6(&[1; 1024]));
    let tcp = |of: &Parts| Parts {
        upper: Upper::Tcp(TcpHeader::default()),
        ..of.clone()
    };
    let (tcp4, tcp6) = (tcp(&udp4), tcp(&udp6));
    let as_tcp4 = |size| Gso::Tcp4 { size, ecn: false };
    let as_tcp6 = |size| Gso::Tcp6 { size, ecn: true };
    let as_udp = |size| Gso::UdpL4 { size };
    for (parts, gso) in [
        (&tcp4, as_tcp4(8)),
        (&tcp4, as_tcp4(u16::MAX)),
        (&tcp6, as_tcp6(1000)),
        (&udp4, as_udp(8)),
        (&udp6, as_udp(1000)),
    ] {
        assert_eq!(parse(parts, gso), Ok(gso));
    }
    for (parts, gso) in [
        (&tcp4, as_tcp4(7)),
        (&tcp4, as_tcp6(1000)),
        (&tcp4, as_udp(1000)),
        (&tcp6, as_tcp4(1000)),
        (&udp4, as_tcp4(1000)),
        (&udp6, as_tcp6(1000)),
        (&udp4, as_udp(7)),
    ] {
        assert_eq!(parse(parts, gso), Err(Drop::Segmentation), "{gso:?}");
    }
    // Not with a checksum elsewhere.
    let mut frame = tcp4.frame(Some(Some(500)));
    frame.vnet.needs_checksum = Some(Checksum {
        start: 14,
        offset: 10,
    });
    assert_eq!(self::parse(&frame), Err(Drop::Segmentation));
}

proptest! {
    #[test]
    fn what_is_built_is_parsed(parts in parts(0..3000), padding in 0usize..60) {
        let mut frame = parts.frame(None);
        frame.bytes.extend(vec![0; padding]);
        let packet = parse(&frame).unwrap();
        let ether = EtherHeader { ethertype: packet.ether.ethertype, ..parts.ether };
        prop_assert_eq!(packet.ether, ether);
        prop_assert_eq!(packet.checksum, ChecksumState::Good);
        prop_assert_eq!(packet.payload_len, parts.payload.len());
        let end = packet.payload_offset + packet.payload_len;
        prop_assert_eq!(&frame.bytes[packet.payload_offset..end], &parts.payload[..]);
        prop_assert_eq!(end + padding, frame.bytes.len());
        let ip = packet.ip().unwrap();
        prop_assert_eq!(*ip, parts.ip.with_payload(ip.protocol(), ip.payload_len()));
        match (parts.upper, packet.transport) {
            (Upper::Tcp(expected), Transport::Tcp(header)) => prop_assert_eq!(header, expected),
            (Upper::Udp(source, destination), Transport::Udp(header)) => {
                prop_assert_eq!((header.source, header.destination), (source, destination));
            }
            (Upper::Echo(echo), Transport::Icmp4(message)) => {
                prop_assert_eq!(message, Icmp4::EchoRequest(echo));
            }
            (Upper::Echo(echo), Transport::Icmp6(message)) => {
                prop_assert_eq!(message, Icmp6::EchoRequest(echo));
            }
            (upper, transport) => panic!("{upper:?} became {transport:?}"),
        }
    }

    #[test]
    fn one_wrong_bit_is_found(parts in parts(0..1000), byte: prop::sample::Index, bit in 0u32..8) {
        let mut frame = parts.frame(None);
        let packet = parse(&frame).unwrap();
        let at = packet.network_offset
            + byte.index(frame.bytes.len() - packet.network_offset);
        frame.bytes[at] ^= 1 << bit;
        match parse(&frame) {
            Err(_) => {}
            // IPv6 has no checksum of its own: class, label and hop limit
            // may be anything, and the payload another protocol's.
            Ok(changed) => prop_assert!(
                matches!(packet.ip(), Some(IpHeader::V6(_))) && at < packet.transport_offset
                    || changed.checksum == ChecksumState::Good && is_udp_checksum(&packet, at),
                "bit {bit} of byte {at}"
            ),
        }
    }

    #[test]
    fn a_head_says_what_the_frame_says(parts in parts(0..1500), flip: Option<prop::sample::Index>) {
        let mut frame = parts.frame(None);
        if let Some(index) = flip {
            let at = index.index(frame.bytes.len());
            frame.bytes[at] ^= 0x10;
        }
        let head = &frame.bytes[..frame.bytes.len().min(HEAD_LEN)];
        let by_head = Packet::parse(frame.vnet, head, frame.bytes.len());
        let by_head = by_head.and_then(|mut packet| {
            let long = packet.payload_offset + packet.payload_len > head.len();
            let checked = !matches!(packet.transport, Transport::Other | Transport::Fragment(_));
            if long && checked && !is_unchecked_udp(&packet) {
                assert_eq!(packet.checksum, ChecksumState::Unchecked);
            }
            packet.verify(&frame.bytes)?;
            Ok(packet)
        });
        prop_assert_eq!(by_head, parse(&frame));
    }

    #[test]
    fn hostile_frames_stay_within_bounds(
        parts in parts(0..400),
        offload in prop::option::of(prop::option::of(1u16..300)),
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        vnet in prop::option::of(any::<[u8; 12]>()),
        length in prop::option::of(0usize..500),
    ) {
        let mut frame = parts.frame(offload);
        for (at, value) in changes {
            if let Some(byte) = frame.bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Some(Ok(vnet)) = vnet.map(|bytes| VnetHeader::parse(&bytes)) {
            frame.vnet = vnet;
        }
        let total = length.unwrap_or(frame.bytes.len());
        let head = &frame.bytes[..frame.bytes.len().min(total)];
        if let Ok(mut packet) = Packet::parse(frame.vnet, head, total) {
            prop_assert!(packet.network_offset <= packet.transport_offset);
            prop_assert!(packet.transport_offset <= packet.payload_offset);
            prop_assert!(packet.payload_offset + packet.payload_len <= total);
            prop_assert!(packet.payload_offset <= HEAD_LEN);
            // Whatever comes of it.
            let _ = packet.verify(&head);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), total in 0usize..400) {
        let _ = Packet::parse(VnetHeader::default(), &bytes, total);
    }

    #[test]
    fn reassembled_packets_are_whole(parts in parts(0..1000)) {
        let frame = parts.frame(None);
        let packet = parse(&frame).unwrap();
        let ip = *packet.ip().unwrap();
        let fragment = match ip {
            IpHeader::V4(ip) => Ip4Header { more_fragments: true, payload_len: 8, ..ip }.into(),
            IpHeader::V6(ip) => {
                let fragment = Fragment { identification: 1, offset: 0, more: true };
                Ip6Header { fragment: Some(fragment), payload_len: 8, ..ip }.into()
            }
        };
        let payload = &frame.bytes[packet.transport_offset..];
        let whole = Packet::reassembled(packet.ether, fragment, payload).unwrap();
        prop_assert_eq!(whole.transport, packet.transport);
        prop_assert_eq!(whole.checksum, ChecksumState::Good);
        prop_assert_eq!(whole.network, Network::Ip(ip));
        prop_assert_eq!(&payload[whole.payload_offset..], &parts.payload[..]);
    }
}

/// Whether byte `at` is of a UDP checksum, which could become 0.
fn is_udp_checksum(packet: &Packet, at: usize) -> bool {
    let field = packet.transport_offset + usize::from(udp::CHECKSUM_OFFSET);
    matches!(packet.transport, Transport::Udp(_)) && (field..field + 2).contains(&at)
}

fn is_unchecked_udp(packet: &Packet) -> bool {
    matches!(
        packet.transport,
        Transport::Udp(UdpHeader { checksum: 0, .. })
    )
}

fn udp4(payload: &[u8]) -> Parts {
    let ip = Ip4Header::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::UDP);
    Parts {
        ether: EtherHeader::default(),
        ip: ip.into(),
        upper: Upper::Udp(5000, 53),
        payload: payload.to_vec(),
    }
}

fn udp6(payload: &[u8]) -> Parts {
    let ip = Ip6Header::new(
        "fd00::1".parse().unwrap(),
        "fd00::2".parse().unwrap(),
        Protocol::UDP,
    );
    Parts {
        ip: ip.into(),
        ..udp4(payload)
    }
}
