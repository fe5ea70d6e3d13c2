use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const NOW: Time = Time(7_000_000_000);
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

fn at(milliseconds: u64) -> Time {
    NOW + Duration::from_millis(milliseconds)
}

fn mac(last: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
}

fn resolver(last: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, last), PORT).into()
}

fn config() -> Config {
    Config {
        zone: Zone {
            domain: Some("nest.example".into()),
            prefixes4: vec!["192.168.100.0/24".parse().unwrap()],
            prefixes6: vec!["fd00::/64".parse().unwrap()],
        },
        limits: Limits {
            total: 8,
            per_port: 4,
        },
        longest_datagram: 1232,
    }
}

fn dns(resolvers: &[u8]) -> Dns {
    let mut dns = Dns::new(config(), RandomState::new()).unwrap();
    let servers: Vec<_> = resolvers.iter().map(|last| resolver(*last)).collect();
    dns.set_servers(&servers);
    let gateway: IpAddr = "192.168.100.1".parse().unwrap();
    dns.names.fix("gateway", gateway);
    for address in ["192.168.100.10", "fd00::10"] {
        let address = address.parse().unwrap();
        dns.names
            .lease(NOW, (1, mac(1)), address, Some("lab"), at(100_000));
    }
    dns
}

fn client(port: PortNumber) -> Client {
    Client {
        port,
        mac: mac(1),
        source: (Ipv4Addr::new(192, 168, 100, 10), 40000).into(),
        asked: Ipv4Addr::new(192, 168, 100, 1).into(),
    }
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// A query as a stub resolver sends it: recursion desired.
fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend(question(name, kind));
    bytes
}

/// The same with EDNS: 4096 bytes, DNSSEC.
fn with_edns(mut query: Vec<u8>, version: u8) -> Vec<u8> {
    query[11] = 1;
    query.extend([0, 0, 41, 0x10, 0, 0, version, 0x80, 0, 0, 4, 0, 10, 0, 0]);
    query
}

fn sent(action: Action<'_>) -> (Exchange, SocketAddr, Vec<u8>) {
    match action {
        Action::Send(upstream) => (
            upstream.exchange,
            upstream.server,
            upstream.message.to_vec(),
        ),
        other => panic!("{other:?}"),
    }
}

fn replied(action: Action<'_>) -> Vec<u8> {
    match action {
        Action::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn flags(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[2], message[3]])
}

fn rcode(message: &[u8]) -> u16 {
    flags(message) & 0xF
}

/// The answer of a resolver to what it was sent.
fn answer_to(message: &[u8], flags: u16, rest: &[u8]) -> Vec<u8> {
    let mut answer = message.to_vec();
    answer[2..4].copy_from_slice(&flags.to_be_bytes());
    answer.extend(rest);
    answer
}

#[test]
fn a_query_goes_out_and_its_answer_comes_back_byte_for_byte() {
    for rcode in [0, 2, 3, 5] {
        let mut dns = dns(&[1]);
        let asked = with_edns(query(0x1234, "www.example.org", A), 0);
        let (exchange, server, message) = sent(dns.query(NOW, client(1), &asked).unwrap());
        assert_eq!(server, resolver(1));
        assert_eq!(message[2..], asked[2..]);
        let answer = answer_to(&message, 0x81A0 | rcode, b"any records, any additional");
        let (to, reply) = dns.answer(exchange, server, &answer).unwrap();
        assert_eq!(to, client(1));
        assert_eq!(reply[..2], [0x12, 0x34]);
        assert_eq!(reply[2..], answer[2..]);
        assert!(dns.is_empty());
        assert_eq!(dns.deadline(), None);
        assert_eq!(dns.answer(exchange, server, &answer), None);
    }
}

#[test]
fn ids_are_drawn_anew() {
    let mut dns = dns(&[1]);
    let mut ids = std::collections::HashSet::new();
    for _ in 0..200 {
        let asked = query(0, "www.example.org", A);
        let (exchange, server, message) = sent(dns.query(NOW, client(1), &asked).unwrap());
        ids.insert([message[0], message[1]]);
        let answer = answer_to(&message, 0x8180, &[]);
        assert!(dns.answer(exchange, server, &answer).is_some());
    }
    // 200 draws of 65536 hardly ever meet ten times.
    assert!(ids.len() > 190, "{}", ids.len());
}

