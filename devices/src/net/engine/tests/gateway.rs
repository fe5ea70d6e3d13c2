//! What the gateway does itself with packets: answers, and lets through or
//! not.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::outside::pattern;
use super::rig::{CAPABLE, GATEWAY, GATEWAY4, Net, PLAIN, at, gateway6, mac};
use super::station::{Arrived, fragments, reassembled};
use crate::net::mac::Mac;
use crate::net::nat::sockets::SocketError;
use crate::net::services::ndp::solicited_node;
use crate::net::switch::{PortConfig, VlanSet};
use crate::net::wire::arp::Operation;
use crate::net::wire::build::{Body, HeaderBuf};
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6, Quoted, QuotedTransport};
use crate::net::wire::ip::{Fragment, Ip4Header, Ip6Header, IpHeader, Protocol};
use crate::net::wire::ndp::NdpOption;
use crate::net::wire::packet::{Network, Transport};
use crate::net::wire::tcp::{TcpFlags, TcpHeader};
use crate::net::wire::testing::{Frame, Upper};
use crate::net::wire::vnet::{Checksum, VnetHeader};

const SERVER: &str = "198.51.100.7:7";

fn is_reply(arrived: &Arrived, sequence: u16) -> bool {
    let expected = Echo {
        identifier: 0x1234,
        sequence,
    };
    match arrived.packet.transport {
        Transport::Icmp4(Icmp4::EchoReply(echo)) | Transport::Icmp6(Icmp6::EchoReply(echo)) => {
            echo == expected
        }
        _ => false,
    }
}

/// The error of ICMP in a packet, in the translation's words, and the packet
/// that it quotes.
fn error(arrived: &Arrived) -> (u8, u8, Quoted) {
    let (kind, code) = match arrived.packet.transport {
        Transport::Icmp4(Icmp4::TimeExceeded { code }) => (11, code),
        Transport::Icmp4(Icmp4::Unreachable { code, .. }) => (3, code),
        Transport::Icmp6(Icmp6::TimeExceeded { code }) => (3, code),
        Transport::Icmp6(Icmp6::Unreachable { code }) => (1, code),
        other => panic!("{other:?}"),
    };
    (kind, code, Quoted::parse(arrived.payload()).unwrap())
}

fn syn() -> TcpHeader {
    TcpHeader {
        source: 5000,
        destination: 80,
        seq: 77,
        flags: TcpFlags::SYN,
        window: 1000,
        ..TcpHeader::default()
    }
}

pub(super) fn with_hops(mut ip: IpHeader, hops: u8) -> IpHeader {
    match &mut ip {
        IpHeader::V4(ip) => ip.ttl = hops,
        IpHeader::V6(ip) => ip.hop_limit = hops,
    }
    ip
}

#[test]
fn the_gateway_answers_questions_for_its_addresses() {
    let mut net = Net::new();
    let port = net.plug(
        PortConfig {
            addresses: vec![mac(10)],
            ..PortConfig::default()
        },
        CAPABLE,
    );
    let guest = net.silent(port, 10);
    let [arp, solicitation] = net.stations[guest.0].questions();
    net.send(guest, &arp);
    let answer = net.one(guest);
    let Network::Arp(arp) = answer.packet.network else {
        panic!("{answer:?}");
    };
    assert_eq!(arp.operation, Operation::Reply);
    assert_eq!((arp.sender_mac, arp.sender_ip), (Mac(GATEWAY), GATEWAY4));
    net.send(guest, &solicitation);
    let answer = net.one(guest);
    let Transport::Icmp6(Icmp6::NeighborAdvertisement { target, router, .. }) =
        answer.packet.transport
    else {
        panic!("{answer:?}");
    };
    assert!(router && IpAddr::from(target) == gateway6());
    assert_eq!(answer.packet.ether.source, Mac(GATEWAY));
    assert_eq!(net.drops(port), []);
}

