//! Many connections at once, opened, used, half-closed, reset and forgotten at
//! random, until nothing is left of them.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::guest::{Frame, Guest as Client, Habits, Stage};
use super::host::{Ending, Host};
use super::hosts::Socket;
use super::network::Dice;
use super::table::{LIMITS, Net, inner};
use crate::net::nat::drops::DropReason;
use crate::net::nat::flows::{self, Endpoint, FlowId, Guest};
use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::tcp::streams::Readiness;
use crate::net::nat::tcp::{Leg, Limits, Outcome};
use crate::net::time::Time;
use crate::net::wire::tcp::TcpFlags;

/// What happens in one run.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    limits: Limits,
    /// Connections that are begun.
    connections: u32,
    /// Guests that they are of.
    guests: u32,
    /// Chances in percent for each connection: to be disturbed at all, for a
    /// frame to be lost, for a guest's port to be full.
    trouble: u8,
    loss: u8,
    full_port: u8,
    capacity: usize,
}

/// A connection from the guest's side.
struct Pair {
    leg: Leg,
    client: Client,
    data: Vec<u8>,
    answer: Vec<u8>,
    /// Something was done to it, so that it needn't arrive.
    disturbed: bool,
    /// The guest isn't there any more.
    deaf: bool,
}

struct World {
    plan: Plan,
    dice: Dice,
    net: Net,
    listener: SocketId,
    pairs: Vec<Pair>,
    by_leg: HashMap<(Endpoint, Endpoint), usize>,
    /// Frames on their way.
    to_guest: BTreeMap<(Time, u64), (usize, Frame)>,
    parked: HashMap<FlowId, Vec<(usize, Frame)>>,
    begun: u32,
    serial: u64,
}

const STEP: Duration = Duration::from_millis(1);

