//! One byte there and back, again and again: on one TCP flow, on a new flow each
//! time, and by UDP. The client measures each.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::bulk::approximate;
use super::{Client, PATIENCE, Service};
use crate::Failure;

/// How long an answer to a datagram may take before it counts as lost.
const LOST: Duration = Duration::from_secs(1);
/// The first exchanges don't count: caches and neighbours are still unknown.
const WARM_UP: u32 = 20;

/// What the exchanges took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exchanges {
    /// How many there were.
    pub(crate) count: u64,
    /// Half of them took no longer.
    median_ns: u64,
    /// One in a hundred took longer.
    p99_ns: u64,
    mean_ns: u64,
    /// Datagrams without an answer.
    pub(crate) lost: u64,
}

impl Exchanges {
    /// What half of them took at most, in microseconds.
    pub(crate) fn median_us(&self) -> f64 {
        approximate(self.median_ns) / 1000.0
    }

    fn of(mut samples: Vec<u64>, lost: u64) -> Result<Self, Failure> {
        samples.sort_unstable();
        let count = u64::try_from(samples.len())?;
        let mean_ns = samples
            .iter()
            .sum::<u64>()
            .checked_div(count)
            .ok_or("there was no answer at all")?;
        Ok(Self {
            count,
            median_ns: samples[samples.len() / 2],
            p99_ns: samples[samples.len() * 99 / 100],
            mean_ns,
            lost,
        })
    }
}

/// Exchanges on one flow.
pub(super) fn requests(client: &Client) -> Result<Exchanges, Failure> {
    let mut stream = connect(client, Service::Echo)?;
    measure(client.duration(), || {
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0]).map(|()| true)
    })
}

/// Exchanges on a flow each, which the server closes.
pub(super) fn connections(client: &Client) -> Result<Exchanges, Failure> {
    measure(client.duration(), || {
        let mut stream = connect(client, Service::OneEcho)?;
        stream.write_all(b"?")?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer[..1])?;
        match stream.read(&mut answer)? {
            0 => Ok(true),
            _ => Err(io::Error::other("the flow doesn't end")),
        }
    })
}

/// Exchanges of datagrams.
pub(super) fn datagrams(client: &Client) -> Result<Exchanges, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(client.server(Service::UdpEcho))?;
    socket.set_read_timeout(Some(LOST))?;
    measure(client.duration(), || {
        socket.send(b"?")?;
        match socket.recv(&mut [0; 16]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    })
}

/// Exchanges until the time is over; each says whether there was an answer.
fn measure(
    duration: Duration,
    mut exchange: impl FnMut() -> io::Result<bool>,
) -> Result<Exchanges, Failure> {
    for _ in 0..WARM_UP {
        exchange()?;
    }
    let (mut samples, mut lost) = (Vec::new(), 0);
    let start = Instant::now();
    let mut before = start;
    while before - start < duration {
        let answered = exchange()?;
        let now = Instant::now();
        if answered {
            samples.push(u64::try_from((now - before).as_nanos())?);
        } else {
            lost += 1;
        }
        before = now;
    }
    Exchanges::of(samples, lost)
}

fn connect(client: &Client, service: Service) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&client.server(service), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends back what comes, until the flow ends.
pub(super) fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// Sends one byte back, and closes.
pub(super) fn echo_once(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)
}

/// Sends datagrams back.
pub(super) fn echo_datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error of an answer that nobody wanted is reported here.
        if let Ok((count, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..count], from)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_of_the_sorted_samples() -> Result<(), Failure> {
        let samples = (1..=200).rev().map(|us| us * 1000).collect();
        let exchanges = Exchanges::of(samples, 3)?;
        assert_eq!(exchanges.count, 200);
        assert_eq!(exchanges.median_ns, 101_000);
        assert_eq!(exchanges.p99_ns, 199_000);
        assert_eq!(exchanges.mean_ns, 100_500);
        assert!((exchanges.median_us() - 101.0).abs() < 1e-9);
        Ok(())
    }

    #[test]
    fn no_answer_is_no_measurement() {
        assert!(Exchanges::of(Vec::new(), 3).is_err());
    }
}
