//! Sockets for datagrams.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::num::NonZeroU16;

use super::namespace::{in_namespace, set_loopback_mtu};
use super::*;
use crate::net::host::message::{Name, receive_message};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::{SendOptions, Sockets};
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6};

const UDP4: SocketKind = SocketKind::Udp(Family::V4);
const PLAIN: SendOptions = SendOptions {
    segment: None,
    hop_limit: None,
    dont_fragment: false,
};

fn peer() -> (UdpSocket, Endpoint) {
    let socket = UdpSocket::bind(HERE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let at = socket.local_addr().unwrap().into();
    (socket, at)
}

fn segments(of: u16) -> SendOptions {
    SendOptions {
        segment: NonZeroU16::new(of),
        ..PLAIN
    }
}

/// What a socket has received.
fn received(world: &mut World, socket: SocketId) -> Vec<(Endpoint, Option<u16>, Vec<u8>)> {
    let mut batch = Batch::new();
    let mut arrivals = Vec::new();
    world.wait(socket, Readiness::READABLE);
    loop {
        let count = world.host.receive(socket, &mut batch).unwrap();
        assert_eq!(batch.iter().count(), count);
        arrivals.extend(batch.iter().map(|arrival| {
            let segment = arrival.segment.map(NonZeroU16::get);
            (arrival.from, segment, arrival.bytes.to_vec())
        }));
        if !batch.is_full() {
            return arrivals;
        }
    }
}

#[test]
fn datagrams_go_and_come() {
    let mut world = World::new();
    let (socket, port) = world.host.open(UDP4, 0).unwrap();
    let (peer, at) = peer();
    let bytes = pattern(0, 9000);
    let (_memory, list) = scattered(&bytes);
    let payloads: [&dyn Payload; 4] = [&&bytes[..1], &bytes, &list, &Counted(9000)];
    for payload in payloads {
        world.host.send_to(socket, at, payload, PLAIN).unwrap();
        let mut buffer = [0; 10_000];
        let (count, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!(from, loopback(port));
        assert_eq!(buffer[..count], bytes[..payload.len()]);
    }
    for _ in 0..100 {
        peer.send_to(b"x", loopback(port)).unwrap();
    }
    let arrivals = received(&mut world, socket);
    assert_eq!(arrivals.len(), 100, "by batches that grow");
    assert!(
        arrivals
            .iter()
            .all(|arrival| *arrival == (at, None, b"x".to_vec()))
    );
    assert_eq!(world.host.receive(socket, &mut Batch::new()), Ok(0));
    peer.send_to(b"", loopback(port)).unwrap();
    assert_eq!(received(&mut world, socket), [(at, None, Vec::new())]);
    assert_eq!(world.old_news(), [], "sending is no news");
}

#[test]
fn a_port_is_kept_where_it_is_free() {
    let mut world = World::new();
    let (taken, at) = peer();
    let (_, port) = world.host.open(UDP4, at.port).unwrap();
    assert_ne!(port, at.port);
    assert_ne!(port, 0);
    assert_eq!(world.host.bind(UDP4, at), Err(SocketError::InUse));
    drop(taken);
    let (first, port) = world.host.open(UDP4, at.port).unwrap();
    assert_eq!(port, at.port);
    // The other version's ports are others.
    if world.host.capabilities().ipv6 {
        let (_, port) = world
            .host
            .open(SocketKind::Udp(Family::V6), at.port)
            .unwrap();
        assert_eq!(port, at.port);
    }
    Sockets::close(&mut world.host, first);
    assert_eq!(world.host.bind(UDP4, at).unwrap().1, at.port);
    let elsewhere = Endpoint::new([192, 0, 2, 1], 0);
    let error = world.host.bind(UDP4, elsewhere);
    assert_eq!(error, Err(SocketError::NoSuchAddress));
}

#[test]
fn datagrams_travel_together() {
    let mut world = World::new();
    if !world.host.capabilities().udp_segment || !world.host.capabilities().udp_gro {
        return;
    }
    let (socket, port) = world.host.open(UDP4, 0).unwrap();
    let (peer, at) = peer();
    let (_memory, list) = scattered(&pattern(0, 10_500));
    world
        .host
        .send_to(socket, at, &list, segments(1000))
        .unwrap();
    let mut whole = Vec::new();
    for expected in [[1000; 10].as_slice(), &[500]].concat() {
        let mut buffer = [0; 2000];
        assert_eq!(peer.recv(&mut buffer).unwrap(), expected);
        whole.extend_from_slice(&buffer[..expected]);
    }
    assert_eq!(whole, pattern(0, 10_500));
    let (other, other_port) = world.host.open(UDP4, 0).unwrap();
    let to = loopback(other_port).into();
    world
        .host
        .send_to(socket, to, &list, segments(1000))
        .unwrap();
    let arrivals = received(&mut world, other);
    let from = loopback(port).into();
    assert_eq!(arrivals, [(from, Some(1000), pattern(0, 10_500))]);
    // More than any kernel sends by one call.
    let many = world.host.send_to(socket, at, &Counted(300), segments(1));
    assert_eq!(many, Err(SocketError::Unsupported));
    let long = world.host.send_to(socket, at, &Counted(65508), PLAIN);
    assert_eq!(long, Err(SocketError::TooBig(65535)));
}

#[test]
fn what_is_refused_is_reported() {
    let mut world = World::new();
    let mut closed = vec![peer().1];
    if world.host.capabilities().ipv6
        && let Ok(socket) = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))
    {
        closed.push(socket.local_addr().unwrap().into());
    }
    for to in closed {
        let kind = SocketKind::Udp(to.address.into());
        let (socket, _) = world.host.open(kind, 0).unwrap();
        for len in [1, 100] {
            world
                .host
                .send_to(socket, to, &Counted(len), PLAIN)
                .unwrap();
            let role = world.wait(socket, Readiness::READABLE | Readiness::ERROR);
            assert_eq!(role, Role::Datagrams(kind));
            assert_eq!(world.host.receive(socket, &mut Batch::new()), Ok(0));
            let report = world.host.report(socket).unwrap();
            assert_eq!((report.to, report.error), (to, SocketError::Refused));
            assert_eq!(report.reporter, Some(to.address));
            assert_eq!(report.payload_len, len);
            assert_eq!(report.quote(), pattern(0, len.min(64)));
            assert_eq!(world.host.report(socket), None);
        }
    }
}

