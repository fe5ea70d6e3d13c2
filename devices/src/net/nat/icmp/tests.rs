use proptest::prelude::*;

use super::*;
use crate::net::nat::testing::{Recorder, reach};

const GUEST: Guest = Guest(1);
const LIMITS: Limits = Limits {
    total: 6,
    per_guest: 4,
};
const ECHO: Echo = Echo {
    identifier: 0x1234,
    sequence: 7,
};

struct Bench {
    echoes: Echoes,
    host: Recorder,
    now: Time,
}

/// A guest and two that it asks, of both families.
const ADDRESSES: [[&str; 3]; 2] = [
    ["192.168.100.10", "198.51.100.7", "203.0.113.9"],
    ["fd00::10", "2001:db8:1::7", "2001:db8:2::9"],
];

impl Bench {
    fn new() -> Self {
        Self {
            echoes: Echoes::new(LIMITS, reach(), RandomState::new()),
            host: Recorder::new(),
            now: Time::ZERO,
        }
    }

    fn ask_as(&mut self, guest: Guest, request: &EchoRequest) -> Outcome<EchoReply> {
        let Self { echoes, host, now } = self;
        let message = message(request.source, request.echo, true);
        echoes.from_guest(*now, guest, request, &message, host)
    }

    /// Asks; returns the socket.
    fn asked(&mut self, source: &str, destination: &str, echo: Echo) -> SocketId {
        let outcome = self.ask_as(GUEST, &request(source, destination, echo));
        assert_eq!(outcome, Outcome::Sent);
        self.host.last().socket
    }

    /// A reply comes, as the host's socket sees it.
    fn answer(&mut self, socket: SocketId, from: &str) -> Result<EchoReply, DropReason> {
        let from = from.parse().unwrap();
        let echo = Echo {
            identifier: self.host.local(socket).port,
            ..ECHO
        };
        self.echoes
            .from_host(socket, from, &message(from, echo, false))
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        // Timers go off up to a tick late.
        let late = self.now + Duration::from_millis(2);
        self.echoes.expire(late, &mut self.host);
    }

    fn ends(mut self) {
        while let Some(deadline) = self.echoes.next_deadline() {
            assert!(deadline < self.now + Duration::from_secs(3600));
            self.now = deadline;
            self.echoes.expire(deadline, &mut self.host);
        }
        assert!(self.echoes.is_empty());
        assert_eq!(self.host.open_sockets().count(), 0);
    }
}

/// A message with 5 bytes of data, of the family of `address`.
fn message(address: IpAddr, echo: Echo, request: bool) -> Vec<u8> {
    let mut bytes = b"\0\0\0\0\0\0\0\0hello".to_vec();
    match (address, request) {
        (IpAddr::V4(_), true) => Icmp4::EchoRequest(echo).write(&mut bytes),
        (IpAddr::V4(_), false) => Icmp4::EchoReply(echo).write(&mut bytes),
        (IpAddr::V6(_), true) => Icmp6::EchoRequest(echo).write(&mut bytes),
        (IpAddr::V6(_), false) => Icmp6::EchoReply(echo).write(&mut bytes),
    }
    .unwrap();
    bytes
}

fn request(source: &str, destination: &str, echo: Echo) -> EchoRequest {
    EchoRequest {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        echo,
        hop_limit: 64,
        dont_fragment: false,
    }
}

fn reply(source: &str, destination: &str) -> EchoReply {
    EchoReply {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        echo: ECHO,
    }
}

/// REQ-1.
#[test]
fn a_query_has_one_mapping_whomever_it_asks() {
    for [guest, peer, other] in ADDRESSES {
        let mut bench = Bench::new();
        let socket = bench.asked(guest, peer, ECHO);
        assert_eq!(
            bench.host.last().payload,
            message(guest.parse().unwrap(), ECHO, true)
        );
        assert_eq!(
            bench.host.last().to,
            Endpoint::new(peer.parse::<IpAddr>().unwrap(), 0)
        );
        assert_eq!(bench.host.local(socket).port, ECHO.identifier);
        let next = Echo {
            sequence: 8,
            ..ECHO
        };
        assert_eq!(bench.asked(guest, other, next), socket);
        for from in [peer, other] {
            assert_eq!(bench.answer(socket, from), Ok(reply(from, guest)));
        }
        assert_eq!(bench.echoes.len(), 1);
        bench.ends();
    }
}

