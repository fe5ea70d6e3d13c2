//! The DHCPv4 server (RFC 2131; options of RFC 2132, 3396 and 3442).
//!
//! It is the only server of its network, and sits on it: messages that came
//! through a relay are dropped, and what contradicts its leases is refused
//! rather than left to others.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::PortNumber;
use super::host_name;
use super::leases::{Asker, Lease, Leases, Limits};
use crate::net::mac::MacAddress;
use crate::net::prefix::Prefix4;
use crate::net::time::Time;
use message::{MessageType, Reply, Request, code};

pub mod message;

/// The port that the server listens on (RFC 2131, 4.1).
pub const SERVER_PORT: u16 = 67;

/// The port that clients listen on.
pub const CLIENT_PORT: u16 = 68;

/// How long an offer is held for its client.
const OFFER: Duration = Duration::from_secs(60);

/// How long nobody gets an address that a client found in use.
const QUARANTINE: Duration = Duration::from_secs(600);

/// The shortest lease that is given to a client that asks for one.
const SHORTEST_LEASE: u32 = 60;

/// What the server serves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server's own address, which names it (option 54).
    pub server: Ipv4Addr,
    /// The network.
    pub prefix: Prefix4,
    /// The addresses for clients without a reservation.
    pub pool: RangeInclusive<Ipv4Addr>,
    /// Addresses of single clients, in the pool or not.
    pub reservations: HashMap<MacAddress, Ipv4Addr>,
    /// How long a lease is; the longest that a client may ask for.
    pub lease: Duration,
    /// The default gateway (option 3).
    pub router: Option<Ipv4Addr>,
    /// The name servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// The domain that clients' names are in (option 15).
    pub domain: Option<String>,
    /// The MTU of the link (option 26).
    pub mtu: Option<u16>,
    /// More routes (option 121), each with its gateway.
    pub routes: Vec<(Prefix4, Ipv4Addr)>,
    /// How many leases there are.
    pub limits: Limits,
}

/// A contradiction in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An address that isn't a host's of the network.
    #[error("the {what} {address} is not a host's address in {prefix}")]
    Outside {
        /// Whose address it is.
        what: &'static str,
        /// The address.
        address: Ipv4Addr,
        /// The network.
        prefix: Prefix4,
    },
    /// The pool's end comes before its start.
    #[error("the pool {0} to {1} is empty: write the lower address first")]
    EmptyPool(Ipv4Addr, Ipv4Addr),
    /// Two clients have one address.
    #[error("{0} is reserved twice, or is the server's: give each client its own address")]
    ReservedTwice(Ipv4Addr),
    /// A time that doesn't fit, or a lease that ends before it begins.
    #[error("a lease of {0:?} can't be given: write a time between a minute and a century")]
    Lease(Duration),
    /// A domain name that isn't one.
    #[error("{0:?} is not a domain name of at most 253 characters")]
    Domain(String),
}

/// Why a message isn't answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Not a client's message, or one that breaks the format.
    Malformed,
    /// It came through a relay, and there is none.
    Relayed,
    /// The frame's source isn't the hardware address in the message.
    ForeignHardware,
    /// The client took another server's offer.
    OtherServer,
    /// No room in the pool, in the table, or in the port's share.
    NoAddress,
    /// About an address that isn't the client's.
    NotItsLease,
    /// The client says that it is configured, but not for this network.
    OffLink,
}

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To all stations, and 255.255.255.255.
    Broadcast,
    /// To the client's station and this address.
    Client(Ipv4Addr),
}

/// What a message changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has an address until a moment.
    Bound {
        /// The address.
        address: Ipv4Addr,
        /// The client's name, one label in lower case.
        name: Option<String>,
        /// When the lease ends.
        until: Time,
    },
    /// An address has no client any more.
    Freed(Ipv4Addr),
}

/// The answer to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The reply, from [`SERVER_PORT`] to [`CLIENT_PORT`].
    pub reply: Option<(Destination, Vec<u8>)>,
    /// What changed.
    pub event: Option<Event>,
}

impl Outcome {
    fn event(event: Event) -> Self {
        Self {
            reply: None,
            event: Some(event),
        }
    }
}

