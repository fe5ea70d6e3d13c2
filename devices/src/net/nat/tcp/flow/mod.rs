//! One connection: the guest's TCP on one side, a socket on the other.
//!
//! A flow is an endpoint of TCP (RFC 9293) toward the guest that keeps no
//! data. What the guest sends goes into the socket before it is
//! acknowledged, and the window it is shown is the socket's room. What the
//! peer sends stays in the socket until the guest has acknowledged it, so
//! sending again is looking into the socket again. The two streams end
//! independently, as TCP's do.
//!
//! A flow never waits and reads no clock. Its methods note what is due;
//! [`Flow::flush`], once a batch, sends it: so acknowledgements coalesce, and
//! a port that is full for a while loses nothing.
//!
//! Selective acknowledgements and timestamps aren't offered: the path is a
//! few rings long, and twelve bytes a segment buy nothing on it.

pub(super) mod handshake;
mod receive;
mod send;
mod timers;

use std::time::Duration;

use bitflags::bitflags;

use super::congestion::Congestion;
use super::rtt::Timeout;
use super::seq::Seq;
use super::streams::{Readiness, Source, Streams};
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::payload::Payload;
use crate::net::time::Time;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};

/// Our shift of windows toward the guest (RFC 7323, 2): windows of up to
/// 8 MiB, twice Linux's largest send buffer by default, in steps of 128 bytes.
const WINDOW_SCALE: u8 = 7;

/// The least time between two answers to segments that are out of place and
/// empty (RFC 5961, 7: they are limited, so that no two stacks keep each other
/// busy with them).
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(5);

/// What the guest's link takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The largest segment's payload in both directions, in bytes: the MTU
    /// less the IP and TCP headers.
    pub mss: u16,
    /// The most payload in one frame, more than `mss` where the port takes
    /// frames that it, or its guest, segments.
    pub burst: u32,
}

/// Where a flow's frames and messages go.
pub trait Sink {
    /// Sends a segment to the guest. Its ports are the caller's to fill in,
    /// and the payload is to be had from `streams`. False says that the port
    /// is full, or others have their turn: [`Flow::flush`] is to be called
    /// again.
    fn segment(
        &mut self,
        header: &TcpHeader,
        payload: Option<Source>,
        streams: &mut dyn Streams,
    ) -> bool;

    /// Whether [`Sink::segment`] may take one with a payload: asked before the
    /// socket is looked into, which costs a system call.
    fn takes_data(&self) -> bool;

    /// Tells the guest by ICMP why the SYN with sequence number `seq` leads
    /// nowhere (RFC 5382, REQ-9; RFC 792, RFC 4443).
    fn unreachable(&mut self, error: SocketError, seq: u32);

    /// Asks for all parked segments again, in their order.
    fn unpark(&mut self);
}

/// What a flow's methods work with.
pub struct Io<'a> {
    /// The time now.
    pub now: Time,
    /// The host's sockets.
    pub streams: &'a mut dyn Streams,
    /// Where the flow's frames go.
    pub sink: &'a mut dyn Sink,
}

/// What becomes of a segment's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It is no longer needed.
    Done,
    /// The socket had no room for all of it: present it again after
    /// [`Sink::unpark`]. To drop it instead is safe, but costs the guest a
    /// retransmission.
    Park,
    /// The flow is over, and this is the SYN of its successor.
    Reopen,
}

/// Where a connection stands, in the words of RFC 9293, 3.3.2, seen from our
/// end. Those between ESTABLISHED and TIME-WAIT are one here: each stream's
/// end is noted for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest's SYN is here; the socket isn't connected yet.
    Connecting,
    /// SYN-SENT: the socket was accepted; the guest's answer is awaited.
    SynSent,
    /// SYN-RECEIVED: our SYN with ACK isn't acknowledged yet.
    SynReceived,
    /// ESTABLISHED, until both streams have ended.
    Open,
    /// TIME-WAIT: the socket is closed.
    TimeWait,
    /// It is over.
    Closed,
}

