//! What UDP and echoes have in common: endpoint-independent mappings, each
//! with a socket of its own (RFC 4787, REQ-1 and REQ-3; RFC 5508, REQ-1).

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::drops::DropReason;
use super::flows::{Endpoint, FlowError, FlowId, FlowKey, FlowTable, Guest, Limits};
use super::icmp::{About, ErrorMessage};
use super::reach::Reach;
use super::sockets::{Family, SocketError, SocketId, SocketKind, Sockets};
use super::wheel::{TimerId, Wheel};
use crate::net::time::Time;
use crate::net::wire::ip::Protocol;

/// Whom the static mappings' flows are counted to; their mappings are bounded
/// (`MAX_PORTS` of [`super::mappings`]).
const MAPPED: Guest = Guest(u32::MAX - 1);

/// Whom the flows are counted to that senders outside make.
pub(super) const OUTSIDE: Guest = Guest(u32::MAX);

/// A packet that goes on with fewer hops than this is meant to end at some
/// router on its way (traceroute(8)): the host sends it with as many. Any
/// other goes with the host's own default.
const PROBE_HOPS: u8 = 32;

/// What became of a guest's packet; `D` is what is delivered to another guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<D> {
    /// The host has it.
    Sent,
    /// It is for a guest, by an outer address.
    Deliver(D),
    /// The socket's buffer is full: the packet may be given again once it is
    /// writable.
    Blocked(SocketId),
    /// It was dropped and counted, and the guest is to be told.
    Error(ErrorMessage),
    /// It was dropped and counted.
    Dropped(DropReason),
}

/// Why a guest's packet is dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) reason: DropReason,
    /// What the guest is told, if anything.
    error: Option<SocketError>,
}

impl Refusal {
    /// The host wouldn't send it.
    pub(super) fn not_sent(error: SocketError) -> Self {
        Self {
            reason: DropReason::NotSent,
            error: Some(error),
        }
    }

    /// What becomes of the packet.
    pub(super) fn outcome<D>(self, reach: &Reach, about: About) -> Outcome<D> {
        let gateway = reach.gateway(about.source()).zip(self.error);
        let message = gateway.and_then(|(from, error)| ErrorMessage::new(from, error, about));
        message.map_or(Outcome::Dropped(self.reason), Outcome::Error)
    }
}

impl From<DropReason> for Refusal {
    /// A guest is told what it may do something about, and that there is no
    /// flow for it (RFC 5508, REQ-8).
    fn from(reason: DropReason) -> Self {
        let error = match reason {
            DropReason::HopLimit => Some(SocketError::TimeExceeded),
            DropReason::Destination
            | DropReason::TableFull
            | DropReason::GuestFull
            | DropReason::NoSocket => Some(SocketError::Prohibited),
            _ => None,
        };
        Self { reason, error }
    }
}

/// The hop limit of a packet that goes on, `Some(None)` for the host's
/// default; `None` if it goes no further (RFC 1812, 5.3.1).
pub(super) fn hop_limit(came_with: u8) -> Option<Option<u8>> {
    let left = came_with.checked_sub(1).filter(|left| *left > 0)?;
    Some((left < PROBE_HOPS).then_some(left))
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    socket: SocketId,
    /// When a packet last kept the flow alive.
    last: Time,
    /// Goes off when the flow may be idle; none for what doesn't end by itself.
    timer: Option<TimerId>,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// An inner endpoint's own socket, whomever it sends to.
    Binding {
        /// The socket's port.
        port: u16,
    },
    /// The same, by a static mapping: it doesn't end by itself.
    Mapped {
        /// The socket's port.
        port: u16,
    },
    /// What an inner endpoint sends to one outer endpoint, as it sees that.
    Route {
        /// The outer endpoint as the host sees it.
        to: Endpoint,
    },
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// An inner endpoint's binding.
    Flow(FlowId),
    /// A static mapping's to an inner endpoint that has another binding.
    Mapped {
        /// The inner endpoint.
        inner: Endpoint,
        /// The socket's port.
        port: u16,
    },
}