/// How a client is known: by option 61, or by its hardware address behind the
/// hardware type, which is what most clients put into that option
/// (RFC 2132, 9.14).
pub type ClientId = Vec<u8>;

/// The server.
pub struct Server {
    config: Config,
    leases: Leases<Ipv4Addr, ClientId>,
    /// The lease time in seconds.
    lease: u32,
}

impl Server {
    /// A server without leases.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let lease = check(&config)?;
        let leases = Leases::new(
            config.pool.clone(),
            [config.server].into_iter().chain(config.router),
            config.reservations.clone(),
            config.limits.sharing(&config.pool),
        );
        Ok(Self {
            config,
            leases,
            lease,
        })
    }

    /// All leases with their addresses, expired ones among them as long as
    /// they are remembered.
    pub fn leases(&self) -> impl Iterator<Item = (Ipv4Addr, &Lease<ClientId>)> {
        self.leases.iter()
    }

    /// Frees the share of `port`, which is gone. Its clients keep their
    /// addresses if they come back behind another port.
    pub fn forget_port(&mut self, port: PortNumber) {
        self.leases.forget_port(port);
    }

    /// Answers a message that came from `source` behind `port`.
    pub fn receive(
        &mut self,
        now: Time,
        port: PortNumber,
        source: MacAddress,
        message: &[u8],
    ) -> Result<Outcome, Ignored> {
        let request = Request::parse(message).ok_or(Ignored::Malformed)?;
        if !request.relay.is_unspecified() {
            return Err(Ignored::Relayed);
        }
        // A station speaks for itself: a bridge in a guest keeps the source.
        if request.hardware != source {
            return Err(Ignored::ForeignHardware);
        }
        let [a, b, c, d, e, f] = source.bytes();
        let asker = Asker {
            port,
            mac: source,
            client: match &request.client_id {
                Some(id) if !id.is_empty() => id.clone(),
                _ => vec![1, a, b, c, d, e, f],
            },
        };
        match request.kind {
            MessageType::Discover => self.discover(now, &asker, &request),
            MessageType::Request => self.request(now, &asker, &request),
            MessageType::Decline => {
                let address = self.named_lease(now, &asker, &request, request.requested)?;
                self.leases.decline(address, now + QUARANTINE);
                Ok(Outcome::event(Event::Freed(address)))
            }
            MessageType::Release => {
                let named = Some(request.client_address);
                let address = self.named_lease(now, &asker, &request, named)?;
                self.leases.release(now, address);
                Ok(Outcome::event(Event::Freed(address)))
            }
            MessageType::Inform => self.inform(&request),
            MessageType::Offer | MessageType::Ack | MessageType::Nak => Err(Ignored::Malformed),
        }
    }

    /// RFC 2131, 4.3.1.
    fn discover(
        &mut self,
        now: Time,
        asker: &Asker<ClientId>,
        request: &Request,
    ) -> Result<Outcome, Ignored> {
        let address = self
            .leases
            .acquire(now, now + OFFER, asker, request.requested)
            .ok_or(Ignored::NoAddress)?;
        let mut reply = self.reply(request, MessageType::Offer);
        reply.your_address(address);
        self.lease_times(&mut reply, self.lease_for(request));
        self.options(&mut reply, request);
        Ok(Outcome {
            reply: Some((destination(request, address), reply.finish())),
            event: None,
        })
    }

    /// RFC 2131, 4.3.2: the client's state shows in what it fills in.
    fn request(
        &mut self,
        now: Time,
        asker: &Asker<ClientId>,
        request: &Request,
    ) -> Result<Outcome, Ignored> {
        let in_use = Some(request.client_address).filter(|address| !address.is_unspecified());
        let held = self.leases.held_by(now, asker);
        let wanted = match (request.server, request.requested, in_use) {
            (Some(server), _, _) if server != self.config.server => {
                return self.taken_elsewhere(now, asker);
            }
            // SELECTING: the offer is taken.
            (Some(_), Some(wanted), None) => wanted,
            // INIT-REBOOT: is the address still the client's? One that was
            // never here hears nothing, unless it is on the wrong network.
            (None, Some(wanted), None) => {
                let known = self.leases.address_of(asker).is_some();
                if !known && self.config.prefix.contains(wanted) {
                    return Err(Ignored::NotItsLease);
                }
                if held.is_none() && self.leases.address_of(asker) == Some(wanted) {
                    // Expired, but nobody took it.
                    self.leases.acquire(now, now + OFFER, asker, None);
                }
                wanted
            }
            // RENEWING or REBINDING: may it go on?
            (None, None, Some(in_use)) => {
                if held.is_none() && self.leases.address_of(asker) == Some(in_use) {
                    self.leases.acquire(now, now + OFFER, asker, None);
                }
                in_use
            }
            _ => return Err(Ignored::Malformed),
        };
        if self.leases.held_by(now, asker) != Some(wanted) {
            return Ok(self.refuse(request, wanted));
        }
        self.grant(now, request, wanted)
    }

    /// An offer that wasn't taken is free again (RFC 2131, 3.1, 4).
    fn taken_elsewhere(&mut self, now: Time, asker: &Asker<ClientId>) -> Result<Outcome, Ignored> {
        if let Some(address) = self.leases.held_by(now, asker) {
            self.leases.release(now, address);
            return Ok(Outcome::event(Event::Freed(address)));
        }
        Err(Ignored::OtherServer)
    }

    fn grant(
        &mut self,
        now: Time,
        request: &Request,
        address: Ipv4Addr,
    ) -> Result<Outcome, Ignored> {
        let lease = self.lease_for(request);
        let until = now + Duration::from_secs(lease.into());
        let name = request.host_name.as_deref().and_then(host_name);
        let name = self.leases.bind(address, until, name);
        let mut reply = self.reply(request, MessageType::Ack);
        reply.client_address(request.client_address);
        reply.your_address(address);
        self.lease_times(&mut reply, lease);
        self.options(&mut reply, request);
        Ok(Outcome {
            reply: Some((destination(request, address), reply.finish())),
            event: Some(Event::Bound {
                address,
                name,
                until,
            }),
        })
    }

    /// RFC 2131, 4.3.2 and table 3: without configuration, to everybody.
    fn refuse(&self, request: &Request, wanted: Ipv4Addr) -> Outcome {
        let mut reply = self.reply(request, MessageType::Nak);
        let reason = if self.config.prefix.contains(wanted) {
            "this address is not leased to you"
        } else {
            "this address is not of this network"
        };
        reply.option(code::MESSAGE, reason.as_bytes());
        Outcome {
            reply: Some((Destination::Broadcast, reply.finish())),
            event: None,
        }
    }

    /// RFC 2131, 4.3.5: all but a lease, for a client that has an address.
    fn inform(&self, request: &Request) -> Result<Outcome, Ignored> {
        let address = request.client_address;
        if !self.config.prefix.is_host(address) {
            return Err(Ignored::OffLink);
        }
        let mut reply = self.reply(request, MessageType::Ack);
        reply.client_address(address);
        self.options(&mut reply, request);
        Ok(Outcome {
            reply: Some((Destination::Client(address), reply.finish())),
            event: None,
        })
    }

    /// The asker's own lease, if it is the one that the message names.
    fn named_lease(
        &self,
        now: Time,
        asker: &Asker<ClientId>,
        request: &Request,
        named: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, Ignored> {
        if request.server != Some(self.config.server) {
            return Err(Ignored::OtherServer);
        }
        let held = self.leases.held_by(now, asker);
        held.filter(|_| held == named).ok_or(Ignored::NotItsLease)
    }

    /// The lease time in seconds: what the client asks for, within bounds.
    fn lease_for(&self, request: &Request) -> u32 {
        request
            .lease_time
            .map_or(self.lease, |asked| asked.clamp(SHORTEST_LEASE, self.lease))
    }

    fn reply(&self, request: &Request, kind: MessageType) -> Reply {
        Reply::new(request, kind, self.config.server)
    }

    /// The lease and when to extend it (RFC 2131, 4.4.5).
    fn lease_times(&self, reply: &mut Reply, seconds: u32) {
        reply.option(code::LEASE_TIME, &seconds.to_be_bytes());
        reply.option(code::RENEWAL, &(seconds / 2).to_be_bytes());
        let rebinding = seconds - seconds / 8;
        reply.option(code::REBINDING, &rebinding.to_be_bytes());
    }

    /// The options that the client asks for, in its order, or all.
    fn options(&self, reply: &mut Reply, request: &Request) {
        const ALL: [u8; 7] = [
            code::SUBNET_MASK,
            code::CLASSLESS_ROUTES,
            code::ROUTER,
            code::DNS,
            code::DOMAIN,
            code::BROADCAST,
            code::MTU,
        ];
        let wanted = request.requested_options.as_deref().unwrap_or(&ALL);
        // RFC 2132, 3.3: the mask goes before the router, asked for or not.
        reply.option(code::SUBNET_MASK, &self.config.prefix.mask().octets());
        for (at, &code) in wanted.iter().enumerate() {
            // Twice asked for is once given.
            if code != code::SUBNET_MASK && !wanted[..at].contains(&code) {
                self.option(reply, code);
            }
        }
    }

    fn option(&self, reply: &mut Reply, code: u8) {
        let config = &self.config;
        match code {
            code::ROUTER => {
                if let Some(router) = config.router {
                    reply.option(code, &router.octets());
                }
            }
            code::DNS if !config.dns.is_empty() => {
                let servers: Vec<u8> = config.dns.iter().flat_map(Ipv4Addr::octets).collect();
                reply.option(code, &servers);
            }
            code::DOMAIN => {
                if let Some(domain) = &config.domain {
                    reply.option(code, domain.as_bytes());
                }
            }
            code::MTU => {
                if let Some(mtu) = config.mtu {
                    reply.option(code, &mtu.to_be_bytes());
                }
            }
            code::BROADCAST if config.prefix.length() < 31 => {
                reply.option(code, &config.prefix.last().octets());
            }
            code::CLASSLESS_ROUTES if !config.routes.is_empty() => {
                reply.option(code, &self.classless_routes());
            }
            _ => {}
        }
    }

    /// RFC 3442: each destination without the bytes behind its prefix. A
    /// client that reads this ignores the router option, so the default route
    /// is told here as well.
    fn classless_routes(&self) -> Vec<u8> {
        let mut value = Vec::new();
        let default = self.config.router.map(|router| {
            let everything = Prefix4::around(router, 0).expect("no prefix is shorter");
            (everything, router)
        });
        for (prefix, gateway) in default.iter().chain(&self.config.routes) {
            let significant = usize::from(prefix.length().div_ceil(8));
            value.push(prefix.length());
            value.extend_from_slice(&prefix.first().octets()[..significant]);
            value.extend_from_slice(&gateway.octets());
        }
        value
    }
}

