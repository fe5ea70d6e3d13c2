//! What the host's sockets are asked to send, and where guests may send to.

use super::*;

/// REQ-13: what is too long and must not be fragmented comes back as an error
/// with the MTU; else the host fragments it.
#[test]
fn the_host_fragments_only_what_it_may() {
    let mut bench = Bench::new(Filtering::default());
    for dont_fragment in [false, true] {
        let datagram = Datagram {
            dont_fragment,
            ..datagram(INNER, PEER)
        };
        assert_eq!(bench.send_as(GUEST, &datagram, &[0; 3000]), Outcome::Sent);
        assert_eq!(bench.host.last().options.dont_fragment, dont_fragment);
    }
    bench.host.answers.push_back(Err(SocketError::TooBig(1400)));
    let message = error_of(bench.send_as(GUEST, &datagram(INNER, PEER), &[0; 3000]));
    assert_eq!(message.error, SocketError::TooBig(1400));
    assert_eq!(message.about, About::udp(at(INNER), at(PEER), 3000));
    assert_eq!(bench.drops(DropReason::NotSent), 1);
    bench.ends();
}

#[test]
fn what_the_host_refuses_is_told() {
    for (error, told) in [
        (SocketError::NetUnreachable, true),
        (SocketError::Prohibited, true),
        (SocketError::Exhausted, false),
        (SocketError::Other(5), false),
    ] {
        let mut bench = Bench::new(Filtering::default());
        bench.host.answers.push_back(Err(error));
        match bench.send(INNER, PEER) {
            Outcome::Error(message) => assert!(told && message.error == error),
            outcome => assert!(!told && outcome == Outcome::Dropped(DropReason::NotSent)),
        }
        assert_eq!(bench.drops(DropReason::NotSent), 1);
        assert_eq!(bench.sent(INNER, PEER), SocketId(0));
    }
    let mut bench = Bench::new(Filtering::default());
    bench.host.answers.push_back(Err(SocketError::WouldBlock));
    assert_eq!(bench.send(INNER, PEER), Outcome::Blocked(SocketId(0)));
    assert_eq!(bench.drops(DropReason::NotSent), 0);
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    let mut bench = Bench::new(Filtering::default());
    let refused = Outcome::Dropped(DropReason::Destination);
    for (destination, told) in [
        ("127.0.0.1:53", true),
        ("0.0.0.0:53", true),
        ("192.168.100.1:53", true),
        ("198.51.100.7:0", true),
        ("224.0.0.251:5353", false),
        ("255.255.255.255:67", false),
    ] {
        let outcome = bench.send(INNER, destination);
        assert_eq!(outcome == refused, !told, "{destination}");
        if told {
            assert_eq!(error_of(outcome).error, SocketError::Prohibited);
        }
    }
    for source in [
        "127.0.0.1:1",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "192.168.100.1:1",
        "[fe80::1]:1",
    ] {
        let martian = Outcome::Dropped(DropReason::MartianSource);
        assert_eq!(bench.send(source, PEER), martian, "{source}");
    }
    assert!(bench.host.sent.is_empty());
    assert_eq!(bench.host.open_sockets().count(), 0);
}

#[test]
fn loopback_is_reached_by_the_gateway_if_allowed() {
    let reach = Reach {
        host_loopback: true,
        ..reach()
    };
    let mut bench = Bench::with(LIMITS, Filtering::AddressAndPortDependent, reach);
    let gateway = "192.168.100.1:53";
    let socket = bench.sent(INNER, gateway);
    assert_eq!(bench.host.last().to, at("127.0.0.1:53"));
    assert_eq!(
        bench.receive(socket, "127.0.0.1:53"),
        Ok(delivery(gateway, INNER))
    );
    let message = bench
        .udp
        .error(socket, at("127.0.0.1:53"), SocketError::Refused, None, 5);
    assert_eq!(
        message.unwrap().about,
        About::udp(at(INNER), at(gateway), 5)
    );
    // The same guest's packets through a mapping from before the change of
    // mind are not answered.
    let mut bench = Bench::new(Filtering::default());
    let socket = bench.sent(INNER, PEER);
    assert_eq!(
        bench.receive(socket, "127.0.0.1:53"),
        Err(DropReason::Sender)
    );
    assert_eq!(
        bench.receive(socket, "192.168.100.1:53"),
        Err(DropReason::Sender)
    );
    assert_eq!(
        bench.receive(socket, "[2001:db8:1::7]:53"),
        Err(DropReason::Sender)
    );
}