#[test]
fn only_the_answer_is_taken() {
    let mut dns = dns(&[1, 2]);
    let asked = query(7, "www.example.org", A);
    let (exchange, server, message) = sent(dns.query(NOW, client(1), &asked).unwrap());
    let good = answer_to(&message, 0x8180, &[]);
    let edit = |at: usize, bits: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= bits;
        bytes
    };
    for (name, from, answer) in [
        ("another's", resolver(9), good.clone()),
        ("of one not asked yet", resolver(2), good.clone()),
        ("another id", server, edit(1, 1)),
        ("a query", server, edit(2, 0x80)),
        ("an update", server, edit(2, 0x28)),
        ("another name", server, edit(13, 1)),
        ("another type", server, edit(good.len() - 3, 1)),
        ("another class", server, edit(good.len() - 1, 2)),
        ("no question", server, edit(5, 1)),
        ("two questions", server, edit(5, 3)),
        ("cut short", server, good[..good.len() - 1].to_vec()),
        ("nothing", server, Vec::new()),
    ] {
        assert_eq!(dns.answer(exchange, from, &answer), None, "{name}");
    }
    // The case of letters may change, and a failure may lack the question.
    assert!(dns.answer(exchange, server, &edit(13, 0x20)).is_some());
    let (exchange, server, message) = sent(dns.query(NOW, client(1), &asked).unwrap());
    let mut failure = answer_to(&message, 0x8181, &[])[..12].to_vec();
    failure[5] = 0;
    assert!(dns.answer(exchange, server, &failure).is_some());
}

#[test]
fn silent_resolvers_are_passed_over() {
    let mut dns = dns(&[1, 2]);
    let asked = query(7, "www.example.org", A);
    let (exchange, _, first) = sent(dns.query(NOW, client(1), &asked).unwrap());
    for (time, last) in [(2000, 2), (4000, 1), (6000, 2)] {
        assert_eq!(dns.deadline(), Some(at(time)));
        assert_eq!(dns.timeout(at(time - 1)), None);
        let expected = Upstream {
            exchange,
            server: resolver(last),
            message: &first,
        };
        assert_eq!(dns.timeout(at(time)), Some(Timeout::Send(expected)));
    }
    let Some(Timeout::GiveUp(ended, to, reply)) = dns.timeout(at(8000)) else {
        panic!("gives up");
    };
    assert_eq!((ended, to), (exchange, client(1)));
    assert_eq!(reply[..4], [0, 7, 0x81, 0x82]);
    assert_eq!(reply[12..], asked[12..]);
    assert!(dns.is_empty());
    assert_eq!(dns.timeout(at(8000)), None);
}

#[test]
fn an_answer_may_come_late_and_the_resolver_that_answers_is_asked_first() {
    let mut dns = dns(&[1, 2]);
    let asked = query(7, "www.example.org", A);
    let (exchange, server, message) = sent(dns.query(NOW, client(1), &asked).unwrap());
    assert!(matches!(dns.timeout(at(2000)), Some(Timeout::Send(_))));
    let answer = answer_to(&message, 0x8180, &[]);
    assert!(dns.answer(exchange, server, &answer).is_some());
    let (_, server, _) = sent(dns.query(at(2000), client(1), &asked).unwrap());
    assert_eq!(server, resolver(2));
    dns.set_servers(&[resolver(1), resolver(2)]);
    let other = query(8, "www.example.org", A);
    let (_, server, _) = sent(dns.query(at(2000), client(1), &other).unwrap());
    assert_eq!(server, resolver(2));
    dns.set_servers(&[resolver(3)]);
    let other = query(9, "www.example.org", A);
    let (_, server, _) = sent(dns.query(at(2000), client(1), &other).unwrap());
    assert_eq!(server, resolver(3));
}

#[test]
fn resolvers_that_fail_are_not_waited_for() {
    let mut dns = dns(&[1, 2]);
    let asked = query(7, "www.example.org", A);
    let (exchange, server, _) = sent(dns.query(NOW, client(1), &asked).unwrap());
    dns.failed(at(1), exchange, resolver(2));
    assert_eq!(dns.timeout(at(1)), None);
    let mut server = server;
    for _ in 0..3 {
        dns.failed(at(1), exchange, server);
        let Some(Timeout::Send(upstream)) = dns.timeout(at(1)) else {
            panic!("asks the next");
        };
        server = upstream.server;
    }
    dns.failed(at(1), exchange, server);
    assert!(matches!(dns.timeout(at(1)), Some(Timeout::GiveUp(..))));
    dns.failed(at(1), exchange, server);
    assert_eq!(dns.deadline(), None);
}

