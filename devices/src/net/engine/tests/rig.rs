//! A network with guests, and a host outside of it.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use super::station::{Arrived, Station};
use super::wires::Wires;
use crate::net::attachment::Settings;
use crate::net::engine::{Config, Engine, Network4, Network6, Receiver, Seed, World};
use crate::net::mac::MacAddress;
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::{SendOptions, SocketError, SocketId, SocketKind, Sockets};
use crate::net::nat::tcp::streams::{Connection, LocalPort, Readiness, Source, Streams, Waiting};
use crate::net::nat::tcp::tests::hosts::{ALL, Hosts};
use crate::net::nat::testing::{Recorder, reach};
use crate::net::nat::{flows, fragments, tcp};
use crate::net::payload::Payload;
use crate::net::port::Offloads;
use crate::net::services::leases::Limits;
use crate::net::services::ndp::link_local;
use crate::net::services::{dhcp4, dhcp6, dns, ra};
use crate::net::switch::{PortConfig, PortId};
use crate::net::time::Time;
use crate::net::wire::testing::Frame;
use crate::scatter::ScatterList;

/// The gateway's addresses.
pub(super) const GATEWAY: [u8; 6] = [2, 0x6E, 0x65, 0x73, 0x74, 1];
pub(super) const GATEWAY4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);

/// The host's resolver.
pub(super) const RESOLVER: &str = "198.51.100.53:53";

/// What the link takes in these tests.
pub(super) const MTU: u16 = 1500;

/// What a good NIC does itself.
pub(super) const CAPABLE: Offloads = Offloads::all();

/// What one does that knows nothing.
pub(super) const PLAIN: Offloads = Offloads::empty();

/// How much of everything there may be.
pub(super) const FLOWS: flows::Limits = flows::Limits {
    total: 2000,
    per_guest: 1500,
};
pub(super) const CONNECTIONS: tcp::Limits = tcp::Limits {
    flows: FLOWS,
    embryonic: 100,
    lingering: 100,
    parked: 32,
};
pub(super) const FRAGMENTS: fragments::Limits = fragments::Limits {
    total: 1 << 20,
    per_guest: 1 << 18,
};
pub(super) const STATIONS: usize = 8;

/// An IPv6 address of the network.
pub(super) fn gateway6() -> IpAddr {
    "fd00::1".parse().unwrap()
}

pub(super) fn mac(last: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
}

/// An address and a port as they are written.
pub(super) fn at(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().unwrap().into()
}

pub(super) fn config() -> Config {
    let mac = MacAddress::new(GATEWAY).unwrap();
    let (prefix4, prefix6) = (
        "192.168.100.0/24".parse().unwrap(),
        "fd00::/64".parse().unwrap(),
    );
    let IpAddr::V6(gateway6) = gateway6() else {
        panic!("of IPv6");
    };
    Config {
        mac,
        mtu: MTU,
        v4: Some(Network4 {
            gateway: GATEWAY4,
            prefix: prefix4,
            dhcp: Some(dhcp4::Config {
                server: GATEWAY4,
                prefix: prefix4,
                pool: Ipv4Addr::new(192, 168, 100, 100)..=Ipv4Addr::new(192, 168, 100, 199),
                reservations: [].into(),
                lease: Duration::from_secs(3600),
                router: Some(GATEWAY4),
                dns: vec![GATEWAY4],
                domain: Some("internal".into()),
                mtu: Some(MTU),
                routes: Vec::new(),
                limits: Limits::default(),
            }),
        }),
        v6: Some(Network6 {
            gateway: gateway6,
            prefix: prefix6,
            router: Some(ra::Config {
                mac,
                source: link_local(mac),
                default_router: true,
                prefix: prefix6,
                autonomous: true,
                managed: false,
                other: false,
                valid: 3600,
                preferred: 1800,
                dns: vec![gateway6],
                domain: None,
                mtu: Some(MTU.into()),
            }),
            dhcp: Some(dhcp6::Config {
                mac,
                prefix: prefix6,
                gateway: vec![gateway6],
                pool: "fd00::1000".parse().unwrap()..="fd00::1fff".parse().unwrap(),
                reservations: [].into(),
                preferred: Duration::from_secs(1800),
                valid: Duration::from_secs(3600),
                dns: vec![gateway6],
                domain: None,
                limits: Limits::default(),
            }),
        }),
        reach: reach(),
        filtering: Default::default(),
        connections: CONNECTIONS,
        flows: FLOWS,
        dns: dns::Config {
            zone: dns::Zone {
                domain: Some("internal".into()),
                prefixes4: vec![prefix4],
                prefixes6: vec![prefix6],
            },
            limits: Limits {
                total: 64,
                per_port: 16,
            },
            longest_datagram: usize::from(MTU) - 48,
        },
        fragments: FRAGMENTS,
        stations_per_port: STATIONS,
    }
}

