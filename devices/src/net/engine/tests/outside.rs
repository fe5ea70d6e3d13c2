//! Guests and those outside: UDP and TCP, through models of the host's
//! sockets.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::rig::{At, CAPABLE, MTU, Net, PLAIN, at};
use super::station::reassembled;
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::tcp::streams::Readiness;
use crate::net::nat::tcp::tests::guest::{Guest, Habits, Stage};
use crate::net::port::Offloads;
use crate::net::wire::icmp::{Echo, Icmp4, Icmp6};
use crate::net::wire::packet::Transport;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};
use crate::net::wire::testing::{Frame, Upper};

const SERVER4: &str = "198.51.100.7:7";
const SERVER6: &str = "[2001:db8:7::7]:7";

/// A guest's segment, left to the gateway to be cut and checksummed as its NIC
/// can have it.
pub(super) fn segment(
    net: &Net,
    from: At,
    to: Endpoint,
    header: TcpHeader,
    payload: &[u8],
) -> Frame {
    let header = TcpHeader {
        destination: to.port,
        ..header
    };
    let station = &net.stations[from.0];
    let parts = station.packet(to.address, Upper::Tcp(header), payload);
    parts.frame(Some(Some(1400)))
}

pub(super) fn syn(net: &Net, from: At, to: IpAddr, ports: (u16, u16)) -> Frame {
    let header = TcpHeader {
        source: ports.0,
        flags: TcpFlags::SYN,
        window: 1000,
        ..TcpHeader::default()
    };
    segment(net, from, Endpoint::new(to, ports.1), header, &[])
}

/// A guest's end of a connection.
pub(super) struct Connection {
    pub(super) tcp: Guest,
    at: At,
    port: u16,
    peer: Endpoint,
}

/// How guests' TCPs are here.
fn habits(burst: usize) -> Habits {
    Habits {
        iss: 0xFFFF_F000,
        mss: MTU - 60,
        scale: Some(7),
        buffer: 1 << 20,
        reassembles: true,
        burst,
    }
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..=252).cycle().take(len).collect()
}

impl Connection {
    /// One that sends `data`; `listens` says that the peer begins.
    pub(super) fn new(
        at: At,
        port: u16,
        peer: Endpoint,
        data: Vec<u8>,
        listens: bool,
        burst: usize,
    ) -> Self {
        Self {
            tcp: Guest::new(habits(burst), data, listens),
            at,
            port,
            peer,
        }
    }

    fn is_ours(&self, header: &TcpHeader) -> bool {
        (header.source, header.destination) == (self.peer.port, self.port)
    }

    /// Sends what it has, and takes what comes; false if nothing happened.
    pub(super) fn step(&mut self, net: &mut Net) -> bool {
        let mut out = Vec::new();
        self.tcp.output(net.now, &mut out);
        net.settle();
        let inbox = std::mem::take(&mut net.stations[self.at.0].inbox);
        let mut arrived = false;
        for packet in inbox {
            match packet.packet.transport {
                Transport::Tcp(header) if self.is_ours(&header) => {
                    arrived = true;
                    assert_eq!(packet.source(), self.peer.address);
                    let payload = packet.payload().to_vec();
                    self.tcp.segment((header, payload), &mut out);
                    self.tcp.reads(usize::MAX / 2);
                }
                _ => net.stations[self.at.0].inbox.push(packet),
            }
        }
        let sent = !out.is_empty();
        for (header, payload) in out {
            let header = TcpHeader {
                source: self.port,
                ..header
            };
            let frame = segment(net, self.at, self.peer, header, &payload);
            net.send(self.at, &frame);
        }
        sent || arrived
    }

    /// Goes on until neither end has anything to do, for which little time
    /// passes: not enough for a retransmission.
    pub(super) fn run(&mut self, net: &mut Net) {
        let start = net.now;
        loop {
            while self.step(net) {}
            net.wait(Duration::from_millis(10));
            if !self.step(net) && net.now.since(start) > Duration::from_millis(100) {
                return;
            }
        }
    }
}

