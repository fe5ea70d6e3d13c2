//! A virtual network whose ports and sockets remember little.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use nestling_arch::GuestMemory;
use nestling_devices::net::attachment::{Content, Frame, Sent};
use nestling_devices::net::engine::{Config, Network4, Network6, Ports, Receiver};
use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::nat::flows::Endpoint;
use nestling_devices::net::nat::reach::Reach;
use nestling_devices::net::nat::sockets::{
    SendOptions, SocketError, SocketId, SocketKind, Sockets,
};
use nestling_devices::net::nat::tcp::streams::{
    Connection, LocalPort, Progress, Source, Streams, Waiting,
};
use nestling_devices::net::nat::{flows, fragments, tcp};
use nestling_devices::net::payload::Payload;
use nestling_devices::net::port::{FRAME_HEADER, Offloads};
use nestling_devices::net::services::ndp::link_local;
use nestling_devices::net::services::{dhcp4, dhcp6, dns, leases, ra};
use nestling_devices::net::switch::PortId;
use nestling_devices::net::wire::packet::{Network, Packet};
use nestling_devices::net::wire::vnet::VnetHeader;
use nestling_devices::scatter::ScatterList;
use vm_memory::{Bytes, GuestAddress};

/// The gateway.
pub const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Its address.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
/// Its other address.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 1);

/// Flows of each protocol.
pub const FLOWS: flows::Limits = flows::Limits {
    total: 60,
    per_guest: 25,
};
/// Frames of a guest that wait for a peer.
pub const PARKED: u32 = 8;
/// Bytes of fragments.
pub const FRAGMENTS: fragments::Limits = fragments::Limits {
    total: 60_000,
    per_guest: 25_000,
};
/// Stations behind a port.
pub const STATIONS: usize = 4;
/// Leases.
pub const LEASES: leases::Limits = leases::Limits {
    total: 30,
    per_port: 10,
};

/// A station's address.
pub fn mac(last: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, last]).expect("a station's")
}

/// A server of DHCPv4.
pub fn dhcp4() -> dhcp4::Config {
    dhcp4::Config {
        server: GATEWAY4,
        prefix: "192.168.100.0/24".parse().expect("a prefix"),
        pool: Ipv4Addr::new(192, 168, 100, 10)..=Ipv4Addr::new(192, 168, 100, 49),
        reservations: HashMap::from([(mac(0x63), Ipv4Addr::new(192, 168, 100, 99))]),
        lease: Duration::from_secs(3600),
        router: Some(GATEWAY4),
        dns: vec![GATEWAY4],
        domain: Some("internal".into()),
        mtu: Some(1500),
        routes: Vec::new(),
        limits: LEASES,
    }
}

/// A server of DHCPv6.
pub fn dhcp6() -> dhcp6::Config {
    dhcp6::Config {
        mac: mac(1),
        prefix: "fd00::/64".parse().expect("a prefix"),
        gateway: vec![GATEWAY6],
        pool: "fd00::1000".parse().expect("an address")..="fd00::103f".parse().expect("another"),
        reservations: HashMap::new(),
        preferred: Duration::from_secs(1800),
        valid: Duration::from_secs(3600),
        dns: vec![GATEWAY6],
        domain: Some("internal".into()),
        limits: LEASES,
    }
}

/// A forwarder of DNS.
pub fn dns() -> dns::Config {
    dns::Config {
        zone: dns::Zone {
            domain: Some("internal".into()),
            prefixes4: vec!["192.168.100.0/24".parse().expect("a prefix")],
            prefixes6: vec!["fd00::/64".parse().expect("a prefix")],
        },
        limits: leases::Limits {
            total: 16,
            per_port: 6,
        },
        longest_datagram: 1452,
    }
}

