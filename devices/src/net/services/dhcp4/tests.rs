use proptest::prelude::*;

use super::*;

const NOW: Time = Time(5_000_000_000);
const SERVER: Ipv4Addr = address(1);
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

const fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 100, last)
}

fn mac(last: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
}

fn after(seconds: u64) -> Time {
    NOW + Duration::from_secs(seconds)
}

fn config() -> Config {
    Config {
        server: SERVER,
        prefix: "192.168.100.0/24".parse().unwrap(),
        pool: address(10)..=address(19),
        reservations: HashMap::from([(mac(99), address(200))]),
        lease: Duration::from_secs(3600),
        router: Some(SERVER),
        dns: vec![SERVER],
        domain: Some("nest.example".into()),
        mtu: Some(65520),
        routes: Vec::new(),
        limits: Limits {
            total: 100,
            per_port: 4,
        },
    }
}

fn server() -> Server {
    Server::new(config()).unwrap()
}

/// A client's message, field by field as RFC 2131, figure 1 has them.
#[derive(Clone)]
struct Message {
    kind: u8,
    client: u8,
    in_use: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
    broadcast: bool,
}

impl Message {
    fn new(kind: u8, client: u8) -> Self {
        Self {
            kind,
            client,
            in_use: NOBODY,
            options: Vec::new(),
            broadcast: false,
        }
    }

    fn option(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }

    fn requested(self, address: Ipv4Addr) -> Self {
        self.option(50, &address.octets())
    }

    fn server(self, address: Ipv4Addr) -> Self {
        self.option(54, &address.octets())
    }

    fn in_use(mut self, address: Ipv4Addr) -> Self {
        self.in_use = address;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0, 0xAA, 0xBB, 0xCC, self.client, 0, 0];
        bytes.extend([if self.broadcast { 0x80 } else { 0 }, 0]);
        bytes.extend(self.in_use.octets());
        bytes.extend([0; 12]);
        bytes.extend(mac(self.client).bytes());
        bytes.resize(236, 0);
        bytes.extend([99, 130, 83, 99, 53, 1, self.kind]);
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }
}

fn discover(client: u8) -> Message {
    Message::new(1, client)
}

fn request(client: u8) -> Message {
    Message::new(3, client)
}

/// A server's message, taken apart without the server's own parser.
#[derive(Debug)]
struct Answer {
    to: Destination,
    yours: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
    bytes: Vec<u8>,
}

impl Answer {
    fn option(&self, code: u8) -> Option<&[u8]> {
        let found = self.options.iter().find(|(found, _)| *found == code);
        found.map(|(_, value)| &value[..])
    }

    fn kind(&self) -> u8 {
        self.option(53).unwrap()[0]
    }
}

fn answer(outcome: Outcome) -> Answer {
    let (to, bytes) = outcome.reply.unwrap();
    assert!(bytes.len() >= 300);
    assert_eq!(bytes[..3], [2, 1, 6]);
    let mut rest = &bytes[240..];
    let mut options = Vec::new();
    while rest[0] != 255 {
        let length = usize::from(rest[1]);
        options.push((rest[0], rest[2..2 + length].to_vec()));
        rest = &rest[2 + length..];
    }
    Answer {
        to,
        yours: Ipv4Addr::new(bytes[16], bytes[17], bytes[18], bytes[19]),
        options,
        bytes,
    }
}

fn send(server: &mut Server, now: Time, message: &Message) -> Result<Outcome, Ignored> {
    server.receive(now, 1, mac(message.client), &message.bytes())
}

/// Gets a client its address.
fn bind(server: &mut Server, now: Time, client: u8) -> Ipv4Addr {
    let offer = answer(send(server, now, &discover(client)).unwrap());
    let taking = request(client).requested(offer.yours).server(SERVER);
    let ack = answer(send(server, now, &taking).unwrap());
    assert_eq!((ack.kind(), ack.yours), (5, offer.yours));
    ack.yours
}