/// The peer reads all that came, and tells.
pub(super) fn peer_reads(net: &mut Net, socket: SocketId) -> bool {
    let host = &mut net.host.streams.socket(socket).host;
    host.drained = host.taken.len();
    let owed = std::mem::take(&mut host.owes_writable);
    if owed {
        net.readiness(socket, Readiness::WRITABLE);
    }
    owed
}

/// The peer sends, and ends its stream if `end`.
pub(super) fn peer_sends(net: &mut Net, socket: SocketId, data: &[u8], end: bool) {
    let host = &mut net.host.streams.socket(socket).host;
    host.data.extend_from_slice(data);
    host.arrived = host.data.len();
    host.ended = end;
    net.readiness(socket, Readiness::READABLE);
}

#[test]
fn datagrams_go_out_and_answers_come_back() {
    for (server, offloads) in [
        (SERVER4, CAPABLE),
        (SERVER6, CAPABLE),
        (SERVER4, PLAIN),
        (SERVER6, PLAIN),
    ] {
        let mut net = Net::new();
        let guest = net.guest(10, offloads);
        let port = net.port(guest);
        let server = at(server);
        for scattered in [false, true] {
            net.wires.at(port).scattered = scattered;
            let frame = net.stations[guest.0].udp(server.address, (6000, server.port), b"question");
            net.send(guest, &frame);
            let sent = net.host.datagrams.sent.pop().unwrap();
            assert_eq!((sent.to, &sent.payload[..]), (server, &b"question"[..]));
            assert!(net.has_all_frames(port));
            net.datagram(sent.socket, server, b"answer");
            let arrived = net.one(guest);
            assert_eq!(arrived.source(), server.address);
            assert_eq!(arrived.payload(), b"answer");
        }
        assert_eq!(net.drops(port), []);
        net.wait(Duration::from_secs(400));
        assert_eq!(net.host.datagrams.open_sockets().count(), 0);
    }
}

/// Longer than the link, both ways.
#[test]
fn long_datagrams_go_in_fragments() {
    for server in [SERVER4, SERVER6] {
        for offloads in [CAPABLE, PLAIN] {
            let mut net = Net::new();
            let guest = net.guest(10, offloads);
            let server = at(server);
            let data = pattern(8000);
            let whole = net.stations[guest.0].udp(server.address, (6000, server.port), &data);
            for piece in super::station::fragments(&whole, 3) {
                net.send(guest, &piece);
            }
            let sent = net.host.datagrams.sent.pop().unwrap();
            assert_eq!(sent.payload, data);
            // The guest itself fragmented it: so may others.
            assert!(!sent.options.dont_fragment);
            net.datagram(sent.socket, server, &data);
            let arrived = net.take(guest);
            assert_eq!(arrived.len(), 6);
            assert_eq!(reassembled(&arrived), data);
        }
    }
}

/// Several datagrams in one frame, as the host and guests have them.
#[test]
fn trains_of_datagrams_stay_together_where_they_may() {
    for offloads in [CAPABLE, PLAIN, Offloads::CHECKSUM] {
        let mut net = Net::new();
        let guest = net.guest(10, offloads);
        let server = at(SERVER6);
        let data = pattern(5 * 1000 + 1);
        let upper = Upper::Udp(6000, server.port);
        let train = net.stations[guest.0].packet(server.address, upper, &data);
        net.send(guest, &train.frame(Some(Some(1000))));
        let sent = net.host.datagrams.sent.pop().unwrap();
        assert_eq!(sent.options.segment, NonZeroU16::new(1000));
        assert_eq!(sent.payload, data);
        let size = NonZeroU16::new(1000);
        net.call(|engine, world| engine.datagram(world, sent.socket, server, size, &data));
        let port = net.port(guest);
        let frames = if offloads == CAPABLE { 1 } else { 6 };
        assert_eq!(net.wires.at(port).sent.len(), frames);
        let arrived = net.take(guest);
        let payloads = arrived.iter().map(|arrived| arrived.payload().to_vec());
        assert_eq!(
            payloads.collect::<Vec<_>>(),
            data.chunks(1000).collect::<Vec<_>>()
        );
        // Each too long for the link: each in fragments.
        let size = NonZeroU16::new(2000);
        net.call(|engine, world| engine.datagram(world, sent.socket, server, size, &data));
        let arrived = net.take(guest);
        assert_eq!(arrived.len(), 5);
        assert_eq!(reassembled(&arrived[..2]), data[..2000]);
        assert_eq!(arrived[4].payload(), &data[4000..]);
    }
}

