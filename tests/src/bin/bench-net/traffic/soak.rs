//! TCP and UDP in all the ways in which flows begin and end, in random order.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Client, PATIENCE, Service, socket};

/// How many flows a client has at a time.
const WORKERS: u64 = 8;
/// The most that a flow carries: no more than the buffers on its way hold, so
/// that nobody waits for a writer who waits for him.
const LARGEST: u64 = 16 << 10;
/// The longest pause between two flows. It bounds how many a NAT has to remember
/// in the minutes that the RFCs ask for.
const PAUSE_MS: u64 = 100;

/// The ways in which a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Data there and back, then the client closes.
    Echo,
    /// The client ends its half first.
    ClientHalfClose,
    /// The server ends its half first.
    ServerHalfClose,
    /// The client resets with data on the way.
    ClientReset,
    /// The server resets.
    ServerReset,
    /// Opened, and closed at once.
    Unused,
    /// Nobody listens.
    Refused,
    /// Datagrams there and back.
    Datagrams,
}

const WAYS: [Way; 8] = [
    Way::Echo,
    Way::ClientHalfClose,
    Way::ServerHalfClose,
    Way::ClientReset,
    Way::ServerReset,
    Way::Unused,
    Way::Refused,
    Way::Datagrams,
];

/// What the client asks the server for, in the first byte.
const ASK_ECHO: u8 = b'e';
const ASK_HALF_CLOSE: u8 = b'h';
const ASK_RESET: u8 = b'r';

/// What became of the flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Soaked {
    /// How many there were.
    pub(crate) flows: u64,
    /// Datagrams without an answer.
    pub(crate) lost: u64,
    /// Flows that went otherwise than they should.
    pub(crate) problems: u64,
    /// The first of those.
    pub(crate) first_problem: Option<String>,
}

impl Soaked {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            flows: self.flows + other.flows,
            lost: self.lost + other.lost,
            problems: self.problems + other.problems,
            first_problem: self.first_problem.or(other.first_problem),
        }
    }
}

/// Opens flows until the time is over.
pub(super) fn run(client: &Client) -> Soaked {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| scope.spawn(move || work(client, worker)))
            .collect();
        workers.into_iter().fold(Soaked::default(), |sum, worker| {
            sum.and(worker.join().unwrap_or_else(|_| Soaked {
                problems: 1,
                first_problem: Some("a worker panicked".into()),
                ..Soaked::default()
            }))
        })
    })
}

fn work(client: &Client, worker: u64) -> Soaked {
    let mut dice = Dice::new(client.seed.wrapping_mul(WORKERS).wrapping_add(worker));
    let mut sum = Soaked::default();
    let end = Instant::now() + client.duration();
    while Instant::now() < end {
        let way = WAYS[dice.below(WAYS.len())];
        let mut data = vec![0; dice.below_u64(LARGEST).try_into().unwrap_or(0)];
        dice.fill(&mut data);
        sum.flows += 1;
        match go(client, way, &data) {
            Ok(lost) => sum.lost += lost,
            Err(error) => {
                sum.problems += 1;
                sum.first_problem
                    .get_or_insert_with(|| format!("{way:?}: {error}"));
            }
        }
        thread::sleep(Duration::from_millis(dice.below_u64(PAUSE_MS)));
    }
    sum
}

/// Takes a flow its way; fails if it doesn't go so. Lost datagrams are counted.
fn go(client: &Client, way: Way, data: &[u8]) -> io::Result<u64> {
    let connect = |service| -> io::Result<TcpStream> {
        let flow = TcpStream::connect_timeout(&client.server(service), PATIENCE)?;
        flow.set_read_timeout(Some(PATIENCE))?;
        flow.set_write_timeout(Some(PATIENCE))?;
        Ok(flow)
    };
    let open = |ask: u8| -> io::Result<TcpStream> {
        let mut flow = connect(Service::Soak)?;
        flow.write_all(&[ask])?;
        Ok(flow)
    };
    match way {
        Way::Echo => {
            let mut flow = open(ASK_ECHO)?;
            flow.write_all(data)?;
            let mut back = vec![0; data.len()];
            flow.read_exact(&mut back)?;
            same(&back, data)?;
        }
        Way::ClientHalfClose => {
            let mut flow = open(ASK_ECHO)?;
            flow.write_all(data)?;
            flow.shutdown(Shutdown::Write)?;
            let mut back = Vec::new();
            flow.read_to_end(&mut back)?;
            same(&back, data)?;
        }
        Way::ServerHalfClose => {
            let mut flow = open(ASK_HALF_CLOSE)?;
            let mut back = Vec::new();
            flow.read_to_end(&mut back)?;
            same(&back, &[ASK_HALF_CLOSE])?;
            flow.write_all(data)?;
        }
        Way::ClientReset => {
            let mut flow = open(ASK_ECHO)?;
            flow.write_all(data)?;
            socket::reset(flow)?;
        }
        Way::ServerReset => {
            let mut flow = open(ASK_RESET)?;
            match flow.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                Err(error) => return Err(error),
                Ok(_) => return Err(io::Error::other("no reset came")),
            }
        }
        Way::Unused => drop(connect(Service::Soak)?),
        Way::Refused => match connect(Service::Refused) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::Error::other("it was accepted")),
        },
        Way::Datagrams => return datagrams(client, data),
    }
    Ok(0)
}

