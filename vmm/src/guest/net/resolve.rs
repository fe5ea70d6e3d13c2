//! Addresses by name: a stub resolver (RFC 1034, 5.3.1). The C library's needs
//! shared objects at run time, which a static binary in an image of its own
//! doesn't have.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nestling_devices::net::services::dns::PORT;
use nestling_devices::net::services::dns::question::{Answer, Family, Question};
use thiserror::Error;

use super::dhcp::Lease;

/// How long a server has to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often each server is asked.
const ROUNDS: usize = 2;

/// Room for an answer: without EDNS it has at most 512 bytes (RFC 1035, 4.2.1).
const LONGEST_ANSWER: usize = 1500;

/// Why a name leads nowhere.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody to ask.
    #[error("cannot resolve {name}: no name server is known: have the lease name one")]
    NoServer {
        /// The name.
        name: String,
    },
    /// A name that no host has.
    #[error("{name:?} is not a host's name: use letters, digits, hyphens and dots")]
    Name {
        /// The name.
        name: String,
    },
    /// There is no such name.
    #[error("{name} does not exist, says {server}: check its spelling")]
    NoSuchName {
        /// The name that was asked for.
        name: String,
        /// The server that says so.
        server: SocketAddr,
    },
    /// The name has no address.
    #[error("{name} has no address, says {server}: name a host")]
    NoAddress {
        /// The name that was asked for.
        name: String,
        /// The server that says so.
        server: SocketAddr,
    },
    /// No server answered, or none well.
    #[error("cannot resolve {name}: {server} {what}: see that it is reached and works")]
    Server {
        /// The name that was asked for.
        name: String,
        /// The server that was asked last.
        server: SocketAddr,
        /// What it did, or didn't.
        what: String,
    },
}

/// Asks name servers.
#[derive(Debug, Clone)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    domain: Option<String>,
}

impl Resolver {
    /// Asks `servers` in this order. Names without a dot are of `domain`.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, domain: Option<String>) -> Self {
        Self { servers, domain }
    }

    /// Asks the servers of a lease.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        let servers = lease.dns.iter();
        Self::new(
            servers
                .map(|server| SocketAddr::new((*server).into(), PORT))
                .collect(),
            lease.domain.clone(),
        )
    }

    /// The addresses of `name`, those of IPv4 first; at least one. An address
    /// is its own.
    ///
    /// # Errors
    /// Whatever [`Error`] names.
    pub fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let full = self.full(name);
        let v4 = self.ask(&full, Family::V4);
        // A server that says nothing, says nothing about the other family.
        if let Err(error @ (Error::NoServer { .. } | Error::Name { .. } | Error::Server { .. })) =
            v4
        {
            return Err(error);
        }
        match (v4, self.ask(&full, Family::V6)) {
            (Ok(mut addresses), more) => {
                addresses.extend(more.unwrap_or_default());
                Ok(addresses)
            }
            (Err(_), Ok(addresses)) => Ok(addresses),
            (Err(error), Err(_)) => Err(error),
        }
    }

    /// The name in full: one label alone is of the domain.
    fn full(&self, name: &str) -> String {
        match &self.domain {
            Some(domain) if !name.contains('.') => format!("{name}.{domain}"),
            _ => name.to_owned(),
        }
    }

    fn ask(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, Error> {
        let id = u16::try_from(RandomState::new().hash_one(name) >> 48).unwrap_or_default();
        let name = name.to_owned();
        let Some(question) = Question::new(id, &name, family) else {
            return Err(Error::Name { name });
        };
        let mut failure = None;
        for server in self
            .servers
            .iter()
            .cycle()
            .take(self.servers.len() * ROUNDS)
        {
            let server = *server;
            let what = match exchange(&question, server) {
                Ok(Some(Answer::Addresses(addresses))) if !addresses.is_empty() => {
                    return Ok(addresses);
                }
                Ok(Some(Answer::Addresses(_))) => return Err(Error::NoAddress { name, server }),
                Ok(Some(Answer::NoSuchName)) => return Err(Error::NoSuchName { name, server }),
                Ok(Some(Answer::Failed(code))) => format!("failed with code {code}"),
                Ok(Some(Answer::Truncated)) => "has an answer too long for a datagram".to_owned(),
                Ok(Some(Answer::Malformed)) => "sent an answer that makes no sense".to_owned(),
                Ok(None) => format!("did not answer within {} s", PATIENCE.as_secs()),
                Err(error) => format!("can't be asked: {error}"),
            };
            failure = Some((server, what));
        }
        Err(match failure {
            Some((server, what)) => Error::Server { name, server, what },
            None => Error::NoServer { name },
        })
    }
}