#[test]
fn pings_of_any_size_are_answered() {
    for offloads in [CAPABLE, PLAIN] {
        for scattered in [false, true] {
            let mut net = Net::new();
            let guest = net.guest(10, offloads);
            let port = net.port(guest);
            net.wires.at(port).scattered = scattered;
            let local = Ipv6Addr::new(0xFE80, 0, 0, 0, 0x6E, 0x65FF, 0xFE73, 0x7401);
            for to in [GATEWAY4.into(), gateway6(), local.into()] {
                for (sequence, len) in (1..).zip([0, 56, 1452, 1472, 1473, 3000, 60_000]) {
                    let data = pattern(len);
                    let ping = net.stations[guest.0].ping(to, sequence, &data);
                    let mut pieces = vec![ping];
                    if len > 1452 {
                        pieces = fragments(&pieces[0], sequence.into());
                        // Out of order, and once more.
                        pieces.reverse();
                    }
                    if pieces.len() > 1 {
                        pieces.insert(1, pieces[0].clone());
                    }
                    for piece in &pieces {
                        net.send(guest, piece);
                    }
                    let arrived = net.take(guest);
                    assert!(arrived.iter().all(|arrived| arrived.source() == to));
                    if arrived.len() == 1 {
                        assert!(is_reply(&arrived[0], sequence));
                        assert_eq!(arrived[0].payload(), data);
                    } else {
                        assert!(len > 1452);
                        assert_eq!(reassembled(&arrived), data);
                    }
                }
            }
            assert_eq!(net.drops(port), []);
            assert!(net.has_all_frames(port));
        }
    }
}

/// Frames in VLANs are between guests: the gateway is in none.
#[test]
fn tagged_frames_dont_reach_the_gateway() {
    let mut net = Net::new();
    let port = net.plug(
        PortConfig {
            addresses: vec![mac(10)],
            vlans: VlanSet::new([7]).unwrap(),
            ..PortConfig::default()
        },
        CAPABLE,
    );
    let guest = net.station(port, 10);
    let echo = Upper::Echo(Echo {
        identifier: 1,
        sequence: 1,
    });
    for (vlan, answered) in [(Some(7), false), (Some(0), true), (None, true)] {
        let mut parts = net.stations[guest.0].packet(GATEWAY4.into(), echo, b"tag");
        parts.ether.vlan = vlan;
        net.send(guest, &parts.frame(None));
        assert_eq!(!net.take(guest).is_empty(), answered, "{vlan:?}");
    }
    assert_eq!(net.drops(port), [("vlan", 1)]);
}

#[test]
fn each_drop_has_its_reason() {
    let mut net = Net::new();
    let (guest, other) = (net.guest(10, CAPABLE), net.guest(11, CAPABLE));
    let port = net.port(guest);
    let station = |net: &Net| -> (Ipv4Addr, Ipv6Addr) {
        let station = &net.stations[guest.0];
        (station.v4, station.v6)
    };
    let (v4, v6) = station(&net);
    let udp = Upper::Udp(5000, 9);
    let from = |net: &Net, source: IpAddr, to: IpAddr, upper| {
        let mut parts = net.stations[guest.0].packet(to, upper, b"payload");
        parts.ip = IpHeader::new(source, to, Protocol::default()).unwrap();
        parts.frame(None)
    };
    let server = at(SERVER).address;
    let foreign = Ipv4Addr::new(10, 9, 8, 7).into();
    let group = Ipv4Addr::new(224, 0, 0, 22).into();
    let tcp = Upper::Tcp(syn());
    let other4 = net.stations[other.0].v4.into();
    let other6: IpAddr = net.stations[other.0].v6.into();
    let nobody = Ipv4Addr::UNSPECIFIED.into();
    let outside6: IpAddr = "2001:db8::7".parse().unwrap();
    let local6: IpAddr = "fe80::10".parse().unwrap();
    let cases = [
        (
            "another's address",
            from(&net, other4, server, udp),
            "foreign_source",
        ),
        (
            "another's address",
            from(&net, other6, outside6, udp),
            "foreign_source",
        ),
        (
            "the gateway's address",
            from(&net, GATEWAY4.into(), server, udp),
            "foreign_source",
        ),
        (
            "a foreign address",
            from(&net, foreign, server, udp),
            "foreign_source",
        ),
        (
            "no address",
            from(&net, nobody, server, udp),
            "foreign_source",
        ),
        (
            "no address",
            from(&net, nobody, server, tcp),
            "foreign_source",
        ),
        (
            "a link's address",
            from(&net, local6, outside6, tcp),
            "foreign_source",
        ),
        (
            "a neighbour",
            from(&net, v4.into(), other4, udp),
            "on_link_destination",
        ),
        (
            "a neighbour",
            from(&net, v4.into(), other4, tcp),
            "on_link_destination",
        ),
        (
            "a neighbour",
            from(&net, v6.into(), other6, udp),
            "on_link_destination",
        ),
        (
            "the network itself",
            from(&net, v4.into(), Ipv4Addr::new(192, 168, 100, 0).into(), udp),
            "on_link_destination",
        ),
        (
            "a connection to a group",
            from(&net, v4.into(), group, tcp),
            "",
        ),
        (
            "a datagram to a group",
            from(&net, v4.into(), group, udp),
            "",
        ),
    ];
    let mut expected = BTreeMap::<&str, u64>::new();
    for (what, frame, reason) in &cases {
        net.send(guest, frame);
        if !reason.is_empty() {
            *expected.entry(reason).or_default() += 1;
        }
        let counted: BTreeMap<_, _> = net.drops(port).into_iter().collect();
        assert_eq!(counted, expected, "{what}");
        assert!(
            net.take(guest).is_empty() && net.take(other).is_empty(),
            "{what}"
        );
    }
    assert_eq!(net.engine.status(net.now).flows.udp, 0);
    assert_eq!(net.engine.status(net.now).flows.tcp, 0);
}