#[test]
fn an_error_stops_no_other_datagram() {
    let mut world = World::new();
    let (socket, port) = world.host.open(UDP4, 0).unwrap();
    let (peer, at) = peer();
    let closed = self::peer().1;
    for _ in 0..3 {
        peer.send_to(b"y", loopback(port)).unwrap();
        world.host.send_to(socket, closed, b"x", PLAIN).unwrap();
        world.host.send_to(socket, at, b"x", PLAIN).unwrap();
        assert_eq!(peer.recv(&mut [0; 2]).unwrap(), 1);
        world.host.send_to(socket, closed, b"x", PLAIN).unwrap();
        assert_eq!(received(&mut world, socket), [(at, None, b"y".to_vec())]);
    }
    for _ in 0..6 {
        assert_eq!(world.host.report(socket).unwrap().to, closed);
    }
    assert_eq!(world.host.report(socket), None);
}

#[test]
fn hops_are_counted_from_what_is_asked_for() {
    let mut world = World::new();
    let (sender, _) = world.host.open(UDP4, 0).unwrap();
    let (socket, port) = world.host.open(UDP4, 0).unwrap();
    let Some(Socket::Datagrams(datagrams)) = world.host.sockets.get_mut(socket) else {
        panic!("it was just opened");
    };
    let fd = datagrams.fd().try_clone().unwrap();
    options::set(&fd, libc::IPPROTO_IP, libc::IP_RECVTTL, 1).unwrap();
    for hops in [1, 17] {
        let options = SendOptions {
            hop_limit: Some(hops),
            ..PLAIN
        };
        let to = loopback(port).into();
        world.host.send_to(sender, to, b"x", options).unwrap();
        world.wait(socket, Readiness::READABLE);
        let (mut name, mut control) = (Name::new(), Control::new());
        receive_message(&fd, &mut name, &mut control, &mut [0], 0).unwrap();
        let came = control.find(libc::IPPROTO_IP, libc::IP_TTL);
        assert_eq!(came, Some(&i32::from(hops).to_ne_bytes()[..]));
    }
}

