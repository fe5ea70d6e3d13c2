//! How much may be on its way to the guest (RFC 5681, NewReno: RFC 6582).
//!
//! The first hop is a ring that loses nothing, but an L1 that bridges its L2
//! has queues of its own, and they overflow.

use super::seq::Seq;

/// The window that a flow starts with and restarts with after idleness, in
/// bytes: one full frame of segmentation offload. That is more than RFC 6928's
/// ten segments at small MTUs: a frame is handed over in one piece, so
/// sending less wouldn't spare any queue.
const INITIAL: u32 = 64 * 1024;

/// Duplicate acknowledgements that mean a loss (RFC 5681, 3.2).
const DUPLICATES: u8 = 3;

/// What an acknowledgement asks of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing but to go on.
    GoOn,
    /// Send the first segment that isn't acknowledged again.
    Retransmit,
}

/// How a loss is being repaired, until the end of what had been sent when it
/// was noticed ("recover" in RFC 6582) is acknowledged.
#[derive(Clone, Copy, Debug)]
enum Repair {
    None,
    /// Noticed by duplicates: hole by hole.
    Fast(Seq),
    /// Noticed by the timer: everything is sent again, in slow start.
    Slow(Seq),
}

/// A flow's congestion window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Congestion {
    /// cwnd in bytes.
    window: u32,
    /// ssthresh in bytes.
    threshold: u32,
    repair: Repair,
    duplicates: u8,
}

impl Congestion {
    pub(super) fn new() -> Self {
        Self {
            window: INITIAL,
            threshold: u32::MAX,
            repair: Repair::None,
            duplicates: 0,
        }
    }

    /// Bytes that may be on their way.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// `acked` bytes arrived, up to `ack`; `in_flight` bytes were on their
    /// way before.
    pub(super) fn acknowledged(
        &mut self,
        ack: Seq,
        acked: u32,
        in_flight: u32,
        mss: u32,
    ) -> Reaction {
        self.duplicates = 0;
        match self.repair {
            Repair::Fast(recover) if ack.is_before(recover) => {
                // A partial acknowledgement: the next hole (RFC 6582, 3.2 (3)).
                let deflated = self.window.saturating_sub(acked).saturating_add(mss);
                self.window = deflated.max(self.threshold);
                Reaction::Retransmit
            }
            Repair::Fast(_) => {
                self.repair = Repair::None;
                self.window = self.window.min(self.threshold.max(mss));
                Reaction::GoOn
            }
            Repair::Slow(recover) => {
                if !ack.is_before(recover) {
                    self.repair = Repair::None;
                }
                self.grow(acked, in_flight, mss);
                Reaction::GoOn
            }
            Repair::None => {
                self.grow(acked, in_flight, mss);
                Reaction::GoOn
            }
        }
    }

    /// Slow start and congestion avoidance, by bytes acknowledged (RFC 5681,
    /// 3.1; RFC 3465), and only while the window is what limits the flow
    /// (RFC 7661, 4.1).
    fn grow(&mut self, acked: u32, in_flight: u32, mss: u32) {
        if in_flight < self.window / 2 {
            return;
        }
        let step = if self.window < self.threshold {
            acked
        } else {
            let share = u64::from(mss) * u64::from(acked) / u64::from(self.window.max(1));
            u32::try_from(share).unwrap_or(mss).max(1)
        };
        self.window = self.window.saturating_add(step);
    }

    /// An acknowledgement came again while `in_flight` bytes up to `sent`
    /// were on their way.
    pub(super) fn duplicate(&mut self, sent: Seq, in_flight: u32, mss: u32) -> Reaction {
        match self.repair {
            // One segment more has left the network (RFC 5681, 3.2 (4)).
            Repair::Fast(_) => {
                self.window = self.window.saturating_add(mss);
                return Reaction::GoOn;
            }
            Repair::Slow(_) => return Reaction::GoOn,
            Repair::None => {}
        }
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates != DUPLICATES {
            return Reaction::GoOn;
        }
        self.threshold = (in_flight / 2).max(2 * mss);
        self.window = self.threshold.saturating_add(u32::from(DUPLICATES) * mss);
        self.repair = Repair::Fast(sent);
        Reaction::Retransmit
    }

    /// The retransmission timer ran out (RFC 5681, 3.1; RFC 6582, 4.1: the
    /// duplicates that follow mustn't be taken for another loss).
    pub(super) fn timed_out(&mut self, sent: Seq, in_flight: u32, mss: u32, again: bool) {
        if !again {
            self.threshold = (in_flight / 2).max(2 * mss);
        }
        self.window = mss;
        self.repair = Repair::Slow(sent);
        self.duplicates = 0;
    }

    /// The flow starts again after it sent nothing for a time-out (RFC 5681,
    /// 4.1).
    pub(super) fn restart(&mut self) {
        self.window = self.window.min(INITIAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1460;

    #[test]
    fn a_full_window_doubles_and_an_idle_one_stays() {
        let mut congestion = Congestion::new();
        congestion.acknowledged(Seq(INITIAL), INITIAL, INITIAL, MSS);
        assert_eq!(congestion.window(), 2 * INITIAL);
        congestion.acknowledged(Seq(INITIAL + 100), 100, 100, MSS);
        assert_eq!(congestion.window(), 2 * INITIAL);
    }

    #[test]
    fn three_duplicates_halve_it_and_partial_acknowledgements_repair() {
        let mut congestion = Congestion::new();
        let sent = Seq(40 * MSS);
        let mut duplicate = || congestion.duplicate(sent, 40 * MSS, MSS);
        assert_eq!(duplicate(), Reaction::GoOn);
        assert_eq!(duplicate(), Reaction::GoOn);
        assert_eq!(duplicate(), Reaction::Retransmit);
        assert_eq!(duplicate(), Reaction::GoOn);
        assert_eq!(congestion.window(), 24 * MSS);
        let partial = congestion.acknowledged(Seq(10 * MSS), 10 * MSS, 40 * MSS, MSS);
        assert_eq!(partial, Reaction::Retransmit);
        let whole = congestion.acknowledged(sent, 30 * MSS, 30 * MSS, MSS);
        assert_eq!(whole, Reaction::GoOn);
        assert_eq!(congestion.window(), 20 * MSS);
        // From here on it grows by about a segment a round trip.
        congestion.acknowledged(sent + 20 * MSS, 20 * MSS, 20 * MSS, MSS);
        assert_eq!(congestion.window(), 21 * MSS);
    }

    #[test]
    fn a_timeout_starts_slowly_and_ignores_late_duplicates() {
        let mut congestion = Congestion::new();
        let sent = Seq(30 * MSS);
        congestion.timed_out(sent, 30 * MSS, MSS, false);
        assert_eq!(congestion.window(), MSS);
        congestion.timed_out(sent, MSS, MSS, true);
        assert_eq!(congestion.threshold, 15 * MSS);
        for _ in 0..10 {
            let reaction = congestion.duplicate(sent, MSS, MSS);
            assert_eq!(reaction, Reaction::GoOn);
        }
    }
}