/// Membership reports, and what else guests say to groups.
#[test]
fn the_gateway_is_a_bystander_of_groups() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let (ether, v4, local) = {
        let station = &net.stations[guest.0];
        let local = station.address("fe80::1".parse().unwrap());
        (
            station.to(Mac([0x33, 0x33, 0, 0, 0, 0x16])),
            station.v4,
            local,
        )
    };
    let IpAddr::V6(local) = local else {
        panic!("of IPv6");
    };
    let mut headers = HeaderBuf::default();
    // Of IGMP, OSPF and VRRP, whose checksums are no concern of the gateway's.
    for (protocol, group) in [(2, 22), (89, 5), (112, 18)] {
        let ip = Ip4Header::new(v4, Ipv4Addr::new(224, 0, 0, group), Protocol(protocol)).into();
        let vnet = headers.fragment(&ether, &ip, &[0x22; 16], 0).unwrap();
        let bytes = headers.frame().to_vec();
        net.send(guest, &Frame { vnet, bytes });
    }
    // Of MLD.
    let group = "ff02::16".parse().unwrap();
    for kind in [131, 132, 143] {
        let report = Icmp6::Other {
            kind,
            code: 0,
            rest: [0; 4],
        };
        let ip = Ip6Header::new(local, group, Protocol::ICMPV6);
        let vnet = headers.icmp6(&ether, &ip, &report, &[0; 16]).unwrap();
        let bytes = [headers.frame(), &[0; 16]].concat();
        net.send(guest, &Frame { vnet, bytes });
    }
    // Questions of guests about each other, and duplicate address detection.
    let other = Ipv4Addr::new(192, 168, 100, 77);
    let station = &net.stations[guest.0];
    let arp = station.arp(Operation::Request, Mac::BROADCAST, v4, other);
    let target = "fd00::77".parse().unwrap();
    let icmp = Icmp6::NeighborSolicitation { target };
    let to = solicited_node(target);
    let option = NdpOption::SourceLinkLayer(station.mac.into());
    let solicitation = station.discovery(station.v6, to, &icmp, &option);
    for frame in [arp, solicitation] {
        net.send(guest, &frame);
    }
    assert_eq!(net.drops(net.port(guest)), []);
    // Of another protocol to a host outside, it is one.
    let ip = Ip4Header::new(v4, Ipv4Addr::new(198, 51, 100, 7), Protocol(47)).into();
    let ether = net.stations[guest.0].to_gateway();
    let vnet = headers.fragment(&ether, &ip, &[0; 16], 0).unwrap();
    let bytes = headers.frame().to_vec();
    net.send(guest, &Frame { vnet, bytes });
    assert_eq!(net.drops(net.port(guest)), [("protocol", 1)]);
}