/// Sends some datagrams, and counts those that don't come back.
fn datagrams(client: &Client, data: &[u8]) -> io::Result<u64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(client.server(Service::UdpEcho))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut lost = 0;
    let mut back = [0; 2048];
    for datagram in data.chunks(1200).take(4) {
        socket.send(datagram)?;
        match socket.recv(&mut back) {
            Ok(count) => same(&back[..count], datagram)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => lost += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

fn same(back: &[u8], data: &[u8]) -> io::Result<()> {
    if back == data {
        return Ok(());
    }
    let (came, went) = (back.len(), data.len());
    Err(io::Error::other(format!(
        "{came} bytes came back of {went}, or others"
    )))
}

/// Serves one flow as its client asks.
pub(super) fn serve(mut flow: TcpStream) -> io::Result<()> {
    flow.set_read_timeout(Some(PATIENCE))?;
    flow.set_write_timeout(Some(PATIENCE))?;
    let mut ask = [0];
    flow.read_exact(&mut ask)?;
    match ask[0] {
        ASK_ECHO => {
            let mut buffer = [0; 4096];
            loop {
                match flow.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => flow.write_all(&buffer[..count])?,
                }
            }
        }
        ASK_HALF_CLOSE => {
            flow.write_all(&ask)?;
            flow.shutdown(Shutdown::Write)?;
            io::copy(&mut flow, &mut io::sink()).map(drop)
        }
        _ => socket::reset(flow),
    }
}

/// Numbers that repeat with their seed (xorshift64*, Vigna 2016).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        // Zero is the one state that leads nowhere.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below_u64(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn below(&mut self, limit: usize) -> usize {
        u64::try_from(limit)
            .map(|limit| self.below_u64(limit))
            .ok()
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(0)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::traffic::{Test, exchange};

    /// Servers on free neighbouring ports.
    fn serve_here() -> u16 {
        let free = |first: u16| {
            let soaked = TcpListener::bind((Ipv4Addr::LOCALHOST, Service::Soak.port(first)))?;
            let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, Service::UdpEcho.port(first)))?;
            let refused = TcpListener::bind((Ipv4Addr::LOCALHOST, Service::Refused.port(first)))?;
            drop(refused);
            io::Result::Ok((first, soaked, datagrams))
        };
        let (first, soaked, datagrams) = (20_000..30_000)
            .step_by(10)
            .find_map(|first| free(first).ok())
            .expect("some ports are free");
        thread::spawn(move || exchange::echo_datagrams(&datagrams));
        thread::spawn(move || {
            for flow in soaked.incoming().flatten() {
                thread::spawn(move || serve(flow));
            }
        });
        first
    }

    #[test]
    fn every_way_goes_through_where_nothing_stands_between() {
        let client = Client::new(
            Test::Soak,
            Ipv4Addr::LOCALHOST,
            serve_here(),
            Duration::ZERO,
        );
        let mut data = vec![0; 9000];
        Dice::new(7).fill(&mut data);
        for way in WAYS {
            let lost = go(&client, way, &data).unwrap_or_else(|error| panic!("{way:?}: {error}"));
            assert_eq!(lost, 0, "{way:?}");
        }
    }

    #[test]
    fn a_flow_that_goes_otherwise_is_a_problem() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it is bound").port();
        let first = port - Service::Refused.port(0);
        let client = Client::new(Test::Soak, Ipv4Addr::LOCALHOST, first, Duration::ZERO);
        let error = go(&client, Way::Refused, &[]).expect_err("somebody listens");
        assert_eq!(error.to_string(), "it was accepted");
    }

    #[test]
    fn a_seed_gives_its_numbers_again() {
        let draw = |seed| {
            let mut dice = Dice::new(seed);
            [(); 20].map(|()| dice.below(WAYS.len()))
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert!(draw(3).iter().all(|number| *number < WAYS.len()));
    }
}