#[test]
fn identifiers_that_clash_are_told_apart() {
    let mut bench = Bench::new();
    let [guest, peer, _] = ADDRESSES[0];
    let first = bench.asked(guest, peer, ECHO);
    let second = bench.asked("192.168.100.11", peer, ECHO);
    assert_ne!(bench.host.local(first).port, bench.host.local(second).port);
    assert_eq!(bench.answer(first, peer), Ok(reply(peer, guest)));
    assert_eq!(
        bench.answer(second, peer),
        Ok(reply(peer, "192.168.100.11"))
    );
    bench.ends();
}

/// REQ-2.
#[test]
fn a_mapping_lives_for_a_minute_after_the_last_query() {
    let mut bench = Bench::new();
    let [guest, peer, _] = ADDRESSES[0];
    let socket = bench.asked(guest, peer, ECHO);
    for _ in 0..5 {
        bench.pass(59);
        assert_eq!(bench.asked(guest, peer, ECHO), socket);
    }
    bench.pass(59);
    assert_eq!(bench.answer(socket, peer), Ok(reply(peer, guest)));
    bench.pass(1);
    let late = bench
        .echoes
        .from_host(socket, peer.parse().unwrap(), &[0; 8]);
    assert_eq!(late, Err(DropReason::NoFlow));
    bench.ends();
}

/// REQ-4 and REQ-6.
#[test]
fn errors_reach_the_guest_and_end_nothing() {
    for [guest, peer, router] in ADDRESSES {
        let mut bench = Bench::new();
        let socket = bench.asked(guest, peer, ECHO);
        let (from, to) = (guest.parse().unwrap(), peer.parse().unwrap());
        // The host's identifier is in what is quoted to it.
        let outside = Echo {
            identifier: 99,
            ..ECHO
        };
        let sent = message(to, outside, true);
        let reporter = router.parse().ok();
        let error = SocketError::TimeExceeded;
        let told = bench.echoes.error(socket, to, error, reporter, &sent);
        let expected = ErrorMessage {
            source: router.parse().unwrap(),
            error,
            about: About::echo(from, to, ECHO, 5),
        };
        assert_eq!(told, Some(expected));
        assert_eq!(bench.answer(socket, peer), Ok(reply(peer, guest)));
        let odd = message(to, outside, false);
        for odd in [&odd[..], &sent[..7], &[]] {
            assert_eq!(bench.echoes.error(socket, to, error, reporter, odd), None);
        }
        bench.pass(60);
        let told = bench.echoes.error(socket, to, error, reporter, &sent);
        assert_eq!(told, None);
        bench.ends();
    }
}

#[test]
fn only_replies_of_the_family_are_taken() {
    let [[guest, peer, _], [_, peer6, _]] = ADDRESSES;
    let mut bench = Bench::new();
    let socket = bench.asked(guest, peer, ECHO);
    let from = |text: &str| text.parse::<IpAddr>().unwrap();
    let good = message(from(peer), ECHO, false);
    for (sender, message, reason) in [
        (peer, message(from(peer), ECHO, true), DropReason::Malformed),
        (peer, good[..7].to_vec(), DropReason::Malformed),
        (peer6, good.clone(), DropReason::Malformed),
        ("192.168.100.1", good.clone(), DropReason::Sender),
        ("224.0.0.1", good, DropReason::Sender),
    ] {
        let before = bench.echoes.drops().of(reason);
        let got = bench.echoes.from_host(socket, from(sender), &message);
        assert_eq!(got, Err(reason), "{sender}");
        assert_eq!(bench.echoes.drops().of(reason), before + 1);
    }
    bench.ends();
}

