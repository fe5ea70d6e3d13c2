//! What a front end has set up, and what is plugged in for it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

use super::memory::{self, Memory};
use super::message::{ProtocolFeatures, Reply, Request};
use super::vring::{self, Signals, Vring};
use super::{MAX_PAIRS, VhostUserConfig};
use crate::net::network;
use crate::net::ports::pcap::Recorded;
use crate::virtio::device::ActiveQueue;
use crate::virtio::layout::{QueueError, RingLayout};
use crate::virtio::net::rings::{self, ActivePairs, Rings};

/// The rings of a front end: a receive and a transmit ring for each pair.
const RINGS: usize = 2 * MAX_PAIRS as usize;

/// The most entries of a ring (virtio 1.3, 2.7).
const MAX_SIZE: u16 = 32768;

/// VHOST_USER_F_PROTOCOL_FEATURES, a bit of virtio's features.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// What a front end asked for that can't be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("features {unknown:#x} aren't offered")]
    Features { unknown: u64 },
    #[error("protocol features {features:#x} aren't all offered")]
    Protocol { features: u64 },
    #[error("there is no ring {ring}: a front end has {RINGS}")]
    NoSuchRing { ring: u32 },
    #[error("ring {ring}: {size} entries are too many")]
    Size { ring: usize, size: u32 },
    #[error("ring {ring}: {base} is no index of an entry")]
    Base { ring: usize, base: u32 },
    #[error("ring {ring}: {source}")]
    Event { ring: usize, source: io::Error },
    #[error("ring {ring} is to be polled: give a descriptor that the driver kicks")]
    Polled { ring: usize },
    #[error("ring {ring}: {source}")]
    Address { ring: usize, source: memory::Error },
    #[error("ring {ring}: {source}")]
    Queue { ring: usize, source: QueueError },
    #[error("ring {ring}: its used index can't be read: {source}")]
    Used {
        ring: usize,
        source: GuestMemoryError,
    },
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error("its rings cannot be plugged in: {0}")]
    Host(#[from] io::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
}

/// The rings that are plugged in.
struct Running {
    /// For each ring, where its used index is and what it was at first.
    used: Vec<(GuestAddress, u16)>,
    active: ActivePairs,
}

/// A conversation with a front end.
pub(super) struct Session {
    config: Arc<VhostUserConfig>,
    connection: Arc<UnixStream>,
    features: u64,
    protocol: ProtocolFeatures,
    memory: Memory,
    vrings: Vec<Vring>,
    signals: Arc<Signals>,
    running: Option<Running>,
}

impl Session {
    pub(super) fn new(config: Arc<VhostUserConfig>, connection: Arc<UnixStream>) -> Self {
        Self {
            config,
            connection,
            features: 0,
            protocol: ProtocolFeatures::empty(),
            memory: Memory::default(),
            vrings: (0..RINGS).map(|_| Vring::default()).collect(),
            signals: Arc::new(Signals::new(RINGS)),
            running: None,
        }
    }

    /// The parts of the protocol that were negotiated.
    pub(super) fn protocol(&self) -> ProtocolFeatures {
        self.protocol
    }

    /// Does what the front end asks for. After an error nothing is certain but
    /// that the session can be dropped.
    pub(super) fn handle(&mut self, request: Request) -> Result<Option<Reply>, Error> {
        match request {
            Request::GetFeatures => return Ok(Some(Reply::Value(offered()))),
            Request::GetProtocolFeatures => {
                return Ok(Some(Reply::Value(ProtocolFeatures::all().bits())));
            }
            // Front ends of NICs disagree whether queues or pairs of them are
            // counted; none sets more up than it was asked for.
            Request::GetQueueNum => return Ok(Some(Reply::Value(RINGS as u64))),
            Request::GetConfig {
                offset,
                size,
                flags,
            } => return Ok(Some(self.config_space(offset, size, flags))),
            Request::GetBase { ring } => {
                let base = self.take_base(ring)?;
                return Ok(Some(Reply::Base { ring, base }));
            }
            Request::SetOwner | Request::SetConfig => {}
            Request::ResetOwner => self.disable_all()?,
            Request::SetFeatures(features) => self.set_features(features)?,
            Request::SetProtocolFeatures(features) => {
                let known = ProtocolFeatures::from_bits(features);
                self.protocol = known.ok_or(Error::Protocol { features })?;
            }
            Request::SetMemory(regions) => {
                self.stop()?;
                // What was mapped goes first: it may be most of what can be.
                self.memory = Memory::default();
                self.memory = Memory::map(regions, &self.connection)?;
                self.settle()?;
            }
            Request::SetSize { ring, size } => self.set_size(ring, size)?,
            Request::SetAddresses { ring, addresses } => {
                let ring = self.stopped(ring)?;
                self.vrings[ring].addresses = Some(addresses);
                self.settle()?;
            }
            Request::SetBase { ring, base } => self.set_base(ring, base)?,
            Request::SetKick { ring, kick } => self.set_kick(ring, kick)?,
            Request::SetCall { ring, call } => {
                let (ring, call) = signal(ring, call)?;
                self.signals.set_call(ring, call);
            }
            Request::SetError { ring, error } => {
                let (ring, error) = signal(ring, error)?;
                self.signals.set_error(ring, error);
            }
            Request::Enable { ring, enable } => {
                self.vrings[index(ring)?].enabled = enable;
                self.settle()?;
            }
        }
        Ok(None)
    }

