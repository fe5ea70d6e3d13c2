//! The gateway's DNS: questions about its own network are answered here
//! ([`Zone`], [`Names`]), and all others are passed on to the host's resolvers
//! (RFC 5625).
//!
//! What is passed on, in both directions, stays as it is but for its id:
//! options, signatures and failures are between guest and resolver.
//!
//! Queries come as datagrams here. Connections to the gateway's port lead to
//! the host's resolver itself ([`Reach::connection`]): the one that is asked first
//! ([`Dns::preferred`]).
//!
//! [`Reach::connection`]: crate::net::nat::reach::Reach::connection

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::leases::Limits;
use super::{PortNumber, is_domain};
use crate::net::mac::MacAddress;
use crate::net::time::Time;
use local::Known;
use message::{Fault, Query, Rcode, SHORTEST_DATAGRAM, is_answer, kind, rejection, set_id};

pub use local::Zone;
pub use names::Names;

mod local;
mod message;
mod names;
pub mod question;
pub mod resolv;

/// The port of DNS, of UDP and of TCP (RFC 1035, 4.2).
pub const PORT: u16 = 53;

/// The longest query that is taken. One has a name, options, and padding
/// (RFC 7830): far less.
pub const LONGEST_QUERY: usize = 4096;

/// How long a resolver has to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often each resolver is asked: datagrams get lost.
const ROUNDS: usize = 2;

/// The least number of datagrams before a query is given up.
const LEAST_TRIES: usize = 3;

/// Where a query came from, and where its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The port of the switch.
    pub port: PortNumber,
    /// The station.
    pub mac: MacAddress,
    /// Its address and port.
    pub source: SocketAddr,
    /// The gateway's address that it asked, which answers.
    pub asked: IpAddr,
}

/// What the forwarder is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is answered here.
    pub zone: Zone,
    /// The queries that are under way at once.
    pub limits: Limits,
    /// The longest answer that reaches guests in one datagram; longer ones
    /// make them ask again by TCP.
    pub longest_datagram: usize,
}

/// A contradiction in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A domain name that isn't one.
    #[error("{0:?} is not a domain name of at most 253 characters")]
    Domain(String),
    /// Datagrams that even short answers don't fit in.
    #[error("DNS needs datagrams of at least {SHORTEST_DATAGRAM} bytes, not {0} (RFC 1035, 4.2.1)")]
    Datagram(usize),
}

/// A query under way. Each is of its own: a number never comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exchange(u64);

/// A message to a resolver.
///
/// Each exchange has sockets of its own, with ports that are hard to guess
/// (RFC 5452, 9.2): one of each family that is needed, which stays open to the
/// exchange's end, since an answer may come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream<'a> {
    /// The query it belongs to.
    pub exchange: Exchange,
    /// The resolver.
    pub server: SocketAddr,
    /// The message.
    pub message: &'a [u8],
}

/// What to do about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Answer the client.
    Reply(Vec<u8>),
    /// Ask a resolver.
    Send(Upstream<'a>),
    /// Nothing: the client has asked this before, and its answer is awaited.
    Wait,
}

/// The message is no query, and gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAQuery;

/// What a passed deadline asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Timeout<'a> {
    /// Ask the next resolver.
    Send(Upstream<'a>),
    /// Answer the client, and close what belongs to the exchange.
    GiveUp(Exchange, Client, Vec<u8>),
}

struct Entry {
    client: Client,
    /// The client's id of the query.
    client_id: u16,
    /// Ours.
    id: u16,
    /// The query with our id.
    message: Vec<u8>,
    /// The question in it.
    question: Vec<u8>,
    /// The resolvers at the time of the query, the first to ask first.
    servers: Arc<[SocketAddr]>,
    first: usize,
    /// How many messages were sent.
    tries: usize,
    due: Time,
}

impl Entry {
    /// The resolver that the try of this number goes to.
    fn server(&self, number: usize) -> SocketAddr {
        self.servers[(self.first + number) % self.servers.len()]
    }

    fn most_tries(&self) -> usize {
        (self.servers.len() * ROUNDS).max(LEAST_TRIES)
    }

    /// Whether `server` may answer.
    fn was_asked(&self, server: SocketAddr) -> bool {
        let is = |asked: SocketAddr| asked.ip() == server.ip() && asked.port() == server.port();
        (0..self.tries).any(|number| is(self.server(number)))
    }
}

