//! What bounds and time do to connections.

use std::time::Duration;

use super::host::Ending;
use super::table::{ACK, Client, FIN, LIMITS, Net, RST, SYN, inner, leg};
use crate::net::nat::drops::DropReason;
use crate::net::nat::flows::{self, FlowId, FlowKey, Guest};
use crate::net::nat::sockets::SocketId;
use crate::net::nat::tcp::flow::State;
use crate::net::nat::tcp::{Limits, Outcome, Tcp};
use crate::net::wire::tcp::TcpHeader;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn ten_thousand_connections_are_carried() {
    let mut net = Net::new(LIMITS);
    let clients: Vec<_> = (0..10_000u16)
        .map(|n| net.open(&leg(u32::from(n % 4), 10_000 + n)).0)
        .collect();
    assert_eq!(net.tcp.count_in(State::Open), 10_000);
    for (id, n) in (0..).zip(0..10_000u32) {
        net.peer_sends(SocketId(id), &n.to_be_bytes(), false);
    }
    let sent = net.flush();
    assert_eq!(sent.len(), 10_000);
    for (n, (client, sent)) in (0..10_000u32).zip(clients.iter().zip(&sent)) {
        assert_eq!(
            (sent.leg, sent.payload.as_slice()),
            (client.leg, n.to_be_bytes().as_slice())
        );
        let ack = client.ack.wrapping_add(4);
        assert_eq!(
            net.segment(&Client { ack, ..*client }, ACK, &[]),
            Outcome::Done
        );
    }
    assert_eq!(net.flush().len(), 0);
    // Two hours of silence, in which few timers go off.
    assert_eq!(net.wait(120 * MINUTE).len(), 0);
    assert_eq!(net.tcp.len(), 10_000);
    let probes = net.wait(10 * MINUTE);
    assert_eq!(
        probes
            .iter()
            .filter(|sent| sent.header.flags == ACK)
            .count(),
        40_000
    );
    assert_eq!(net.tcp.counters().timed_out, 10_000);
    net.check_empty();
}

/// RFC 5382, REQ-5.
#[test]
fn an_idle_connection_is_asked_before_it_ends() {
    let mut net = Net::new(LIMITS);
    let (client, _) = net.open(&leg(0, 5000));
    for _ in 0..3 {
        assert_eq!(net.wait(124 * MINUTE - SECOND).len(), 0);
        let probes = net.wait(2 * SECOND);
        assert_eq!(probes.len(), 1);
        assert_eq!(probes[0].header.seq.wrapping_add(1), client.ack);
        assert_eq!(net.segment(&client, ACK, &[]), Outcome::Done);
        assert_eq!(net.flush().len(), 0);
    }
    assert_eq!(net.wait(128 * MINUTE - SECOND).len(), 4);
    assert_eq!(net.tcp.len(), 1);
    let end = net.wait(2 * SECOND);
    assert_eq!((end.len(), end[0].header.flags), (1, RST | ACK));
    assert_eq!(net.hosts.done[0].host.ending, Some(Ending::Aborted));
    net.check_empty();
}

/// The engine stood still: the guest is to be asked nevertheless.
#[test]
fn a_late_clock_ends_no_connection() {
    let mut net = Net::new(LIMITS);
    let (client, _) = net.open(&leg(0, 5000));
    net.now = net.now + 1000 * MINUTE;
    assert_eq!(net.wait(SECOND).len(), 1);
    assert_eq!(net.segment(&client, ACK, &[]), Outcome::Done);
    assert_eq!(net.wait(123 * MINUTE).len(), 0);
    assert_eq!(net.tcp.len(), 1);
}

/// RFC 5382, REQ-5 and RFC 7857, 2.1.
#[test]
fn connections_that_are_not_established_last_four_minutes() {
    let mut net = Net::new(LIMITS);
    assert_eq!(net.syn(&leg(0, 5000)), Outcome::Done);
    assert_eq!(net.syn(&leg(0, 5001)), Outcome::Done);
    net.news(SocketId(1));
    assert_eq!(net.flush().len(), 1);
    let repeated = net.wait(4 * MINUTE - SECOND);
    assert!(repeated.iter().all(|sent| sent.header.flags == SYN | ACK));
    assert!((3..10).contains(&repeated.len()));
    assert_eq!(net.tcp.len(), 2);
    net.wait(2 * SECOND);
    assert_eq!(net.tcp.counters().timed_out, 2);
    net.check_empty();
}

