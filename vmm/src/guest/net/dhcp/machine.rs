//! The states of a DHCPv4 client (RFC 2131, 4.4): messages and the time in,
//! messages and leases out.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::time::Duration;

use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::services::dhcp4::message::{Answer, MessageType, Request};
use nestling_devices::net::time::Time;

use super::Lease;

/// The wait before the first retransmission, and the longest; each is twice
/// the one before, and up to a second longer or shorter (RFC 2131, 4.1).
const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// How often an offer is asked for before others are looked for.
const MOST_REQUESTS: u32 = 4;

/// The shortest wait between two requests to extend a lease (RFC 2131, 4.4.5).
const LEAST_RENEWAL: Duration = Duration::from_secs(60);

/// The shortest lease that is taken: a shorter one is no more than work.
const SHORTEST_LEASE: u32 = 10;

/// The lease time that never ends (RFC 2131, 3.3).
const INFINITE: u32 = u32::MAX;

/// The longest answer that is taken, without headers of IP and UDP.
const LONGEST_ANSWER: usize = 1472;

/// What the client does or has learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Send this message, to all or to one server.
    Send(Ipv4Addr, Vec<u8>),
    /// The lease is there, or was extended.
    Bound(Lease),
    /// The lease has ended, or was withdrawn: the address must not be used.
    Lost,
}

#[derive(Debug)]
enum State {
    /// Looks for servers.
    Selecting,
    /// Asks for an address that a server offered.
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    /// Has a lease.
    Bound,
    /// Asks its server to extend the lease.
    Renewing,
    /// Asks any server to.
    Rebinding,
}

/// The lease that is held, and when it needs care.
#[derive(Debug)]
struct Held {
    lease: Lease,
    renewal: Time,
    rebinding: Time,
    end: Time,
}

/// The client's state.
#[derive(Debug)]
pub(super) struct Machine {
    mac: MacAddress,
    host_name: String,
    state: State,
    held: Option<Held>,
    transaction: u32,
    /// Messages that were sent in this state.
    tries: u32,
    /// When the last one was sent.
    sent: Time,
    due: Time,
    random: RandomState,
    drawn: u64,
}

impl Machine {
    /// A client that looks for servers at once. The random wait before
    /// (RFC 2131, 4.4.1) is for many that start together.
    pub(super) fn new(mac: MacAddress, host_name: &str) -> Self {
        let mut machine = Self {
            mac,
            host_name: host_name.to_owned(),
            state: State::Selecting,
            held: None,
            transaction: 0,
            tries: 0,
            sent: Time::ZERO,
            due: Time::ZERO,
            random: RandomState::new(),
            drawn: 0,
        };
        machine.enter(State::Selecting, Time::ZERO);
        machine
    }

    /// When to [`poll`](Self::poll) again.
    pub(super) fn due(&self) -> Time {
        self.due
    }