impl State {
    /// Whether the connection isn't established yet (RFC 5382, 5, calls it
    /// partially open).
    pub fn is_embryonic(self) -> bool {
        matches!(self, Self::Connecting | Self::SynSent | Self::SynReceived)
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both streams ended.
    Closed,
    /// It never began: one end refused it, or couldn't be reached.
    Refused,
    /// One end reset it, or the socket failed.
    Reset,
    /// One end didn't answer in time.
    TimedOut,
    /// We gave it up.
    Dropped,
}

bitflags! {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Flags: u16 {
        /// The guest's stream has ended.
        const GUEST_FIN = 1 << 0;
        /// The peer's stream has ended, and the guest was told.
        const FIN_SENT = 1 << 1;
        /// The guest has acknowledged that.
        const FIN_ACKED = 1 << 2;
        /// Our FIN went first: TIME-WAIT is ours.
        const ACTIVE_CLOSE = 1 << 3;
        /// An acknowledgement is due.
        const ACK_DUE = 1 << 4;
        /// A SYN is due.
        const SYN_DUE = 1 << 5;
        /// A SYN was sent more than once.
        const SYN_RESENT = 1 << 6;
        /// The first segment that isn't acknowledged is due again.
        const RESEND_DUE = 1 << 7;
        /// A byte was sent into a closed window.
        const PROBING = 1 << 8;
        /// A keep-alive probe is due.
        const KEEPALIVE_DUE = 1 << 9;
        /// The guest has sent data since it was last sent some.
        const GUEST_SPOKE = 1 << 10;
        /// The socket may have more than was sent.
        const UNREAD = 1 << 11;
    }
}

/// The stream from the guest.
#[derive(Clone, Copy, Debug)]
struct Inbound {
    /// RCV.NXT: what the socket has taken, and so what is acknowledged.
    next: Seq,
    /// The right edge of the window that the guest was shown; it never moves
    /// left (RFC 9293, 3.8.6.2.1).
    edge: Seq,
    /// The end of what is parked, if anything is.
    parked_end: Seq,
    /// The most room that the socket ever had.
    most_room: u32,
    /// Bytes taken since the last acknowledgement.
    unacked: u32,
    /// Parked frames.
    parked: u8,
    /// Rcv.Wind.Shift.
    scale: u8,
    /// How many times the guest's data was answered by data, since an
    /// acknowledgement last waited for that in vain.
    interactive: u8,
}

/// The stream to the guest.
#[derive(Clone, Copy, Debug)]
struct Outbound {
    /// SND.UNA: also where the socket's first byte stands.
    una: Seq,
    /// SND.NXT: what is sent next, which may have been sent before.
    next: Seq,
    /// The end of what was ever sent.
    max: Seq,
    /// SND.WND in bytes.
    window: u32,
    /// The largest window the guest ever had.
    max_window: u32,
    /// SND.WL1 and SND.WL2.
    window_seq: Seq,
    window_ack: Seq,
    /// The guest's MSS, or ours if that is less.
    mss: u16,
    /// Snd.Wind.Shift.
    scale: u8,
    timeout: Timeout,
    congestion: Congestion,
}

/// One connection. See the module's description.
#[derive(Debug)]
pub struct Flow {
    state: State,
    ending: Option<Ending>,
    flags: Flags,
    socket: Option<SocketId>,
    link: Link,
    rcv: Inbound,
    snd: Outbound,
    timers: timers::Timers,
}

impl Flow {
    /// Where the connection stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it is over, and the flow of no more use.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// How it ended, once it is over.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// How many of its frames are parked.
    pub fn parked(&self) -> u8 {
        self.rcv.parked
    }

    /// Its socket, as long as it has one.
    pub fn socket(&self) -> Option<SocketId> {
        self.socket
    }

    /// Takes a segment from the guest. Ports and checksum are right already.
    pub fn on_segment(
        &mut self,
        header: &TcpHeader,
        payload: &dyn Payload,
        io: &mut Io<'_>,
    ) -> Verdict {
        match self.state {
            State::Connecting => {
                self.segment_while_connecting(header, io);
                Verdict::Done
            }
            State::SynSent => {
                self.segment_in_syn_sent(header, io);
                Verdict::Done
            }
            State::SynReceived | State::Open => self.segment_when_synchronized(header, payload, io),
            State::TimeWait => self.segment_in_time_wait(header, payload.len(), io),
            State::Closed => Verdict::Done,
        }
    }

    /// Takes news of the socket.
    pub fn on_socket(&mut self, readiness: Readiness, io: &mut Io<'_>) {
        let Some(socket) = self.socket else {
            return;
        };
        if readiness.contains(Readiness::ERROR)
            && let Some(error) = io.streams.error(socket)
        {
            self.fail(error, io);
            return;
        }
        if readiness.contains(Readiness::READABLE) {
            self.flags |= Flags::UNREAD;
        }
        if readiness.contains(Readiness::WRITABLE) {
            if self.state == State::Connecting {
                self.connected();
            }
            self.room_may_have_grown(io);
            if self.rcv.parked > 0 {
                self.rcv.parked = 0;
                io.sink.unpark();
            }
        }
    }