/// The host's sockets of all kinds.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) datagrams: Recorder,
    pub(super) streams: Hosts,
}

impl Sockets for Outside {
    fn open(&mut self, kind: SocketKind, want_port: u16) -> Result<(SocketId, u16), SocketError> {
        self.datagrams.open(kind, want_port)
    }

    fn bind(&mut self, kind: SocketKind, local: Endpoint) -> Result<(SocketId, u16), SocketError> {
        self.datagrams.bind(kind, local)
    }

    fn send_to(
        &mut self,
        socket: SocketId,
        to: Endpoint,
        payload: &dyn Payload,
        options: SendOptions,
    ) -> Result<(), SocketError> {
        self.datagrams.send_to(socket, to, payload, options)
    }

    fn close(&mut self, socket: SocketId) {
        Sockets::close(&mut self.datagrams, socket);
    }
}

impl Streams for Outside {
    fn connect(&mut self, to: SocketAddr, from: LocalPort) -> Result<Connection, SocketError> {
        self.streams.connect(to, from)
    }

    fn listen(&mut self, at: SocketAddr) -> Result<(SocketId, u16), SocketError> {
        self.streams.listen(at)
    }

    fn accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr), SocketError> {
        self.streams.accept(listener)
    }

    fn error(&mut self, socket: SocketId) -> Option<SocketError> {
        self.streams.error(socket)
    }

    fn send(
        &mut self,
        socket: SocketId,
        payload: &dyn Payload,
        range: Range<usize>,
    ) -> Result<usize, SocketError> {
        self.streams.send(socket, payload, range)
    }

    fn send_room(&mut self, socket: SocketId) -> u32 {
        self.streams.send_room(socket)
    }

    fn want_room(&mut self, socket: SocketId) {
        self.streams.want_room(socket);
    }

    fn peek(&mut self, socket: SocketId, offset: u32, most: u32) -> Result<Waiting, SocketError> {
        self.streams.peek(socket, offset, most)
    }

    fn view(
        &mut self,
        content: Source,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), SocketError> {
        self.streams.view(content, with)
    }

    fn fill(
        &mut self,
        content: Source,
        buffers: &ScatterList,
        at: usize,
    ) -> Result<(), SocketError> {
        self.streams.fill(content, buffers, at)
    }

    fn discard(&mut self, socket: SocketId, count: u32) {
        self.streams.discard(socket, count);
    }

    fn shutdown(&mut self, socket: SocketId) {
        self.streams.shutdown(socket);
    }

    fn close(&mut self, socket: SocketId) {
        Streams::close(&mut self.streams, socket);
    }

    fn abort(&mut self, socket: SocketId) {
        self.streams.abort(socket);
    }
}

/// A network, its guests, and the host.
pub(super) struct Net {
    pub(super) engine: Engine,
    pub(super) host: Outside,
    pub(super) wires: Wires,
    pub(super) now: Time,
    pub(super) stations: Vec<Station>,
}

/// A station, by its place among [`Net::stations`].
#[derive(Clone, Copy, Debug)]
pub(super) struct At(pub(super) usize);

impl Net {
    pub(super) fn new() -> Self {
        Self::with(config())
    }

    pub(super) fn with(config: Config) -> Self {
        let now = Time(1_000_000_000);
        let seed = Seed {
            switch: [1, 2],
            router: 3,
            identification: 4,
        };
        let mut net = Self {
            engine: Engine::new(config, now, seed).unwrap(),
            host: Outside {
                datagrams: Recorder::new(),
                streams: Hosts::default(),
            },
            wires: Wires::new(),
            now,
            stations: Vec::new(),
        };
        net.engine.set_resolvers(&[RESOLVER.parse().unwrap()]);
        net
    }