/// The forwarder.
pub struct Dns {
    /// The hosts of the network.
    pub names: Names,
    config: Config,
    servers: Arc<[SocketAddr]>,
    /// The resolver to ask first, which is the last that didn't stay silent.
    preferred: usize,
    entries: HashMap<Exchange, Entry>,
    by_client: HashMap<(Client, u16), Exchange>,
    per_port: HashMap<PortNumber, usize>,
    deadlines: BTreeSet<(Time, Exchange)>,
    /// The number of queries so far, of which ids are made.
    count: u64,
    ids: RandomState,
}

impl Dns {
    /// A forwarder that knows no names and no resolvers. Its ids have the keys
    /// of `ids`, which nobody may know.
    pub fn new(config: Config, ids: RandomState) -> Result<Self, ConfigError> {
        if let Some(domain) = config.zone.domain.as_ref().filter(|name| !is_domain(name)) {
            return Err(ConfigError::Domain(domain.clone()));
        }
        if config.longest_datagram < SHORTEST_DATAGRAM.into() {
            return Err(ConfigError::Datagram(config.longest_datagram));
        }
        Ok(Self {
            names: Names::new(),
            config,
            servers: Arc::new([]),
            preferred: 0,
            entries: HashMap::new(),
            by_client: HashMap::new(),
            per_port: HashMap::new(),
            deadlines: BTreeSet::new(),
            count: 0,
            ids,
        })
    }

    /// Sets the resolvers for queries to come ([`resolv`]); those under way
    /// stay with theirs.
    pub fn set_servers(&mut self, servers: &[SocketAddr]) {
        if self.servers[..] != *servers {
            self.servers = servers.into();
            self.preferred = 0;
        }
    }

    /// The resolver that is asked first.
    pub fn preferred(&self) -> Option<SocketAddr> {
        self.servers.get(self.preferred).copied()
    }

