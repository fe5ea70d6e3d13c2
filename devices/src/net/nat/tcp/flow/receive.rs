//! From the guest to the socket (RFC 9293, 3.10.7.4).

use super::{Ending, Flags, Flow, Io, State, Verdict};
use crate::net::nat::sockets::SocketError;
use crate::net::nat::tcp::seq::Seq;
use crate::net::payload::Payload;
use crate::net::time::Time;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};

/// The most frames of one flow that are parked: with 64 KiB in each, more than
/// a socket refuses after it promised room, and few against a queue's 256.
const MAX_PARKED: u8 = 16;

/// After how many answers in a row that carried the acknowledgement the next
/// one is waited for. A connection begins with that much trust.
pub(super) const INTERACTIVE: u8 = 3;

impl Flow {
    /// A segment in a synchronized state, by the steps of RFC 9293, 3.10.7.4.
    pub(super) fn segment_when_synchronized(
        &mut self,
        header: &TcpHeader,
        payload: &dyn Payload,
        io: &mut Io<'_>,
    ) -> Verdict {
        let seq = Seq(header.seq);
        let Ok(len) = u32::try_from(payload.len()) else {
            return Verdict::Done;
        };
        let flags = header.flags;
        if flags.contains(TcpFlags::RST) {
            self.on_reset(seq, io);
            return Verdict::Done;
        }
        if flags.contains(TcpFlags::SYN) {
            self.on_syn(seq, flags, io.now);
            return Verdict::Done;
        }
        let fin = flags.contains(TcpFlags::FIN);
        if !self.is_acceptable(seq, len, fin) {
            if len > 0 || fin {
                self.flags |= Flags::ACK_DUE;
            } else {
                self.challenge(io.now);
            }
            return Verdict::Done;
        }
        if !flags.contains(TcpFlags::ACK) {
            return Verdict::Done;
        }
        if self.state == State::SynReceived {
            if !self.acknowledges_syn(Seq(header.ack)) {
                self.reject(header.ack, io);
                return Verdict::Done;
            }
            self.open(header, io);
        }
        self.timers.heard(io.now);
        if !self.on_acknowledgement(header, len == 0, io) {
            return Verdict::Done;
        }
        let verdict = self.on_text(seq, len, fin, payload, io);
        self.finish_if_both_ended(io);
        verdict
    }

    /// Only our last acknowledgement may be asked for again, from which the
    /// time counts anew, and a successor may come (RFC 9293, 3.10.7.4; RFC 6191
    /// without its timestamps).
    pub(super) fn segment_in_time_wait(
        &mut self,
        header: &TcpHeader,
        len: usize,
        io: &mut Io<'_>,
    ) -> Verdict {
        let (seq, flags) = (Seq(header.seq), header.flags);
        if flags.contains(TcpFlags::RST) {
            if seq == self.rcv.next {
                self.abandon(Ending::Closed, io.streams);
            }
        } else if flags.contains(TcpFlags::SYN) {
            if !flags.contains(TcpFlags::ACK) && seq.is_after(self.rcv.next.back(1)) {
                self.abandon(Ending::Closed, io.streams);
                return Verdict::Reopen;
            }
            self.challenge(io.now);
        } else if len > 0 || flags.contains(TcpFlags::FIN) {
            self.timers.heard(io.now);
            self.flags |= Flags::ACK_DUE;
        }
        Verdict::Done
    }

    /// Whether part of a segment lies in the window. A FIN needs no room; an
    /// empty segment may stand right after the window and the FIN, where the
    /// guest is when it has used them up.
    fn is_acceptable(&self, seq: Seq, len: u32, fin: bool) -> bool {
        let (next, edge) = (self.rcv.next, self.rcv.edge);
        if len == 0 && !fin {
            !seq.is_before(next) && !seq.is_after(edge + 1)
        } else {
            let end = seq + len + u32::from(fin);
            let fits = seq.is_before(edge) || (len == 0 && seq == edge);
            end.is_after(next) && fits
        }
    }

