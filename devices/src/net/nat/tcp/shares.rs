//! What each guest has of the table that is bounded or waited for.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;

use super::flow::State;
use crate::net::nat::flows::{FlowId, Guest};

/// Flows of one kind, in the order in which they became so.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// The flows, among others that aren't of this kind any more.
    ids: VecDeque<FlowId>,
    /// How many are.
    len: u32,
}

impl Line {
    /// A line that is no longer than this isn't worth cleaning.
    const SHORT: usize = 64;

    /// The number of flows.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The length of the list.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.ids.len()
    }

    /// Appends a flow. `belongs` says who is of this kind still: the others
    /// are forgotten before they are as many.
    pub(super) fn push(&mut self, id: FlowId, belongs: impl Fn(FlowId) -> bool) {
        let most = usize::try_from(self.len).unwrap_or(usize::MAX);
        if self.ids.len() >= Self::SHORT && self.ids.len() / 2 >= most {
            self.ids.retain(|id| belongs(*id));
        }
        self.ids.push_back(id);
        self.len += 1;
    }

    /// One of the flows isn't of this kind any more.
    pub(super) fn leave(&mut self) {
        self.len -= 1;
    }

    /// The flow that has been of this kind longest.
    pub(super) fn oldest(&mut self, belongs: impl Fn(FlowId) -> bool) -> Option<FlowId> {
        while let Some(id) = self.ids.front() {
            if belongs(*id) {
                return Some(*id);
            }
            self.ids.pop_front();
        }
        None
    }

    /// Takes all flows, and others.
    pub(super) fn take(&mut self) -> impl Iterator<Item = FlowId> + use<> {
        self.len = 0;
        std::mem::take(&mut self.ids).into_iter()
    }
}

/// In which line a flow's age counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not yet established.
    Embryonic,
    /// Established.
    Open,
    /// In TIME-WAIT.
    Lingering,
}

impl From<State> for Stage {
    fn from(state: State) -> Self {
        match state {
            state if state.is_embryonic() => Self::Embryonic,
            State::TimeWait => Self::Lingering,
            _ => Self::Open,
        }
    }
}

/// What a guest has.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) embryonic: Line,
    pub(super) lingering: Line,
    /// Flows that wait for room at the guest's port.
    pub(super) blocked: Line,
    /// Parked frames.
    pub(super) parked: u32,
}

impl Share {
    /// The line of a stage, if its flows are in one.
    pub(super) fn line(&mut self, stage: Stage) -> Option<&mut Line> {
        match stage {
            Stage::Embryonic => Some(&mut self.embryonic),
            Stage::Lingering => Some(&mut self.lingering),
            Stage::Open => None,
        }
    }

    fn is_empty(&self) -> bool {
        let lines = [&self.embryonic, &self.lingering, &self.blocked];
        self.parked == 0 && lines.iter().all(|line| line.len == 0)
    }
}

/// The guests' shares; there are as many as ports of the switch.
#[derive(Debug)]
pub(super) struct Shares(HashMap<Guest, Share, RandomState>);

impl Shares {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self(HashMap::with_hasher(hasher))
    }

    pub(super) fn of(&mut self, guest: Guest) -> &mut Share {
        self.0.entry(guest).or_default()
    }

    /// Forgets a guest that has gone, unless something of it is left.
    pub(super) fn forget(&mut self, guest: Guest) {
        if self.0.get(&guest).is_some_and(Share::is_empty) {
            self.0.remove(&guest);
        }
    }
}