    fn config_space(&self, offset: u32, size: u32, flags: u32) -> Reply {
        let space = rings::Space::new(self.config.mac, MAX_PAIRS, self.config.mtu);
        let mut data = vec![0; usize::try_from(size).expect("it was checked to be small")];
        space.read(offset.into(), &mut data);
        Reply::Config {
            offset,
            flags,
            data,
        }
    }

    fn set_features(&mut self, features: u64) -> Result<(), Error> {
        let unknown = features & !offered();
        if unknown != 0 {
            return Err(Error::Features { unknown });
        }
        if features != self.features {
            self.stop()?;
        }
        self.features = features;
        if features & PROTOCOL_FEATURES == 0 {
            // Who can't enable rings needs them enabled.
            for vring in &mut self.vrings {
                vring.enabled = true;
            }
        }
        self.settle()
    }

    fn set_size(&mut self, ring: u32, size: u32) -> Result<(), Error> {
        let ring = self.stopped(ring)?;
        let fits = u16::try_from(size).ok().filter(|size| *size <= MAX_SIZE);
        self.vrings[ring].size = fits.ok_or(Error::Size { ring, size })?;
        self.settle()
    }

    fn set_base(&mut self, ring: u32, base: u32) -> Result<(), Error> {
        let ring = self.stopped(ring)?;
        let bad = |_| Error::Base { ring, base };
        self.vrings[ring].base = u16::try_from(base).map_err(bad)?;
        self.settle()
    }

    /// Stops a ring; returns the available entry that would have been next.
    fn take_base(&mut self, ring: u32) -> Result<u16, Error> {
        let ring = self.stopped(ring)?;
        self.vrings[ring].kick = None;
        self.settle()?;
        Ok(self.vrings[ring].base)
    }

    fn set_kick(&mut self, ring: u32, kick: Option<OwnedFd>) -> Result<(), Error> {
        let (ring, kick) = signal(ring, kick)?;
        if kick.is_none() {
            return Err(Error::Polled { ring });
        }
        self.stop_using(ring)?;
        self.vrings[ring].kick = kick;
        self.settle()
    }

    /// Has no ring used any longer.
    fn disable_all(&mut self) -> Result<(), Error> {
        for vring in &mut self.vrings {
            vring.enabled = false;
        }
        self.settle()
    }

    /// The index of a ring that nobody uses when this returns.
    fn stopped(&mut self, ring: u32) -> Result<usize, Error> {
        let ring = index(ring)?;
        self.stop_using(ring)?;
        Ok(ring)
    }

    fn stop_using(&mut self, ring: usize) -> Result<(), Error> {
        let in_use = |running: &Running| ring < running.used.len();
        if self.running.as_ref().is_some_and(in_use) {
            self.stop()?;
        }
        Ok(())
    }

    /// Plugs in the pairs that can be used, or unplugs them.
    ///
    /// Pairs are used from the first on: the driver may set more up than it
    /// then enables.
    fn settle(&mut self) -> Result<(), Error> {
        let pairs = self.vrings.chunks_exact(2);
        let started = pairs.take_while(|pair| pair.iter().all(Vring::is_started));
        let enabled = started
            .clone()
            .take_while(|pair| pair.iter().all(|vring| vring.enabled))
            .count();
        let started = started.count();
        let running = self.running.as_ref();
        if enabled == 0 || running.is_some_and(|running| running.used.len() != 2 * started) {
            self.stop()?;
        }
        if enabled > 0 && self.running.is_none() {
            self.start(started)?;
        }
        if let Some(running) = &self.running {
            running
                .active
                .set(u16::try_from(enabled).unwrap_or(MAX_PAIRS));
        }
        Ok(())
    }

