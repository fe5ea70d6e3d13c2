//! The thread's loop.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::mpsc;
use std::time::Duration;

use super::slots::Slots;
use super::status::{PortStatus, Status};
use super::{Command, Error};
use crate::net::attachment::{Attachment, News, Settings};
use crate::net::engine::{Config, Engine, MapError, Seed, World};
use crate::net::host::{
    Arrival, Batch, Event, Host, Poller, Registry, Resolvers, Role, SocketEvent,
};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::mappings::{Mapping, Transport};
use crate::net::nat::sockets::{SocketId, SocketKind};
use crate::net::nat::tcp::streams::Readiness;
use crate::net::switch::{self, PortConfig, PortId};
use crate::net::time::Time;

/// Frames of a port before the others, and the sockets, get their turn.
const BUDGET: usize = 64;

/// The time between looks at the host's resolvers, at least. Nobody is woken
/// for it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Batches of a socket's datagrams before the others get their turn.
const BATCHES: usize = 4;

/// What the thread owns.
pub(super) struct Loop {
    engine: Engine,
    host: Host,
    poller: Poller,
    registry: Registry,
    slots: Slots,
    batch: Batch,
    /// What happened at sockets, and which descriptors of attachments are
    /// ready: kept for their capacity.
    events: Vec<SocketEvent>,
    ready: Vec<(PortId, u8)>,
    /// Sockets that had more datagrams than their turn took.
    unread: Vec<(SocketId, SocketKind)>,
    names: HashMap<PortId, String>,
    resolvers: Resolvers,
    /// When to look whether they changed, if anything happens then.
    look: Time,
    commands: mpsc::Receiver<Command>,
    /// When the engine has something to do, as it said before the last wait.
    due: Time,
    /// When a port's limits let its frames in that wait.
    paused: Option<Time>,
    /// The engine has more to send than its turn let it.
    busy: bool,
    running: bool,
}

impl Loop {
    pub(super) fn new(
        config: Config,
        poller: Poller,
        host: Host,
        resolvers: Resolvers,
        commands: mpsc::Receiver<Command>,
    ) -> Result<Self, Error> {
        let engine = Engine::new(config, Time::ZERO, Seed::random())?;
        Ok(Self {
            engine,
            host,
            registry: poller.registry().clone(),
            poller,
            slots: Slots::default(),
            batch: Batch::new(),
            events: Vec::new(),
            ready: Vec::new(),
            unread: Vec::new(),
            names: HashMap::new(),
            resolvers,
            look: Time::ZERO,
            commands,
            due: Time::NEVER,
            paused: None,
            busy: false,
            running: true,
        })
    }

    /// Runs until it is stopped.
    pub(super) fn run(mut self) {
        while self.running {
            if let Err(error) = self.turn() {
                // epoll_wait fails only for arguments that it never gets.
                tracing::error!(%error, "the virtual network failed");
                return;
            }
        }
    }

    /// Waits for something to happen, and does all that follows from it.
    fn turn(&mut self) -> io::Result<()> {
        let until = self.deadline();
        let mut woken = false;
        for event in self.poller.wait(until)? {
            match event {
                Event::Socket(event) => self.events.push(event),
                Event::Attachment { port, token } => self.ready.push((PortId::new(port), token)),
                Event::Wake => woken = true,
            }
        }
        // One look at the clock serves a whole batch.
        let now = self.now();
        self.follow_resolvers(now);
        self.serve_sockets(now);
        self.serve_ports(now);
        self.finish(now);
        if woken {
            self.obey();
        }
        Ok(())
    }

    /// Has the engine ask the resolvers that the host asks.
    fn follow_resolvers(&mut self, now: Time) {
        if now < self.look {
            return;
        }
        self.look = now + LOOK_INTERVAL;
        if let Some(servers) = self.resolvers.changed() {
            self.engine.set_resolvers(&servers);
        }
    }