/// traceroute(8) by TCP, UDP and ICMP.
#[test]
fn what_ends_at_the_gateway_is_reported() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let echo = Echo {
        identifier: 9,
        sequence: 1,
    };
    let uppers = [Upper::Tcp(syn()), Upper::Udp(5000, 80), Upper::Echo(echo)];
    let outside6: IpAddr = "2001:db8::7".parse().unwrap();
    for (to, kind) in [(at(SERVER).address, 11), (outside6, 3)] {
        for upper in uppers {
            for hops in [0, 1] {
                let mut parts = net.stations[guest.0].packet(to, upper, &[]);
                parts.ip = with_hops(parts.ip, hops);
                net.send(guest, &parts.frame(None));
                let answer = net.one(guest);
                let (told, code, quoted) = error(&answer);
                assert_eq!((told, code), (kind, 0), "{upper:?}");
                assert!([GATEWAY4.into(), gateway6()].contains(&answer.source()));
                assert_eq!(quoted.ip.destination(), to);
                if let (Upper::Tcp(_), QuotedTransport::Ports { next, .. }) =
                    (upper, quoted.transport)
                {
                    assert_eq!(next, 77);
                }
            }
        }
    }
    let port = net.port(guest);
    assert_eq!(net.drops(port), [("tcp_hop_limit", 4), ("translation", 8)]);
    assert_eq!(net.translation_drops(), [("hop_limit", 8)]);
    assert!(net.host.streams.asked.is_empty());
    // What is for the gateway itself goes no further anyway.
    let mut parts = net.stations[guest.0].packet(GATEWAY4.into(), uppers[2], &[]);
    parts.ip = with_hops(parts.ip, 1);
    net.send(guest, &parts.frame(None));
    assert!(is_reply_of(&net.one(guest), echo));
}

fn is_reply_of(arrived: &Arrived, echo: Echo) -> bool {
    arrived.packet.transport == Transport::Icmp4(Icmp4::EchoReply(echo))
}

#[test]
fn fragments_that_come_too_late_are_reported() {
    let outside6: IpAddr = "2001:db8::7".parse().unwrap();
    for (to, kind) in [(at(SERVER).address, 11), (outside6, 3)] {
        let mut net = Net::new();
        let guest = net.guest(10, CAPABLE);
        let ping = net.stations[guest.0].ping(to, 1, &[7; 3000]);
        let pieces = fragments(&ping, 99);
        // One lacks its last fragment, another its first.
        net.send(guest, &pieces[0]);
        net.send(guest, &fragments(&ping, 100)[1]);
        net.wait(Duration::from_secs(61));
        let mut arrived = net.take(guest);
        arrived.retain(|arrived| !is_advertisement(arrived));
        assert_eq!(arrived.len(), 1);
        let (told, code, quoted) = error(&arrived[0]);
        assert_eq!((told, code), (kind, 1));
        assert_eq!(quoted.ip.destination(), to);
        assert_eq!(net.translation_drops(), [("reassembly_timeout", 2)]);
    }
}

pub(super) fn is_advertisement(arrived: &Arrived) -> bool {
    matches!(
        arrived.packet.transport,
        Transport::Icmp6(Icmp6::RouterAdvertisement(_))
    )
}

/// RFC 6980, 5: the switch can't see into fragments.
#[test]
fn discovery_in_fragments_is_not_believed() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let station = &net.stations[guest.0];
    let solicitation = &station.questions()[1];
    // Two pieces of it.
    let IpHeader::V6(ip) = IpHeader::parse(&solicitation.bytes[14..]).unwrap().0 else {
        panic!("of IPv6");
    };
    let body = &solicitation.bytes[54..];
    assert_eq!(body.len(), 32);
    let ether = station.to(Mac(solicitation.bytes[..6].try_into().unwrap()));
    let mut headers = HeaderBuf::default();
    for (range, more) in [(0..16, true), (16..32, false)] {
        let ip = Ip6Header {
            fragment: Some(Fragment {
                identification: 6,
                offset: range.start.try_into().unwrap(),
                more,
            }),
            ..ip
        };
        let vnet = headers
            .fragment(&ether, &ip.into(), &body[range], 0)
            .unwrap();
        let bytes = headers.frame().to_vec();
        net.send(guest, &Frame { vnet, bytes });
    }
    assert!(net.take(guest).is_empty());
    assert_eq!(net.drops(net.port(guest)), [("discovery_ignored", 1)]);
}