#[test]
fn echoes_go_out_and_come_back() {
    for server in [SERVER4, SERVER6] {
        let mut net = Net::new();
        let guest = net.guest(10, CAPABLE);
        let server = at(server).address;
        let data = pattern(3000);
        let ping = net.stations[guest.0].ping(server, 5, &data);
        for piece in super::station::fragments(&ping, 3) {
            net.send(guest, &piece);
        }
        let sent = net.host.datagrams.sent.pop().unwrap();
        assert_eq!(sent.payload[8..], data);
        let mut reply = sent.payload;
        let echo = Echo {
            identifier: 1,
            sequence: 5,
        };
        let header = if server.is_ipv4() {
            Icmp4::EchoReply(echo).write(&mut reply)
        } else {
            Icmp6::EchoReply(echo).write(&mut reply)
        };
        assert_eq!(header, Ok(8));
        net.call(|engine, world| engine.echo_reply(world, sent.socket, server, &reply));
        let arrived = net.take(guest);
        assert!(arrived.iter().all(|arrived| arrived.source() == server));
        assert_eq!(reassembled(&arrived), data);
    }
}

#[test]
fn streams_go_both_ways_whatever_the_nic_can() {
    for server in [SERVER4, SERVER6] {
        for offloads in [CAPABLE, PLAIN, Offloads::CHECKSUM] {
            for scattered in [false, true] {
                let mut net = Net::new();
                let guest = net.guest(10, offloads);
                let port = net.port(guest);
                net.wires.at(port).scattered = scattered;
                let data = pattern(300_000);
                let server = at(server);
                let mut end = Connection::new(guest, 5000, server, data.clone(), false, 60_000);
                end.step(&mut net);
                let [socket] = net.host.streams.ids()[..] else {
                    panic!("one connection");
                };
                net.news(socket);
                peer_sends(&mut net, socket, &data, true);
                end.run(&mut net);
                assert_eq!(end.tcp.stage, Stage::Open);
                assert!(end.tcp.is_finished());
                assert_eq!(end.tcp.received, data);
                let done = net.host.streams.done.pop().unwrap();
                assert_eq!(done.host.taken, data);
                assert_eq!(net.drops(port), []);
                assert!(net.has_all_frames(port));
                net.wait(Duration::from_secs(120));
                assert_eq!(net.engine.status(net.now).flows.tcp, 0);
            }
        }
    }
}

/// A peer that reads slowly has the guest's frames wait, and none is sent
/// twice.
#[test]
fn frames_wait_for_a_slow_peer_in_their_order() {
    let mut net = Net::new();
    net.host.streams.capacity = 20_000;
    let guest = net.guest(10, CAPABLE);
    let port = net.port(guest);
    let data = pattern(400_000);
    let mut end = Connection::new(guest, 5000, at(SERVER4), data.clone(), false, 9000);
    end.step(&mut net);
    let [socket] = net.host.streams.ids()[..] else {
        panic!("one connection");
    };
    // More is promised than there is, as by a kernel whose buffers shrink.
    net.host.streams.socket(socket).host.boast = 30_000;
    net.news(socket);
    let mut waited = 0;
    while !net.host.streams.ids().is_empty() && waited < 1000 {
        while end.step(&mut net) {}
        waited += usize::from(!net.has_all_frames(port));
        let host = &net.host.streams.socket(socket).host;
        if host.shut {
            break;
        }
        peer_reads(&mut net, socket);
    }
    assert_eq!(net.host.streams.socket(socket).host.taken, data);
    assert!(waited > 10, "{waited} waits");
    net.settle();
    assert!(net.has_all_frames(port));
    // A retransmission would have taken time.
    assert_eq!(net.drops(port), []);
}

