use std::collections::HashSet;

use super::*;
use crate::net::nat::testing::{Recorder, at, reach};

mod mapped;
mod model;
mod sending;

const GUEST: Guest = Guest(1);
const LIMITS: Limits = Limits {
    total: 1000,
    per_guest: 100,
};
const INNER: &str = "192.168.100.10:4000";
const PEER: &str = "198.51.100.7:53";

/// A translation with its host and its clock.
struct Bench {
    udp: Udp,
    host: Recorder,
    now: Time,
}

impl Bench {
    fn new(filtering: Filtering) -> Self {
        Self::with(LIMITS, filtering, reach())
    }

    fn with(limits: Limits, filtering: Filtering, reach: Reach) -> Self {
        Self {
            udp: Udp::new(limits, filtering, reach, RandomState::new()),
            host: Recorder::new(),
            now: Time::ZERO,
        }
    }

    fn send_as(&mut self, guest: Guest, datagram: &Datagram, payload: &[u8]) -> Outcome<Delivery> {
        let Self { udp, host, now } = self;
        udp.from_guest(*now, guest, datagram, &payload, host)
    }

    fn send(&mut self, source: &str, destination: &str) -> Outcome<Delivery> {
        self.send_as(GUEST, &datagram(source, destination), b"query")
    }

    /// Sends what is to reach the host; returns the socket.
    fn sent(&mut self, source: &str, destination: &str) -> SocketId {
        assert_eq!(self.send(source, destination), Outcome::Sent);
        self.host.last().socket
    }

    fn receive(&mut self, socket: SocketId, from: &str) -> Result<Delivery, DropReason> {
        self.udp.from_host(self.now, socket, at(from), None)
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        // Timers go off up to a tick late.
        let late = self.now + Duration::from_millis(2);
        self.udp.expire(late, &mut self.host);
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.udp.drops().of(reason)
    }

    /// All that is open must end by itself within an hour.
    fn ends(mut self) {
        let hour = self.now + Duration::from_secs(3600);
        while let Some(deadline) = self.udp.next_deadline() {
            assert!(self.now < deadline && deadline < hour);
            self.now = deadline;
            self.udp.expire(deadline, &mut self.host);
        }
        assert_eq!(self.udp.len(), 0);
        assert!(self.udp.is_empty());
        assert_eq!(self.host.open_sockets().count(), 0);
    }
}

fn datagram(source: &str, destination: &str) -> Datagram {
    Datagram {
        source: at(source),
        destination: at(destination),
        hop_limit: 64,
        dont_fragment: false,
        segment: None,
    }
}

fn delivery(source: &str, destination: &str) -> Delivery {
    Delivery {
        source: at(source),
        destination: at(destination),
        segment: None,
    }
}

fn error_of<D>(outcome: Outcome<D>) -> ErrorMessage {
    let Outcome::Error(message) = outcome else {
        panic!("no error is told");
    };
    message
}

/// REQ-1.
#[test]
fn a_mapping_is_the_same_for_all_peers() {
    for peers in [
        [PEER, "198.51.100.7:54", "203.0.113.9:53"],
        [
            "[2001:db8:1::7]:53",
            "[2001:db8:1::7]:54",
            "[2001:db8:2::9]:53",
        ],
    ] {
        let source = if peers[0].starts_with('[') {
            "[fd00::10]:4000"
        } else {
            INNER
        };
        let mut bench = Bench::new(Filtering::default());
        let socket = bench.sent(source, peers[0]);
        for peer in peers {
            assert_eq!(bench.sent(source, peer), socket);
            assert_eq!(bench.host.last().to, at(peer));
            assert_eq!(bench.host.last().payload, b"query");
            assert_eq!(bench.receive(socket, peer), Ok(delivery(peer, source)));
        }
        assert_eq!(bench.udp.len(), 1);
        bench.ends();
    }
}

/// REQ-3: port overloading is forbidden; the port is kept where it can be.
#[test]
fn no_two_mappings_have_one_port() {
    let mut bench = Bench::new(Filtering::default());
    let mut ports = HashSet::new();
    for host in 10..40 {
        let source = format!("192.168.100.{host}:4000");
        let socket = bench.sent(&source, PEER);
        let port = bench.host.local(socket).port;
        assert!(ports.insert(port));
        assert_eq!(port == 4000, host == 10);
        // REQ-3 b): neither comes from a port below 1024.
        assert!(port >= 1024);
        assert_eq!(bench.receive(socket, PEER), Ok(delivery(PEER, &source)));
    }
    bench.ends();
}

/// REQ-4.
#[test]
fn parity_is_kept_where_it_can_be() {
    let mut bench = Bench::new(Filtering::default());
    for next_port in [32768, 32769] {
        for port in [4000, 4001] {
            bench.host.next_port = next_port;
            bench.sent(&format!("192.168.100.10:{port}"), PEER);
            let other = bench.sent(&format!("192.168.100.{}:{port}", next_port - 32700), PEER);
            assert_eq!((bench.host.local(other).port ^ port) & 1, 0);
        }
    }
    // Nothing of its parity is free next to what the host gives.
    let mut bench = Bench::new(Filtering::default());
    bench.sent("192.168.100.10:4000", PEER);
    bench.sent("192.168.100.10:32768", PEER);
    let other = bench.sent("192.168.100.11:4000", PEER);
    assert_eq!(bench.host.local(other).port, 32769);
    assert_eq!(bench.host.open_sockets().count(), 3);
    bench.ends();
}

