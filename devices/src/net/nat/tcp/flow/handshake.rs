//! How a connection begins (RFC 9293, 3.5).

use super::{Ending, Flags, Flow, Inbound, Io, Link, Outbound, State, WINDOW_SCALE};
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::tcp::congestion::Congestion;
use crate::net::nat::tcp::rtt::Timeout;
use crate::net::nat::tcp::seq::Seq;
use crate::net::nat::tcp::streams::{Connection, Progress};
use crate::net::time::Time;
use crate::net::wire::tcp::{TcpFlags, TcpHeader, TcpOptions};

use super::receive::INTERACTIVE;
use super::timers::Timers;

/// What a segment may carry if its receiver named no size (RFC 9293, 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// The least that is believed, so that no guest makes a frame of each byte:
/// what fits the smallest MTU of IPv4, 68 bytes, with the least headers, and
/// then some, as in Linux.
const LEAST_MSS: u16 = 88;

/// What a guest is told of a connection that can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net::nat::tcp) enum Failure {
    /// A RST: nobody listens.
    Refused,
    /// An error of ICMP.
    Unreachable,
    /// Nothing, as if the SYN had been lost: it comes again.
    Silent,
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Refused | SocketError::Reset => Self::Refused,
            SocketError::HostUnreachable
            | SocketError::NetUnreachable
            | SocketError::ProtocolUnreachable
            | SocketError::TimeExceeded
            | SocketError::Prohibited => Self::Unreachable,
            _ => Self::Silent,
        }
    }
}

impl Flow {
    /// A flow for the guest's `syn`, whose connection is under way. `iss` is
    /// our initial sequence number (RFC 6528).
    pub fn from_guest(
        syn: &TcpHeader,
        connection: Connection,
        link: Link,
        iss: u32,
        now: Time,
    ) -> Self {
        let mut flow = Self::new(State::Connecting, connection.socket, link, iss, now);
        flow.synchronize(syn);
        if connection.progress == Progress::Connected {
            flow.connected();
        }
        flow
    }

    /// A flow for a socket that was accepted: the guest is the server.
    pub fn from_host(socket: SocketId, link: Link, iss: u32, now: Time) -> Self {
        let mut flow = Self::new(State::SynSent, socket, link, iss, now);
        flow.flags |= Flags::SYN_DUE;
        flow
    }

    fn new(state: State, socket: SocketId, link: Link, iss: u32, now: Time) -> Self {
        let iss = Seq(iss);
        Self {
            state,
            ending: None,
            flags: Flags::UNREAD,
            socket: Some(socket),
            link,
            rcv: Inbound {
                next: Seq(0),
                edge: Seq(0),
                parked_end: Seq(0),
                most_room: 0,
                unacked: 0,
                parked: 0,
                scale: WINDOW_SCALE,
                interactive: INTERACTIVE,
            },
            snd: Outbound {
                una: iss,
                next: iss,
                max: iss,
                window: 0,
                max_window: 0,
                window_seq: Seq(0),
                window_ack: iss,
                mss: DEFAULT_MSS,
                scale: 0,
                timeout: Timeout::default(),
                congestion: Congestion::new(),
            },
            timers: Timers::new(now),
        }
    }

    /// Takes over what the guest's SYN says. The window of a SYN is never
    /// scaled (RFC 7323, 2.2).
    fn synchronize(&mut self, syn: &TcpHeader) {
        self.rcv.next = Seq(syn.seq) + 1;
        // Before anything of ours was sent the edge is what we choose; later
        // the guest was shown a window counted from its first byte.
        self.rcv.edge = self.rcv.next + self.rcv.most_room.min(u16::MAX.into());
        self.snd.window = syn.window.into();
        self.snd.max_window = self.snd.window;
        self.snd.window_seq = Seq(syn.seq);
        let mss = syn.options.mss.unwrap_or(DEFAULT_MSS);
        self.snd.mss = mss.max(LEAST_MSS).min(self.link.mss);
        self.snd.scale = syn.options.window_scale.unwrap_or(0).min(14);
        if syn.options.window_scale.is_none() {
            self.rcv.scale = 0;
        }
    }

    /// The peer has answered; so the guest is answered.
    pub(super) fn connected(&mut self) {
        self.state = State::SynReceived;
        self.flags |= Flags::SYN_DUE;
    }

    /// The peer can't be reached: the guest is told in the way it would have
    /// been without a translator (RFC 5382, REQ-9).
    pub(super) fn connect_failed(&mut self, error: SocketError, io: &mut Io<'_>) {
        let ending = match Failure::from(error) {
            Failure::Refused => {
                self.refuse(io);
                Ending::Refused
            }
            Failure::Unreachable => {
                io.sink.unreachable(error, self.rcv.next.back(1).0);
                Ending::Refused
            }
            Failure::Silent => Ending::TimedOut,
        };
        self.abandon(ending, io.streams);
    }

