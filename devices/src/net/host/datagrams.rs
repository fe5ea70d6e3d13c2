//! Sockets for datagrams: UDP, and ping sockets for echoes (icmp(7)).
//!
//! None is ever connected: each sends to whom it is told to and hears
//! everybody. Fragmentation is the kernel's (path MTU discovery is left as
//! the host has it, which is IP_PMTUDISC_WANT): it fragments what is longer
//! than the path takes, as a NAT must (RFC 4787, REQ-13), and what a router
//! says of the path's MTU is reported.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};

use libc::c_int;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Protocol, SocketFlags, SocketType, ipproto};

use super::batch::Batch;
use super::errors::{may_be_pending, meaning};
use super::message::Control;
use super::report::SocketReport;
use super::table::Token;
use super::{Capabilities, Host, Registry, Socket, options};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::{Family, SendOptions, SocketError, SocketId, SocketKind, Sockets};
use crate::net::payload::Payload;

/// How often a call is made again that may have failed because of what was sent
/// before: the kernel keeps one such error, and another may just have come.
const RETRIES: usize = 2;

/// A socket is watched for room only when it has had none: the kernel tells
/// of it whenever a datagram has left (sock_def_write_space).
const QUIET: EventFlags = EventFlags::IN;

/// A socket for datagrams.
pub(super) struct Datagrams {
    fd: OwnedFd,
    pub(super) kind: SocketKind,
    /// Its buffer was full, and it is watched for room.
    blocked: bool,
    /// What the kernel was last told about fragmenting.
    dont_fragment: Option<bool>,
}