#[test]
fn a_client_gets_an_offer_and_a_lease() {
    let mut server = server();
    let offer = answer(send(&mut server, NOW, &discover(7)).unwrap());
    assert_eq!(offer.kind(), 2);
    assert_eq!(offer.to, Destination::Client(address(10)));
    assert_eq!(offer.bytes[4..8], [0xAA, 0xBB, 0xCC, 7]);
    assert_eq!(offer.bytes[28..34], mac(7).bytes());

    let taking = request(7)
        .requested(offer.yours)
        .server(SERVER)
        .option(12, b"Lab.example");
    let outcome = send(&mut server, NOW, &taking).unwrap();
    assert_eq!(
        outcome.event,
        Some(Event::Bound {
            address: address(10),
            name: Some("lab".into()),
            until: after(3600)
        })
    );
    let ack = answer(outcome);
    assert_eq!(ack.kind(), 5);
    assert_eq!(ack.yours, address(10));
    for (code, value) in [
        (1, &[255, 255, 255, 0][..]),
        (3, &SERVER.octets()),
        (6, &SERVER.octets()),
        (15, b"nest.example"),
        (26, &65520u16.to_be_bytes()),
        (28, &address(255).octets()),
        (51, &3600u32.to_be_bytes()),
        (54, &SERVER.octets()),
        (58, &1800u32.to_be_bytes()),
        (59, &3150u32.to_be_bytes()),
    ] {
        assert_eq!(ack.option(code), Some(value), "option {code}");
    }
    assert_eq!(ack.option(121), None);
}

#[test]
fn only_what_is_asked_for_is_told_in_the_order_asked() {
    let mut server = server();
    let message = discover(7).option(55, &[6, 42, 26, 6, 1]);
    let offer = answer(send(&mut server, NOW, &message).unwrap());
    let codes: Vec<u8> = offer.options.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [53, 54, 51, 58, 59, 1, 6, 26]);
}

#[test]
fn classless_routes_carry_the_default_route_too() {
    let mut config = config();
    config.routes = vec![
        ("10.0.0.0/8".parse().unwrap(), address(2)),
        ("172.16.4.0/23".parse().unwrap(), address(3)),
    ];
    let mut server = Server::new(config).unwrap();
    let offer = answer(send(&mut server, NOW, &discover(7).option(55, &[121, 3])).unwrap());
    // RFC 3442's form: width, significant bytes, gateway.
    #[rustfmt::skip]
    let expected = [
        0, 192, 168, 100, 1,
        8, 10, 192, 168, 100, 2,
        23, 172, 16, 4, 192, 168, 100, 3,
    ];
    assert_eq!(offer.option(121), Some(&expected[..]));
}

#[test]
fn an_offer_is_held_for_its_client() {
    let mut server = server();
    let first = answer(send(&mut server, NOW, &discover(1)).unwrap()).yours;
    let second = answer(send(&mut server, NOW, &discover(2).requested(first)).unwrap()).yours;
    assert_ne!(first, second);
    let again = answer(send(&mut server, after(30), &discover(1)).unwrap()).yours;
    assert_eq!(again, first);
    // Once the offer has lapsed, another may have the address.
    let third = answer(send(&mut server, after(61), &discover(3).requested(first)).unwrap());
    assert_eq!(third.yours, first);
    let late = request(1).requested(first).server(SERVER);
    assert_eq!(
        answer(send(&mut server, after(62), &late).unwrap()).kind(),
        6
    );
}

#[test]
fn an_offer_that_is_not_taken_is_free() {
    let mut server = server();
    let offered = answer(send(&mut server, NOW, &discover(1)).unwrap()).yours;
    let elsewhere = request(1).requested(address(77)).server(address(5));
    assert_eq!(
        send(&mut server, NOW, &elsewhere),
        Ok(Outcome::event(Event::Freed(offered)))
    );
    assert_eq!(
        send(&mut server, NOW, &elsewhere),
        Err(Ignored::OtherServer)
    );
    let other = answer(send(&mut server, NOW, &discover(2).requested(offered)).unwrap());
    assert_eq!(other.yours, offered);
}

