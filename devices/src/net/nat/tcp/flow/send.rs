//! From the socket to the guest.

use super::{Flags, Flow, Io, State};
use crate::net::nat::sockets::SocketError;
use crate::net::nat::tcp::congestion::Reaction;
use crate::net::nat::tcp::seq::Seq;
use crate::net::nat::tcp::streams::Source;
use crate::net::nat::tcp::streams::Waiting;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};

/// The back-off of probes as long as the guest answers them: it is alive, and
/// its window may stay closed as long as it likes (RFC 9293, 3.8.6.1).
const PROBE_BACKOFF: u8 = 9;

impl Flow {
    /// Takes in the acknowledgement and the window of `header`; `empty` says
    /// that it carries no data. False says that the segment is to be dropped.
    pub(super) fn on_acknowledgement(
        &mut self,
        header: &TcpHeader,
        empty: bool,
        io: &mut Io<'_>,
    ) -> bool {
        let ack = Seq(header.ack);
        // RFC 5961, 5.2: neither the future nor the distant past.
        let oldest = self.snd.una.back(self.snd.max_window);
        if ack.is_after(self.snd.max) || ack.is_before(oldest) {
            self.challenge(io.now);
            return false;
        }
        let window = u32::from(header.window) << self.snd.scale;
        if ack.is_after(self.snd.una) {
            self.advance(ack, io);
        } else if ack == self.snd.una && self.is_duplicate(header, empty, window) {
            let in_flight = self.snd.max.since(self.snd.una);
            let mss = self.snd.mss.into();
            let max = self.snd.max;
            let reaction = self.snd.congestion.duplicate(max, in_flight, mss);
            self.react(reaction);
        }
        let seq = Seq(header.seq);
        let is_newer = self.snd.window_seq.is_before(seq)
            || (self.snd.window_seq == seq && !self.snd.window_ack.is_after(ack));
        if is_newer {
            self.snd.window_seq = seq;
            self.snd.window_ack = ack;
            self.set_window(window, io);
        }
        true
    }

    /// RFC 5681, 2: what makes an acknowledgement a duplicate.
    fn is_duplicate(&self, header: &TcpHeader, empty: bool, window: u32) -> bool {
        empty
            && !header.flags.contains(TcpFlags::FIN)
            && self.snd.una != self.snd.max
            && window == self.snd.window
            && window > 0
            && !self.flags.contains(Flags::PROBING)
    }

    /// Everything before `ack` has arrived, and the socket may forget it.
    fn advance(&mut self, ack: Seq, io: &mut Io<'_>) {
        let in_flight = self.snd.max.since(self.snd.una);
        let acked = ack.since(self.snd.una);
        let mut data = acked;
        if self.flags.contains(Flags::FIN_SENT) && ack == self.snd.max {
            self.flags |= Flags::FIN_ACKED;
            data -= 1;
        }
        self.snd.una = ack;
        self.snd.next = self.snd.next.max(ack);
        self.flags.remove(Flags::PROBING);
        if let Some(socket) = self.socket.filter(|_| data > 0) {
            io.streams.discard(socket, data);
        }
        let mss = self.snd.mss.into();
        let reaction = self.snd.congestion.acknowledged(ack, acked, in_flight, mss);
        self.react(reaction);
        self.snd.timeout.acknowledged(ack, io.now);
        // RFC 6298, 5.2 and 5.3.
        if self.snd.una == self.snd.max {
            self.timers.disarm_retransmission();
        } else {
            self.rearm(io);
        }
    }

    fn react(&mut self, reaction: Reaction) {
        if reaction == Reaction::Retransmit {
            self.flags |= Flags::RESEND_DUE;
        }
    }

    fn set_window(&mut self, window: u32, io: &mut Io<'_>) {
        let opens = self.snd.window == 0 && window > 0;
        self.snd.window = window;
        self.snd.max_window = self.snd.max_window.max(window);
        if window == 0 {
            self.snd.timeout.limit_backoff(PROBE_BACKOFF);
        } else if opens {
            self.snd.timeout.limit_backoff(0);
            if self.flags.contains(Flags::PROBING) {
                // The probe was refused: what it carried is due now.
                self.flags.remove(Flags::PROBING);
                self.snd.next = self.snd.una;
            }
            if self.snd.una != self.snd.max {
                self.rearm(io);
            }
        }
    }

