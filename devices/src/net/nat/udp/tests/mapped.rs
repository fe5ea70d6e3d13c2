//! Static mappings, and errors between guests.

use super::*;
use crate::net::wire::icmp::Quoted;

const SERVER: &str = "192.168.100.10:53";

fn map(bench: &mut Bench, outer: &str, inner: &str) -> Result<(SocketId, u16), SocketError> {
    bench.udp.map(at(outer), at(inner), &mut bench.host)
}

#[test]
fn a_mapping_is_open_to_all_and_stays() {
    for filtering in [
        Filtering::EndpointIndependent,
        Filtering::AddressAndPortDependent,
    ] {
        let mut bench = Bench::new(filtering);
        let (socket, port) = map(&mut bench, "0.0.0.0:5353", SERVER).unwrap();
        assert_eq!(port, 5353);
        bench.pass(100_000);
        assert_eq!(bench.receive(socket, PEER), Ok(delivery(PEER, SERVER)));
        // The answer, and what the server asks others, leave from there.
        assert_eq!(bench.sent(SERVER, PEER), socket);
        assert_eq!(bench.sent(SERVER, "203.0.113.9:53"), socket);
        bench.pass(100_000);
        assert_eq!(bench.receive(socket, PEER), Ok(delivery(PEER, SERVER)));
        assert!(bench.udp.unmap(socket, &mut bench.host));
        assert_eq!(bench.receive(socket, PEER), Err(DropReason::NoFlow));
        assert!(!bench.udp.unmap(socket, &mut bench.host));
        bench.ends();
    }
}

#[test]
fn the_host_chooses_a_port_or_names_the_conflict() {
    let mut bench = Bench::new(Filtering::default());
    let (first, port) = map(&mut bench, "0.0.0.0:0", SERVER).unwrap();
    assert_eq!(bench.host.local(first).port, port);
    assert_ne!(port, 0);
    let again = map(
        &mut bench,
        &format!("192.0.2.1:{port}"),
        "192.168.100.11:53",
    );
    assert_eq!(again, Err(SocketError::InUse));
    assert!(bench.udp.unmap(first, &mut bench.host));
    bench.ends();
}

/// An answer has to come from where the question went, whatever else the
/// inner endpoint has going on.
#[test]
fn a_mapping_may_come_while_flows_live() {
    for filtering in [
        Filtering::EndpointIndependent,
        Filtering::AddressAndPortDependent,
    ] {
        let mut bench = Bench::new(filtering);
        let own = bench.sent(SERVER, PEER);
        let (mapped, _) = map(&mut bench, "0.0.0.0:5353", SERVER).unwrap();
        let (other, _) = map(&mut bench, "0.0.0.0:5454", SERVER).unwrap();
        let client = "203.0.113.9:999";
        for socket in [mapped, other, mapped] {
            assert_eq!(bench.receive(socket, client), Ok(delivery(client, SERVER)));
            assert_eq!(bench.sent(SERVER, client), socket);
        }
        assert_eq!(bench.sent(SERVER, PEER), own);
        assert_eq!(bench.receive(own, PEER), Ok(delivery(PEER, SERVER)));
        // Idle for long, it is forgotten; the mapping isn't.
        bench.pass(300);
        assert_ne!(bench.sent(SERVER, client), mapped);
        assert_eq!(bench.receive(mapped, client), Ok(delivery(client, SERVER)));
        assert_eq!(bench.sent(SERVER, client), mapped);
        assert!(bench.udp.unmap(mapped, &mut bench.host));
        assert!(bench.host.open_sockets().all(|socket| socket != mapped));
        assert_ne!(bench.sent(SERVER, client), mapped);
        assert!(bench.udp.unmap(other, &mut bench.host));
        bench.ends();
    }
}

#[test]
fn a_flow_goes_on_by_a_socket_of_its_own_once_its_mapping_is_gone() {
    let mut bench = Bench::new(Filtering::default());
    let (socket, _) = map(&mut bench, "0.0.0.0:5353", SERVER).unwrap();
    assert_eq!(bench.sent(SERVER, PEER), socket);
    assert!(bench.udp.unmap(socket, &mut bench.host));
    // The host gives the id again.
    let next = bench.sent(SERVER, PEER);
    assert_eq!((next, bench.host.local(next).port), (socket, 53));
    assert!(!bench.udp.unmap(next, &mut bench.host));
    assert_eq!(bench.receive(next, PEER), Ok(delivery(PEER, SERVER)));
    bench.ends();
}