    /// Until when to wait for events.
    fn deadline(&mut self) -> Time {
        self.due = self.engine.next_deadline().unwrap_or(Time::NEVER);
        let frames = self.paused.is_none() && self.slots.any_ready();
        if self.busy || !self.unread.is_empty() || frames {
            return Time::ZERO;
        }
        self.paused.map_or(self.due, |paused| paused.min(self.due))
    }

    fn now(&self) -> Time {
        self.poller.now()
    }

    /// What the engine works on, and the engine.
    fn world(&mut self, now: Time) -> (&mut Engine, World<'_, Host>) {
        let world = World {
            now,
            host: &mut self.host,
            ports: &mut self.slots,
        };
        (&mut self.engine, world)
    }

    /// Serves the sockets that something happened at.
    fn serve_sockets(&mut self, now: Time) {
        for (socket, kind) in mem::take(&mut self.unread) {
            self.receive_datagrams(now, socket, kind);
        }
        let mut events = mem::take(&mut self.events);
        for event in events.drain(..) {
            let Some(news) = self.host.news(event) else {
                continue;
            };
            match news.role {
                Role::Stream | Role::Listener => {
                    let (engine, mut world) = self.world(now);
                    engine.stream(&mut world, news.socket, news.readiness);
                }
                Role::Datagrams(kind) => {
                    if news.readiness.contains(Readiness::ERROR) {
                        self.receive_errors(now, news.socket, kind);
                    }
                    if news.readiness.contains(Readiness::READABLE) {
                        self.receive_datagrams(now, news.socket, kind);
                    }
                }
            }
        }
        self.events = events;
    }

    /// Brings what came to a socket to the guests.
    fn receive_datagrams(&mut self, now: Time, socket: SocketId, kind: SocketKind) {
        for _ in 0..BATCHES {
            // A socket that fails has reported why, or is about to.
            let Ok(1..) = self.host.receive(socket, &mut self.batch) else {
                return;
            };
            let mut world = World {
                now,
                host: &mut self.host,
                ports: &mut self.slots,
            };
            for Arrival {
                from,
                segment,
                bytes,
            } in self.batch.iter()
            {
                match kind {
                    SocketKind::Udp(_) => {
                        self.engine
                            .datagram(&mut world, socket, from, segment, bytes);
                    }
                    SocketKind::Echo(_) => {
                        self.engine
                            .echo_reply(&mut world, socket, from.address, bytes);
                    }
                }
            }
            if !self.batch.is_full() {
                return;
            }
        }
        self.unread.push((socket, kind));
    }

    /// Brings the errors that came to a socket to the guests.
    fn receive_errors(&mut self, now: Time, socket: SocketId, kind: SocketKind) {
        while let Some(report) = self.host.report(socket) {
            let reason = (report.error, report.reporter);
            let (engine, mut world) = self.world(now);
            match kind {
                SocketKind::Udp(_) => {
                    let len = report.payload_len;
                    engine.datagram_error(&mut world, socket, report.to, reason, len);
                }
                SocketKind::Echo(_) => {
                    let quote = report.quote();
                    engine.echo_error(&mut world, socket, report.to.address, reason, quote);
                }
            }
        }
    }

    /// Takes frames from the ports that have some, each in its turn.
    fn serve_ports(&mut self, now: Time) {
        let mut ready = mem::take(&mut self.ready);
        for (port, token) in ready.drain(..) {
            let mut watch = self.registry.port(port.into());
            let (news, settings) = self.slots.tell(port, token, &mut watch);
            self.follow(now, port, news, settings);
        }
        self.ready = ready;
        self.paused = None;
        for port in self.slots.ports() {
            for _ in 0..BUDGET {
                if !self.slots.is_ready(port) {
                    break;
                }
                // A port's limits don't cost it frames: they wait where they are.
                let due = self.engine.ingress_ready(port, now);
                if due > now {
                    self.paused = Some(self.paused.map_or(due, |paused| paused.min(due)));
                    break;
                }
                let Some(frame) = self.slots.receive(port) else {
                    break;
                };
                let (engine, mut world) = self.world(now);
                engine.receive(&mut world, port, frame);
            }
        }
    }

