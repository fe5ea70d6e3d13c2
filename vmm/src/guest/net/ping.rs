//! Ping: does a host answer, and how fast (RFC 792; RFC 4443, 4).

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use nestling_devices::net::wire::checksum::checksum;
use nestling_devices::net::wire::icmp::{self, Echo, Icmp4, Icmp6};
use nestling_devices::net::wire::ip4::Ip4Header;
use thiserror::Error;

use super::socket;

/// What requests carry: as many bytes as those of ping(8).
const PAYLOAD: [u8; 56] = *b"nestling asks whether this host is there, and how fast..";

/// Room for an answer with its header.
const LONGEST_ANSWER: usize = 1500;

/// Why nobody answers.
#[derive(Debug, Error)]
pub enum Error {
    /// The system doesn't let requests be sent.
    #[error("cannot ping {address}: {source}: run as root, with a route to it")]
    Send {
        /// Who was to answer.
        address: IpAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answered.
    #[error(
        "no answer of {address} to {sent} pings within {} s{}: see that it is up and reached",
        timeout.as_secs(),
        reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default()
    )]
    NoAnswer {
        /// Who was to answer.
        address: IpAddr,
        /// How many requests were sent.
        sent: u16,
        /// How long the last one's answer was waited for.
        timeout: Duration,
        /// What somebody on the way said.
        reason: Option<io::Error>,
    },
}

/// How to ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How many requests are sent; at least one is.
    pub count: u16,
    /// The time from one request to the next.
    pub interval: Duration,
    /// How long answers are waited for after the last.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pings {
    /// How many requests were sent.
    pub sent: u16,
    /// The time from each answered request to its answer, in their order; at
    /// least one.
    pub times: Vec<Duration>,
}

impl Pings {
    /// The shortest time.
    #[must_use]
    pub fn shortest(&self) -> Duration {
        self.times.iter().min().copied().unwrap_or_default()
    }

    /// The mean of the times.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        self.times.iter().sum::<Duration>() / count.max(1)
    }
}

/// Pings `address`, by a raw socket.
///
/// # Errors
/// [`Error::NoAnswer`] if none of the requests was answered, [`Error::Send`].
pub fn ping(address: IpAddr, options: &Options) -> Result<Pings, Error> {
    let cannot = |source| Error::Send { address, source };
    let socket = socket::icmp(address).map_err(cannot)?;
    let count = options.count.max(1);
    let mut pinger = Pinger {
        socket,
        identifier: u16::try_from(std::process::id() & 0xFFFF).unwrap_or_default(),
        v4: address.is_ipv4(),
        sent: Vec::new(),
        times: vec![None; count.into()],
        reason: None,
    };
    for sequence in 0..count {
        pinger.send(sequence).map_err(cannot)?;
        let last = sequence + 1 == count;
        let wait = if last {
            options.timeout
        } else {
            options.interval
        };
        pinger.listen(Instant::now() + wait, last).map_err(cannot)?;
    }
    let times: Vec<_> = pinger.times.iter().flatten().copied().collect();
    if times.is_empty() {
        return Err(Error::NoAnswer {
            address,
            sent: count,
            timeout: options.timeout,
            reason: pinger.reason,
        });
    }
    Ok(Pings { sent: count, times })
}

struct Pinger {
    socket: UdpSocket,
    identifier: u16,
    v4: bool,
    /// When each request was sent.
    sent: Vec<Instant>,
    /// The time to each request's first answer.
    times: Vec<Option<Duration>>,
    /// The last error that somebody on the way reported.
    reason: Option<io::Error>,
}

