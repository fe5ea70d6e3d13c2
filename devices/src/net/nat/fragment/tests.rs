use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::net::nat::flows::Guest;
use crate::net::nat::fragments::{Fragments, Limits};
use crate::net::payload::{Part, Payload};
use crate::net::time::Time;
use crate::net::wire::build::Body;
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6};
use crate::net::wire::ip::Protocol;
use crate::net::wire::packet::{Packet, Transport};

const ETHER: EtherHeader = EtherHeader {
    destination: crate::net::mac::Mac([2, 0, 0, 0, 0, 1]),
    source: crate::net::mac::Mac([2, 0, 0, 0, 0, 2]),
    ethertype: 0,
    vlan: None,
};

const LIMITS: Limits = Limits {
    total: 1 << 20,
    per_guest: 1 << 19,
};

const ECHO: Echo = Echo {
    identifier: 7,
    sequence: 8,
};

/// The headers of a packet with this payload.
fn whole(six: bool, echo: bool, payload: &[u8]) -> HeaderBuf {
    let mut headers = HeaderBuf::default();
    let [source, destination] = if six {
        ["2001:db8::1", "fd00::10"]
    } else {
        ["198.51.100.7", "192.168.100.10"]
    };
    let [source, destination]: [IpAddr; 2] = [source, destination].map(|a| a.parse().unwrap());
    let ip = IpHeader::new(source, destination, Protocol::UDP).unwrap();
    match (ip, echo) {
        (ip, false) => headers.udp(&ETHER, &ip, (53, 4000), Body::Whole(&payload)),
        (IpHeader::V4(ip), true) => headers.icmp4(&ETHER, &ip, &Icmp4::EchoReply(ECHO), &payload),
        (IpHeader::V6(ip), true) => headers.icmp6(&ETHER, &ip, &Icmp6::EchoReply(ECHO), &payload),
    }
    .unwrap();
    headers
}

/// The frames that a packet becomes.
fn frames(whole: &HeaderBuf, payload: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let mut headers = HeaderBuf::default();
    let pieces = Fragmenter::new(whole, mtu, 0x1_2345).unwrap();
    let frames = pieces.map(|piece| {
        let vnet = piece.compose(&ETHER, &mut headers).unwrap();
        assert_eq!(vnet, VnetHeader::default());
        let part = Part::new(&payload, piece.payload);
        let mut bytes = vec![0; part.len()];
        assert_eq!(part.read_at(0, &mut bytes), bytes.len());
        [headers.frame(), &bytes].concat()
    });
    frames.collect()
}

fn parse(frame: &[u8]) -> Packet {
    Packet::parse(VnetHeader::default(), frame, frame.len()).unwrap()
}

#[test]
fn fragments_are_as_long_as_the_link_lets_them() {
    // (whether IPv6, the payload, its pieces)
    for (six, len, expected) in [
        (false, 1473, &[0..1472, 1472..1473][..]),
        (false, 2952, &[0..1472, 1472..2952]),
        (false, 2953, &[0..1472, 1472..2952, 2952..2953]),
        (true, 1453, &[0..1440, 1440..1453]),
        (true, 2889, &[0..1440, 1440..2888, 2888..2889]),
    ] {
        let payload = vec![7; len];
        let whole = whole(six, false, &payload);
        let pieces = Fragmenter::new(&whole, 1500, 1).unwrap();
        let ranges: Vec<_> = pieces.clone().map(|piece| piece.payload).collect();
        assert_eq!(ranges, expected);
        assert_eq!(
            pieces.clone().filter(|piece| piece.start.is_some()).count(),
            1
        );
        for frame in frames(&whole, &payload, 1500) {
            assert!(frame.len() <= 14 + 1500);
            let packet = parse(&frame);
            assert_eq!(packet.ether.destination, ETHER.destination);
            let Transport::Fragment(fragment) = packet.transport else {
                panic!("no fragment")
            };
            let identification = if six { 0x1_2345 } else { 0x2345 };
            assert_eq!(fragment.identification, identification);
        }
    }
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let payload = [0; 100];
    for six in [false, true] {
        let whole = whole(six, false, &payload);
        let least = if six { 40 + 8 + 8 } else { 20 + 8 };
        for mtu in 0..least {
            let error = Fragmenter::new(&whole, mtu, 0).unwrap_err();
            assert_eq!(error, WireError::NoRoom("fragmented"));
        }
        let smallest = Fragmenter::new(&whole, least, 0).unwrap();
        assert_eq!(smallest.count(), 108 / 8 + 1);
    }
    assert!(Fragmenter::new(&HeaderBuf::default(), 1500, 0).is_err());
    let mut bare = HeaderBuf::default();
    let ip = *parse(&frames(&whole(false, false, &payload), &payload, 1500)[0])
        .ip()
        .unwrap();
    bare.fragment(&ETHER, &ip, &[], 100).unwrap();
    assert!(Fragmenter::new(&bare, 1500, 0).is_err());
}

proptest! {
    #[test]
    fn what_is_cut_comes_together(
        six: bool,
        echo: bool,
        len in 0usize..=65507,
        mtu in 576u16..9001,
        shuffle in prop::collection::vec((any::<Index>(), any::<Index>()), 0..100),
        again in any::<Index>(),
    ) {
        let payload: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
        let mut frames = frames(&whole(six, echo, &payload), &payload, mtu);
        for (a, b) in shuffle {
            let (a, b) = (a.index(frames.len()), b.index(frames.len()));
            frames.swap(a, b);
        }
        // One comes twice, before all are there.
        let last = frames.len() - 1;
        if last > 0 {
            frames.insert(last, frames[again.index(last)].clone());
        }
        let mut fragments = Fragments::new(LIMITS);
        let mut whole = None;
        for frame in &frames {
            prop_assert!(whole.is_none() && frame.len() <= usize::from(mtu) + 14);
            let packet = parse(frame);
            // One that is all of its packet is no fragment (RFC 6946).
            if last == 0 {
                break;
            }
            let start = packet.payload_offset;
            let part = Part::new(frame, start..start + packet.payload_len);
            let ip = packet.ip().unwrap();
            whole = fragments.insert(Time::ZERO, Guest(1), ip, &part).unwrap();
        }
        let Some(whole) = whole else {
            prop_assert_eq!(last, 0);
            return Ok(());
        };
        // The checksum over all of it is verified here.
        let packet = Packet::reassembled(ETHER, whole.header, &whole.payload).unwrap();
        prop_assert_eq!(&whole.payload[packet.payload_offset..], &payload);
        match packet.transport {
            Transport::Udp(udp) => prop_assert_eq!((udp.source, udp.destination), (53, 4000)),
            Transport::Icmp4(icmp) => prop_assert_eq!(icmp, Icmp4::EchoReply(ECHO)),
            Transport::Icmp6(icmp) => prop_assert_eq!(icmp, Icmp6::EchoReply(ECHO)),
            transport => prop_assert!(false, "{:?}", transport),
        }
        prop_assert_eq!(fragments.bytes(), 0);
    }
}