/// Where a socket leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) inner: Endpoint,
    /// The socket's port.
    pub(super) port: u16,
    /// By a static mapping.
    pub(super) mapped: bool,
    /// What the inner endpoint sends leaves through this socket, unless a
    /// route leads elsewhere.
    pub(super) primary: bool,
}

#[derive(Debug)]
pub(super) struct Bindings {
    flows: FlowTable<Flow>,
    wheel: Wheel<FlowId>,
    /// Whose the sockets are, by their ids.
    owners: Vec<Option<Owner>>,
    /// The sockets of UDP by the addresses and ports they are bound to.
    outer: HashMap<Endpoint, SocketId, RandomState>,
    routes: usize,
    idle: Duration,
}

impl Bindings {
    pub(super) fn new(limits: Limits, idle: Duration, hasher: RandomState) -> Self {
        Self {
            flows: FlowTable::new(limits, hasher.clone()),
            wheel: Wheel::new(Time::ZERO),
            owners: Vec::new(),
            outer: HashMap::with_hasher(hasher),
            routes: 0,
            idle,
        }
    }

    /// The socket from which an inner endpoint's packets leave; opens one if it
    /// has none. Only this keeps a binding alive: what comes in
    /// doesn't (RFC 4787, REQ-6).
    pub(super) fn outbound(
        &mut self,
        now: Time,
        guest: Guest,
        kind: SocketKind,
        inner: Endpoint,
        sockets: &mut impl Sockets,
    ) -> Result<SocketId, DropReason> {
        if let Some(socket) = self.touch(now, kind, inner) {
            return Ok(socket);
        }
        let key = key(kind, inner, None);
        self.flows.admit(guest)?;
        let (socket, port) = open(kind, inner.port, sockets).map_err(|_| DropReason::NoSocket)?;
        let what = What::Binding { port };
        let id = match self.insert(now, guest, key, (socket, what)) {
            Ok(id) => id,
            Err(error) => {
                sockets.close(socket);
                return Err(error.into());
            }
        };
        self.own(socket, Owner::Flow(id));
        if let SocketKind::Udp(family) = kind {
            self.outer
                .insert(Endpoint::new(unspecified(family), port), socket);
        }
        Ok(socket)
    }

    /// Keeps a binding alive; returns its socket.
    pub(super) fn touch(
        &mut self,
        now: Time,
        kind: SocketKind,
        inner: Endpoint,
    ) -> Option<SocketId> {
        let id = self.flows.find(&key(kind, inner, None))?;
        let flow = self.flows.get_mut(id)?;
        flow.last = now;
        Some(flow.socket)
    }

    /// Lets an outer endpoint lead to an inner one; returns the socket and its
    /// port. If the inner endpoint has no binding, this becomes it.
    pub(super) fn map(
        &mut self,
        kind: SocketKind,
        outer: Endpoint,
        inner: Endpoint,
        sockets: &mut impl Sockets,
    ) -> Result<(SocketId, u16), SocketError> {
        let (socket, port) = sockets.bind(kind, outer)?;
        let flow = Flow {
            socket,
            last: Time::ZERO,
            timer: None,
            what: What::Mapped { port },
        };
        let inserted = self
            .flows
            .insert_bounded(MAPPED, key(kind, inner, None), flow);
        self.own(
            socket,
            match inserted {
                Ok(id) => Owner::Flow(id),
                Err(_) => Owner::Mapped { inner, port },
            },
        );
        self.outer
            .insert(Endpoint::new(outer.address, port), socket);
        Ok((socket, port))
    }

    /// Ends a static mapping, given its socket, and what came through it;
    /// false if that isn't one.
    pub(super) fn unmap(&mut self, socket: SocketId, sockets: &mut impl Sockets) -> bool {
        if !self.inside(socket).is_some_and(|inside| inside.mapped) {
            return false;
        }
        let its = self.flows.iter().filter(|(.., flow)| flow.socket == socket);
        let ids: Vec<_> = its.map(|(id, ..)| id).collect();
        for id in ids {
            self.remove(id);
        }
        self.outer.retain(|_, at| *at != socket);
        self.close(socket, sockets);
        true
    }