/// REQ-5.
#[test]
fn a_mapping_lives_for_five_minutes() {
    let mut bench = Bench::new(Filtering::default());
    let socket = bench.sent(INNER, PEER);
    bench.pass(299);
    assert_eq!(bench.receive(socket, PEER), Ok(delivery(PEER, INNER)));
    assert!(bench.udp.next_deadline() <= Some(Time::ZERO + IDLE));
    bench.pass(1);
    assert_eq!(bench.receive(socket, PEER), Err(DropReason::NoFlow));
    assert_eq!(bench.drops(DropReason::NoFlow), 1);
    assert_eq!(bench.host.open_sockets().count(), 0);
    bench.ends();
}

/// REQ-6.
#[test]
fn only_what_a_guest_sends_keeps_a_mapping() {
    let mut bench = Bench::new(Filtering::default());
    let socket = bench.sent(INNER, PEER);
    for _ in 0..10 {
        bench.pass(299);
        assert_eq!(bench.sent(INNER, "203.0.113.9:53"), socket);
    }
    for _ in 0..299 {
        bench.pass(1);
        assert_eq!(bench.receive(socket, PEER), Ok(delivery(PEER, INNER)));
    }
    bench.pass(1);
    assert_eq!(bench.receive(socket, PEER), Err(DropReason::NoFlow));
    bench.ends();
}

/// REQ-8.
#[test]
fn filtering_is_as_chosen() {
    let stranger = "203.0.113.9:9";
    for (from, filter_lets) in [(PEER, true), ("198.51.100.7:54", false), (stranger, false)] {
        let mut open = Bench::new(Filtering::EndpointIndependent);
        let socket = open.sent(INNER, PEER);
        assert_eq!(open.receive(socket, from), Ok(delivery(from, INNER)));

        let mut strict = Bench::new(Filtering::AddressAndPortDependent);
        let socket = strict.sent(INNER, PEER);
        let expected = if filter_lets {
            Ok(delivery(from, INNER))
        } else {
            Err(DropReason::Filtered)
        };
        assert_eq!(strict.receive(socket, from), expected);
        assert_eq!(strict.drops(DropReason::Filtered), u64::from(!filter_lets));
        // The mapping is endpoint-independent with this filter, too.
        assert_eq!(strict.sent(INNER, stranger), socket);
        assert_eq!(
            strict.receive(socket, stranger),
            Ok(delivery(stranger, INNER))
        );
        strict.ends();
    }
}

#[test]
fn the_filter_forgets_whom_a_guest_no_longer_sends_to() {
    let mut bench = Bench::new(Filtering::AddressAndPortDependent);
    let other = "203.0.113.9:9";
    let socket = bench.sent(INNER, PEER);
    for _ in 0..3 {
        bench.pass(100);
        assert_eq!(bench.sent(INNER, other), socket);
    }
    assert_eq!(bench.receive(socket, PEER), Err(DropReason::Filtered));
    assert_eq!(bench.receive(socket, other), Ok(delivery(other, INNER)));
    bench.ends();
}

/// REQ-9: the receiver sees the sender's outer address and port.
#[test]
fn guests_reach_each_other_by_outer_addresses() {
    let (a, b) = (INNER, "192.168.100.11:4000");
    let mut bench = Bench::new(Filtering::default());
    bench.sent(a, PEER);
    let socket = bench.sent(b, PEER);
    let outer = format!("192.0.2.1:{}", bench.host.local(socket).port);
    let sent = bench.host.sent.len();
    assert_eq!(
        bench.send(a, &outer),
        Outcome::Deliver(delivery("192.0.2.1:4000", b))
    );
    assert_eq!(
        bench.send(b, "192.0.2.1:4000"),
        Outcome::Deliver(delivery(&outer, a))
    );
    // One without a mapping gets one.
    let third = "192.168.100.12:4000";
    let Outcome::Deliver(got) = bench.send(third, &outer) else {
        panic!("not hairpinned")
    };
    assert_eq!(
        bench.send(b, &got.source.to_string()),
        Outcome::Deliver(delivery(&outer, third))
    );
    assert_eq!(bench.host.sent.len(), sent);
    // What isn't a guest's port is the host's own.
    assert_eq!(bench.send(a, "192.0.2.1:22"), Outcome::Sent);
    bench.ends();
}

