//! The DHCPv6 server (RFC 8415; options of RFC 3646 and 4704).
//!
//! It is the only server of its link, and sits on it: what came through a
//! relay is dropped. Leases live in memory only, so a client that extends one
//! that isn't known gets it again if it is free.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::leases::{Asker, Lease, Leases, State};
use super::{PortNumber, encode_name, host_name};
use crate::net::mac::MacAddress;
use crate::net::time::Time;
use config::check;
use message::{Association, AssociationId, MessageType, Purpose, Request, Status, Writer, code};

pub use config::{Config, ConfigError};

mod config;
pub mod message;

/// The port that the server listens on and answers from (RFC 8415, 7.2).
pub const SERVER_PORT: u16 = 547;

/// The port that clients listen on.
pub const CLIENT_PORT: u16 = 546;

/// All servers and relays of the link, to which clients speak (RFC 8415, 7.1).
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 1, 2);

/// How long an advertised address is held for its client.
const OFFER: Duration = Duration::from_secs(60);

/// How long nobody gets an address that a client found in use.
const QUARANTINE: Duration = Duration::from_secs(600);

/// Why a message isn't answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Not a client's message, or one that breaks the format or says what its
    /// kind can't (RFC 8415, 16).
    Malformed,
    /// It came through a relay, and there is none.
    Relayed,
    /// The sender's address isn't of the link, or the receiver's is neither
    /// ours nor [`ALL_SERVERS`].
    WrongAddress,
    /// The client speaks to another server.
    OtherServer,
    /// The client asks whether no addresses fit the link.
    NothingToConfirm,
}

/// What a message changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client has an address until a moment.
    Bound {
        /// The address.
        address: Ipv6Addr,
        /// The client's name, one label in lower case.
        name: Option<String>,
        /// When the lease ends.
        until: Time,
    },
    /// An address has no client any more.
    Freed(Ipv6Addr),
}

/// The answer to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The reply, from the gateway's link-local address and [`SERVER_PORT`] to
    /// the sender and [`CLIENT_PORT`].
    pub reply: Vec<u8>,
    /// What changed.
    pub events: Vec<Event>,
}

/// How a client and its association are known (RFC 8415, 12.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId {
    /// The client's DUID.
    pub duid: Vec<u8>,
    /// The association's number.
    pub association: AssociationId,
}

/// Who sent a message, and what it says.
struct Client<'a> {
    now: Time,
    port: PortNumber,
    mac: MacAddress,
    duid: &'a [u8],
    request: &'a Request,
}

impl Client<'_> {
    fn asker(&self, association: &Association) -> Asker<ClientId> {
        Asker {
            port: self.port,
            mac: self.mac,
            client: ClientId {
                duid: self.duid.to_vec(),
                association: association.id,
            },
        }
    }
}

/// The server.
pub struct Server {
    config: Config,
    leases: Leases<Ipv6Addr, ClientId>,
    duid: Vec<u8>,
    /// The lifetimes in seconds.
    preferred: u32,
    valid: u32,
}

