//! The retransmission time-out (RFC 6298).

use std::time::Duration;

use crate::net::time::Time;

use super::seq::Seq;

/// The time-out before any measurement (RFC 6298, 2.1).
const INITIAL: Duration = Duration::from_secs(1);
/// The time-out that data starts with after a SYN was lost (RFC 6298, 5.7).
const AFTER_LOST_SYN: Duration = Duration::from_secs(3);
/// Below RFC 6298's second (2.4, a SHOULD), at what Linux and the BSDs use:
/// the guest is at the other end of a ring, not of a continent, and delays
/// its acknowledgements by less.
const MINIMUM: Duration = Duration::from_millis(200);
/// RFC 6298, 2.5: at least 60 s.
const MAXIMUM: Duration = Duration::from_secs(60);
/// The finest step of the clock, G in RFC 6298.
const GRANULARITY: u32 = 1_000;

/// An estimate of one flow's round-trip time, and the time-out it leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeout {
    /// SRTT in microseconds, once measured.
    smoothed: Option<u32>,
    /// RTTVAR in microseconds.
    variation: u32,
    /// RTO without back-off, in microseconds.
    base: u32,
    /// How often the time-out was doubled since it last was heard of.
    backoff: u8,
    /// The measurement under way: what acknowledges it, when it was sent.
    timing: Option<(Seq, Time)>,
}

impl Default for Timeout {
    fn default() -> Self {
        Self {
            smoothed: None,
            variation: 0,
            base: microseconds(INITIAL),
            backoff: 0,
            timing: None,
        }
    }
}

impl Timeout {
    /// The time-out now, doubled as often as it has run out.
    pub(super) fn duration(&self) -> Duration {
        let doubled = u64::from(self.base) << self.backoff.min(16);
        Duration::from_micros(doubled).min(MAXIMUM)
    }

    /// How often it ran out since something new was acknowledged.
    pub(super) fn backoff(&self) -> u8 {
        self.backoff
    }

    /// Notes that a segment ending at `end` was sent, unless another is
    /// being timed.
    pub(super) fn sent(&mut self, end: Seq, now: Time) {
        self.timing.get_or_insert((end, now));
    }

    /// Notes that something was sent again: its acknowledgement says nothing
    /// about time (Karn's algorithm; RFC 6298, 3).
    pub(super) fn sent_again(&mut self) {
        self.timing = None;
    }

    /// Notes that everything before `ack` has arrived, part of it newly.
    pub(super) fn acknowledged(&mut self, ack: Seq, now: Time) {
        self.backoff = 0;
        if let Some((end, start)) = self.timing
            && !end.is_after(ack)
        {
            self.timing = None;
            self.measured(now.since(start));
        }
    }

    /// Doubles the time-out (RFC 6298, 5.5).
    pub(super) fn ran_out(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
        self.timing = None;
    }

    /// Takes back doublings beyond `most`: the guest is alive, if not moving.
    pub(super) fn limit_backoff(&mut self, most: u8) {
        self.backoff = self.backoff.min(most);
    }

    /// Starts data after a handshake in which a SYN was sent more than once.
    pub(super) fn syn_was_lost(&mut self) {
        self.backoff = 0;
        if self.smoothed.is_none() {
            self.base = microseconds(AFTER_LOST_SYN);
        }
    }

    /// RFC 6298, 2.2 and 2.3.
    fn measured(&mut self, sample: Duration) {
        let sample = microseconds(sample.min(MAXIMUM));
        let smoothed = match self.smoothed {
            None => {
                self.variation = sample / 2;
                sample
            }
            Some(smoothed) => {
                let error = smoothed.abs_diff(sample);
                self.variation = self.variation - self.variation / 4 + error / 4;
                smoothed - smoothed / 8 + sample / 8
            }
        };
        self.smoothed = Some(smoothed);
        let spread = (4 * self.variation).max(GRANULARITY);
        self.base = (smoothed + spread).clamp(microseconds(MINIMUM), microseconds(MAXIMUM));
    }
}

fn microseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).expect("at most a minute")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(timeout: &mut Timeout, milliseconds: u64) -> Duration {
        timeout.sent(Seq(1), Time::ZERO);
        timeout.acknowledged(Seq(1), Time::ZERO + Duration::from_millis(milliseconds));
        timeout.duration()
    }

    #[test]
    fn measurements_lead_to_the_timeout_of_the_rfc() {
        let mut timeout = Timeout::default();
        assert_eq!(timeout.duration(), INITIAL);
        // SRTT 400, RTTVAR 200.
        assert_eq!(after(&mut timeout, 400), Duration::from_millis(1200));
        // RTTVAR 200 * 3/4 + 80/4 = 170; SRTT 400 * 7/8 + 480/8 = 410.
        assert_eq!(after(&mut timeout, 480), Duration::from_millis(1090));
        for _ in 0..100 {
            after(&mut timeout, 0);
        }
        assert_eq!(timeout.duration(), MINIMUM);
    }

    #[test]
    fn the_timeout_doubles_up_to_its_limit() {
        let mut timeout = Timeout::default();
        let mut seen = Vec::new();
        for _ in 0..8 {
            seen.push(timeout.duration().as_secs());
            timeout.ran_out();
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(timeout.backoff(), 8);
        timeout.acknowledged(Seq(1), Time::ZERO);
        assert_eq!(timeout.duration(), INITIAL);
    }

    #[test]
    fn what_was_sent_again_is_not_measured() {
        let mut timeout = Timeout::default();
        timeout.sent(Seq(10), Time::ZERO);
        timeout.sent_again();
        timeout.acknowledged(Seq(10), Time::ZERO + Duration::from_secs(9));
        assert_eq!(timeout.duration(), INITIAL);
        timeout.syn_was_lost();
        assert_eq!(timeout.duration(), AFTER_LOST_SYN);
    }

    #[test]
    fn only_the_timed_end_counts() {
        let mut timeout = Timeout::default();
        timeout.sent(Seq(10), Time::ZERO);
        timeout.sent(Seq(20), Time::ZERO + Duration::from_secs(1));
        timeout.acknowledged(Seq(5), Time::ZERO + Duration::from_millis(100));
        assert_eq!(timeout.duration(), INITIAL);
        timeout.acknowledged(Seq(20), Time::ZERO + Duration::from_millis(500));
        assert_eq!(timeout.duration(), Duration::from_millis(1500));
    }
}
