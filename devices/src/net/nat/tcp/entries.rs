//! What the table keeps of each connection, from its first segment to its
//! last.

use super::flow::{Flow, Io, Sink};
use super::outlet::{Leg, Outlet};
use super::shares::Stage;
use super::streams::{Source, Streams};
use super::translator::Tcp;
use crate::net::nat::drops::DropReason;
use crate::net::nat::flows::{FlowId, FlowKey, Guest};
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::wheel::TimerId;
use crate::net::time::Time;
use crate::net::wire::ip::Protocol;
use crate::net::wire::tcp::TcpHeader;

/// In which queue a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
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
    /// Its timer, which goes off no later than the flow's deadline: it is put
    /// off only when it goes off, so that most segments don't touch it.
    pub(super) timer: Option<TimerId>,
    /// When the timer goes off.
    pub(super) armed: Time,
    /// What the flow's socket was when last looked at.
    pub(super) socket: Option<SocketId>,
    /// It leaves from its inner endpoint's outer port.
    pub(super) outward: bool,
    pub(super) stage: Stage,
    pub(super) queued: Queued,
    pub(super) parked: u8,
}

/// What the translator's methods work with.
pub(super) struct Around<'a> {
    pub(super) now: Time,
    pub(super) streams: &'a mut dyn Streams,
    pub(super) outlet: &'a mut dyn Outlet,
}

/// Sends one flow's segments.
pub(super) struct Wire<'a> {
    pub(super) id: FlowId,
    pub(super) leg: Leg,
    pub(super) outlet: &'a mut dyn Outlet,
    /// How much payload it may send.
    pub(super) budget: u32,
    /// There was no room for a segment.
    pub(super) full: bool,
}

impl Sink for Wire<'_> {
    fn segment(
        &mut self,
        header: &TcpHeader,
        payload: Option<Source>,
        streams: &mut dyn Streams,
    ) -> bool {
        let len = payload.map_or(0, |source| source.len);
        if len > 0 && !self.takes_data() {
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

    fn takes_data(&self) -> bool {
        self.budget > 0
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

/// What a connection is found by.
pub(super) fn key(leg: &Leg) -> FlowKey {
    let Protocol(protocol) = Protocol::TCP;
    FlowKey {
        protocol,
        inner: leg.inner,
        outer: Some(leg.outer),
    }
}

impl Tcp {
    pub(super) fn leg(&self, id: FlowId) -> Option<Leg> {
        let key = self.flows.key(id)?;
        Some(Leg {
            guest: self.flows.guest(id)?,
            inner: key.inner,
            outer: key.outer?,
        })
    }

    /// Calls a flow, and has it flushed at the end of the batch.
    pub(super) fn call<R>(
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
    pub(super) fn enqueue(&mut self, id: FlowId) {
        if let Some(entry) = self.flows.get_mut(id)
            && entry.queued == Queued::No
        {
            entry.queued = Queued::Due;
            self.due.push_back(id);
        }
    }

    /// Brings the tables in line with what a flow has become.
    pub(super) fn settle(&mut self, id: FlowId, around: &mut Around<'_>) {
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

    /// Adds a flow. It is yet to be flushed.
    pub(super) fn add(
        &mut self,
        leg: &Leg,
        flow: Flow,
        socket: SocketId,
        outward: bool,
    ) -> Result<FlowId, DropReason> {
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
        Ok(id)
    }
}
