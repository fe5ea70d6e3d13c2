//! Addresses and names, as guests get them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::outside::syn;
use super::rig::{At, CAPABLE, GATEWAY4, Net, PLAIN, RESOLVER, gateway6, mac};
use super::station::Arrived;
use crate::net::mac::Mac;
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::services::dhcp6;
use crate::net::switch::{PortConfig, PortId};
use crate::net::wire::icmp::Icmp6;
use crate::net::wire::ip::{Ip4Header, IpHeader, Protocol};
use crate::net::wire::ndp::NdpOption;
use crate::net::wire::packet::{Packet, Transport};
use crate::net::wire::tcp::TcpFlags;
use crate::net::wire::testing::{Frame, Parts, Upper};

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const RELEASE: u8 = 7;

/// A DHCP client's message (RFC 2131, figure 1).
pub(super) fn dhcp(net: &Net, at: At, kind: u8, requested: Option<Ipv4Addr>) -> Frame {
    let station = &net.stations[at.0];
    let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4];
    message.resize(28, 0);
    message.extend(station.mac.bytes());
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, kind]);
    if let Some(address) = requested {
        message.extend([50, 4]);
        message.extend(address.octets());
        message.extend([54, 4]);
        message.extend(GATEWAY4.octets());
    }
    message.push(255);
    let parts = Parts {
        ether: station.to(Mac::BROADCAST),
        ip: Ip4Header::new(
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Protocol::default(),
        )
        .into(),
        upper: Upper::Udp(68, 67),
        payload: message,
    };
    parts.frame(None)
}

/// What a DHCP server says: its message's type and the client's address.
fn answer(arrived: &Arrived) -> (u8, Ipv4Addr) {
    let message = arrived.payload();
    let address: [u8; 4] = message[16..20].try_into().unwrap();
    assert_eq!(message[240..242], [53, 1]);
    (message[242], address.into())
}

/// Has a station ask for an address; none if it gets no answer.
pub(super) fn lease(net: &mut Net, at: At) -> Option<Ipv4Addr> {
    let discover = dhcp(net, at, DISCOVER, None);
    net.send(at, &discover);
    let arrived = net.take(at).pop()?;
    let (kind, address) = answer(&arrived);
    assert_eq!(kind, OFFER);
    let request = dhcp(net, at, REQUEST, Some(address));
    net.send(at, &request);
    let arrived = net.take(at).pop()?;
    assert_eq!(answer(&arrived), (ACK, address));
    Some(address)
}

/// A query for the address of a name (RFC 1035, 4.1).
pub(super) fn query(id: u16, name: &str, kind: u8) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    message
}

/// A resolver's answer to a query, with this address.
fn resolved(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[7] = 1;
    message.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(address.octets());
    message
}

fn port(net: &mut Net, last: u8) -> PortId {
    let config = PortConfig {
        addresses: vec![mac(last)],
        ..PortConfig::default()
    };
    net.plug(config, CAPABLE)
}

#[test]
fn a_guest_gets_a_lease_and_is_known_by_it() {
    let mut net = Net::new();
    let port = port(&mut net, 20);
    let guest = net.silent(port, 20);
    let address = lease(&mut net, guest).unwrap();
    net.stations[guest.0].v4 = address;
    let status = net.engine.status(net.now);
    let leases: Vec<_> = status.leases.iter().map(|l| (l.address, l.mac)).collect();
    assert_eq!(leases, [(address.into(), mac(20))]);
    // The gateway needs no question to send it something.
    net.stations[guest.0].answers = false;
    let ping = net.stations[guest.0].ping(GATEWAY4.into(), 1, b"hello");
    net.send(guest, &ping);
    assert_eq!(net.one(guest).payload(), b"hello");
    assert_eq!(net.drops(port), []);
    assert!(net.has_all_frames(port));
}