    /// Only a RST that stands exactly where the next byte would is believed
    /// (RFC 5961, 3.2); it goes on to the peer.
    fn on_reset(&mut self, seq: Seq, io: &mut Io<'_>) {
        if seq == self.rcv.next {
            self.abandon(Ending::Reset, io.streams);
        } else if self.is_acceptable(seq, 0, false) {
            self.challenge(io.now);
        }
    }

    /// The guest's SYN again: ours was lost, or it has forgotten the
    /// connection and will say so when challenged (RFC 5961, 4.2).
    fn on_syn(&mut self, seq: Seq, flags: TcpFlags, now: Time) {
        let repeated = self.state == State::SynReceived
            && !flags.contains(TcpFlags::ACK)
            && seq + 1 == self.rcv.next;
        if repeated {
            self.flags |= Flags::SYN_DUE;
        } else {
            self.challenge(now);
        }
    }

    /// The data and the end of the guest's stream.
    fn on_text(
        &mut self,
        seq: Seq,
        len: u32,
        fin: bool,
        payload: &dyn Payload,
        io: &mut Io<'_>,
    ) -> Verdict {
        if (len == 0 && !fin) || self.state != State::Open {
            return Verdict::Done;
        }
        if self.flags.contains(Flags::GUEST_FIN) {
            self.flags |= Flags::ACK_DUE;
            return Verdict::Done;
        }
        let text_end = (seq + len).min(self.rcv.edge.max(seq));
        let fin = fin && text_end == seq + len;
        let end = text_end + u32::from(fin);
        if self.rcv.parked > 0 && !end.is_after(self.rcv.parked_end) {
            // A repetition of what is parked.
            return Verdict::Done;
        }
        if seq.is_after(self.rcv.next) {
            return self.park_behind(seq, end);
        }
        match self.send_text(seq, text_end, payload, io) {
            Ok(()) if text_end.is_after(self.rcv.next) => self.park(end),
            Ok(()) => {
                if fin {
                    self.end_of_guest(io);
                } else if text_end != seq + len {
                    self.flags |= Flags::ACK_DUE;
                }
                Verdict::Done
            }
            Err(error) => {
                self.fail(error, io);
                Verdict::Done
            }
        }
    }

    /// A segment after a gap. Where the gap is what is parked, it is parked
    /// too; else it is dropped, and the acknowledgement that says so lets the
    /// guest repair the gap quickly (RFC 5681, 3.2).
    fn park_behind(&mut self, seq: Seq, end: Seq) -> Verdict {
        if self.rcv.parked > 0 && !seq.is_after(self.rcv.parked_end) {
            return self.park(end);
        }
        self.flags |= Flags::ACK_DUE;
        Verdict::Done
    }

    fn park(&mut self, end: Seq) -> Verdict {
        if self.rcv.parked == MAX_PARKED {
            return Verdict::Done;
        }
        self.rcv.parked += 1;
        self.rcv.parked_end = end;
        Verdict::Park
    }

    /// Gives the socket what it doesn't have yet of the text from `seq` to
    /// `end`.
    fn send_text(
        &mut self,
        seq: Seq,
        end: Seq,
        payload: &dyn Payload,
        io: &mut Io<'_>,
    ) -> Result<(), SocketError> {
        let wanted = end.since(self.rcv.next);
        let Some(socket) = self.socket.filter(|_| wanted > 0) else {
            return Ok(());
        };
        let skip = self.rcv.next.since(seq);
        let range = index(skip)..index(skip + wanted);
        let taken = match io.streams.send(socket, payload, range) {
            Ok(taken) => u32::try_from(taken).unwrap_or(wanted).min(wanted),
            Err(SocketError::WouldBlock) => 0,
            Err(error) => return Err(error),
        };
        self.rcv.next += taken;
        self.rcv.unacked = self.rcv.unacked.saturating_add(taken);
        if taken > 0 {
            self.flags |= Flags::GUEST_SPOKE;
            self.acknowledge_soon(taken == wanted, io.now);
        }
        Ok(())
    }

