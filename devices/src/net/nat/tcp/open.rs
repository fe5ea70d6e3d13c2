//! How guests' connections begin (RFC 5382, 4.2), and what belongs to none.

use std::hash::BuildHasher;
use std::net::SocketAddr;

use super::entries::{Around, key, with_ports};
use super::flow::handshake::Failure;
use super::flow::{Flow, reset_for};
use super::outlet::Leg;
use super::translator::{Outcome, Tcp};
use crate::net::nat::drops::DropReason;
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::SocketError;
use crate::net::time::Time;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};

impl Tcp {
    /// A segment that belongs to no connection: the first of one, or one that
    /// is answered with a RST. Where guests may not send to, nothing answers
    /// (RFC 9293, 3.9.2.3, for groups), but the gateway itself does.
    pub(super) fn without_flow(
        &mut self,
        leg: &Leg,
        header: &TcpHeader,
        payload_len: usize,
        around: &mut Around<'_>,
    ) -> Outcome {
        let outer = leg.outer;
        let to = self.reach.connection(outer);
        let Some(to) = to.filter(|_| outer.port != 0) else {
            if self.reach.is_gateway(outer.address) {
                reset(leg, header, payload_len, around);
            }
            return self.dropped(DropReason::Destination);
        };
        let flags = header.flags;
        let begins = flags.contains(TcpFlags::SYN)
            && !flags.intersects(TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN);
        if !begins {
            reset(leg, header, payload_len, around);
            return self.dropped(DropReason::NoFlow);
        }
        match self.open(leg, to, header, around) {
            Ok(()) => Outcome::Done,
            Err(reason) => self.dropped(reason),
        }
    }

    /// Begins a connection to `to` for a guest's SYN. If that is an address of
    /// the host, its kernel leads it to whom it belongs to, with the host's
    /// address and the outer port as its source (hairpinning: RFC 5382,
    /// REQ-8).
    fn open(
        &mut self,
        leg: &Leg,
        to: Endpoint,
        syn: &TcpHeader,
        around: &mut Around<'_>,
    ) -> Result<(), DropReason> {
        self.admit(leg.guest, around)?;
        let from = self.ports.choose(leg.inner);
        let connection = match around.streams.connect(SocketAddr::from(to), from) {
            Ok(connection) => connection,
            Err(error) => return self.refuse(leg, error, syn, around),
        };
        if !self.ports.take(leg.inner, connection.port) {
            around.streams.abort(connection.socket);
            return Err(DropReason::NoSocket);
        }
        let link = around.outlet.link(leg.guest, leg.inner.address.into());
        let iss = self.initial_sequence(around.now, leg);
        let flow = Flow::from_guest(syn, connection, link, iss, around.now);
        match self.add(leg, flow, connection.socket, true) {
            Ok(id) => {
                self.counters.opened += 1;
                // If the connection is made, the guest's kernel answers this
                // at once, with what is read next.
                self.flush_flow(id, around);
                Ok(())
            }
            Err(reason) => {
                self.ports.release(leg.inner);
                around.streams.abort(connection.socket);
                Err(reason)
            }
        }
    }

    /// The host knows at once that a connection can't be made.
    fn refuse(
        &mut self,
        leg: &Leg,
        error: SocketError,
        syn: &TcpHeader,
        around: &mut Around<'_>,
    ) -> Result<(), DropReason> {
        match Failure::from(error) {
            Failure::Refused => reset(leg, syn, 0, around),
            Failure::Unreachable => around.outlet.unreachable(leg, error, syn.seq),
            Failure::Silent => return Err(DropReason::NoSocket),
        }
        self.counters.opened += 1;
        self.counters.refused += 1;
        Ok(())
    }

    /// An initial sequence number (RFC 6528, 3): a clock of 4 microseconds,
    /// and an offset for each connection that only we know.
    pub(super) fn initial_sequence(&self, now: Time, leg: &Leg) -> u32 {
        // Not the table's own hash, of which guests are to learn nothing.
        let offset = self.hasher.hash_one(("ISN", key(leg)));
        let sum = offset.wrapping_add(now.0 / 4_000);
        u32::try_from(sum & u64::from(u32::MAX)).expect("32 bits")
    }
}

/// Answers a segment that belongs to no connection.
fn reset(leg: &Leg, header: &TcpHeader, payload_len: usize, around: &mut Around<'_>) {
    if let Some(answer) = reset_for(header, payload_len) {
        let answer = with_ports(&answer, leg);
        // If there is no room, the segment comes again, or doesn't matter.
        around.outlet.segment(leg, &answer, None, around.streams);
    }
}
