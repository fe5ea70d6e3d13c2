//! All connections.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use super::flow::{Flow, Io, Sink, State, Verdict};
use super::listeners::Listeners;
use super::outlet::{Leg, Outlet};
use super::ports::Ports;
use super::shares::{Shares, Stage};
use super::statistics::{Counters, Listed};
use super::streams::{Readiness, Source, Streams};
use crate::net::nat::bindings::OUTSIDE;
use crate::net::nat::drops::{DropReason, Drops};
use crate::net::nat::flows::{self, FlowId, FlowKey, FlowTable, Guest};
use crate::net::nat::reach::Reach;
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::wheel::{TimerId, Wheel};
use crate::net::payload::Payload;
use crate::net::time::Time;
use crate::net::wire::ip::Protocol;
use crate::net::wire::tcp::TcpHeader;

/// The payload that one flow sends in one batch before it is another's turn:
/// four full frames.
const FLOW_BUDGET: u32 = 4 * 64 * 1024;
/// The payload that all flows send in one batch before something else has its
/// turn.
const BATCH_BUDGET: u32 = 16 * FLOW_BUDGET;
/// What a flow that sends little counts for: that it was looked at.
const FLOW_COST: u32 = 2048;

/// The time between two looks at a flow's timers, at least: a tick of the
/// wheel.
const TICK: u64 = 1 << 20;

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

/// In which queue a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    No,
    /// To be flushed.
    Due,
    /// To be flushed when its guest's port has room.
    Blocked,
}

/// A connection and what the table keeps of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) flow: Flow,
    /// Its timer, which goes off no later than the flow's deadline.
    timer: Option<TimerId>,
    armed: Time,
    /// What the flow's socket was when last looked at.
    socket: Option<SocketId>,
    /// It leaves from its inner endpoint's outer port.
    outward: bool,
    stage: Stage,
    queued: Queued,
    parked: u8,
}

/// What the translator's methods work with.
pub(super) struct Around<'a> {
    pub(super) now: Time,
    pub(super) streams: &'a mut dyn Streams,
    pub(super) outlet: &'a mut dyn Outlet,
}

/// Sends one flow's segments.
struct Wire<'a> {
    id: FlowId,
    leg: Leg,
    outlet: &'a mut dyn Outlet,
    /// How much payload it may send.
    budget: u32,
    /// There was no room for a segment.
    full: bool,
}

impl Sink for Wire<'_> {
    fn segment(
        &mut self,
        header: &TcpHeader,
        payload: Option<Source>,
        streams: &mut dyn Streams,
    ) -> bool {
        let len = payload.map_or(0, |source| source.len);
        if len > 0 && self.budget == 0 {
            return false;
        }
        let header = with_ports(header, &self.leg);
        let sent = self.outlet.segment(&self.leg, &header, payload, streams);
        self.full |= !sent;
        if sent {
            self.budget = self.budget.saturating_sub(len);
        }
        sent
    }

    fn unreachable(&mut self, error: SocketError, seq: u32) {
        self.outlet.unreachable(&self.leg, error, seq);
    }

    fn unpark(&mut self) {
        self.outlet.unpark(self.id);
    }
}

/// The header of a segment to the guest.
pub(super) fn with_ports(header: &TcpHeader, leg: &Leg) -> TcpHeader {
    TcpHeader {
        source: leg.outer.port,
        destination: leg.inner.port,
        ..*header
    }
}

