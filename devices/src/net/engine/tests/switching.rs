//! Guests among each other, through the switch.

use proptest::prelude::*;

use super::outside::pattern;
use super::rig::{At, CAPABLE, GATEWAY4, Net, PLAIN, at, mac};
use super::services::lease;
use super::wires::Received;
use crate::net::mac::Mac;
use crate::net::port::Offloads;
use crate::net::wire::ip::IpHeader;
use crate::net::wire::packet::Transport;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};
use crate::net::wire::testing::{Parts, Upper, offloadable};
use crate::net::wire::vnet::Gso;

/// A frame from one guest straight to another.
fn between(net: &Net, from: At, to: At, v6: bool, upper: Upper, payload: &[u8]) -> Parts {
    let (from, to) = (&net.stations[from.0], &net.stations[to.0]);
    let address = if v6 { to.v6.into() } else { to.v4.into() };
    let mut parts = from.packet(address, upper, payload);
    parts.ether.destination = to.mac.into();
    parts
}

fn segment(flags: TcpFlags) -> TcpHeader {
    TcpHeader {
        source: 5000,
        destination: 80,
        seq: 0xFFFF_FF00,
        ack: 1,
        flags: flags | TcpFlags::ACK,
        window: 1000,
        ..TcpHeader::default()
    }
}

/// Offloads, and how many frames 20 segments are for one who can so much.
const RECEIVERS: [(Offloads, usize); 4] = [
    (CAPABLE, 1),
    (PLAIN, 20),
    (Offloads::CHECKSUM, 20),
    (
        Offloads::CHECKSUM
            .union(Offloads::TSO4)
            .union(Offloads::TSO6),
        1,
    ),
];

#[test]
fn a_long_frame_reaches_each_as_it_can_take_it() {
    let data = pattern(20 * 1000);
    for (offloads, frames) in RECEIVERS {
        for (v6, scattered) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut net = Net::new();
            let (a, b) = (net.guest(10, CAPABLE), net.guest(11, offloads));
            let (from, to) = (net.port(a), net.port(b));
            net.wires.at(from).scattered = scattered;
            let header = segment(TcpFlags::FIN | TcpFlags::PSH);
            let parts = between(&net, a, b, v6, Upper::Tcp(header), &data);
            net.send(a, &parts.frame(Some(Some(1000))));
            assert_eq!(net.wires.at(to).sent.len(), frames);
            let arrived = net.take(b);
            assert_eq!(arrived.len(), 20);
            for (number, arrived) in (0..).zip(&arrived) {
                let Transport::Tcp(header) = arrived.packet.transport else {
                    panic!("{arrived:?}");
                };
                assert_eq!(header.seq, 0xFFFF_FF00_u32.wrapping_add(number * 1000));
                let last = number == 19;
                let ends = header.flags.contains(TcpFlags::FIN | TcpFlags::PSH);
                assert_eq!(ends, last);
            }
            let bytes: Vec<u8> = arrived.iter().flat_map(|a| a.payload().to_vec()).collect();
            assert_eq!(bytes, data);
            assert!(net.has_all_frames(from));
            assert_eq!((net.drops(from), net.drops(to)), (vec![], vec![]));
        }
    }
}

/// CWR is the first segment's alone (RFC 3168, 6.1.2): who doesn't know that
/// gets segments.
#[test]
fn congestion_is_told_once() {
    for (offloads, frames) in [
        (CAPABLE, 1),
        (CAPABLE.difference(Offloads::ECN), 3),
        (PLAIN, 3),
    ] {
        let mut net = Net::new();
        let (a, b) = (net.guest(10, CAPABLE), net.guest(11, offloads));
        let parts = between(
            &net,
            a,
            b,
            false,
            Upper::Tcp(segment(TcpFlags::CWR)),
            &[7; 3000],
        );
        let frame = parts.frame(Some(Some(1000)));
        assert!(matches!(frame.vnet.gso, Gso::Tcp4 { ecn: true, .. }));
        net.send(a, &frame);
        let to = net.port(b);
        assert_eq!(net.wires.at(to).sent.len(), frames);
        let arrived = net.take(b);
        let told = arrived
            .iter()
            .map(|arrived| match arrived.packet.transport {
                Transport::Tcp(header) => header.flags.contains(TcpFlags::CWR),
                _ => panic!("{arrived:?}"),
            });
        assert_eq!(told.collect::<Vec<_>>(), [true, false, false]);
    }
}

#[test]
fn what_a_port_cant_take_is_counted_there() {
    let mut net = Net::new();
    let (a, b) = (net.guest(10, CAPABLE), net.guest(11, PLAIN));
    let to = net.port(b);
    let upper = Upper::Tcp(segment(TcpFlags::empty()));
    let long = between(&net, a, b, false, upper, &[7; 4000]);
    // A frame, or its segments, longer than the link.
    net.send(a, &long.frame(None));
    net.send(a, &long.frame(Some(Some(1461))));
    assert_eq!(net.drops(to), [("not_taken", 2)]);
    // The first segments find room, the rest is lost.
    net.wires.at(to).room = 2;
    net.send(a, &long.frame(Some(Some(1000))));
    assert_eq!(net.take(b).len(), 2);
    net.send(a, &long.frame(Some(Some(1000))));
    assert!(net.take(b).is_empty());
    assert_eq!(net.drops(to), [("no_room", 1), ("not_taken", 2)]);
    // Nobody is there.
    net.wires.at(to).room = usize::MAX;
    net.wires.at(to).up = false;
    net.send(a, &long.frame(Some(Some(1000))));
    assert_eq!(net.drops(to), [("no_room", 1), ("not_taken", 3)]);
    let from = net.port(a);
    assert!(net.has_all_frames(from));
}

