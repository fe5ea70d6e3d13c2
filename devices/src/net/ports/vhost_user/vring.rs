//! One ring of a front end's, and the way to its driver.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vmm_sys_util::eventfd::EventFd;

use super::message::Addresses;
use crate::bus::lock;
use crate::virtio::device::Interrupt;

/// A ring as the front end sets it up.
#[derive(Default)]
pub(super) struct Vring {
    pub(super) size: u16,
    pub(super) addresses: Option<Addresses>,
    /// The available entry that is next.
    pub(super) base: u16,
    /// What the driver rings; the ring is stopped without.
    pub(super) kick: Option<EventFd>,
    pub(super) enabled: bool,
}

impl Vring {
    /// Whether all is known that is needed.
    pub(super) fn is_started(&self) -> bool {
        self.size != 0 && self.addresses.is_some() && self.kick.is_some()
    }
}

/// The event descriptors by which a ring's driver is told something.
#[derive(Default)]
struct Signal {
    call: Option<EventFd>,
    error: Option<EventFd>,
}

/// Those of all rings.
pub(super) struct Signals(Vec<Mutex<Signal>>);

impl Signals {
    pub(super) fn new(rings: usize) -> Self {
        Self((0..rings).map(|_| Mutex::default()).collect())
    }

    /// Has a ring's driver told of used buffers by `call`. It is told at once,
    /// since what was used meanwhile was told to nobody.
    pub(super) fn set_call(&self, ring: usize, call: Option<EventFd>) {
        tell(call.as_ref());
        if let Some(signal) = self.0.get(ring) {
            lock(signal).call = call;
        }
    }

    /// Has a ring's front end told of errors by `error`.
    pub(super) fn set_error(&self, ring: usize, error: Option<EventFd>) {
        if let Some(signal) = self.0.get(ring) {
            lock(signal).error = error;
        }
    }
}

impl Interrupt for Signals {
    fn queue_used(&self, index: u16) {
        if let Some(signal) = self.0.get(usize::from(index)) {
            tell(lock(signal).call.as_ref());
        }
    }

    /// The configuration space never changes.
    fn config_changed(&self) {}

    fn needs_reset(&self) {
        for signal in &self.0 {
            tell(lock(signal).error.as_ref());
        }
    }
}

fn tell(event: Option<&EventFd>) {
    if let Some(event) = event {
        // Only a counter at its limit makes this fail, and then whoever reads
        // it has yet to learn of the last time.
        let _ = event.write(1);
    }
}

/// Takes a descriptor for an event descriptor that is safe to write to.
///
/// Others may block their writer for as long as their owner likes. An event
/// descriptor does so only if its counter is at its limit and its owner has
/// made it blocking again: a front end could do that to the network's thread,
/// but its guest can't.
pub(super) fn event(file: OwnedFd) -> io::Result<EventFd> {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        let what = format!("{} is no event descriptor", link.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
    // SAFETY: the descriptor is owned by nobody else, and an eventfd's.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}
