//! What the rows of the network talk to: a server on L0, at one TCP port.
//!
//! The first byte of a connection says which service it asks for. Each gives so many
//! bytes for so many that it takes, and what is in them doesn't matter: that is the whole
//! protocol.
//!
//! Guests are hostile. A connection is read from only while nothing is owed to it, so
//! that all there is to remember of it are two numbers; and there are only so many.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use thiserror::Error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// The unit of a stream, in bytes.
pub const CHUNK: usize = 128 << 10;

/// Connections at once: a level has one or two. For one more, the oldest has to go.
const MOST: usize = 64;

/// What is waited for besides connections, whose numbers begin after these.
const UNTIL: u64 = 0;
const LISTENER: u64 = 1;

/// Why nothing can be served.
#[derive(Debug, Error)]
pub enum Error {
    /// The port can't be had.
    #[error("cannot serve benchmarks at {address}: {source}: choose a free port of an own address")]
    Listen {
        /// Where it was to be.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system doesn't let it wait for clients.
    #[error("cannot wait for benchmarks' clients: {0}: look at the system")]
    Wait(#[from] io::Error),
}

/// What a connection asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A byte for each byte.
    Answer,
    /// A byte for each chunk, once all of it is there.
    Sink,
    /// A chunk for each byte.
    Source,
}

impl Service {
    /// How many bytes it takes, and how many it then gives.
    fn rate(self) -> (usize, usize) {
        match self {
            Self::Answer => (1, 1),
            Self::Sink => (CHUNK, 1),
            Self::Source => (1, CHUNK),
        }
    }
}

impl From<Service> for u8 {
    fn from(service: Service) -> Self {
        match service {
            Service::Answer => b'a',
            Service::Sink => b'w',
            Service::Source => b'r',
        }
    }
}

impl TryFrom<u8> for Service {
    type Error = io::Error;

    fn try_from(byte: u8) -> io::Result<Self> {
        [Self::Answer, Self::Sink, Self::Source]
            .into_iter()
            .find(|&service| u8::from(service) == byte)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Listens at `address`, where port 0 stands for any.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn listen(address: SocketAddr) -> Result<Self, Error> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        listen().map_err(|source| Error::Listen { address, source })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves all who connect until `until` is readable or hung up, in this thread alone.
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub fn serve(&self, until: BorrowedFd<'_>) -> Result<(), Error> {
        let mut clients = Clients::new()?;
        clients.watch(until.as_raw_fd(), UNTIL)?;
        clients.watch(self.listener.as_raw_fd(), LISTENER)?;
        let mut events = [EpollEvent::default(); MOST + 2];
        loop {
            let count = match clients.epoll.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count?,
            };
            for event in &events[..count] {
                match event.data() {
                    UNTIL => return Ok(()),
                    LISTENER => {
                        // One that is gone again was no client.
                        if let Ok(connection) = self.accept() {
                            clients.add(connection)?;
                        }
                    }
                    number => clients.turn(number)?,
                }
            }
        }
    }

    fn accept(&self) -> io::Result<Connection> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            service: None,
            taken: 0,
            owed: 0,
        })
    }
}

/// All connections, the oldest first.
struct Clients {
    epoll: Epoll,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// What is taken, to be forgotten.
    taken: Vec<u8>,
    /// What is given.
    zeroes: Vec<u8>,
}