#[test]
fn nested_guests_are_members_where_spoofing_is_on() {
    let mut net = Net::new();
    let l1 = net.guest(10, CAPABLE);
    let (port, other) = (net.port(l1), net.guest(20, PLAIN));
    let l2 = net.silent(port, 50);
    assert_eq!(lease(&mut net, l2), None);
    assert_eq!(net.drops(port), [("spoofed_source", 1)]);
    net.engine.set_spoofing(port, true).unwrap();
    let address = lease(&mut net, l2).expect("a lease of its own");
    net.stations[l2.0].v4 = address;
    let ping = net.stations[l2.0].ping(GATEWAY4.into(), 1, b"from L2");
    net.send(l2, &ping);
    assert_eq!(net.one(l2).payload(), b"from L2");
    let server = at("198.51.100.7:7");
    let frame = net.stations[l2.0].udp(server.address, (6000, 7), b"out");
    net.send(l2, &frame);
    let sent = net.host.datagrams.sent.pop().unwrap();
    net.datagram(sent.socket, server, b"back");
    assert_eq!(net.one(l2).payload(), b"back");
    // And with another guest of the switch.
    let parts = between(&net, other, l2, false, Upper::Udp(1, 2), b"to L2");
    net.send(other, &parts.frame(None));
    assert_eq!(net.one(l2).payload(), b"to L2");
    assert!(net.take(l1).is_empty());
    // Off again: what is for it isn't for L1's port any more.
    net.engine.set_spoofing(port, false).unwrap();
    net.send(other, &parts.frame(None));
    net.send(l2, &ping);
    assert!(net.take(l2).is_empty());
}

/// L1 translates for its own L2: all comes from L1's addresses.
#[test]
fn nested_guests_behind_a_nat_need_no_spoofing() {
    for spoofing in [false, true] {
        let mut net = Net::new();
        let l1 = net.guest(10, CAPABLE);
        let port = net.port(l1);
        net.engine.set_spoofing(port, spoofing).unwrap();
        let server = at("198.51.100.7:7");
        for l2 in 0..3 {
            let frame = net.stations[l1.0].udp(server.address, (40_000 + l2, 7), b"out");
            net.send(l1, &frame);
            let sent = net.host.datagrams.sent.pop().unwrap();
            net.datagram(sent.socket, server, b"back");
            let Transport::Udp(header) = net.one(l1).packet.transport else {
                panic!("no datagram");
            };
            assert_eq!(header.destination, 40_000 + l2);
        }
        assert_eq!(net.drops(port), []);
    }
}

#[test]
fn broadcasts_reach_all_and_the_gateway_once() {
    let mut net = Net::new();
    let guests: Vec<_> = (10..14).map(|last| net.guest(last, CAPABLE)).collect();
    let mut parts = between(
        &net,
        guests[0],
        guests[1],
        false,
        Upper::Udp(137, 137),
        b"hello",
    );
    parts.ether.destination = Mac::BROADCAST;
    let IpHeader::V4(ip) = &mut parts.ip else {
        panic!("of IPv4");
    };
    ip.destination = "192.168.100.255".parse().unwrap();
    net.send(guests[0], &parts.frame(None));
    assert!(net.take(guests[0]).is_empty());
    for &guest in &guests[1..] {
        assert_eq!(net.one(guest).payload(), b"hello");
    }
    assert!(net.host.datagrams.sent.is_empty());
}

fn offloads() -> impl Strategy<Value = Offloads> {
    any::<u8>().prop_map(Offloads::from_bits_truncate)
}

proptest! {
    /// Whoever does the work, the same frames are on the wire.
    #[test]
    fn the_receiver_gets_what_was_sent(
        parts in offloadable(0..4000),
        offload in prop::option::of(prop::option::of(8u16..1400)),
        offloads in offloads(),
        scattered: bool,
    ) {
        let mut net = Net::new();
        let (a, b) = (net.guest(10, CAPABLE), net.guest(11, offloads));
        let (from, to) = (net.port(a), net.port(b));
        net.wires.at(from).scattered = scattered;
        let mut parts = parts;
        parts.ether.source = mac(10).into();
        parts.ether.destination = mac(11).into();
        parts.ether.vlan = None;
        if let Upper::Udp(_, to) = &mut parts.upper {
            // Not as a DHCP server.
            *to |= 0x8000;
        }
        let frame = parts.frame(offload);
        let size = frame.vnet.gso.size();
        // So many datagrams can't be in one frame.
        let many = matches!(frame.vnet.gso, Gso::UdpL4 { size } if parts.payload.len() > 128 * usize::from(size));
        let expected = Received { vnet: frame.vnet, bytes: frame.bytes.clone() };
        net.send(a, &frame);
        let sent = std::mem::take(&mut net.wires.at(to).sent);
        let content = size.map_or(parts.payload.len(), |size| parts.payload.len().min(size.into()));
        let headers = frame.bytes.len() - parts.payload.len();
        if many {
            prop_assert_eq!(net.drops(from), [("bad_segmentation", 1)]);
        } else if headers + content > 1514 {
            prop_assert_eq!(net.drops(to), [("not_taken", 1)]);
        } else {
            let finished: Vec<_> = sent.iter().flat_map(Received::finished).collect();
            prop_assert_eq!(finished, expected.finished());
        }
        prop_assert!(net.has_all_frames(from));
    }
}
