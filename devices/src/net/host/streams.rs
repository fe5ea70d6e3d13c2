//! TCP sockets: connections to the outside, and listeners.
//!
//! What a peer has sent is looked at without being taken until the guest has
//! acknowledged it, in one of two ways: where it lies in the kernel
//! (queue.rs), or in a ring of our own (ring.rs).

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{self, SocketFlags, SocketType, ipproto, sockopt};

use super::datagrams::{bind_error, local_port, open, unspecified};
use super::errors::meaning;
use super::queue::Queue;
use super::ring::Ring;
use super::room::Room;
use super::table::Token;
use super::{Host, Registry, Socket};
use crate::net::nat::sockets::{Family, SocketError, SocketId};
use crate::net::nat::tcp::streams::{
    Connection, LocalPort, Progress, Readiness, Source, Streams, Waiting,
};
use crate::net::payload::Payload;
use crate::scatter::ScatterList;

/// Connections that wait to be accepted, per listener: the kernel's own limit
/// is lower unless it was raised (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// A stream's: what comes.
const INCOMING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
/// And that the connection is made, or room. TCP tells of room only to those
/// whom it refused some (SOCK_NOSPACE).
const STREAM: EventFlags = INCOMING.union(EventFlags::OUT);
const LISTENER: EventFlags = EventFlags::IN;

/// A connected socket, or one that is being connected.
pub(super) struct Stream {
    fd: OwnedFd,
    room: Room,
    pace: Pace,
    /// Epoll tells of room.
    tells_room: bool,
    waiting: Kept,
    /// The port it was bound to, unless it was accepted.
    bound: Option<(Family, u16)>,
}

/// How far the kernel was told not to hold back what is sent (TCP_NODELAY,
/// tcp(7)): the guest has decided already what to send at once. The first that
/// is sent is never held back, since nothing is on its way then (RFC 9293,
/// 3.7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Nothing was sent yet.
    First,
    /// It is yet to be told.
    Nagle,
    Told,
}

impl Pace {
    /// To be called before each send.
    fn before_send(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        *self = match self {
            Self::First => Self::Nagle,
            Self::Nagle => {
                sockopt::set_tcp_nodelay(fd, true)?;
                Self::Told
            }
            Self::Told => Self::Told,
        };
        Ok(())
    }
}

/// Where the data is kept that the guest doesn't have yet.
enum Kept {
    Kernel(Queue),
    Ring(Ring),
}

/// A listening socket.
pub(super) struct Listener {
    fd: OwnedFd,
    /// It may have connections that there was no room for.
    starved: bool,
}

