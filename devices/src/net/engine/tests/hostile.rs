//! One guest does its worst, and another's service goes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::gateway::with_hops;
use super::outside::syn;
use super::rig::{
    At, CAPABLE, CONNECTIONS, FLOWS, FRAGMENTS, GATEWAY, GATEWAY4, Net, STATIONS, at, gateway6, mac,
};
use super::services::{dhcp, lease, query};
use super::station::fragments;
use crate::net::mac::{Mac, MacAddress};
use crate::net::services::ndp::ALL_NODES;
use crate::net::switch::PortId;
use crate::net::wire::arp::Operation;
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6, RouterAdvertisement};
use crate::net::wire::ip::{Ip6Header, IpHeader, Protocol};
use crate::net::wire::ndp::NdpOption;
use crate::net::wire::packet::Transport;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};
use crate::net::wire::testing::{Frame, Parts, Upper, parts};

const SERVER: &str = "198.51.100.7:7";

/// A network with a hostile guest, which may spoof, and a good one.
fn net() -> (Net, At, At) {
    let mut net = Net::new();
    let bad = net.guest(10, CAPABLE);
    let good = net.guest(20, CAPABLE);
    let port = net.port(bad);
    net.engine.set_spoofing(port, true).unwrap();
    (net, bad, good)
}

/// The good guest is served as ever.
fn check_service(net: &mut Net, good: At) {
    net.take(good);
    for to in [GATEWAY4.into(), gateway6()] {
        let ping = net.stations[good.0].ping(to, 1, b"are you there");
        net.send(good, &ping);
        let arrived = net.take(good);
        let answers = arrived
            .iter()
            .filter(|arrived| arrived.payload() == b"are you there" && arrived.source() == to);
        assert_eq!(answers.count(), 1);
    }
    let server = at(SERVER);
    let frame = net.stations[good.0].udp(server.address, (6001, 7), b"out");
    net.send(good, &frame);
    let sent = net.host.datagrams.sent.pop().unwrap();
    assert_eq!((sent.to, &sent.payload[..]), (server, &b"out"[..]));
    net.datagram(sent.socket, server, b"in");
    let arrived = net.take(good);
    assert!(arrived.iter().any(|arrived| arrived.payload() == b"in"));
    let port = net.port(good);
    assert!(net.has_all_frames(port));
}

/// All that a guest can make grow is within its bounds.
fn check_bounds(net: &mut Net, bad: At) {
    let status = net.engine.status(net.now);
    let per_guest = usize::try_from(FLOWS.per_guest).unwrap();
    let total = usize::try_from(FLOWS.total).unwrap();
    for flows in [status.flows.tcp, status.flows.udp, status.flows.icmp] {
        assert!(flows <= total);
    }
    assert!(net.host.streams.ids().len() <= per_guest + 1);
    assert!(net.host.datagrams.open_sockets().count() <= 2 * total + 64);
    let port = net.port(bad);
    let stations = net.engine.port_status(port, net.now).stations;
    assert!(stations.len() <= STATIONS);
    assert!(net.engine.fragments.bytes() <= FRAGMENTS.total);
    let parked = usize::try_from(CONNECTIONS.parked).unwrap();
    assert!(net.wires.at(port).out.len() <= parked + 1);
}

/// Good frames of all kinds, from the bad guest.
fn kinds(net: &Net, bad: At, good: At) -> Vec<Frame> {
    let station = &net.stations[bad.0];
    let outside6: IpAddr = "2001:db8::7".parse().unwrap();
    let to = at(SERVER).address;
    let first = TcpHeader {
        source: 5000,
        destination: 80,
        flags: TcpFlags::SYN,
        window: 1000,
        ..TcpHeader::default()
    };
    let data = TcpHeader {
        flags: TcpFlags::ACK,
        ..first
    };
    let neighbour = |mut parts: Parts| {
        parts.ether.destination = net.stations[good.0].mac.into();
        parts
    };
    let group = Mac::of_group6(ALL_NODES);
    let mut frames = vec![
        station.udp(to, (6000, 7), b"datagram"),
        station.udp(outside6, (6000, 7), b"datagram"),
        station.ping(to, 1, &[1; 40]),
        station.ping(gateway6(), 1, &[1; 2000]),
        station.udp(GATEWAY4.into(), (5353, 53), &query(1, "a.example.org", 1)),
        station.udp(GATEWAY4.into(), (5353, 53), &query(2, "guest.internal", 28)),
        station.packet(to, Upper::Tcp(first), &[]).frame(None),
        station.packet(outside6, Upper::Tcp(first), &[]).frame(None),
        station
            .packet(to, Upper::Tcp(data), &[5; 4000])
            .frame(Some(Some(1000))),
        station
            .packet(outside6, Upper::Udp(6, 7), &[5; 4000])
            .frame(Some(Some(1000))),
        neighbour(station.packet(net.stations[good.0].v4.into(), Upper::Tcp(data), &[5; 9000]))
            .frame(Some(Some(1400))),
        neighbour(station.packet(net.stations[good.0].v6.into(), Upper::Udp(1, 2), &[5; 90]))
            .frame(Some(None)),
        station.arp(Operation::Reply, Mac(GATEWAY), station.v4, GATEWAY4),
        dhcp(net, bad, 1, None),
        dhcp(net, bad, 3, Some(Ipv4Addr::new(192, 168, 100, 100))),
        Frame {
            vnet: Default::default(),
            bytes: [&group.0[..], &station.mac.bytes(), &[0x88, 0xCC, 1, 2]].concat(),
        },
    ];
    frames.extend(station.questions());
    for frame in [&frames[3].clone(), &station.udp(to, (1, 2), &[9; 4000])] {
        frames.extend(fragments(frame, 7));
    }
    frames
}

