//! What the translator tells of itself.

use super::flow::{Ending, State};
use super::outlet::Leg;

/// How many connections there were, and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that guests began.
    pub opened: u64,
    /// Connections that came by static mappings.
    pub accepted: u64,
    /// Those that ended in order.
    pub closed: u64,
    /// Those that were refused, or whose other end couldn't be reached.
    pub refused: u64,
    /// Those that were reset.
    pub reset: u64,
    /// Those whose one end didn't answer any more.
    pub timed_out: u64,
    /// Those that were given up: to make room, or since their guest has gone.
    pub dropped: u64,
}

impl Counters {
    /// All counters with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("opened", self.opened),
            ("accepted", self.accepted),
            ("closed", self.closed),
            ("refused", self.refused),
            ("reset", self.reset),
            ("timed_out", self.timed_out),
            ("dropped", self.dropped),
        ]
        .into_iter()
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        let counter = match ending {
            Ending::Closed => &mut self.closed,
            Ending::Refused => &mut self.refused,
            Ending::Reset => &mut self.reset,
            Ending::TimedOut => &mut self.timed_out,
            Ending::Dropped => &mut self.dropped,
        };
        *counter += 1;
    }
}

/// A connection in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its ends.
    pub leg: Leg,
    /// The host's port that it leaves from; none if it came by a static
    /// mapping, or its socket is closed.
    pub port: Option<u16>,
    /// Where it stands.
    pub state: State,
}