/// An address goes from one guest to another as soon as it is given back.
#[test]
fn a_released_address_is_the_next_guests() {
    let mut net = Net::new();
    let (port_a, port_b) = (port(&mut net, 20), port(&mut net, 21));
    let (a, b) = (net.silent(port_a, 20), net.silent(port_b, 21));
    let address = lease(&mut net, a).unwrap();
    net.stations[a.0].v4 = address;
    // What isn't given back isn't b's.
    net.stations[b.0].v4 = address;
    net.stations[b.0].answers = false;
    let ping = net.stations[b.0].ping(GATEWAY4.into(), 1, b"mine");
    net.send(b, &ping);
    assert_eq!(net.drops(port_b), [("foreign_source", 1)]);
    let mut release = dhcp(&net, a, RELEASE, None);
    let Ok(packet) = Packet::parse(release.vnet, &release.bytes, release.bytes.len()) else {
        panic!("of DHCP");
    };
    // From the address that is given back.
    let mut message = release.bytes.split_off(packet.payload_offset);
    message[12..16].copy_from_slice(&address.octets());
    message.splice(243..243, [&[54, 4][..], &GATEWAY4.octets()].concat());
    let upper = Upper::Udp(68, 67);
    let parts = net.stations[a.0].packet(GATEWAY4.into(), upper, &message);
    net.send(a, &parts.frame(None));
    net.stations[a.0].answers = false;
    net.stations[b.0].answers = true;
    net.take(b);
    net.send(b, &ping);
    assert_eq!(net.one(b).payload(), b"mine");
    assert!(net.take(a).is_empty());
}

/// DHCPv6 (RFC 8415, 18.2.1) with a lease at once (21.14).
#[test]
fn a_guest_gets_an_ipv6_lease() {
    let mut net = Net::new();
    let port = port(&mut net, 20);
    let guest = net.silent(port, 20);
    let station = &net.stations[guest.0];
    let mut solicit = vec![1, 0xA, 0xB, 0xC, 0, 1, 0, 10, 0, 3, 0, 1];
    solicit.extend(station.mac.bytes());
    solicit.extend([0, 14, 0, 0]);
    solicit.extend([0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut parts = station.packet(gateway6(), Upper::Udp(546, 547), &solicit);
    let local = station.address("fe80::1".parse().unwrap());
    let to = dhcp6::ALL_SERVERS;
    parts.ether.destination = Mac::of_group6(to);
    parts.ip = IpHeader::new(local, to.into(), Protocol::default()).unwrap();
    net.send(guest, &parts.frame(None));
    let answer = net.one(guest);
    assert_eq!(answer.destination(), local);
    assert_eq!(answer.payload()[..4], [7, 0xA, 0xB, 0xC], "a reply");
    let leases = net.engine.status(net.now).leases;
    let [lease] = &leases[..] else {
        panic!("{leases:?}");
    };
    let IpAddr::V6(address) = lease.address else {
        panic!("{leases:?}");
    };
    let octets = address.octets();
    assert!(answer.payload().windows(16).any(|bytes| bytes == octets));
    // It is known by it.
    net.stations[guest.0].v6 = address;
    net.stations[guest.0].answers = false;
    let ping = net.stations[guest.0].ping(gateway6(), 1, b"hello");
    net.send(guest, &ping);
    assert_eq!(net.one(guest).payload(), b"hello");
    assert_eq!(net.drops(port), []);
}

#[test]
fn routers_are_found_with_and_without_an_address() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let station = &net.stations[guest.0];
    let IpAddr::V6(local) = station.address("fe80::1".parse().unwrap()) else {
        panic!("of IPv6");
    };
    let all_routers = "ff02::2".parse().unwrap();
    let option = NdpOption::SourceLinkLayer(station.mac.into());
    let solicit = station.discovery(local, all_routers, &Icmp6::RouterSolicitation, &option);
    net.send(guest, &solicit);
    let arrived = net.one(guest);
    assert_eq!(arrived.destination(), IpAddr::from(local));
    let Transport::Icmp6(Icmp6::RouterAdvertisement(router)) = arrived.packet.transport else {
        panic!("{arrived:?}");
    };
    assert_eq!(router.lifetime, 1800);
    // Some come unasked.
    net.wait(Duration::from_secs(60));
    let arrived = net.take(guest);
    assert!(!arrived.is_empty());
    let to_all: IpAddr = "ff02::1".parse().unwrap();
    assert!(
        arrived
            .iter()
            .all(|arrived| arrived.destination() == to_all)
    );
    assert_eq!(net.drops(net.port(guest)), []);
}

#[test]
fn names_are_resolved_by_the_hosts_resolver() {
    for (server, offloads) in [(GATEWAY4.into(), CAPABLE), (gateway6(), PLAIN)] {
        let mut net = Net::new();
        let guest = net.guest(10, offloads);
        let question = query(0x1111, "www.example.org", 1);
        let frame = net.stations[guest.0].udp(server, (5353, 53), &question);
        net.send(guest, &frame);
        let asked = net.host.datagrams.last().clone();
        assert_eq!(SocketAddr::from(asked.to).to_string(), RESOLVER);
        assert_eq!(asked.payload[2..], question[2..]);
        // Nobody else is believed.
        let reply = resolved(&asked.payload, Ipv4Addr::new(203, 0, 113, 9));
        let liar = "198.51.100.54:53".parse::<SocketAddr>().unwrap();
        net.datagram(asked.socket, liar.into(), &reply);
        assert!(net.take(guest).is_empty());
        net.datagram(asked.socket, asked.to, &reply);
        let arrived = net.one(guest);
        assert_eq!(arrived.source(), server);
        let mut expected = reply.clone();
        expected[..2].copy_from_slice(&[0x11, 0x11]);
        assert_eq!(arrived.payload(), expected);
        assert_eq!(net.host.datagrams.open_sockets().count(), 0);
        assert_eq!(net.drops(net.port(guest)), []);
    }
}

#[test]
fn a_resolver_that_says_nothing_is_given_up() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let question = query(7, "www.example.org", 1);
    let frame = net.stations[guest.0].udp(GATEWAY4.into(), (5353, 53), &question);
    net.send(guest, &frame);
    let asked = net.host.datagrams.last().clone();
    let reason = (SocketError::Refused, None);
    net.call(|engine, world| engine.datagram_error(world, asked.socket, asked.to, reason, 3));
    net.wait(Duration::from_secs(30));
    let arrived = net.take(guest);
    let datagrams = arrived.iter();
    let failures: Vec<_> = datagrams
        .filter(|arrived| matches!(arrived.packet.transport, Transport::Udp(_)))
        .map(|arrived| arrived.payload()[3] & 15)
        .collect();
    assert_eq!(failures, [2], "SERVFAIL, once");
    assert!(net.host.datagrams.sent.len() > 1, "it was asked again");
    assert_eq!(net.host.datagrams.open_sockets().count(), 0);
}

