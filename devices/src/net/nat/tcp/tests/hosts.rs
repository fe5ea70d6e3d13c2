//! A host with many sockets, each of them a [`Host`], and an outlet that
//! remembers what it was given.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::host::{Host, SOCKET};
use crate::net::nat::flows::{FlowId, Guest};
use crate::net::nat::sockets::{Family, SocketError, SocketId};
use crate::net::nat::tcp::flow::Link;
use crate::net::nat::tcp::streams::{
    Connection, LocalPort, Progress, Readiness, Source, Streams, Waiting,
};
use crate::net::nat::tcp::{Leg, Outlet};
use crate::net::payload::Payload;
use crate::net::wire::tcp::TcpHeader;
use crate::scatter::ScatterList;

/// A socket and its two ends.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    pub(crate) host: Host,
    pub(crate) peer: Option<SocketAddr>,
    /// Its own port; none if it was accepted.
    pub(crate) port: Option<u16>,
}

#[derive(Debug)]
enum Slot {
    Stream(Socket),
    Listener(VecDeque<Socket>),
}

#[derive(Debug)]
pub(crate) struct Hosts {
    slots: Vec<Option<Slot>>,
    users: HashMap<u16, u32>,
    /// What every connection is answered with.
    pub(crate) progress: Result<Progress, SocketError>,
    /// From where connections were to leave.
    pub(crate) asked: Vec<LocalPort>,
    pub(crate) limit: usize,
    /// The send buffer of each socket.
    pub(crate) capacity: usize,
    /// The sockets that were closed, in order.
    pub(crate) done: Vec<Socket>,
    /// How often a socket was looked into.
    pub(crate) peeks: u64,
    /// How often a socket was asked for its room.
    pub(crate) rooms: u64,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            users: HashMap::new(),
            progress: Ok(Progress::Pending),
            asked: Vec::new(),
            limit: usize::MAX,
            capacity: 1 << 20,
            done: Vec::new(),
            peeks: 0,
            rooms: 0,
        }
    }
}

impl Hosts {
    pub(crate) fn open(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    pub(crate) fn ids(&self) -> Vec<SocketId> {
        let slots = (0..).zip(&self.slots);
        let used = slots.filter(|(_, slot)| matches!(slot, Some(Slot::Stream(_))));
        used.map(|(id, _)| SocketId(id)).collect()
    }

    pub(crate) fn socket(&mut self, id: SocketId) -> &mut Socket {
        match self.slots[id.0 as usize].as_mut() {
            Some(Slot::Stream(socket)) => socket,
            other => panic!("{id:?} is {other:?}"),
        }
    }

    /// A connection comes to a listener.
    pub(crate) fn arrives(&mut self, listener: SocketId, socket: Socket) {
        match self.slots[listener.0 as usize].as_mut() {
            Some(Slot::Listener(waiting)) => waiting.push_back(socket),
            other => panic!("{listener:?} is {other:?}"),
        }
    }

    fn insert(&mut self, slot: Slot) -> SocketId {
        let free = self.slots.iter().position(Option::is_none);
        let at = free.unwrap_or(self.slots.len());
        if at == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[at] = Some(slot);
        SocketId(at as u32)
    }

    fn remove(&mut self, id: SocketId) -> Slot {
        let slot = self.slots[id.0 as usize].take().expect("closed twice");
        if let Slot::Stream(Socket {
            port: Some(port), ..
        }) = &slot
        {
            *self.users.get_mut(port).unwrap() -= 1;
        }
        slot
    }

    fn is_free(&self, port: u16) -> bool {
        port != 0 && self.users.get(&port).is_none_or(|users| *users == 0)
    }
}

impl Streams for Hosts {
    fn connect(&mut self, to: SocketAddr, from: LocalPort) -> Result<Connection, SocketError> {
        self.asked.push(from);
        let progress = self.progress?;
        if self.open() >= self.limit {
            return Err(SocketError::Exhausted);
        }
        let port = match from {
            LocalPort::Shared(port) => port,
            LocalPort::Prefer(port) if self.is_free(port) => port,
            LocalPort::Prefer(_) => (32768..).find(|port| self.is_free(*port)).unwrap(),
        };
        *self.users.entry(port).or_default() += 1;
        let host = Host {
            capacity: self.capacity,
            ..Host::default()
        };
        let socket = self.insert(Slot::Stream(Socket {
            host,
            peer: Some(to),
            port: Some(port),
        }));
        Ok(Connection {
            socket,
            port,
            progress,
        })
    }