#[test]
fn without_resolvers_queries_fail_at_once() {
    let mut dns = dns(&[]);
    let asked = query(7, "www.example.org", A);
    let reply = replied(dns.query(NOW, client(1), &asked).unwrap());
    assert_eq!(rcode(&reply), 2);
    assert!(dns.is_empty());
}

#[test]
fn truncation_passes_and_long_answers_are_truncated() {
    let mut dns = dns(&[1]);
    let asked = with_edns(query(7, "www.example.org", A), 0);
    let (exchange, server, message) = sent(dns.query(NOW, client(1), &asked).unwrap());
    let answer = answer_to(&message, 0x8380, &[]);
    let (_, reply) = dns.answer(exchange, server, &answer).unwrap();
    assert_eq!(reply[2..], answer[2..]);

    for (length, is_cut) in [(1232, false), (1233, true)] {
        let (exchange, server, message) = sent(dns.query(NOW, client(1), &asked).unwrap());
        let answer = answer_to(&message, 0x8180, &vec![0; length - message.len()]);
        let (_, reply) = dns.answer(exchange, server, &answer).unwrap();
        assert_eq!(reply[..2], [0, 7]);
        assert_eq!(flags(&reply) & 0x0200 != 0, is_cut);
        assert!(reply.len() <= 1232);
    }
}

#[test]
fn a_question_asked_again_is_asked_once() {
    let mut dns = dns(&[1]);
    let asked = query(7, "www.example.org", A);
    let (exchange, ..) = sent(dns.query(NOW, client(1), &asked).unwrap());
    let again = dns.query(at(500), client(1), &asked);
    assert_eq!(again, Ok(Action::Wait));
    // The id of a client may stand for two questions.
    let other = query(7, "www.example.org", AAAA);
    let (second, ..) = sent(dns.query(at(500), client(1), &other).unwrap());
    assert_ne!(exchange, second);
    assert_eq!(dns.len(), 2);
}

#[test]
fn a_port_has_its_share_and_no_more() {
    let mut dns = dns(&[1]);
    let mut ask = |port: PortNumber, id: u16| {
        let asked = query(id, "www.example.org", A);
        match dns.query(NOW, client(port), &asked).unwrap() {
            Action::Reply(reply) => Some(rcode(&reply)),
            _ => None,
        }
    };
    let refused = Some(5);
    for id in 0..4 {
        assert_eq!(ask(1, id), None);
    }
    assert_eq!(ask(1, 4), refused);
    for id in 0..4 {
        assert_eq!(ask(2, id), None);
    }
    assert_eq!(ask(3, 0), refused);
    assert_eq!(dns.forget_port(1).len(), 4);
    let asked = query(9, "www.example.org", A);
    assert!(matches!(
        dns.query(NOW, client(1), &asked),
        Ok(Action::Send(_))
    ));
}

/// The code and the records' data of an answer given here; `None` if others
/// are asked.
fn here(name: &str, kind: u16) -> Option<(u16, Vec<Vec<u8>>)> {
    let mut dns = dns(&[1]);
    let asked = query(7, name, kind);
    let reply = match dns.query(NOW, client(1), &asked).unwrap() {
        Action::Reply(reply) => reply,
        _ => return None,
    };
    assert_eq!(reply[..2], [0, 7]);
    assert_eq!(reply[12..asked.len()], asked[12..]);
    let count = usize::from(reply[7]);
    let mut rest = &reply[asked.len()..];
    let mut records = Vec::new();
    for _ in 0..count {
        assert_eq!(rest[..2], [0xC0, 12]);
        let length = usize::from(rest[11]);
        records.push(rest[12..12 + length].to_vec());
        rest = &rest[12 + length..];
    }
    assert!(rest.is_empty());
    Some((rcode(&reply), records))
}

