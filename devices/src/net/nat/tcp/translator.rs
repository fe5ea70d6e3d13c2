//! All connections.

use std::collections::VecDeque;
use std::hash::RandomState;

use super::entries::{Around, Entry, Queued, Wire, key};
use super::flow::{Flow, Io, State, Verdict};
use super::listeners::Listeners;
use super::outlet::{Leg, Outlet};
use super::ports::Ports;
use super::shares::Shares;
use super::statistics::{Counters, Listed};
use super::streams::{Readiness, Streams};
use crate::net::nat::bindings::OUTSIDE;
use crate::net::nat::drops::{DropReason, Drops};
use crate::net::nat::flows::{self, FlowId, FlowTable, Guest};
use crate::net::nat::reach::Reach;
use crate::net::nat::sockets::SocketId;
use crate::net::nat::wheel::Wheel;
use crate::net::payload::Payload;
use crate::net::time::Time;
use crate::net::wire::tcp::TcpHeader;

/// The payload that one flow sends in one batch before it is another's turn:
/// four full frames.
const FLOW_BUDGET: u32 = 4 * 64 * 1024;
/// The payload that all flows send in one batch before something else has its
/// turn.
const BATCH_BUDGET: u32 = 16 * FLOW_BUDGET;
/// What a flow that sends little counts for: that it was looked at.
const FLOW_COST: u32 = 2048;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all kinds.
    pub flows: flows::Limits,
    /// A guest's connections that aren't established: a new one takes the
    /// oldest one's place, so that a flood of SYNs (RFC 4987) costs none that
    /// is established.
    pub embryonic: u32,
    /// A guest's connections in TIME-WAIT: a new one takes the oldest one's
    /// place.
    pub lingering: u32,
    /// A guest's frames that are parked, which its port lacks meanwhile.
    pub parked: u32,
}

/// What became of a guest's segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It is no longer needed.
    Done,
    /// The socket had no room for all of it. It is to be kept, and given again
    /// after [`Outlet::unpark`] with this flow.
    Park(FlowId),
    /// It was dropped and counted.
    Dropped(DropReason),
}

/// The translation of TCP. See the [module's description](super).
#[derive(Debug)]
pub struct Tcp {
    pub(super) flows: FlowTable<Entry>,
    /// One timer for each flow.
    pub(super) wheel: Wheel<FlowId>,
    /// Whose the sockets are, by their ids.
    pub(super) owners: Vec<Option<FlowId>>,
    pub(super) ports: Ports,
    pub(super) shares: Shares,
    /// The flows that may have something to send.
    pub(super) due: VecDeque<FlowId>,
    pub(super) listeners: Listeners,
    pub(super) limits: Limits,
    pub(super) reach: Reach,
    pub(super) hasher: RandomState,
    pub(super) drops: Drops,
    pub(super) counters: Counters,
}

impl Tcp {
    /// No connections. The keys of `hasher` are the secret of the table's hash
    /// and of the initial sequence numbers.
    pub fn new(limits: Limits, reach: Reach, hasher: RandomState) -> Self {
        Self {
            flows: FlowTable::new(limits.flows, hasher.clone()),
            wheel: Wheel::new(Time::ZERO),
            owners: Vec::new(),
            ports: Ports::new(hasher.clone()),
            shares: Shares::new(hasher.clone()),
            due: VecDeque::new(),
            listeners: Listeners::default(),
            limits,
            reach,
            hasher,
            drops: Drops::default(),
            counters: Counters::default(),
        }
    }

    /// Changes whom guests reach with the connections that they make.
    pub fn set_reach(&mut self, reach: Reach) {
        self.reach = reach;
    }

    /// Takes a segment of a guest. Its checksum is right, or left to be made.
    pub fn from_guest(
        &mut self,
        now: Time,
        leg: &Leg,
        header: &TcpHeader,
        payload: &dyn Payload,
        streams: &mut dyn Streams,
        outlet: &mut dyn Outlet,
    ) -> Outcome {
        let around = &mut Around {
            now,
            streams,
            outlet,
        };
        let Some(id) = self.flows.find(&key(leg)) else {
            return self.without_flow(leg, header, payload.len(), around);
        };
        match self.call(id, around, |flow, io| flow.on_segment(header, payload, io)) {
            Some(Verdict::Park) => self.may_park(id, leg.guest),
            Some(Verdict::Reopen) => self.without_flow(leg, header, payload.len(), around),
            Some(Verdict::Done) | None => Outcome::Done,
        }
    }

    /// Whether one more of a guest's frames may be parked: what else its port
    /// carries mustn't wait for one peer that is slow.
    fn may_park(&mut self, id: FlowId, guest: Guest) -> Outcome {
        let guest = self.flows.guest(id).unwrap_or(guest);
        if self.shares.of(guest).parked <= self.limits.parked {
            Outcome::Park(id)
        } else {
            self.dropped(DropReason::NotSent)
        }
    }

    pub(super) fn dropped(&mut self, reason: DropReason) -> Outcome {
        self.drops.count(reason);
        Outcome::Dropped(reason)
    }

