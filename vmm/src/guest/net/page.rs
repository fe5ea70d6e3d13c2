//! A server of one page by HTTP/1.0 (RFC 1945): what a static mapping to a
//! nested level leads to.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::nest::process;

/// How long one client may take. One after another is served.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest request, in bytes.
const LONGEST_REQUEST: usize = 8 << 10;

/// Why a page can't be served.
#[derive(Debug, Error)]
pub enum Error {
    /// The port can't be had.
    #[error("cannot serve a page at {address}: {source}: choose a free port of an own address")]
    Listen {
        /// Where it was to be served.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system doesn't let it wait for clients.
    #[error("cannot wait for clients at {address}: {source}: look at the system")]
    Wait {
        /// Where the page is served.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Serves one page.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    page: Vec<u8>,
}

impl Server {
    /// Listens at `address`, where port 0 stands for any.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub fn listen(address: SocketAddr, page: Vec<u8>) -> Result<Self, Error> {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|source| Error::Listen { address, source })?;
        Ok(Self {
            listener,
            address,
            page,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives the page to whoever asks, whatever path they name, until
    /// `requests` got it, `patience` ends or `stop` is readable; returns how
    /// many did.
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub fn serve(
        &self,
        requests: u32,
        patience: Duration,
        stop: BorrowedFd<'_>,
    ) -> Result<u32, Error> {
        let start = Instant::now();
        let mut served = 0;
        while served < requests {
            let rest = patience.saturating_sub(start.elapsed());
            if rest.is_zero() {
                break;
            }
            let ready = process::poll(&[self.listener.as_fd(), stop], rest);
            let ready = ready.map_err(|source| Error::Wait {
                address: self.address,
                source,
            })?;
            if ready[1] {
                break;
            }
            // One that is gone again was no client.
            let Ok((stream, _)) = self.listener.accept() else {
                continue;
            };
            if self.answer(&stream).is_ok_and(|given| given) {
                served += 1;
            }
        }
        Ok(served)
    }

    /// Serves one client; whether it got the page.
    fn answer(&self, stream: &TcpStream) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        stream.set_nonblocking(false)?;
        let request = request(stream, deadline)?;
        let given = request.starts_with(b"GET ");
        let (status, body) = if given {
            ("200 OK", &self.page[..])
        } else {
            ("501 Not Implemented", &b"only GET is served here\n"[..])
        };
        let head = format!(
            "HTTP/1.0 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = [head.as_bytes(), body].concat();
        let mut left = &answer[..];
        while !left.is_empty() {
            stream.set_write_timeout(Some(rest(deadline)?))?;
            left = &left[(&*stream).write(left)?..];
        }
        stream.shutdown(Shutdown::Write)?;
        // Closing with bytes unread would reset the connection, and the page
        // with it: the client closes first.
        let mut buffer = [0; 1024];
        while read(stream, &mut buffer, deadline)? > 0 {}
        Ok(given)
    }
}

/// A request up to its end.
fn request(stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|at| at == b"\r\n\r\n") {
        let count = read(stream, &mut buffer, deadline)?;
        request.extend_from_slice(&buffer[..count]);
        if count == 0 || request.len() > LONGEST_REQUEST {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
    }
    Ok(request)
}

fn read(mut stream: &TcpStream, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
    stream.set_read_timeout(Some(rest(deadline)?))?;
    stream.read(buffer)
}

/// The time until `deadline`; an error if there is none.
fn rest(deadline: Instant) -> io::Result<Duration> {
    let rest = deadline.saturating_duration_since(Instant::now());
    if rest.is_zero() {
        return Err(io::Error::from(io::ErrorKind::TimedOut));
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::fetch::{Limits, fetch};
    use super::super::resolve::Resolver;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn server(page: &[u8]) -> Server {
        Server::listen("127.0.0.1:0".parse().unwrap(), page.to_vec()).unwrap()
    }

    #[test]
    fn those_who_ask_get_the_page() {
        let page = vec![b'x'; 3 << 20];
        let server = server(&page);
        let url = format!("http://{}/any", server.address()).parse().unwrap();
        let bytes = u64::try_from(page.len()).unwrap();
        let limits = Limits {
            timeout: LONG,
            bytes,
        };
        let (never, _keep) = io::pipe().unwrap();
        thread::scope(|scope| {
            let served = scope.spawn(|| server.serve(2, LONG, never.as_fd()));
            for _ in 0..2 {
                let got = fetch(&url, &Resolver::new(Vec::new(), None), &limits).unwrap();
                assert_eq!((got.status, got.length), (200, bytes));
            }
            assert_eq!(served.join().unwrap().unwrap(), 2);
        });
    }

    #[test]
    fn other_requests_do_not_count() {
        let server = server(b"page");
        let (never, _keep) = io::pipe().unwrap();
        thread::scope(|scope| {
            let served = scope.spawn(|| server.serve(1, LONG, never.as_fd()));
            let ask = |request: &[u8]| {
                let mut stream = TcpStream::connect(server.address()).unwrap();
                stream.write_all(request).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = String::new();
                // One that is cut off may be reset.
                let _ = stream.read_to_string(&mut answer);
                answer
            };
            assert_eq!(ask(b""), "");
            assert_eq!(ask(&[b'x'; LONGEST_REQUEST + 1]), "");
            assert!(ask(b"POST / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 501 "));
            assert!(ask(b"GET / HTTP/1.0\r\n\r\nmore").ends_with("\r\n\r\npage"));
            assert_eq!(served.join().unwrap().unwrap(), 1);
        });
    }

    #[test]
    fn a_stop_ends_it() {
        let (stop, mut end) = io::pipe().unwrap();
        end.write_all(b"x").unwrap();
        assert_eq!(server(b"page").serve(1, LONG, stop.as_fd()).unwrap(), 0);
        let taken = server(b"page");
        let error = Server::listen(taken.address(), Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Listen { .. }), "{error}");
    }
}
