//! What a running device tells its driver: interrupts and the status.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::time::Duration;

use bitflags::bitflags;

use crate::pci::msix::MsixVectors;
use crate::ratelimit::{RateLimit, warn_limited};
use crate::virtio::device::Interrupt;

/// A vector's number that stands for none (virtio 1.3, 4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Bits of the interrupt status (virtio 1.3, 4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

bitflags! {
    /// The device status (virtio 1.3, 2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Status: u8 {
        /// The system has noticed the device.
        const ACKNOWLEDGE = 1;
        /// A driver knows how to drive it.
        const DRIVER = 2;
        /// The driver is ready: the device runs.
        const DRIVER_OK = 4;
        /// The features are agreed on.
        const FEATURES_OK = 8;
        /// The device has given up.
        const NEEDS_RESET = 64;
        /// The driver has given up.
        const FAILED = 128;
        /// What a driver can set at any time.
        const DRIVER_MAY_SET = 1 | 2 | 128;
    }
}

/// The part of the transport's state that a device's workers reach. No lock: a
/// used buffer costs a few atomic loads and a write to an eventfd.
pub(super) struct Signals {
    name: String,
    status: AtomicU8,
    interrupt_status: AtomicU8,
    generation: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    msix: Arc<MsixVectors>,
    failures: RateLimit,
}

impl Signals {
    pub(super) fn new(name: &str, queues: usize, msix: Arc<MsixVectors>) -> Self {
        Self {
            name: name.to_owned(),
            status: AtomicU8::new(0),
            interrupt_status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            msix,
            failures: RateLimit::new(3, Duration::from_secs(60)),
        }
    }

    pub(super) fn status(&self) -> Status {
        Status::from_bits_retain(self.status.load(Ordering::SeqCst))
    }

    pub(super) fn add_status(&self, added: Status) {
        self.status.fetch_or(added.bits(), Ordering::SeqCst);
    }

    /// Returns everything to its state after a device reset. The generation
    /// goes on: a driver may compare across.
    pub(super) fn reset(&self) {
        self.interrupt_status.store(0, Ordering::SeqCst);
        self.config_vector.store(NO_VECTOR, Ordering::SeqCst);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
        self.status.store(0, Ordering::SeqCst);
    }

    /// The interrupt status, which reading clears.
    pub(super) fn take_interrupt_status(&self) -> u8 {
        self.interrupt_status.swap(0, Ordering::SeqCst)
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::SeqCst)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::SeqCst)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector
            .store(self.existing(vector), Ordering::SeqCst);
    }

    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        self.queue_vectors
            .get(usize::from(queue))
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    pub(super) fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(place) = self.queue_vectors.get(usize::from(queue)) {
            place.store(self.existing(vector), Ordering::SeqCst);
        }
    }

    /// Sets DEVICE_NEEDS_RESET in a running device, tells the driver, and logs
    /// why: once until the next reset.
    pub(super) fn fail(&self, reason: &dyn Display) {
        let running = |status: u8| {
            let status = Status::from_bits_retain(status);
            (status & (Status::DRIVER_OK | Status::NEEDS_RESET) == Status::DRIVER_OK)
                .then_some((status | Status::NEEDS_RESET).bits())
        };
        if self
            .status
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, running)
            .is_ok()
        {
            warn_limited!(
                self.failures,
                "{} stops until it is reset: {reason}",
                self.name
            );
            self.raise(self.config_vector(), ISR_CONFIG);
        }
    }

    /// A vector as the driver reads it back: none, if the device has no such
    /// one.
    fn existing(&self, vector: u16) -> u16 {
        if usize::from(vector) <= self.queue_vectors.len() {
            vector
        } else {
            NO_VECTOR
        }
    }

    /// Signals `vector`. Without MSI-X there is no interrupt, but a driver that
    /// polls sees the status.
    fn raise(&self, vector: u16, reason: u8) {
        if self.msix.enabled() {
            self.msix.signal(vector);
        } else {
            self.interrupt_status.fetch_or(reason, Ordering::SeqCst);
        }
    }
}

impl Interrupt for Signals {
    fn queue_used(&self, index: u16) {
        self.raise(self.queue_vector(index), ISR_QUEUE);
    }

    fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.raise(self.config_vector(), ISR_CONFIG);
    }

    fn needs_reset(&self) {
        self.fail(&"the driver broke the protocol");
    }
}
