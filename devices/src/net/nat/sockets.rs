//! The host's sockets as the translation sees them.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::flows::Endpoint;
use crate::net::payload::Payload;

/// A socket. Ids are small, since tables are indexed by them: a new socket
/// gets the lowest that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// A version of the internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketKind {
    /// UDP datagrams. A socket of IPv6 takes no IPv4 (IPV6_V6ONLY).
    Udp(Family),
    /// ICMP echo requests out, and replies in: Linux's ping sockets (icmp(7)),
    /// where the identifier of the queries is the socket's port.
    Echo(Family),
}

/// What a socket says when it doesn't do what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SocketError {
    /// Nobody has the port (ECONNREFUSED).
    #[error("connection refused")]
    Refused,
    /// The peer ended the connection at once (ECONNRESET, EPIPE).
    #[error("connection reset")]
    Reset,
    /// The peer didn't answer (ETIMEDOUT).
    #[error("no answer in time")]
    TimedOut,
    /// The host can't be reached (EHOSTUNREACH).
    #[error("no route to host")]
    HostUnreachable,
    /// The network can't be reached (ENETUNREACH).
    #[error("network is unreachable")]
    NetUnreachable,
    /// The host doesn't speak the protocol (ENOPROTOOPT, EPROTO).
    #[error("protocol not available")]
    ProtocolUnreachable,
    /// A router counted the hops down to zero (an error of the network only).
    #[error("the packet took too many hops")]
    TimeExceeded,
    /// The packet is too big, and no router may fragment it (EMSGSIZE).
    #[error("longer than the path's MTU of {0}")]
    TooBig(u32),
    /// The socket's buffer is full (EAGAIN): it says when it is writable.
    #[error("the socket's buffer is full")]
    WouldBlock,
    /// No descriptor, buffer, memory or port is left (EMFILE, ENFILE, ENOBUFS,
    /// ENOMEM; EAGAIN of bind(2)).
    #[error("no descriptors, buffers, memory or ports left")]
    Exhausted,
    /// Another socket has the address (EADDRINUSE).
    #[error("address in use by another socket")]
    InUse,
    /// The host doesn't have the address (EADDRNOTAVAIL).
    #[error("not an address of this host")]
    NoSuchAddress,
    /// A rule of the host or on the way forbids it (EACCES, EPERM).
    #[error("forbidden by the host or on the way")]
    Prohibited,
    /// The host can't do it (EAFNOSUPPORT, EPROTONOSUPPORT, EOPNOTSUPP; EIO
    /// and EINVAL for segmentation).
    #[error("not supported by the host")]
    Unsupported,
    /// Anything else, by its number (errno(3)).
    #[error("error {0} of the host")]
    Other(i32),
}

/// How a payload is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// The payload is datagrams of this length each, the last one perhaps
    /// shorter (UDP_SEGMENT, udp(7)); at most [`MAX_SEGMENTS`] of them.
    pub segment: Option<NonZeroU16>,
    /// The hops the packet may take, if not the host's default.
    pub hop_limit: Option<u8>,
    /// Nobody may fragment the packet: one that is too long for its way is
    /// [`SocketError::TooBig`] (IP_PMTUDISC_DO, ip(7)). Without it, the host
    /// fragments it (IP_PMTUDISC_DONT).
    pub dont_fragment: bool,
}

/// The most datagrams that one call sends: UDP_MAX_SEGMENTS up to Linux 6.8.
pub const MAX_SEGMENTS: usize = 64;

/// The host's sockets for datagrams. All are non-blocking.
///
/// What arrives at a socket is reported to the state machine that opened it,
/// as are errors that the network sent back (IP_RECVERR, ip(7)): so
/// [`Sockets::send_to`] returns only what is wrong with this very datagram.
pub trait Sockets {
    /// Opens a socket on all addresses, with `want_port` if that is free, else
    /// any other; returns its port too.
    fn open(&mut self, kind: SocketKind, want_port: u16) -> Result<(SocketId, u16), SocketError>;

    /// Opens a socket on this address and port, 0 for any; returns its port
    /// too.
    fn bind(&mut self, kind: SocketKind, local: Endpoint) -> Result<(SocketId, u16), SocketError>;

    /// Sends the payload: a datagram, several of them, or an echo request with
    /// its ICMP header, in which the host replaces identifier and checksum.
    fn send_to(
        &mut self,
        socket: SocketId,
        to: Endpoint,
        payload: &dyn Payload,
        options: SendOptions,
    ) -> Result<(), SocketError>;

    /// Closes a socket; its id may be given to another.
    fn close(&mut self, socket: SocketId);
}
