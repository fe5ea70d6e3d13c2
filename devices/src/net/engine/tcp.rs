//! The TCP translation's way to the guests, and the frames that wait for its
//! sockets.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::IpAddr;

use super::counters::Reason;
use super::discovery::{Sender, port_number};
use super::gateway::Inner;
use super::lan::Lan;
use super::ports::Ports;
use super::{Config, Engine, World, parse};
use crate::net::attachment::{Content, Frame, Sent};
use crate::net::nat::flows::{Endpoint, FlowId, Guest};
use crate::net::nat::icmp::{About, ErrorMessage};
use crate::net::nat::sockets::{Family, SocketError, SocketId, Sockets};
use crate::net::nat::tcp::flow::Link;
use crate::net::nat::tcp::streams::{Readiness, Source, Streams};
use crate::net::nat::tcp::{Leg, Outcome, Outlet};
use crate::net::payload::{Part, Payload};
use crate::net::port::{FRAME_HEADER, Offloads};
use crate::net::switch::PortId;
use crate::net::time::Time;
use crate::net::wire::build::Body;
use crate::net::wire::ip::{IpHeader, Protocol};
use crate::net::wire::packet::{HEAD_LEN, Transport};
use crate::net::wire::tcp::{self, TcpHeader};
use crate::net::wire::{ip4, ip6};

/// The most payload in a frame: what IPv4 can hold with TCP's longest header,
/// and no more than a segmented frame may be.
const MAX_BURST: u32 = 65535 - 60 - 60;

/// Frames that wait until a flow's socket has room.
#[derive(Default)]
pub(super) struct Parking {
    flows: HashMap<FlowId, VecDeque<(PortId, Frame)>>,
    /// The flows whose sockets have room now.
    unparked: Vec<FlowId>,
}

impl Parking {
    pub(super) fn park(&mut self, flow: FlowId, from: PortId, frame: Frame) {
        self.flows.entry(flow).or_default().push_back((from, frame));
    }

    /// The frames of a flow that has room now, in order.
    fn leave(&mut self) -> Option<VecDeque<(PortId, Frame)>> {
        let flow = self.unparked.pop()?;
        Some(self.flows.remove(&flow).unwrap_or_default())
    }

    /// Takes the frames of a port whose guests' flows end.
    pub(super) fn take_port(&mut self, port: PortId) -> Vec<Frame> {
        let mut taken = Vec::new();
        for frames in self.flows.values_mut() {
            for (from, frame) in mem::take(frames) {
                if from == port {
                    taken.push(frame);
                } else {
                    frames.push_back((from, frame));
                }
            }
        }
        self.flows.retain(|_, frames| !frames.is_empty());
        taken
    }
}

/// The guests, as the translation reaches them.
struct Guests<'a> {
    now: Time,
    config: &'a Config,
    lan: &'a mut Lan,
    ports: &'a mut dyn Ports,
    unparked: &'a mut Vec<FlowId>,
}

impl Outlet for Guests<'_> {
    fn link(&self, guest: Guest, family: Family) -> Link {
        let (headers, needed) = match family {
            Family::V4 => (ip4::LEN + tcp::MIN_LEN, Offloads::CHECKSUM | Offloads::TSO4),
            Family::V6 => (ip6::LEN + tcp::MIN_LEN, Offloads::CHECKSUM | Offloads::TSO6),
        };
        let headers = u16::try_from(headers).unwrap_or(u16::MAX);
        let receiver = port_of(guest).and_then(|port| self.ports.receiver(port));
        let mtu = receiver.map_or(u16::MAX, |receiver| receiver.mtu);
        let mss = self.config.mtu.min(mtu).saturating_sub(headers);
        let whole = receiver.is_some_and(|receiver| receiver.offloads.contains(needed));
        Link {
            mss,
            burst: if whole { MAX_BURST } else { mss.into() },
        }
    }

    fn guest_of(&mut self, inner: IpAddr) -> Option<Guest> {
        let port = self.lan.port_of(self.now, self.ports, inner)?;
        Some(Guest(port_number(port)))
    }

    fn segment(
        &mut self,
        leg: &Leg,
        header: &TcpHeader,
        content: Option<Source>,
        streams: &mut dyn Streams,
    ) -> bool {
        let (from, to) = (leg.outer.address, leg.inner.address);
        let Some(ip) = IpHeader::new(from, to, Protocol::TCP) else {
            return true;
        };
        let body = Body::Offloaded {
            len: content.map_or(0, |content| content.len.try_into().unwrap_or(usize::MAX)),
            segment: content.map(|content| content.mss),
        };
        let content = match content {
            Some(source) => Content::Waiting(streams, source),
            None => Content::Payload(&[]),
        };
        let sent = self
            .lan
            .try_send(self.now, self.ports, to, content, |ether, headers| {
                headers.tcp(ether, &ip, header, body)
            });
        sent != Sent::Full
    }

    fn unreachable(&mut self, leg: &Leg, error: SocketError, seq: u32) {
        let about = About::tcp(leg.inner, leg.outer, seq);
        let gateway = self.config.reach.gateway(leg.inner.address);
        let message = gateway.and_then(|gateway| ErrorMessage::new(gateway, error, about));
        if let Some(message) = message {
            self.lan.send_error(self.now, self.ports, &message);
        }
    }

    fn unpark(&mut self, flow: FlowId) {
        self.unparked.push(flow);
    }
}

