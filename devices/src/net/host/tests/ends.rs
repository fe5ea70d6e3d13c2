//! How connections begin and end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use rustix::net;

use super::*;
use crate::net::nat::tcp::streams::{LocalPort, Progress, Waiting};

const ANY: LocalPort = LocalPort::Prefer(0);

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(HERE).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn pair(world: &mut World) -> (SocketId, TcpStream) {
    let (listener, at) = listener();
    let connection = world.host.connect(at, ANY).unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(connection.progress, Progress::Connected);
    (connection.socket, peer)
}

/// A listener that takes nobody more, until two have been accepted.
fn crowded() -> (TcpListener, SocketAddr) {
    let listener = net::socket(
        net::AddressFamily::INET,
        net::SocketType::STREAM,
        Some(net::ipproto::TCP),
    )
    .unwrap();
    net::bind(&listener, &SocketAddr::from(HERE)).unwrap();
    // The queue is longer by one (sk_acceptq_is_full).
    net::listen(&listener, 1).unwrap();
    let listener = TcpListener::from(listener);
    let at = listener.local_addr().unwrap();
    for _ in 0..2 {
        drop(TcpStream::connect(at).unwrap());
    }
    (listener, at)
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    listener().1.port()
}

#[test]
fn refused_connections_say_so() {
    let mut world = World::new();
    let connection = world.host.connect(loopback(free_port()), ANY);
    assert_eq!(connection, Err(SocketError::Refused));
    assert!(world.host.is_empty());
    assert!(world.host.bound.is_empty());
}