/// What a guest sends by VXLAN lacks its inner checksum, if its NIC is to make
/// that.
#[test]
fn checksums_in_tunnels_are_completed_before_they_leave() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let to = at("198.51.100.7:4789");
    let inner = net.stations[guest.0]
        .packet(
            at(SERVER).address,
            Upper::Udp(1, 2),
            b"in the innermost packet",
        )
        .frame(None);
    let mut unfinished = net.stations[guest.0]
        .packet(
            at(SERVER).address,
            Upper::Udp(1, 2),
            b"in the innermost packet",
        )
        .frame(Some(None));
    let request = unfinished.vnet.needs_checksum.unwrap();
    assert_ne!(inner.bytes, unfinished.bytes);
    let outer = net.stations[guest.0].packet(to.address, Upper::Udp(5000, to.port), b"");
    let mut headers = HeaderBuf::default();
    headers
        .udp(
            &outer.ether,
            &outer.ip,
            (5000, to.port),
            Body::Whole(&unfinished.bytes),
        )
        .unwrap();
    let mut bytes = headers.frame().to_vec();
    // Without a checksum of its own, as tunnels are (RFC 7348, 5).
    let field = bytes.len() - 2;
    bytes[field..].fill(0);
    let start = u16::try_from(bytes.len()).unwrap() + request.start;
    bytes.append(&mut unfinished.bytes);
    for scattered in [false, true] {
        net.wires.at(net.stations[guest.0].port).scattered = scattered;
        let vnet = VnetHeader {
            needs_checksum: Some(Checksum { start, ..request }),
            ..VnetHeader::default()
        };
        let bytes = bytes.clone();
        net.send(guest, &Frame { vnet, bytes });
        let sent = net.host.datagrams.sent.pop().expect("it was sent");
        assert_eq!((sent.to, &sent.payload), (to, &inner.bytes));
    }
}

/// RFC 5508, REQ-7.
#[test]
fn errors_about_hairpinned_datagrams_reach_their_sender() {
    let mut net = Net::new();
    let (a, b) = (net.guest(10, CAPABLE), net.guest(11, CAPABLE));
    let server = at(SERVER);
    // Both have an outer port: 6000 and 7000.
    for (guest, port) in [(a, 6000), (b, 7000)] {
        let frame = net.stations[guest.0].udp(server.address, (port, server.port), b"out");
        net.send(guest, &frame);
    }
    let host = at("192.0.2.1:7000");
    let frame = net.stations[a.0].udp(host.address, (6000, host.port), b"hairpin");
    net.send(a, &frame);
    let arrived = net.one(b);
    assert_eq!(arrived.source(), host.address);
    assert_eq!(arrived.payload(), b"hairpin");
    let Transport::Udp(header) = arrived.packet.transport else {
        panic!("{arrived:?}");
    };
    assert_eq!((header.source, header.destination), (6000, 7000));
    // Guest b has closed its port.
    let quote = &arrived.bytes[14..14 + 28];
    let station = &net.stations[b.0];
    let report = |from: Ipv4Addr, quote: &[u8]| {
        let icmp = Icmp4::Unreachable { code: 3, mtu: 0 };
        let ip = Ip4Header::new(from, Ipv4Addr::new(192, 0, 2, 1), Protocol::ICMP);
        let mut headers = HeaderBuf::default();
        let vnet = headers
            .icmp4(&station.to_gateway(), &ip, &icmp, &quote)
            .unwrap();
        let bytes = [headers.frame(), quote].concat();
        Frame { vnet, bytes }
    };
    let frames = [
        report(station.v4, quote),
        report(station.v4, &quote[..20]),
        // About a datagram for somebody else.
        report(
            station.v4,
            &net.stations[a.0].udp(server.address, (1, 2), b"").bytes[14..],
        ),
    ];
    net.send(b, &frames[0]);
    let told = net.one(a);
    assert_eq!(told.source(), host.address);
    let (kind, code, quoted) = error(&told);
    assert_eq!((kind, code), (3, 3));
    assert_eq!(quoted.ip.source(), IpAddr::from(net.stations[a.0].v4));
    assert_eq!(quoted.ip.destination(), host.address);
    let QuotedTransport::Ports {
        source,
        destination,
        ..
    } = quoted.transport
    else {
        panic!("{quoted:?}");
    };
    assert_eq!((source, destination), (6000, 7000));
    assert_eq!(net.drops(net.port(b)), []);
    net.send(b, &frames[1]);
    net.send(b, &frames[2]);
    assert!(net.take(a).is_empty());
    assert_eq!(net.drops(net.port(b)), [("icmp_ignored", 2)]);
}

#[test]
fn what_the_host_learns_about_a_datagram_is_told() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let server = at(SERVER);
    let frame = net.stations[guest.0].udp(server.address, (6000, server.port), b"out");
    net.send(guest, &frame);
    let socket = net.host.datagrams.last().socket;
    let router: IpAddr = Ipv4Addr::new(203, 0, 113, 1).into();
    let reason = (SocketError::TimeExceeded, Some(router));
    net.call(|engine, world| engine.datagram_error(world, socket, server, reason, 3));
    let told = net.one(guest);
    assert_eq!(told.source(), router);
    let (kind, code, quoted) = error(&told);
    assert_eq!((kind, code), (11, 0));
    assert_eq!(quoted.ip.destination(), server.address);
}
