//! Connections that are made to us.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpStream};

use super::*;

fn connect(port: u16) -> TcpStream {
    connect_to(loopback(port))
}

fn connect_to(address: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(address).unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer
}

#[test]
fn connections_are_accepted() {
    for mut world in World::each() {
        connections_are_accepted_at(Ipv4Addr::LOCALHOST.into(), &mut world);
    }
    if std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
        for mut world in World::each() {
            connections_are_accepted_at(Ipv6Addr::LOCALHOST.into(), &mut world);
        }
    }
}

fn connections_are_accepted_at(address: IpAddr, world: &mut World) {
    let (listener, port) = world.host.listen((address, 0).into()).unwrap();
    assert_eq!(world.host.accept(listener), Err(SocketError::WouldBlock));
    let at = (address, port).into();
    let mut peers = [connect_to(at), connect_to(at)];
    assert_eq!(world.wait(listener, Readiness::READABLE), Role::Listener);
    for peer in &mut peers {
        let (socket, from) = world.host.accept(listener).unwrap();
        assert_eq!(from, peer.local_addr().unwrap());
        peer.write_all(b"hello").unwrap();
        while world.host.peek(socket, 0, 5).unwrap().len < 5 {
            world.wait(socket, Readiness::READABLE);
        }
        assert_eq!(world.view(socket, 0, 5), b"hello");
        world.host.send(socket, b"world", 0..5).unwrap();
        let mut answer = [0; 5];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"world");
    }
    assert_eq!(world.host.accept(listener), Err(SocketError::WouldBlock));
    assert_eq!(world.host.len(), 3);
    assert_eq!(world.host.bound.len(), 0, "the port is the listener's");
}

#[test]
fn addresses_are_taken_or_not_ours() {
    let mut world = World::new();
    let (listener, port) = world.host.listen(loopback(0)).unwrap();
    let again = world.host.listen(loopback(port));
    assert_eq!(again, Err(SocketError::InUse));
    let elsewhere = (Ipv4Addr::new(192, 0, 2, 1), 0).into();
    let elsewhere = world.host.listen(elsewhere);
    assert_eq!(elsewhere, Err(SocketError::NoSuchAddress));
    Streams::close(&mut world.host, listener);
    assert_eq!(world.host.listen(loopback(port)).unwrap().1, port);
}

#[test]
fn connections_wait_until_there_is_room() {
    let limits = Limits {
        sockets: 2,
        ..Limits::default()
    };
    let mut world = World::with(limits, |_| {});
    let (listener, port) = world.host.listen(HERE.into()).unwrap();
    let _peers = [connect(port), connect(port)];
    world.wait(listener, Readiness::READABLE);
    let (first, _) = world.host.accept(listener).unwrap();
    for _ in 0..2 {
        let full = world.host.accept(listener);
        assert_eq!(full, Err(SocketError::Exhausted));
    }
    world.old_news();
    Streams::close(&mut world.host, first);
    world.wait(listener, Readiness::READABLE);
    assert!(world.host.accept(listener).is_ok());
}
