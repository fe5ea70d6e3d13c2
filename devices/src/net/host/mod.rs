//! The host's side of the translation: its sockets, and the wait for them.
//!
//! Besides the ports, this is the only part of the network that calls the
//! system. One thread owns a [`Host`] and the [`Poller`] that tells of its
//! sockets; both are non-blocking but for [`Poller::wait`].
//!
//! What things cost in calls besides the wait, as strace(1) counts them:
//!
//! | | |
//! | --- | --- |
//! | a datagram out, and the answer | sendto, recvmmsg |
//! | a short request by TCP, and the answer | sendto, recv; each 16th time another recv and getsockopt |
//! | 64 KiB to a guest | recv, another one, each 5th time ioctl; from a ring, 0.1 recv |
//! | 64 KiB from a guest | getsockopt, sendto |
//! | a connection with one request | 12, of which 7 make it and 1 ends it; 2 more if the guest ends first |

mod batch;
mod capabilities;
mod datagrams;
mod errors;
mod message;
mod options;
mod poll;
mod process;
mod queue;
mod report;
mod resolvers;
mod ring;
mod room;
mod scratch;
mod streams;
mod table;

#[cfg(test)]
mod tests;

pub use batch::{Arrival, Batch};
pub use capabilities::Capabilities;
pub use poll::{Event, Poller, PortWatch, Registry, SocketEvent, Waker};
pub use process::addresses;
pub use report::SocketReport;
pub use resolvers::Resolvers;

use std::collections::HashMap;
use std::io;

use rustix::event::epoll::EventFlags;

use self::datagrams::Datagrams;
use self::errors::meaning;
use self::message::{Control, Mover};
use self::process::raise_descriptor_limit;
use self::ring::Pool;
use self::scratch::Scratch;
use self::streams::{Listener, Stream};
use self::table::Table;
use crate::net::nat::sockets::{Family, SocketError, SocketId, SocketKind};
use crate::net::nat::tcp::streams::Readiness;

/// Descriptors that are left to the rest of the process, if there are twice
/// as many.
const RESERVE: u64 = 256;

/// How much the sockets may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sockets. There are fewer if the process may not have as many
    /// descriptors.
    pub sockets: u32,
    /// Bytes of memory for streams, where the kernel doesn't keep them
    /// ([`Capabilities::peek_offset`]), besides 4 KiB that each may have.
    pub rings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sockets: 1 << 17,
            rings: 256 << 20,
        }
    }
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Datagrams: [`Host::receive`] if it is readable, [`Host::report`] and
    /// [`Host::receive`] if there is an error.
    Datagrams(SocketKind),
    /// A connection.
    Stream,
    /// Connections to be accepted.
    Listener,
}

/// News of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// The socket.
    pub socket: SocketId,
    /// What it is for.
    pub role: Role,
    /// What has changed.
    pub readiness: Readiness,
}

enum Socket {
    Datagrams(Datagrams),
    Stream(Stream),
    Listener(Listener),
}

/// The host's sockets.
pub struct Host {
    sockets: Table<Socket>,
    registry: Registry,
    capabilities: Capabilities,
    mover: Mover,
    scratch: Scratch,
    pool: Pool,
    /// The ports that connections leave from, and how many do.
    bound: HashMap<(Family, u16), u32>,
    /// Listeners with connections that there was no room for.
    starved: Vec<SocketId>,
    /// Of streams.
    nothing: Control,
}

impl Host {
    /// No sockets yet. They will be registered at `registry`.
    ///
    /// Raises the process's soft limit of descriptors to the hard one, and
    /// finds out what the kernel can do.
    ///
    /// # Errors
    ///
    /// What the system says, if there are no sockets to be had.
    pub fn new(limits: Limits, registry: Registry) -> io::Result<Self> {
        Self::with(limits, registry, Capabilities::probe()?)
    }

    /// The same, but with capabilities that are known: what the kernel can do,
    /// or less.
    pub fn with(
        limits: Limits,
        registry: Registry,
        capabilities: Capabilities,
    ) -> io::Result<Self> {
        let descriptors = raise_descriptor_limit()?;
        let ours = descriptors - RESERVE.min(descriptors / 2);
        let most = limits.sockets.min(u32::try_from(ours).unwrap_or(u32::MAX));
        Ok(Self {
            sockets: Table::new(most),
            registry,
            capabilities,
            mover: Mover::default(),
            scratch: Scratch::new(),
            pool: Pool::new(limits.rings),
            bound: HashMap::new(),
            starved: Vec::new(),
            nothing: Control::new(),
        })
    }

    /// What the host's kernel can do.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The number of sockets.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether there is no socket.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Learns what happened at a socket; none if it is closed by now. To be
    /// called for each [`Event::Socket`]: data that wasn't told of isn't
    /// looked for.
    pub fn news(&mut self, event: SocketEvent) -> Option<News> {
        let SocketEvent { token, flags } = event;
        let hangup = flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        let mut readiness = Readiness::empty();
        readiness.set(
            Readiness::READABLE,
            hangup || flags.intersects(EventFlags::IN | EventFlags::ERR),
        );
        readiness.set(Readiness::WRITABLE, flags.contains(EventFlags::OUT));
        readiness.set(Readiness::ERROR, flags.contains(EventFlags::ERR));
        let role = match self.sockets.named_mut(token)? {
            Socket::Datagrams(datagrams) => {
                if readiness.contains(Readiness::WRITABLE) {
                    let waited = datagrams.writable(token, &self.registry);
                    readiness.set(Readiness::WRITABLE, waited);
                }
                Role::Datagrams(datagrams.kind)
            }
            Socket::Stream(stream) => {
                stream.news(readiness, hangup);
                Role::Stream
            }
            Socket::Listener(_) => Role::Listener,
        };
        Some(News {
            socket: token.socket,
            role,
            readiness,
        })
    }

    /// Keeps a new socket, and watches it.
    fn add(&mut self, socket: Socket, interest: EventFlags) -> Result<SocketId, SocketError> {
        let token = self.sockets.insert(socket)?;
        let fd = match self.sockets.named_mut(token) {
            Some(Socket::Datagrams(datagrams)) => datagrams.fd(),
            Some(Socket::Stream(stream)) => stream.fd(),
            Some(Socket::Listener(listener)) => listener.fd(),
            None => return Err(SocketError::Exhausted),
        };
        if let Err(error) = self.registry.add(fd, token, interest) {
            self.sockets.remove(token.socket);
            return Err(meaning(error));
        }
        Ok(token.socket)
    }

    /// Closes a socket, which ends its registration, too.
    fn remove(&mut self, socket: SocketId) {
        match self.sockets.remove(socket) {
            Some(Socket::Stream(stream)) => drop(self.forget(stream)),
            Some(Socket::Datagrams(_) | Socket::Listener(_)) => {}
            None => return,
        }
        self.feed_listeners();
    }
}