/// The translation of TCP. See the [module's description](super).
#[derive(Debug)]
pub struct Tcp {
    pub(super) flows: FlowTable<Entry>,
    /// One timer for each flow.
    wheel: Wheel<FlowId>,
    /// Whose the sockets are, by their ids.
    owners: Vec<Option<FlowId>>,
    pub(super) ports: Ports,
    pub(super) shares: Shares,
    /// The flows that may have something to send.
    due: VecDeque<FlowId>,
    pub(super) listeners: Listeners,
    pub(super) limits: Limits,
    pub(super) reach: Reach,
    hasher: RandomState,
    pub(super) drops: Drops,
    pub(super) counters: Counters,
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
    fn flush_flow(&mut self, id: FlowId, around: &mut Around<'_>) -> u32 {
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
            // It is set again whatever the flow says, to be there for it.
            let due = entry.flow.deadline() <= now;
            entry.armed = if due {
                Time(now.0.saturating_add(TICK))
            } else {
                entry.flow.deadline()
            };
            entry.timer = Some(self.wheel.insert(entry.armed, id));
            if due {
                self.call(id, around, Flow::on_timer);
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

    fn leg(&self, id: FlowId) -> Option<Leg> {
        let key = self.flows.key(id)?;
        Some(Leg {
            guest: self.flows.guest(id)?,
            inner: key.inner,
            outer: key.outer?,
        })
    }

    /// Calls a flow, and has it flushed at the end of the batch.
    fn call<R>(
        &mut self,
        id: FlowId,
        around: &mut Around<'_>,
        what: impl FnOnce(&mut Flow, &mut Io<'_>) -> R,
    ) -> Option<R> {
        let leg = self.leg(id)?;
        let mut wire = Wire {
            id,
            leg,
            outlet: around.outlet,
            budget: u32::MAX,
            full: false,
        };
        let entry = self.flows.get_mut(id)?;
        let mut io = Io {
            now: around.now,
            streams: around.streams,
            sink: &mut wire,
        };
        let result = what(&mut entry.flow, &mut io);
        self.enqueue(id);
        self.settle(id, around);
        Some(result)
    }

    /// Puts a flow among those that are to be flushed, unless it waits
    /// already.
    fn enqueue(&mut self, id: FlowId) {
        if let Some(entry) = self.flows.get_mut(id)
            && entry.queued == Queued::No
        {
            entry.queued = Queued::Due;
            self.due.push_back(id);
        }
    }

    /// Brings the tables in line with what a flow has become.
    fn settle(&mut self, id: FlowId, around: &mut Around<'_>) {
        let Some(leg) = self.leg(id) else {
            return;
        };
        let guest = leg.guest;
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        if entry.flow.socket().is_none()
            && let Some(socket) = entry.socket.take()
        {
            self.owners[socket.0 as usize] = None;
            // The outer port is the host's again, also during TIME-WAIT.
            if entry.outward {
                self.ports.release(leg.inner);
            }
            self.listeners.descriptor_is_free();
        }
        if entry.flow.is_closed() {
            self.end(id, guest, around);
            return;
        }
        let deadline = entry.flow.deadline();
        if let Some(timer) = entry.timer.filter(|_| deadline < entry.armed) {
            self.wheel.reset(timer, deadline);
            entry.armed = deadline;
        }
        let parked = std::mem::replace(&mut entry.parked, entry.flow.parked());
        if parked != entry.parked {
            let count = &mut self.shares.of(guest).parked;
            *count = *count - u32::from(parked) + u32::from(entry.parked);
        }
        let stage = Stage::from(entry.flow.state());
        if stage != entry.stage {
            self.enter(id, guest, stage, around);
        }
    }

    /// Moves a flow to another stage of its life.
    fn enter(&mut self, id: FlowId, guest: Guest, stage: Stage, around: &mut Around<'_>) {
        let Some(entry) = self.flows.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut entry.stage, stage);
        if let Some(line) = self.shares.of(guest).line(before) {
            line.leave();
        }
        self.join(id, guest, stage);
        if stage == Stage::Lingering
            && self.shares.of(guest).lingering.len() > self.limits.lingering
            && let Some(oldest) = self.oldest(guest, stage)
        {
            self.give_up(oldest, around);
        }
    }

    fn join(&mut self, id: FlowId, guest: Guest, stage: Stage) {
        let flows = &self.flows;
        let belongs = |id| flows.get(id).is_some_and(|entry| entry.stage == stage);
        if let Some(line) = self.shares.of(guest).line(stage) {
            line.push(id, belongs);
        }
    }

    /// The guest's flow that has been in a stage longest.
    fn oldest(&mut self, guest: Guest, stage: Stage) -> Option<FlowId> {
        let flows = &self.flows;
        let belongs = |id| flows.get(id).is_some_and(|entry| entry.stage == stage);
        self.shares.of(guest).line(stage)?.oldest(belongs)
    }

    /// Ends a flow from here.
    pub(super) fn give_up(&mut self, id: FlowId, around: &mut Around<'_>) {
        if let Some(entry) = self.flows.get_mut(id) {
            entry.flow.give_up(around.streams);
            self.settle(id, around);
        }
    }

    /// Forgets a flow that is over.
    fn end(&mut self, id: FlowId, guest: Guest, around: &mut Around<'_>) {
        let Some((_, entry)) = self.flows.remove(id) else {
            return;
        };
        if let Some(timer) = entry.timer {
            self.wheel.cancel(timer);
        }
        let share = self.shares.of(guest);
        if let Some(line) = share.line(entry.stage) {
            line.leave();
        }
        if entry.queued == Queued::Blocked {
            share.blocked.leave();
        }
        share.parked -= u32::from(entry.parked);
        if entry.parked > 0 || entry.flow.parked() > 0 {
            around.outlet.unpark(id);
        }
        if let Some(ending) = entry.flow.ending() {
            self.counters.ended(ending);
        }
    }

    /// Makes room for one more flow of a guest.
    pub(super) fn admit(
        &mut self,
        guest: Guest,
        around: &mut Around<'_>,
    ) -> Result<(), DropReason> {
        if self.shares.of(guest).embryonic.len() >= self.limits.embryonic
            && let Some(oldest) = self.oldest(guest, Stage::Embryonic)
        {
            self.give_up(oldest, around);
        }
        // TIME-WAIT is a courtesy, which others mustn't suffer from.
        if self.flows.admit(guest).is_err()
            && let Some(oldest) = self.oldest(guest, Stage::Lingering)
        {
            self.give_up(oldest, around);
        }
        Ok(self.flows.admit(guest)?)
    }

    /// Adds a flow and has it flushed.
    pub(super) fn add(
        &mut self,
        leg: &Leg,
        flow: Flow,
        socket: SocketId,
        outward: bool,
    ) -> Result<(), DropReason> {
        let stage = Stage::from(flow.state());
        let armed = flow.deadline();
        let entry = Entry {
            flow,
            timer: None,
            armed,
            socket: Some(socket),
            outward,
            stage,
            queued: Queued::No,
            parked: 0,
        };
        let id = self.flows.insert(leg.guest, key(leg), entry)?;
        let timer = self.wheel.insert(armed, id);
        if let Some(entry) = self.flows.get_mut(id) {
            entry.timer = Some(timer);
        }
        let at = socket.0 as usize;
        if self.owners.len() <= at {
            self.owners.resize(at + 1, None);
        }
        self.owners[at] = Some(id);
        self.join(id, leg.guest, stage);
        self.enqueue(id);
        Ok(())
    }

    /// An initial sequence number (RFC 6528, 3): a clock of 4 microseconds,
    /// and an offset for each connection that only we know.
    pub(super) fn initial_sequence(&self, now: Time, leg: &Leg) -> u32 {
        // Not the table's own hash, of which guests are to learn nothing.
        let offset = self.hasher.hash_one(("ISN", key(leg)));
        let sum = offset.wrapping_add(now.0 / 4_000);
        u32::try_from(sum & u64::from(u32::MAX)).expect("32 bits")
    }
}

/// What a connection is found by.
pub(super) fn key(leg: &Leg) -> FlowKey {
    let Protocol(protocol) = Protocol::TCP;
    FlowKey {
        protocol,
        inner: leg.inner,
        outer: Some(leg.outer),
    }
}