    /// Sends what is due: at the end of each batch in which one of the other
    /// methods was called. False says that the port is full.
    #[must_use]
    pub fn flush(&mut self, io: &mut Io<'_>) -> bool {
        let sent = match self.state {
            State::SynSent | State::SynReceived => self.flush_handshake(io),
            State::Open => self.flush_streams(io),
            State::TimeWait => self.flush_acknowledgement(io),
            State::Connecting | State::Closed => true,
        };
        if self.state == State::Open {
            self.watch_room(io);
        }
        sent
    }

    /// Ends the connection at once, for the guest and for the peer.
    fn abort(&mut self, ending: Ending, io: &mut Io<'_>) {
        match self.state {
            State::Connecting => self.refuse(io),
            State::SynReceived | State::Open => self.reset_guest(io),
            State::SynSent | State::TimeWait | State::Closed => {}
        }
        self.abandon(ending, io.streams);
    }

    /// Gives the connection up, to make room. The peer's side is reset; a
    /// guest that goes on is told that there is no connection.
    pub fn give_up(&mut self, streams: &mut dyn Streams) {
        let ending = match self.state {
            State::TimeWait => Ending::Closed,
            _ => Ending::Dropped,
        };
        self.abandon(ending, streams);
    }

    /// The connection failed at the socket.
    fn fail(&mut self, error: SocketError, io: &mut Io<'_>) {
        match self.state {
            State::Connecting => self.connect_failed(error, io),
            _ => self.abort(Ending::Reset, io),
        }
    }

    /// Resets what is left of the peer's side.
    fn abandon(&mut self, ending: Ending, streams: &mut dyn Streams) {
        if let Some(socket) = self.socket.take() {
            streams.abort(socket);
        }
        self.end(ending);
    }

    fn end(&mut self, ending: Ending) {
        self.state = State::Closed;
        self.ending.get_or_insert(ending);
    }

    /// Once both streams have ended, the socket is closed; if our FIN went
    /// first, the guest's may come again (RFC 9293, 3.6).
    fn finish_if_both_ended(&mut self, io: &mut Io<'_>) {
        if self.state != State::Open || !self.flags.contains(Flags::GUEST_FIN | Flags::FIN_ACKED) {
            return;
        }
        if let Some(socket) = self.socket.take() {
            io.streams.close(socket);
        }
        self.timers.stop(io.now);
        if self.flags.contains(Flags::ACTIVE_CLOSE) {
            self.state = State::TimeWait;
        } else {
            self.end(Ending::Closed);
        }
    }

    /// A RST where the guest expects the next byte (RFC 5961, 3.2). If the
    /// port is full it is lost, and the guest's next segment meets no flow.
    fn reset_guest(&mut self, io: &mut Io<'_>) {
        let header = TcpHeader {
            seq: self.snd.max.0,
            ack: self.rcv.next.0,
            flags: TcpFlags::RST | TcpFlags::ACK,
            ..TcpHeader::default()
        };
        io.sink.segment(&header, None, io.streams);
    }

    /// Answers a segment that isn't where it should be (RFC 5961), but not
    /// each one.
    fn challenge(&mut self, now: Time) {
        if self.timers.may_challenge(now, CHALLENGE_INTERVAL) {
            self.flags |= Flags::ACK_DUE;
        }
    }
}

/// The answer to a segment that belongs to no connection (RFC 9293,
/// 3.10.7.1): a RST, unless it is one itself. Ports are the caller's to fill in.
pub fn reset_for(header: &TcpHeader, payload_len: usize) -> Option<TcpHeader> {
    if header.flags.contains(TcpFlags::RST) {
        return None;
    }
    if header.flags.contains(TcpFlags::ACK) {
        return Some(TcpHeader {
            seq: header.ack,
            flags: TcpFlags::RST,
            ..TcpHeader::default()
        });
    }
    let controls = [TcpFlags::SYN, TcpFlags::FIN];
    let controls = controls.iter().filter(|flag| header.flags.contains(**flag));
    let length = u32::try_from(payload_len + controls.count()).unwrap_or(u32::MAX);
    Some(TcpHeader {
        ack: header.seq.wrapping_add(length),
        flags: TcpFlags::RST | TcpFlags::ACK,
        ..TcpHeader::default()
    })
}