#[test]
fn requests_are_judged_by_the_state_they_show() {
    let ack = Ok((5, Destination::Client(address(10))));
    let nak = Ok((6, Destination::Broadcast));
    let mine = address(10);
    for (name, message, expected) in [
        (
            "taking the offer again",
            request(1).requested(mine).server(SERVER),
            ack,
        ),
        (
            "taking what wasn't offered",
            request(1).requested(address(11)).server(SERVER),
            nak,
        ),
        ("rebooted", request(1).requested(mine), ack),
        (
            "rebooted with another address",
            request(1).requested(address(11)),
            nak,
        ),
        (
            "rebooted elsewhere",
            request(1).requested(Ipv4Addr::new(10, 0, 0, 9)),
            nak,
        ),
        (
            "a stranger rebooted",
            request(2).requested(address(12)),
            Err(Ignored::NotItsLease),
        ),
        (
            "a stranger rebooted elsewhere",
            request(2).requested(Ipv4Addr::new(10, 0, 0, 9)),
            nak,
        ),
        ("renewing", request(1).in_use(mine), ack),
        ("renewing another's", request(2).in_use(mine), nak),
        (
            "renewing out of the network",
            request(1).in_use(Ipv4Addr::new(10, 0, 0, 9)),
            nak,
        ),
        ("saying nothing", request(1), Err(Ignored::Malformed)),
        (
            "taking without an address",
            request(1).server(SERVER),
            Err(Ignored::Malformed),
        ),
        (
            "saying both",
            request(1).in_use(mine).requested(mine),
            Err(Ignored::Malformed),
        ),
    ] {
        let mut server = server();
        assert_eq!(bind(&mut server, NOW, 1), mine);
        let result = send(&mut server, after(1800), &message).map(|outcome| {
            let answer = answer(outcome);
            if answer.kind() == 6 {
                assert_eq!(answer.yours, NOBODY, "{name}");
                assert_eq!(answer.option(51), None, "{name}");
            }
            (answer.kind(), answer.to)
        });
        assert_eq!(result, expected, "{name}");
    }
}

#[test]
fn a_lease_ends_unless_it_is_extended() {
    let mut server = server();
    let mine = bind(&mut server, NOW, 1);
    let outcome = send(&mut server, after(1800), &request(1).in_use(mine)).unwrap();
    let Some(Event::Bound { until, .. }) = outcome.event else {
        panic!("{outcome:?}");
    };
    assert_eq!(until, after(5400));
    // Expired and not taken: a client that comes back keeps its address.
    let back = answer(send(&mut server, after(9000), &request(1).in_use(mine)).unwrap());
    assert_eq!((back.kind(), back.yours), (5, mine));
    // Expired and taken: it has to start over.
    let taken = answer(send(&mut server, after(20_000), &discover(2).requested(mine)).unwrap());
    assert_eq!(taken.yours, mine);
    let late = answer(send(&mut server, after(20_001), &request(1).in_use(mine)).unwrap());
    assert_eq!(late.kind(), 6);
}

#[test]
fn a_client_may_ask_for_a_shorter_lease_only() {
    for (asked, given) in [(600, 600), (5, 60), (u32::MAX, 3600)] {
        let mut server = server();
        let message = discover(1).option(51, &u32::to_be_bytes(asked));
        let offer = answer(send(&mut server, NOW, &message).unwrap());
        assert_eq!(offer.option(51), Some(&u32::to_be_bytes(given)[..]));
    }
}

#[test]
fn a_declined_address_rests() {
    let mut server = server();
    let mine = bind(&mut server, NOW, 1);
    let decline = |client| Message::new(4, client).requested(mine).server(SERVER);
    assert_eq!(
        send(&mut server, NOW, &decline(2)),
        Err(Ignored::NotItsLease)
    );
    assert_eq!(
        send(&mut server, NOW, &decline(1)),
        Ok(Outcome::event(Event::Freed(mine)))
    );
    let next = answer(send(&mut server, after(1), &discover(1).requested(mine)).unwrap());
    assert_ne!(next.yours, mine);
    let later = answer(send(&mut server, after(601), &discover(2).requested(mine)).unwrap());
    assert_eq!(later.yours, mine);
}

#[test]
fn only_the_holder_releases() {
    let mut server = server();
    let mine = bind(&mut server, NOW, 1);
    let release = |client| Message::new(7, client).in_use(mine).server(SERVER);
    assert_eq!(
        send(&mut server, NOW, &release(2)),
        Err(Ignored::NotItsLease)
    );
    let without_server = Message::new(7, 1).in_use(mine);
    assert_eq!(
        send(&mut server, NOW, &without_server),
        Err(Ignored::OtherServer)
    );
    assert_eq!(
        send(&mut server, NOW, &release(1)),
        Ok(Outcome::event(Event::Freed(mine)))
    );
    // The same client behind another port is another client.
    let mine = bind(&mut server, NOW, 1);
    let stolen = release(1).bytes();
    assert_eq!(
        server.receive(NOW, 2, mac(1), &stolen),
        Err(Ignored::NotItsLease)
    );
    assert_eq!(bind(&mut server, NOW, 1), mine);
}

