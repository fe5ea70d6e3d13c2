//! What the translator asks of the host: connected sockets.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use bitflags::bitflags;

use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::payload::Payload;
use crate::scatter::ScatterList;

bitflags! {
    /// What has changed at a socket. A change is told once (edge-triggered,
    /// epoll(7)); telling it again does no harm.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Readiness: u8 {
        /// More data can be read than before, or the end of the stream; also
        /// what came after [`Streams::peek`] found less than it was asked for.
        const READABLE = 1 << 0;
        /// The connection is made, or there is room again after a
        /// [`Streams::send`] that took less than it was given, or after
        /// [`Streams::want_room`].
        const WRITABLE = 1 << 1;
        /// [`Streams::error`] has something to say.
        const ERROR = 1 << 2;
    }
}

/// How far [`Streams::connect`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer has answered: one on this host does at once.
    Connected,
    /// [`Readiness::WRITABLE`] or [`Readiness::ERROR`] will tell.
    Pending,
}

/// Which local port a connection leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalPort {
    /// This one, if no other socket has it, else any that none has; any for 0.
    Prefer(u16),
    /// This one, which connections to other peers leave from too.
    Shared(u16),
}

/// A connection under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The socket.
    pub socket: SocketId,
    /// The local port that it was given.
    pub port: u16,
    /// Whether it is made already.
    pub progress: Progress,
}

/// Data that waits in a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes that can be read, at most as many as were asked for.
    pub len: u32,
    /// The stream ends right after them.
    pub end: bool,
}

/// The payload of a frame to the guest: it waits in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The socket.
    pub socket: SocketId,
    /// Bytes before it that the guest hasn't acknowledged either.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
    /// The largest segment the guest takes: a longer payload needs
    /// segmentation.
    pub mss: u16,
}

/// The host's TCP sockets. None of these calls waits.
pub trait Streams {
    /// Begins a connection to `to`, from a port that the kernel lets several
    /// connections share (SO_REUSEADDR, ip(7) IP_BIND_ADDRESS_NO_PORT).
    fn connect(&mut self, to: SocketAddr, from: LocalPort) -> Result<Connection, SocketError>;

    /// Listens at an address of the host, where port 0 stands for any that is
    /// free; returns the port.
    fn listen(&mut self, at: SocketAddr) -> Result<(SocketId, u16), SocketError>;

    /// Takes the next connection that was made to a listener, and its peer;
    /// [`SocketError::WouldBlock`] if there is none, and
    /// [`SocketError::Exhausted`] if the host has no descriptor for it:
    /// [`Readiness::READABLE`] tells when it has one.
    fn accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr), SocketError>;

    /// Takes the error that is pending at a socket (SO_ERROR, socket(7)).
    fn error(&mut self, socket: SocketId) -> Option<SocketError>;

    /// Sends the bytes of `payload` in `range`, as many as the socket has
    /// room for, and returns how many; [`SocketError::WouldBlock`] for none.
    fn send(
        &mut self,
        socket: SocketId,
        payload: &dyn Payload,
        range: Range<usize>,
    ) -> Result<usize, SocketError>;

    /// How many bytes [`Streams::send`] would take now: a promise as far as
    /// the kernel lets one be made (SO_SNDBUF less SIOCOUTQ).
    fn send_room(&mut self, socket: SocketId) -> u32;

    /// Has [`Readiness::WRITABLE`] told once when the socket has a good deal of
    /// room, as after a send that came short. (A kernel tells only whom it had
    /// to refuse something: epoll(7) is told anew what to wait for.)
    fn want_room(&mut self, socket: SocketId);

    /// Looks for up to `most` bytes at `offset` from the first that isn't
    /// discarded.
    fn peek(&mut self, socket: SocketId, offset: u32, most: u32) -> Result<Waiting, SocketError>;

    /// Shows `content` where a copy of it, or it itself, lies in memory of our
    /// own, in at most two pieces.
    fn view(
        &mut self,
        content: Source,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), SocketError>;

    /// Copies `content` to guest memory, from `at` in `buffers` on, where it
    /// has room.
    fn fill(
        &mut self,
        content: Source,
        buffers: &ScatterList,
        at: usize,
    ) -> Result<(), SocketError>;

    /// Drops the first `count` bytes.
    fn discard(&mut self, socket: SocketId, count: u32);

    /// Ends the outgoing stream (SHUT_WR, shutdown(2)).
    fn shutdown(&mut self, socket: SocketId);

    /// Closes a listener, or a socket whose streams have both ended, the
    /// outgoing one with this at the latest; what was sent is still delivered.
    fn close(&mut self, socket: SocketId);

    /// Closes a socket at once and resets its connection, if there is one
    /// (SO_LINGER of zero, socket(7)).
    fn abort(&mut self, socket: SocketId);
}