    /// Follows what the one at a port told.
    fn follow(&mut self, now: Time, port: PortId, news: News, settings: Option<Settings>) {
        if let Some(settings) = settings {
            self.set(port, &settings);
        }
        if news.contains(News::ROOM) {
            let (engine, _) = self.world(now);
            engine.room(port);
        }
        if news.contains(News::GONE) {
            self.unplug(port);
        }
    }

    fn set(&mut self, port: PortId, settings: &Settings) {
        if let Err(error) = self.engine.set(port, settings) {
            tracing::debug!(%error, "settings of a port that is gone");
        }
    }

    /// Does what time asks for, sends what is due, and has all notice it.
    fn finish(&mut self, now: Time) {
        let due = self.due <= now;
        let (engine, mut world) = self.world(now);
        if due {
            engine.expire(&mut world);
        }
        let more = engine.flush(&mut world);
        self.busy = more;
        let mut told = Vec::new();
        self.slots
            .flush(|port, news, settings| told.push((port, news, settings)));
        for (port, news, settings) in told {
            self.follow(now, port, news, settings);
        }
    }

    /// Does what others ask for.
    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            command(self);
        }
        let now = self.now();
        self.finish(now);
    }

    /// Tells the guests, and ends the loop.
    pub(super) fn stop(&mut self) {
        let now = self.now();
        let (engine, mut world) = self.world(now);
        engine.farewell(&mut world);
        self.running = false;
    }

    pub(super) fn add_port(
        &mut self,
        name: String,
        config: PortConfig,
    ) -> Result<PortId, switch::Error> {
        let port = self.engine.add_port(config)?;
        self.names.insert(port, name);
        // Nobody is there yet who could be sent anything.
        self.set(port, &Settings::default());
        Ok(port)
    }

    pub(super) fn remove_port(&mut self, port: PortId) -> Result<(), switch::Error> {
        drop(self.unplug(port));
        let now = self.now();
        let (engine, mut world) = self.world(now);
        engine.remove_port(&mut world, port)?;
        self.names.remove(&port);
        Ok(())
    }

    pub(super) fn plug(
        &mut self,
        port: PortId,
        mut attachment: Box<dyn Attachment>,
    ) -> io::Result<()> {
        drop(self.unplug(port));
        attachment.watch(&mut self.registry.port(port.into()))?;
        let settings = self.slots.plug(port, attachment);
        self.set(port, &settings);
        Ok(())
    }

    pub(super) fn unplug(&mut self, port: PortId) -> Option<Box<dyn Attachment>> {
        if !self.slots.is_plugged(port) {
            return None;
        }
        let now = self.now();
        let (engine, mut world) = self.world(now);
        engine.unplugged(&mut world, port);
        let mut attachment = self.slots.unplug(port)?;
        // Its descriptors may be open elsewhere: they must not be watched on.
        self.registry.port(port.into()).forget(&mut *attachment);
        self.set(port, &Settings::default());
        Some(attachment)
    }

    pub(super) fn set_spoofing(&mut self, port: PortId, on: bool) -> Result<(), switch::Error> {
        self.engine.set_spoofing(port, on)
    }

    pub(super) fn map(&mut self, mapping: Mapping) -> Result<Mapping, MapError> {
        let now = self.now();
        let (engine, mut world) = self.world(now);
        engine.map(&mut world, mapping)
    }

    pub(super) fn unmap(
        &mut self,
        transport: Transport,
        at: Endpoint,
    ) -> Result<Mapping, MapError> {
        let now = self.now();
        let (engine, mut world) = self.world(now);
        engine.unmap(&mut world, transport, at)
    }

    pub(super) fn status(&self) -> Status {
        let now = self.now();
        let ports = self.engine.ports().map(|port| PortStatus {
            number: port.into(),
            name: match self.names.get(&port) {
                Some(name) => name.clone(),
                None => "gateway".into(),
            },
            plugged: port == PortId::GATEWAY || self.slots.is_plugged(port),
            ..self.engine.port_status(port, now)
        });
        Status {
            ports: ports.collect(),
            sockets: self.host.len(),
            ..self.engine.status(now)
        }
    }
}