impl Datagrams {
    fn open(kind: SocketKind, capabilities: &Capabilities) -> Result<Self, Errno> {
        let (family, protocol) = match kind {
            SocketKind::Udp(family) => (family, ipproto::UDP),
            SocketKind::Echo(Family::V4) => (Family::V4, ipproto::ICMP),
            SocketKind::Echo(Family::V6) => (Family::V6, ipproto::ICMPV6),
        };
        let fd = open(family, SocketType::DGRAM, protocol)?;
        match family {
            Family::V4 => options::set(&fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?,
            Family::V6 => {
                net::sockopt::set_ipv6_v6only(&fd, true)?;
                options::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            }
        }
        match kind {
            SocketKind::Udp(_) if capabilities.udp_gro => {
                options::set(&fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
            }
            SocketKind::Udp(_) => {}
            // Ping sockets share identifiers unless told not to.
            SocketKind::Echo(_) => net::sockopt::set_socket_reuseaddr(&fd, false)?,
        }
        Ok(Self {
            fd,
            kind,
            blocked: false,
            dont_fragment: None,
        })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn bind(&self, local: Endpoint) -> Result<u16, Errno> {
        net::bind(&self.fd, &SocketAddr::from(local))?;
        match local.port {
            0 => local_port(&self.fd),
            port => Ok(port),
        }
    }

    /// Says whether routers, and the host, may fragment what is sent from now
    /// on (RFC 4787, REQ-13).
    fn set_dont_fragment(&mut self, on: bool) -> Result<(), Errno> {
        if self.dont_fragment == Some(on) {
            return Ok(());
        }
        let (level, name, values) = match self.kind {
            SocketKind::Udp(Family::V4) | SocketKind::Echo(Family::V4) => (
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                (libc::IP_PMTUDISC_DO, libc::IP_PMTUDISC_DONT),
            ),
            SocketKind::Udp(Family::V6) | SocketKind::Echo(Family::V6) => (
                libc::IPPROTO_IPV6,
                libc::IPV6_MTU_DISCOVER,
                (libc::IPV6_PMTUDISC_DO, libc::IPV6_PMTUDISC_DONT),
            ),
        };
        let value = if on { values.0 } else { values.1 };
        options::set(&self.fd, level, name, value)?;
        self.dont_fragment = Some(on);
        Ok(())
    }

    /// Has it told when there is room again.
    pub(super) fn await_room(&mut self, token: Token, registry: &Registry) -> Result<(), Errno> {
        if !self.blocked {
            registry.modify(&self.fd, token, QUIET | EventFlags::OUT)?;
            self.blocked = true;
        }
        Ok(())
    }

    /// Learns that there may be room again; false if nobody waits for that.
    pub(super) fn writable(&mut self, token: Token, registry: &Registry) -> bool {
        let waited = std::mem::take(&mut self.blocked);
        if waited && registry.modify(&self.fd, token, QUIET).is_err() {
            // It is told again, at worst each time.
            self.blocked = true;
        }
        waited
    }
}

/// A new non-blocking socket.
pub(super) fn open(family: Family, kind: SocketType, protocol: Protocol) -> Result<OwnedFd, Errno> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    net::socket_with(family, kind, flags, Some(protocol))
}

/// All addresses of a family, with this port.
pub(super) fn unspecified(family: Family, port: u16) -> Endpoint {
    match family {
        Family::V4 => Endpoint::new(Ipv4Addr::UNSPECIFIED, port),
        Family::V6 => Endpoint::new(Ipv6Addr::UNSPECIFIED, port),
    }
}

/// The port that a socket was bound to.
pub(super) fn local_port(fd: &impl AsFd) -> Result<u16, Errno> {
    let name = SocketAddr::try_from(net::getsockname(fd)?);
    name.map(|name| name.port()).map_err(|_| Errno::AFNOSUPPORT)
}

impl Host {
    /// Receives what has come to a socket for datagrams, as many as fit the
    /// batch; returns how many. There may be more if [`Batch::is_full`].
    pub fn receive(&mut self, socket: SocketId, batch: &mut Batch) -> Result<usize, SocketError> {
        let datagrams = self.datagrams(socket)?;
        let received = again(|| batch.receive(&datagrams.fd));
        match received {
            Err(Errno::AGAIN) => Ok(0),
            received => received.map_err(meaning),
        }
    }

    /// The next error that the network sent back about what was sent through
    /// a socket, until there is none.
    pub fn report(&mut self, socket: SocketId) -> Option<SocketReport> {
        let datagrams = self.datagrams(socket).ok()?;
        loop {
            match SocketReport::take(&datagrams.fd) {
                Ok(report) => return Some(report),
                Err(Errno::BADMSG) => {}
                Err(_) => return None,
            }
        }
    }

    fn datagrams(&mut self, socket: SocketId) -> Result<&mut Datagrams, SocketError> {
        match self.sockets.get_mut(socket) {
            Some(Socket::Datagrams(datagrams)) => Ok(datagrams),
            _ => Err(SocketError::Other(libc::EBADF)),
        }
    }

    fn add_datagrams(&mut self, datagrams: Datagrams) -> Result<SocketId, SocketError> {
        self.add(Socket::Datagrams(datagrams), QUIET)
    }
}

impl Sockets for Host {
    fn open(&mut self, kind: SocketKind, want_port: u16) -> Result<(SocketId, u16), SocketError> {
        if self.sockets.is_full() {
            return Err(SocketError::Exhausted);
        }
        let (SocketKind::Udp(family) | SocketKind::Echo(family)) = kind;
        let datagrams = Datagrams::open(kind, &self.capabilities).map_err(meaning)?;
        let bound = datagrams.bind(unspecified(family, want_port));
        let port = match bound {
            // Taken, or only for the privileged.
            Err(Errno::ADDRINUSE | Errno::ACCESS) if want_port != 0 => {
                datagrams.bind(unspecified(family, 0))
            }
            bound => bound,
        };
        let port = port.map_err(bind_error)?;
        Ok((self.add_datagrams(datagrams)?, port))
    }

    fn bind(&mut self, kind: SocketKind, local: Endpoint) -> Result<(SocketId, u16), SocketError> {
        if self.sockets.is_full() {
            return Err(SocketError::Exhausted);
        }
        let datagrams = Datagrams::open(kind, &self.capabilities).map_err(meaning)?;
        let port = datagrams.bind(local).map_err(bind_error)?;
        Ok((self.add_datagrams(datagrams)?, port))
    }

    fn send_to(
        &mut self,
        socket: SocketId,
        to: Endpoint,
        payload: &dyn Payload,
        options: SendOptions,
    ) -> Result<(), SocketError> {
        let token = self.sockets.token(socket);
        let (Some(token), Some(Socket::Datagrams(datagrams))) =
            (token, self.sockets.get_mut(socket))
        else {
            return Err(SocketError::Other(libc::EBADF));
        };
        datagrams
            .set_dont_fragment(options.dont_fragment)
            .map_err(meaning)?;
        let control = control(to, options);
        let (mover, len) = (&mut self.mover, payload.len());
        let sent = again(|| mover.send(&datagrams.fd, Some(to.into()), payload, 0..len, &control));
        match sent {
            Ok(_all) => Ok(()),
            Err(Errno::AGAIN) => {
                let watched = datagrams.await_room(token, &self.registry);
                watched.map_err(meaning)?;
                Err(SocketError::WouldBlock)
            }
            // Segments that don't fit the interface's MTU, too many of them,
            // or a kernel or device that can't (udp_send_skb).
            Err(Errno::IO | Errno::INVAL | Errno::MSGSIZE) if options.segment.is_some() => {
                Err(SocketError::Unsupported)
            }
            Err(error) => Err(meaning(error)),
        }
    }

    fn close(&mut self, socket: SocketId) {
        self.remove(socket);
    }
}

/// Makes a call, and again if it fails because of what was sent before.
fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut result = call();
    for _ in 0..RETRIES {
        match result {
            Err(error) if may_be_pending(error) => result = call(),
            _ => break,
        }
    }
    result
}

/// What a datagram has besides its payload.
fn control(to: Endpoint, options: SendOptions) -> Control {
    let mut control = Control::new();
    if let Some(hops) = options.hop_limit {
        let (level, kind) = match Family::from(to.address) {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_TTL),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
        };
        control.push(level, kind, &c_int::from(hops).to_ne_bytes());
    }
    if let Some(segment) = options.segment.map(NonZeroU16::get) {
        control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    control
}

/// In bind(2), EAGAIN says that no port is free.
pub(super) fn bind_error(error: Errno) -> SocketError {
    match error {
        Errno::AGAIN => SocketError::Exhausted,
        error => meaning(error),
    }
}
