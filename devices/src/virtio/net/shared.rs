//! What a NIC and those who move its frames have in common.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::lock;
use crate::net::mac::MacAddress;
use crate::virtio::device::Interrupt;

pub(super) struct Shared {
    /// The address in the lower six bytes, its first byte uppermost.
    mac: AtomicU64,
    link_up: AtomicBool,
    /// How many queue pairs the device has.
    pub(super) max_pairs: u16,
    /// How many queue pairs the driver uses.
    active_pairs: AtomicU16,
    /// Wake each who moves frames when any of this changes.
    pub(super) wakers: Vec<EventFd>,
    /// The way to the driver while there is one.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Shared {
    /// The state of a device with `max_pairs` pairs that was just reset.
    pub(super) fn new(mac: MacAddress, max_pairs: u16, wakers: usize) -> io::Result<Self> {
        let wakers = (0..wakers).map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC));
        let shared = Self {
            mac: AtomicU64::new(0),
            link_up: AtomicBool::new(true),
            max_pairs,
            active_pairs: AtomicU16::new(1),
            wakers: wakers.collect::<io::Result<_>>()?,
            interrupt: Mutex::default(),
        };
        shared.set_mac(mac);
        Ok(shared)
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        let [_, _, mac @ ..] = self.mac.load(Ordering::Relaxed).to_be_bytes();
        mac
    }

    pub(super) fn set_mac(&self, mac: MacAddress) {
        let [a, b, c, d, e, f] = mac.bytes();
        self.mac.store(
            u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
            Ordering::Relaxed,
        );
    }

    pub(super) fn link_up(&self) -> bool {
        self.link_up.load(Ordering::Relaxed)
    }

    /// Plugs the cable in or out, and tells the driver.
    pub(super) fn set_link(&self, up: bool) {
        if self.link_up.swap(up, Ordering::Relaxed) == up {
            return;
        }
        self.wake();
        if let Some(interrupt) = &*lock(&self.interrupt) {
            interrupt.config_changed();
        }
    }

    pub(super) fn set_interrupt(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *lock(&self.interrupt) = interrupt;
    }

    pub(super) fn active_pairs(&self) -> u16 {
        self.active_pairs.load(Ordering::Relaxed)
    }

    pub(super) fn set_active_pairs(&self, pairs: u16) {
        self.active_pairs.store(pairs, Ordering::Relaxed);
        self.wake();
    }

    /// Forgets what the driver has set.
    pub(super) fn reset(&self, mac: MacAddress) {
        self.set_mac(mac);
        self.active_pairs.store(1, Ordering::Relaxed);
        self.set_interrupt(None);
    }

    fn wake(&self) {
        for waker in &self.wakers {
            // Only a counter at its limit could make this fail, and then the
            // descriptor is readable as it should be.
            let _ = waker.write(1);
        }
    }
}

/// A NIC's cable, in the hands of whoever runs the machine.
#[derive(Clone)]
pub struct Link(pub(super) Arc<Shared>);

impl Link {
    /// Whether the guest sees a link.
    pub fn is_up(&self) -> bool {
        self.0.link_up()
    }

    /// Plugs the cable in or out; frames under way are lost.
    pub fn set(&self, up: bool) {
        self.0.set_link(up);
    }
}