/// RFC 1812, 5.3.1; the hops of a probe reach the host (traceroute(8)).
#[test]
fn hops_are_counted() {
    let mut bench = Bench::new(Filtering::default());
    for (came_with, goes_with) in [
        (255, None),
        (64, None),
        (33, None),
        (32, Some(31)),
        (2, Some(1)),
    ] {
        let datagram = Datagram {
            hop_limit: came_with,
            ..datagram(INNER, PEER)
        };
        assert_eq!(bench.send_as(GUEST, &datagram, b""), Outcome::Sent);
        assert_eq!(bench.host.last().options.hop_limit, goes_with);
    }
    for hop_limit in [0, 1] {
        let datagram = Datagram {
            hop_limit,
            ..datagram(INNER, PEER)
        };
        let message = error_of(bench.send_as(GUEST, &datagram, b"query"));
        assert_eq!(message.error, SocketError::TimeExceeded);
        assert_eq!(message.source, IpAddr::from([192, 168, 100, 1]));
        assert_eq!(message.about, About::udp(at(INNER), at(PEER), 5));
    }
    assert_eq!(bench.drops(DropReason::HopLimit), 2);
}

#[test]
fn many_datagrams_go_in_few_calls() {
    let size = NonZeroU16::new(100);
    let big = Datagram {
        segment: size,
        ..datagram(INNER, PEER)
    };
    let payload: Vec<u8> = (0..=255).cycle().take(100 * 130 + 7).collect();
    let mut bench = Bench::new(Filtering::default());
    assert_eq!(bench.send_as(GUEST, &big, &payload), Outcome::Sent);
    let lens: Vec<_> = bench
        .host
        .sent
        .iter()
        .map(|sent| sent.payload.len())
        .collect();
    assert_eq!(lens, [6400, 6400, 207]);
    assert!(
        bench
            .host
            .sent
            .iter()
            .all(|sent| sent.options.segment == size)
    );
    let joined = bench
        .host
        .sent
        .iter()
        .map(|sent| &*sent.payload)
        .collect::<Vec<_>>()
        .concat();
    assert_eq!(joined, payload);

    // One datagram is sent as one.
    bench.host.sent.clear();
    assert_eq!(bench.send_as(GUEST, &big, &payload[..100]), Outcome::Sent);
    assert_eq!(bench.host.last().options.segment, None);

    // A host that can't gets them one by one, and none twice.
    bench.host.sent.clear();
    bench
        .host
        .answers
        .extend([Ok(()), Err(SocketError::Unsupported)]);
    assert_eq!(bench.send_as(GUEST, &big, &payload), Outcome::Sent);
    let lens: Vec<_> = bench
        .host
        .sent
        .iter()
        .map(|sent| sent.payload.len())
        .collect();
    assert_eq!((lens[0], lens.len()), (6400, 1 + 67));
    assert!(lens[1..67].iter().all(|len| *len == 100) && lens[67] == 7);
    assert!(
        bench.host.sent[1..]
            .iter()
            .all(|sent| sent.options.segment.is_none())
    );

    // What a full socket doesn't take is counted by datagrams.
    bench
        .host
        .answers
        .extend([Ok(()), Err(SocketError::WouldBlock)]);
    assert_eq!(bench.send_as(GUEST, &big, &payload), Outcome::Sent);
    assert_eq!(bench.drops(DropReason::NotSent), 67);
    bench.host.answers.push_back(Err(SocketError::WouldBlock));
    assert!(matches!(
        bench.send_as(GUEST, &big, &payload),
        Outcome::Blocked(_)
    ));

    // An error is about one of them.
    bench.host.answers.push_back(Err(SocketError::TooBig(1280)));
    let message = error_of(bench.send_as(GUEST, &big, &payload));
    assert_eq!(message.about, About::udp(at(INNER), at(PEER), 100));
}

#[test]
fn many_datagrams_come_as_one() {
    let mut bench = Bench::new(Filtering::default());
    let socket = bench.sent(INNER, PEER);
    let segment = NonZeroU16::new(1200);
    let got = bench.udp.from_host(bench.now, socket, at(PEER), segment);
    assert_eq!(
        got,
        Ok(Delivery {
            segment,
            ..delivery(PEER, INNER)
        })
    );
    // Hairpinned, too.
    bench.sent("192.168.100.11:4001", PEER);
    let big = Datagram {
        segment,
        ..datagram("192.168.100.11:4001", "192.0.2.1:4000")
    };
    let got = bench.send_as(GUEST, &big, &[0; 4000]);
    assert_eq!(
        got,
        Outcome::Deliver(Delivery {
            segment,
            ..delivery("192.0.2.1:4001", INNER)
        })
    );
}