/// A network with all that it can have, and little of it.
pub fn config() -> Config {
    let mac = mac(1);
    Config {
        mac,
        mtu: 1500,
        v4: Some(Network4 {
            gateway: GATEWAY4,
            prefix: "192.168.100.0/24".parse().expect("a prefix"),
            dhcp: Some(dhcp4()),
        }),
        v6: Some(Network6 {
            gateway: GATEWAY6,
            prefix: "fd00::/64".parse().expect("a prefix"),
            router: Some(ra::Config {
                mac,
                source: link_local(mac),
                default_router: true,
                prefix: "fd00::/64".parse().expect("a prefix"),
                autonomous: true,
                managed: true,
                other: true,
                valid: 3600,
                preferred: 1800,
                dns: vec![GATEWAY6],
                domain: Some("internal".into()),
                mtu: Some(1500),
            }),
            dhcp: Some(dhcp6()),
        }),
        reach: Reach {
            gateway4: Some(GATEWAY4),
            gateway6: Some(GATEWAY6),
            host_loopback: false,
            resolver: None,
            host: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
        },
        filtering: Default::default(),
        connections: tcp::Limits {
            flows: FLOWS,
            embryonic: 10,
            lingering: 10,
            parked: PARKED,
        },
        flows: FLOWS,
        dns: dns(),
        fragments: FRAGMENTS,
        stations_per_port: STATIONS,
    }
}

/// A stream's socket, whose peer sends the same byte over and over.
#[derive(Default)]
struct Stream {
    /// Bytes that the guest's stream still has room for.
    room: usize,
    /// Bytes that wait for the guest.
    waiting: u32,
    ended: bool,
}

/// The host's sockets.
#[derive(Default)]
pub struct Outside {
    datagrams: Vec<bool>,
    streams: Vec<Option<Stream>>,
    next_port: u16,
    /// What the next call says, if not that all is well.
    pub answers: VecDeque<SocketError>,
}

impl Outside {
    /// The sockets of datagrams.
    pub fn datagrams(&self) -> Vec<SocketId> {
        let open = (0..).zip(&self.datagrams).filter(|(_, open)| **open);
        open.map(|(id, _)| SocketId(id)).collect()
    }

    /// The sockets of streams.
    pub fn streams(&self) -> Vec<SocketId> {
        let open = (0..).zip(&self.streams).filter(|(_, slot)| slot.is_some());
        open.map(|(id, _)| SocketId(id)).collect()
    }

    /// The peer of a stream reads and sends.
    pub fn peer(&mut self, socket: SocketId, reads: usize, sends: u32, ends: bool) {
        let stream = self.stream(socket);
        stream.room += reads;
        if !stream.ended {
            stream.waiting += sends;
            stream.ended = ends;
        }
    }

    fn stream(&mut self, socket: SocketId) -> &mut Stream {
        let slot = self.streams[socket.0 as usize].as_mut();
        slot.expect("an open socket")
    }

    fn answer(&mut self) -> Result<(), SocketError> {
        self.answers.pop_front().map_or(Ok(()), Err)
    }
}

fn free<T>(slots: &mut Vec<T>, is_free: impl Fn(&T) -> bool, value: T) -> SocketId {
    let at = slots.iter().position(is_free).unwrap_or(slots.len());
    match slots.get_mut(at) {
        Some(slot) => *slot = value,
        None => slots.push(value),
    }
    SocketId(at.try_into().expect("a few"))
}

impl Sockets for Outside {
    fn open(&mut self, _: SocketKind, _: u16) -> Result<(SocketId, u16), SocketError> {
        self.answer()?;
        self.next_port = self.next_port.wrapping_add(1).max(1024);
        let id = free(&mut self.datagrams, |open| !open, true);
        Ok((id, self.next_port))
    }

    fn bind(&mut self, kind: SocketKind, _: Endpoint) -> Result<(SocketId, u16), SocketError> {
        self.open(kind, 0)
    }

