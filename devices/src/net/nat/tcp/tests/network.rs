//! A guest, a flow and a host, with a link between them that loses, repeats
//! and reorders, under one simulated clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::guest::{Frame, Guest, Habits, Stage};
use super::host::{Ending, Host, SOCKET};
use crate::net::nat::sockets::SocketError;
use crate::net::nat::tcp::flow::{Flow, Io, Link, Sink, State, Verdict, reset_for};
use crate::net::nat::tcp::streams::{Connection, Progress, Readiness};
use crate::net::nat::tcp::streams::{Source, Streams};
use crate::net::time::Time;
use crate::net::wire::tcp::{TcpFlags, TcpHeader};

/// Numbers that look random, from one seed (xorshift64*).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit.max(1)
    }

    pub(super) fn percent(&mut self, chance: u8) -> bool {
        self.below(100) < u64::from(chance)
    }
}

/// The most losses in a row.
const MOST_LOSSES: u8 = 3;

/// What happens in one run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) habits: Habits,
    pub(super) link: Link,
    pub(super) iss: u32,
    /// The guest is the server.
    pub(super) listens: bool,
    pub(super) from_guest: usize,
    pub(super) to_guest: usize,
    /// Chances in percent.
    pub(super) loss: u8,
    pub(super) repetition: u8,
    pub(super) reordering: u8,
    pub(super) full_port: u8,
    /// Parked frames are lost.
    pub(super) forgets: u8,
    pub(super) capacity: usize,
    pub(super) boast: usize,
    /// The most that either application moves at once.
    pub(super) stride: usize,
}

/// What the flow has said.
struct Wire<'a> {
    out: &'a mut Vec<(TcpHeader, Option<Source>)>,
    refuse: bool,
    unpark: &'a mut bool,
}

impl Sink for Wire<'_> {
    fn segment(
        &mut self,
        header: &TcpHeader,
        payload: Option<Source>,
        _: &mut dyn Streams,
    ) -> bool {
        if self.refuse {
            return false;
        }
        self.out.push((*header, payload));
        true
    }

    fn takes_data(&self) -> bool {
        true
    }

    fn unreachable(&mut self, error: SocketError, _: u32) {
        panic!("{error}");
    }

    fn unpark(&mut self) {
        *self.unpark = true;
    }
}

pub(super) struct World {
    pub(super) plan: Plan,
    dice: Dice,
    pub(super) now: Time,
    pub(super) flow: Option<Flow>,
    pub(super) guest: Guest,
    pub(super) host: Host,
    parked: Vec<Frame>,
    blocked: bool,
    to_guest: BTreeMap<(Time, u64), Frame>,
    to_flow: BTreeMap<(Time, u64), Frame>,
    serial: u64,
    /// Losses in a row on either way.
    losses: [u8; 2],
    applications: Time,
    /// Frames the flow has sent, and how many of them carried data.
    pub(super) frames: u64,
    pub(super) parks: u64,
    /// The furthest edge that the guest was shown.
    edge: Option<(u32, u32)>,
}