    /// At once, that is at the end of the batch; or, where answers have been
    /// quick, with the next answer (RFC 9293, 3.8.6.3, which wants at least
    /// every second full segment acknowledged), unless the guest has used up
    /// most of its window and may wait itself.
    fn acknowledge_soon(&mut self, all: bool, now: Time) {
        let full = 2 * u32::from(self.link.mss);
        let left = self.rcv.edge.since(self.rcv.next);
        let waits = self.rcv.unacked >= full || self.rcv.unacked > left;
        if all && self.rcv.interactive >= INTERACTIVE && !waits {
            self.timers.delay_acknowledgement(now);
        } else {
            self.flags |= Flags::ACK_DUE;
        }
    }

    /// The acknowledgement may travel with the end of the peer's stream, which
    /// mostly follows.
    fn end_of_guest(&mut self, io: &mut Io<'_>) {
        self.rcv.next += 1;
        self.rcv.edge = self.rcv.edge.max(self.rcv.next);
        self.flags |= Flags::GUEST_FIN;
        if self.flags.contains(Flags::FIN_SENT) {
            self.flags |= Flags::ACK_DUE;
        } else {
            self.timers.delay_acknowledgement(io.now);
        }
        // Where the peer's stream has ended, too, the socket is closed now.
        if let Some(socket) = self.socket
            && !self.flags.contains(Flags::FIN_ACKED)
        {
            io.streams.shutdown(socket);
        }
    }

    /// The window to show, in the header's units. It moves right when the
    /// socket has room for a worthwhile step more (RFC 9293, 3.8.6.2.2).
    pub(super) fn window(&mut self, io: &mut Io<'_>) -> u16 {
        if let Some(offer) = self.worthwhile_offer(io) {
            self.rcv.edge = offer;
        }
        // Rounded up: the edge never moves left (RFC 7323, 2.4).
        let units = self
            .rcv
            .edge
            .since(self.rcv.next)
            .div_ceil(1 << self.rcv.scale);
        let field = u16::try_from(units).unwrap_or(u16::MAX);
        self.rcv.edge = self
            .rcv
            .edge
            .max(self.rcv.next + (u32::from(field) << self.rcv.scale));
        field
    }

    /// The right edge that the socket's room allows, if it's worth showing.
    fn worthwhile_offer(&mut self, io: &mut Io<'_>) -> Option<Seq> {
        let socket = self.socket?;
        if self.flags.contains(Flags::GUEST_FIN) || !self.offer_may_be_worthwhile() {
            return None;
        }
        let room = if self.rcv.parked > 0 {
            0
        } else {
            io.streams.send_room(socket)
        };
        let room = room.min(u32::from(u16::MAX) << self.rcv.scale);
        self.rcv.most_room = self.rcv.most_room.max(room);
        let offer = self.rcv.next + (room >> self.rcv.scale << self.rcv.scale);
        let step = offer.since(self.rcv.edge);
        (step >= self.worthwhile_step()).then_some(offer)
    }

    /// Whether the guest has used up enough of its window that the most room
    /// there ever was would be worth showing: else the socket isn't asked.
    fn offer_may_be_worthwhile(&self) -> bool {
        let shown = self.rcv.edge.since(self.rcv.next);
        shown + self.worthwhile_step() <= self.rcv.most_room || shown < self.worthwhile_step()
    }

    /// A full segment, or half of what the socket can hold.
    fn worthwhile_step(&self) -> u32 {
        u32::from(self.link.mss).min(self.rcv.most_room / 2).max(1)
    }

    /// Shows the guest the room that there may be now.
    pub(super) fn room_may_have_grown(&mut self, io: &mut Io<'_>) {
        if self.state == State::Open
            && self.window_is_closed()
            && self.worthwhile_offer(io).is_some()
        {
            self.flags |= Flags::ACK_DUE;
        }
    }

    /// Keeps an eye on the room as long as the guest can't send for lack of it.
    pub(super) fn watch_room(&mut self, io: &mut Io<'_>) {
        if !self.window_is_closed() {
            self.timers.has_room();
        } else if let Some(socket) = self.socket
            && self.timers.watch_room(io.now)
        {
            io.streams.want_room(socket);
        }
    }

    fn window_is_closed(&self) -> bool {
        !self.flags.contains(Flags::GUEST_FIN)
            && self.rcv.edge.since(self.rcv.next) < self.worthwhile_step()
    }
}

/// A length as an index.
fn index(length: u32) -> usize {
    usize::try_from(length).expect("usize has at least 32 bits")
}