    fn send_to(
        &mut self,
        socket: SocketId,
        _: Endpoint,
        payload: &dyn Payload,
        options: SendOptions,
    ) -> Result<(), SocketError> {
        assert!(self.datagrams[socket.0 as usize]);
        assert!(payload.len() < 65536 && options.hop_limit != Some(0));
        self.answer()
    }

    fn close(&mut self, socket: SocketId) {
        let open = std::mem::take(&mut self.datagrams[socket.0 as usize]);
        assert!(open, "closed twice");
    }
}

impl Streams for Outside {
    fn connect(&mut self, to: SocketAddr, from: LocalPort) -> Result<Connection, SocketError> {
        assert!(!to.ip().is_loopback() && to.port() != 0);
        self.answer()?;
        self.next_port = self.next_port.wrapping_add(1).max(1024);
        let port = match from {
            LocalPort::Shared(port) => port,
            LocalPort::Prefer(_) => self.next_port,
        };
        let stream = Stream {
            room: 10_000,
            ..Stream::default()
        };
        let socket = free(&mut self.streams, Option::is_none, Some(stream));
        Ok(Connection {
            socket,
            port,
            progress: Progress::Pending,
        })
    }

    fn listen(&mut self, _: SocketAddr) -> Result<(SocketId, u16), SocketError> {
        Err(SocketError::InUse)
    }

    fn accept(&mut self, _: SocketId) -> Result<(SocketId, SocketAddr), SocketError> {
        Err(SocketError::WouldBlock)
    }

    fn error(&mut self, _: SocketId) -> Option<SocketError> {
        self.answers.pop_front()
    }

    fn send(
        &mut self,
        socket: SocketId,
        payload: &dyn Payload,
        range: Range<usize>,
    ) -> Result<usize, SocketError> {
        assert!(range.end <= payload.len());
        let stream = self.stream(socket);
        let count = range.len().min(stream.room);
        stream.room -= count;
        match count {
            0 => Err(SocketError::WouldBlock),
            count => Ok(count),
        }
    }

    fn send_room(&mut self, socket: SocketId) -> u32 {
        // More than there is, at times.
        let room = self.stream(socket).room;
        u32::try_from(room).unwrap_or(u32::MAX).saturating_add(3000)
    }

    fn want_room(&mut self, _: SocketId) {}

    fn peek(&mut self, socket: SocketId, offset: u32, most: u32) -> Result<Waiting, SocketError> {
        let stream = self.stream(socket);
        let rest = stream.waiting.checked_sub(offset).expect("there so far");
        let len = rest.min(most);
        Ok(Waiting {
            len,
            end: stream.ended && len == rest,
        })
    }

    fn view(
        &mut self,
        content: Source,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), SocketError> {
        let waiting = self.stream(content.socket).waiting;
        assert!(content.offset + content.len <= waiting);
        let len = usize::try_from(content.len).expect("of a frame");
        with(&[IoSlice::new(&vec![0x5A; len])]);
        Ok(())
    }

    fn fill(&mut self, _: Source, _: &ScatterList, _: usize) -> Result<(), SocketError> {
        Err(SocketError::Unsupported)
    }

    fn discard(&mut self, socket: SocketId, count: u32) {
        let stream = self.stream(socket);
        stream.waiting = stream.waiting.checked_sub(count).expect("there so far");
    }

    fn shutdown(&mut self, _: SocketId) {}

    fn close(&mut self, socket: SocketId) {
        let slot = self.streams[socket.0 as usize].take();
        assert!(slot.is_some(), "closed twice");
    }

    fn abort(&mut self, socket: SocketId) {
        Streams::close(self, socket);
    }
}

/// One who is plugged in.
pub struct Plugged {
    /// What it takes.
    pub receiver: Receiver,
    /// Whether it has room.
    pub room: bool,
    /// Its frames that the engine has.
    pub out: BTreeSet<u32>,
    /// What came, from Ethernet on, the latest last.
    pub sent: VecDeque<Vec<u8>>,
}