    /// The number of queries under way.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no query is under way.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a query.
    pub fn query(
        &mut self,
        now: Time,
        client: Client,
        message: &[u8],
    ) -> Result<Action<'_>, NotAQuery> {
        let reject = |rcode| {
            rejection(message, rcode)
                .map(Action::Reply)
                .ok_or(NotAQuery)
        };
        let query = match Query::parse(message) {
            Ok(_) if message.len() > LONGEST_QUERY => return reject(Rcode::FormatError),
            Ok(query) => query,
            Err(Fault::NotAQuery) => return Err(NotAQuery),
            Err(Fault::Answer(rcode)) => return reject(rcode),
        };
        if let Some(reply) = self.answer_here(now, &query) {
            return Ok(Action::Reply(reply));
        }
        let known = self.by_client.get(&(client, query.id()));
        if let Some(entry) = known.and_then(|exchange| self.entries.get(exchange))
            && entry.question == query.question()
        {
            return Ok(Action::Wait);
        }
        if self.servers.is_empty() {
            return Ok(Action::Reply(query.failure(Rcode::ServerFailure)));
        }
        let of_port = self.per_port.get(&client.port).copied().unwrap_or(0);
        if self.entries.len() >= self.config.limits.total || of_port >= self.config.limits.per_port
        {
            return Ok(Action::Reply(query.failure(Rcode::Refused)));
        }
        let exchange = self.enter(now, client, &query, message);
        let upstream = self.send(now, exchange);
        Ok(Action::Send(
            upstream.expect("the exchange was entered just now"),
        ))
    }

    /// Takes what came from `server` to a socket of `exchange`. The answer
    /// ends the exchange: what belongs to it is to be closed. `None` stands
    /// for a message that is no answer to it.
    pub fn answer(
        &mut self,
        exchange: Exchange,
        server: SocketAddr,
        message: &[u8],
    ) -> Option<(Client, Vec<u8>)> {
        let entry = self.entries.get(&exchange)?;
        // RFC 5452, 9.1.
        if !entry.was_asked(server) || !is_answer(message, entry.id, &entry.question) {
            return None;
        }
        let entry = self.remove(exchange)?;
        let mut reply = if message.len() > self.config.longest_datagram {
            Query::parse(&entry.message).ok()?.truncated()
        } else {
            message.to_vec()
        };
        set_id(&mut reply, entry.client_id);
        Some((entry.client, reply))
    }

    /// Notes that `server` can't be asked: it refused, or it can't be reached.
    /// The next one's turn comes with [`Self::timeout`].
    pub fn failed(&mut self, now: Time, exchange: Exchange, server: SocketAddr) {
        let Some(entry) = self.entries.get_mut(&exchange) else {
            return;
        };
        let asked = entry.tries.checked_sub(1).map(|last| entry.server(last));
        if asked == Some(server) && entry.due > now {
            self.deadlines.remove(&(entry.due, exchange));
            entry.due = now;
            self.deadlines.insert((now, exchange));
        }
    }

    /// When [`Self::timeout`] has something to say next.
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|&(due, _)| due)
    }

    /// The next thing to do about deadlines that have passed; to be called
    /// until it says `None`.
    pub fn timeout(&mut self, now: Time) -> Option<Timeout<'_>> {
        let &(due, exchange) = self.deadlines.first()?;
        if due > now {
            return None;
        }
        let entry = self.entries.get(&exchange)?;
        // A resolver that stays silent isn't the first to be asked any more.
        let silent = (entry.first + entry.tries.saturating_sub(1)) % entry.servers.len();
        if silent == self.preferred && Arc::ptr_eq(&entry.servers, &self.servers) {
            self.preferred = (silent + 1) % self.servers.len();
        }
        if entry.tries < entry.most_tries() {
            return self.send(now, exchange).map(Timeout::Send);
        }
        let entry = self.remove(exchange)?;
        let mut reply = Query::parse(&entry.message)
            .ok()?
            .failure(Rcode::ServerFailure);
        set_id(&mut reply, entry.client_id);
        Some(Timeout::GiveUp(exchange, entry.client, reply))
    }

    /// Forgets the queries of the clients behind `port`, who are gone. What
    /// belongs to the exchanges is to be closed.
    pub fn forget_port(&mut self, port: PortNumber) -> Vec<Exchange> {
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.client.port == port)
            .map(|(exchange, _)| *exchange)
            .collect();
        for exchange in &gone {
            self.remove(*exchange);
        }
        gone
    }

    /// The answer to a question that isn't passed on.
    fn answer_here(&self, now: Time, query: &Query) -> Option<Vec<u8>> {
        // What would be many messages isn't handed out, nor passed on.
        if matches!(query.kind, kind::AXFR | kind::IXFR) {
            return Some(query.failure(Rcode::Refused));
        }
        let known = self.config.zone.answer(now, &self.names, query)?;
        if query.is_of_unknown_version() {
            return Some(query.failure(Rcode::BadVersion));
        }
        Some(match known {
            Known::Records(records) => query.reply(Rcode::NoError, &records),
            Known::NoSuchName => query.reply(Rcode::NameError, &[]),
        })
    }

    fn enter(&mut self, now: Time, client: Client, query: &Query, message: &[u8]) -> Exchange {
        self.count += 1;
        let exchange = Exchange(self.count);
        let [a, b, ..] = self.ids.hash_one(self.count).to_be_bytes();
        let id = u16::from_be_bytes([a, b]);
        let mut message = message.to_vec();
        set_id(&mut message, id);
        let entry = Entry {
            client,
            client_id: query.id(),
            id,
            message,
            question: query.question().to_vec(),
            servers: self.servers.clone(),
            first: self.preferred,
            tries: 0,
            due: now,
        };
        self.by_client.insert((client, query.id()), exchange);
        *self.per_port.entry(client.port).or_default() += 1;
        self.deadlines.insert((now, exchange));
        self.entries.insert(exchange, entry);
        exchange
    }

    /// The next try.
    fn send(&mut self, now: Time, exchange: Exchange) -> Option<Upstream<'_>> {
        let entry = self.entries.get_mut(&exchange)?;
        self.deadlines.remove(&(entry.due, exchange));
        entry.due = now + PATIENCE;
        self.deadlines.insert((entry.due, exchange));
        entry.tries += 1;
        Some(Upstream {
            exchange,
            server: entry.server(entry.tries - 1),
            message: &entry.message,
        })
    }

    fn remove(&mut self, exchange: Exchange) -> Option<Entry> {
        let entry = self.entries.remove(&exchange)?;
        self.deadlines.remove(&(entry.due, exchange));
        let key = (entry.client, entry.client_id);
        if self.by_client.get(&key) == Some(&exchange) {
            self.by_client.remove(&key);
        }
        if let Some(of_port) = self.per_port.get_mut(&entry.client.port) {
            *of_port -= 1;
            if *of_port == 0 {
                self.per_port.remove(&entry.client.port);
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
