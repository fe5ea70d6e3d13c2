//! With real sockets, on the host's loopback.

mod datagrams;
mod ends;
mod listeners;
mod namespace;
mod streams;

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nestling_arch::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::net::nat::tcp::streams::{Source, Streams};
use crate::net::payload::Payload;
use crate::scatter::ScatterList;

/// Long enough for anything on loopback: who waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Any port of the host itself.
const HERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A host with its poller.
struct World {
    host: Host,
    poller: Poller,
    news: Vec<News>,
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default(), |_| {})
    }

    fn with(limits: Limits, change: impl FnOnce(&mut Capabilities)) -> Self {
        let poller = Poller::new().unwrap();
        let mut capabilities = Capabilities::probe().unwrap();
        change(&mut capabilities);
        let host = Host::with(limits, poller.registry().clone(), capabilities).unwrap();
        Self {
            host,
            poller,
            news: Vec::new(),
        }
    }

    /// Each way in which streams can be kept here.
    fn each() -> Vec<Self> {
        let in_rings = Self::with(Limits::default(), |can| can.peek_offset = false);
        let world = Self::new();
        if world.host.capabilities().peek_offset {
            vec![world, in_rings]
        } else {
            vec![in_rings]
        }
    }

    /// Takes in what has happened, after waiting for something if asked.
    fn poll(&mut self, timeout: Duration) -> bool {
        let mut any = false;
        let until = self.poller.now() + timeout;
        for event in self.poller.wait(until).unwrap() {
            let Event::Socket(event) = event else {
                panic!("only sockets are watched: {event:?}");
            };
            any = true;
            self.news.extend(self.host.news(event));
        }
        any
    }

    /// Waits until a socket has this kind of news, and forgets them.
    fn wait(&mut self, socket: SocketId, readiness: Readiness) -> Role {
        loop {
            let fits = |news: &News| news.socket == socket && news.readiness.contains(readiness);
            if let Some(index) = self.news.iter().position(fits) {
                return self.news.swap_remove(index).role;
            }
            assert!(self.poll(PATIENCE), "no news of {socket:?}: {readiness:?}");
        }
    }

    /// News that are there already.
    fn old_news(&mut self) -> Vec<News> {
        while self.poll(Duration::ZERO) {}
        std::mem::take(&mut self.news)
    }

    /// The inode of a socket, which tells it from all others of the system.
    fn inode(&mut self, socket: SocketId) -> String {
        let fd = match self.host.sockets.get_mut(socket).unwrap() {
            Socket::Datagrams(datagrams) => datagrams.fd().as_raw_fd(),
            Socket::Stream(stream) => stream.fd().as_raw_fd(),
            Socket::Listener(listener) => listener.fd().as_raw_fd(),
        };
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        link.into_os_string().into_string().unwrap()
    }

    /// Shows waiting bytes as they are shown to ports.
    fn view(&mut self, socket: SocketId, offset: u32, len: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let content = content(socket, offset, len);
        let mut copy = |pieces: &[IoSlice<'_>]| {
            assert!(pieces.len() <= 2);
            pieces
                .iter()
                .for_each(|piece| bytes.extend_from_slice(piece));
        };
        self.host.view(content, &mut copy).unwrap();
        bytes
    }
}

fn content(socket: SocketId, offset: u32, len: u32) -> Source {
    Source {
        socket,
        offset,
        len,
        mss: 1460,
    }
}

/// Whether this process has a socket.
fn is_open(inode: &str) -> bool {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut links = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    links.any(|link| link.as_os_str() == inode)
}

/// Guest memory in pieces of odd sizes, `len` bytes in all.
fn pieces(len: usize) -> (Arc<GuestMemory>, ScatterList) {
    let size = (len * 2).next_multiple_of(1 << 16);
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), size)]).unwrap();
    let memory = Arc::new(memory);
    let mut list = ScatterList::new(memory.clone());
    let (mut left, mut at) = (len, 1);
    while left > 0 {
        let piece = left.min(3001);
        list.push(GuestAddress(at), piece).unwrap();
        at += 4000;
        left -= piece;
    }
    (memory, list)
}