impl Clients {
    fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            connections: BTreeMap::new(),
            next: LISTENER + 1,
            taken: vec![0; CHUNK],
            zeroes: vec![0; CHUNK],
        })
    }

    /// Waits for `fd` to be readable, which is `number` in events.
    fn watch(&self, fd: RawFd, number: u64) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, number);
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    fn add(&mut self, connection: Connection) -> io::Result<()> {
        if self.connections.len() == MOST {
            self.connections.pop_first();
        }
        self.watch(connection.stream.as_raw_fd(), self.next)?;
        self.connections.insert(self.next, connection);
        self.next += 1;
        Ok(())
    }

    /// Serves a connection as far as one system call each way goes: others wait.
    fn turn(&mut self, number: u64) -> io::Result<()> {
        // The oldest may have had to go since the event.
        let Some(connection) = self.connections.get_mut(&number) else {
            return Ok(());
        };
        let waited_for = connection.waits_for();
        let turned = connection.turn(&mut self.taken, &self.zeroes);
        let waits_for = connection.waits_for();
        match turned {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                self.connections.remove(&number);
            }
            _ if waits_for != waited_for => {
                let event = EpollEvent::new(waits_for, number);
                let fd = connection.stream.as_raw_fd();
                self.epoll.ctl(ControlOperation::Modify, fd, event)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A client.
struct Connection {
    stream: TcpStream,
    /// What it asked for, once it did.
    service: Option<Service>,
    /// Bytes taken for which nothing is owed yet.
    taken: usize,
    /// Bytes to be given.
    owed: usize,
}

impl Connection {
    /// Takes what has come if nothing is owed, and gives what is. An error is the
    /// connection's end.
    fn turn(&mut self, buffer: &mut [u8], zeroes: &[u8]) -> io::Result<()> {
        if self.owed == 0 {
            let count = self.stream.read(buffer)?;
            self.take(&buffer[..count])?;
        }
        if self.owed > 0 {
            let most = self.owed.min(zeroes.len());
            self.owed -= self.stream.write(&zeroes[..most])?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (&first, rest) = bytes.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        let (service, count) = match self.service {
            Some(service) => (service, bytes.len()),
            None => (Service::try_from(first)?, rest.len()),
        };
        self.service = Some(service);
        let (takes, gives) = service.rate();
        self.taken += count;
        self.owed = self.taken / takes * gives;
        self.taken %= takes;
        Ok(())
    }

    fn waits_for(&self) -> EventSet {
        match self.owed {
            0 => EventSet::IN,
            _ => EventSet::OUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::fd::AsFd;
    use std::thread;

    use super::*;

    /// Runs `clients` with a server beside them, and ends it.
    fn served(clients: impl FnOnce(SocketAddr)) {
        let server = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let (until, end) = io::pipe().unwrap();
        thread::scope(|scope| {
            let serving = scope.spawn(|| server.serve(until.as_fd()));
            clients(server.address());
            drop(end);
            serving.join().unwrap().unwrap();
        });
    }

    fn connect(address: SocketAddr, service: Service) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[service.into()]).unwrap();
        stream
    }

    /// What the server still gives to one who sends no more.
    fn rest(mut stream: TcpStream) -> usize {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.iter().all(|&byte| byte == 0));
        rest.len()
    }

    #[test]
    fn each_service_gives_for_what_it_takes() {
        served(|address| {
            for (service, sent, given) in [
                (Service::Answer, 0, 0),
                (Service::Answer, 1, 1),
                (Service::Answer, 70_000, 70_000),
                (Service::Sink, CHUNK - 1, 0),
                (Service::Sink, CHUNK, 1),
                (Service::Sink, 3 * CHUNK + 1, 3),
                (Service::Source, 1, CHUNK),
                (Service::Source, 40, 40 * CHUNK),
            ] {
                let mut stream = connect(address, service);
                let sent_meanwhile = {
                    let mut stream = stream.try_clone().unwrap();
                    thread::spawn(move || stream.write_all(&vec![1; sent]).unwrap())
                };
                let mut got = vec![0; given];
                stream.read_exact(&mut got).unwrap();
                sent_meanwhile.join().unwrap();
                assert_eq!(rest(stream), 0, "{service:?} {sent}");
            }
        });
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_nobody() {
        served(|address| {
            let mut greedy = connect(address, Service::Source);
            greedy.write_all(&[0; 10_000]).unwrap();
            for _ in 0..3 {
                let mut other = connect(address, Service::Answer);
                other.write_all(&[0]).unwrap();
                other.read_exact(&mut [0]).unwrap();
            }
        });
    }

    #[test]
    fn who_asks_for_nothing_there_is_turned_away() {
        served(|address| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET / HTTP/1.0").unwrap();
            // It may be reset, as it is closed before all is read.
            let got = stream.read(&mut [0]);
            assert!(matches!(got, Ok(0) | Err(_)), "{got:?}");
            assert_eq!(rest(TcpStream::connect(address).unwrap()), 0);
        });
    }

    #[test]
    fn the_oldest_has_to_go_when_there_are_too_many() {
        served(|address| {
            let answered = |mut stream: &TcpStream| {
                stream.write_all(&[0]).is_ok() && stream.read_exact(&mut [0]).is_ok()
            };
            let streams: Vec<TcpStream> = (0..=MOST)
                .map(|_| {
                    let stream = connect(address, Service::Answer);
                    assert!(answered(&stream));
                    stream
                })
                .collect();
            assert!(!answered(&streams[0]));
            assert!(streams[1..].iter().all(answered));
        });
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let server = Server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = Server::listen(server.address()).unwrap_err().to_string();
        let address = server.address();
        assert!(error.starts_with(&format!("cannot serve benchmarks at {address}: ")));
    }
}