impl Pinger {
    fn send(&mut self, sequence: u16) -> io::Result<()> {
        let echo = Echo {
            identifier: self.identifier,
            sequence,
        };
        let message = request(echo, self.v4);
        self.sent.push(Instant::now());
        match self.socket.send(&message) {
            Ok(_) => Ok(()),
            // What an earlier request met with; this one wasn't sent.
            Err(error) if is_report(&error) => {
                self.reason = Some(error);
                self.socket.send(&message).map(drop)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes answers until `deadline`, or with `all` until there are no more
    /// to come.
    fn listen(&mut self, deadline: Instant, all: bool) -> io::Result<()> {
        let mut buffer = [0; LONGEST_ANSWER];
        while !(all && self.times.iter().all(Option::is_some)) {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(rest))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(sequence) = reply(&buffer[..length], self.identifier, self.v4) {
                        self.note(sequence);
                    }
                }
                Err(error) if is_report(&error) => self.reason = Some(error),
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
        Ok(())
    }

    fn note(&mut self, sequence: u16) {
        let sequence = usize::from(sequence);
        if let (Some(sent), Some(time)) = (self.sent.get(sequence), self.times.get_mut(sequence)) {
            time.get_or_insert_with(|| sent.elapsed());
        }
    }
}

/// Whether an error is what an ICMP message reported about a request.
fn is_report(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    ) || error.raw_os_error() == Some(libc::EPROTO)
}

/// An echo request. The kernel puts the checksum of ICMPv6 in (RFC 3542, 3.1).
fn request(echo: Echo, v4: bool) -> Vec<u8> {
    let mut message = vec![0; icmp::LEN + PAYLOAD.len()];
    let written = if v4 {
        Icmp4::EchoRequest(echo).write(&mut message)
    } else {
        Icmp6::EchoRequest(echo).write(&mut message)
    };
    let length = written.expect("there is room for the header");
    message[length..].copy_from_slice(&PAYLOAD);
    if v4 {
        let at = usize::from(icmp::CHECKSUM_OFFSET);
        let sum = checksum(&message);
        message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The number of the request that `message` answers. Raw sockets of IPv4 give
/// its header, too.
fn reply(message: &[u8], identifier: u16, v4: bool) -> Option<u16> {
    let start = if v4 {
        Ip4Header::parse(message).ok()?.1
    } else {
        0
    };
    let message = message.get(start..)?;
    let echo = if v4 {
        match Icmp4::parse(message) {
            Ok(Icmp4::EchoReply(echo)) => echo,
            _ => return None,
        }
    } else {
        match Icmp6::parse(message) {
            Ok((Icmp6::EchoReply(echo), _)) => echo,
            _ => return None,
        }
    };
    let ours = echo.identifier == identifier && message.get(icmp::LEN..)? == PAYLOAD;
    ours.then_some(echo.sequence)
}

#[cfg(test)]
mod tests {
    use nestling_devices::net::wire::ip::Protocol;
    use proptest::prelude::*;

    use super::*;

    const ECHO: Echo = Echo {
        identifier: 7,
        sequence: 3,
    };

    /// The answer to [`ECHO`], as a raw socket gives it.
    fn answer(v4: bool) -> Vec<u8> {
        let mut message = request(ECHO, v4);
        if !v4 {
            message[0] = 129;
            return message;
        }
        message[0] = 0;
        let own = [192, 0, 2, 1].into();
        let mut header = Ip4Header::new(own, own, Protocol::ICMP);
        header.payload_len = u16::try_from(message.len()).unwrap();
        let mut packet = vec![0; 20];
        header.write(&mut packet).unwrap();
        packet.extend(message);
        packet
    }

    #[test]
    fn answers_are_told_from_other_messages() {
        for v4 in [true, false] {
            let message = answer(v4);
            assert_eq!(reply(&message, 7, v4), Some(3));
            assert_eq!(reply(&message, 8, v4), None);
            assert_eq!(reply(&message[..message.len() - 1], 7, v4), None);
            assert_eq!(reply(&request(ECHO, v4), 7, v4), None);
        }
        assert_eq!(checksum(&request(ECHO, true)), 0);
    }

    #[test]
    fn times_are_summed_up() {
        let times = [4, 2, 6].map(Duration::from_micros).to_vec();
        let pings = Pings { sent: 4, times };
        assert_eq!(pings.shortest(), Duration::from_micros(2));
        assert_eq!(pings.mean(), Duration::from_micros(4));
    }

    #[test]
    fn errors_say_what_to_do() {
        let mut error = Error::NoAnswer {
            address: [192, 0, 2, 1].into(),
            sent: 3,
            timeout: Duration::from_secs(5),
            reason: None,
        };
        let text = "no answer of 192.0.2.1 to 3 pings within 5 s: see that it is up and reached";
        assert_eq!(error.to_string(), text);
        if let Error::NoAnswer { reason, .. } = &mut error {
            *reason = Some(io::Error::other("No route to host"));
        }
        assert!(error.to_string().contains("5 s (No route to host): see"));
    }

    proptest! {
        #[test]
        fn hostile_answers_are_survived(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            v4: bool,
        ) {
            prop_assert_eq!(reply(&bytes, 7, v4), None);
        }
    }
}