#[test]
fn queries_end_with_their_port() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    for id in 0..5 {
        let question = query(id, "www.example.org", 1);
        let frame = net.stations[guest.0].udp(GATEWAY4.into(), (5353 + id, 53), &question);
        net.send(guest, &frame);
    }
    assert_eq!(net.host.datagrams.open_sockets().count(), 5);
    let port = net.port(guest);
    net.wires.unplug(port);
    net.call(|engine, world| engine.remove_port(world, port))
        .unwrap();
    assert_eq!(net.host.datagrams.open_sockets().count(), 0);
    // An answer that was on its way leads nowhere.
    let from = net.host.datagrams.last().to;
    net.datagram(SocketId(0), from, &[0; 40]);
    assert_eq!(net.translation_drops(), [("no_flow", 1)]);
}

#[test]
fn queries_over_tcp_lead_to_the_resolver() {
    for server in [IpAddr::from(GATEWAY4), gateway6()] {
        let mut net = Net::new();
        let guest = net.guest(10, CAPABLE);
        let first = syn(&net, guest, server, (5000, 53));
        net.send(guest, &first);
        let [socket] = net.host.streams.ids()[..] else {
            panic!("one connection");
        };
        let peer = net.host.streams.socket(socket).peer.unwrap();
        assert_eq!(peer.to_string(), RESOLVER);
        // Other ports of the gateway's are closed.
        let first = syn(&net, guest, server, (5000, 80));
        net.send(guest, &first);
        let answer = net.one(guest);
        let Transport::Tcp(header) = answer.packet.transport else {
            panic!("{answer:?}");
        };
        assert!(header.flags.contains(TcpFlags::RST));
    }
}

#[test]
fn queries_over_tcp_pass_over_a_silent_resolver() {
    const SECOND: &str = "198.51.100.54:53";
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let resolvers = [RESOLVER, SECOND].map(|at| at.parse().unwrap());
    net.engine.set_resolvers(&resolvers);
    let question = query(7, "www.example.org", 1);
    let frame = net.stations[guest.0].udp(GATEWAY4.into(), (5353, 53), &question);
    net.send(guest, &frame);
    let asked = net.host.datagrams.last().clone();
    assert_eq!(SocketAddr::from(asked.to), resolvers[0]);
    net.wait(Duration::from_secs(3));
    let first = syn(&net, guest, GATEWAY4.into(), (5000, 53));
    net.send(guest, &first);
    let [socket] = net.host.streams.ids()[..] else {
        panic!("one connection");
    };
    assert_eq!(net.host.streams.socket(socket).peer, Some(resolvers[1]));
}
