//! An hour by a simulated clock, in which every timer runs.

use std::time::Duration;

use super::gateway::is_advertisement;
use super::outside::{Connection, peer_sends, syn};
use super::rig::{At, CAPABLE, GATEWAY4, Net, at, mac};
use super::services::{lease, query};
use super::station::fragments;
use crate::net::switch::PortConfig;

const SERVER: &str = "198.51.100.7:7";
const MINUTE: Duration = Duration::from_secs(60);

/// Flows by protocol: TCP, UDP, ICMP.
fn flows(net: &Net) -> (usize, usize, usize) {
    let flows = net.engine.status(net.now).flows;
    (flows.tcp, flows.udp, flows.icmp)
}

/// Lets a guest send a datagram from a port.
fn datagram(net: &mut Net, guest: At, port: u16) {
    let frame = net.stations[guest.0].udp(at(SERVER).address, (port, 7), b"out");
    net.send(guest, &frame);
}

#[test]
fn every_timer_goes_off_in_an_hour_and_few_deadlines_pass() {
    let mut net = Net::new();
    let config = PortConfig {
        addresses: vec![mac(10)],
        ..PortConfig::default()
    };
    let port = net.plug(config, CAPABLE);
    let guest = net.silent(port, 10);
    net.stations[guest.0].v4 = lease(&mut net, guest).expect("a lease of an hour");

    // Established and idle; asked for and not answered; one datagram, and one
    // each minute; a ping; a query that nobody answers; half a packet.
    let mut connection = Connection::new(guest, 5000, at(SERVER), Vec::new(), false, 9000);
    connection.step(&mut net);
    let established = net.host.streams.ids()[0];
    net.news(established);
    while connection.step(&mut net) {}
    let unanswered = syn(&net, guest, at(SERVER).address, (5001, 7));
    net.send(guest, &unanswered);
    datagram(&mut net, guest, 6000);
    datagram(&mut net, guest, 6001);
    let ping = net.stations[guest.0].ping(at(SERVER).address, 1, &[7; 3000]);
    net.send(guest, &fragments(&ping, 1)[0]);
    let ping = net.stations[guest.0].ping(at(SERVER).address, 1, b"ping");
    net.send(guest, &ping);
    let question = query(7, "www.example.org", 1);
    let question = net.stations[guest.0].udp(GATEWAY4.into(), (5353, 53), &question);
    net.send(guest, &question);
    assert_eq!(flows(&net), (2, 2, 1));
    net.take(guest);

    // Timers may be late by less than a second.
    net.wait(Duration::from_secs(1));
    let (start, mut deadlines, mut advertisements) = (net.now, 0, 0);
    for minute in 1..=60 {
        deadlines += net.wait(MINUTE);
        connection.step(&mut net);
        let arrived = net.take(guest);
        advertisements += arrived.iter().filter(|a| is_advertisement(a)).count();
        datagram(&mut net, guest, 6001);
        let expected = match minute {
            // RFC 5508, REQ-2: 60 s for a query of ICMP. RFC 5382, REQ-5: four
            // minutes for a connection that isn't made.
            1..=3 => (2, 2, 0),
            4 => (1, 2, 0),
            // RFC 4787, REQ-5: five minutes without a datagram.
            _ => (1, 1, 0),
        };
        assert_eq!(flows(&net), expected, "after {minute} minutes");
    }
    // RFC 4861, 6.2.1: unasked every 200 s to 600 s, the first ones sooner.
    assert!((6..=21).contains(&advertisements), "{advertisements}");
    // Timers that find nothing to do would show.
    assert!(deadlines < 200, "{deadlines} deadlines");
    assert_eq!(net.translation_drops(), [("reassembly_timeout", 1)]);
    assert_eq!(
        net.engine.status(net.now).leases.len(),
        0,
        "nobody renewed it"
    );

    // What was idle for an hour still carries data (RFC 5382, REQ-5).
    peer_sends(&mut net, established, b"still here", false);
    while connection.step(&mut net) {}
    assert_eq!(connection.tcp.received, b"still here");
    net.wait(130 * MINUTE);
    assert_eq!(flows(&net), (0, 0, 0));
    assert_eq!(net.host.streams.ids(), []);
    assert_eq!(net.host.datagrams.open_sockets().count(), 0);
    assert!(net.has_all_frames(port));
    assert!(net.now.since(start) > 60 * MINUTE);
}
