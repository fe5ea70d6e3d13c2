//! Guests' questions about names: what the forwarder asks for is done.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::counters::Reason;
use super::gateway::{Inner, read};
use super::{Engine, World};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::{Family, SendOptions, SocketId, SocketKind, Sockets};
use crate::net::services::dns::{self, Action, Client, Dns, Exchange, Timeout, Upstream};
use crate::net::wire::build::Body;
use crate::net::wire::ip::{IpHeader, Protocol};

/// The forwarder and the sockets of its exchanges.
pub(super) struct Forwarder {
    pub(super) dns: Dns,
    /// Which exchange a socket belongs to.
    owners: HashMap<SocketId, Exchange>,
    /// An exchange's sockets, one for each family at most.
    sockets: HashMap<Exchange, Vec<(Family, SocketId)>>,
}

impl Forwarder {
    pub(super) fn new(dns: Dns) -> Self {
        Self {
            dns,
            owners: HashMap::new(),
            sockets: HashMap::new(),
        }
    }

    /// Whether the forwarder opened the socket.
    pub(super) fn owns(&self, socket: SocketId) -> bool {
        !self.owners.is_empty() && self.owners.contains_key(&socket)
    }

    /// The socket of an exchange for a family; each exchange has its own, so
    /// that its port is hard to guess (RFC 5452, 9.2).
    fn socket(
        &mut self,
        exchange: Exchange,
        family: Family,
        host: &mut impl Sockets,
    ) -> Option<SocketId> {
        let sockets = self.sockets.entry(exchange).or_default();
        if let Some((_, socket)) = sockets.iter().find(|(of, _)| *of == family) {
            return Some(*socket);
        }
        let (socket, _) = host.open(SocketKind::Udp(family), 0).ok()?;
        sockets.push((family, socket));
        self.owners.insert(socket, exchange);
        Some(socket)
    }

    fn close(&mut self, exchange: Exchange, host: &mut impl Sockets) {
        for (_, socket) in self.sockets.remove(&exchange).unwrap_or_default() {
            self.owners.remove(&socket);
            host.close(socket);
        }
    }
}

/// A question for a resolver, apart from the forwarder that asks it.
struct Question {
    exchange: Exchange,
    server: SocketAddr,
    message: Vec<u8>,
}

impl From<Upstream<'_>> for Question {
    fn from(upstream: Upstream<'_>) -> Self {
        Self {
            exchange: upstream.exchange,
            server: upstream.server,
            message: upstream.message.to_vec(),
        }
    }
}

impl Engine {
    /// Sets the host's resolvers.
    pub fn set_resolvers(&mut self, servers: &[SocketAddr]) {
        self.names.dns.set_servers(servers);
        self.follow_resolver();
    }

    /// Has connections to the gateway's DNS lead to the resolver that is asked
    /// first by datagrams, too.
    fn follow_resolver(&mut self) {
        let resolver = self.names.dns.preferred().map(Endpoint::from);
        if self.config.reach.resolver != resolver {
            self.config.reach.resolver = resolver;
            self.tcp.set_reach(self.config.reach.clone());
        }
    }

    /// Takes a guest's query.
    pub(super) fn query<S: Sockets>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
        source: Endpoint,
        asked: IpAddr,
    ) -> Result<(), Reason> {
        let client = Client {
            port: inner.guest().0,
            mac: inner.sender.mac,
            source: source.into(),
            asked,
        };
        let message = read(&inner.payload());
        let action = self.names.dns.query(world.now, client, &message);
        match action.map_err(|_| Reason::Dns)? {
            Action::Reply(reply) => self.reply(world, &client, &reply),
            Action::Send(upstream) => {
                let question = upstream.into();
                self.ask(world, &question);
            }
            Action::Wait => {}
        }
        Ok(())
    }

    /// Asks a resolver. One that can't be is as one that says nothing: the
    /// next one's turn comes at once.
    fn ask<S: Sockets>(&mut self, world: &mut World<'_, S>, question: &Question) {
        let Question {
            exchange,
            server,
            message,
        } = question;
        let family = Family::from(server.ip());
        let socket = self.names.socket(*exchange, family, world.host);
        let sent = socket.is_some_and(|socket| {
            let options = SendOptions::default();
            let to = Endpoint::from(*server);
            world.host.send_to(socket, to, message, options).is_ok()
        });
        if !sent {
            self.names.dns.failed(world.now, *exchange, *server);
        }
    }

    /// Takes what came to a socket of the forwarder.
    pub(super) fn answered<S: Sockets>(
        &mut self,
        world: &mut World<'_, S>,
        socket: SocketId,
        from: Endpoint,
        message: &[u8],
    ) {
        let Some(&exchange) = self.names.owners.get(&socket) else {
            return;
        };
        if let Some((client, reply)) = self.names.dns.answer(exchange, from.into(), message) {
            self.names.close(exchange, world.host);
            self.reply(world, &client, &reply);
        }
    }

    /// Learns that a resolver can't be asked.
    pub(super) fn unanswered<S>(
        &mut self,
        world: &mut World<'_, S>,
        socket: SocketId,
        server: Endpoint,
    ) {
        if let Some(&exchange) = self.names.owners.get(&socket) {
            self.names.dns.failed(world.now, exchange, server.into());
        }
    }

    /// Asks again, and gives up.
    pub(super) fn expire_queries<S: Sockets>(&mut self, world: &mut World<'_, S>) {
        while let Some(timeout) = self.names.dns.timeout(world.now) {
            match timeout {
                Timeout::Send(upstream) => {
                    let question = upstream.into();
                    self.ask(world, &question);
                }
                Timeout::GiveUp(exchange, client, reply) => {
                    self.names.close(exchange, world.host);
                    self.reply(world, &client, &reply);
                }
            }
        }
        self.follow_resolver();
    }

    /// Forgets the queries of the guests behind a port.
    pub(super) fn forget_queries<S: Sockets>(&mut self, world: &mut World<'_, S>, port: u32) {
        for exchange in self.names.dns.forget_port(port) {
            self.names.close(exchange, world.host);
        }
    }

    fn reply<S>(&mut self, world: &mut World<'_, S>, client: &Client, reply: &[u8]) {
        let Some(ip) = IpHeader::new(client.asked, client.source.ip(), Protocol::UDP) else {
            return;
        };
        let ports = (dns::PORT, client.source.port());
        let body = Body::Offloaded {
            len: reply.len(),
            segment: None,
        };
        let to = client.mac.into();
        self.lan
            .send_to_station(world.now, world.ports, to, &reply, |ether, headers| {
                headers.udp(ether, &ip, ports, body)
            });
    }
}