    fn listen(&mut self, at: SocketAddr) -> Result<(SocketId, u16), SocketError> {
        let id = self.insert(Slot::Listener(VecDeque::new()));
        Ok((id, at.port().max(1)))
    }

    fn accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr), SocketError> {
        let full = self.open() >= self.limit;
        let Some(Slot::Listener(waiting)) = self.slots[listener.0 as usize].as_mut() else {
            panic!("{listener:?} doesn't listen");
        };
        if full && !waiting.is_empty() {
            return Err(SocketError::Exhausted);
        }
        let socket = waiting.pop_front().ok_or(SocketError::WouldBlock)?;
        let peer = socket.peer.expect("of a caller");
        Ok((self.insert(Slot::Stream(socket)), peer))
    }

    fn error(&mut self, id: SocketId) -> Option<SocketError> {
        self.socket(id).host.error(SOCKET)
    }

    fn send(
        &mut self,
        id: SocketId,
        payload: &dyn Payload,
        range: Range<usize>,
    ) -> Result<usize, SocketError> {
        self.socket(id).host.send(SOCKET, payload, range)
    }

    fn send_room(&mut self, id: SocketId) -> u32 {
        self.rooms += 1;
        self.socket(id).host.send_room(SOCKET)
    }

    fn want_room(&mut self, id: SocketId) {
        self.socket(id).host.want_room(SOCKET);
    }

    fn peek(&mut self, id: SocketId, offset: u32, most: u32) -> Result<Waiting, SocketError> {
        self.peeks += 1;
        self.socket(id).host.peek(SOCKET, offset, most)
    }

    fn view(
        &mut self,
        content: Source,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), SocketError> {
        self.socket(content.socket).host.view(content, with)
    }

    fn fill(&mut self, _: Source, _: &ScatterList, _: usize) -> Result<(), SocketError> {
        Err(SocketError::Unsupported)
    }

    fn discard(&mut self, id: SocketId, count: u32) {
        self.socket(id).host.discard(SOCKET, count);
    }

    fn shutdown(&mut self, id: SocketId) {
        self.socket(id).host.shutdown(SOCKET);
    }

    fn close(&mut self, id: SocketId) {
        if let Slot::Stream(mut socket) = self.remove(id) {
            socket.host.close(SOCKET);
            self.done.push(socket);
        }
    }

    fn abort(&mut self, id: SocketId) {
        if let Slot::Stream(mut socket) = self.remove(id) {
            socket.host.abort(SOCKET);
            self.done.push(socket);
        }
    }
}

/// A segment to a guest, with its payload.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) leg: Leg,
    pub(crate) header: TcpHeader,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) link: Link,
    pub(crate) guests: HashMap<IpAddr, Guest>,
    /// The ports that have no room.
    pub(crate) full: HashSet<Guest>,
    pub(crate) sent: Vec<Sent>,
    /// Segments that there was no room for.
    pub(crate) refused: u64,
    pub(crate) unreachable: Vec<(Leg, SocketError, u32)>,
    pub(crate) unparked: Vec<FlowId>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            link: Link {
                mss: 1460,
                burst: 65160,
            },
            guests: HashMap::new(),
            full: HashSet::new(),
            sent: Vec::new(),
            refused: 0,
            unreachable: Vec::new(),
            unparked: Vec::new(),
        }
    }
}

impl Outlet for Recorder {
    fn link(&self, _: Guest, _: Family) -> Link {
        self.link
    }

    fn guest_of(&mut self, inner: IpAddr) -> Option<Guest> {
        self.guests.get(&inner).copied()
    }

    fn segment(
        &mut self,
        leg: &Leg,
        header: &TcpHeader,
        content: Option<Source>,
        streams: &mut dyn Streams,
    ) -> bool {
        if self.full.contains(&leg.guest) {
            self.refused += 1;
            return false;
        }
        assert_eq!(header.source, leg.outer.port);
        assert_eq!(header.destination, leg.inner.port);
        let mut payload = Vec::new();
        if let Some(content) = content {
            let mut take = |pieces: &[IoSlice<'_>]| {
                pieces
                    .iter()
                    .for_each(|piece| payload.extend_from_slice(piece));
            };
            streams.view(content, &mut take).unwrap();
        }
        self.sent.push(Sent {
            leg: *leg,
            header: *header,
            payload,
        });
        true
    }

    fn unreachable(&mut self, leg: &Leg, error: SocketError, seq: u32) {
        self.unreachable.push((*leg, error, seq));
    }

    fn unpark(&mut self, flow: FlowId) {
        self.unparked.push(flow);
    }
}

/// Everything has changed.
pub(crate) const ALL: Readiness = Readiness::READABLE.union(Readiness::WRITABLE);