    /// Goes back to the first byte that isn't acknowledged: the timer ran out.
    pub(super) fn rewind(&mut self) {
        let in_flight = self.snd.max.since(self.snd.una);
        if in_flight > 0 && self.snd.window > 0 {
            let again = self.snd.timeout.backoff() > 1;
            self.snd
                .congestion
                .timed_out(self.snd.max, in_flight, self.snd.mss.into(), again);
        }
        self.snd.next = self.snd.una;
    }

    /// Sends what is due of both streams.
    pub(super) fn flush_streams(&mut self, io: &mut Io<'_>) -> bool {
        if self.flags.contains(Flags::RESEND_DUE) {
            if !self.send_first_again(io) {
                return false;
            }
            self.flags.remove(Flags::RESEND_DUE);
        }
        if !self.send_new(io) {
            return false;
        }
        if self.flags.contains(Flags::KEEPALIVE_DUE) {
            // Before what the guest has: it answers (RFC 9293, 3.8.4).
            let before = self.snd.una.back(1);
            if !self.transmit(before, TcpFlags::empty(), None, io) {
                return false;
            }
            self.flags.remove(Flags::KEEPALIVE_DUE);
        }
        self.flush_acknowledgement(io)
    }

    /// Sends the acknowledgement if no data has carried it.
    pub(super) fn flush_acknowledgement(&mut self, io: &mut Io<'_>) -> bool {
        if !self.flags.contains(Flags::ACK_DUE) {
            return true;
        }
        // Where the guest looks for the next byte, but not beyond its window
        // (RFC 9293, 3.4): there it would take it for a segment out of place.
        let seq = self.snd.max.min(self.snd.una + self.snd.window);
        self.transmit(seq, TcpFlags::empty(), None, io)
    }

    /// Sends as much as the guest's window, the network and the socket allow.
    fn send_new(&mut self, io: &mut Io<'_>) -> bool {
        let mss = u32::from(self.snd.mss);
        if self.timers.idle(io.now) > self.snd.timeout.duration() {
            self.snd.congestion.restart();
        }
        while self.state == State::Open && self.may_have_more() {
            let offset = self.snd.next.since(self.snd.una);
            let window = self.snd.window.min(self.snd.congestion.window());
            let usable = window.saturating_sub(offset);
            // No silly segments (RFC 9293, 3.8.6.2.1).
            let least = mss.min(self.snd.max_window / 2).max(1);
            if usable < least && self.snd.una != self.snd.max {
                // What is on its way will be acknowledged: time to look then.
                return true;
            }
            if !io.sink.takes_data() {
                return false;
            }
            // One more than may be sent tells whether something is held back.
            let most = if usable <= mss {
                usable + 1
            } else {
                usable.min(self.link.burst.max(mss)) / mss * mss
            };
            let Some(waiting) = self.peek(offset, most, io) else {
                return true;
            };
            let held = waiting.len > usable;
            let len = waiting.len.min(usable);
            if held && len < least {
                self.probe_later(io);
                return true;
            }
            let end = waiting.end && !held;
            let drained = !held && len < most;
            let nothing = len == 0 && !end;
            if !nothing && !self.send_data(self.snd.next, len, drained, end, io) {
                return false;
            }
            if drained && !end {
                self.flags.remove(Flags::UNREAD);
                return true;
            }
        }
        true
    }

    /// Whether it is worth a system call to look for something to send: data
    /// that came since the socket was last found empty, or that was sent and
    /// is due again.
    fn may_have_more(&self) -> bool {
        let sent_before = self.snd.next != self.snd.max;
        let unread = self.flags.contains(Flags::UNREAD) && !self.flags.contains(Flags::FIN_SENT);
        sent_before || unread
    }

