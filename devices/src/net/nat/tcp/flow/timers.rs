//! What time brings about.

use std::time::Duration;

use super::{Ending, Flags, Flow, Io, State};
use crate::net::time::Time;

/// How long an acknowledgement waits for data to travel with (RFC 9293,
/// 3.8.6.3 allows half a second).
const ACK_DELAY: Duration = Duration::from_millis(1);

/// How soon a socket without room is asked again, if it doesn't say itself
/// that it has some, as it does only when that is a good deal; doubled each
/// time.
const FIRST_ROOM_POLL: Duration = Duration::from_millis(2);
const LAST_ROOM_POLL: Duration = Duration::from_millis(512);

/// How long a connection that isn't established may take (RFC 5382, REQ-5).
const TRANSITORY: Duration = Duration::from_secs(4 * 60);
/// How long an established connection may be silent before the guest is asked
/// whether it is still there (RFC 5382, REQ-5 and 5).
const ESTABLISHED: Duration = Duration::from_secs((2 * 60 + 4) * 60);
/// How often it is asked, and at which interval: four minutes in all.
const KEEPALIVES: u8 = 4;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// Twice the lifetime of segments (RFC 9293, 3.4.1), at Linux's 60 s: the
/// guest's segments cross no internet.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Retransmissions without an answer before the guest is given up: as many as
/// Linux makes (tcp_retries2), in eight minutes or more; RFC 9293, 3.8.3 asks
/// for at least 100 s.
const MAX_RETRANSMISSIONS: u8 = 15;

/// A flow's deadlines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    /// Retransmission, or a probe of a closed window.
    retransmit: Time,
    /// A delayed acknowledgement.
    acknowledge: Time,
    /// Another look at the socket's room.
    room: Time,
    /// When a challenge may be sent again.
    challenge: Time,
    /// When the guest was last heard, or the state begun.
    heard: Time,
    /// When it was last sent data.
    sent: Time,
    /// The delay of the next look is FIRST_ROOM_POLL doubled this often.
    room_polls: u8,
    /// Keep-alive probes due since the guest was heard.
    keepalives: u8,
    /// When the last of them became due.
    probed: Time,
}

impl Timers {
    pub(super) fn new(now: Time) -> Self {
        Self {
            retransmit: Time::NEVER,
            acknowledge: Time::NEVER,
            room: Time::NEVER,
            challenge: Time::ZERO,
            heard: now,
            sent: now,
            room_polls: 0,
            keepalives: 0,
            probed: now,
        }
    }

    /// Stops all but the state's own.
    pub(super) fn stop(&mut self, now: Time) {
        *self = Self {
            challenge: self.challenge,
            ..Self::new(now)
        };
    }

    pub(super) fn heard(&mut self, now: Time) {
        self.heard = now;
        self.keepalives = 0;
    }

    pub(super) fn sent(&mut self, now: Time) {
        self.sent = now;
    }

    /// How long the guest was sent no data.
    pub(super) fn idle(&self, now: Time) -> Duration {
        now.since(self.sent)
    }

    pub(super) fn may_challenge(&mut self, now: Time, interval: Duration) -> bool {
        let may = now >= self.challenge;
        if may {
            self.challenge = now + interval;
        }
        may
    }

    pub(super) fn arm_retransmission(&mut self, now: Time, after: Duration) {
        self.retransmit = now + after;
    }

    pub(super) fn arm_retransmission_once(&mut self, now: Time, after: Duration) {
        if self.retransmit == Time::NEVER {
            self.retransmit = now + after;
        }
    }

    pub(super) fn disarm_retransmission(&mut self) {
        self.retransmit = Time::NEVER;
    }

    pub(super) fn delay_acknowledgement(&mut self, now: Time) {
        self.acknowledge = self.acknowledge.min(now + ACK_DELAY);
    }

    pub(super) fn acknowledged(&mut self) {
        self.acknowledge = Time::NEVER;
    }

    /// Sets the next look at the room; true for the first one.
    pub(super) fn watch_room(&mut self, now: Time) -> bool {
        let unset = self.room == Time::NEVER;
        if unset {
            let delay = FIRST_ROOM_POLL * (1 << self.room_polls.min(16));
            self.room = now + delay.min(LAST_ROOM_POLL);
        }
        unset && self.room_polls == 0
    }

    pub(super) fn has_room(&mut self) {
        self.room = Time::NEVER;
        self.room_polls = 0;
    }
}

fn take(deadline: &mut Time, now: Time) -> bool {
    let due = *deadline <= now;
    if due {
        *deadline = Time::NEVER;
    }
    due
}

impl Flow {
    /// When [`Flow::on_timer`] is to be called next, if nothing else happens.
    pub fn deadline(&self) -> Time {
        let timers = &self.timers;
        timers
            .retransmit
            .min(timers.acknowledge)
            .min(timers.room)
            .min(self.expiry())
    }

    /// When the state ends by itself.
    fn expiry(&self) -> Time {
        let timers = &self.timers;
        match self.state {
            State::Connecting | State::SynSent | State::SynReceived => timers.heard + TRANSITORY,
            State::Open if timers.keepalives > 0 => timers.probed + KEEPALIVE_INTERVAL,
            State::Open => timers.heard + ESTABLISHED,
            State::TimeWait => timers.heard + TIME_WAIT,
            State::Closed => timers.heard,
        }
    }

    /// Does what has become due. Calling it early does no harm.
    pub fn on_timer(&mut self, io: &mut Io<'_>) {
        let now = io.now;
        if self.expiry() <= now {
            self.expire(io);
        }
        if take(&mut self.timers.acknowledge, now) {
            // No answer came to carry it: don't wait for one again soon.
            self.rcv.interactive = 0;
            self.flags |= Flags::ACK_DUE;
        }
        if take(&mut self.timers.room, now) {
            self.timers.room_polls = self.timers.room_polls.saturating_add(1);
            self.room_may_have_grown(io);
        }
        if take(&mut self.timers.retransmit, now) {
            self.retransmission_timed_out(io);
        }
    }

    fn expire(&mut self, io: &mut Io<'_>) {
        match self.state {
            State::Open if self.timers.keepalives < KEEPALIVES => {
                self.timers.keepalives += 1;
                self.timers.probed = io.now;
                self.flags |= Flags::KEEPALIVE_DUE;
            }
            State::Open => self.abort(Ending::TimedOut, io),
            State::TimeWait => self.abandon(Ending::Closed, io.streams),
            _ => self.abandon(Ending::TimedOut, io.streams),
        }
    }

    fn retransmission_timed_out(&mut self, io: &mut Io<'_>) {
        match self.state {
            State::SynSent | State::SynReceived => {
                self.snd.timeout.ran_out();
                self.flags |= Flags::SYN_DUE;
            }
            State::Open => {
                if self.snd.timeout.backoff() == MAX_RETRANSMISSIONS {
                    self.abort(Ending::TimedOut, io);
                    return;
                }
                self.snd.timeout.ran_out();
                self.rewind();
                self.flags |= Flags::RESEND_DUE;
            }
            State::Connecting | State::TimeWait | State::Closed => {}
        }
    }
}
