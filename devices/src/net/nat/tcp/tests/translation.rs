//! How connections begin, and whom they are translated for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::host::Ending;
use super::hosts::{ALL, Socket};
use super::table::{ACK, FIN, LIMITS, Net, RST, SYN, gateway, inner, leg, outer};
use crate::net::nat::drops::DropReason;
use crate::net::nat::flows::{Endpoint, Guest};
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::tcp::flow::State;
use crate::net::nat::tcp::streams::{LocalPort, Progress, Readiness};
use crate::net::nat::tcp::{Leg, Limits, Outcome};
use crate::net::wire::tcp::{TcpFlags, TcpHeader};

#[test]
fn a_connection_carries_both_streams_and_ends() {
    let mut net = Net::new(LIMITS);
    let (mut client, socket) = net.open(&leg(0, 5000));
    assert_eq!(net.hosts.asked, [LocalPort::Prefer(5000)]);
    assert_eq!(
        net.hosts.socket(socket).peer.unwrap().to_string(),
        "198.51.100.1:80"
    );
    assert_eq!(net.segment(&client, ACK, b"question"), Outcome::Done);
    client.seq += 8;
    assert_eq!(net.flush().len(), 0, "it travels with the answer");
    assert_eq!(net.hosts.socket(socket).host.taken, b"question");
    net.peer_sends(socket, b"answer", true);
    let sent = net.flush();
    assert_eq!(
        (sent.len(), sent[0].payload.as_slice()),
        (1, b"answer".as_slice())
    );
    assert_eq!(sent[0].header.flags, TcpFlags::PSH | FIN | ACK);
    assert_eq!(sent[0].header.ack, client.seq);
    client.ack += 7;
    assert_eq!(net.segment(&client, FIN | ACK, &[]), Outcome::Done);
    let sent = net.flush();
    assert_eq!((sent.len(), sent[0].header.ack), (1, client.seq + 1));
    assert_eq!(net.hosts.done[0].host.ending, Some(Ending::Closed));
    assert_eq!(net.state(&client.leg), Some(State::TimeWait));
    net.wait(Duration::from_secs(61));
    assert_eq!(net.tcp.counters().closed, 1);
    net.check_empty();
}

/// RFC 5382, REQ-1 and REQ-7.
#[test]
fn an_inner_endpoint_has_one_outer_port_of_its_own() {
    let mut net = Net::new(LIMITS);
    let elsewhere = Leg {
        outer: outer(2, 443),
        ..leg(0, 5000)
    };
    let (first, _) = net.open(&leg(0, 5000));
    let (second, _) = net.open(&elsewhere);
    net.open(&leg(1, 5000));
    let asked = [
        LocalPort::Prefer(5000),
        LocalPort::Shared(5000),
        LocalPort::Prefer(0),
    ];
    assert_eq!(net.hosts.asked, asked);
    let port = |net: &Net, of: &Leg| net.tcp.iter().find(|l| l.leg == *of).unwrap().port;
    assert_eq!(port(&net, &first.leg), Some(5000));
    assert_eq!(port(&net, &second.leg), Some(5000));
    assert_eq!(port(&net, &leg(1, 5000)), Some(32768));
    // The mapping lives as long as a connection has it.
    assert_eq!(net.segment(&first, RST | ACK, &[]), Outcome::Done);
    assert_eq!(net.syn(&leg(0, 5000)), Outcome::Done);
    assert_eq!(net.hosts.asked[3], LocalPort::Shared(5000));
    for guest in [0, 1] {
        let Net {
            tcp,
            hosts,
            outlet,
            now,
        } = &mut net;
        tcp.remove_guest(*now, Guest(guest), hosts, outlet);
    }
    assert_eq!(net.syn(&leg(1, 5000)), Outcome::Done);
    assert_eq!(net.hosts.asked[4], LocalPort::Prefer(5000));
}

