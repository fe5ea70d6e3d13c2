//! What the server serves.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::is_domain;
use super::super::leases::Limits;
use crate::net::mac::MacAddress;
use crate::net::prefix::Prefix6;

/// The most name servers, so that every reply fits in one packet.
pub(super) const MOST_SERVERS: usize = 8;

/// The shortest lifetime of an address, in seconds.
const SHORTEST_LIFETIME: u32 = 60;

/// What the server serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's hardware address, which names it.
    pub mac: MacAddress,
    /// The prefix of the link.
    pub prefix: Prefix6,
    /// The addresses of the gateway, which no client gets.
    pub gateway: Vec<Ipv6Addr>,
    /// The addresses for clients without a reservation.
    pub pool: RangeInclusive<Ipv6Addr>,
    /// Addresses of single clients, in the pool or not.
    pub reservations: HashMap<MacAddress, Ipv6Addr>,
    /// How long an address is preferred.
    pub preferred: Duration,
    /// How long it is valid, which is how long a lease is.
    pub valid: Duration,
    /// The name servers (RFC 3646, 3).
    pub dns: Vec<Ipv6Addr>,
    /// The domain to search names in (RFC 3646, 4).
    pub domain: Option<String>,
    /// How many leases there are.
    pub limits: Limits,
}

/// A contradiction in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An address that isn't a host's of the link.
    #[error("the {what} {address} is not a host's address in {prefix}")]
    Outside {
        /// Whose address it is.
        what: &'static str,
        /// The address.
        address: Ipv6Addr,
        /// The prefix.
        prefix: Prefix6,
    },
    /// The pool's end comes before its start.
    #[error("the pool {0} to {1} is empty: write the lower address first")]
    EmptyPool(Ipv6Addr, Ipv6Addr),
    /// Two clients have one address.
    #[error("{0} is reserved twice, or is the gateway's: give each client its own address")]
    ReservedTwice(Ipv6Addr),
    /// Times that don't fit, or contradict each other.
    #[error(
        "addresses can't be preferred for {preferred:?} and valid for {valid:?}: write times between a minute and a century, the first not the longer one"
    )]
    Lifetimes {
        /// How long they are preferred.
        preferred: Duration,
        /// How long they are valid.
        valid: Duration,
    },
    /// A domain name that isn't one.
    #[error("{0:?} is not a domain name of at most 253 characters")]
    Domain(String),
    /// More than a reply holds.
    #[error("{0} name servers are too many: write at most {MOST_SERVERS}")]
    TooManyServers(usize),
}

/// Checks a configuration; returns the lifetimes in seconds.
pub(super) fn check(config: &Config) -> Result<(u32, u32), ConfigError> {
    let inside = |what, address| {
        if config.prefix.contains(address) && address != config.prefix.first() {
            return Ok(());
        }
        Err(ConfigError::Outside {
            what,
            address,
            prefix: config.prefix,
        })
    };
    let (start, end) = (*config.pool.start(), *config.pool.end());
    inside("pool's start", start)?;
    inside("pool's end", end)?;
    if config.pool.is_empty() {
        return Err(ConfigError::EmptyPool(start, end));
    }
    let mut taken: BTreeSet<_> = config.gateway.iter().copied().collect();
    for &address in config.reservations.values() {
        inside("reservation", address)?;
        if !taken.insert(address) {
            return Err(ConfigError::ReservedTwice(address));
        }
    }
    if let Some(domain) = config.domain.as_ref().filter(|domain| !is_domain(domain)) {
        return Err(ConfigError::Domain(domain.clone()));
    }
    if config.dns.len() > MOST_SERVERS {
        return Err(ConfigError::TooManyServers(config.dns.len()));
    }
    let seconds = |time: Duration| {
        let seconds = u32::try_from(time.as_secs()).ok()?;
        let fits = (SHORTEST_LIFETIME..=100 * 365 * 86_400).contains(&seconds);
        fits.then_some(seconds)
    };
    seconds(config.preferred)
        .zip(seconds(config.valid))
        .filter(|(preferred, valid)| preferred <= valid)
        .ok_or(ConfigError::Lifetimes {
            preferred: config.preferred,
            valid: config.valid,
        })
}