/// REQ-8.
#[test]
fn bounds_hold_and_are_told() {
    let [guest, peer, _] = ADDRESSES[0];
    let ask = |bench: &mut Bench, of, identifier| {
        let echo = Echo { identifier, ..ECHO };
        bench.ask_as(Guest(of), &request(guest, peer, echo))
    };
    let mut bench = Bench::new();
    for (of, identifier, reason) in [
        (1, 1, None),
        (1, 2, None),
        (1, 3, None),
        (1, 4, None),
        (1, 5, Some(DropReason::GuestFull)),
        (2, 6, None),
        (2, 7, None),
        (2, 8, Some(DropReason::TableFull)),
    ] {
        match (ask(&mut bench, of, identifier), reason) {
            (Outcome::Sent, None) => {}
            (Outcome::Error(message), Some(reason)) => {
                assert_eq!(message.error, SocketError::Prohibited);
                assert_eq!(bench.echoes.drops().of(reason), 1);
            }
            (outcome, _) => panic!("{identifier}: {outcome:?}"),
        }
    }
    bench.echoes.remove_guest(Guest(1), &mut bench.host);
    assert_eq!(bench.host.open_sockets().count(), 2);
    bench.host.limit = 2;
    assert!(matches!(ask(&mut bench, 1, 1), Outcome::Error(_)));
    assert_eq!(bench.echoes.drops().of(DropReason::NoSocket), 1);
    bench.ends();
}

#[test]
fn what_the_host_says_is_passed_on() {
    let [guest, peer, _] = ADDRESSES[0];
    let mut bench = Bench::new();
    let about = About::echo(guest.parse().unwrap(), peer.parse().unwrap(), ECHO, 5);
    let asking = EchoRequest {
        dont_fragment: true,
        ..request(guest, peer, ECHO)
    };
    bench.host.answers.push_back(Err(SocketError::TooBig(1400)));
    let Outcome::Error(told) = bench.ask_as(GUEST, &asking) else {
        panic!("none is told")
    };
    assert_eq!((told.error, told.about), (SocketError::TooBig(1400), about));
    bench.host.answers.push_back(Err(SocketError::WouldBlock));
    assert!(matches!(bench.ask_as(GUEST, &asking), Outcome::Blocked(_)));
    assert_eq!(bench.ask_as(GUEST, &asking), Outcome::Sent);
    assert!(bench.host.last().options.dont_fragment);
    bench.ends();
}

#[test]
fn hops_and_addresses_are_minded() {
    let [guest, peer, _] = ADDRESSES[0];
    let mut bench = Bench::new();
    for (hop_limit, goes_with) in [(64, None), (2, Some(1))] {
        let asking = EchoRequest {
            hop_limit,
            ..request(guest, peer, ECHO)
        };
        assert_eq!(bench.ask_as(GUEST, &asking), Outcome::Sent);
        assert_eq!(bench.host.last().options.hop_limit, goes_with);
    }
    let asking = EchoRequest {
        hop_limit: 1,
        ..request(guest, peer, ECHO)
    };
    let Outcome::Error(told) = bench.ask_as(GUEST, &asking) else {
        panic!("none is told")
    };
    assert_eq!(told.error, SocketError::TimeExceeded);
    for (source, destination, reason) in [
        (guest, "224.0.0.1", DropReason::Destination),
        ("127.0.0.1", peer, DropReason::MartianSource),
    ] {
        let outcome = bench.ask_as(GUEST, &request(source, destination, ECHO));
        assert_eq!(outcome, Outcome::Dropped(reason));
    }
    let outcome = bench.ask_as(GUEST, &request(guest, "127.0.0.1", ECHO));
    assert!(matches!(outcome, Outcome::Error(_)));
    bench.ends();
}

proptest! {
    #[test]
    fn no_reply_is_too_odd(
        message in prop::collection::vec(any::<u8>(), 0..100),
        from: std::net::Ipv4Addr,
    ) {
        let [guest, peer, _] = ADDRESSES[0];
        let mut bench = Bench::new();
        let socket = bench.asked(guest, peer, ECHO);
        if let Ok(reply) = bench.echoes.from_host(socket, from.into(), &message) {
            prop_assert_eq!(reply.destination, guest.parse::<IpAddr>().unwrap());
            prop_assert_eq!(reply.echo.identifier, ECHO.identifier);
        }
        bench.echoes.error(socket, from.into(), SocketError::Refused, None, &message);
        prop_assert_eq!(bench.echoes.len(), 1);
        bench.ends();
    }
}
