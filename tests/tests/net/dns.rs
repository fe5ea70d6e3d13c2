//! Names, from dig.

use nestling_tests::lab::{
    self, Answer, Client, GATEWAY4, GATEWAY6, GUEST4, Lab, Network, Resolver, TAP, Transport, dig,
    eventually,
};

/// Where the tests' resolvers are.
const FIRST: &str = "192.0.2.1:53";
const SECOND: &str = "192.0.2.2:53";
const THIRD: &str = "[2001:db8::1]:53";

/// Asks the gateway, from the guest.
fn ask(lab: &Lab, arguments: &[&str]) -> Answer {
    let gateway = format!("@{GATEWAY4}");
    let all = [&[gateway.as_str()], arguments].concat();
    lab.guest.enter(|| dig(&all))
}

/// The resolvers asked, each by what it was asked and how.
fn by_udp(names: &[&str]) -> Vec<(Transport, String)> {
    let asked = |name: &&str| (Transport::Udp, (*name).to_owned());
    names.iter().map(asked).collect()
}

#[test]
fn guests_and_the_gateway_have_names() {
    lab::run(&["dig", "busybox"], |lab| {
        let resolver = Resolver::start(FIRST);
        let _network = Network::start(lab, &["--unconfigured", "--dns", FIRST]);
        let mut client = Client::udhcpc(lab, TAP, &["-x", "hostname:Lab"]);
        client.event("bound");
        for (arguments, records) in [
            (&["lab.internal", "A"][..], &[GUEST4][..]),
            (&["LAB.Internal", "A"], &[GUEST4]),
            (&["lab", "A"], &[GUEST4]),
            (&["lab.internal", "AAAA"], &[]),
            (&["-x", GUEST4], &["lab.internal."]),
            (&["gateway.internal", "A"], &[GATEWAY4]),
            (&["gateway.internal", "AAAA"], &[GATEWAY6]),
            (&["-x", GATEWAY6], &["gateway.internal."]),
        ] {
            let answer = ask(lab, arguments);
            assert_eq!(answer.status, "NOERROR", "{arguments:?}");
            assert_eq!(answer.records, records, "{arguments:?}");
        }
        for arguments in [&["other.internal", "A"][..], &["-x", "192.168.100.99"]] {
            assert_eq!(ask(lab, arguments).status, "NXDOMAIN", "{arguments:?}");
        }
        // Nobody else hears of them.
        assert_eq!(resolver.asked(), []);
    });
}

#[test]
fn answers_pass_as_they_are() {
    lab::run(&["dig"], |lab| {
        let resolver = Resolver::start(FIRST);
        let _network = Network::start(lab, &["--dns", FIRST]);
        let found = ask(lab, &["who.example.org", "A"]);
        assert_eq!(found.records, ["192.0.2.1"]);
        let missing = ask(lab, &["missing.example.org", "A"]);
        assert_eq!(missing.status, "NXDOMAIN");
        assert!(missing.text.contains("AUTHORITY: 1"), "{}", missing.text);
        // The resolver's reason is in EDNS, as is the guest's wish for DNSSEC.
        let broken = ask(lab, &["+dnssec", "broken.example.org", "A"]);
        assert_eq!(broken.status, "SERVFAIL");
        assert!(
            broken.text.contains("EDE: 18 (Prohibited): (closed)"),
            "{}",
            broken.text
        );
        assert!(
            broken.text.contains("EDNS: version: 0, flags: do;"),
            "{}",
            broken.text
        );
        let plain = ask(lab, &["+noedns", "broken.example.org", "A"]);
        assert_eq!(plain.status, "SERVFAIL");
        assert!(!plain.text.contains("EDNS"), "{}", plain.text);
        let names =
            ["who", "missing", "broken", "broken"].map(|name| format!("{name}.example.org"));
        assert_eq!(
            resolver.asked(),
            by_udp(&names.each_ref().map(String::as_str))
        );
    });
}