/// RFC 5382, REQ-9.
#[test]
fn what_cannot_be_reached_is_said_to_the_guest() {
    use SocketError::{
        Exhausted, HostUnreachable, InUse, NetUnreachable, Prohibited, Refused, TimedOut,
    };
    for (error, resets, tells) in [
        (Refused, true, false),
        (HostUnreachable, false, true),
        (NetUnreachable, false, true),
        (Prohibited, false, true),
        (TimedOut, false, false),
        (Exhausted, false, false),
        (InUse, false, false),
    ] {
        for at_once in [true, false] {
            let mut net = Net::new(LIMITS);
            if at_once {
                net.hosts.progress = Err(error);
            }
            let outcome = net.syn(&leg(0, 5000));
            if !at_once {
                let host = &mut net.hosts.socket(SocketId(0)).host;
                host.error = Some(error);
                let Net {
                    tcp,
                    hosts,
                    outlet,
                    now,
                } = &mut net;
                let readiness = ALL | Readiness::ERROR;
                tcp.on_socket(*now, SocketId(0), readiness, hosts, outlet);
            } else if !resets && !tells {
                assert_eq!(outcome, Outcome::Dropped(DropReason::NoSocket));
            }
            let sent = net.flush();
            assert_eq!(sent.len(), usize::from(resets), "{error}");
            if resets {
                assert_eq!(
                    (sent[0].header.flags, sent[0].header.ack),
                    (RST | ACK, 1000)
                );
            }
            let told = tells.then_some((leg(0, 5000), error, 999));
            assert_eq!(net.outlet.unreachable, told.into_iter().collect::<Vec<_>>());
            net.check_empty();
        }
    }
}

#[test]
fn a_segment_without_a_connection_is_reset() {
    let mut net = Net::new(LIMITS);
    let header = |flags| TcpHeader {
        seq: 50,
        ack: 70,
        flags,
        ..TcpHeader::default()
    };
    for (flags, answer) in [
        (ACK, Some((70, 0, RST))),
        (SYN | ACK, Some((70, 0, RST))),
        (FIN | ACK, Some((70, 0, RST))),
        (SYN | FIN, Some((0, 53, RST | ACK))),
        (TcpFlags::empty(), Some((0, 51, RST | ACK))),
        (RST, None),
        (SYN | RST, None),
    ] {
        let outcome = net.give(&leg(0, 5000), header(flags), b"x");
        assert_eq!(outcome, Outcome::Dropped(DropReason::NoFlow));
        let sent = net.flush();
        let sent = sent
            .first()
            .map(|s| (s.header.seq, s.header.ack, s.header.flags));
        assert_eq!(sent, answer, "{flags:?}");
    }
    assert_eq!(net.tcp.drops().of(DropReason::NoFlow), 7);
    assert_eq!(net.hosts.asked, []);
}

#[test]
fn guests_reach_only_what_they_may() {
    for (address, port, resets) in [
        ("192.168.100.1", 22, true),
        ("127.0.0.1", 22, false),
        ("224.0.0.1", 22, false),
        ("255.255.255.255", 22, false),
        ("198.51.100.1", 0, false),
    ] {
        let mut net = Net::new(LIMITS);
        let address: IpAddr = address.parse().unwrap();
        let outer = Endpoint::new(address, port);
        let outcome = net.syn(&Leg {
            outer,
            ..leg(0, 5000)
        });
        assert_eq!(outcome, Outcome::Dropped(DropReason::Destination));
        assert_eq!(net.flush().len(), usize::from(resets), "{address}");
        assert_eq!(net.hosts.asked, []);
    }
}

/// A connection that comes to a listener.
fn caller(peer: &str) -> Socket {
    let mut socket = Socket {
        peer: Some(peer.parse::<SocketAddr>().unwrap()),
        ..Socket::default()
    };
    socket.host.capacity = 1 << 20;
    socket
}

fn map(net: &mut Net) -> SocketId {
    let at = Endpoint::new(Ipv4Addr::UNSPECIFIED, 2222);
    let (listener, port) = net.tcp.map(at, inner(0, 22), &mut net.hosts).unwrap();
    assert_eq!(port, 2222);
    listener
}