/// Bytes in guest memory.
fn scattered(bytes: &[u8]) -> (Arc<GuestMemory>, ScatterList) {
    let (memory, list) = pieces(bytes.len());
    for (index, piece) in (0..).zip(bytes.chunks(3001)) {
        memory
            .write_slice(piece, GuestAddress(4000 * index + 1))
            .unwrap();
    }
    (memory, list)
}

/// Bytes that lie nowhere.
struct Counted(usize);

impl Payload for Counted {
    fn len(&self) -> usize {
        self.0
    }

    fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        let count = data.len().min(self.0.saturating_sub(offset));
        data[..count].copy_from_slice(&pattern(offset, count));
        count
    }
}

/// Bytes of a stream that is nowhere like itself.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at ^ (at >> 8) ^ (at / 1021)) & 0xFF).unwrap();
    (from..from + len).map(byte).collect()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[test]
fn an_idle_flow_is_small() {
    let slot = size_of::<Option<(u32, Socket)>>();
    assert!(slot <= 96, "{slot} bytes");
}

#[test]
fn descriptors_are_given_back() {
    let mut world = World::new();
    let listener = std::net::TcpListener::bind(HERE).unwrap();
    let (udp, _) = {
        use crate::net::nat::sockets::Sockets;
        world.host.open(SocketKind::Udp(Family::V4), 0).unwrap()
    };
    let (listening, _) = world.host.listen(HERE.into()).unwrap();
    let to = listener.local_addr().unwrap();
    let from = crate::net::nat::tcp::streams::LocalPort::Prefer(0);
    let closed = world.host.connect(to, from).unwrap().socket;
    let aborted = world.host.connect(to, from).unwrap().socket;
    let kept = world.host.connect(to, from).unwrap().socket;
    let sockets = [udp, listening, closed, aborted, kept];
    let inodes = sockets.map(|socket| world.inode(socket));
    assert!(inodes.iter().all(|inode| is_open(inode)));
    assert_eq!(world.host.len(), 5);
    Streams::abort(&mut world.host, aborted);
    for socket in [udp, listening, closed] {
        Streams::close(&mut world.host, socket);
    }
    assert_eq!(world.host.len(), 1);
    assert_eq!(world.host.bound.len(), 1, "one port is in use");
    assert!(inodes[..4].iter().all(|inode| !is_open(inode)));
    assert_eq!(
        world
            .old_news()
            .iter()
            .filter(|news| news.socket != kept)
            .count(),
        0
    );
    drop(world);
    assert!(!is_open(&inodes[4]));
}

#[test]
fn the_host_has_its_loopback_address_once() {
    let addresses = addresses().unwrap();
    let loopback = addresses
        .iter()
        .filter(|address| **address == Ipv4Addr::LOCALHOST);
    assert_eq!(loopback.count(), 1);
}

#[test]
fn sockets_are_bounded() {
    use crate::net::nat::sockets::Sockets;
    let limits = Limits {
        sockets: 2,
        ..Limits::default()
    };
    let mut world = World::with(limits, |_| {});
    let kind = SocketKind::Udp(Family::V4);
    let (first, _) = world.host.open(kind, 0).unwrap();
    world.host.open(kind, 0).unwrap();
    assert_eq!(world.host.open(kind, 0), Err(SocketError::Exhausted));
    assert_eq!(
        world.host.bind(kind, loopback(0).into()),
        Err(SocketError::Exhausted)
    );
    let from = crate::net::nat::tcp::streams::LocalPort::Prefer(0);
    assert_eq!(
        world.host.connect(loopback(1), from),
        Err(SocketError::Exhausted)
    );
    assert_eq!(world.host.listen(loopback(0)), Err(SocketError::Exhausted));
    Sockets::close(&mut world.host, first);
    assert_eq!(world.host.open(kind, 0).unwrap().0, first);
}