#[test]
fn mappings_are_reached_from_inside() {
    let mut bench = Bench::new(Filtering::default());
    let (socket, _) = map(&mut bench, "192.0.2.1:5353", SERVER).unwrap();
    let client = "192.168.100.11:4000";
    let outcome = bench.send(client, "192.0.2.1:5353");
    assert_eq!(
        outcome,
        Outcome::Deliver(delivery("192.0.2.1:4000", SERVER))
    );
    let outcome = bench.send(SERVER, "192.0.2.1:4000");
    assert_eq!(
        outcome,
        Outcome::Deliver(delivery("192.0.2.1:5353", client))
    );
    // With a second mapping, each answers as itself.
    let (second, _) = map(&mut bench, "0.0.0.0:5454", SERVER).unwrap();
    let outcome = bench.send(client, "192.0.2.1:5454");
    assert_eq!(
        outcome,
        Outcome::Deliver(delivery("192.0.2.1:4000", SERVER))
    );
    let outcome = bench.send(SERVER, "192.0.2.1:4000");
    assert_eq!(
        outcome,
        Outcome::Deliver(delivery("192.0.2.1:5454", client))
    );
    for socket in [socket, second] {
        assert!(bench.udp.unmap(socket, &mut bench.host));
    }
    bench.ends();
}

/// Guests may answer the host's loopback, but not start anything with it.
#[test]
fn the_host_reaches_a_mapping_by_its_loopback() {
    let mut bench = Bench::new(Filtering::default());
    let (socket, _) = map(&mut bench, "127.0.0.1:5353", SERVER).unwrap();
    let shown = "192.168.100.1:999";
    assert!(matches!(bench.send(SERVER, shown), Outcome::Error(_)));
    assert_eq!(
        bench.receive(socket, "127.0.0.1:999"),
        Ok(delivery(shown, SERVER))
    );
    assert_eq!(bench.sent(SERVER, shown), socket);
    assert_eq!(bench.host.last().to, at("127.0.0.1:999"));
    assert!(matches!(
        bench.send(SERVER, "192.168.100.1:998"),
        Outcome::Error(_)
    ));
    assert!(matches!(bench.send(INNER, shown), Outcome::Error(_)));
    bench.pass(300);
    assert!(matches!(bench.send(SERVER, shown), Outcome::Error(_)));
    assert!(bench.udp.unmap(socket, &mut bench.host));
    bench.ends();
}

#[test]
fn what_comes_from_outside_is_bounded_and_costs_no_guest() {
    let mut bench = Bench::new(Filtering::default());
    let own = bench.sent(SERVER, PEER);
    let (mapped, _) = map(&mut bench, "0.0.0.0:5353", SERVER).unwrap();
    for port in 1..=200u16 {
        let got = bench.receive(mapped, &format!("203.0.113.9:{port}"));
        assert_eq!(got.is_ok(), port <= 100);
    }
    assert_eq!(bench.drops(DropReason::GuestFull), 100);
    for port in 1..100 {
        bench.sent(&format!("192.168.100.10:{}", 4000 + port), PEER);
    }
    assert_eq!(bench.sent(SERVER, PEER), own);
    assert!(bench.udp.unmap(mapped, &mut bench.host));
    bench.ends();
}

/// RFC 5508, REQ-7.
#[test]
fn errors_of_one_guest_reach_the_other() {
    let (a, b) = (INNER, "192.168.100.11:4001");
    let mut bench = Bench::new(Filtering::default());
    bench.sent(a, PEER);
    bench.sent(b, PEER);
    let outcome = bench.send(a, "192.0.2.1:4001");
    let delivered = delivery("192.0.2.1:4000", b);
    assert_eq!(outcome, Outcome::Deliver(delivered));
    // What b received, as b quotes it.
    let quoting = |source: Endpoint, destination: Endpoint| {
        let about = About::udp(source, destination, 5);
        let told = ErrorMessage::new(destination.address, SocketError::Refused, about).unwrap();
        Quoted::parse(&told.quote().unwrap()).unwrap()
    };
    let quoted = quoting(delivered.source, delivered.destination);
    let expected = ErrorMessage {
        source: "192.0.2.1".parse().unwrap(),
        error: SocketError::Refused,
        about: About::udp(at(a), at("192.0.2.1:4001"), 5),
    };
    let message = bench.udp.hairpin_error(&quoted, SocketError::Refused);
    assert_eq!(message, Some(expected));
    for (source, destination) in [
        // Nobody is behind the port, or it isn't the host's, or nobody could
        // have received it.
        ("192.0.2.1:4005", b),
        (PEER, b),
        ("192.0.2.1:4000", "192.168.100.12:4001"),
    ] {
        let quoted = quoting(at(source), at(destination));
        assert_eq!(bench.udp.hairpin_error(&quoted, SocketError::Refused), None);
    }
    bench.ends();
}