    /// The server that gave the lease, and the lease's address.
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.held.as_ref().map(|held| &held.lease)
    }

    /// Does what time asks for. To be called until it says `None`.
    pub(super) fn poll(&mut self, now: Time) -> Option<Action> {
        if now < self.due {
            return None;
        }
        let Some(held) = &self.held else {
            return Some(self.acquire(now));
        };
        if now >= held.end {
            return Some(self.lose(now));
        }
        let (rebinding, end) = (held.rebinding, held.end);
        let (server, address) = (held.lease.server, held.lease.address);
        match self.state {
            _ if now >= rebinding => {
                if !matches!(self.state, State::Rebinding) {
                    self.enter(State::Rebinding, now);
                }
                Some(self.extend(now, Ipv4Addr::BROADCAST, address, end))
            }
            State::Renewing => Some(self.extend(now, server, address, rebinding)),
            _ => {
                self.enter(State::Renewing, now);
                Some(self.extend(now, server, address, rebinding))
            }
        }
    }

    /// Has the lease extended now, not only when half of it has passed.
    pub(super) fn renew(&mut self, now: Time) {
        if self.held.is_some() {
            self.enter(State::Renewing, now);
        }
    }

    /// Gives the lease back; the message that says so (RFC 2131, 4.4.6).
    pub(super) fn release(&mut self, now: Time) -> Option<(Ipv4Addr, Vec<u8>)> {
        let held = self.held.take()?;
        self.enter(State::Selecting, now);
        let mut message = self.message(MessageType::Release, held.lease.address);
        message.server = Some(held.lease.server);
        message.requested_options = None;
        Some((held.lease.server, message.bytes()))
    }

    /// Takes a message that came to the client's port.
    pub(super) fn receive(&mut self, now: Time, message: &[u8]) -> Option<Action> {
        let answer = Answer::parse(message)?;
        if answer.transaction != self.transaction || answer.hardware != self.mac {
            return None;
        }
        // Nothing was asked yet under this number.
        if self.tries == 0 {
            return None;
        }
        match (&self.state, answer.kind) {
            (State::Selecting, MessageType::Offer) => {
                lease(&answer)?;
                self.state = State::Requesting {
                    address: answer.address,
                    server: answer.server?,
                };
                // The request belongs to the exchange of its offer
                // (RFC 2131, 4.4.1), so the transaction's number stays.
                self.tries = 0;
                self.due = now;
                None
            }
            (State::Requesting { server, .. }, MessageType::Nak)
                if answer.server == Some(*server) =>
            {
                self.enter(State::Selecting, now);
                // Not at once: the server would offer the same again.
                self.due = now + FIRST_WAIT;
                None
            }
            (State::Requesting { server, .. }, MessageType::Ack)
                if answer.server == Some(*server) =>
            {
                self.bind(&answer)
            }
            (State::Renewing | State::Rebinding, MessageType::Nak) => Some(self.lose(now)),
            (State::Renewing | State::Rebinding, MessageType::Ack) => {
                let same = self.lease().map(|lease| lease.address) == Some(answer.address);
                if same { self.bind(&answer) } else { None }
            }
            _ => None,
        }
    }

    /// Starts an exchange.
    fn enter(&mut self, state: State, now: Time) {
        self.state = state;
        self.transaction = self.draw();
        self.tries = 0;
        self.due = now;
    }

    /// Looks for an offer, or asks for the one that was made.
    fn acquire(&mut self, now: Time) -> Action {
        if matches!(self.state, State::Requesting { .. }) && self.tries == MOST_REQUESTS {
            self.enter(State::Selecting, now);
        }
        let mut message = self.message(MessageType::Discover, Ipv4Addr::UNSPECIFIED);
        message.broadcast = true;
        if let State::Requesting { address, server } = self.state {
            message.kind = MessageType::Request;
            message.requested = Some(address);
            message.server = Some(server);
        }
        let wait = self.wait();
        self.send(now, Ipv4Addr::BROADCAST, &message, now + wait)
    }

    /// Asks for an extension; again when half of the time until `limit` has
    /// passed (RFC 2131, 4.4.5).
    fn extend(&mut self, now: Time, to: Ipv4Addr, address: Ipv4Addr, limit: Time) -> Action {
        let message = self.message(MessageType::Request, address);
        let wait = (limit.since(now) / 2).max(LEAST_RENEWAL);
        self.send(now, to, &message, limit.min(now + wait))
    }

    fn send(&mut self, now: Time, to: Ipv4Addr, message: &Request, due: Time) -> Action {
        self.tries += 1;
        self.sent = now;
        self.due = due;
        Action::Send(to, message.bytes())
    }

    /// Takes a lease, which counts from when it was asked for (RFC 2131,
    /// 4.4.1).
    fn bind(&mut self, answer: &Answer) -> Option<Action> {
        let lease = lease(answer)?;
        let after = |duration: Option<Duration>| duration.map_or(Time::NEVER, |d| self.sent + d);
        let held = Held {
            renewal: after(lease.renewal),
            rebinding: after(lease.rebinding),
            end: after(lease.duration),
            lease: lease.clone(),
        };
        self.due = held.renewal;
        self.held = Some(held);
        self.state = State::Bound;
        Some(Action::Bound(lease))
    }

    fn lose(&mut self, now: Time) -> Action {
        self.held = None;
        self.enter(State::Selecting, now);
        Action::Lost
    }

    /// The wait before the next retransmission.
    fn wait(&mut self) -> Duration {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.tries.min(4));
        let spread = Duration::from_millis(u64::from(self.draw() % 2001));
        doubled.min(LONGEST_WAIT) + spread - Duration::from_secs(1)
    }

    fn message(&self, kind: MessageType, client_address: Ipv4Addr) -> Request {
        let name = (!self.host_name.is_empty()).then(|| self.host_name.as_bytes().to_vec());
        Request {
            kind,
            transaction: self.transaction,
            broadcast: false,
            client_address,
            relay: Ipv4Addr::UNSPECIFIED,
            hardware: self.mac,
            client_id: None,
            requested: None,
            server: None,
            lease_time: None,
            host_name: name,
            requested_options: Some(Answer::OPTIONS.to_vec()),
            max_reply: LONGEST_ANSWER,
        }
    }

    fn draw(&mut self) -> u32 {
        self.drawn += 1;
        u32::try_from(self.random.hash_one(self.drawn) >> 32).unwrap_or_default()
    }
}

/// The lease in an offer or acknowledgement, if it is one that can be used.
fn lease(answer: &Answer) -> Option<Lease> {
    let seconds = answer.lease_time?;
    if seconds < SHORTEST_LEASE || !answer.gives_address() {
        return None;
    }
    // The defaults of RFC 2131, 4.4.5, also instead of times in the wrong
    // order.
    let rebinding = answer.rebinding.unwrap_or(seconds - seconds / 8);
    let renewal = answer.renewal.unwrap_or(seconds / 2);
    let (renewal, rebinding) = if renewal <= rebinding && rebinding <= seconds && renewal > 0 {
        (renewal, rebinding)
    } else {
        (seconds / 2, seconds - seconds / 8)
    };
    let finite = |time: u32| (seconds != INFINITE).then(|| Duration::from_secs(time.into()));
    Some(Lease {
        address: answer.address,
        prefix: answer.prefix?,
        router: answer.router,
        dns: answer.dns.clone(),
        domain: answer.domain.clone(),
        mtu: answer.mtu,
        server: answer.server?,
        duration: finite(seconds),
        renewal: finite(renewal),
        rebinding: finite(rebinding),
    })
}

#[cfg(test)]
mod tests;
