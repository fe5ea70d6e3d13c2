//! Fetching a page by HTTP/1.0 (RFC 1945), which shows that TCP connections
//! reach a server and come whole.

mod head;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use thiserror::Error;

use self::head::{Head, HeadError};
use super::resolve::{self, Resolver};
use super::socket;

/// The longest head of an answer, in bytes.
const LONGEST_HEAD: usize = 16 << 10;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Why a page couldn't be fetched.
#[derive(Debug, Error)]
pub enum Error {
    /// A text that names no page.
    #[error("{0:?} is no page's address: write http://HOST[:PORT]/PATH")]
    Url(String),
    /// The server's name leads nowhere.
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
    /// No connection.
    #[error("cannot connect to {server} for {url}: {source}: see that a server listens there")]
    Connect {
        /// The page.
        url: Url,
        /// The server.
        server: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {server} for {url} broke: {source}: look at the server")]
    Broken {
        /// The page.
        url: Url,
        /// The server.
        server: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error(
        "{url} was not fetched from {server} within {} s, after {received} bytes: allow more, \
         or look at the server",
        timeout.as_secs()
    )]
    Timeout {
        /// The page.
        url: Url,
        /// The server.
        server: SocketAddr,
        /// How long it might take.
        timeout: Duration,
        /// Bytes of the page that had come.
        received: u64,
    },
    /// The answer isn't one of HTTP, or not one to this request.
    #[error("{server} does not answer for {url} as HTTP has it: {source}: look at the server")]
    Head {
        /// The page.
        url: Url,
        /// The server.
        server: SocketAddr,
        /// What is wrong.
        source: HeadError,
    },
    /// The page is longer than may be.
    #[error("{url} is longer than {most} bytes: allow more, or fetch another page")]
    TooLong {
        /// The page.
        url: Url,
        /// The most bytes that are taken.
        most: u64,
    },
    /// The connection ended too early.
    #[error("{url} ended after {received} of {promised} bytes: look at the server")]
    Short {
        /// The page.
        url: Url,
        /// Bytes that came.
        received: u64,
        /// Bytes that the head promised.
        promised: u64,
    },
}

/// The address of a page (RFC 3986), of HTTP without encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// The server's name or address.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The page on it, with the slash before it.
    pub path: String,
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| Error::Url(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Url> {
    // Nothing that could end a line of the request.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let rest = text.strip_prefix("http://")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, port)
        }
        None => authority
            .find(':')
            .map_or((authority, ""), |at| authority.split_at(at)),
    };
    let port = match port.strip_prefix(':') {
        Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => port.parse().ok()?,
        Some(_) => return None,
        None if port.is_empty() => 80,
        None => return None,
    };
    if host.is_empty() || host.contains(['@', '?', '#']) || path.contains('#') {
        return None;
    }
    Some(Url {
        host: host.to_owned(),
        port,
        path: path.to_owned(),
    })
}

impl Url {
    /// The host and the port as they stand in an address.
    fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// How much a page may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The time from the first address that is tried to the page's end.
    pub timeout: Duration,
    /// The page's bytes.
    pub bytes: u64,
}

/// A page that came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The server that gave it.
    pub server: SocketAddr,
    /// The status: 200 for what was asked for (RFC 1945, 6.1.1).
    pub status: u16,
    /// The body's bytes.
    pub length: u64,
    /// The SHA-256 of the body, in hexadecimal digits.
    pub sha256: String,
    /// The time from the connection's first packet to the body's end.
    pub time: Duration,
}