/// All who are plugged in.
pub struct Wires {
    plugged: HashMap<PortId, Plugged>,
    memory: Arc<GuestMemory>,
    next: u32,
}

/// What comes to a port is remembered no longer than that.
const MEMORY: usize = 64;

impl Default for Wires {
    fn default() -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x2_0000)]);
        Self {
            plugged: HashMap::new(),
            memory: Arc::new(memory.expect("128 KiB")),
            next: 0,
        }
    }
}

impl Wires {
    /// Plugs one in that does so much of the work on frames itself.
    pub fn plug(&mut self, port: PortId, offloads: Offloads) {
        let plugged = Plugged {
            receiver: Receiver {
                offloads,
                mtu: 1500,
            },
            room: true,
            out: BTreeSet::new(),
            sent: VecDeque::new(),
        };
        self.plugged.insert(port, plugged);
    }

    /// Unplugs one.
    pub fn unplug(&mut self, port: PortId) {
        self.plugged.remove(&port);
    }

    /// The one at a port.
    pub fn at(&mut self, port: PortId) -> &mut Plugged {
        self.plugged.get_mut(&port).expect("plugged in")
    }

    /// A frame in memory of our own, or in pieces in guest memory.
    pub fn frame(&mut self, port: PortId, bytes: &[u8], scattered: bool) -> Frame {
        self.next += 1;
        let token = self.next;
        self.at(port).out.insert(token);
        if !scattered {
            return Frame::owned(bytes.into(), bytes.len(), token);
        }
        let mut list = ScatterList::new(self.memory.clone());
        let mut at = 0;
        for piece in bytes.chunks(bytes.len() / 3 + 1) {
            let address = GuestAddress(at);
            self.memory.write_slice(piece, address).expect("room");
            list.push(address, piece.len()).expect("in memory");
            at += u64::try_from(piece.len()).expect("short");
        }
        Frame::scattered(list, token)
    }
}

impl Ports for Wires {
    fn receiver(&self, port: PortId) -> Option<Receiver> {
        Some(self.plugged.get(&port)?.receiver)
    }

    fn send(&mut self, port: PortId, headers: &[u8], content: Content<'_>) -> Sent {
        let plugged = self.at(port);
        if !plugged.room {
            return Sent::Full;
        }
        let (vnet, start) = headers
            .split_first_chunk::<FRAME_HEADER>()
            .expect("a virtio header");
        let vnet = VnetHeader::parse(vnet).expect("a good one");
        assert!(plugged.receiver.offloads.contains(vnet.needs()));
        let mut frame = start.to_vec();
        match content {
            Content::Payload(payload) => {
                let start = frame.len();
                frame.resize(start + payload.len(), 0);
                payload.read_at(0, &mut frame[start..]);
            }
            Content::Waiting(streams, source) => {
                let mut take = |pieces: &[IoSlice<'_>]| {
                    pieces
                        .iter()
                        .for_each(|piece| frame.extend_from_slice(piece));
                };
                streams.view(source, &mut take).expect("bytes that wait");
            }
        }
        // What comes from the gateway itself is right.
        if frame[6..12] == GATEWAY {
            let packet = Packet::parse(vnet, &frame, frame.len()).expect("a good frame");
            if let Network::Ip(ip) = packet.network {
                let source = ip.source();
                let nobody = source.is_unspecified() || source.is_loopback();
                assert!(!nobody && !source.is_multicast());
                assert_ne!(source, IpAddr::from(Ipv4Addr::BROADCAST));
            }
        }
        plugged.sent.push_back(frame);
        if plugged.sent.len() > MEMORY {
            plugged.sent.pop_front();
        }
        Sent::Yes
    }

    fn release(&mut self, port: PortId, frame: Frame) {
        let known = self.at(port).out.remove(&frame.token());
        assert!(known, "a frame that wasn't given, or was given back");
    }
}