#[test]
fn an_inform_gets_everything_but_a_lease() {
    let mut server = server();
    let inform = Message::new(8, 1).in_use(address(123));
    let answer = answer(send(&mut server, NOW, &inform).unwrap());
    assert_eq!(answer.kind(), 5);
    assert_eq!(answer.to, Destination::Client(address(123)));
    assert_eq!(answer.yours, NOBODY);
    assert_eq!(answer.option(51), None);
    assert_eq!(answer.option(6), Some(&SERVER.octets()[..]));
    assert_eq!(server.leases().count(), 0);
    let elsewhere = Message::new(8, 1).in_use(Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(send(&mut server, NOW, &elsewhere), Err(Ignored::OffLink));
}

#[test]
fn replies_go_where_the_client_can_hear_them() {
    let mut server = server();
    let mut deaf = discover(1);
    deaf.broadcast = true;
    let offer = answer(send(&mut server, NOW, &deaf).unwrap());
    assert_eq!(offer.to, Destination::Broadcast);
    assert_eq!(offer.bytes[10], 0x80);
}

#[test]
fn a_reservation_is_its_macs() {
    let mut server = server();
    assert_eq!(bind(&mut server, NOW, 99), address(200));
    let other = answer(send(&mut server, NOW, &discover(1).requested(address(200))).unwrap());
    assert_ne!(other.yours, address(200));
}

#[test]
fn every_mac_on_a_port_gets_a_lease_up_to_the_ports_share() {
    let mut server = server();
    let given: std::collections::BTreeSet<_> = (1..=4)
        .map(|client| bind(&mut server, NOW, client))
        .collect();
    assert_eq!(given.len(), 4);
    assert_eq!(
        send(&mut server, NOW, &discover(5)),
        Err(Ignored::NoAddress)
    );
    // Names don't make more room than hardware addresses do.
    let renamed = discover(1).option(61, b"another");
    assert_eq!(send(&mut server, NOW, &renamed), Err(Ignored::NoAddress));
    let elsewhere = server.receive(NOW, 2, mac(5), &discover(5).bytes());
    assert_eq!(answer(elsewhere.unwrap()).kind(), 2);
    server.forget_port(1);
    assert_eq!(
        answer(send(&mut server, NOW, &discover(6)).unwrap()).kind(),
        2
    );
}

#[test]
fn hostile_messages_are_dropped() {
    let mut server = server();
    let good = discover(1).bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    for (name, bytes, expected) in [
        ("a reply", with(0, 2), Ignored::Malformed),
        ("not Ethernet", with(1, 6), Ignored::Malformed),
        ("a long address", with(2, 200), Ignored::Malformed),
        ("a relay's", with(24, 10), Ignored::Relayed),
        ("another's address", with(33, 9), Ignored::ForeignHardware),
        ("a group's address", with(28, 3), Ignored::Malformed),
        ("no cookie", with(236, 0), Ignored::Malformed),
        ("a server's kind", with(242, 2), Ignored::Malformed),
        ("no such kind", with(242, 0), Ignored::Malformed),
        (
            "an option that runs out",
            with(241, 200),
            Ignored::Malformed,
        ),
        ("cut short", good[..239].to_vec(), Ignored::Malformed),
        ("BOOTP", good[..240].to_vec(), Ignored::Malformed),
        (
            "a short address",
            discover(1).option(50, &[1]).bytes(),
            Ignored::Malformed,
        ),
    ] {
        let result = server.receive(NOW, 1, mac(1), &bytes);
        assert_eq!(result, Err(expected), "{name}");
    }
    assert_eq!(server.leases().count(), 0);
}

#[test]
fn options_are_read_from_parts_and_from_overloaded_fields() {
    let mut bytes = discover(1)
        .option(52, &[3])
        .option(61, b"ab")
        .option(61, b"cd")
        .bytes();
    bytes[108..117].copy_from_slice(&[50, 4, 192, 168, 100, 15, 61, 1, b'e']);
    bytes[44..49].copy_from_slice(&[12, 3, b'l', b'a', b'b']);
    let request = Request::parse(&bytes).unwrap();
    assert_eq!(request.client_id.as_deref(), Some(&b"abcde"[..]));
    assert_eq!(request.requested, Some(address(15)));
    assert_eq!(request.host_name.as_deref(), Some(&b"lab"[..]));
    // The lent fields must be whole, too.
    bytes[44..46].copy_from_slice(&[12, 200]);
    assert_eq!(Request::parse(&bytes), None);
}

#[test]
fn a_reply_fits_what_the_client_takes() {
    let mut config = config();
    config.dns = vec![SERVER; 100];
    let server = Server::new(config);
    let mut server = server.unwrap();
    for (size, has_dns) in [(None, false), (Some(100), false), (Some(1400), true)] {
        let mut message = discover(1);
        if let Some(size) = size {
            message = message.option(57, &u16::to_be_bytes(size));
        }
        let offer = answer(send(&mut server, NOW, &message).unwrap());
        assert_eq!(offer.option(6).is_some(), has_dns, "{size:?}");
        assert!(offer.option(26).is_some());
        assert!(offer.bytes.len() <= usize::from(size.unwrap_or(576).max(576)) - 28);
    }
}

type Edit = fn(&mut Config);

#[test]
fn contradictions_in_a_configuration_are_named() {
    let edits: [(Edit, &str); 9] = [
        (|c| c.server = address(0), "the server 192.168.100.0 is not"),
        (
            |c| c.pool = address(10)..=address(255),
            "the pool's end 192.168.100.255",
        ),
        (|c| c.pool = address(19)..=address(10), "is empty"),
        (
            |c| c.router = Some(Ipv4Addr::new(10, 0, 0, 1)),
            "the router 10.0.0.1",
        ),
        (
            |c| c.reservations.extend([(mac(1), address(200))]),
            "200 is reserved twice",
        ),
        (
            |c| c.reservations.extend([(mac(1), SERVER)]),
            "192.168.100.1 is reserved twice",
        ),
        (
            |c| {
                c.routes
                    .push(("10.0.0.0/8".parse().unwrap(), Ipv4Addr::new(9, 9, 9, 9)))
            },
            "9.9.9.9",
        ),
        (
            |c| c.lease = Duration::from_secs(3),
            "between a minute and a century",
        ),
        (|c| c.domain = Some("a b".into()), "not a domain name"),
    ];
    for (edit, message) in edits {
        let mut config = config();
        edit(&mut config);
        let error = Server::new(config).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(
        head in proptest::collection::vec(any::<u8>(), 0..300),
        options in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..20)), 0..20),
        kind in 0..10u8,
    ) {
        let mut server = server();
        let _ = server.receive(NOW, 1, mac(1), &head);
        let mut message = Message::new(kind, 1);
        message.options = options;
        let bytes = message.bytes();
        if let Ok(Outcome { reply: Some((_, reply)), .. }) = server.receive(NOW, 1, mac(1), &bytes) {
            prop_assert!(reply.len() <= 1472);
            prop_assert_eq!(reply.iter().rposition(|&byte| byte != 0).map(|at| reply[at]), Some(255));
        }
        prop_assert!(server.leases().count() <= 1);
    }

    #[test]
    fn no_address_has_two_clients(steps in proptest::collection::vec((0..6u8, 0..3u32, any::<bool>(), 0..900u64), 1..80)) {
        let mut server = server();
        let mut now = NOW;
        let mut held: HashMap<Ipv4Addr, ((u8, u32), Time)> = HashMap::new();
        for (client, port, releases, wait) in steps {
            now = now + Duration::from_secs(wait);
            held.retain(|_, (_, until)| *until > now);
            let from = mac(client + 1);
            let Ok(offer) = server.receive(now, port, from, &discover(client + 1).bytes()) else {
                continue;
            };
            let address = answer(offer).yours;
            let taking = request(client + 1).requested(address).server(SERVER).bytes();
            let outcome = server.receive(now, port, from, &taking).unwrap();
            let Some(Event::Bound { until, .. }) = outcome.event else {
                panic!("{outcome:?}");
            };
            let me = (client, port);
            if let Some((other, _)) = held.insert(address, (me, until)) {
                prop_assert_eq!(other, me);
            }
            if releases {
                let release = Message::new(7, client + 1).in_use(address).server(SERVER).bytes();
                prop_assert!(server.receive(now, port, from, &release).is_ok());
                held.remove(&address);
            }
        }
    }
}