#[test]
fn room_is_told_of_once_and_only_if_waited_for() {
    let mut world = World::new();
    let (socket, _) = world.host.open(UDP4, 0).unwrap();
    assert_eq!(world.old_news(), []);
    let token = world.host.sockets.token(socket).unwrap();
    let Some(Socket::Datagrams(datagrams)) = world.host.sockets.get_mut(socket) else {
        panic!("it was just opened");
    };
    datagrams.await_room(token, &world.host.registry).unwrap();
    world.wait(socket, Readiness::WRITABLE);
    world.host.send_to(socket, peer().1, b"x", PLAIN).unwrap();
    let news = world.old_news();
    assert!(
        news.iter()
            .all(|news| !news.readiness.contains(Readiness::WRITABLE))
    );
}

#[test]
fn what_is_closed_is_known_no_more() {
    let mut world = World::new();
    let (socket, port) = world.host.open(UDP4, 0).unwrap();
    let (peer, at) = peer();
    peer.send_to(b"x", loopback(port)).unwrap();
    let until = world.poller.now() + PATIENCE;
    let event = world.poller.wait(until).unwrap().next();
    let Some(Event::Socket(event)) = event else {
        panic!("the socket is readable");
    };
    Sockets::close(&mut world.host, socket);
    assert_eq!(world.host.news(event), None);
    let (again, _) = world.host.open(UDP4, 0).unwrap();
    assert_eq!(again, socket);
    assert_eq!(world.host.news(event), None, "not of its successor");
    Sockets::close(&mut world.host, socket);
    let gone = Err(SocketError::Other(libc::EBADF));
    assert_eq!(world.host.send_to(socket, at, b"x", PLAIN), gone);
    let received = world.host.receive(socket, &mut Batch::new());
    assert_eq!(received, Err(SocketError::Other(libc::EBADF)));
    assert_eq!(world.host.report(socket), None);
}

#[test]
fn echoes_come_back() {
    // Where the host has it this way, and where anyone may ping.
    echoes();
    in_namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        echoes();
    });
}

fn echoes() {
    let mut world = World::new();
    let can = world.host.capabilities();
    let hosts = [
        (Family::V4, IpAddr::from(Ipv4Addr::LOCALHOST), can.ping4),
        (Family::V6, IpAddr::from(Ipv6Addr::LOCALHOST), can.ping6),
    ];
    for (family, address, permitted) in hosts {
        let opened = world.host.open(SocketKind::Echo(family), 4711);
        if !permitted {
            let denied = [SocketError::Prohibited, SocketError::Unsupported];
            assert!(denied.contains(&opened.unwrap_err()));
            continue;
        }
        let (socket, identifier) = opened.unwrap();
        let (_, other) = world
            .host
            .open(SocketKind::Echo(family), identifier)
            .unwrap();
        assert_ne!(other, identifier, "taken");
        let echo = Echo {
            identifier: 1,
            sequence: 7,
        };
        let mut message = *b"........echo";
        match family {
            Family::V4 => Icmp4::EchoRequest(echo).write(&mut message).unwrap(),
            Family::V6 => Icmp6::EchoRequest(echo).write(&mut message).unwrap(),
        };
        let to = Endpoint::new(address, 0);
        world.host.send_to(socket, to, &message, PLAIN).unwrap();
        let [(from, None, reply)] = &received(&mut world, socket)[..] else {
            panic!("one reply");
        };
        assert_eq!(from.address, address);
        let echo = Echo { identifier, ..echo };
        match family {
            Family::V4 => assert_eq!(Icmp4::parse(reply), Ok(Icmp4::EchoReply(echo))),
            Family::V6 => assert_eq!(Icmp6::parse(reply).unwrap().0, Icmp6::EchoReply(echo)),
        }
        assert_eq!(&reply[8..], b"echo");
    }
}

#[test]
fn what_may_not_be_fragmented_is_refused_if_too_long() {
    in_namespace(|| {
        set_loopback_mtu(1500);
        let mut host = World::new().host;
        let (peer, to) = peer();
        let (socket, _) = host.open(UDP4, 0).unwrap();
        let payload = [7; 4000];
        for dont_fragment in [true, false, true] {
            let options = SendOptions {
                dont_fragment,
                ..PLAIN
            };
            let sent = host.send_to(socket, to, &payload, options);
            if dont_fragment {
                assert!(matches!(sent, Err(SocketError::TooBig(_))), "{sent:?}");
            } else {
                assert_eq!(sent, Ok(()));
                assert_eq!(peer.recv(&mut [0; 8000]).unwrap(), payload.len());
            }
        }
    });
}