#[test]
fn a_peer_that_takes_its_time_is_waited_for() {
    let mut world = World::new();
    let (listener, at) = crowded();
    let connection = world.host.connect(at, ANY).unwrap();
    assert_eq!(connection.progress, Progress::Pending);
    assert_eq!(world.old_news(), []);
    drop(listener.accept().unwrap());
    drop(listener.accept().unwrap());
    // The kernel asks again after a second (RFC 6298, 2.1).
    world.wait(connection.socket, Readiness::WRITABLE);
    assert_eq!(world.host.error(connection.socket), None);
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(world.host.send(connection.socket, b"x", 0..1), Ok(1));
    peer.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_late_refusal_says_so() {
    let mut world = World::new();
    let (listener, at) = crowded();
    let connection = world.host.connect(at, ANY).unwrap();
    assert_eq!(connection.progress, Progress::Pending);
    drop(listener);
    world.wait(connection.socket, Readiness::ERROR);
    let error = world.host.error(connection.socket);
    assert_eq!(error, Some(SocketError::Refused));
    assert_eq!(world.host.error(connection.socket), None, "taken");
    Streams::abort(&mut world.host, connection.socket);
}

#[test]
fn what_cannot_be_reached_says_so() {
    namespace::in_namespace(|| {
        let mut world = World::new();
        let nowhere = (Ipv4Addr::new(192, 0, 2, 1), 80).into();
        let error = world.host.connect(nowhere, ANY).unwrap_err();
        assert_eq!(error, SocketError::NetUnreachable);
        assert!(world.host.is_empty());
        assert!(world.host.bound.is_empty());
    });
}

#[test]
fn a_port_is_kept_where_it_is_free() {
    let mut world = World::new();
    let ((_one, first), (_two, second)) = (listener(), listener());
    // Taken by a stranger.
    let (_three, stranger) = listener();
    let from = LocalPort::Prefer(stranger.port());
    let connection = world.host.connect(first, from).unwrap();
    assert_ne!(connection.port, stranger.port());
    // Free, and then taken by a guest.
    let port = free_port();
    let kept = world.host.connect(first, LocalPort::Prefer(port)).unwrap();
    assert_eq!(kept.port, port);
    let other = world.host.connect(second, LocalPort::Prefer(port)).unwrap();
    assert_ne!(other.port, port, "no two guests share one");
    let shared = world.host.connect(second, LocalPort::Shared(port)).unwrap();
    assert_eq!(shared.port, port);
    let twice = world.host.connect(second, LocalPort::Shared(port));
    assert_eq!(twice, Err(SocketError::InUse));
    let strangers = world
        .host
        .connect(second, LocalPort::Shared(stranger.port()));
    assert_eq!(strangers, Err(SocketError::InUse));
    // Free again only when the last is gone.
    Streams::abort(&mut world.host, kept.socket);
    let third = world.host.connect(first, LocalPort::Prefer(port)).unwrap();
    assert_ne!(third.port, port);
    Streams::abort(&mut world.host, shared.socket);
    let again = world.host.connect(first, LocalPort::Prefer(port)).unwrap();
    assert_eq!(again.port, port);
}

#[test]
fn no_socket_connects_to_itself() {
    let mut world = World::new();
    let port = free_port();
    for from in [LocalPort::Prefer(port), LocalPort::Shared(port)] {
        let itself = world.host.connect(loopback(port), from);
        assert_eq!(itself, Err(SocketError::Refused));
    }
    assert!(world.host.is_empty());
}

#[test]
fn connections_in_time_wait_keep_no_port() {
    let mut world = World::new();
    let ((one, first), (_two, second)) = (listener(), listener());
    let port = free_port();
    let connection = world.host.connect(first, LocalPort::Prefer(port)).unwrap();
    let (mut peer, _) = one.accept().unwrap();
    assert_eq!(connection.progress, Progress::Connected);
    // Ours ends first, and so waits.
    world.host.shutdown(connection.socket);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    drop(peer);
    world.wait(connection.socket, Readiness::READABLE);
    Streams::close(&mut world.host, connection.socket);
    let again = world.host.connect(second, LocalPort::Prefer(port)).unwrap();
    assert_eq!(again.port, port);
}

#[test]
fn streams_end_one_by_one() {
    for mut world in World::each() {
        let (socket, mut peer) = pair(&mut world);
        world.host.send(socket, b"request", 0..7).unwrap();
        world.host.shutdown(socket);
        let mut request = Vec::new();
        peer.read_to_end(&mut request).unwrap();
        assert_eq!(request, b"request");
        peer.write_all(b"answer").unwrap();
        peer.shutdown(Shutdown::Both).unwrap();
        loop {
            let waiting = world.host.peek(socket, 0, 100).unwrap();
            if waiting.end {
                assert_eq!(waiting, Waiting { len: 6, end: true });
                break;
            }
            world.wait(socket, Readiness::READABLE);
        }
        assert_eq!(world.view(socket, 0, 6), b"answer");
        world.host.discard(socket, 6);
        Streams::close(&mut world.host, socket);
        assert!(world.host.is_empty());
    }
}

/// An end is told in steps, and none of them is news of data.
#[test]
fn an_end_is_not_taken_for_data() {
    for mut world in World::each() {
        let (socket, mut peer) = pair(&mut world);
        peer.write_all(b"x").unwrap();
        world.wait(socket, Readiness::READABLE);
        assert_eq!(world.host.peek(socket, 0, 1).unwrap().len, 1);
        world.host.discard(socket, 1);
        world.old_news();
        world.host.shutdown(socket);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        let news = world.old_news();
        let readable = |news: &News| news.readiness.contains(Readiness::READABLE);
        assert!(!news.iter().any(readable), "{news:?}");
        drop(peer);
        world.wait(socket, Readiness::READABLE);
        let end = Waiting { len: 0, end: true };
        assert_eq!(world.host.peek(socket, 0, 1), Ok(end));
        Streams::close(&mut world.host, socket);
    }
}

#[test]
fn nothing_that_is_sent_is_held_back() {
    let mut world = World::new();
    let (socket, mut peer) = pair(&mut world);
    // Of the first, nothing is on its way that it could wait for.
    for (number, told) in [false, true, true].into_iter().enumerate() {
        world.host.send(socket, b"x", 0..1).unwrap();
        let stream = world.host.stream(socket).unwrap();
        let set = net::sockopt::tcp_nodelay(stream.fd()).unwrap();
        assert_eq!(set, told, "send {number}");
    }
    peer.read_exact(&mut [0; 3]).unwrap();
    let (listening, port) = world.host.listen(loopback(0)).unwrap();
    let _peer = TcpStream::connect(loopback(port)).unwrap();
    world.wait(listening, Readiness::READABLE);
    let (accepted, _) = world.host.accept(listening).unwrap();
    let stream = world.host.stream(accepted).unwrap();
    assert!(net::sockopt::tcp_nodelay(stream.fd()).unwrap());
}

#[test]
fn a_close_loses_nothing() {
    for mut world in World::each() {
        let (socket, mut peer) = pair(&mut world);
        peer.write_all(b"x").unwrap();
        world.wait(socket, Readiness::READABLE);
        assert_eq!(world.host.peek(socket, 0, 1).unwrap().len, 1);
        world.host.discard(socket, 1);
        world.host.send(socket, b"last words", 0..10).unwrap();
        Streams::close(&mut world.host, socket);
        let mut words = Vec::new();
        // Unread data would make a reset of it.
        peer.read_to_end(&mut words).unwrap();
        assert_eq!(words, b"last words");
    }
}

#[test]
fn an_abort_is_a_reset() {
    for mut world in World::each() {
        let (socket, mut peer) = pair(&mut world);
        Streams::abort(&mut world.host, socket);
        let error = peer.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_reset_is_an_error() {
    for mut world in World::each() {
        let (socket, peer) = pair(&mut world);
        // Closed with unread data.
        world.host.send(socket, b"unread", 0..6).unwrap();
        peer.peek(&mut [0]).unwrap();
        drop(peer);
        world.wait(socket, Readiness::ERROR);
        assert_eq!(world.host.error(socket), Some(SocketError::Reset));
        let sent = world.host.send(socket, b"more", 0..4);
        assert_eq!(sent, Err(SocketError::Reset));
        assert_eq!(
            world.host.peek(socket, 0, 1).map(|waiting| waiting.len),
            Ok(0)
        );
    }
}

#[test]
fn what_is_closed_is_known_no_more() {
    let mut world = World::new();
    let (socket, _peer) = pair(&mut world);
    Streams::close(&mut world.host, socket);
    let gone = SocketError::Other(libc::EBADF);
    assert_eq!(world.host.send(socket, b"x", 0..1), Err(gone));
    assert_eq!(world.host.peek(socket, 0, 1), Err(gone));
    assert_eq!(world.host.accept(socket).map(drop), Err(gone));
    let viewed = world
        .host
        .view(content(socket, 0, 1), &mut |_| panic!("nothing is there"));
    assert_eq!(viewed, Err(gone));
    let (_memory, list) = pieces(1);
    assert_eq!(world.host.fill(content(socket, 0, 1), &list, 0), Err(gone));
    assert_eq!(world.host.send_room(socket), 0);
    assert_eq!(world.host.error(socket), None);
    world.host.discard(socket, 1);
    world.host.shutdown(socket);
    Streams::abort(&mut world.host, socket);
    assert!(world.host.is_empty());
}

#[test]
fn what_is_not_there_is_not_shown() {
    for mut world in World::each() {
        let (socket, mut peer) = pair(&mut world);
        peer.write_all(b"abc").unwrap();
        world.wait(socket, Readiness::READABLE);
        assert_eq!(world.host.peek(socket, 0, 3).unwrap().len, 3);
        let (_memory, list) = pieces(20_000);
        for (offset, len) in [(0, 4), (3, 1), (1, 20_000), (u32::MAX, 1)] {
            let content = content(socket, offset, len);
            assert!(world.host.fill(content, &list, 0).is_err());
            let viewed = world.host.view(content, &mut |_| panic!("too much"));
            assert!(viewed.is_err());
        }
        assert_eq!(world.view(socket, 0, 3), b"abc");
    }
}
