//! A translator with a host and an outlet around it, and clients that speak
//! as much TCP as is needed to open, use and close connections.

use std::hash::RandomState;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::hosts::{ALL, Hosts, Recorder, Sent};
use crate::net::nat::flows::{self, Endpoint, Guest};
use crate::net::nat::reach::Reach;
use crate::net::nat::sockets::SocketId;
use crate::net::nat::tcp::flow::State;
use crate::net::nat::tcp::{Leg, Limits, Outcome, Tcp};
use crate::net::time::Time;
use crate::net::wire::tcp::{TcpFlags, TcpHeader, TcpOptions};

pub(super) const SYN: TcpFlags = TcpFlags::SYN;
pub(super) const ACK: TcpFlags = TcpFlags::ACK;
pub(super) const RST: TcpFlags = TcpFlags::RST;
pub(super) const FIN: TcpFlags = TcpFlags::FIN;

pub(super) const LIMITS: Limits = Limits {
    flows: flows::Limits {
        total: 20_000,
        per_guest: 15_000,
    },
    embryonic: 100,
    lingering: 100,
    parked: 64,
};

pub(super) fn gateway() -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 100, 1)
}

/// A guest's address.
pub(super) fn inner(guest: u32, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(192, 168, 100, 10 + guest as u8), port)
}

/// A peer's.
pub(super) fn outer(last: u8, port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(198, 51, 100, last), port)
}

/// A guest's connection from `port` to the first peer.
pub(super) fn leg(guest: u32, port: u16) -> Leg {
    Leg {
        guest: Guest(guest),
        inner: inner(guest, port),
        outer: outer(1, 80),
    }
}

/// One end of a connection at a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) leg: Leg,
    pub(super) seq: u32,
    pub(super) ack: u32,
}

pub(super) struct Net {
    pub(super) tcp: Tcp,
    pub(super) hosts: Hosts,
    pub(super) outlet: Recorder,
    pub(super) now: Time,
}

impl Net {
    pub(super) fn new(limits: Limits) -> Self {
        let reach = Reach {
            gateway4: Some(gateway()),
            ..Reach::default()
        };
        Self {
            tcp: Tcp::new(limits, reach, RandomState::new()),
            hosts: Hosts::default(),
            outlet: Recorder::default(),
            now: Time(1_000_000_000),
        }
    }

    pub(super) fn give(&mut self, leg: &Leg, header: TcpHeader, payload: &[u8]) -> Outcome {
        let header = TcpHeader {
            source: leg.inner.port,
            destination: leg.outer.port,
            ..header
        };
        let Self {
            tcp,
            hosts,
            outlet,
            now,
        } = self;
        tcp.from_guest(*now, leg, &header, &payload, hosts, outlet)
    }

    pub(super) fn syn(&mut self, leg: &Leg) -> Outcome {
        let header = TcpHeader {
            seq: 999,
            flags: SYN,
            window: 65535,
            options: TcpOptions {
                mss: Some(1460),
                window_scale: Some(7),
                ..TcpOptions::default()
            },
            ..TcpHeader::default()
        };
        self.give(leg, header, &[])
    }

    /// A segment of a client's that stands where it should.
    pub(super) fn segment(&mut self, client: &Client, flags: TcpFlags, payload: &[u8]) -> Outcome {
        let header = TcpHeader {
            seq: client.seq,
            ack: client.ack,
            flags,
            window: 8192,
            ..TcpHeader::default()
        };
        self.give(&client.leg, header, payload)
    }

    /// News of a socket, and what follows from them.
    pub(super) fn news(&mut self, socket: SocketId) {
        let Self {
            tcp,
            hosts,
            outlet,
            now,
        } = self;
        tcp.on_socket(*now, socket, ALL, hosts, outlet);
    }

    /// One batch's end; says whether there is more.
    pub(super) fn flush_once(&mut self) -> bool {
        let Self {
            tcp,
            hosts,
            outlet,
            now,
        } = self;
        tcp.flush(*now, hosts, outlet)
    }

    /// Flushes everything; returns what was sent since the last time.
    pub(super) fn flush(&mut self) -> Vec<Sent> {
        while self.flush_once() {}
        std::mem::take(&mut self.outlet.sent)
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, duration: Duration) -> Vec<Sent> {
        let until = self.now + duration;
        let mut sent = Vec::new();
        while let Some(deadline) = self.tcp.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(deadline);
            let Self {
                tcp,
                hosts,
                outlet,
                now,
            } = self;
            tcp.expire(*now, hosts, outlet);
            sent.extend(self.flush());
        }
        self.now = until;
        sent
    }

    /// Opens a connection whose socket is `socket` all the way.
    pub(super) fn establish(&mut self, leg: &Leg, socket: SocketId) -> Client {
        assert_eq!(self.syn(leg), Outcome::Done);
        self.news(socket);
        let sent = self.flush();
        let answer = sent.last().unwrap();
        assert_eq!(answer.leg, *leg);
        assert_eq!(answer.header.flags, SYN | ACK);
        let client = Client {
            leg: *leg,
            seq: 1000,
            ack: answer.header.seq.wrapping_add(1),
        };
        assert_eq!(self.segment(&client, ACK, &[]), Outcome::Done);
        self.flush();
        client
    }

    /// Opens a connection where no lower socket is free than the last.
    pub(super) fn open(&mut self, leg: &Leg) -> (Client, SocketId) {
        let socket = SocketId(self.hosts.open() as u32);
        (self.establish(leg, socket), socket)
    }

    /// The peer sends, and ends its stream if `end`.
    pub(super) fn peer_sends(&mut self, socket: SocketId, data: &[u8], end: bool) {
        let host = &mut self.hosts.socket(socket).host;
        host.data.extend_from_slice(data);
        host.arrived = host.data.len();
        host.ended = end;
        self.news(socket);
    }

    /// The connection's state, if there is one.
    pub(super) fn state(&self, leg: &Leg) -> Option<State> {
        let listed = self.tcp.iter().find(|listed| listed.leg == *leg)?;
        Some(listed.state)
    }

    /// Nothing is left.
    pub(super) fn check_empty(&self) {
        assert!(self.tcp.is_empty());
        assert_eq!(self.hosts.open(), 0);
        assert_eq!(self.tcp.next_deadline(), None);
        self.check_counters();
    }

    /// All that began has ended or is there.
    pub(super) fn check_counters(&self) {
        let counters = self.tcp.counters();
        let begun = counters.opened + counters.accepted;
        let all: u64 = counters.iter().map(|(_, count)| count).sum();
        assert_eq!(all - begun + self.tcp.len() as u64, begun);
    }
}