#[test]
fn hairpinning_keeps_to_the_filter() {
    let (a, b) = (INNER, "192.168.100.11:4001");
    let mut bench = Bench::new(Filtering::AddressAndPortDependent);
    bench.sent(a, PEER);
    bench.sent(b, PEER);
    assert_eq!(
        bench.send(a, "192.0.2.1:4001"),
        Outcome::Dropped(DropReason::Filtered)
    );
    let delivered = Outcome::Deliver(delivery("192.0.2.1:4001", a));
    assert_eq!(bench.send(b, "192.0.2.1:4000"), delivered);
    let delivered = Outcome::Deliver(delivery("192.0.2.1:4000", b));
    assert_eq!(bench.send(a, "192.0.2.1:4001"), delivered);
    bench.ends();
}

/// REQ-12; RFC 5508, REQ-4 and REQ-6.
#[test]
fn errors_reach_the_guest_and_end_nothing() {
    let mut bench = Bench::new(Filtering::default());
    let socket = bench.sent(INNER, PEER);
    let router: IpAddr = "198.51.100.1".parse().unwrap();
    let gateway: IpAddr = "192.168.100.1".parse().unwrap();
    let about = About::udp(at(INNER), at(PEER), 5);
    for error in [
        SocketError::Refused,
        SocketError::HostUnreachable,
        SocketError::NetUnreachable,
        SocketError::ProtocolUnreachable,
        SocketError::Prohibited,
        SocketError::TimeExceeded,
        SocketError::TooBig(1400),
    ] {
        for (reporter, source) in [
            (Some(router), router),
            (None, gateway),
            // Another family's, and one that no guest could see.
            (Some("fe80::1".parse().unwrap()), gateway),
            (Some("127.0.0.1".parse().unwrap()), gateway),
        ] {
            let message = bench.udp.error(socket, at(PEER), error, reporter, 5);
            let expected = ErrorMessage {
                source,
                error,
                about,
            };
            assert_eq!(message, Some(expected));
        }
        bench.pass(30);
        assert_eq!(bench.receive(socket, PEER), Ok(delivery(PEER, INNER)));
    }
    // None of them kept the mapping alive.
    bench.pass(90);
    let late = bench
        .udp
        .error(socket, at(PEER), SocketError::Refused, None, 5);
    assert_eq!(late, None);
    bench.ends();
}

/// RFC 5508, REQ-8.
#[test]
fn bounds_hold_and_are_told() {
    let limits = Limits {
        total: 5,
        per_guest: 2,
    };
    let mut bench = Bench::with(limits, Filtering::default(), reach());
    let send = |bench: &mut Bench, guest, port| {
        let source = format!("192.168.100.10:{port}");
        bench.send_as(Guest(guest), &datagram(&source, PEER), b"")
    };
    let prohibited = |outcome| error_of(outcome).error == SocketError::Prohibited;
    for guest in 1..3 {
        assert_eq!(send(&mut bench, guest, 1024 * guest), Outcome::Sent);
        assert_eq!(send(&mut bench, guest, 1024 * guest + 1), Outcome::Sent);
        assert!(prohibited(send(&mut bench, guest, 1024 * guest + 2)));
    }
    assert_eq!(bench.drops(DropReason::GuestFull), 2);
    assert_eq!(send(&mut bench, 3, 5000), Outcome::Sent);
    assert!(prohibited(send(&mut bench, 3, 5001)));
    assert_eq!(bench.drops(DropReason::TableFull), 1);
    assert_eq!(bench.host.open_sockets().count(), 5);
    // What there is goes on.
    assert_eq!(send(&mut bench, 1, 1024), Outcome::Sent);
    bench.host.limit = 4;
    bench.udp.remove_guest(Guest(3), &mut bench.host);
    assert!(prohibited(send(&mut bench, 3, 5000)));
    assert_eq!(bench.drops(DropReason::NoSocket), 1);
    bench.ends();
}

#[test]
fn the_filter_is_bounded_too() {
    let mut bench = Bench::new(Filtering::AddressAndPortDependent);
    for port in 1..200 {
        let peer = format!("198.51.100.7:{port}");
        match bench.send(INNER, &peer) {
            Outcome::Sent => assert!(port < 100, "{port}"),
            outcome => assert!(
                port >= 100 && matches!(outcome, Outcome::Error(_)),
                "{port}"
            ),
        }
    }
    assert_eq!(bench.udp.len(), 100);
    assert_eq!(bench.drops(DropReason::GuestFull), 100);
    bench.ends();
}

#[test]
fn a_guest_that_leaves_takes_its_mappings_along() {
    let mut bench = Bench::new(Filtering::AddressAndPortDependent);
    bench.sent(INNER, PEER);
    bench.sent("192.168.100.10:4001", PEER);
    let other = datagram("192.168.100.11:4002", PEER);
    assert_eq!(bench.send_as(Guest(2), &other, b""), Outcome::Sent);
    bench.udp.remove_guest(GUEST, &mut bench.host);
    assert_eq!(bench.udp.len(), 2);
    let left: Vec<_> = bench.host.open_sockets().collect();
    assert_eq!(left, [SocketId(2)]);
    assert_eq!(
        bench.receive(SocketId(2), PEER),
        Ok(delivery(PEER, "192.168.100.11:4002"))
    );
    bench.udp.remove_guest(Guest(2), &mut bench.host);
    assert_eq!(bench.udp.next_deadline(), None);
    bench.ends();
}