#[test]
fn a_static_mapping_leads_to_a_guest() {
    let mut net = Net::new(LIMITS);
    net.outlet.guests.insert(inner(0, 22).address, Guest(0));
    let listener = map(&mut net);
    for (peer, shown) in [
        ("203.0.113.7:4000", Some(Ipv4Addr::new(203, 0, 113, 7))),
        ("127.0.0.1:4000", Some(gateway())),
        ("192.168.100.1:4000", None),
        ("[2001:db8::1]:4000", None),
    ] {
        net.hosts.arrives(listener, caller(peer));
        net.news(listener);
        let sent = net.flush();
        let Some(shown) = shown else {
            assert_eq!(sent.len(), 0);
            assert_eq!(
                net.hosts.done.last().unwrap().host.ending,
                Some(Ending::Aborted)
            );
            continue;
        };
        let came = Leg {
            guest: Guest(0),
            inner: inner(0, 22),
            outer: Endpoint::new(shown, 4000),
        };
        assert_eq!((sent[0].leg, sent[0].header.flags), (came, SYN));
        let answer = TcpHeader {
            seq: 500,
            ack: sent[0].header.seq.wrapping_add(1),
            flags: SYN | ACK,
            window: 65535,
            ..TcpHeader::default()
        };
        assert_eq!(net.give(&came, answer, &[]), Outcome::Done);
        assert_eq!(net.flush()[0].header.ack, 501);
        assert_eq!(net.state(&came), Some(State::Open));
    }
    assert_eq!(net.tcp.drops().of(DropReason::Sender), 2);
    assert_eq!(net.tcp.counters().accepted, 2);
    // A second connection under the same name can't be told from the first.
    net.hosts.arrives(listener, caller("203.0.113.7:4000"));
    net.news(listener);
    assert_eq!((net.tcp.len(), net.flush().len()), (2, 0));
    // What came by a mapping outlives it.
    assert!(net.tcp.unmap(listener, &mut net.hosts));
    assert!(!net.tcp.unmap(listener, &mut net.hosts));
    assert_eq!((net.tcp.len(), net.hosts.open()), (2, 2));
}

#[test]
fn a_guest_that_refuses_resets_the_caller() {
    let mut net = Net::new(LIMITS);
    let listener = map(&mut net);
    net.hosts.arrives(listener, caller("203.0.113.7:4000"));
    net.news(listener);
    let sent = net.flush();
    let answer = TcpHeader {
        ack: sent[0].header.seq.wrapping_add(1),
        flags: RST | ACK,
        ..TcpHeader::default()
    };
    assert_eq!(net.give(&sent[0].leg, answer, &[]), Outcome::Done);
    assert_eq!(net.hosts.done[0].host.ending, Some(Ending::Aborted));
    assert_eq!((net.tcp.len(), net.tcp.counters().refused), (0, 1));
}

#[test]
fn callers_are_taken_in_turns_and_as_descriptors_allow() {
    let limits = Limits {
        embryonic: 1000,
        ..LIMITS
    };
    let mut net = Net::new(limits);
    let listener = map(&mut net);
    for port in 4000..4200 {
        net.hosts
            .arrives(listener, caller(&format!("203.0.113.7:{port}")));
    }
    net.hosts.limit = 1 + 130;
    net.news(listener);
    assert_eq!(net.tcp.len(), 64);
    assert!(net.flush_once());
    assert_eq!(net.tcp.len(), 128);
    assert!(!net.flush_once());
    assert_eq!(net.tcp.len(), 130);
    // Once there are descriptors, this is told.
    net.hosts.limit = usize::MAX;
    net.news(listener);
    net.flush();
    assert_eq!(net.tcp.len(), 200);
}

#[test]
fn a_connection_that_is_made_at_once_is_answered_at_once() {
    let mut net = Net::new(LIMITS);
    net.hosts.progress = Ok(Progress::Connected);
    assert_eq!(net.syn(&leg(0, 5000)), Outcome::Done);
    assert_eq!(net.flush()[0].header.flags, SYN | ACK);
}

/// RFC 6528.
#[test]
fn initial_sequence_numbers_differ_and_grow() {
    let mut net = Net::new(LIMITS);
    net.hosts.progress = Ok(Progress::Connected);
    let mut isn = |port, after| {
        net.now = net.now + after;
        assert_eq!(net.syn(&leg(0, port)), Outcome::Done);
        let isn = net.flush()[0].header.seq;
        let header = TcpHeader {
            seq: 1000,
            flags: RST,
            ..TcpHeader::default()
        };
        assert_eq!(net.give(&leg(0, port), header, &[]), Outcome::Done);
        assert_eq!(net.tcp.len(), 0);
        isn
    };
    let first = isn(5000, Duration::ZERO);
    assert_ne!(isn(5001, Duration::ZERO), first);
    let later = isn(5000, Duration::from_millis(4));
    assert_eq!(later.wrapping_sub(first), 1000);
}