impl Server {
    /// A server without leases.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let (preferred, valid) = check(&config)?;
        // The prefix's first address is that of all its routers (RFC 4291,
        // 2.6.1).
        let excluded = config
            .gateway
            .iter()
            .copied()
            .chain([config.prefix.first()]);
        let leases = Leases::new(
            config.pool.clone(),
            excluded,
            config.reservations.clone(),
            config.limits.sharing(&config.pool),
        );
        // DUID-LL (RFC 8415, 11.4): 3, and Ethernet's hardware type.
        let mut duid = vec![0, 3, 0, 1];
        duid.extend(config.mac.bytes());
        Ok(Self {
            config,
            leases,
            duid,
            preferred,
            valid,
        })
    }

    /// All leases with their addresses, expired ones among them as long as
    /// they are remembered.
    pub fn leases(&self) -> impl Iterator<Item = (Ipv6Addr, &Lease<ClientId>)> {
        self.leases.iter()
    }

    /// Frees the share of `port`, which is gone. Its clients keep their
    /// addresses if they come back behind another port.
    pub fn forget_port(&mut self, port: PortNumber) {
        self.leases.forget_port(port);
    }

    /// Answers a message that came from the station `mac` behind `port`, with
    /// the addresses of its IP header.
    pub fn receive(
        &mut self,
        now: Time,
        (port, mac): (PortNumber, MacAddress),
        source: Ipv6Addr,
        destination: Ipv6Addr,
        message: &[u8],
    ) -> Result<Outcome, Ignored> {
        let request = Request::parse(message).ok_or(Ignored::Malformed)?;
        self.check_kind(&request)?;
        let multicast = destination == ALL_SERVERS;
        // Clients speak from the address that they have before any other
        // (RFC 8415, 17); a unicast may come from any of the link.
        let on_link = source.is_unicast_link_local()
            || !multicast && self.config.prefix.contains(source) && !source.is_multicast();
        if !on_link || destination.is_multicast() && !multicast {
            return Err(Ignored::WrongAddress);
        }
        if !multicast {
            return self.redirect(&request);
        }
        let client = Client {
            now,
            port,
            mac,
            duid: request.client.as_deref().unwrap_or_default(),
            request: &request,
        };
        match request.kind {
            MessageType::Solicit => Ok(self.solicit(&client)),
            MessageType::Request => Ok(self.request(&client)),
            MessageType::Confirm => self.confirm(&request),
            MessageType::Renew | MessageType::Rebind => Ok(self.extend(&client)),
            MessageType::Release | MessageType::Decline => Ok(self.give_back(&client)),
            _ => Ok(self.inform(&request)),
        }
    }

    /// What each kind must and must not say (RFC 8415, 16.2 to 16.12).
    fn check_kind(&self, request: &Request) -> Result<(), Ignored> {
        let ours = request.server.as_ref().map(|server| *server == self.duid);
        match request.kind {
            MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
                if request.client.is_none() || ours.is_some() {
                    return Err(Ignored::Malformed);
                }
            }
            MessageType::Request
            | MessageType::Renew
            | MessageType::Release
            | MessageType::Decline => {
                if request.client.is_none() || ours.is_none() {
                    return Err(Ignored::Malformed);
                }
            }
            MessageType::InformationRequest => {
                if !request.associations.is_empty() {
                    return Err(Ignored::Malformed);
                }
            }
            MessageType::RelayForward | MessageType::RelayReply => return Err(Ignored::Relayed),
            MessageType::Advertise | MessageType::Reply | MessageType::Reconfigure => {
                return Err(Ignored::Malformed);
            }
        }
        if ours == Some(false) {
            return Err(Ignored::OtherServer);
        }
        Ok(())
    }

    /// Nobody was told that the server may be spoken to alone (RFC 8415,
    /// 18.4).
    fn redirect(&self, request: &Request) -> Result<Outcome, Ignored> {
        if request.server.is_none() || request.kind == MessageType::InformationRequest {
            return Err(Ignored::WrongAddress);
        }
        let mut reply = self.reply(request, false);
        reply.status(Status::UseMulticast);
        Ok(Outcome {
            reply: reply.finish(),
            events: Vec::new(),
        })
    }

    /// RFC 8415, 18.3.1 and 18.3.9.
    fn solicit(&mut self, client: &Client) -> Outcome {
        let request = client.request;
        let offers: Vec<_> = request
            .associations
            .iter()
            .map(|association| {
                let until = client.now + OFFER;
                self.acquire(client, until, association)
            })
            .collect();
        // A commitment to nothing isn't worth taking.
        let commit = request.rapid_commit && offers.iter().any(Option::is_some);
        let mut events = Vec::new();
        let mut reply = self.reply(request, !commit);
        if commit {
            reply.option(code::RAPID_COMMIT, &[]);
        } else {
            // No other server needs to be waited for (RFC 8415, 21.8).
            reply.option(code::PREFERENCE, &[u8::MAX]);
        }
        for (association, offer) in request.associations.iter().zip(offers) {
            if commit && let Some(address) = offer {
                events.push(self.bind(client, address));
            }
            self.grant(&mut reply, association, offer, unavailable(association));
        }
        self.options(&mut reply, request);
        Outcome {
            reply: reply.finish(),
            events,
        }
    }

    /// RFC 8415, 18.3.2.
    fn request(&mut self, client: &Client) -> Outcome {
        let mut events = Vec::new();
        let mut reply = self.reply(client.request, false);
        for association in &client.request.associations {
            let mut wanted = association.addresses.iter();
            if !wanted.all(|address| self.config.prefix.contains(*address)) {
                self.grant(&mut reply, association, None, Status::NotOnLink);
                continue;
            }
            let address = self.acquire(client, client.now + OFFER, association);
            events.extend(address.map(|address| self.bind(client, address)));
            self.grant(&mut reply, association, address, unavailable(association));
        }
        self.options(&mut reply, client.request);
        Outcome {
            reply: reply.finish(),
            events,
        }
    }

    /// RFC 8415, 18.3.3.
    fn confirm(&self, request: &Request) -> Result<Outcome, Ignored> {
        let mut addresses = request
            .associations
            .iter()
            .flat_map(|association| &association.addresses)
            .peekable();
        if addresses.peek().is_none() {
            return Err(Ignored::NothingToConfirm);
        }
        let status = if addresses.all(|address| self.config.prefix.contains(*address)) {
            Status::Success
        } else {
            Status::NotOnLink
        };
        let mut reply = self.reply(request, false);
        reply.status(status);
        Ok(Outcome {
            reply: reply.finish(),
            events: Vec::new(),
        })
    }

    /// RFC 8415, 18.3.4 and 18.3.5. What the client has besides its lease
    /// ends.
    fn extend(&mut self, client: &Client) -> Outcome {
        let mut events = Vec::new();
        let mut reply = self.reply(client.request, false);
        for association in &client.request.associations {
            let address = self.acquire(client, client.now + OFFER, association);
            events.extend(address.map(|address| self.bind(client, address)));
            self.grant(&mut reply, association, address, Status::NoBinding);
        }
        self.options(&mut reply, client.request);
        Outcome {
            reply: reply.finish(),
            events,
        }
    }

    /// RFC 8415, 18.3.7 and 18.3.8. Addresses that aren't the client's are
    /// passed over.
    fn give_back(&mut self, client: &Client) -> Outcome {
        let mut events = Vec::new();
        let mut reply = self.reply(client.request, false);
        for association in &client.request.associations {
            let held = match association.purpose {
                Purpose::Addresses => self.leases.held_by(client.now, &client.asker(association)),
                Purpose::Temporary | Purpose::Prefixes => None,
            };
            let Some(address) = held else {
                self.grant(&mut reply, association, None, Status::NoBinding);
                continue;
            };
            if !association.addresses.contains(&address) {
                continue;
            }
            if client.request.kind == MessageType::Decline {
                self.leases.decline(address, client.now + QUARANTINE);
            } else {
                self.leases.release(client.now, address);
            }
            events.push(Event::Freed(address));
        }
        reply.status(Status::Success);
        Outcome {
            reply: reply.finish(),
            events,
        }
    }

    /// RFC 8415, 18.3.6.
    fn inform(&self, request: &Request) -> Outcome {
        let mut reply = self.reply(request, false);
        self.options(&mut reply, request);
        Outcome {
            reply: reply.finish(),
            events: Vec::new(),
        }
    }

    /// The address of `association`, held until `until` if it wasn't leased
    /// yet.
    fn acquire(
        &mut self,
        client: &Client,
        until: Time,
        association: &Association,
    ) -> Option<Ipv6Addr> {
        if association.purpose != Purpose::Addresses {
            return None;
        }
        let asker = client.asker(association);
        let wanted = association.addresses.first().copied();
        // A reserved address goes to one association of its client, not from
        // one to the next.
        let reserved = self.config.reservations.get(&client.mac);
        let in_other_hands = reserved
            .and_then(|address| self.leases.get(*address))
            .is_some_and(|lease| {
                matches!(lease.state, State::Offered | State::Bound)
                    && lease.expires > client.now
                    && lease.client.duid == client.duid
                    && lease.client.association != association.id
            });
        if in_other_hands {
            return self.leases.acquire_any(client.now, until, &asker, wanted);
        }
        self.leases.acquire(client.now, until, &asker, wanted)
    }

    fn bind(&mut self, client: &Client, address: Ipv6Addr) -> Event {
        let until = client.now + Duration::from_secs(self.valid.into());
        let name = client.request.host_name.as_deref().and_then(host_name);
        let name = self.leases.bind(address, until, name);
        Event::Bound {
            address,
            name,
            until,
        }
    }

    /// Writes an association with its address, or with the reason why it has
    /// none. Other addresses that the client has in it end now.
    fn grant(
        &self,
        reply: &mut Writer,
        association: &Association,
        address: Option<Ipv6Addr>,
        otherwise: Status,
    ) {
        let mut options = Writer::default();
        let Some(address) = address else {
            options.status(otherwise);
            reply.association(association, [0, 0], &options);
            return;
        };
        options.address(address, self.preferred, self.valid);
        for &other in &association.addresses {
            if other != address {
                options.address(other, 0, 0);
            }
        }
        // RFC 8415, 14.2 and 21.4: at half and at four fifths.
        let times = [self.preferred / 2, self.preferred - self.preferred / 5];
        reply.association(association, times, &options);
    }

    /// Starts an answer with the names of both ends.
    fn reply(&self, request: &Request, advertise: bool) -> Writer {
        let mut reply = Writer::message(request, advertise);
        if let Some(client) = &request.client {
            reply.option(code::CLIENT, client);
        }
        reply.option(code::SERVER, &self.duid);
        reply
    }

    /// The options that the client asks for, or all.
    fn options(&self, reply: &mut Writer, request: &Request) {
        let wanted = |code: u16| {
            let requested = request.requested_options.as_ref();
            requested.is_none_or(|codes| codes.contains(&code))
        };
        if wanted(code::DNS) && !self.config.dns.is_empty() {
            let servers: Vec<u8> = self.config.dns.iter().flat_map(Ipv6Addr::octets).collect();
            reply.option(code::DNS, &servers);
        }
        if wanted(code::DOMAINS)
            && let Some(domain) = &self.config.domain
        {
            reply.option(code::DOMAINS, &encode_name(domain));
        }
    }
}

/// Why an association of this purpose gets nothing.
fn unavailable(association: &Association) -> Status {
    match association.purpose {
        Purpose::Addresses | Purpose::Temporary => Status::NoAddresses,
        Purpose::Prefixes => Status::NoPrefixes,
    }
}

#[cfg(test)]
mod tests;