#[test]
fn each_guest_has_its_share() {
    let limits = Limits {
        flows: flows::Limits {
            total: 25,
            per_guest: 10,
        },
        ..LIMITS
    };
    let mut net = Net::new(limits);
    for (guest, admitted, reason) in [
        (0, 10, DropReason::GuestFull),
        (1, 10, DropReason::GuestFull),
        (2, 5, DropReason::TableFull),
    ] {
        for port in 0..12 {
            let leg = leg(guest, 5000 + port);
            if port < admitted {
                net.open(&leg);
            } else {
                assert_eq!(net.syn(&leg), Outcome::Dropped(reason));
            }
        }
    }
    assert_eq!((net.tcp.len(), net.hosts.open()), (25, 25));
    let Net {
        tcp,
        hosts,
        outlet,
        now,
    } = &mut net;
    tcp.remove_guest(*now, Guest(0), hosts, outlet);
    assert_eq!((net.tcp.len(), net.hosts.open()), (15, 15));
    assert_eq!(net.tcp.counters().dropped, 10);
    net.check_counters();
}

#[test]
fn a_flood_of_syns_takes_nothing_that_is_established() {
    let limits = Limits {
        embryonic: 8,
        ..LIMITS
    };
    let mut net = Net::new(limits);
    let (client, socket) = net.open(&leg(0, 1));
    assert_eq!(net.syn(&leg(1, 5000)), Outcome::Done);
    for port in 0..10_000 {
        assert_eq!(net.syn(&leg(0, 10_000 + port)), Outcome::Done);
    }
    // One established, one of the other guest, and the flood's newest.
    assert_eq!((net.tcp.len(), net.hosts.open()), (10, 10));
    for port in 9_992..10_000 {
        assert_eq!(net.state(&leg(0, 10_000 + port)), Some(State::Connecting));
    }
    assert_eq!(net.state(&leg(1, 5000)), Some(State::Connecting));
    assert_eq!(net.flush().len(), 0);
    assert_eq!(net.segment(&client, ACK, b"still here"), Outcome::Done);
    assert_eq!(net.hosts.socket(socket).host.taken, b"still here");
    net.check_counters();
}

/// Closes a connection so that TIME-WAIT is ours.
fn linger(net: &mut Net, port: u16) -> Client {
    let (mut client, socket) = net.open(&leg(0, port));
    net.peer_sends(socket, &[], true);
    net.flush();
    client.ack = client.ack.wrapping_add(1);
    assert_eq!(net.segment(&client, FIN | ACK, &[]), Outcome::Done);
    net.flush();
    client
}

#[test]
fn time_wait_makes_room() {
    let limits = Limits {
        flows: flows::Limits {
            total: 100,
            per_guest: 6,
        },
        lingering: 4,
        ..LIMITS
    };
    let mut net = Net::new(limits);
    for port in 0..10 {
        linger(&mut net, 5000 + port);
    }
    assert_eq!((net.tcp.len(), net.hosts.open()), (4, 0));
    assert_eq!(net.state(&leg(0, 5005)), None);
    assert_eq!(net.state(&leg(0, 5006)), Some(State::TimeWait));
    for port in 0..6 {
        net.open(&leg(0, 6000 + port));
    }
    assert_eq!(net.tcp.count_in(State::Open), 6);
    assert_eq!(
        net.syn(&leg(0, 7000)),
        Outcome::Dropped(DropReason::GuestFull)
    );
    assert_eq!(net.tcp.counters().closed, 10);
    net.check_counters();
}

/// RFC 9293, 3.10.7.4: a SYN beyond the old connection's numbers.
#[test]
fn a_connection_may_follow_its_like() {
    let mut net = Net::new(LIMITS);
    let client = linger(&mut net, 5000);
    assert_eq!(net.syn(&client.leg), Outcome::Done);
    assert_eq!(net.state(&client.leg), Some(State::TimeWait));
    let header = TcpHeader {
        seq: client.seq + 100,
        flags: SYN,
        ..TcpHeader::default()
    };
    assert_eq!(net.give(&client.leg, header, &[]), Outcome::Done);
    assert_eq!(net.state(&client.leg), Some(State::Connecting));
    assert_eq!((net.tcp.len(), net.tcp.counters().opened), (1, 2));
}

#[test]
fn a_full_port_is_tried_again_when_it_has_room() {
    let mut net = Net::new(LIMITS);
    let (_, first) = net.open(&leg(0, 5000));
    let (_, second) = net.open(&leg(0, 5001));
    let (_, other) = net.open(&leg(1, 5002));
    net.outlet.full.insert(Guest(0));
    for socket in [first, second, other] {
        net.peer_sends(socket, b"data", false);
    }
    let sent = net.flush();
    assert_eq!((sent.len(), sent[0].leg.guest), (1, Guest(1)));
    assert_eq!(net.outlet.refused, 2);
    // Nothing is tried in vain.
    net.peer_sends(first, b" more", false);
    assert_eq!(net.flush().len(), 0);
    assert_eq!(net.outlet.refused, 2);
    net.outlet.full.clear();
    net.tcp.room(Guest(1));
    assert_eq!(net.flush().len(), 0);
    net.tcp.room(Guest(0));
    let sent = net.flush();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].payload, b"data more");
    net.tcp.room(Guest(0));
    assert_eq!(net.flush().len(), 0);
}

