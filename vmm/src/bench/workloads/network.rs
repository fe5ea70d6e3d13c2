//! TCP to the server on L0.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::{Error, Session};
use crate::bench::results::Measured;
use crate::bench::server::{CHUNK, Service};

/// How long the server may take for anything: emulated levels are slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Chunks that are under way besides the one that is waited for.
const AHEAD: u64 = 4;
/// 256 MiB, which a slow way takes seconds for.
const MOST_CHUNKS: usize = 2000;
/// Each leaves its port and its way through the NAT in use for a while.
const MOST_CONNECTIONS: usize = 1000;

/// The server acknowledges each chunk when it has it.
pub(super) fn send(session: &mut Session<'_>) -> Result<Measured, Error> {
    let chunk = vec![0; CHUNK];
    with(session, Service::Sink, |session, stream| {
        session.take_ahead(
            MOST_CHUNKS,
            CHUNK as u64,
            AHEAD,
            || (&*stream).write_all(&chunk),
            || (&*stream).read_exact(&mut [0]),
        )
    })
}

/// The server is asked for each chunk.
pub(super) fn receive(session: &mut Session<'_>) -> Result<Measured, Error> {
    let mut chunk = vec![0; CHUNK];
    with(session, Service::Source, |session, stream| {
        session.take_ahead(
            MOST_CHUNKS,
            CHUNK as u64,
            AHEAD,
            || (&*stream).write_all(&[0]),
            || (&*stream).read_exact(&mut chunk),
        )
    })
}

pub(super) fn request(session: &mut Session<'_>) -> Result<Measured, Error> {
    with(session, Service::Answer, |session, stream| {
        session.take(usize::MAX, 1, || ask(stream))
    })
}

pub(super) fn connect(session: &mut Session<'_>) -> Result<Measured, Error> {
    with(session, Service::Answer, |session, stream| {
        let address = stream.peer_addr()?;
        session.take(MOST_CONNECTIONS, 1, || {
            ask(&open(address, Service::Answer)?)
        })
    })
}

/// A byte there and one back.
fn ask(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(&[0])?;
    stream.read_exact(&mut [0])
}

/// Measures on a connection with the server.
fn with(
    session: &mut Session<'_>,
    service: Service,
    measure: impl FnOnce(&mut Session<'_>, &TcpStream) -> Result<Measured, Error>,
) -> Result<Measured, Error> {
    let address = session.resources.server.ok_or(Error::NoServer)?;
    let measured = match open(address, service) {
        Ok(stream) => measure(session, &stream),
        Err(error) => Err(error.into()),
    };
    measured.map_err(|error| match error {
        Error::System(source) => Error::Server {
            address,
            source: match source.kind() {
                // What the system says of a socket that has waited long enough.
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => source,
            },
        },
        other => other,
    })
}

fn open(address: SocketAddr, service: Service) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    (&stream).write_all(&[service.into()])?;
    Ok(stream)
}