    fn start(&mut self, pairs: usize) -> Result<(), Error> {
        let config = &self.config;
        if self.features & 1 << VIRTIO_F_VERSION_1 == 0 {
            // A boot loader's driver, it may be; the next will do better.
            tracing::debug!(
                "{}: a driver older than virtio 1.0 is left alone",
                config.name
            );
            return Ok(());
        }
        let memory = self.memory.guest()?;
        let mut queues = Vec::with_capacity(2 * pairs);
        let mut used = Vec::with_capacity(2 * pairs);
        for ring in 0..2 * pairs {
            let queue = self.queue(ring, &memory)?;
            used.push((
                GuestAddress(queue.queue.used_ring() + 2),
                queue.queue.next_used(),
            ));
            queues.push(queue);
        }
        let mut queues = queues.into_iter();
        let rings = Rings {
            name: config.name.clone(),
            features: self.features,
            pairs: std::iter::from_fn(|| Some((queues.next()?, queues.next()?))).collect(),
            memory,
            interrupt: self.signals.clone(),
            mac: config.mac,
            mtu: config.mtu,
        };
        let (mut attachment, active) = rings.attach()?;
        if let Some((recording, id)) = &config.recording {
            attachment = Box::new(Recorded::new(attachment, recording.clone(), *id));
        }
        config.network.plug(config.port, attachment)?;
        tracing::debug!("{}: link up, {pairs} queue pair(s)", config.name);
        self.running = Some(Running { used, active });
        Ok(())
    }

    /// A ring that its driver has set up.
    fn queue(&self, ring: usize, memory: &GuestMemory) -> Result<ActiveQueue, Error> {
        let vring = &self.vrings[ring];
        let (Some(at), Some(kick)) = (vring.addresses, &vring.kick) else {
            return Err(Error::Polled { ring });
        };
        let translate = |address| {
            let translated = self.memory.translate(address);
            translated.map_err(|source| Error::Address { ring, source })
        };
        let layout = RingLayout {
            size: vring.size,
            descriptors: translate(at.descriptors)?,
            available: translate(at.available)?,
            used: translate(at.used)?,
        };
        let mut queue = layout
            .queue(MAX_SIZE, memory)
            .map_err(|source| Error::Queue { ring, source })?;
        let used = used_index(memory, GuestAddress(layout.used + 2))
            .map_err(|source| Error::Used { ring, source })?;
        queue.set_next_avail(vring.base);
        queue.set_next_used(used);
        Ok(ActiveQueue {
            index: u16::try_from(ring).expect("at most RINGS"),
            queue,
            doorbell: kick.try_clone()?,
        })
    }

    /// Unplugs the rings. All that was taken from them is given back, so that
    /// each goes on where its used entries end.
    fn stop(&mut self) -> Result<(), Error> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        drop(self.config.network.unplug(self.config.port)?);
        tracing::debug!("{}: link down", self.config.name);
        let memory = self.memory.guest()?;
        for (ring, (address, before)) in running.used.into_iter().enumerate() {
            let used =
                used_index(&memory, address).map_err(|source| Error::Used { ring, source })?;
            let vring = &mut self.vrings[ring];
            vring.base = vring.base.wrapping_add(used.wrapping_sub(before));
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::debug!(%error, "the rings of a front end that is gone");
        }
    }
}

fn used_index(memory: &GuestMemory, at: GuestAddress) -> Result<u16, GuestMemoryError> {
    memory.load(at, Ordering::Acquire).map(u16::from_le)
}

fn index(ring: u32) -> Result<usize, Error> {
    let index = usize::try_from(ring).ok().filter(|index| *index < RINGS);
    index.ok_or(Error::NoSuchRing { ring })
}

/// The index of a ring, and an event descriptor for it.
fn signal(ring: u32, event: Option<OwnedFd>) -> Result<(usize, Option<EventFd>), Error> {
    let ring = index(ring)?;
    let event = event.map(vring::event).transpose();
    Ok((ring, event.map_err(|source| Error::Event { ring, source })?))
}

/// The features that are offered.
fn offered() -> u64 {
    rings::features() | PROTOCOL_FEATURES
}