/// A guest that never takes anything makes no list grow.
#[test]
fn what_waits_for_room_is_bounded() {
    let mut net = Net::new(LIMITS);
    net.outlet.full.insert(Guest(0));
    for round in 0..1000u32 {
        let leg = leg(0, 5000 + (round % 50) as u16);
        assert_eq!(net.syn(&leg), Outcome::Done);
        net.news(SocketId(0));
        net.flush();
        let header = TcpHeader {
            seq: 1000,
            flags: RST,
            ..TcpHeader::default()
        };
        assert_eq!(net.give(&leg, header, &[]), Outcome::Done);
        assert!(net.tcp.waiting_for_room(Guest(0)) <= 128);
    }
    net.check_empty();
}

#[test]
fn no_flow_starves_another() {
    let mut net = Net::new(LIMITS);
    net.outlet.link.burst = 65160;
    let (mut client, big) = net.open(&leg(0, 5000));
    let (_, small) = net.open(&leg(0, 5001));
    let data = vec![7; 4 << 20];
    net.peer_sends(big, &data, false);
    net.peer_sends(small, b"small", false);
    // The window grows to all there is.
    let mut received = 0;
    let mut largest = 0;
    while received < data.len() {
        let more = net.flush_once();
        let sent = std::mem::take(&mut net.outlet.sent);
        let mine = sent.iter().filter(|sent| sent.leg == client.leg);
        let bytes: usize = mine.map(|sent| sent.payload.len()).sum();
        if received == 0 {
            assert!(sent.iter().any(|sent| sent.payload == b"small"));
        }
        assert!(bytes <= 4 * 65536 + 65160);
        assert!(bytes > 0 || !more);
        received += bytes;
        largest = largest.max(bytes);
        client.ack = client.ack.wrapping_add(bytes as u32);
        if !more {
            assert_eq!(net.segment(&client, ACK, &[]), Outcome::Done);
        }
    }
    assert!(largest > 4 * 65000);
}

#[test]
fn parked_frames_are_bounded_and_asked_for_again() {
    let limits = Limits {
        parked: 20,
        ..LIMITS
    };
    let mut net = Net::new(limits);
    let mut parked: Vec<FlowId> = Vec::new();
    let mut clients = Vec::new();
    for port in 0..3 {
        let (mut client, socket) = net.open(&leg(0, 5000 + port));
        // It promises more room than it has.
        let host = &mut net.hosts.socket(socket).host;
        (host.boast, host.capacity) = (1 << 20, 100);
        for _ in 0..30 {
            if let Outcome::Park(id) = net.segment(&client, ACK, &[5; 1000]) {
                parked.push(id);
            }
            client.seq += 1000;
        }
        clients.push((client, socket));
    }
    let count = |id: &FlowId| parked.iter().filter(|parked| *parked == id).count();
    let first = parked[0];
    assert_eq!(count(&first), 16);
    assert_eq!(parked.len(), 20);
    assert!(net.tcp.drops().of(DropReason::NotSent) > 0);
    net.flush();
    assert_eq!(net.outlet.unparked, []);
    // The socket has room.
    net.hosts.socket(clients[0].1).host.capacity = 1 << 20;
    net.news(clients[0].1);
    assert_eq!(net.outlet.unparked, [first]);
    // The flow ends: its frames are of no use any more.
    let second = parked[16];
    let Net {
        tcp,
        hosts,
        outlet,
        now,
    } = &mut net;
    tcp.remove_guest(*now, Guest(0), hosts, outlet);
    assert!(net.outlet.unparked[1..].contains(&second));
    net.check_empty();
}

/// What a connection costs in all tables: 1 KiB at most.
#[test]
fn a_connection_is_small() {
    use std::mem::size_of;
    // Slab, wheel, hash of the key, owner by socket, port, and a place among
    // those due; vectors may be twice as long as is needed.
    let table = Tcp::ENTRY_SIZE + size_of::<(FlowKey, Guest)>() + 16;
    let wheel = 40;
    let index = 8 + 1;
    let owner = size_of::<Option<FlowId>>();
    let port = size_of_val(&inner(0, 0)) + 8 + 1;
    let due = size_of::<FlowId>();
    let all = table + wheel + index + owner + port + due;
    assert!(
        all <= 512,
        "{all} = table {table} + {wheel} + {index} + {owner} + {port} + {due}"
    );
}