/// Where a reply with `address` goes (RFC 2131, 4.1).
fn destination(request: &Request, address: Ipv4Addr) -> Destination {
    if !request.client_address.is_unspecified() {
        Destination::Client(request.client_address)
    } else if request.broadcast {
        Destination::Broadcast
    } else {
        Destination::Client(address)
    }
}

/// Checks a configuration; returns the lease time in seconds.
fn check(config: &Config) -> Result<u32, ConfigError> {
    let inside = |what, address| {
        if config.prefix.is_host(address) {
            return Ok(());
        }
        Err(ConfigError::Outside {
            what,
            address,
            prefix: config.prefix,
        })
    };
    inside("server", config.server)?;
    inside("pool's start", *config.pool.start())?;
    inside("pool's end", *config.pool.end())?;
    if config.pool.is_empty() {
        return Err(ConfigError::EmptyPool(
            *config.pool.start(),
            *config.pool.end(),
        ));
    }
    if let Some(router) = config.router {
        inside("router", router)?;
    }
    let mut taken = vec![config.server];
    for &address in config.reservations.values() {
        inside("reservation", address)?;
        if taken.contains(&address) {
            return Err(ConfigError::ReservedTwice(address));
        }
        taken.push(address);
    }
    for &(_, gateway) in &config.routes {
        inside("route's gateway", gateway)?;
    }
    if let Some(domain) = &config.domain
        && !super::is_domain(domain)
    {
        return Err(ConfigError::Domain(domain.clone()));
    }
    u32::try_from(config.lease.as_secs())
        .ok()
        .filter(|lease| (SHORTEST_LEASE..=100 * 365 * 86_400).contains(lease))
        .ok_or(ConfigError::Lease(config.lease))
}

#[cfg(test)]
mod tests;