#[test]
fn the_networks_own_names_are_answered_here() {
    let lab4 = vec![vec![192, 168, 100, 10]];
    let lab6 = vec![
        "fd00::10"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
            .to_vec(),
    ];
    let full = question("lab.nest.example", 0);
    let full = vec![full[..full.len() - 4].to_vec()];
    let reverse6 = format!("0.1.{}0.0.d.f.ip6.arpa", "0.".repeat(26));
    for (name, kind, expected) in [
        ("lab.nest.example", A, Some((0, lab4.clone()))),
        ("LAB.Nest.Example", A, Some((0, lab4.clone()))),
        ("lab", A, Some((0, lab4.clone()))),
        ("lab.nest.example", AAAA, Some((0, lab6))),
        ("lab.nest.example", 255, Some((0, lab4))),
        ("lab.nest.example", 15, Some((0, vec![]))),
        (
            "gateway.nest.example",
            A,
            Some((0, vec![vec![192, 168, 100, 1]])),
        ),
        ("gateway.nest.example", AAAA, Some((0, vec![]))),
        ("nest.example", A, Some((0, vec![]))),
        ("other.nest.example", A, Some((3, vec![]))),
        ("a.lab.nest.example", A, Some((3, vec![]))),
        ("other", A, Some((3, vec![]))),
        ("other", AAAA, Some((3, vec![]))),
        ("other", 2, None),
        ("", 2, None),
        ("notnest.example", A, None),
        ("example", A, Some((3, vec![]))),
        ("www.example.org", A, None),
        ("localhost", A, Some((0, vec![vec![127, 0, 0, 1]]))),
        ("a.localhost", A, Some((0, vec![vec![127, 0, 0, 1]]))),
        ("localhost", 15, Some((0, vec![]))),
        ("10.100.168.192.in-addr.arpa", PTR, Some((0, full.clone()))),
        ("10.100.168.192.in-addr.arpa", A, Some((0, vec![]))),
        ("99.100.168.192.in-addr.arpa", PTR, Some((3, vec![]))),
        ("10.101.168.192.in-addr.arpa", PTR, None),
        (&reverse6, PTR, Some((0, full))),
        ("www.example.org", 252, Some((5, vec![]))),
    ] {
        assert_eq!(here(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn names_end_with_their_leases() {
    let mut dns = dns(&[1]);
    let asked = query(7, "lab.nest.example", A);
    for (time, expected) in [(99_999, 0), (100_000, 3)] {
        let reply = replied(dns.query(at(time), client(1), &asked).unwrap());
        assert_eq!(rcode(&reply), expected);
        // Authoritative, and recursion is to be had.
        assert_eq!(flags(&reply) & 0x8580, 0x8580);
    }
}

#[test]
fn without_a_domain_only_known_names_are_answered() {
    let mut config = config();
    config.zone.domain = None;
    let mut dns = Dns::new(config, RandomState::new()).unwrap();
    dns.set_servers(&[resolver(1)]);
    dns.names
        .fix("gateway", Ipv4Addr::new(192, 168, 100, 1).into());
    let gateway = query(1, "gateway", A);
    assert_eq!(
        rcode(&replied(dns.query(NOW, client(1), &gateway).unwrap())),
        0
    );
    let reverse = query(2, "1.100.168.192.in-addr.arpa", PTR);
    let reply = replied(dns.query(NOW, client(1), &reverse).unwrap());
    assert!(reply.ends_with(b"\x07gateway\0"));
    let unknown = query(3, "other", A);
    sent(dns.query(NOW, client(1), &unknown).unwrap());
}

#[test]
fn our_answers_speak_edns_to_who_does() {
    let mut dns = dns(&[1]);
    for (version, tail) in [
        (0, [0, 0, 41, 0x04, 0xD0, 0, 0, 0x80, 0, 0, 0]),
        (1, [0, 0, 41, 0x04, 0xD0, 1, 0, 0x80, 0, 0, 0]),
    ] {
        let asked = with_edns(query(7, "lab.nest.example", A), version);
        let reply = replied(dns.query(NOW, client(1), &asked).unwrap());
        assert_eq!(reply[11], 1);
        assert!(reply.ends_with(&tail), "{reply:?}");
        assert_eq!(rcode(&reply), 0);
    }
}

#[test]
fn bad_queries_are_answered_as_such_or_not_at_all() {
    let mut dns = dns(&[1]);
    let good = query(7, "www.example.org", A);
    let edit = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let mut opt_twice = with_edns(with_edns(good.clone(), 0), 0);
    opt_twice[11] = 2;
    let long_name = query(7, &["a"; 128].join("."), A);
    for (name, bytes, expected) in [
        ("a status query", edit(2, 0x10), 4),
        ("an update", edit(2, 0x28), 4),
        ("no question", edit(5, 0), 1),
        ("two questions", edit(5, 2), 1),
        ("a record that isn't there", edit(11, 1), 1),
        ("thousands of records", edit(6, 0xFF), 1),
        ("a name that points", edit(12, 0xC0), 1),
        ("a label that runs out", edit(12, 60), 1),
        ("a name too long", long_name, 1),
        ("no type", good[..good.len() - 4].to_vec(), 1),
        ("two OPT records", opt_twice, 1),
        ("a header only", good[..12].to_vec(), 1),
        ("too long", [&good[..], &[0; LONGEST_QUERY]].concat(), 1),
    ] {
        let reply = replied(dns.query(NOW, client(1), &bytes).unwrap());
        assert_eq!(rcode(&reply), expected, "{name}");
        assert_eq!(reply[..2], [0, 7]);
        assert_eq!(reply[4..], [0; 8]);
    }
    for bytes in [&[][..], &good[..11], &edit(2, 0x81)] {
        assert_eq!(dns.query(NOW, client(1), bytes), Err(NotAQuery));
    }
    assert!(dns.is_empty());
}

#[test]
fn contradictions_in_a_configuration_are_named() {
    let mut bad = config();
    bad.zone.domain = Some("a b".into());
    let error = Dns::new(bad, RandomState::new()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("not a domain name"));
    let mut bad = config();
    bad.longest_datagram = 511;
    let error = Dns::new(bad, RandomState::new()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("512"));
}

proptest! {
    #[test]
    fn arbitrary_messages_do_no_harm(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        head in proptest::array::uniform4(0u8..3),
        server: bool,
    ) {
        let mut dns = dns(&[1]);
        let _ = dns.query(NOW, client(1), &body).map(|_| ());
        let [questions, answers, authorities, additional] = head;
        let mut message = vec![0, 7, 1, 0, 0, questions, 0, answers, 0, authorities, 0, additional];
        message.extend(&body);
        if let Ok(Action::Reply(reply)) = dns.query(NOW, client(2), &message) {
            prop_assert_eq!(&reply[..2], [0, 7]);
            prop_assert!(reply[2] & 0x80 != 0 && reply.len() <= message.len() + 512);
        }
        let (exchange, from, _) = sent(dns.query(NOW, client(3), &query(1, "a.b", A)).unwrap());
        let from = if server { from } else { resolver(9) };
        prop_assert_eq!(dns.answer(exchange, from, &body), None);
    }

    /// Whatever guests and resolvers do, every query ends in one answer, and
    /// the table stays within its bounds.
    #[test]
    fn every_query_ends(
        steps in proptest::collection::vec((0u32..4, 0u16..6, 0u8..6, 0u64..3000), 1..120),
    ) {
        let mut dns = dns(&[1, 2, 3]);
        let mut now = NOW;
        let mut open: HashMap<Exchange, (Client, Vec<u8>, SocketAddr)> = HashMap::new();
        for (port, id, what, wait) in steps {
            now = now + Duration::from_millis(wait);
            let from = client(port);
            match what {
                0..=2 => {
                    let asked = query(id, ["a.b", "c.d"][usize::from(what % 2)], A);
                    if let Action::Send(upstream) = dns.query(now, from, &asked).unwrap() {
                        let sent = (from, upstream.message.to_vec(), upstream.server);
                        prop_assert!(open.insert(upstream.exchange, sent).is_none());
                    }
                }
                3 => if let Some(exchange) = open.keys().copied().min() {
                    let (client, message, server) = open.remove(&exchange).unwrap();
                    let answer = answer_to(&message, 0x8180, &[]);
                    let (to, _) = dns.answer(exchange, server, &answer).unwrap();
                    prop_assert_eq!(to, client);
                },
                4 => if let Some((exchange, (_, _, server))) = open.iter().max_by_key(|(of, _)| **of) {
                    dns.failed(now, *exchange, *server);
                },
                _ => for exchange in dns.forget_port(port) {
                    prop_assert_eq!(open.remove(&exchange).unwrap().0.port, port);
                },
            }
            while let Some(timeout) = dns.timeout(now) {
                match timeout {
                    Timeout::Send(upstream) => {
                        open.get_mut(&upstream.exchange).unwrap().2 = upstream.server;
                    }
                    Timeout::GiveUp(exchange, client, _) => {
                        prop_assert_eq!(open.remove(&exchange).unwrap().0, client);
                    }
                }
            }
            prop_assert_eq!(dns.len(), open.len());
            prop_assert!(dns.len() <= 8 && dns.per_port.values().all(|count| (1..=4).contains(count)));
            prop_assert_eq!(dns.deadlines.len(), dns.len());
            prop_assert!(dns.by_client.len() <= dns.len());
        }
        while let Some(due) = dns.deadline() {
            if let Some(Timeout::GiveUp(exchange, ..)) = dns.timeout(due) {
                prop_assert!(open.remove(&exchange).is_some());
            }
        }
        prop_assert!(open.is_empty() && dns.is_empty());
        prop_assert!(dns.by_client.is_empty() && dns.per_port.is_empty());
    }
}
