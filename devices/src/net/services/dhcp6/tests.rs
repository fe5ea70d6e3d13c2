use std::collections::HashMap;

use proptest::prelude::*;

use super::super::leases::Limits;
use super::config::MOST_SERVERS;
use super::*;
use client::{Answer, Given, Message, option, options, solicit, to_server};

mod client;

const NOW: Time = Time(5_000_000_000);
const SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const OTHER_SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 9];

const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION: u8 = 11;

/// A packet of 1280 bytes without the headers of IPv6 and UDP.
const LONGEST_REPLY: usize = 1280 - 40 - 8;

const fn address(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, last)
}

const ELSEWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 9);

fn mac(last: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
}

fn after(seconds: u64) -> Time {
    NOW + Duration::from_secs(seconds)
}

fn config() -> Config {
    Config {
        mac: mac(1),
        prefix: "fd00::/64".parse().unwrap(),
        gateway: vec![address(1)],
        pool: address(0x10)..=address(0x19),
        reservations: HashMap::from([(mac(99), address(0x200))]),
        preferred: Duration::from_secs(1800),
        valid: Duration::from_secs(3600),
        dns: vec![address(1)],
        domain: Some("nest.example".into()),
        limits: Limits {
            total: 100,
            per_port: 4,
        },
    }
}

fn server() -> Server {
    Server::new(config()).unwrap()
}

fn given(addresses: &[Ipv6Addr]) -> Given {
    Given {
        times: [900, 1440],
        addresses: addresses
            .iter()
            .map(|address| (*address, 1800, 3600))
            .collect(),
        status: None,
    }
}

fn refused(status: u8) -> Given {
    Given {
        times: [0, 0],
        addresses: Vec::new(),
        status: Some(status),
    }
}

fn send_behind(
    server: &mut Server,
    now: Time,
    port: PortNumber,
    message: &Message,
) -> Result<Answer, Ignored> {
    let from = (port, mac(message.client));
    let outcome = server.receive(now, from, LINK_LOCAL, ALL_SERVERS, &message.bytes())?;
    assert_eq!(outcome.reply[1..4], [0xAA, 0xBB, message.client]);
    let answer = Answer {
        kind: outcome.reply[0],
        options: options(&outcome.reply[4..]),
        events: outcome.events,
    };
    assert_eq!(answer.option(2), Some(&SERVER[..]));
    Ok(answer)
}

fn send(server: &mut Server, now: Time, message: &Message) -> Result<Answer, Ignored> {
    send_behind(server, now, 1, message)
}

/// Gets a client its address.
fn bind(server: &mut Server, now: Time, client: u8) -> Ipv6Addr {
    let address = send(server, now, &solicit(client)).unwrap().address();
    let reply = send(server, now, &to_server(REQUEST, client, &[address])).unwrap();
    assert_eq!(reply.given(), [given(&[address])]);
    address
}

#[test]
fn a_client_gets_an_offer_and_a_lease() {
    let mut server = server();
    let offer = send(&mut server, NOW, &solicit(7)).unwrap();
    assert_eq!(offer.kind, 2);
    assert_eq!(offer.option(1), Some(&[0, 3, 0, 1, 2, 0, 0, 0, 0, 7][..]));
    assert_eq!(offer.option(7), Some(&[255][..]));
    assert_eq!(offer.given(), [given(&[address(0x10)])]);
    assert_eq!(offer.option(23), Some(&address(1).octets()[..]));
    assert_eq!(offer.option(24), Some(&b"\x04nest\x07example\0"[..]));
    assert_eq!(offer.events, []);

    let name = b"\x00\x03LAB\x03org\x00";
    let taking = to_server(REQUEST, 7, &[address(0x10)]).option(39, name);
    let reply = send(&mut server, NOW, &taking).unwrap();
    assert_eq!(reply.kind, 7);
    assert_eq!(reply.given(), [given(&[address(0x10)])]);
    let bound = Event::Bound {
        address: address(0x10),
        name: Some("lab".into()),
        until: after(3600),
    };
    assert_eq!(reply.events, [bound]);
    let leases: Vec<_> = server.leases().collect();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].1.client.association, [0, 0, 0, 1]);
    assert_eq!(leases[0].1.name.as_deref(), Some("lab"));
}