/// Asks `server`, which alone may answer, from a port of the kernel's choice.
fn exchange(question: &Question, server: SocketAddr) -> io::Result<Option<Answer>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(question.message())?;
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; LONGEST_ANSWER];
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(rest))?;
        match socket.recv(&mut buffer) {
            Ok(length) => {
                if let Some(answer) = question.answer(&buffer[..length]) {
                    return Ok(Some(answer));
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, JoinHandle};

    use super::*;

    /// Answers as many queries as there are answers: each is the flags, and
    /// the records behind the question with their number.
    fn server(answers: Vec<([u8; 2], u8, Vec<u8>)>) -> (SocketAddr, JoinHandle<Vec<Vec<u8>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let mut queries = Vec::new();
            for (flags, count, records) in answers {
                let mut query = [0; 512];
                let (length, client) = socket.recv_from(&mut query).unwrap();
                let mut answer = query[..length].to_vec();
                queries.push(answer.clone());
                answer[2..4].copy_from_slice(&flags);
                answer[7] = count;
                answer.extend(records);
                // One that isn't meant comes first.
                let mut other = answer.clone();
                other[0] ^= 1;
                socket.send_to(&other, client).unwrap();
                socket.send_to(&answer, client).unwrap();
            }
            queries
        });
        (address, thread)
    }

    const FINE: [u8; 2] = [0x81, 0x80];
    const ABSENT: [u8; 2] = [0x81, 0x83];

    fn record(kind: u8, data: &[u8]) -> Vec<u8> {
        let length = u8::try_from(data.len()).unwrap();
        [&[0xC0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, length], data].concat()
    }

    fn resolver(server: SocketAddr) -> Resolver {
        Resolver::new(vec![server], Some("internal".into()))
    }

    #[test]
    fn both_families_are_asked_for() {
        let six = "2001:db8::1".parse::<Ipv6Addr>().unwrap();
        let (address, thread) = server(vec![
            (FINE, 1, record(1, &[192, 0, 2, 1])),
            (FINE, 1, record(28, &six.octets())),
        ]);
        let found = resolver(address).resolve("lab").unwrap();
        assert_eq!(found, [[192, 0, 2, 1].into(), IpAddr::from(six)]);
        let queries = thread.join().unwrap();
        let name = b"\x03lab\x08internal\0";
        assert!(queries.iter().all(|query| query[12..].starts_with(name)));
    }

    #[test]
    fn a_server_that_fails_is_asked_again() {
        let (address, thread) = server(vec![
            ([0x81, 0x82], 0, vec![]),
            (FINE, 1, record(1, &[192, 0, 2, 1])),
            (FINE, 0, vec![]),
        ]);
        let found = resolver(address).resolve("www.example.org").unwrap();
        assert_eq!(found, [IpAddr::from([192, 0, 2, 1])]);
        thread.join().unwrap();
    }

    #[test]
    fn what_is_not_there_is_said_so() {
        let (address, thread) = server(vec![(ABSENT, 0, vec![]), (ABSENT, 0, vec![])]);
        let error = resolver(address).resolve("lab").unwrap_err();
        let text = format!("lab.internal does not exist, says {address}: check its spelling");
        assert_eq!(error.to_string(), text);
        thread.join().unwrap();
        let (address, thread) = server(vec![(FINE, 0, vec![]), (FINE, 0, vec![])]);
        let error = resolver(address).resolve("lab").unwrap_err();
        assert!(matches!(error, Error::NoAddress { .. }), "{error}");
        thread.join().unwrap();
        let refusing = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = resolver(refusing).resolve("lab").unwrap_err();
        assert!(matches!(error, Error::Server { .. }), "{error}");
    }

    #[test]
    fn addresses_and_nonsense_need_no_server() {
        let nobody = Resolver::new(Vec::new(), None);
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(nobody.resolve("2001:db8::1").unwrap(), [six]);
        assert!(matches!(nobody.resolve("lab"), Err(Error::NoServer { .. })));
        assert!(matches!(nobody.resolve("a_b"), Err(Error::Name { .. })));
    }
}