    /// Where a socket leads.
    pub(super) fn inside(&self, socket: SocketId) -> Option<Inside> {
        match *self.owners.get(socket.0 as usize)?.as_ref()? {
            Owner::Mapped { inner, port } => Some(Inside {
                inner,
                port,
                mapped: true,
                primary: false,
            }),
            Owner::Flow(id) => {
                let inner = self.flows.key(id)?.inner;
                let (port, mapped) = match self.flows.get(id)?.what {
                    What::Binding { port } => (port, false),
                    What::Mapped { port } => (port, true),
                    What::Route { .. } => return None,
                };
                Some(Inside {
                    inner,
                    port,
                    mapped,
                    primary: true,
                })
            }
        }
    }

    /// The inner endpoint that a socket leads to.
    pub(super) fn inner(&self, socket: SocketId) -> Option<Endpoint> {
        Some(self.inside(socket)?.inner)
    }

    /// The socket of UDP that is reached at an outer endpoint.
    pub(super) fn at(&self, outer: Endpoint) -> Option<SocketId> {
        let any = Endpoint::new(unspecified(outer.address.into()), outer.port);
        let socket = self.outer.get(&outer).or_else(|| self.outer.get(&any));
        socket.copied()
    }

    /// The socket and the real outer endpoint of what an inner one sends to
    /// `outer`, if there is a route of its own.
    pub(super) fn route(
        &mut self,
        now: Time,
        kind: SocketKind,
        inner: Endpoint,
        outer: Endpoint,
    ) -> Option<(SocketId, Endpoint)> {
        if self.routes == 0 {
            return None;
        }
        let id = self.flows.find(&key(kind, inner, Some(outer)))?;
        let flow = self.flows.get_mut(id)?;
        flow.last = now;
        let socket = flow.socket;
        let What::Route { to } = flow.what else {
            return None;
        };
        // Its socket may have been closed, and its id given to another.
        (self.inner(socket) == Some(inner)).then_some((socket, to))
    }

    /// The socket from which what `inner` sends to `outer` leaves, if it did so
    /// of late.
    pub(super) fn leads_out(
        &self,
        kind: SocketKind,
        inner: Endpoint,
        outer: Endpoint,
    ) -> Option<SocketId> {
        let route = self.flows.find(&key(kind, inner, Some(outer)));
        let id = route.or_else(|| self.flows.find(&key(kind, inner, None)))?;
        Some(self.flows.get(id)?.socket)
    }

    /// Whether there is a route from an inner endpoint to an outer one.
    pub(super) fn has_route(&self, (kind, inner, outer): (SocketKind, Endpoint, Endpoint)) -> bool {
        self.routes > 0 && self.flows.find(&key(kind, inner, Some(outer))).is_some()
    }

    /// Sends what `inner` sends to `outer` through `socket` to `to` from now
    /// on, and as long as it does. The flow is counted to `guest`.
    pub(super) fn set_route(
        &mut self,
        now: Time,
        guest: Guest,
        (kind, inner, outer): (SocketKind, Endpoint, Endpoint),
        (socket, to): (SocketId, Endpoint),
    ) -> Result<(), DropReason> {
        let key = key(kind, inner, Some(outer));
        let what = What::Route { to };
        if let Some(old) = self.flows.find(&key).and_then(|id| self.flows.get_mut(id)) {
            (old.socket, old.last, old.what) = (socket, now, what);
            return Ok(());
        }
        self.insert(now, guest, key, (socket, what))?;
        self.routes += 1;
        Ok(())
    }

    /// Ends the flows whose time is over.
    pub(super) fn expire(&mut self, now: Time, sockets: &mut impl Sockets) {
        while let Some(id) = self.wheel.pop(now) {
            let Some(flow) = self.flows.get(id) else {
                continue;
            };
            let until = flow.last + self.idle;
            if until > now {
                self.arm(id, until);
            } else {
                self.end(id, sockets);
            }
        }
    }