#[test]
fn who_is_in_a_hurry_gets_it_at_once() {
    let mut server = server();
    let reply = send(&mut server, NOW, &solicit(7).option(14, &[])).unwrap();
    assert_eq!((reply.kind, reply.option(14)), (7, Some(&[][..])));
    assert_eq!(reply.given(), [given(&[address(0x10)])]);
    assert_eq!(reply.events.len(), 1);
    // With nothing to give, there is nothing to commit.
    let nothing = Message::new(SOLICIT, 8)
        .option(14, &[])
        .option(25, &[0; 12]);
    let offer = send(&mut server, NOW, &nothing).unwrap();
    assert_eq!((offer.kind, offer.option(14)), (2, None));
}

#[test]
fn only_what_is_asked_for_is_told() {
    let mut server = server();
    let offer = send(&mut server, NOW, &solicit(7).option(6, &[0, 24, 0, 82])).unwrap();
    assert_eq!((offer.option(23), offer.option(24).is_some()), (None, true));
    for message in [
        Message::new(INFORMATION, 7).option(6, &[0, 23]),
        Message::nameless(INFORMATION, 7)
            .server()
            .option(6, &[0, 23]),
    ] {
        let reply = send(&mut server, NOW, &message).unwrap();
        assert_eq!((reply.kind, reply.option(24)), (7, None));
        assert!(reply.option(23).is_some());
        let named = message.options[1] == 1;
        assert_eq!(reply.option(1).is_some(), named);
    }
}

