//! The client against the project's own server, by a clock of their own.

use std::collections::HashMap;

use nestling_devices::net::services::dhcp4::{Config, Destination, Event, Server};
use nestling_devices::net::services::leases::Limits;
use proptest::prelude::*;

use super::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 10);

fn mac() -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap()
}

fn server() -> Server {
    Server::new(Config {
        server: SERVER,
        prefix: "192.168.100.0/24".parse().unwrap(),
        pool: FIRST..=Ipv4Addr::new(192, 168, 100, 19),
        reservations: HashMap::new(),
        lease: Duration::from_secs(3600),
        router: Some(SERVER),
        dns: vec![SERVER],
        domain: Some("internal".into()),
        mtu: Some(65520),
        routes: Vec::new(),
        limits: Limits {
            total: 100,
            per_port: 10,
        },
    })
    .unwrap()
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

/// A message's kind, and where it goes.
fn kind(action: &Action) -> (MessageType, Ipv4Addr) {
    match action {
        Action::Send(to, message) => (Request::parse(message).unwrap().kind, *to),
        other => panic!("not a message: {other:?}"),
    }
}

/// Brings the client's message to the server, and its answer to the client.
fn exchange(client: &mut Machine, server: &mut Server, now: Time) -> Option<Action> {
    let Some(Action::Send(_, message)) = client.poll(now) else {
        panic!("nothing to send");
    };
    let outcome = server.receive(now, 1, mac(), &message).unwrap();
    client.receive(now, &outcome.reply?.1)
}

fn bound(server: &mut Server) -> Machine {
    let mut client = Machine::new(mac(), "lab");
    assert_eq!(exchange(&mut client, server, at(0)), None);
    let action = exchange(&mut client, server, at(0));
    assert!(matches!(action, Some(Action::Bound(_))), "{action:?}");
    client
}

#[test]
fn a_lease_holds_all_that_the_server_told() {
    let expected = Lease {
        address: FIRST,
        prefix: 24,
        router: Some(SERVER),
        dns: vec![SERVER],
        domain: Some("internal".into()),
        mtu: Some(65520),
        server: SERVER,
        duration: Some(Duration::from_secs(3600)),
        renewal: Some(Duration::from_secs(1800)),
        rebinding: Some(Duration::from_secs(3150)),
    };
    let mut server = server();
    let client = bound(&mut server);
    assert_eq!(client.lease(), Some(&expected));
    assert_eq!(client.due(), at(1800));
    let text = "search internal\nnameserver 192.168.100.1\n";
    assert_eq!(expected.resolv_conf(), text);
}

#[test]
fn the_server_learns_the_client_s_name() {
    let mut server = server();
    let mut client = Machine::new(mac(), "lab");
    exchange(&mut client, &mut server, at(0));
    let Some(Action::Send(to, message)) = client.poll(at(0)) else {
        panic!("no request");
    };
    assert_eq!(to, Ipv4Addr::BROADCAST);
    let outcome = server.receive(at(0), 1, mac(), &message).unwrap();
    // Nobody without an address can be sent a unicast.
    assert!(matches!(outcome.reply, Some((Destination::Broadcast, _))));
    let expected = Event::Bound {
        address: FIRST,
        name: Some("lab".into()),
        until: at(3600),
    };
    assert_eq!(outcome.event, Some(expected));
}

#[test]
fn silence_is_met_with_longer_waits() {
    let mut client = Machine::new(mac(), "");
    let mut now = at(0);
    let mut numbers = Vec::new();
    for wait in [4, 8, 16, 32, 64, 64, 64] {
        let Some(Action::Send(_, message)) = client.poll(now) else {
            panic!("nothing to send");
        };
        numbers.push(Request::parse(&message).unwrap().transaction);
        assert_eq!(client.poll(now), None);
        let waits = client.due().since(now);
        let spread = Duration::from_secs(wait - 1)..=Duration::from_secs(wait + 1);
        assert!(spread.contains(&waits), "{waits:?}");
        now = client.due();
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "one exchange has one number");
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let mut server = server();
    let mut client = Machine::new(mac(), "");
    exchange(&mut client, &mut server, at(0));
    let kinds: Vec<_> = (0..6)
        .map(|_| kind(&client.poll(client.due()).unwrap()).0)
        .collect();
    let (asks, looks) = (MessageType::Request, MessageType::Discover);
    assert_eq!(kinds, [asks, asks, asks, asks, looks, looks]);
}

#[test]
fn a_lease_is_renewed_by_its_server() {
    let mut server = server();
    let mut client = bound(&mut server);
    assert_eq!(client.poll(at(1799)), None);
    let (kind, to) = kind(&client.poll(at(1800)).unwrap());
    assert_eq!((kind, to), (MessageType::Request, SERVER));
    // Half of the time until T2, at 3150 s.
    assert_eq!(client.due(), at(2475));
    let action = exchange(&mut client, &mut server, at(2475));
    assert!(matches!(action, Some(Action::Bound(_))), "{action:?}");
    assert_eq!(client.due(), at(2475 + 1800));
    client.renew(at(2500));
    let action = exchange(&mut client, &mut server, at(2500));
    assert!(matches!(action, Some(Action::Bound(_))), "{action:?}");
    assert_eq!(client.due(), at(2500 + 1800));
}

#[test]
fn any_server_may_extend_a_lease_at_last() {
    let mut server = server();
    let mut client = bound(&mut server);
    let mut seen = Vec::new();
    let end = loop {
        let now = client.due();
        match client.poll(now).unwrap() {
            Action::Lost => break now,
            action => seen.push((kind(&action).1, now)),
        }
    };
    assert_eq!(end, at(3600));
    assert!(seen.iter().all(|(to, now)| {
        *to == if *now < at(3150) {
            SERVER
        } else {
            Ipv4Addr::BROADCAST
        }
    }));
    for pair in seen.windows(2) {
        let ((before, sent), (to, now)) = (pair[0], pair[1]);
        assert!(before != to || now.since(sent) >= LEAST_RENEWAL);
    }
    assert!(client.lease().is_none());
    assert_eq!(kind(&client.poll(end).unwrap()).0, MessageType::Discover);
}

#[test]
fn a_withdrawn_lease_is_lost_at_once() {
    let mut old = server();
    let mut client = bound(&mut old);
    // Another client has the address by now.
    let other = MacAddress::new([2, 0, 0, 0, 0, 2]).unwrap();
    let mut server = server();
    let mut rival = Machine::new(other, "");
    for _ in 0..2 {
        let Some(Action::Send(_, message)) = rival.poll(at(0)) else {
            panic!("nothing to send");
        };
        let outcome = server.receive(at(0), 2, other, &message).unwrap();
        rival.receive(at(0), &outcome.reply.unwrap().1);
    }
    let action = exchange(&mut client, &mut server, at(1800));
    assert_eq!(action, Some(Action::Lost));
    exchange(&mut client, &mut server, at(1801));
    exchange(&mut client, &mut server, at(1801));
    let next = Ipv4Addr::new(192, 168, 100, 11);
    assert_eq!(client.lease().map(|lease| lease.address), Some(next));
}

#[test]
fn a_released_lease_is_free() {
    let mut server = server();
    let mut client = bound(&mut server);
    let (to, message) = client.release(at(5)).unwrap();
    assert_eq!(to, SERVER);
    let outcome = server.receive(at(5), 1, mac(), &message).unwrap();
    assert_eq!(outcome.event, Some(Event::Freed(FIRST)));
    assert_eq!(client.release(at(5)), None);
}

/// An offer or acknowledgement, changed.
fn changed(change: impl FnOnce(&mut Answer)) -> Option<Lease> {
    let mut server = server();
    let mut client = Machine::new(mac(), "");
    let Some(Action::Send(_, message)) = client.poll(at(0)) else {
        panic!("nothing to send");
    };
    let outcome = server.receive(at(0), 1, mac(), &message).unwrap();
    let mut answer = Answer::parse(&outcome.reply.unwrap().1).unwrap();
    change(&mut answer);
    lease(&answer)
}

#[test]
fn leases_that_cannot_be_are_not_taken() {
    assert!(changed(|_| {}).is_some());
    assert_eq!(changed(|answer| answer.lease_time = None), None);
    assert_eq!(changed(|answer| answer.lease_time = Some(9)), None);
    assert_eq!(changed(|answer| answer.server = None), None);
    assert_eq!(changed(|answer| answer.prefix = None), None);
    assert_eq!(
        changed(|answer| answer.address = [192, 168, 100, 255].into()),
        None
    );
    let endless = changed(|answer| answer.lease_time = Some(u32::MAX)).unwrap();
    assert_eq!((endless.duration, endless.renewal), (None, None));
    for times in [
        (None, None),
        (Some(0), None),
        (Some(3000), Some(2000)),
        (None, Some(4000)),
    ] {
        let lease = changed(|answer| (answer.renewal, answer.rebinding) = times).unwrap();
        let seconds = [lease.renewal, lease.rebinding].map(|time| time.unwrap().as_secs());
        assert_eq!(seconds, [1800, 3150], "{times:?}");
    }
}

proptest! {
    /// Whatever comes, the client asks at a bounded rate and never holds a
    /// lease past its end.
    #[test]
    fn hostile_answers_do_no_harm(
        steps in proptest::collection::vec(
            (0..2000u64, 0..4usize, proptest::collection::vec((0..548usize, any::<u8>()), 0..6)),
            1..60,
        ),
    ) {
        let mut server = server();
        let mut client = Machine::new(mac(), "lab");
        let mut now = at(0);
        let mut granted = at(0);
        for (wait, answered, damage) in steps {
            now = now + Duration::from_secs(wait);
            let mut messages = 0;
            while let Some(action) = client.poll(now) {
                let Action::Send(_, message) = action else { continue };
                messages += 1;
                let Ok(outcome) = server.receive(now, 1, mac(), &message) else { continue };
                let Some((_, mut reply)) = outcome.reply.filter(|_| answered > 0) else { continue };
                for (at, byte) in damage.iter().filter(|_| answered > 2) {
                    if let Some(target) = reply.get_mut(*at) {
                        *target = *byte;
                    }
                }
                if let Some(Action::Bound(lease)) = client.receive(now, &reply) {
                    granted = now + lease.duration.unwrap_or(Duration::MAX);
                }
            }
            prop_assert!(messages <= 3, "{messages} messages at once");
            prop_assert!(client.due() > now);
            prop_assert!(client.lease().is_none() || now < granted);
        }
    }
}