fn pattern(len: usize, salt: u8) -> Vec<u8> {
    let byte = |i: usize| (i as u8) ^ ((i >> 8) as u8).wrapping_mul(31) ^ salt;
    (0..len).map(byte).collect()
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let guest = Guest::new(plan.habits, pattern(plan.from_guest, 0), plan.listens);
        let host = Host {
            capacity: plan.capacity,
            boast: plan.boast,
            data: pattern(plan.to_guest, 0x5A),
            ..Host::default()
        };
        let now = Time(1_000_000_000);
        let flow = plan
            .listens
            .then(|| Flow::from_host(SOCKET, plan.link, plan.iss, now));
        let mut world = Self {
            dice: Dice::new(plan.seed),
            plan,
            now,
            flow,
            guest,
            host,
            parked: Vec::new(),
            blocked: false,
            to_guest: BTreeMap::new(),
            to_flow: BTreeMap::new(),
            serial: 0,
            losses: [0; 2],
            applications: now,
            frames: 0,
            parks: 0,
            edge: None,
        };
        world.flush();
        world.guest_sends();
        world
    }

    /// Puts a frame on its way, or not.
    fn carry(&mut self, frame: Frame, to_guest: bool) {
        // No link loses for ever: so no time-out is reached by bad luck.
        let losses = &mut self.losses[usize::from(to_guest)];
        if *losses < MOST_LOSSES && self.dice.percent(self.plan.loss) {
            *losses += 1;
            return;
        }
        *losses = 0;
        let copies = 1 + u8::from(self.dice.percent(self.plan.repetition));
        for _ in 0..copies {
            let late = self.dice.percent(self.plan.reordering);
            let delay = if late { self.dice.below(3_000_000) } else { 0 };
            let at = self.now + Duration::from_nanos(20_000 + delay);
            self.serial += 1;
            let way = if to_guest {
                &mut self.to_guest
            } else {
                &mut self.to_flow
            };
            way.insert((at, self.serial), frame.clone());
        }
    }

    fn guest_sends(&mut self) {
        let mut out = Vec::new();
        self.guest.output(self.now, &mut out);
        for frame in out {
            self.carry(frame, false);
        }
    }

    /// Calls the flow, and takes what it sends.
    fn with_flow<R>(&mut self, call: impl FnOnce(&mut Flow, &mut Io<'_>) -> R) -> Option<R> {
        let mut flow = self.flow.take()?;
        let mut out = Vec::new();
        let mut unpark = false;
        let mut wire = Wire {
            out: &mut out,
            refuse: self.dice.percent(self.plan.full_port),
            unpark: &mut unpark,
        };
        let mut io = Io {
            now: self.now,
            streams: &mut self.host,
            sink: &mut wire,
        };
        let result = call(&mut flow, &mut io);
        self.flow = (!flow.is_closed()).then_some(flow);
        for (header, source) in out {
            self.flow_sent(header, source);
        }
        if unpark || self.flow.is_none() {
            let parked = std::mem::take(&mut self.parked);
            for frame in parked {
                self.arrive(frame);
            }
        }
        Some(result)
    }

    /// Checks a frame of the flow's, and puts its segments on their way.
    fn flow_sent(&mut self, header: TcpHeader, source: Option<Source>) {
        self.frames += 1;
        self.check_edge(&header);
        let Some(source) = source else {
            self.carry((header, Vec::new()), true);
            return;
        };
        assert!(source.len > 0);
        assert!(source.len <= self.plan.link.burst.max(source.mss.into()));
        assert!(source.mss <= self.plan.habits.mss.max(88));
        let data = self.host.read(source.offset, source.len);
        let mut seq = header.seq;
        let count = data.chunks(source.mss.into()).count();
        for (index, piece) in data.chunks(source.mss.into()).enumerate() {
            let mut header = TcpHeader { seq, ..header };
            if index + 1 < count {
                header.flags.remove(TcpFlags::PSH | TcpFlags::FIN);
            }
            seq = seq.wrapping_add(piece.len() as u32);
            self.carry((header, piece.to_vec()), true);
        }
    }

    /// The window's right edge never moves left, and what is acknowledged
    /// was taken.
    fn check_edge(&mut self, header: &TcpHeader) {
        if !header.flags.contains(TcpFlags::ACK) || header.flags.contains(TcpFlags::RST) {
            return;
        }
        let irs = self.plan.habits.iss;
        let acknowledged = header.ack.wrapping_sub(irs);
        let fin = u32::from(self.host.shut);
        assert_eq!(
            acknowledged as usize,
            self.host.taken.len() + 1 + fin as usize
        );
        let scaled = self.plan.habits.scale.is_some() && !header.flags.contains(TcpFlags::SYN);
        let shift = if scaled { 7 } else { 0 };
        let edge = acknowledged + (u32::from(header.window) << shift);
        if let Some((_, before)) = self.edge {
            assert!(
                edge + fin >= before,
                "the edge moved from {before} to {edge}"
            );
        }
        self.edge = Some((acknowledged, edge));
    }

    fn arrive(&mut self, frame: Frame) {
        let (header, payload) = &frame;
        if self.flow.is_none() {
            let syn = header.flags.contains(TcpFlags::SYN)
                && !header.flags.intersects(TcpFlags::ACK | TcpFlags::RST);
            if syn && self.host.ending.is_none() {
                let connection = Connection {
                    socket: SOCKET,
                    port: 1,
                    progress: Progress::Pending,
                };
                let (link, iss) = (self.plan.link, self.plan.iss);
                let flow = Flow::from_guest(header, connection, link, iss, self.now);
                self.flow = Some(flow);
            } else if let Some(reset) = reset_for(header, payload.len()) {
                self.carry((reset, Vec::new()), true);
            }
            return;
        }
        let bytes = payload.as_slice();
        let verdict = self.with_flow(|flow, io| flow.on_segment(header, &bytes, io));
        if verdict == Some(Verdict::Park) && self.flow.is_some() {
            self.parks += 1;
            if !self.dice.percent(self.plan.forgets) {
                self.parked.push(frame);
            }
        }
    }

    fn flush(&mut self) {
        let sent = self.with_flow(|flow, io| flow.flush(io));
        self.blocked = sent == Some(false);
    }

    /// Both applications read and write some.
    fn run_applications(&mut self) {
        let stride = self.plan.stride as u64;
        let mut some = || self.dice.below(stride + 1) as usize;
        let (read, drained, arrived) = (some(), some(), some());
        self.guest.reads(read);
        let host = &mut self.host;
        host.drained = (host.drained + drained).min(host.taken.len());
        let mut readiness = Readiness::empty();
        if host.arrived < host.data.len() || !host.ended {
            host.arrived = (host.arrived + arrived).min(host.data.len());
            host.ended = host.arrived == host.data.len();
            readiness |= Readiness::READABLE;
        }
        let connecting = self.flow.as_ref().map(Flow::state) == Some(State::Connecting);
        if connecting || (host.owes_writable && host.room() >= host.capacity.div_ceil(3)) {
            host.owes_writable = false;
            readiness |= Readiness::WRITABLE;
        }
        if !readiness.is_empty() {
            self.with_flow(|flow, io| flow.on_socket(readiness, io));
        }
        self.applications = self.now + Duration::from_micros(100 + self.dice.below(2000));
    }

    /// The moment of the next event.
    fn next(&self) -> Time {
        let flow = self.flow.as_ref().map_or(Time::NEVER, Flow::deadline);
        let ways = [&self.to_guest, &self.to_flow];
        let frames = ways.map(|way| way.first_key_value().map_or(Time::NEVER, |(key, _)| key.0));
        let idle = self.host.ending.is_some() && self.guest.read == self.guest.received.len();
        let applications = if idle { Time::NEVER } else { self.applications };
        flow.min(frames[0])
            .min(frames[1])
            .min(self.guest.deadline())
            .min(applications)
    }

    /// Lets everything happen that is due at the next moment with an event;
    /// false if there is none.
    pub(super) fn step(&mut self) -> bool {
        let next = self.next();
        if next == Time::NEVER {
            return false;
        }
        self.now = self.now.max(next);
        let mut out = Vec::new();
        while let Some(entry) = self.to_guest.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let frame = entry.remove();
            self.guest.segment(frame, &mut out);
        }
        self.guest.tick(self.now, &mut out);
        for frame in out {
            self.carry(frame, false);
        }
        while let Some(entry) = self.to_flow.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let frame = entry.remove();
            self.arrive(frame);
        }
        if self.applications <= self.now {
            self.run_applications();
        }
        if self.flow.as_ref().is_some_and(|f| f.deadline() <= self.now) {
            self.with_flow(Flow::on_timer);
        }
        self.flush();
        while self.blocked {
            self.flush();
        }
        self.guest_sends();
        true
    }

    /// Runs to the end of the connection and of all that it left behind.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 3_000_000, "it goes on for ever at {:?}", self.now);
        }
    }

    /// Everything arrived, whole and in order, and nothing is left.
    pub(super) fn check(&self) {
        assert_ne!(self.guest.stage, Stage::Reset);
        assert_eq!(self.host.taken.len(), self.plan.from_guest);
        assert_eq!(self.host.taken, pattern(self.plan.from_guest, 0));
        assert!(self.host.shut);
        assert_eq!(self.guest.received.len(), self.plan.to_guest);
        assert_eq!(self.guest.received, self.host.data);
        assert!(self.guest.is_finished());
        assert_eq!(self.host.ending, Some(Ending::Closed));
        assert!(self.flow.is_none());
        assert!(self.parked.is_empty());
    }
}