#[test]
fn long_answers_are_cut_and_come_whole_by_tcp() {
    lab::run(&["dig"], |lab| {
        let resolver = Resolver::start(FIRST);
        let _network = Network::start(lab, &["--dns", FIRST]);
        let cut = ask(lab, &["+ignore", "long.example.org", "TXT"]);
        assert!(cut.flags.contains(&"tc".into()), "{}", cut.text);
        assert_eq!(cut.records, Vec::<String>::new());
        let whole = ask(lab, &["long.example.org", "TXT"]);
        assert_eq!(whole.records.len(), 200);
        assert!(whole.text.contains("(TCP)"), "{}", whole.text);
        let transports: Vec<_> = resolver.asked().into_iter().map(|(how, _)| how).collect();
        assert_eq!(transports, [Transport::Udp, Transport::Udp, Transport::Tcp]);
    });
}

#[test]
fn resolvers_of_either_family_are_asked() {
    lab::run(&["dig"], |lab| {
        let _resolver = Resolver::start(THIRD);
        let _network = Network::start(lab, &["--dns", THIRD]);
        let found = ask(lab, &["who.example.org", "AAAA"]);
        assert_eq!(found.records, ["2001:db8::1"]);
        let by_tcp = ask(lab, &["+tcp", "who.example.org", "AAAA"]);
        assert_eq!(by_tcp.records, ["2001:db8::1"]);
    });
}

#[test]
fn the_hosts_resolvers_are_followed_as_they_change() {
    lab::run(&["dig"], |lab| {
        let _resolvers = [FIRST, SECOND].map(Resolver::start);
        lab.set_resolvers("nameserver 192.0.2.1\n");
        let _network = Network::start(lab, &[]);
        for transport in ["+notcp", "+tcp"] {
            let found = ask(lab, &[transport, "who.example.org", "A"]);
            assert_eq!(found.records, ["192.0.2.1"]);
        }
        lab.set_resolvers("# changed\nsearch example.org\nnameserver 192.0.2.2\n");
        eventually("the other one is asked", || {
            let found = ask(lab, &["who.example.org", "A"]);
            (found.records == ["192.0.2.2"]).then_some(())
        });
        let by_tcp = ask(lab, &["+tcp", "who.example.org", "A"]);
        assert_eq!(by_tcp.records, ["192.0.2.2"]);
        // Without any, a query fails at once.
        lab.set_resolvers("search example.org\n");
        eventually("nobody is asked", || {
            let found = ask(lab, &["who.example.org", "A"]);
            (found.status == "SERVFAIL").then_some(())
        });
    });
}

#[test]
fn a_resolver_that_is_silent_or_gone_is_passed_over() {
    lab::run(&["dig"], |lab| {
        // Nobody is at the first; the second never answers this; the third does.
        let silent = lab::server::Server::udp(SECOND, |_| None);
        let answering = Resolver::start(THIRD);
        let resolvers = ["--dns", FIRST, "--dns", SECOND, "--dns", THIRD];
        let _network = Network::start(lab, &resolvers);
        let found = ask(lab, &["who.example.org", "AAAA"]);
        assert_eq!(found.records, ["2001:db8::1"]);
        // From now on it is asked first.
        drop(silent);
        let found = ask(lab, &["who.example.org", "AAAA"]);
        assert_eq!(found.records, ["2001:db8::1"]);
        let name = "who.example.org";
        assert_eq!(answering.asked(), by_udp(&[name, name]));
    });
}

#[test]
fn a_query_that_nobody_answers_fails() {
    lab::run(&["dig"], |lab| {
        let resolver = Resolver::start(FIRST);
        let _network = Network::start(lab, &["--dns", FIRST]);
        let failed = ask(lab, &["silent.example.org", "A"]);
        assert_eq!(failed.status, "SERVFAIL");
        let tries = resolver.asked();
        assert_eq!(tries, by_udp(&vec!["silent.example.org"; tries.len()]));
        assert!(tries.len() > 1);
    });
}
