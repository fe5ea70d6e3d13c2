//! The virtual network's engine: frames of two guests, and what happens at the
//! host's sockets meanwhile. A third guest's service goes on.
#![no_main]

use std::net::Ipv4Addr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nestling_devices::net::attachment::Settings;
use nestling_devices::net::engine::{Engine, Seed, World};
use nestling_devices::net::mac::{Mac, MacAddress};
use nestling_devices::net::nat::flows::Endpoint;
use nestling_devices::net::nat::sockets::SocketError;
use nestling_devices::net::nat::tcp::streams::Readiness;
use nestling_devices::net::port::{FRAME_HEADER, Offloads};
use nestling_devices::net::switch::{PortConfig, PortId};
use nestling_devices::net::time::Time;
use nestling_devices::net::wire::arp::{Arp, Operation};
use nestling_devices::net::wire::build::HeaderBuf;
use nestling_devices::net::wire::checksum::checksum;
use nestling_devices::net::wire::ether::EtherHeader;
use nestling_devices::net::wire::icmp::{Echo, Icmp4};
use nestling_devices::net::wire::ip::{Ip4Header, Protocol};
use nestling_devices::net::wire::packet::{Network, Packet, Transport};
use nestling_devices::net::wire::vnet::VnetHeader;
use nestling_fuzz::network::{
    FLOWS, GATEWAY, GATEWAY4, Outside, PARKED, STATIONS, Wires, config, mac,
};
use nestling_fuzz::records::{number, records};

/// The good guest's addresses.
const GOOD: u8 = 0x50;
const GOOD4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, GOOD);

/// The longest frame.
const LONGEST: usize = 0x1_1000;

/// Where a frame's IP header begins, behind the virtio header and Ethernet's.
const IP: usize = FRAME_HEADER + 14;

struct Net {
    engine: Engine,
    host: Outside,
    wires: Wires,
    now: Time,
    bad: [PortId; 2],
    good: PortId,
}

impl Net {
    fn new() -> Self {
        let seed = Seed {
            switch: [1, 2],
            router: 3,
            identification: 4,
        };
        let mut engine = Engine::new(config(), Time::ZERO, seed).expect("a good configuration");
        let resolver = "198.51.100.53:53".parse().expect("an address");
        engine.set_resolvers(&[resolver]);
        let mut wires = Wires::default();
        let mut port = |address: MacAddress, spoofing, offloads| {
            let config = PortConfig {
                addresses: vec![address],
                spoofing,
                ..PortConfig::default()
            };
            let port = engine.add_port(config).expect("room for a port");
            wires.plug(port, offloads);
            let settings = Settings {
                offloads,
                link: true,
                ..Settings::default()
            };
            engine.set(port, &settings).expect("a port");
            port
        };
        let bad = [
            port(mac(0x10), true, Offloads::all()),
            port(mac(0x11), false, Offloads::empty()),
        ];
        let good = port(mac(GOOD), false, Offloads::CHECKSUM);
        let mut net = Self {
            engine,
            host: Outside::default(),
            wires,
            now: Time(1),
            bad,
            good,
        };
        net.speak(Operation::Request, Mac::BROADCAST);
        net
    }

    fn call<R>(&mut self, what: impl FnOnce(&mut Engine, &mut World<'_, Outside>) -> R) -> R {
        let mut world = World {
            now: self.now,
            host: &mut self.host,
            ports: &mut self.wires,
        };
        what(&mut self.engine, &mut world)
    }

    fn send(&mut self, port: PortId, bytes: &[u8], scattered: bool) {
        let frame = self.wires.frame(port, bytes, scattered);
        self.call(|engine, world| engine.receive(world, port, frame));
    }

    /// The good guest asks for the gateway, or answers it.
    fn speak(&mut self, operation: Operation, to: Mac) {
        let arp = Arp {
            operation,
            sender_mac: mac(GOOD).into(),
            sender_ip: GOOD4,
            target_mac: to,
            target_ip: GATEWAY4,
        };
        let mut headers = HeaderBuf::default();
        headers.arp(&ether(to), &arp).expect("room");
        self.send(self.good, headers.with_vnet(), false);
    }

    /// Does all that is due, and lets the good guest answer.
    fn settle(&mut self) {
        let mut turns = 0;
        while self.call(|engine, world| engine.flush(world)) {
            turns += 1;
            assert!(turns < 10_000, "no end of it");
        }
        let asked = self.wires.at(self.good).sent.iter().any(|frame| {
            let packet = Packet::parse(VnetHeader::default(), frame, frame.len());
            let of_gateway = frame[6..12] == GATEWAY;
            matches!(packet, Ok(Packet { network: Network::Arp(arp), .. })
                if of_gateway && arp.operation == Operation::Request && arp.target_ip == GOOD4)
        });
        self.wires.at(self.good).sent.clear();
        if asked {
            self.speak(Operation::Reply, Mac(GATEWAY));
        }
    }

    fn wait(&mut self, duration: Duration) {
        let until = self.now + duration;
        let mut deadlines = 0;
        while let Some(deadline) = self.engine.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(deadline);
            self.call(|engine, world| engine.expire(world));
            self.settle();
            deadlines += 1;
            assert!(deadlines < 100_000, "time stands still");
        }
        self.now = until;
    }