fn pattern(len: u64, salt: usize) -> Vec<u8> {
    let byte = |i: u64| (i ^ (i >> 8).wrapping_mul(31)) as u8 ^ salt as u8;
    (0..len).map(byte).collect()
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut net = Net::new(plan.limits);
        net.hosts.capacity = plan.capacity;
        let at = Endpoint::new(Ipv4Addr::UNSPECIFIED, 2222);
        let mapped = net.tcp.map(at, inner(0, 22), &mut net.hosts);
        net.outlet.guests.insert(inner(0, 22).address, Guest(0));
        Self {
            dice: Dice::new(plan.seed),
            plan,
            net,
            listener: mapped.unwrap().0,
            pairs: Vec::new(),
            by_leg: HashMap::new(),
            to_guest: BTreeMap::new(),
            parked: HashMap::new(),
            begun: 0,
            serial: 0,
        }
    }

    /// Begins a connection from either side.
    fn begin(&mut self) {
        let number = self.begun;
        self.begun += 1;
        let inward = self.dice.percent(30);
        let guest = number % self.plan.guests;
        let peer = Endpoint::new(Ipv4Addr::new(198, 51, 100, 1), 10_000 + number as u16);
        let leg = if inward {
            Leg {
                guest: Guest(0),
                inner: inner(0, 22),
                outer: peer,
            }
        } else {
            // Some share an inner endpoint.
            Leg {
                guest: Guest(guest),
                inner: inner(guest, 5000 + (number as u16) % 50),
                outer: peer,
            }
        };
        let habits = Habits {
            iss: number.wrapping_mul(0x9E37_79B9),
            mss: 1460,
            scale: Some(5),
            buffer: 20_000,
            reassembles: true,
            burst: 30_000,
        };
        let data = pattern(self.dice.below(40_000), 1);
        let answer = pattern(self.dice.below(40_000), number as usize);
        let client = Client::new(habits, data.clone(), inward);
        self.by_leg.insert((leg.inner, leg.outer), self.pairs.len());
        self.pairs.push(Pair {
            leg,
            client,
            data,
            answer: answer.clone(),
            disturbed: false,
            deaf: false,
        });
        if inward {
            let host = Host {
                capacity: self.plan.capacity,
                data: answer,
                ..Host::default()
            };
            let socket = Socket {
                host,
                peer: Some(SocketAddr::from(peer)),
                port: None,
            };
            self.net.hosts.arrives(self.listener, socket);
            self.net.news(self.listener);
        }
    }

    fn arrive(&mut self, at: usize, frame: Frame) {
        let leg = self.pairs[at].leg;
        match self.net.give(&leg, frame.0, &frame.1) {
            Outcome::Park(id) => self.parked.entry(id).or_default().push((at, frame)),
            // Whose connection is over may say so late.
            Outcome::Dropped(DropReason::NoFlow) if self.pairs[at].client.is_finished() => {}
            Outcome::Dropped(_) => self.pairs[at].disturbed = true,
            Outcome::Done => {}
        }
        self.unpark();
    }

    fn unpark(&mut self) {
        for id in std::mem::take(&mut self.net.outlet.unparked) {
            for (at, frame) in self.parked.remove(&id).unwrap_or_default() {
                self.arrive(at, frame);
            }
        }
    }

    /// The peers read, write, end and reset, as it comes.
    fn run_peers(&mut self) {
        for id in self.net.hosts.ids() {
            let socket = self.net.hosts.socket(id);
            let Some(at) = socket.peer.map(|peer| usize::from(peer.port() - 10_000)) else {
                continue;
            };
            let host = &mut socket.host;
            let before = (host.arrived, host.ended, host.room());
            if host.data.is_empty() {
                host.data.clone_from(&self.pairs[at].answer);
            }
            host.drained = (host.drained + self.dice.below(20_000) as usize).min(host.taken.len());
            host.arrived = (host.arrived + self.dice.below(20_000) as usize).min(host.data.len());
            host.ended |= host.arrived == host.data.len() && self.dice.percent(50);
            let mut readiness = Readiness::empty();
            if (host.arrived, host.ended) != (before.0, before.1) {
                readiness |= Readiness::READABLE;
            }
            if before.2 == host.capacity && host.taken.is_empty()
                || host.owes_writable && host.room() > host.capacity / 3
            {
                host.owes_writable = false;
                readiness |= Readiness::WRITABLE;
            }
            if self.dice.below(2000) < u64::from(self.plan.trouble) {
                host.error = Some(match self.dice.below(3) {
                    0 => SocketError::Refused,
                    1 => SocketError::Reset,
                    _ => SocketError::TimedOut,
                });
                readiness |= Readiness::ERROR;
                self.pairs[at].disturbed = true;
            }
            if !readiness.is_empty() {
                let Net {
                    tcp,
                    hosts,
                    outlet,
                    now,
                } = &mut self.net;
                tcp.on_socket(*now, id, readiness, hosts, outlet);
                self.unpark();
            }
        }
    }

    /// The guests do what they do.
    fn run_guests(&mut self) {
        for at in 0..self.pairs.len() {
            let trouble = self.dice.below(4000) < u64::from(self.plan.trouble);
            let pair = &mut self.pairs[at];
            if pair.deaf {
                continue;
            }
            let mut out = Vec::new();
            if trouble {
                pair.disturbed = true;
                if self.dice.percent(50) {
                    pair.client.reset(&mut out);
                } else {
                    pair.deaf = true;
                }
            }
            pair.client.reads(self.dice.below(20_000) as usize);
            pair.client.tick(self.net.now, &mut out);
            pair.client.output(self.net.now, &mut out);
            for frame in out {
                if !self.dice.percent(self.plan.loss) {
                    self.arrive(at, frame);
                }
            }
        }
    }

    /// The translator's batch, and what it sends on its way.
    fn run_translator(&mut self) {
        for guest in (0..self.plan.guests).map(Guest) {
            let full = self.dice.percent(self.plan.full_port);
            if full {
                self.net.outlet.full.insert(guest);
            } else if self.net.outlet.full.remove(&guest) {
                self.net.tcp.room(guest);
            }
        }
        let Net {
            tcp,
            hosts,
            outlet,
            now,
        } = &mut self.net;
        tcp.expire(*now, hosts, outlet);
        let more = tcp.flush(*now, hosts, outlet);
        assert!(!more || !outlet.sent.is_empty());
        self.unpark();
        for sent in std::mem::take(&mut self.net.outlet.sent) {
            let at = self.by_leg[&(sent.leg.inner, sent.leg.outer)];
            let mut header = sent.header;
            let pieces = sent.payload.chunks(1460).map(<[u8]>::to_vec);
            let mut pieces: Vec<_> = pieces.collect();
            if pieces.is_empty() {
                pieces.push(Vec::new());
            }
            let last = pieces.len() - 1;
            for (n, piece) in pieces.into_iter().enumerate() {
                let mut segment = header;
                if n < last {
                    segment.flags.remove(TcpFlags::FIN);
                }
                header.seq = header.seq.wrapping_add(piece.len() as u32);
                if self.dice.percent(self.plan.loss) {
                    continue;
                }
                self.serial += 1;
                let key = (self.net.now + STEP, self.serial);
                self.to_guest.insert(key, (at, (segment, piece)));
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.to_guest.first_entry() {
            if entry.key().0 > self.net.now {
                break;
            }
            let (at, frame) = entry.remove();
            let mut out = Vec::new();
            if !self.pairs[at].deaf {
                self.pairs[at].client.segment(frame, &mut out);
            }
            for frame in out {
                self.arrive(at, frame);
            }
        }
    }

    /// Goes on by a step, or to the next event if nothing else happens.
    fn step(&mut self) {
        let quiet = self.begun == self.plan.connections && self.to_guest.is_empty();
        let streams = self.net.hosts.ids().len();
        self.net.now = self.net.now + STEP;
        if quiet && streams == 0 {
            // Only timers are left.
            let next = self.net.tcp.next_deadline().unwrap_or(self.net.now);
            self.net.now = self.net.now.max(next);
        }
        if self.begun < self.plan.connections && self.dice.percent(30) {
            self.begin();
        }
        self.deliver();
        self.run_guests();
        self.run_peers();
        self.run_translator();
    }

    fn run(&mut self) {
        let mut steps = 0;
        while self.begun < self.plan.connections
            || !self.net.tcp.is_empty()
            || !self.to_guest.is_empty()
        {
            self.step();
            steps += 1;
            if steps % 3000 == 0 {
                // Who is left with a guest that is gone waits for hours.
                self.net.now = self.net.now + Duration::from_secs(60);
            }
            assert!(steps < 2_000_000, "{:?}", self.net.tcp.iter().next());
        }
    }

    fn check(&mut self) {
        let limits = self.plan.limits;
        // Where there is no room, connections are refused or given up.
        let all_fit = limits.flows.per_guest >= 1000 && limits.embryonic >= 100;
        for socket in &self.net.hosts.done {
            let at = usize::from(socket.peer.unwrap().port() - 10_000);
            let pair = &self.pairs[at];
            assert!(pair.data.starts_with(&socket.host.taken));
            if all_fit && !pair.disturbed && pair.client.stage != Stage::Reset {
                assert_eq!(socket.host.ending, Some(Ending::Closed));
                assert_eq!(pair.data, socket.host.taken);
                assert_eq!(pair.answer, pair.client.received);
            }
        }
        for pair in &self.pairs {
            assert!(pair.answer.starts_with(&pair.client.received));
        }
        assert!(self.parked.is_empty());
        assert!(self.net.tcp.unmap(self.listener, &mut self.net.hosts));
        self.net.check_empty();
    }
}

prop_compose! {
    fn any_plan()(
        seed: u64,
        per_guest in prop_oneof![Just(1000u32), 3u32..20],
        embryonic in prop_oneof![Just(100u32), 2u32..6],
        lingering in prop_oneof![Just(100u32), 0u32..4],
        parked in prop_oneof![Just(64u32), 0u32..4],
        connections in 1u32..60,
        guests in 1u32..4,
        trouble in prop_oneof![Just(0u8), 1u8..20],
        loss in prop_oneof![Just(0u8), 1u8..10],
        full_port in prop_oneof![Just(0u8), 1u8..60],
        capacity in 2_000usize..60_000,
    ) -> Plan {
        let limits = Limits {
            flows: flows::Limits { per_guest, ..LIMITS.flows },
            embryonic,
            lingering,
            parked,
        };
        Plan { seed, limits, connections, guests, trouble, loss, full_port, capacity }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_is_left_behind(plan in any_plan()) {
        let mut world = World::new(plan);
        world.run();
        world.check();
    }
}

#[test]
fn undisturbed_connections_all_arrive() {
    let plan = Plan {
        seed: 1,
        limits: LIMITS,
        connections: 300,
        guests: 3,
        trouble: 0,
        loss: 0,
        full_port: 30,
        capacity: 10_000,
    };
    let mut world = World::new(plan);
    world.run();
    assert!(world.pairs.iter().all(|pair| !pair.disturbed));
    assert_eq!(world.net.tcp.counters().closed, 300);
    world.check();
}