    /// Takes news of a socket, which may be a listener. What there is to send
    /// is sent by [`Tcp::flush`].
    pub fn on_socket(
        &mut self,
        now: Time,
        socket: SocketId,
        readiness: Readiness,
        streams: &mut dyn Streams,
        outlet: &mut dyn Outlet,
    ) {
        let around = &mut Around {
            now,
            streams,
            outlet,
        };
        match self.owner(socket) {
            Some(id) => {
                self.call(id, around, |flow, io| flow.on_socket(readiness, io));
            }
            None => self.on_listener(socket, around),
        }
    }

    fn owner(&self, socket: SocketId) -> Option<FlowId> {
        *self.owners.get(socket.0 as usize)?
    }

    /// Sends what is due: at the end of each batch. Each flow has its turn,
    /// and none sends more than its share in one call; true says that there is
    /// more, so that it is to be called again after a look at everything else.
    #[must_use]
    pub fn flush(&mut self, now: Time, streams: &mut dyn Streams, outlet: &mut dyn Outlet) -> bool {
        let around = &mut Around {
            now,
            streams,
            outlet,
        };
        self.accept_more(around);
        let mut budget = BATCH_BUDGET;
        for _ in 0..self.due.len() {
            if budget == 0 {
                break;
            }
            let Some(id) = self.due.pop_front() else {
                break;
            };
            let sent = self.flush_flow(id, around);
            budget = budget.saturating_sub(FLOW_COST.saturating_add(sent));
        }
        !self.due.is_empty() || self.listeners.have_more()
    }

    /// Flushes one flow; returns how much payload it sent.
    pub(super) fn flush_flow(&mut self, id: FlowId, around: &mut Around<'_>) -> u32 {
        let Some(leg) = self.leg(id) else {
            return 0;
        };
        let Some(entry) = self.flows.get_mut(id) else {
            return 0;
        };
        entry.queued = Queued::No;
        let mut wire = Wire {
            id,
            leg,
            outlet: around.outlet,
            budget: FLOW_BUDGET,
            full: false,
        };
        let all = entry.flow.flush(&mut Io {
            now: around.now,
            streams: around.streams,
            sink: &mut wire,
        });
        let sent = FLOW_BUDGET - wire.budget;
        if !all && wire.full {
            self.block(id, leg.guest);
        } else if !all {
            self.enqueue(id);
        }
        self.settle(id, around);
        sent
    }

    /// Lets a flow wait for room at its guest's port.
    fn block(&mut self, id: FlowId, guest: Guest) {
        if let Some(entry) = self.flows.get_mut(id) {
            entry.queued = Queued::Blocked;
            let flows = &self.flows;
            let is_blocked = |id| {
                flows
                    .get(id)
                    .is_some_and(|entry: &Entry| entry.queued == Queued::Blocked)
            };
            self.shares.of(guest).blocked.push(id, is_blocked);
        }
    }

    /// A guest's port has room again, or a guest can be reached that couldn't:
    /// [`Tcp::flush`] tries its segments again.
    pub fn room(&mut self, guest: Guest) {
        for guest in [guest, OUTSIDE] {
            for id in self.shares.of(guest).blocked.take() {
                if let Some(entry) = self.flows.get_mut(id)
                    && entry.queued == Queued::Blocked
                {
                    entry.queued = Queued::Due;
                    self.due.push_back(id);
                }
            }
        }
    }

    /// Does what time brings about.
    pub fn expire(&mut self, now: Time, streams: &mut dyn Streams, outlet: &mut dyn Outlet) {
        let around = &mut Around {
            now,
            streams,
            outlet,
        };
        while let Some(id) = self.wheel.pop(now) {
            let Some(entry) = self.flows.get_mut(id) else {
                continue;
            };
            entry.timer = None;
            if entry.flow.deadline() <= now {
                self.call(id, around, Flow::on_timer);
            }
            if let Some(entry) = self.flows.get_mut(id) {
                entry.armed = entry.flow.deadline();
                entry.timer = Some(self.wheel.insert(entry.armed, id));
            }
        }
    }

    /// When to call [`Tcp::expire`] next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// Ends all connections of a guest that has gone.
    pub fn remove_guest(
        &mut self,
        now: Time,
        guest: Guest,
        streams: &mut dyn Streams,
        outlet: &mut dyn Outlet,
    ) {
        let ids: Vec<_> = self.flows.of(guest).collect();
        let around = &mut Around {
            now,
            streams,
            outlet,
        };
        for id in ids {
            self.give_up(id, around);
        }
        self.shares.forget(guest);
    }

    /// The number of connections.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was dropped.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// How many connections there were.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many connections are in a state: all of them are looked through.
    pub fn count_in(&self, state: State) -> usize {
        let states = self.flows.iter().map(|(.., entry)| entry.flow.state());
        states.filter(|at| *at == state).count()
    }

    /// All connections, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = Listed> {
        self.flows.iter().filter_map(|(id, key, entry)| {
            let leaves = entry.outward && entry.socket.is_some();
            let port = leaves.then(|| self.ports.of(key.inner)).flatten();
            Some(Listed {
                leg: self.leg(id)?,
                port,
                state: entry.flow.state(),
            })
        })
    }
}

#[cfg(test)]
impl Tcp {
    /// The memory that the table keeps of each connection beside its key.
    pub(super) const ENTRY_SIZE: usize = size_of::<Entry>();

    /// The length of the list of a guest's flows that wait for room.
    pub(super) fn waiting_for_room(&mut self, guest: Guest) -> usize {
        self.shares.of(guest).blocked.memory()
    }
}