#[test]
fn each_association_is_served_for_itself() {
    let mut server = server();
    let message = Message::new(SOLICIT, 7)
        .association(1, &[])
        .association(2, &[address(0x15)])
        .option(4, &[0, 0, 0, 3])
        .option(25, &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    let offer = send(&mut server, NOW, &message).unwrap();
    let expected = [given(&[address(0x10)]), given(&[address(0x15)])];
    assert_eq!(offer.given(), expected);
    // Temporary addresses and prefixes aren't to be had.
    let status = |status| option(13, &[0, status]);
    let temporary = [&[0, 0, 0, 3][..], &status(2)].concat();
    assert_eq!(offer.option(4), Some(&temporary[..]));
    let prefixes = [&[0, 0, 0, 4][..], &[0; 8], &status(6)].concat();
    assert_eq!(offer.option(25), Some(&prefixes[..]));
}

#[test]
fn an_address_of_another_link_is_refused() {
    let mut server = server();
    let reply = send(&mut server, NOW, &to_server(REQUEST, 7, &[ELSEWHERE])).unwrap();
    assert_eq!(reply.given(), [refused(4)]);
    assert_eq!(reply.events, []);
    for (addresses, expected) in [
        (vec![address(0x77)], Ok(Some(0))),
        (vec![address(0x77), ELSEWHERE], Ok(Some(4))),
        (vec![], Err(Ignored::NothingToConfirm)),
    ] {
        let message = Message::new(CONFIRM, 7).association(1, &addresses);
        let answer = send(&mut server, NOW, &message).map(|answer| answer.status());
        assert_eq!(answer, expected, "{addresses:?}");
    }
    assert_eq!(server.leases().count(), 0);
}

#[test]
fn a_lease_ends_unless_it_is_extended() {
    let mut server = server();
    let first = bind(&mut server, NOW, 7);
    for (kind, time) in [(RENEW, 900), (REBIND, 4000)] {
        let mut message = Message::new(kind, 7);
        if kind == RENEW {
            message = message.server();
        }
        let message = message.association(1, &[first]);
        let reply = send(&mut server, after(time), &message).unwrap();
        assert_eq!((reply.kind, reply.given()), (7, vec![given(&[first])]));
        let Event::Bound { until, .. } = reply.events[0] else {
            panic!("{reply:?}");
        };
        assert_eq!(until, after(time + 3600));
    }
    for client in 10..17 {
        let port = u32::from(client);
        send_behind(&mut server, after(4000), port, &solicit(client)).unwrap();
    }
    // The last two of ten are another's once they ended.
    for client in 20..22 {
        let port = u32::from(client);
        send_behind(&mut server, after(4000), port, &solicit(client)).unwrap();
    }
    let none = send_behind(&mut server, after(4050), 30, &solicit(30)).unwrap();
    assert_eq!(none.given(), [refused(2)]);
    let late = send_behind(&mut server, after(7600), 30, &solicit(30)).unwrap();
    assert_eq!(late.given()[0].status, None);
}

#[test]
fn a_server_that_forgot_gives_the_same_again() {
    let mut server = server();
    let renew = to_server(RENEW, 7, &[address(0x17)]);
    let reply = send(&mut server, NOW, &renew).unwrap();
    assert_eq!(reply.given(), [given(&[address(0x17)])]);
    // What is another's, or of another link, ends.
    let rebind = Message::new(REBIND, 8).association(1, &[address(0x17), ELSEWHERE]);
    let reply = send(&mut server, NOW, &rebind).unwrap();
    let expected = [
        (address(0x10), 1800, 3600),
        (address(0x17), 0, 0),
        (ELSEWHERE, 0, 0),
    ];
    assert_eq!(reply.given()[0].addresses, expected);
    // Without room, the client is told that nothing of it is known.
    for client in 9..11 {
        bind(&mut server, NOW, client);
    }
    let reply = send(&mut server, NOW, &to_server(RENEW, 12, &[address(0x18)])).unwrap();
    assert_eq!(reply.given(), [refused(3)]);
}

#[test]
fn only_the_holder_gives_an_address_back() {
    let mut server = server();
    let first = bind(&mut server, NOW, 7);
    let stranger = send(&mut server, NOW, &to_server(RELEASE, 8, &[first])).unwrap();
    assert_eq!(
        (stranger.status(), stranger.given()),
        (Some(0), vec![refused(3)])
    );
    assert_eq!(stranger.events, []);
    let namesake = send_behind(&mut server, NOW, 2, &to_server(RELEASE, 7, &[first])).unwrap();
    assert_eq!(namesake.events, []);
    let other = send(&mut server, NOW, &to_server(RELEASE, 7, &[address(0x11)])).unwrap();
    assert_eq!(
        (other.status(), other.given(), other.events),
        (Some(0), vec![], vec![])
    );
    let reply = send(&mut server, NOW, &to_server(RELEASE, 7, &[first])).unwrap();
    assert_eq!((reply.status(), reply.given()), (Some(0), vec![]));
    assert_eq!(reply.events, [Event::Freed(first)]);
    // It is kept for its client as long as nobody else wants it.
    assert_eq!(bind(&mut server, NOW, 7), first);
}

#[test]
fn a_declined_address_rests() {
    let mut server = server();
    let first = bind(&mut server, NOW, 7);
    let reply = send(&mut server, NOW, &to_server(DECLINE, 7, &[first])).unwrap();
    assert_eq!(reply.events, [Event::Freed(first)]);
    let wish = Message::new(SOLICIT, 7).association(1, &[first]);
    assert_ne!(
        send(&mut server, after(599), &wish).unwrap().address(),
        first
    );
    let wish = Message::new(SOLICIT, 8).association(1, &[first]);
    assert_eq!(
        send(&mut server, after(600), &wish).unwrap().address(),
        first
    );
}

#[test]
fn a_reservation_is_its_macs() {
    let mut server = server();
    assert_eq!(bind(&mut server, NOW, 99), address(0x200));
    // A second association of the client doesn't take it from the first, but
    // another system on the same machine does.
    let second = Message::new(SOLICIT, 99).association(2, &[]);
    assert_eq!(
        send(&mut server, NOW, &second).unwrap().address(),
        address(0x10)
    );
    let other_system = Message::nameless(SOLICIT, 99)
        .option(1, &[0, 2, 0, 0, 0, 9, 1])
        .association(2, &[]);
    assert_eq!(
        send(&mut server, NOW, &other_system).unwrap().address(),
        address(0x200)
    );
    let stranger = Message::new(SOLICIT, 5).association(1, &[address(0x200)]);
    let given = send(&mut server, NOW, &stranger).unwrap().address();
    assert_ne!(given, address(0x200));
}

#[test]
fn a_port_has_its_share_and_no_more() {
    let mut server = server();
    for client in 1..=4 {
        bind(&mut server, NOW, client);
    }
    let none = send(&mut server, NOW, &solicit(5)).unwrap();
    assert_eq!(none.given(), [refused(2)]);
    let elsewhere = send_behind(&mut server, NOW, 2, &solicit(5)).unwrap();
    assert_eq!(elsewhere.given()[0].status, None);
    server.forget_port(1);
    assert_eq!(
        send(&mut server, NOW, &solicit(6)).unwrap().given()[0].status,
        None
    );

    // Whatever the limits are, a port doesn't get a whole pool.
    let config = Config {
        limits: Limits::default(),
        ..config()
    };
    let mut server = Server::new(config).unwrap();
    let served = (1..=20).filter(|client| {
        let offer = send(&mut server, NOW, &solicit(*client)).unwrap();
        offer.given()[0].status.is_none()
    });
    assert_eq!(served.count(), 8);
}

#[test]
fn messages_come_from_and_to_the_right_addresses() {
    let mut server = server();
    let from = (1, mac(7));
    let wrong = Err(Ignored::WrongAddress);
    let mut receive = |source, destination, message: &Message| {
        let outcome = server.receive(NOW, from, source, destination, &message.bytes());
        outcome.map(|outcome| options(&outcome.reply[4..]))
    };
    for source in [address(7), Ipv6Addr::UNSPECIFIED, ELSEWHERE, ALL_SERVERS] {
        assert_eq!(receive(source, ALL_SERVERS, &solicit(7)), wrong, "{source}");
    }
    let site = "ff05::1:3".parse().unwrap();
    assert_eq!(receive(LINK_LOCAL, site, &solicit(7)), wrong);
    assert_eq!(receive(LINK_LOCAL, address(1), &solicit(7)), wrong);
    let inform = Message::new(INFORMATION, 7).server();
    assert_eq!(receive(LINK_LOCAL, address(1), &inform), wrong);
    // Who leaves the multicast address out is told to use it.
    for kind in [REQUEST, RENEW, RELEASE, DECLINE] {
        let message = to_server(kind, 7, &[address(0x10)]);
        let reply = receive(address(7), address(1), &message).unwrap();
        assert!(reply.contains(&(13, vec![0, 5])), "{kind}");
        assert_eq!(receive(ELSEWHERE, address(1), &message), wrong);
    }
    assert_eq!(server.leases().count(), 0);
}

#[test]
fn what_a_kind_must_and_must_not_say() {
    let mut server = server();
    for kind in [SOLICIT, CONFIRM, REBIND] {
        let named = Message::new(kind, 7).server();
        assert_eq!(
            send(&mut server, NOW, &named).err(),
            Some(Ignored::Malformed)
        );
    }
    for kind in [REQUEST, RENEW, RELEASE, DECLINE] {
        for (message, expected) in [
            (Message::new(kind, 7), Ignored::Malformed),
            (Message::nameless(kind, 7).server(), Ignored::Malformed),
            (
                Message::new(kind, 7).option(2, &OTHER_SERVER),
                Ignored::OtherServer,
            ),
        ] {
            assert_eq!(send(&mut server, NOW, &message).err(), Some(expected));
        }
    }
    for (message, expected) in [
        (Message::nameless(SOLICIT, 7), Ignored::Malformed),
        (
            Message::new(INFORMATION, 7).association(1, &[]),
            Ignored::Malformed,
        ),
        (
            Message::new(INFORMATION, 7).option(2, &OTHER_SERVER),
            Ignored::OtherServer,
        ),
        (Message::new(2, 7), Ignored::Malformed),
        (Message::new(7, 7), Ignored::Malformed),
        (Message::new(10, 7), Ignored::Malformed),
        (Message::new(0, 7), Ignored::Malformed),
        (Message::new(14, 7), Ignored::Malformed),
        (Message::new(12, 7), Ignored::Relayed),
    ] {
        assert_eq!(send(&mut server, NOW, &message).err(), Some(expected));
    }
}

#[test]
fn messages_that_break_the_format_are_dropped() {
    let mut server = server();
    let good = solicit(7);
    let nested = |inner: &[u8]| solicit(7).option(3, &[&[0; 12], inner].concat());
    let many = |count: u8| {
        (0..count).fold(Message::new(SOLICIT, 7), |message, id| {
            message.association(id, &[])
        })
    };
    for (name, message) in [
        ("two names", good.clone().option(1, &[0, 3, 0, 1])),
        (
            "an empty name",
            Message::nameless(SOLICIT, 7).option(1, &[]),
        ),
        (
            "a long name",
            Message::nameless(SOLICIT, 7).option(1, &[0; 131]),
        ),
        ("half a code", good.clone().option(6, &[0, 23, 0])),
        ("a short association", good.clone().option(3, &[0; 11])),
        ("a short temporary one", good.clone().option(4, &[0; 3])),
        ("a short address", nested(&option(5, &[0; 23]))),
        ("an address that runs out", nested(&[0, 5, 0, 24, 0])),
        (
            "an address with half an option",
            nested(&option(5, &[1; 25])),
        ),
        ("no flags before the name", good.clone().option(39, &[])),
        ("too many associations", many(7)),
        (
            "too many addresses",
            Message::new(SOLICIT, 7).association(1, &[ELSEWHERE; 9]),
        ),
    ] {
        let answer = send(&mut server, NOW, &message);
        assert_eq!(answer.err(), Some(Ignored::Malformed), "{name}");
    }
    let bytes = good.bytes();
    for length in (0..bytes.len()).filter(|length| ![4, 18].contains(length)) {
        assert_eq!(Request::parse(&bytes[..length]), None, "{length}");
    }
    assert!(send(&mut server, NOW, &many(6)).is_ok());
}

/// A configuration with all that a reply can say.
fn talkative() -> Config {
    Config {
        dns: vec![address(1); MOST_SERVERS],
        domain: Some(vec!["a2345678"; 28].join(".")),
        ..config()
    }
}

#[test]
fn the_longest_reply_fits_in_every_packet() {
    let config = Config {
        limits: Limits::default(),
        ..talkative()
    };
    let mut server = Server::new(config).unwrap();
    let mut message = Message::nameless(RENEW, 7).server().option(1, &[7; 130]);
    for id in 0..4 {
        message = message.association(id, &[]);
    }
    for id in 4..6 {
        message = message.association(id, &[ELSEWHERE; 4]);
    }
    let from = (1, mac(7));
    let outcome = server.receive(NOW, from, LINK_LOCAL, ALL_SERVERS, &message.bytes());
    let length = outcome.unwrap().reply.len();
    assert!((1000..=LONGEST_REPLY).contains(&length), "{length}");
}

type Edit = fn(&mut Config);

#[test]
fn contradictions_in_a_configuration_are_named() {
    let edits: [(Edit, &str); 10] = [
        (
            |c| c.pool = address(0)..=address(9),
            "the pool's start fd00::",
        ),
        (
            |c| c.pool = address(9)..=ELSEWHERE,
            "the pool's end 2001:db8::1",
        ),
        (|c| c.pool = address(9)..=address(8), "is empty"),
        (
            |c| c.reservations.extend([(mac(1), ELSEWHERE)]),
            "the reservation 2001:db8::1",
        ),
        (
            |c| c.reservations.extend([(mac(1), address(0x200))]),
            "fd00::200 is reserved twice",
        ),
        (
            |c| c.reservations.extend([(mac(1), address(1))]),
            "fd00::1 is reserved twice",
        ),
        (|c| c.preferred = Duration::from_secs(3601), "3601s"),
        (|c| c.preferred = Duration::from_secs(59), "59s"),
        (|c| c.domain = Some("a b".into()), "not a domain name"),
        (|c| c.dns = vec![ELSEWHERE; 9], "9 name servers"),
    ];
    for (edit, message) in edits {
        let mut config = config();
        edit(&mut config);
        let error = Server::new(config).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

/// An option that a client may send, whole or broken.
fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let value = proptest::collection::vec(any::<u8>(), 0..60);
    let codes = prop_oneof![0u16..30, Just(39), any::<u16>()];
    let broken = (codes, value).prop_map(|(code, value)| option(code, &value));
    let addresses = proptest::collection::vec(
        prop_oneof![
            (0u16..32).prop_map(address),
            any::<u128>().prop_map(Ipv6Addr::from),
        ],
        0..3,
    );
    let association = (0u8..8, addresses)
        .prop_map(|(id, addresses)| Message::nameless(0, 0).association(id, &addresses).options);
    let lesser = prop_oneof![Just(option(25, &[0; 12])), Just(option(4, &[0; 4]))];
    let names = prop_oneof![Just(option(2, &SERVER)), Just(option(14, &[]))];
    prop_oneof![broken, association, lesser, names]
}

proptest! {
    #[test]
    fn arbitrary_messages_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0u8..15,
        parts in proptest::collection::vec(any_option(), 0..9),
        names in (any::<bool>(), any::<bool>()),
        to_all: bool,
    ) {
        let mut server = Server::new(talkative()).unwrap();
        let _ = server.receive(NOW, (1, mac(7)), LINK_LOCAL, ALL_SERVERS, &bytes);
        let mut message = Message::nameless(kind, 7);
        if names.0 {
            message = message.option(1, &[7; 130]);
        }
        if names.1 {
            message = message.server();
        }
        message.options.extend(parts.concat());
        let destination = if to_all { ALL_SERVERS } else { address(1) };
        let outcome = server.receive(NOW, (1, mac(7)), LINK_LOCAL, destination, &message.bytes());
        if let Ok(outcome) = outcome {
            prop_assert!(outcome.reply.len() <= LONGEST_REPLY, "{}", outcome.reply.len());
            prop_assert!(!options(&outcome.reply[4..]).is_empty());
        }
        prop_assert!(server.leases().count() <= 4);
    }

    #[test]
    fn no_address_has_two_clients(
        steps in proptest::collection::vec((0..5u8, 0..3u32, 0..3u8, 0..6u8, 0..900u64), 1..80),
    ) {
        let mut server = server();
        let mut now = NOW;
        let mut held: HashMap<Ipv6Addr, ((u8, u32, u8), Time)> = HashMap::new();
        for (client, port, id, what, wait) in steps {
            now = now + Duration::from_secs(wait);
            held.retain(|_, (_, until)| *until > now);
            let me = (client, port, id);
            let mine = held.iter().find(|(_, (of, _))| *of == me).map(|(address, _)| *address);
            let mine: Vec<_> = mine.into_iter().collect();
            let message = match what {
                0 => Message::new(SOLICIT, client + 1).option(14, &[]),
                1 => Message::new(RENEW, client + 1).server(),
                2 => Message::new(REBIND, client + 1),
                3 => Message::new(RELEASE, client + 1).server(),
                4 => Message::new(DECLINE, client + 1).server(),
                _ => Message::new(REQUEST, client + 1).server(),
            };
            let answer = send_behind(&mut server, now, port, &message.association(id, &mine)).unwrap();
            for event in answer.events {
                match event {
                    Event::Freed(address) => {
                        prop_assert_eq!(held.remove(&address).unwrap().0, me);
                    }
                    Event::Bound { address, until, .. } => {
                        if let Some((other, _)) = held.insert(address, (me, until)) {
                            prop_assert_eq!(other, me);
                        }
                    }
                }
            }
            for port in 0..3 {
                prop_assert!(held.values().filter(|((_, of, _), _)| *of == port).count() <= 4);
            }
        }
    }
}