#[derive(Clone, Debug)]
enum Change {
    /// Writes a byte of the frame, the virtio header included.
    Write(Index, u8),
    /// Flips a bit near the start, where the headers are.
    Flip(usize, u8),
    Cut(Index),
    Grow(Vec<u8>),
}

#[derive(Clone, Debug)]
enum Step {
    Send(Index, Vec<Change>),
    /// Any bytes, behind addresses that lead somewhere or not.
    Raw(Vec<u8>, bool),
    /// A frame of the bad guest's with anything in it.
    Parts(Parts, Option<Option<u16>>),
    Wait(u32),
    /// News of any socket, good or not.
    News(u32),
    Datagram(u32, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Write(at, byte)),
        6 => (0usize..100, 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..100).prop_map(Change::Grow),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::vec(change(), 0..4);
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let offload = prop::option::of(prop::option::of(8u16..2000));
    prop_oneof![
        12 => (any::<Index>(), changes).prop_map(|(kind, changes)| Step::Send(kind, changes)),
        2 => (bytes(), any::<bool>()).prop_map(|(bytes, led)| Step::Raw(bytes, led)),
        4 => (parts(0..3000), offload).prop_map(|(parts, offload)| Step::Parts(parts, offload)),
        1 => (0u32..400_000).prop_map(Step::Wait),
        1 => (0u32..8).prop_map(Step::News),
        1 => (0u32..8, bytes()).prop_map(|(socket, bytes)| Step::Datagram(socket, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Write(..) | Change::Flip(..) | Change::Cut(_) if bytes.is_empty() => {}
            Change::Write(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Flip(at, bit) => {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
            Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Change::Grow(more) => bytes.extend_from_slice(more),
        }
    }
}

impl Step {
    fn take(&self, net: &mut Net, bad: At, kinds: &[Frame]) {
        let port = net.port(bad);
        match self {
            Self::Send(kind, changes) => {
                let frame = kind.get(kinds);
                let mut bytes = [&frame.vnet.bytes()[..], &frame.bytes].concat();
                apply(&mut bytes, changes);
                net.send_raw(port, &bytes);
            }
            Self::Raw(bytes, led) => {
                let mut bytes = bytes.clone();
                if *led && bytes.len() >= 24 {
                    bytes[12..18].copy_from_slice(&GATEWAY);
                    bytes[18..24].copy_from_slice(&net.stations[bad.0].mac.bytes());
                }
                net.send_raw(port, &bytes);
            }
            Self::Parts(parts, offload) => {
                let mut parts = parts.clone();
                parts.ether = net.stations[bad.0].to_gateway();
                parts.ip = match (parts.ip, net.stations[bad.0].v4, net.stations[bad.0].v6) {
                    (IpHeader::V4(mut ip), v4, _) => {
                        ip.source = v4;
                        ip.into()
                    }
                    (IpHeader::V6(mut ip), _, v6) => {
                        ip.source = v6;
                        ip.into()
                    }
                };
                net.send(bad, &parts.frame(*offload));
            }
            Self::Wait(milliseconds) => {
                net.wait(Duration::from_millis((*milliseconds).into()));
            }
            Self::News(socket) => {
                let ids = net.host.streams.ids();
                let socket = usize::try_from(*socket).unwrap();
                if let Some(id) = ids.get(socket) {
                    net.news(*id);
                }
            }
            Self::Datagram(socket, bytes) => {
                let ids: Vec<_> = net.host.datagrams.open_sockets().collect();
                let socket = usize::try_from(*socket).unwrap();
                if let Some(id) = ids.get(socket) {
                    net.datagram(*id, at(SERVER), bytes);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_frame_harms_another(
        steps in prop::collection::vec(step(), 1..60),
        scattered: bool,
    ) {
        let (mut net, bad, good) = net();
        let port = net.port(bad);
        net.wires.at(port).scattered = scattered;
        let other = net.port(good);
        // What another guest made may be wrong: nobody vouches for it.
        net.wires.at(other).strict = false;
        let kinds = kinds(&net, bad, good);
        for step in &steps {
            step.take(&mut net, bad, &kinds);
            net.settle();
            check_bounds(&mut net, bad);
        }
        check_service(&mut net, good);
        net.wait(Duration::from_secs(3 * 3600));
        let flows = net.engine.status(net.now).flows;
        prop_assert_eq!((flows.udp, flows.icmp), (0, 0));
        prop_assert_eq!(net.host.datagrams.open_sockets().count(), 0);
        prop_assert_eq!(net.engine.fragments.bytes(), 0);
        net.call(|engine, world| engine.remove_port(world, port)).unwrap();
        prop_assert!(net.has_all_frames(port));
        prop_assert_eq!(net.engine.status(net.now).flows.tcp, 0);
        prop_assert!(net.host.streams.ids().is_empty());
    }
}

#[test]
fn a_hundred_thousand_flows_are_as_many_as_may_be() {
    let (mut net, bad, good) = net();
    let to = at(SERVER).address;
    for number in 0..100_000u32 {
        let [_, high, a, b] = number.to_be_bytes();
        let port = u16::from_be_bytes([a, b]);
        net.stations[bad.0].v4 = Ipv4Addr::new(192, 168, 100, 200 + high);
        let station = &net.stations[bad.0];
        let frame = match number % 3 {
            0 => station.udp(to, (port, 7), b"flood"),
            1 => {
                let echo = Echo {
                    identifier: port,
                    sequence: 1,
                };
                station.packet(to, Upper::Echo(echo), b"flood").frame(None)
            }
            _ => syn(&net, bad, to, (port, 80)),
        };
        net.send(bad, &frame);
        if number % 1000 == 0 {
            net.settle();
            net.host.datagrams.sent.clear();
        }
    }
    let flows = net.engine.status(net.now).flows;
    assert_eq!((flows.udp, flows.icmp), (1500, 1500));
    assert_eq!(flows.tcp, 100, "none was established");
    assert_eq!(net.host.datagrams.open_sockets().count(), 3000);
    assert_eq!(net.host.streams.ids().len(), 100);
    check_bounds(&mut net, bad);
    check_service(&mut net, good);
    let port = net.port(bad);
    net.wires.unplug(port);
    net.call(|engine, world| engine.remove_port(world, port))
        .unwrap();
    assert_eq!(net.host.datagrams.open_sockets().count(), 1);
    assert!(net.host.streams.ids().is_empty());
}

#[test]
fn one_port_cant_starve_others_of_leases() {
    let (mut net, bad, good) = net();
    let mut leases = 0;
    for number in 0..1000u16 {
        let [a, b] = number.to_be_bytes();
        net.stations[bad.0].mac = MacAddress::new([2, 1, 0, 0, a, b]).unwrap();
        leases += usize::from(lease(&mut net, bad).is_some());
    }
    assert!(leases <= STATIONS, "{leases}");
    assert!(lease(&mut net, good).is_some());
    check_service(&mut net, good);
}

/// Nor by the hardware address of their messages.
#[test]
fn leases_are_for_the_sender_of_a_message() {
    let (mut net, bad, good) = net();
    let port = net.port(bad);
    let mut message = dhcp(&net, bad, 1, None);
    // The client's hardware address isn't the frame's source.
    message.bytes[14 + 20 + 8 + 28 + 5] ^= 1;
    let udp = 14 + 20 + 6;
    message.bytes[udp..udp + 2].fill(0);
    net.send(bad, &message);
    assert!(net.take(bad).is_empty());
    assert_eq!(net.drops(port), [("dhcp_ignored", 1)]);
    check_service(&mut net, good);
}

#[test]
fn stations_are_bounded_and_keep_what_is_theirs() {
    let (mut net, bad, good) = net();
    let port = net.port(bad);
    for number in 0..5000u16 {
        let [a, b] = number.to_be_bytes();
        net.stations[bad.0].mac = MacAddress::new([2, 1, 0, 0, a, b]).unwrap();
        let ping = net.stations[bad.0].ping(GATEWAY4.into(), 1, b"flood");
        net.send(bad, &ping);
    }
    net.stations[bad.0].mac = mac(10);
    check_bounds(&mut net, bad);
    let flooded: u64 = net.drops(port).iter().map(|(_, count)| count).sum();
    // Of others, and of the gateway.
    let stolen = net.stations[good.0].mac;
    for address in [stolen, MacAddress::new(GATEWAY).unwrap()] {
        net.stations[bad.0].mac = address;
        let ping = net.stations[bad.0].ping(GATEWAY4.into(), 1, b"theft");
        net.send(bad, &ping);
        net.stations[bad.0].mac = mac(10);
    }
    let drops: u64 = net.drops(port).iter().map(|(_, count)| count).sum();
    assert_eq!(drops, flooded + 2);
    assert!(
        net.take(bad)
            .iter()
            .all(|arrived| arrived.payload() != b"theft")
    );
    check_service(&mut net, good);
}

#[test]
fn nobody_takes_addresses_of_the_gateway_or_of_others() {
    let (mut net, bad, good) = net();
    let station = &net.stations[bad.0];
    let victim = &net.stations[good.0];
    let IpAddr::V6(gateway) = gateway6() else {
        panic!("of IPv6");
    };
    let own = NdpOption::TargetLinkLayer(station.mac.into());
    let claim = |target| Icmp6::NeighborAdvertisement {
        target,
        router: true,
        solicited: false,
        override_: true,
    };
    let router = Icmp6::RouterAdvertisement(RouterAdvertisement::default());
    let IpAddr::V6(local) = station.address("fe80::1".parse().unwrap()) else {
        panic!("of IPv6");
    };
    let frames = [
        // To all, and to the gateway and the victim themselves.
        station.arp(Operation::Reply, Mac::BROADCAST, GATEWAY4, victim.v4),
        station.arp(Operation::Request, Mac::BROADCAST, GATEWAY4, GATEWAY4),
        station.arp(Operation::Reply, victim.mac.into(), GATEWAY4, victim.v4),
        station.discovery(station.v6, ALL_NODES, &claim(gateway), &own),
        station.discovery(gateway, ALL_NODES, &claim(station.v6), &own),
        station.discovery(local, ALL_NODES, &router, &own),
    ];
    for frame in &frames {
        net.send(bad, frame);
    }
    assert!(net.take(good).is_empty());
    let port = net.port(bad);
    assert_eq!(
        net.drops(port),
        [("gateway_claim", 5), ("router_message", 1)]
    );
    // The victim's own addresses: it isn't believed by the gateway.
    let station = &net.stations[bad.0];
    let victim = &net.stations[good.0];
    let frames = [
        station.arp(Operation::Request, Mac::BROADCAST, victim.v4, GATEWAY4),
        station.arp(Operation::Reply, Mac(GATEWAY), victim.v4, GATEWAY4),
        station.discovery(station.v6, gateway, &claim(victim.v6), &own),
        station.discovery(
            victim.v6,
            gateway,
            &Icmp6::RouterSolicitation,
            &NdpOption::SourceLinkLayer(station.mac.into()),
        ),
    ];
    for wait in [0, 5, 29] {
        net.wait(Duration::from_secs(wait));
        for frame in &frames {
            net.send(bad, frame);
        }
        net.take(bad);
        check_service(&mut net, good);
    }
    // Long silent, it is asked, and says so.
    net.wait(Duration::from_secs(300));
    for frame in &frames {
        net.send(bad, frame);
    }
    net.wait(Duration::from_secs(10));
    check_service(&mut net, good);
}

#[test]
fn fragments_that_overlap_lead_nowhere() {
    let (mut net, bad, good) = net();
    for to in [at(SERVER).address, "2001:db8::7".parse().unwrap()] {
        let whole = net.stations[bad.0].udp(to, (6000, 7), &[1; 3000]);
        let other = net.stations[bad.0].udp(to, (6000, 7), &[2; 3000]);
        let pieces = fragments(&whole, 5);
        let mut lies = fragments(&other, 5);
        // The second piece again, with other bytes; then what was missing.
        net.send(bad, &pieces[1]);
        net.send(bad, &lies.swap_remove(1));
        net.send(bad, &pieces[0]);
        net.send(bad, &pieces[2]);
        assert!(net.host.datagrams.sent.is_empty());
    }
    // A flood of first pieces.
    for number in 100..2100 {
        let whole = net.stations[bad.0].udp(at(SERVER).address, (6000, 7), &[1; 3000]);
        net.send(bad, &fragments(&whole, number)[0]);
        check_bounds(&mut net, bad);
    }
    let drops = net.translation_drops();
    assert!(drops.contains(&("reassembly_overlap", 6)), "{drops:?}");
    // The other's fragments have room.
    let long = net.stations[good.0].udp(at(SERVER).address, (6000, 7), &[3; 3000]);
    for piece in fragments(&long, 5) {
        net.send(good, &piece);
    }
    assert_eq!(net.host.datagrams.sent.pop().unwrap().payload, [3; 3000]);
    check_service(&mut net, good);
}

/// Each address that nobody has costs little, and others are still found.
#[test]
fn questions_for_nobody_are_bounded() {
    let (mut net, bad, good) = net();
    let to = at(SERVER);
    for number in 0..2000u16 {
        let [a, b] = number.to_be_bytes();
        net.stations[bad.0].v6 =
            Ipv6Addr::from([0xFD, 0, 0, 0, 0, 0, 0, 0, 0xBA, 0xD0, 0, 0, 0, 0, a, b]);
        // An answer is for an address that nobody answers for.
        let ping = net.stations[bad.0].ping(gateway6(), 1, &[1; 1000]);
        net.stations[bad.0].answers = false;
        net.send(bad, &ping);
    }
    net.take(bad);
    let lost = net.drops(PortId::GATEWAY);
    assert!(matches!(lost[..], [("unresolved", 1000..)]), "{lost:?}");
    check_service(&mut net, good);
    net.wait(Duration::from_secs(10));
    let late = net.guest(30, CAPABLE);
    let frame = net.stations[late.0].udp(to.address, (6000, 7), b"out");
    net.send(late, &frame);
    check_service(&mut net, late);
}

/// IPv6 with a chain of extension headers that has no end, or lies.
#[test]
fn extension_headers_are_walked_a_bounded_way() {
    let (mut net, bad, good) = net();
    let v6 = net.stations[bad.0].v6;
    let IpAddr::V6(to) = gateway6() else {
        panic!("of IPv6");
    };
    for count in [1usize, 7, 8, 30, 180] {
        let ip = Ip6Header::new(v6, to, Protocol(60));
        let mut chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(count);
        let ether = net.stations[bad.0].to_gateway();
        for last in [60, 0, 59, 58] {
            let at = chain.len() - 8;
            chain[at] = last;
            let mut headers = HeaderBuf::default();
            let vnet = headers
                .fragment(&ether, &ip.into(), &[], chain.len())
                .unwrap();
            let bytes = [headers.frame(), &chain].concat();
            net.send(bad, &Frame { vnet, bytes });
        }
    }
    let port = net.port(bad);
    let drops: u64 = net.drops(port).iter().map(|(_, count)| count).sum();
    assert_eq!(drops, 20);
    assert!(net.has_all_frames(port));
    check_service(&mut net, good);
}

/// RFC 4443, 2.4 (f): a guest that asks for errors gets no flood of them, and
/// others still get theirs.
#[test]
fn errors_are_told_at_a_bounded_rate() {
    let mut net = Net::new();
    let greedy = net.guest(10, CAPABLE);
    let other = net.guest(11, CAPABLE);
    let told = |net: &mut Net, guest: At, packets: usize| {
        for _ in 0..packets {
            let datagram = Upper::Udp(5000, 80);
            let mut parts = net.stations[guest.0].packet(at(SERVER).address, datagram, &[]);
            parts.ip = with_hops(parts.ip, 1);
            net.send(guest, &parts.frame(None));
        }
        let arrived = net.take(guest).into_iter();
        let errors = arrived.filter(|arrived| {
            matches!(
                arrived.packet.transport,
                Transport::Icmp4(Icmp4::TimeExceeded { .. })
            )
        });
        errors.count()
    };
    assert_eq!(told(&mut net, greedy, 80), 50);
    assert_eq!(net.drops(PortId::GATEWAY), [("icmp_error_limit", 30)]);
    assert_eq!(told(&mut net, other, 5), 5);
    net.wait(Duration::from_millis(10));
    assert_eq!(told(&mut net, greedy, 20), 10);
    net.wait(Duration::from_secs(3600));
    assert_eq!(told(&mut net, greedy, 60), 50);
}