    /// When to call [`Bindings::expire`] next.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// Ends all flows that are counted to a guest.
    pub(super) fn remove_guest(&mut self, guest: Guest, sockets: &mut impl Sockets) {
        let ids: Vec<_> = self.flows.of(guest).collect();
        for id in ids {
            self.end(id, sockets);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Adds a flow that ends when it is idle.
    fn insert(
        &mut self,
        now: Time,
        guest: Guest,
        key: FlowKey,
        (socket, what): (SocketId, What),
    ) -> Result<FlowId, FlowError> {
        let flow = Flow {
            socket,
            last: now,
            timer: None,
            what,
        };
        let id = self.flows.insert(guest, key, flow)?;
        self.arm(id, now + self.idle);
        Ok(id)
    }

    fn arm(&mut self, id: FlowId, at: Time) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.timer = Some(self.wheel.insert(at, id));
        }
    }

    fn remove(&mut self, id: FlowId) -> Option<(FlowKey, Flow)> {
        let (key, flow) = self.flows.remove(id)?;
        if let Some(timer) = flow.timer {
            self.wheel.cancel(timer);
        }
        if let What::Route { .. } = flow.what {
            self.routes -= 1;
        }
        Some((key, flow))
    }

    fn end(&mut self, id: FlowId, sockets: &mut impl Sockets) {
        let Some((key, flow)) = self.remove(id) else {
            return;
        };
        match flow.what {
            What::Route { .. } => {}
            What::Binding { port } | What::Mapped { port } => {
                let family = Family::from(key.inner.address);
                self.outer.remove(&Endpoint::new(unspecified(family), port));
                self.close(flow.socket, sockets);
            }
        }
    }

    fn own(&mut self, socket: SocketId, owner: Owner) {
        let at = socket.0 as usize;
        if self.owners.len() <= at {
            self.owners.resize(at + 1, None);
        }
        self.owners[at] = Some(owner);
    }

    fn close(&mut self, socket: SocketId, sockets: &mut impl Sockets) {
        if let Some(owner) = self.owners.get_mut(socket.0 as usize) {
            *owner = None;
        }
        sockets.close(socket);
    }
}

/// Opens a socket with this port if it is free, else any, but for UDP with one
/// of the same parity if the next to it is free (RFC 4787, REQ-4).
fn open(
    kind: SocketKind,
    want_port: u16,
    sockets: &mut impl Sockets,
) -> Result<(SocketId, u16), SocketError> {
    let (socket, port) = sockets.open(kind, want_port)?;
    let SocketKind::Udp(family) = kind else {
        return Ok((socket, port));
    };
    if (port ^ want_port) & 1 == 0 {
        return Ok((socket, port));
    }
    let neighbour = Endpoint::new(unspecified(family), port ^ 1);
    match sockets.bind(kind, neighbour) {
        Ok(better) => {
            sockets.close(socket);
            Ok(better)
        }
        Err(_) => Ok((socket, port)),
    }
}

fn key(kind: SocketKind, inner: Endpoint, outer: Option<Endpoint>) -> FlowKey {
    let Protocol(protocol) = match kind {
        SocketKind::Udp(_) => Protocol::UDP,
        SocketKind::Echo(Family::V4) => Protocol::ICMP,
        SocketKind::Echo(Family::V6) => Protocol::ICMPV6,
    };
    FlowKey {
        protocol,
        inner,
        outer,
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl From<FlowError> for DropReason {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::GuestFull(_) => Self::GuestFull,
            FlowError::TableFull(_) | FlowError::Exists => Self::TableFull,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::nat::flows::hash_cost;

    /// An idle flow may take 1 KiB in all, and the host's table of sockets has
    /// its part in that.
    #[test]
    fn an_idle_mapping_is_small() {
        let table = FlowTable::<Flow>::COST;
        let timer = Wheel::<FlowId>::COST;
        let owner = 2 * size_of::<Option<Owner>>();
        let outer = hash_cost(size_of::<(Endpoint, SocketId)>());
        let all = table + timer + owner + outer;
        assert!(all <= 400, "{table} + {timer} + {owner} + {outer} = {all}");
    }
}