    /// Has the engine do something.
    pub(super) fn call<R>(
        &mut self,
        what: impl FnOnce(&mut Engine, &mut World<'_, Outside>) -> R,
    ) -> R {
        let mut world = World {
            now: self.now,
            host: &mut self.host,
            ports: &mut self.wires,
        };
        what(&mut self.engine, &mut world)
    }

    pub(super) fn plug(&mut self, config: PortConfig, offloads: Offloads) -> PortId {
        let port = self.engine.add_port(config).unwrap();
        let receiver = Receiver { offloads, mtu: MTU };
        self.wires.plug(port, receiver);
        let settings = Settings {
            offloads,
            link: true,
            ..Settings::default()
        };
        self.engine.set(port, &settings).unwrap();
        port
    }

    /// A guest with a port of its own and addresses that end in `last`.
    pub(super) fn guest(&mut self, last: u8, offloads: Offloads) -> At {
        let config = PortConfig {
            addresses: vec![mac(last)],
            ..PortConfig::default()
        };
        let port = self.plug(config, offloads);
        self.station(port, last)
    }

    /// A station behind a port, with addresses that end in `last`. The gateway
    /// gets to know it.
    pub(super) fn station(&mut self, port: PortId, last: u8) -> At {
        let at = self.silent(port, last);
        self.introduce(at);
        at
    }

    /// A station that hasn't said anything yet.
    pub(super) fn silent(&mut self, port: PortId, last: u8) -> At {
        self.stations.push(Station::new(port, mac(last), last));
        At(self.stations.len() - 1)
    }

    /// Has a station ask for the gateway.
    pub(super) fn introduce(&mut self, at: At) {
        for frame in self.stations[at.0].questions() {
            self.send(at, &frame);
        }
        self.settle();
        self.take(at);
    }

    pub(super) fn port(&self, at: At) -> PortId {
        self.stations[at.0].port
    }

    /// A station sends a frame.
    pub(super) fn send(&mut self, from: At, frame: &Frame) {
        let bytes = [&frame.vnet.bytes()[..], &frame.bytes].concat();
        self.send_raw(self.port(from), &bytes);
    }

    /// A guest's frame, the virtio header first.
    pub(super) fn send_raw(&mut self, port: PortId, bytes: &[u8]) {
        let frame = self.wires.frame(port, bytes);
        self.call(|engine, world| engine.receive(world, port, frame));
    }

    /// Sends all that is due, and has the stations answer questions about
    /// their addresses, until nothing more happens.
    pub(super) fn settle(&mut self) {
        loop {
            while self.call(|engine, world| engine.flush(world)) {}
            let mut answers = Vec::new();
            for port in self.wires.ports() {
                for received in std::mem::take(&mut self.wires.at(port).sent) {
                    for station in self.stations.iter_mut().filter(|s| s.port == port) {
                        let answer = station.receive(&received);
                        answers.extend(answer.map(|answer| (port, answer)));
                    }
                }
            }
            if answers.is_empty() {
                return;
            }
            for (port, answer) in answers {
                let bytes = [&answer.vnet.bytes()[..], &answer.bytes].concat();
                self.send_raw(port, &bytes);
            }
        }
    }

    /// What came to a station since the last time.
    pub(super) fn take(&mut self, at: At) -> Vec<Arrived> {
        self.settle();
        std::mem::take(&mut self.stations[at.0].inbox)
    }

    /// The one packet that came to a station.
    pub(super) fn one(&mut self, at: At) -> Arrived {
        let mut arrived = self.take(at);
        assert_eq!(arrived.len(), 1, "{arrived:#?}");
        arrived.remove(0)
    }

    /// Lets time pass, deadline by deadline; returns how many there were.
    pub(super) fn wait(&mut self, duration: Duration) -> usize {
        let until = self.now + duration;
        let mut deadlines = 0;
        while let Some(deadline) = self.engine.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(deadline);
            self.call(|engine, world| engine.expire(world));
            self.settle();
            deadlines += 1;
        }
        self.now = until;
        deadlines
    }

    /// A datagram comes to a socket.
    pub(super) fn datagram(&mut self, socket: SocketId, from: Endpoint, payload: &[u8]) {
        self.call(|engine, world| engine.datagram(world, socket, from, None, payload));
    }

    /// Everything has changed at a stream's socket.
    pub(super) fn news(&mut self, socket: SocketId) {
        self.readiness(socket, ALL);
    }

    pub(super) fn readiness(&mut self, socket: SocketId, readiness: Readiness) {
        self.call(|engine, world| engine.stream(world, socket, readiness));
    }

    /// What a port has dropped, by reason.
    pub(super) fn drops(&self, port: PortId) -> Vec<(&'static str, u64)> {
        let drops = self.engine.port_status(port, self.now).drops;
        drops.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// What the translation has dropped, by reason.
    pub(super) fn translation_drops(&self) -> Vec<(&'static str, u64)> {
        let drops = self.engine.status(self.now).drops;
        drops.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Whether a guest's frames are all back with it.
    pub(super) fn has_all_frames(&mut self, port: PortId) -> bool {
        self.wires.at(port).out.is_empty()
    }
}
