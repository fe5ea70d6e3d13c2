//! How outside reaches guests: static mappings (RFC 5382, 4.3).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::entries::{Around, key};
use super::flow::{Flow, State};
use super::outlet::Leg;
use super::streams::Streams;
use super::translator::Tcp;
use crate::net::nat::bindings::OUTSIDE;
use crate::net::nat::drops::DropReason;
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::{SocketError, SocketId};

/// The connections that one listener gives in one batch.
const MOST_ACCEPTED: usize = 64;

/// The sockets of static mappings.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// The inner endpoints that they lead to.
    inner: BTreeMap<SocketId, Endpoint>,
    /// Those that may have more connections.
    more: BTreeSet<SocketId>,
}

impl Listeners {
    pub(super) fn have_more(&self) -> bool {
        !self.more.is_empty()
    }
}

impl Tcp {
    /// Lets connections to an outer address and port, 0 for any, reach an
    /// inner endpoint, until [`Tcp::unmap`]. Returns the listening socket and
    /// its port.
    pub fn map(
        &mut self,
        outer: Endpoint,
        inner: Endpoint,
        streams: &mut dyn Streams,
    ) -> Result<(SocketId, u16), SocketError> {
        let (socket, port) = streams.listen(SocketAddr::from(outer))?;
        self.listeners.inner.insert(socket, inner);
        Ok((socket, port))
    }

    /// Ends a static mapping by its socket; false if it isn't one's. The
    /// connections that came by it go on.
    pub fn unmap(&mut self, socket: SocketId, streams: &mut dyn Streams) -> bool {
        let removed = self.listeners.inner.remove(&socket).is_some();
        if removed {
            self.listeners.more.remove(&socket);
            streams.close(socket);
        }
        removed
    }

    /// A listener has connections, if the socket is one.
    pub(super) fn on_listener(&mut self, listener: SocketId, around: &mut Around<'_>) {
        let Some(inner) = self.listeners.inner.get(&listener).copied() else {
            return;
        };
        for _ in 0..MOST_ACCEPTED {
            // What it can't give now it tells again when it can.
            let Ok((socket, peer)) = around.streams.accept(listener) else {
                return;
            };
            if let Err(reason) = self.accept(inner, socket, peer.into(), around) {
                self.drops.count(reason);
            }
        }
        self.listeners.more.insert(listener);
    }

    /// Goes on where the last batch left off.
    pub(super) fn accept_more(&mut self, around: &mut Around<'_>) {
        for listener in std::mem::take(&mut self.listeners.more) {
            self.on_listener(listener, around);
        }
    }

    /// Begins the connection of an accepted socket to the guest.
    fn accept(
        &mut self,
        inner: Endpoint,
        socket: SocketId,
        peer: Endpoint,
        around: &mut Around<'_>,
    ) -> Result<(), DropReason> {
        let added = self.try_accept(inner, socket, peer, around);
        if added.is_err() {
            around.streams.abort(socket);
        }
        added
    }

    fn try_accept(
        &mut self,
        inner: Endpoint,
        socket: SocketId,
        peer: Endpoint,
        around: &mut Around<'_>,
    ) -> Result<(), DropReason> {
        let shown = self.reach.inward(peer.address);
        let shown = shown.filter(|shown| shown.is_ipv4() == inner.address.is_ipv4());
        let outer = Endpoint::new(shown.ok_or(DropReason::Sender)?, peer.port);
        let guest = around.outlet.guest_of(inner.address).unwrap_or(OUTSIDE);
        let leg = Leg {
            guest,
            inner,
            outer,
        };
        if let Some(old) = self.flows.find(&key(&leg))
            && let Some(entry) = self.flows.get(old)
            && entry.flow.state() == State::TimeWait
        {
            self.give_up(old, around);
        }
        self.admit(guest, around)?;
        let link = around.outlet.link(guest, inner.address.into());
        let iss = self.initial_sequence(around.now, &leg);
        let flow = Flow::from_host(socket, link, iss, around.now);
        let id = self.add(&leg, flow, socket, false)?;
        self.enqueue(id);
        self.counters.accepted += 1;
        Ok(())
    }
}
