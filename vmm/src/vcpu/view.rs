//! A vCPU that runs, as other threads may look at it.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvm_ioctls::VcpuFd;
use nestling_devices::bus::lock;
use vmm_sys_util::signal::SIGRTMIN;

use crate::exit::LiveExits;
use crate::stats::{Reading, Statistics};

/// The vCPU is to stop before its next entry.
pub(super) const STOP: u8 = 1;
/// It is to say whether its guest has turned virtualization on.
const LOOK: u8 = 2;

/// A vCPU as other threads may look at it, while it runs and after.
#[derive(Debug)]
pub struct View {
    index: u32,
    statistics: Option<Statistics>,
    exits: LiveExits,
    /// The number of the vCPU's thread while it runs, else 0.
    thread: AtomicI32,
    requests: AtomicU8,
    look: Mutex<Look>,
    looked: Condvar,
}

/// What the last look at the vCPU's registers found.
#[derive(Debug, Default)]
struct Look {
    /// How many there have been.
    count: u64,
    /// Whether CR4.VMXE or EFER.SVME was set.
    on: bool,
}

impl View {
    /// The view of vCPU `index`.
    pub(super) fn new(index: u32, fd: &VcpuFd) -> Self {
        Self {
            index,
            statistics: Statistics::open(fd).ok(),
            exits: LiveExits::default(),
            thread: AtomicI32::new(0),
            requests: AtomicU8::new(0),
            look: Mutex::default(),
            looked: Condvar::new(),
        }
    }

    /// The vCPU's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The number of its thread (gettid(2)); none before its start and after its
    /// end.
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::SeqCst)).filter(|thread| *thread != 0)
    }

    /// What KVM has counted; nothing where the kernel has no statistics.
    pub fn read(&self) -> Reading {
        let reading = self.statistics.as_ref().and_then(|s| s.read().ok());
        reading.unwrap_or_default()
    }

    /// Exits to user space, counted by the vCPU's thread.
    pub fn exits(&self) -> &LiveExits {
        &self.exits
    }

    /// Asks the vCPU to stop before its next entry.
    pub(super) fn ask_to_stop(&self) {
        self.ask(STOP);
    }

    /// Asks the vCPU to look at its registers, which only its own thread can do
    /// without waiting for its next exit. It costs the guest one exit. The answer
    /// is for [`Self::wait_for_look`].
    pub fn ask_for_look(&self) -> u64 {
        let count = self.look().count;
        self.ask(LOOK);
        count
    }

    /// Whether the guest has virtualization turned on at this vCPU (CR4.VMXE or
    /// EFER.SVME), by a look later than `count`; by the last one if none comes
    /// until `deadline`, as from a vCPU whose thread waits for a device.
    pub fn wait_for_look(&self, count: u64, deadline: Instant) -> bool {
        let rest = deadline.saturating_duration_since(Instant::now());
        let look = self.look();
        let waited = self
            .looked
            .wait_timeout_while(look, rest, |look| look.count == count);
        waited.unwrap_or_else(PoisonError::into_inner).0.on
    }

    /// Sets a request, and makes the vCPU leave the guest to see it.
    fn ask(&self, request: u8) {
        self.requests.fetch_or(request, Ordering::SeqCst);
        // One that doesn't run yet sees the request before its first entry.
        if let Some(thread) = self.thread() {
            // SAFETY: takes no pointers. A thread that has ended since is no longer found; if
            // another of this process has its number, the signal's handler does nothing there.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGRTMIN()) };
        }
    }

    /// What is asked of the vCPU; for its thread, before each entry.
    pub(super) fn requests(&self) -> u8 {
        self.requests.load(Ordering::SeqCst)
    }

    /// The vCPU's thread is this one; it can be made to leave the guest from now
    /// on.
    pub(super) fn begin(&self) {
        // SAFETY: takes no arguments and can't fail.
        let thread = unsafe { libc::gettid() };
        self.thread.store(thread, Ordering::SeqCst);
    }

    /// The vCPU's thread enters the guest no more.
    pub(super) fn end(&self) {
        self.thread.store(0, Ordering::SeqCst);
    }

    /// Answers a request for a look.
    pub(super) fn answer_look(&self, on: bool) {
        self.requests.fetch_and(!LOOK, Ordering::SeqCst);
        let mut look = self.look();
        look.count += 1;
        look.on = on;
        self.looked.notify_all();
    }

    fn look(&self) -> MutexGuard<'_, Look> {
        lock(&self.look)
    }
}