/// The port that a guest's flows are counted by.
fn port_of(guest: Guest) -> Option<PortId> {
    u8::try_from(guest.0).ok().map(PortId::new)
}

/// Borrows the translation and its way to the guests at once.
macro_rules! translation {
    ($engine:ident, $world:ident) => {
        (
            &mut $engine.tcp,
            &mut *$world.host,
            &mut Guests {
                now: $world.now,
                config: &$engine.config,
                lan: &mut $engine.lan,
                ports: &mut *$world.ports,
                unparked: &mut $engine.parking.unparked,
            },
        )
    };
}

impl Engine {
    /// Translates a guest's segment; returns the flow that its frame is to
    /// wait for, if the flow's socket has no room.
    pub(super) fn segment_from_guest<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
        header: &TcpHeader,
    ) -> Result<Option<FlowId>, Reason> {
        let source = Endpoint::new(inner.ip.source(), header.source);
        let destination = Endpoint::new(inner.ip.destination(), header.destination);
        if !self.config.reach.is_guest(source.address) {
            return Err(Reason::Source);
        }
        self.check_hops(world, inner, header)?;
        let (now, guest) = (world.now, inner.guest());
        let payload = inner.payload();
        let leg = Leg {
            guest,
            inner: source,
            outer: destination,
        };
        let (tcp, host, guests) = translation!(self, world);
        match tcp.from_guest(now, &leg, header, &payload, host, guests) {
            Outcome::Done => Ok(None),
            Outcome::Park(flow) => Ok(Some(flow)),
            Outcome::Dropped(_) => Err(Reason::Translation),
        }
    }

    /// Follows what a stream's socket, or a listener, told.
    pub fn stream<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        socket: SocketId,
        readiness: Readiness,
    ) {
        let now = world.now;
        let (tcp, host, guests) = translation!(self, world);
        tcp.on_socket(now, socket, readiness, host, guests);
        // Frames that come later would seem to follow a gap without these.
        self.enter_unparked(world);
    }

    /// Follows that a port has room again.
    pub fn room(&mut self, port: PortId) {
        self.tcp.room(Guest(port_number(port)));
    }

    /// Sends what is due at the end of a batch. True says that more is due
    /// at once.
    pub fn flush<S: Sockets + Streams>(&mut self, world: &mut World<'_, S>) -> bool {
        self.enter_unparked(world);
        if mem::take(&mut self.lan.resolved) {
            // Whose station wasn't known waited as for room.
            for port in self.lan.switch.ports() {
                self.room(port);
            }
        }
        let now = world.now;
        let (tcp, host, guests) = translation!(self, world);
        tcp.flush(now, host, guests)
    }

    /// Takes the frames of the flows that have room now.
    fn enter_unparked<S: Sockets + Streams>(&mut self, world: &mut World<'_, S>) {
        while let Some(frames) = self.parking.leave() {
            for (port, frame) in frames {
                self.enter_again(world, port, frame);
            }
        }
    }

    /// Takes a frame that has waited for its flow's socket. The switch has
    /// let it through already.
    fn enter_again<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        from: PortId,
        frame: Frame,
    ) {
        match self.translate_again(world, from, &frame) {
            Some(flow) => self.parking.park(flow, from, frame),
            None => world.ports.release(from, frame),
        }
    }

    fn translate_again<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        from: PortId,
        frame: &Frame,
    ) -> Option<FlowId> {
        let mut head = [0; FRAME_HEADER + HEAD_LEN];
        let copied = frame.read_at(0, &mut head);
        let packet = parse(&head[..copied], frame).ok()?;
        let sender = Sender {
            port: from,
            mac: packet.ether.source.station()?,
        };
        // Guest memory may have changed; what is no segment any more is
        // dropped.
        let Transport::Tcp(header) = packet.transport else {
            return None;
        };
        let inner = Inner {
            sender,
            packet,
            ip: *packet.ip()?,
            bytes: &Part::new(frame, FRAME_HEADER..frame.len()),
            fragmented: false,
        };
        self.segment_from_guest(world, &inner, &header).ok()?
    }

    pub(super) fn expire_connections<S: Sockets + Streams>(&mut self, world: &mut World<'_, S>) {
        let now = world.now;
        let (tcp, host, guests) = translation!(self, world);
        tcp.expire(now, host, guests);
    }

    pub(super) fn remove_connections<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        guest: Guest,
    ) {
        let now = world.now;
        let (tcp, host, guests) = translation!(self, world);
        tcp.remove_guest(now, guest, host, guests);
    }
}