    fn step(&mut self, kind: u8, body: &[u8]) {
        let which = self.bad[usize::from(kind >> 7)];
        let flag = kind & 0x40 != 0;
        match kind & 7 {
            // As it is, or with the checksum that an IPv4 header must have.
            0 | 1 | 2 => {
                let mut bytes = body[..body.len().min(LONGEST)].to_vec();
                if kind & 7 != 0 {
                    repair(&mut bytes);
                }
                self.send(which, &bytes, flag);
            }
            3 => self.wait(Duration::from_millis(u64::from(number(body) % 8_000_000))),
            4 => {
                let sockets = self.host.datagrams();
                if let Some(socket) = pick(&sockets, kind) {
                    let from = Endpoint::new(Ipv4Addr::new(198, 51, 100, 53), 53);
                    if flag {
                        let reason = (SocketError::Refused, None);
                        self.call(|engine, world| {
                            engine.datagram_error(world, socket, from, reason, 9);
                            engine.echo_error(world, socket, from.address, reason, body);
                        });
                    } else {
                        self.call(|engine, world| {
                            engine.datagram(world, socket, from, None, body);
                            engine.echo_reply(world, socket, from.address, body);
                        });
                    }
                }
            }
            5 => {
                let sockets = self.host.streams();
                if let Some(socket) = pick(&sockets, kind) {
                    let [_, reads, sends, last] = number(body).to_be_bytes();
                    let sends = u32::from(sends) * 64;
                    self.host
                        .peer(socket, usize::from(reads) * 64, sends, last & 1 != 0);
                    let readiness = Readiness::from_bits_truncate(last >> 1);
                    self.call(|engine, world| engine.stream(world, socket, readiness));
                }
            }
            6 => {
                self.wires.at(which).room = flag;
                if flag {
                    self.engine.room(which);
                }
                let refusals = [SocketError::WouldBlock, SocketError::Exhausted];
                self.host.answers.extend(&refusals[..body.len().min(2)]);
            }
            _ if flag => {
                self.call(|engine, world| engine.unplugged(world, which));
                assert!(self.wires.at(which).out.is_empty());
            }
            _ => {
                let spoofing = body.len() % 2 == 0;
                let set = self.engine.set_spoofing(which, spoofing);
                set.expect("a port with an address");
            }
        }
        self.settle();
    }

    fn check(&mut self) {
        let status = self.engine.status(self.now);
        for flows in [status.flows.tcp, status.flows.udp, status.flows.icmp] {
            assert!(flows <= FLOWS.total as usize);
        }
        assert!(self.host.streams().len() <= FLOWS.total as usize);
        assert!(self.host.datagrams().len() <= 2 * FLOWS.total as usize + 2 * 16);
        for port in self.bad {
            let stations = self.engine.port_status(port, self.now).stations;
            assert!(stations.len() <= STATIONS);
            assert!(self.wires.at(port).out.len() <= PARKED as usize + 1);
        }
    }

    /// The good guest is answered.
    fn check_service(&mut self) {
        self.speak(Operation::Request, Mac::BROADCAST);
        self.settle();
        let ip = Ip4Header::new(GOOD4, GATEWAY4, Protocol::ICMP);
        let echo = Echo {
            identifier: 7,
            sequence: 9,
        };
        let mut headers = HeaderBuf::default();
        let payload: &[u8] = b"are you there";
        headers
            .icmp4(
                &ether(Mac(GATEWAY)),
                &ip,
                &Icmp4::EchoRequest(echo),
                &payload,
            )
            .expect("room");
        let ping = [headers.with_vnet(), payload].concat();
        self.send(self.good, &ping, false);
        let answered = self.wires.at(self.good).sent.iter().any(|frame| {
            let packet = Packet::parse(VnetHeader::default(), frame, frame.len());
            packet.is_ok_and(|packet| packet.transport == Transport::Icmp4(Icmp4::EchoReply(echo)))
        });
        assert!(answered);
        assert!(self.wires.at(self.good).out.is_empty());
    }
}

fn ether(destination: Mac) -> EtherHeader {
    EtherHeader {
        destination,
        source: mac(GOOD).into(),
        ..EtherHeader::default()
    }
}

fn pick<T: Copy>(all: &[T], kind: u8) -> Option<T> {
    let at = usize::from(kind >> 3);
    all.get(at % all.len().max(1)).copied()
}

/// Makes an IPv4 header's checksum, without which nobody looks further.
fn repair(bytes: &mut [u8]) {
    if bytes.get(IP - 2..IP) != Some(&[8, 0]) || bytes.len() < IP + 20 {
        return;
    }
    let end = (IP + usize::from(bytes[IP] & 15) * 4).min(bytes.len());
    bytes[IP + 10..IP + 12].fill(0);
    let sum = checksum(&bytes[IP..end]);
    bytes[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
}

fuzz_target!(|data: &[u8]| {
    let mut net = Net::new();
    net.settle();
    for (kind, body) in records(data).take(60) {
        net.step(kind, body);
        net.check();
    }
    net.check_service();
    net.host.answers.clear();
    for port in net.bad {
        net.call(|engine, world| engine.remove_port(world, port))
            .expect("a port");
        assert!(net.wires.at(port).out.is_empty());
        net.wires.unplug(port);
    }
    assert!(net.host.streams().is_empty() && net.host.datagrams().is_empty());
});
