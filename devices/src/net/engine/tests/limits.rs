//! Links that are full or down, and what waits for them.

use std::time::Duration;

use super::outside::{Connection, pattern, peer_sends};
use super::rig::{CAPABLE, GATEWAY4, Net, PLAIN, at};
use crate::net::attachment::Settings;
use crate::net::nat::sockets::SocketId;
use crate::net::switch::PortId;

const SERVER: &str = "198.51.100.7:7";

/// RFC 1122, 2.3.2.2: at least the latest packet is kept.
#[test]
fn the_latest_packets_wait_for_a_station() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let late = net.silent(net.port(guest), 10);
    net.stations[late.0].v4 = "192.168.100.77".parse().unwrap();
    let mapping = "udp:0.0.0.0:53:192.168.100.77:53".parse().unwrap();
    net.call(|engine, world| engine.map(world, mapping))
        .unwrap();
    net.stations[late.0].answers = false;
    let send = |net: &mut Net, numbers: std::ops::Range<u8>| {
        for number in numbers {
            net.datagram(SocketId(0), at("203.0.113.5:9"), &[number; 100]);
        }
    };
    send(&mut net, 0..10);
    assert!(net.take(late).is_empty());
    assert_eq!(net.drops(PortId::GATEWAY), [("unresolved", 6)]);
    // It is asked again, and answers.
    net.stations[late.0].answers = true;
    net.wait(Duration::from_secs(1));
    let arrived = net.take(late);
    let numbers = arrived
        .iter()
        .filter_map(|arrived| match arrived.payload() {
            [number, rest @ ..] if rest.len() == 99 => Some(*number),
            _ => None,
        });
    assert_eq!(numbers.collect::<Vec<_>>(), [6, 7, 8, 9]);
    // Nobody answers any more: all is given up.
    net.stations[late.0].answers = false;
    net.wait(Duration::from_secs(60));
    send(&mut net, 0..1);
    net.wait(Duration::from_secs(10));
    send(&mut net, 0..2);
    net.wait(Duration::from_secs(10));
    assert_eq!(net.drops(PortId::GATEWAY), [("unresolved", 8)]);
}

#[test]
fn streams_wait_for_room_at_a_port() {
    for offloads in [CAPABLE, PLAIN] {
        let mut net = Net::new();
        let guest = net.guest(10, offloads);
        let port = net.port(guest);
        let mut end = Connection::new(guest, 5000, at(SERVER), Vec::new(), false, 9000);
        end.step(&mut net);
        let [socket] = net.host.streams.ids()[..] else {
            panic!("one connection");
        };
        net.news(socket);
        while end.step(&mut net) {}
        let data = pattern(500_000);
        net.wires.at(port).room = 1;
        peer_sends(&mut net, socket, &data, true);
        let start = net.now;
        for _ in 0..10_000 {
            if end.tcp.received.len() == data.len() {
                break;
            }
            while end.step(&mut net) {}
            net.wires.at(port).room = 2;
            net.engine.room(port);
        }
        assert_eq!(end.tcp.received, data);
        assert_eq!(net.now, start, "no retransmission was needed");
        assert_eq!(net.drops(port), []);
    }
}

#[test]
fn datagrams_for_a_full_port_are_lost_and_counted() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let port = net.port(guest);
    let frame = net.stations[guest.0].udp(at(SERVER).address, (6000, 7), b"out");
    net.send(guest, &frame);
    let socket = net.host.datagrams.last().socket;
    net.wires.at(port).room = 1;
    for _ in 0..3 {
        net.datagram(socket, at(SERVER), b"in");
    }
    assert_eq!(net.take(guest).len(), 1);
    assert_eq!(net.drops(port), [("no_room", 2)]);
}

#[test]
fn a_link_that_is_down_carries_nothing() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let port = net.port(guest);
    let frame = net.stations[guest.0].udp(at(SERVER).address, (6000, 7), b"out");
    net.send(guest, &frame);
    let socket = net.host.datagrams.last().socket;
    let down = Settings::default();
    net.engine.set(port, &down).unwrap();
    net.wires.at(port).up = false;
    net.datagram(socket, at(SERVER), b"in");
    net.send(guest, &frame);
    assert_eq!(net.drops(port), [("link_down", 1)]);
    assert_eq!(net.drops(PortId::GATEWAY), [("destination_down", 1)]);
    assert_eq!(net.host.datagrams.sent.len(), 1);
    assert!(net.has_all_frames(port));
    // Up again, the flow is where it was.
    let up = Settings {
        link: true,
        offloads: CAPABLE,
        ..Settings::default()
    };
    net.engine.set(port, &up).unwrap();
    net.wires.at(port).up = true;
    net.datagram(socket, at(SERVER), b"in");
    assert_eq!(net.one(guest).payload(), b"in");
}

/// A NIC that is reset loses its flows, and nobody else.
#[test]
fn a_reset_ends_the_flows_of_one_port() {
    let mut net = Net::new();
    let (guest, other) = (net.guest(10, CAPABLE), net.guest(11, CAPABLE));
    for guest in [guest, other] {
        let frame = net.stations[guest.0].udp(at(SERVER).address, (6000, 7), b"out");
        net.send(guest, &frame);
        let ping = net.stations[guest.0].ping(at(SERVER).address, 1, b"ping");
        net.send(guest, &ping);
    }
    let port = net.port(guest);
    net.call(|engine, world| engine.unplugged(world, port));
    let flows = net.engine.status(net.now).flows;
    assert_eq!((flows.udp, flows.icmp), (1, 1));
    assert_eq!(net.host.datagrams.open_sockets().count(), 2);
    let ping = net.stations[guest.0].ping(GATEWAY4.into(), 1, b"again");
    net.send(guest, &ping);
    assert_eq!(net.one(guest).payload(), b"again");
}
