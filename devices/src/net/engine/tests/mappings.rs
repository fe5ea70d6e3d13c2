//! Static mappings: those outside begin.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::outside::{Connection, pattern, peer_sends};
use super::rig::{At, CAPABLE, Net, at};
use crate::net::engine::MapError;
use crate::net::nat::mappings::{Mapping, MappingError, Transport};
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::tcp::tests::guest::Stage;
use crate::net::nat::tcp::tests::hosts::Socket;
use crate::net::switch::PortId;

const CLIENT: &str = "203.0.113.5:40000";

fn mapping(text: &str) -> Mapping {
    text.parse().unwrap()
}

fn map(net: &mut Net, text: &str) -> Result<Mapping, MapError> {
    net.call(|engine, world| engine.map(world, mapping(text)))
}

/// Somebody connects to a listener; returns the connection's socket.
fn connect(net: &mut Net, listener: SocketId, from: &str) -> SocketId {
    let before = net.host.streams.ids();
    let mut socket = Socket {
        peer: from.parse().ok(),
        ..Socket::default()
    };
    socket.host.capacity = 1 << 20;
    net.host.streams.arrives(listener, socket);
    net.news(listener);
    let mut ids = net.host.streams.ids();
    ids.retain(|id| !before.contains(id));
    assert_eq!(ids.len(), 1);
    ids[0]
}

/// A guest's server at port 22, for a client that [`connect`]ed.
fn server(guest: At, data: Vec<u8>) -> Connection {
    Connection::new(guest, 22, at(CLIENT), data, true, 60_000)
}

#[test]
fn connections_from_outside_reach_a_guest() {
    // Known to the gateway, or to be asked for first.
    for known in [true, false] {
        let mut net = Net::new();
        let guest = net.guest(10, CAPABLE);
        if !known {
            net.stations[guest.0].v4 = Ipv4Addr::new(192, 168, 100, 77);
        }
        let address = net.stations[guest.0].v4;
        let made = map(&mut net, &format!("tcp:0.0.0.0:2222:{address}:22")).unwrap();
        assert_eq!(made.outer.port, 2222);
        let socket = connect(&mut net, SocketId(0), CLIENT);
        let mut end = server(guest, pattern(50_000));
        end.run(&mut net);
        assert_eq!(end.tcp.stage, Stage::Open);
        peer_sends(&mut net, socket, b"from outside", true);
        end.run(&mut net);
        assert_eq!(end.tcp.received, b"from outside");
        assert!(end.tcp.is_finished());
        let done = net.host.streams.done.pop().unwrap();
        assert_eq!(done.host.taken, pattern(50_000));
    }
}

/// A SYN for nobody is given up, and so is the connection.
#[test]
fn connections_to_nobody_end() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    map(&mut net, "tcp:0.0.0.0:2222:192.168.100.99:22").unwrap();
    connect(&mut net, SocketId(0), CLIENT);
    net.wait(Duration::from_secs(300));
    assert_eq!(net.engine.status(net.now).flows.tcp, 0);
    assert!(net.host.streams.ids().is_empty());
    let lost = net.drops(PortId::GATEWAY);
    assert!(matches!(lost[..], [("unresolved", 1..)]), "{lost:?}");
    assert_eq!(net.drops(net.port(guest)), []);
}

#[test]
fn mappings_end_and_their_connections_live_on() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    map(&mut net, "tcp:0.0.0.0:2222:192.168.100.10:22").unwrap();
    let socket = connect(&mut net, SocketId(0), CLIENT);
    let mut end = server(guest, Vec::new());
    while end.step(&mut net) {}
    let outer = at("0.0.0.0:2222");
    let removed = net.call(|engine, world| engine.unmap(world, Transport::Tcp, outer));
    assert_eq!(removed.unwrap().outer, outer);
    assert_eq!(net.engine.mappings().count(), 0);
    assert_eq!(net.host.streams.open(), 1, "the listener is closed");
    peer_sends(&mut net, socket, b"still here", true);
    end.run(&mut net);
    assert_eq!(end.tcp.received, b"still here");
    let again = net.call(|engine, world| engine.unmap(world, Transport::Tcp, outer));
    let error = again.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no mapping of tcp port 0.0.0.0:2222: list them with 'nestling net list'"
    );
}

#[test]
fn datagrams_from_outside_reach_a_guest_and_answers_go_back() {
    let mut net = Net::new();
    let guest = net.guest(10, CAPABLE);
    let made = map(&mut net, "udp:0.0.0.0:0:192.168.100.10:53").unwrap();
    assert_eq!(made.outer.port, 32768, "one was chosen");
    let client = at(CLIENT);
    net.datagram(SocketId(0), client, b"question");
    assert_eq!(net.one(guest).payload(), b"question");
    let frame = net.stations[guest.0].udp(client.address, (53, client.port), b"answer");
    net.send(guest, &frame);
    let sent = net.host.datagrams.last();
    assert_eq!((sent.socket, sent.to), (SocketId(0), client));
    // The port of a nested guest, who is asked for first.
    let port = net.port(guest);
    net.engine.set_spoofing(port, true).unwrap();
    let l2 = net.silent(port, 60);
    map(&mut net, "udp:0.0.0.0:5300:192.168.100.60:53").unwrap();
    net.datagram(SocketId(1), client, b"to L2");
    assert_eq!(net.one(l2).payload(), b"to L2");
}

#[test]
fn mappings_that_cant_be_are_refused_whole() {
    let mut net = Net::new();
    map(&mut net, "udp:0.0.0.0:5002:192.168.100.10:1").unwrap();
    let error = map(&mut net, "udp:0.0.0.0:5002:192.168.100.11:1").unwrap_err();
    assert!(matches!(
        error,
        MapError::Mapping(MappingError::Conflict { .. })
    ));
    // Ports that another socket of the host has, in the midst of a range.
    let guest = net.guest(10, CAPABLE);
    let frame = net.stations[guest.0].udp(at(CLIENT).address, (6002, 7), b"out");
    net.send(guest, &frame);
    assert_eq!(net.host.datagrams.open_sockets().count(), 2);
    let error = map(&mut net, "udp:0.0.0.0:6000-6005:192.168.100.10:1").unwrap_err();
    let MapError::Host {
        at: taken, source, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((taken.port, *source), (6002, SocketError::InUse));
    assert_eq!(
        net.host.datagrams.open_sockets().count(),
        2,
        "none is left open"
    );
    assert_eq!(net.engine.mappings().count(), 1);
}