/// Fetches a page, with whatever status. The addresses of its server are tried
/// in turn until one is connected to.
///
/// # Errors
/// Whatever [`Error`] names.
pub fn fetch(url: &Url, resolver: &Resolver, limits: &Limits) -> Result<Page, Error> {
    let addresses = resolver.resolve(&url.host)?;
    let deadline = Instant::now() + limits.timeout;
    let mut failure = None;
    for (at, address) in addresses.iter().enumerate() {
        let server = SocketAddr::new(*address, url.port);
        let exchange = Exchange {
            url,
            server,
            limits,
            deadline,
        };
        // Each address has its share of the time that is left.
        let left = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match exchange.connect(exchange.rest() / left) {
            Ok((stream, start)) => {
                let page = exchange.fetch(&stream, start);
                if page.is_err() {
                    // On the way there may be one who still waits to hand it on:
                    // nobody is to answer what is asked no more.
                    socket::reset_by_close(&stream);
                }
                return page;
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.expect("a name that is resolved has an address"))
}

/// One request to one server.
struct Exchange<'a> {
    url: &'a Url,
    server: SocketAddr,
    limits: &'a Limits,
    deadline: Instant,
}

impl Exchange<'_> {
    fn connect(&self, patience: Duration) -> Result<(TcpStream, Instant), Error> {
        let start = Instant::now();
        if patience.is_zero() {
            return Err(self.timeout(0));
        }
        let stream = TcpStream::connect_timeout(&self.server, patience);
        let stream = stream.map_err(|source| Error::Connect {
            url: self.url.clone(),
            server: self.server,
            source,
        })?;
        Ok((stream, start))
    }

    fn fetch(&self, mut stream: &TcpStream, start: Instant) -> Result<Page, Error> {
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: nestling\r\n\r\n",
            self.url.path,
            self.url.authority()
        );
        stream
            .set_write_timeout(Some(self.rest().max(Duration::from_millis(1))))
            .and_then(|()| stream.write_all(request.as_bytes()))
            .map_err(|source| self.broken(source, 0))?;
        let mut buffer = vec![0; CHUNK];
        let (head, mut body) = self.head(stream, &mut buffer)?;
        let mut digest = Sha256::new();
        let mut length = 0;
        loop {
            // What follows a body of known length isn't its.
            let left = head.length.map_or(u64::MAX, |promised| promised - length);
            body.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            digest.update(&body);
            length += u64::try_from(body.len()).expect("lengths fit 64 bits");
            if length > self.limits.bytes {
                return Err(Error::TooLong {
                    url: self.url.clone(),
                    most: self.limits.bytes,
                });
            }
            if head.length == Some(length) {
                break;
            }
            let count = self.read(stream, &mut buffer, length)?;
            if count == 0 {
                break;
            }
            body.clear();
            body.extend_from_slice(&buffer[..count]);
        }
        match head.length {
            Some(promised) if length < promised => Err(Error::Short {
                url: self.url.clone(),
                received: length,
                promised,
            }),
            _ => Ok(Page {
                server: self.server,
                status: head.status,
                length,
                sha256: digest
                    .finalize()
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect(),
                time: start.elapsed(),
            }),
        }
    }

    /// The answer's head, and what came of its body with it.
    fn head(&self, stream: &TcpStream, buffer: &mut [u8]) -> Result<(Head, Vec<u8>), Error> {
        let wrong = |source| Error::Head {
            url: self.url.clone(),
            server: self.server,
            source,
        };
        let mut bytes = Vec::new();
        loop {
            let count = self.read(stream, buffer, 0)?;
            if count == 0 {
                return Err(wrong(HeadError::Ended));
            }
            bytes.extend_from_slice(&buffer[..count]);
            if let Some(end) = head::end(&bytes) {
                let head = Head::parse(&bytes[..end]).map_err(wrong)?;
                return Ok((head, bytes.split_off(end)));
            }
            if bytes.len() > LONGEST_HEAD {
                return Err(wrong(HeadError::TooLong));
            }
        }
    }

    fn read(&self, mut stream: &TcpStream, buffer: &mut [u8], so_far: u64) -> Result<usize, Error> {
        loop {
            let rest = self.rest();
            if rest.is_zero() {
                return Err(self.timeout(so_far));
            }
            let read = stream
                .set_read_timeout(Some(rest))
                .and_then(|()| stream.read(buffer));
            match read {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error, so_far)),
            }
        }
    }

    fn rest(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn broken(&self, source: io::Error, received: u64) -> Error {
        if matches!(
            source.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ) {
            return self.timeout(received);
        }
        Error::Broken {
            url: self.url.clone(),
            server: self.server,
            source,
        }
    }

    fn timeout(&self, received: u64) -> Error {
        Error::Timeout {
            url: self.url.clone(),
            server: self.server,
            timeout: self.limits.timeout,
            received,
        }
    }
}

#[cfg(test)]
mod tests;