    /// The RST that a closed port answers a SYN with (RFC 9293, 3.10.7.1).
    pub(super) fn refuse(&mut self, io: &mut Io<'_>) {
        let header = TcpHeader {
            ack: self.rcv.next.0,
            flags: TcpFlags::RST | TcpFlags::ACK,
            ..TcpHeader::default()
        };
        io.sink.segment(&header, None, io.streams);
    }

    /// Nothing was sent to the guest yet: it may repeat its SYN, give it up,
    /// or have begun anew.
    pub(super) fn segment_while_connecting(&mut self, header: &TcpHeader, io: &mut Io<'_>) {
        if header.flags.contains(TcpFlags::RST) {
            if Seq(header.seq) == self.rcv.next {
                self.abandon(Ending::Reset, io.streams);
            }
        } else if header.flags.contains(TcpFlags::SYN) && !header.flags.contains(TcpFlags::ACK) {
            self.rcv.scale = WINDOW_SCALE;
            self.synchronize(header);
        }
    }

    /// RFC 9293, 3.10.7.3.
    pub(super) fn segment_in_syn_sent(&mut self, header: &TcpHeader, io: &mut Io<'_>) {
        let acks = header.flags.contains(TcpFlags::ACK);
        let resets = header.flags.contains(TcpFlags::RST);
        let ack = Seq(header.ack);
        if acks && !self.acknowledges_syn(ack) {
            if !resets {
                self.reject(header.ack, io);
            }
        } else if resets {
            if acks {
                self.abandon(Ending::Refused, io.streams);
            }
        } else if header.flags.contains(TcpFlags::SYN) {
            self.synchronize(header);
            if acks {
                self.open(header, io);
                self.flags |= Flags::ACK_DUE;
            } else {
                // Both sides began at once (RFC 5382, REQ-2).
                self.state = State::SynReceived;
                self.flags |= Flags::SYN_DUE;
            }
        }
    }

    /// Our SYN is acknowledged by `header`.
    pub(super) fn open(&mut self, header: &TcpHeader, io: &mut Io<'_>) {
        self.state = State::Open;
        self.flags.remove(Flags::SYN_DUE);
        self.snd.una += 1;
        self.snd.next = self.snd.next.max(self.snd.una);
        self.snd.window_ack = Seq(header.ack);
        self.snd.timeout.acknowledged(self.snd.una, io.now);
        if self.flags.contains(Flags::SYN_RESENT) {
            self.snd.timeout.syn_was_lost();
        }
        self.timers.disarm_retransmission();
        self.timers.heard(io.now);
    }

    /// Whether `ack` acknowledges our SYN, and nothing that wasn't sent.
    pub(super) fn acknowledges_syn(&self, ack: Seq) -> bool {
        ack.is_after(self.snd.una) && !ack.is_after(self.snd.max)
    }

    /// A RST for an acknowledgement of what was never sent.
    pub(super) fn reject(&mut self, ack: u32, io: &mut Io<'_>) {
        let header = TcpHeader {
            seq: ack,
            flags: TcpFlags::RST,
            ..TcpHeader::default()
        };
        io.sink.segment(&header, None, io.streams);
    }

    /// Sends a SYN if one is due.
    pub(super) fn flush_handshake(&mut self, io: &mut Io<'_>) -> bool {
        if !self.flags.contains(Flags::SYN_DUE) {
            return self.flush_acknowledgement(io);
        }
        let answers = self.state == State::SynReceived;
        let room = self.socket.map_or(0, |id| io.streams.send_room(id));
        self.rcv.most_room = self.rcv.most_room.max(room);
        let window = u16::try_from(room).unwrap_or(u16::MAX);
        if answers {
            self.rcv.edge = self.rcv.edge.max(self.rcv.next + u32::from(window));
        }
        let iss = self.snd.una;
        let scales = !answers || self.guest_scales();
        let header = TcpHeader {
            seq: iss.0,
            ack: if answers { self.rcv.next.0 } else { 0 },
            flags: if answers {
                TcpFlags::SYN | TcpFlags::ACK
            } else {
                TcpFlags::SYN
            },
            window,
            options: TcpOptions {
                mss: Some(self.link.mss),
                window_scale: scales.then_some(WINDOW_SCALE),
                ..TcpOptions::default()
            },
            ..TcpHeader::default()
        };
        if !io.sink.segment(&header, None, io.streams) {
            return false;
        }
        self.flags.remove(Flags::SYN_DUE | Flags::ACK_DUE);
        if self.snd.max == iss {
            self.snd.max = iss + 1;
            self.snd.next = self.snd.max;
            self.snd.timeout.sent(self.snd.max, io.now);
        } else {
            self.flags |= Flags::SYN_RESENT;
            self.snd.timeout.sent_again();
        }
        self.timers
            .arm_retransmission(io.now, self.snd.timeout.duration());
        true
    }

    /// Whether the guest's SYN had the window scale option.
    fn guest_scales(&self) -> bool {
        self.rcv.scale != 0
    }
}