impl Stream {
    fn new(fd: OwnedFd, bound: Option<(Family, u16)>, in_kernel: bool) -> Self {
        Self {
            fd,
            room: Room::default(),
            // What is accepted has the listener's options.
            pace: match bound {
                Some(_) => Pace::First,
                None => Pace::Told,
            },
            tells_room: false,
            waiting: if in_kernel {
                Kept::Kernel(Queue::default())
            } else {
                Kept::Ring(Ring::default())
            },
            bound,
        }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Has it told when there is room.
    fn want_room(&mut self, token: Token, registry: &Registry) {
        // The kernel looks at the socket for that, and from then on knows that
        // somebody waits (tcp_poll). It fails for memory only; then the flow's
        // own timer looks.
        self.tells_room = registry.modify(&self.fd, token, STREAM).is_ok();
    }

    /// Learns what happened.
    pub(super) fn news(&mut self, readiness: Readiness, hangup: bool) {
        if readiness.contains(Readiness::READABLE) {
            match &mut self.waiting {
                Kept::Kernel(queue) => queue.news(hangup),
                Kept::Ring(ring) => ring.news(hangup),
            }
        }
    }
}

impl Listener {
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Has the connections told again that there was no room for.
    fn feed(&mut self, token: Token, registry: &Registry) {
        if std::mem::take(&mut self.starved) {
            // If this fails, the next connection tells of all.
            let _told = registry.modify(&self.fd, token, LISTENER);
        }
    }
}

/// A new TCP socket as all of ours are.
fn tcp_socket(family: Family) -> Result<OwnedFd, Errno> {
    let fd = open(family, SocketType::STREAM, ipproto::TCP)?;
    if family == Family::V6 {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    sockopt::set_socket_reuseaddr(&fd, true)?;
    // Urgent data stays in its place in the stream (RFC 6093, 3.1).
    sockopt::set_socket_oobinline(&fd, true)?;
    Ok(fd)
}

impl Host {
    /// Begins a connection from a port, 0 for any.
    fn connect_from(&mut self, to: SocketAddr, port: u16) -> Result<Connection, SocketError> {
        let family = Family::from(to.ip());
        let fd = tcp_socket(family).map_err(meaning)?;
        let local = unspecified(family, port);
        net::bind(&fd, &SocketAddr::from(local)).map_err(bind_error)?;
        let port = match port {
            0 => local_port(&fd).map_err(meaning)?,
            port => port,
        };
        let progress = begin(&fd, to)?;
        if port == to.port() && is_local(&fd, to) {
            // TCP would connect the socket to itself (RFC 9293, 3.5).
            return Err(SocketError::Refused);
        }
        let mut stream = Stream::new(fd, Some((family, port)), self.capabilities.peek_offset);
        stream.tells_room = progress == Progress::Pending;
        // Not before: an unconnected socket has hung up (tcp_poll).
        let interest = match progress {
            Progress::Connected => INCOMING,
            Progress::Pending => STREAM,
        };
        let socket = self.add(Socket::Stream(stream), interest)?;
        *self.bound.entry((family, port)).or_default() += 1;
        Ok(Connection {
            socket,
            port,
            progress,
        })
    }

    pub(super) fn stream(&mut self, socket: SocketId) -> Result<&mut Stream, SocketError> {
        match self.sockets.get_mut(socket) {
            Some(Socket::Stream(stream)) => Ok(stream),
            _ => Err(SocketError::Other(libc::EBADF)),
        }
    }

    /// There is room for a connection again: has the listeners told that
    /// missed some.
    pub(super) fn feed_listeners(&mut self) {
        for id in self.starved.drain(..) {
            if let Some(token) = self.sockets.token(id)
                && let Some(Socket::Listener(listener)) = self.sockets.get_mut(id)
            {
                listener.feed(token, &self.registry);
            }
        }
    }

    /// Forgets what was kept for a stream that is closed.
    pub(super) fn forget(&mut self, mut stream: Stream) -> OwnedFd {
        match &mut stream.waiting {
            Kept::Kernel(queue) => queue.settle(&stream.fd),
            Kept::Ring(ring) => ring.release(&mut self.pool),
        }
        if let Some(bound) = stream.bound
            && let Some(count) = self.bound.get_mut(&bound)
        {
            *count -= 1;
            if *count == 0 {
                self.bound.remove(&bound);
            }
        }
        stream.fd
    }
}

/// Begins to connect a socket. A peer on this host has answered by the time
/// that the kernel says it is under way: the answer was taken when the call let
/// go of the socket. To ask again costs less than to be told.
fn begin(fd: &OwnedFd, to: SocketAddr) -> Result<Progress, SocketError> {
    let begun = match net::connect(fd, &to) {
        Err(Errno::INPROGRESS) => net::connect(fd, &to),
        begun => begun,
    };
    match begun {
        Ok(()) => Ok(Progress::Connected),
        Err(Errno::ALREADY) => Ok(Progress::Pending),
        // The port has a connection to this very peer.
        Err(Errno::ADDRNOTAVAIL) => Err(SocketError::InUse),
        Err(error) => Err(meaning(error)),
    }
}

/// Whether an address is the socket's own.
fn is_local(fd: &OwnedFd, address: SocketAddr) -> bool {
    let own = net::getsockname(fd).ok();
    own.and_then(|own| SocketAddr::try_from(own).ok()) == Some(address)
}

/// Takes the next connection that came to be.
fn accept(listener: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (fd, peer) = net::acceptfrom_with(listener, flags)?;
    let peer = peer.ok_or(Errno::CONNABORTED)?;
    let peer = SocketAddr::try_from(peer).map_err(|_| Errno::CONNABORTED)?;
    Ok((fd, peer))
}

impl Streams for Host {
    /// The port is bound before, and not left to connect(2)
    /// (IP_BIND_ADDRESS_NO_PORT, ip(7)): only so no two guests' connections
    /// share it, whatever their peers (RFC 5382, REQ-1 and REQ-7). Those of
    /// one guest do (SO_REUSEADDR), and connections in TIME-WAIT don't
    /// prevent it.
    fn connect(&mut self, to: SocketAddr, from: LocalPort) -> Result<Connection, SocketError> {
        if self.sockets.is_full() {
            return Err(SocketError::Exhausted);
        }
        match from {
            LocalPort::Shared(port) => self.connect_from(to, port),
            LocalPort::Prefer(port) => {
                let is_ours = self.bound.contains_key(&(to.ip().into(), port));
                if port == 0 || is_ours {
                    return self.connect_from(to, 0);
                }
                match self.connect_from(to, port) {
                    // The port is another's, or the privileged's.
                    Err(SocketError::InUse | SocketError::Prohibited) => self.connect_from(to, 0),
                    result => result,
                }
            }
        }
    }

    fn listen(&mut self, at: SocketAddr) -> Result<(SocketId, u16), SocketError> {
        if self.sockets.is_full() {
            return Err(SocketError::Exhausted);
        }
        let fd = tcp_socket(at.ip().into()).map_err(meaning)?;
        sockopt::set_tcp_nodelay(&fd, true).map_err(meaning)?;
        net::bind(&fd, &at).map_err(bind_error)?;
        net::listen(&fd, BACKLOG).map_err(bind_error)?;
        let port = match at.port() {
            0 => local_port(&fd).map_err(meaning)?,
            port => port,
        };
        let listener = Listener { fd, starved: false };
        let socket = self.add(Socket::Listener(listener), LISTENER)?;
        Ok((socket, port))
    }

    fn accept(&mut self, id: SocketId) -> Result<(SocketId, SocketAddr), SocketError> {
        let full = self.sockets.is_full();
        let Some(Socket::Listener(listener)) = self.sockets.get_mut(id) else {
            return Err(SocketError::Other(libc::EBADF));
        };
        let accepted = if full {
            Err(Errno::MFILE)
        } else {
            loop {
                match accept(&listener.fd) {
                    Err(
                        Errno::CONNABORTED
                        // Errors of the new connection (accept(2)).
                        | Errno::NETDOWN
                        | Errno::PROTO
                        | Errno::NOPROTOOPT
                        | Errno::HOSTDOWN
                        | Errno::NONET
                        | Errno::HOSTUNREACH
                        | Errno::NETUNREACH,
                    ) => {}
                    result => break result,
                }
            }
        };
        let (fd, peer) = match accepted.map_err(meaning) {
            Err(SocketError::Exhausted) => {
                if !listener.starved {
                    listener.starved = true;
                    self.starved.push(id);
                }
                return Err(SocketError::Exhausted);
            }
            accepted => accepted?,
        };
        let stream = Stream::new(fd, None, self.capabilities.peek_offset);
        Ok((self.add(Socket::Stream(stream), INCOMING)?, peer))
    }

    fn error(&mut self, socket: SocketId) -> Option<SocketError> {
        let stream = self.stream(socket).ok()?;
        match sockopt::socket_error(&stream.fd) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(meaning(error)),
        }
    }

    fn send(
        &mut self,
        socket: SocketId,
        payload: &dyn Payload,
        range: Range<usize>,
    ) -> Result<usize, SocketError> {
        let token = self.sockets.token(socket);
        let (Some(token), Some(Socket::Stream(stream))) = (token, self.sockets.get_mut(socket))
        else {
            return Err(SocketError::Other(libc::EBADF));
        };
        stream.pace.before_send(&stream.fd).map_err(meaning)?;
        let asked = range.len();
        let sent = self
            .mover
            .send(&stream.fd, None, payload, range, &self.nothing);
        if let Ok(count) = sent
            && count == asked
        {
            stream.room.sent(count);
        } else {
            stream.room.exhausted();
            if !stream.tells_room {
                stream.want_room(token, &self.registry);
            }
        }
        sent.map_err(meaning)
    }

    fn send_room(&mut self, socket: SocketId) -> u32 {
        match self.stream(socket) {
            Ok(stream) => stream.room.get(&stream.fd),
            Err(_) => 0,
        }
    }

    fn want_room(&mut self, socket: SocketId) {
        let token = self.sockets.token(socket);
        if let (Some(token), Some(Socket::Stream(stream))) = (token, self.sockets.get_mut(socket)) {
            stream.want_room(token, &self.registry);
        }
    }

    fn peek(&mut self, socket: SocketId, offset: u32, most: u32) -> Result<Waiting, SocketError> {
        let token = self.sockets.token(socket);
        let (Some(token), Some(Socket::Stream(stream))) = (token, self.sockets.get_mut(socket))
        else {
            return Err(SocketError::Other(libc::EBADF));
        };
        let range = (offset, most);
        let waiting = match &mut stream.waiting {
            Kept::Kernel(queue) => queue.peek((&stream.fd, token), range, &mut self.scratch),
            Kept::Ring(ring) => ring.peek(&stream.fd, range, &mut self.pool),
        };
        waiting.map_err(meaning)
    }

    fn view(
        &mut self,
        content: Source,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), SocketError> {
        let token = self.sockets.token(content.socket);
        let (Some(token), Some(Socket::Stream(stream))) =
            (token, self.sockets.get_mut(content.socket))
        else {
            return Err(SocketError::Other(libc::EBADF));
        };
        let range = (content.offset, content.len);
        let viewed = match &mut stream.waiting {
            Kept::Kernel(queue) => queue.view((&stream.fd, token), range, &mut self.scratch, with),
            Kept::Ring(ring) => ring.view(range, with),
        };
        viewed.map_err(meaning)
    }

    fn fill(
        &mut self,
        content: Source,
        buffers: &ScatterList,
        at: usize,
    ) -> Result<(), SocketError> {
        let token = self.sockets.token(content.socket);
        let (Some(token), Some(Socket::Stream(stream))) =
            (token, self.sockets.get_mut(content.socket))
        else {
            return Err(SocketError::Other(libc::EBADF));
        };
        let range = (content.offset, content.len);
        let filled = match &mut stream.waiting {
            Kept::Kernel(queue) => queue.fill(
                (&stream.fd, token),
                range,
                (buffers, at),
                (&mut self.scratch, &mut self.mover),
            ),
            Kept::Ring(ring) => ring.fill(range, buffers, at),
        };
        filled.map_err(meaning)
    }

    fn discard(&mut self, socket: SocketId, count: u32) {
        if let Some(Socket::Stream(stream)) = self.sockets.get_mut(socket) {
            match &mut stream.waiting {
                Kept::Kernel(queue) => queue.discard(&stream.fd, count),
                Kept::Ring(ring) => ring.discard(count, &mut self.pool),
            }
        }
    }

    fn shutdown(&mut self, socket: SocketId) {
        if let Ok(stream) = self.stream(socket) {
            // The end of a connection is told in several steps, and of each
            // the kernel says whether there is something to read.
            if let Kept::Kernel(queue) = &mut stream.waiting {
                queue.settle(&stream.fd);
            }
            // Fails only if there is no connection any more, which is told.
            let _told = net::shutdown(stream.fd.as_fd(), net::Shutdown::Write);
        }
    }

    fn close(&mut self, socket: SocketId) {
        self.remove(socket);
    }

    fn abort(&mut self, socket: SocketId) {
        if let Ok(stream) = self.stream(socket) {
            // If this failed, the peer would see an end instead of a reset.
            let _set = sockopt::set_socket_linger(&stream.fd, Some(Duration::ZERO));
        }
        self.remove(socket);
    }
}
