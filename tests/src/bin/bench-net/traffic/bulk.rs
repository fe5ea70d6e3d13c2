//! One TCP flow that sends as fast as it can. The receiver measures.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Client, PATIENCE, Service, socket};
use crate::Failure;

/// How much is written, and read, by one system call.
const BUFFER: usize = 128 << 10;
/// What the flow does at first doesn't count: its windows still grow.
const WARM_UP: Duration = Duration::from_millis(500);

/// What one flow carried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bulk {
    /// Bytes received after the warm-up.
    pub(super) bytes: u64,
    /// What receiving them took.
    nanoseconds: u64,
    /// Segments that the sender's kernel sent again.
    pub(crate) retransmissions: u32,
}

impl Bulk {
    /// Gbit/s of payload.
    pub(crate) fn gigabits(&self) -> f64 {
        approximate(self.bytes) * 8.0 / approximate(self.nanoseconds)
    }
}

/// A count as a number to calculate with. Past 2^53 the last digits are lost,
/// which no figure here shows.
pub(crate) fn approximate(count: u64) -> f64 {
    count as f64
}

/// Sends for the task's duration, after the warm-up.
pub(super) fn send(client: &Client) -> Result<Bulk, Failure> {
    let mut stream = TcpStream::connect_timeout(&client.server(Service::Sink), PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let buffer = vec![0x5a; BUFFER];
    let end = Instant::now() + WARM_UP + client.duration();
    while Instant::now() < end {
        if stream.write(&buffer)? == 0 {
            return Err("the flow takes no more".into());
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer)?;
    let [bytes, nanoseconds] = decode(answer);
    Ok(Bulk {
        bytes,
        nanoseconds,
        retransmissions: socket::retransmissions(&stream)?,
    })
}

/// Receives until the sender is done, and answers with what came, and in what time.
pub(super) fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    stream.read_exact(&mut buffer[..1])?;
    let mut start = Instant::now();
    let mut warm = false;
    let mut bytes = 0;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        if !warm && start.elapsed() >= WARM_UP {
            (start, bytes, warm) = (Instant::now(), 0, true);
        } else {
            bytes += u64::try_from(count).unwrap_or(u64::MAX);
        }
    }
    let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    stream.write_all(&encode([bytes, nanoseconds]))
}

fn encode(values: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&values[0].to_le_bytes());
    bytes[8..].copy_from_slice(&values[1].to_le_bytes());
    bytes
}

fn decode(bytes: [u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(bytes);
    let low = u64::try_from(both & u128::from(u64::MAX));
    let high = u64::try_from(both >> 64);
    [low, high].map(|half| half.expect("half of the bits fit into half of the size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gigabits_are_bits_by_nanoseconds() {
        let bulk = Bulk {
            bytes: 1_250_000_000,
            nanoseconds: 1_000_000_000,
            retransmissions: 0,
        };
        assert!((bulk.gigabits() - 10.0).abs() < 1e-9);
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let values = [u64::MAX - 1, 7];
        assert_eq!(decode(encode(values)), values);
    }
}