    /// Sends the first segment that isn't acknowledged, in spite of the
    /// network; of a closed window one byte, which is its probe (RFC 9293,
    /// 3.8.6.1).
    fn send_first_again(&mut self, io: &mut Io<'_>) -> bool {
        let most = self.snd.window.clamp(1, self.snd.mss.into());
        let Some(waiting) = self.peek(0, most, io) else {
            return true;
        };
        if waiting.len == 0 && !waiting.end {
            // The window was closed, and what it kept back is gone.
            self.snd.timeout.limit_backoff(0);
            return true;
        }
        if self.snd.window == 0 && waiting.len > 0 {
            self.flags |= Flags::PROBING;
        }
        self.send_data(self.snd.una, waiting.len, true, waiting.end, io)
    }

    /// What waits at `offset` from the first byte; none if the flow failed.
    fn peek(&mut self, offset: u32, most: u32, io: &mut Io<'_>) -> Option<Waiting> {
        let socket = self.socket?;
        match io.streams.peek(socket, offset, most) {
            Ok(waiting) => Some(Waiting {
                len: waiting.len.min(most),
                ..waiting
            }),
            Err(SocketError::WouldBlock) => Some(Waiting::default()),
            Err(error) => {
                self.fail(error, io);
                None
            }
        }
    }

    /// Sends `len` bytes at `seq`, and the end of the stream if they lead
    /// there.
    fn send_data(&mut self, seq: Seq, len: u32, push: bool, fin: bool, io: &mut Io<'_>) -> bool {
        let Some(socket) = self.socket else {
            return true;
        };
        let mut flags = TcpFlags::empty();
        flags.set(TcpFlags::PSH, push && len > 0);
        flags.set(TcpFlags::FIN, fin);
        let source = (len > 0).then_some(Source {
            socket,
            offset: seq.since(self.snd.una),
            len,
            mss: self.snd.mss,
        });
        if !self.transmit(seq, flags, source, io) {
            return false;
        }
        if self.flags.contains(Flags::GUEST_SPOKE) {
            self.flags.remove(Flags::GUEST_SPOKE);
            self.rcv.interactive = self.rcv.interactive.saturating_add(1);
        }
        self.sent(seq, len + u32::from(fin), fin, io);
        true
    }

    /// Notes that `count` sequence numbers from `seq` on were sent.
    fn sent(&mut self, seq: Seq, count: u32, fin: bool, io: &mut Io<'_>) {
        let was_idle = self.snd.una == self.snd.max;
        let end = seq + count;
        if seq == self.snd.max {
            self.snd.timeout.sent(end, io.now);
        } else {
            self.snd.timeout.sent_again();
        }
        self.snd.next = self.snd.next.max(end);
        self.snd.max = self.snd.max.max(end);
        self.timers.sent(io.now);
        if fin && !self.flags.contains(Flags::FIN_SENT) {
            self.flags |= Flags::FIN_SENT;
            let first = !self.flags.contains(Flags::GUEST_FIN);
            self.flags.set(Flags::ACTIVE_CLOSE, first);
        }
        // RFC 6298, 5.1.
        if was_idle {
            self.rearm(io);
        } else {
            let after = self.snd.timeout.duration();
            self.timers.arm_retransmission_once(io.now, after);
        }
    }

    fn rearm(&mut self, io: &mut Io<'_>) {
        self.timers
            .arm_retransmission(io.now, self.snd.timeout.duration());
    }

    /// The window keeps data back. If nothing is on its way whose
    /// acknowledgement would open it, it is probed.
    fn probe_later(&mut self, io: &mut Io<'_>) {
        if self.snd.una == self.snd.max {
            let after = self.snd.timeout.duration();
            self.timers.arm_retransmission_once(io.now, after);
        }
    }

    /// Hands one segment to the port, with our acknowledgement and window.
    fn transmit(
        &mut self,
        seq: Seq,
        flags: TcpFlags,
        source: Option<Source>,
        io: &mut Io<'_>,
    ) -> bool {
        let window = self.window(io);
        let header = TcpHeader {
            seq: seq.0,
            ack: self.rcv.next.0,
            flags: flags | TcpFlags::ACK,
            window,
            ..TcpHeader::default()
        };
        let sent = io.sink.segment(&header, source, io.streams);
        if sent {
            self.flags.remove(Flags::ACK_DUE);
            self.timers.acknowledged();
            self.rcv.unacked = 0;
        }
        sent
    }
}
