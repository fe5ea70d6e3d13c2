//! A client of DHCPv4 (RFC 2131) for one interface.
//!
//! Its socket belongs to the interface and needs no address of it. It isn't a
//! packet socket, since distributions' kernels have those as a module.

mod machine;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::services::dhcp4::{CLIENT_PORT, SERVER_PORT};
use nestling_devices::net::time::Time;
use thiserror::Error;

use self::machine::{Action, Machine};
use super::socket;
use crate::nest::process;

/// Room for any message: an Ethernet packet of the usual size.
const LONGEST_MESSAGE: usize = 1500;

/// Why there is no lease.
#[derive(Debug, Error)]
pub enum Error {
    /// The system refuses the client's port.
    #[error(
        "cannot use UDP port {CLIENT_PORT} of {interface}: {source}: run as root, with no other \
         DHCP client there"
    )]
    Socket {
        /// The interface.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// A message can't be sent or received.
    #[error("cannot exchange DHCP messages on {interface}: {source}: bring the interface up")]
    Exchange {
        /// The interface.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
    /// No server gave a lease in time.
    #[error(
        "no DHCP lease on {interface} within {} s: see that a server is on its network",
        patience.as_secs()
    )]
    NoLease {
        /// The interface.
        interface: String,
        /// How long was waited.
        patience: Duration,
    },
}

/// An address on loan, and what the network told with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
    /// The default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers, at most three.
    pub dns: Vec<Ipv4Addr>,
    /// The domain in which plain names are looked for.
    pub domain: Option<String>,
    /// The network's MTU, at least 576.
    pub mtu: Option<u16>,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// How long it is, from when it was asked for; none if it never ends.
    pub duration: Option<Duration>,
    /// When its server is asked to extend it (T1).
    pub renewal: Option<Duration>,
    /// When any server is asked to (T2).
    pub rebinding: Option<Duration>,
}

impl Lease {
    /// The text of a resolv.conf(5), for programs that read one.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        let domain = self
            .domain
            .iter()
            .map(|domain| format!("search {domain}\n"));
        let servers = self
            .dns
            .iter()
            .map(|server| format!("nameserver {server}\n"));
        domain.chain(servers).collect()
    }
}

/// What becomes of a lease while it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was extended, or another took the place of one that was lost.
    Bound(Lease),
    /// It is lost: the address must not be used any more.
    Lost,
}

/// A client of DHCP on one interface.
#[derive(Debug)]
pub struct Client {
    interface: String,
    machine: Machine,
    socket: UdpSocket,
    start: Instant,
}

impl Client {
    /// A client on `interface`, which must be up and whose address is `mac`.
    /// Servers are told `host_name`, if it isn't empty.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open(interface: &str, mac: MacAddress, host_name: &str) -> Result<Self, Error> {
        let open = || {
            let socket = socket::udp_on(interface, CLIENT_PORT)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Socket {
            interface: interface.to_owned(),
            source,
        })?;
        Ok(Self {
            interface: interface.to_owned(),
            machine: Machine::new(mac, host_name),
            socket,
            start: Instant::now(),
        })
    }

    /// Gets a lease.
    ///
    /// # Errors
    /// [`Error::NoLease`] when `patience` ends, [`Error::Exchange`].
    pub fn acquire(&mut self, patience: Duration) -> Result<Lease, Error> {
        let deadline = self.now() + patience;
        while self.now() < deadline {
            if let Some(Action::Bound(lease)) = self.step(deadline, None)? {
                return Ok(lease);
            }
        }
        Err(Error::NoLease {
            interface: self.interface.clone(),
            patience,
        })
    }

    /// Has the lease extended now. If its server takes it back, another is
    /// looked for, maybe of another address; without an answer it lasts as long
    /// as it did.
    ///
    /// # Errors
    /// As for [`acquire`](Self::acquire).
    pub fn renew(&mut self, patience: Duration) -> Result<Lease, Error> {
        let now = self.now();
        self.machine.renew(now);
        self.acquire(patience)
    }

    /// Keeps the lease, and gets another where it is lost, until `stop` is
    /// readable. `each` is told what changes.
    ///
    /// # Errors
    /// [`Error::Exchange`] if the system doesn't let it wait. What can't be
    /// sent is as what gets lost on the way: it is tried again.
    pub fn keep(
        &mut self,
        stop: BorrowedFd<'_>,
        mut each: impl FnMut(Change),
    ) -> Result<(), Error> {
        loop {
            let stopped = process::poll(&[stop], Duration::ZERO);
            if stopped.map_err(|source| self.failed(source))?[0] {
                return Ok(());
            }
            match self.step(Time::NEVER, Some(stop)) {
                Ok(Some(Action::Bound(lease))) => each(Change::Bound(lease)),
                Ok(Some(Action::Lost)) => each(Change::Lost),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a DHCP message wasn't sent"),
            }
        }
    }

    /// Gives the lease back to its server. To be called before the address is
    /// taken from the interface.
    ///
    /// # Errors
    /// [`Error::Exchange`]. The lease is over in any case.
    pub fn release(mut self) -> Result<(), Error> {
        let now = self.now();
        match self.machine.release(now) {
            Some((server, message)) => self.send(server, &message),
            None => Ok(()),
        }
    }

    /// Does what is due, or waits until something is, but no longer than until
    /// `deadline` or until `stop` is readable.
    fn step(
        &mut self,
        deadline: Time,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Action>, Error> {
        let now = self.now();
        match self.machine.poll(now) {
            Some(Action::Send(to, message)) => return self.send(to, &message).map(|()| None),
            Some(action) => return Ok(Some(action)),
            None => {}
        }
        let wait = self.machine.due().min(deadline).since(now);
        let fds = [Some(self.socket.as_fd()), stop];
        let fds: Vec<_> = fds.into_iter().flatten().collect();
        let ready = process::poll(&fds, wait).map_err(|source| self.failed(source))?;
        if !ready[0] {
            return Ok(None);
        }
        let mut buffer = [0; LONGEST_MESSAGE];
        match self.socket.recv_from(&mut buffer) {
            Ok((length, SocketAddr::V4(from))) if from.port() == SERVER_PORT => {
                let now = self.now();
                Ok(self.machine.receive(now, &buffer[..length]))
            }
            // An error is about a message sent before, which is tried again.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    fn send(&self, to: Ipv4Addr, message: &[u8]) -> Result<(), Error> {
        let to = SocketAddrV4::new(to, SERVER_PORT);
        let sent = self.socket.send_to(message, to);
        sent.map(drop).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Exchange {
            interface: self.interface.clone(),
            source,
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }
}