#[test]
fn later_frames_dont_overtake_those_that_waited() {
    let mut net = Net::new();
    net.host.streams.capacity = 9000;
    let guest = net.guest(10, CAPABLE);
    let server = at(SERVER4);
    let data = pattern(4 * 9000);
    let mut end = Connection::new(guest, 5000, server, data.clone(), false, 9000);
    end.step(&mut net);
    let [socket] = net.host.streams.ids()[..] else {
        panic!("one connection");
    };
    net.host.streams.socket(socket).host.boast = 40_000;
    net.news(socket);
    net.settle();
    let arrived = net.take(guest).remove(0);
    let Transport::Tcp(header) = arrived.packet.transport else {
        panic!("{arrived:?}");
    };
    let mut out = Vec::new();
    end.tcp.segment((header, Vec::new()), &mut out);
    end.tcp.output(net.now, &mut out);
    assert_eq!(out.len(), 4);
    for (number, (header, payload)) in (1..).zip(out) {
        if number == 4 {
            let port = net.port(guest);
            assert_eq!(net.wires.at(port).out.len(), 2, "two wait");
            net.host.streams.socket(socket).host.capacity = 1 << 20;
            net.readiness(socket, Readiness::WRITABLE);
        }
        let header = TcpHeader {
            source: 5000,
            ..header
        };
        let frame = segment(&net, guest, server, header, &payload);
        net.send(guest, &frame);
    }
    assert_eq!(net.host.streams.socket(socket).host.taken, data);
}

/// The port's frames go with it.
#[test]
fn a_port_that_goes_takes_its_connections_along() {
    let mut net = Net::new();
    net.host.streams.capacity = 10_000;
    let (guest, other) = (net.guest(10, CAPABLE), net.guest(11, CAPABLE));
    let mut ends = Vec::new();
    for at_ in [guest, other] {
        let mut end = Connection::new(at_, 5000, at(SERVER4), pattern(100_000), false, 9000);
        end.step(&mut net);
        ends.push(end);
    }
    for socket in net.host.streams.ids() {
        net.host.streams.socket(socket).host.boast = 30_000;
        net.news(socket);
    }
    let frame = net.stations[guest.0].udp(at(SERVER4).address, (6000, 7), b"out");
    net.send(guest, &frame);
    for end in &mut ends {
        while end.step(&mut net) {}
    }
    let port = net.port(guest);
    assert!(!net.has_all_frames(port), "some wait");
    assert_eq!(net.host.streams.ids().len(), 2);
    net.call(|engine, world| engine.remove_port(world, port))
        .unwrap();
    assert!(net.has_all_frames(port));
    net.wires.unplug(port);
    net.settle();
    let status = net.engine.status(net.now);
    assert_eq!((status.flows.tcp, status.flows.udp), (1, 0));
    assert_eq!(net.host.streams.ids().len(), 1);
    assert_eq!(net.host.datagrams.open_sockets().count(), 0);
    assert!(net.engine.ports().all(|of| of != port));
    // The other's goes on.
    let [socket] = net.host.streams.ids()[..] else {
        panic!("one connection");
    };
    while !net.host.streams.socket(socket).host.shut {
        while ends[1].step(&mut net) {}
        peer_reads(&mut net, socket);
    }
    assert_eq!(net.host.streams.socket(socket).host.taken, pattern(100_000));
    let port = net.port(other);
    assert!(net.has_all_frames(port));
}

#[test]
fn connections_that_cant_be_made_are_refused() {
    for (error, answer) in [
        (SocketError::Refused, "reset"),
        (SocketError::NetUnreachable, "unreachable"),
    ] {
        let mut net = Net::new();
        let guest = net.guest(10, CAPABLE);
        net.host.streams.progress = Err(error);
        let syn = syn(&net, guest, at(SERVER4).address, (5000, 80));
        net.send(guest, &syn);
        let arrived = net.one(guest);
        let told = match arrived.packet.transport {
            Transport::Tcp(header) if header.flags.contains(TcpFlags::RST) => "reset",
            Transport::Icmp4(Icmp4::Unreachable { .. }) => "unreachable",
            _ => "nothing",
        };
        assert_eq!(told, answer);
        assert_eq!(net.engine.status(net.now).flows.tcp, 0);
    }
}
