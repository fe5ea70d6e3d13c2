//! Keys that wait until the guest takes them.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use event_manager::EventSet;
use nestling_devices::bus::lock;
use nestling_devices::legacy::serial::Serial;
use vmm_sys_util::eventfd::EventFd;

/// More than this many waiting bytes stop the reading of standard input.
const FULL: usize = 256;

/// Where the user's keys go, and those that the guest hasn't taken yet.
pub struct Input {
    sink: Sink,
    waiting: Vec<u8>,
}

/// A guest's device that takes keys.
pub enum Sink {
    /// None does.
    None,
    /// The serial port; the descriptor is signalled when it has room again.
    Serial(Arc<Mutex<Serial>>, EventFd),
    /// The virtio console, through a pipe that doesn't block.
    Console(File),
}

impl Input {
    /// Keys for `sink`.
    pub fn new(sink: Sink) -> Self {
        Self {
            sink,
            waiting: Vec::new(),
        }
    }

    /// Hands `keys` on, as far as the guest takes them; the rest waits.
    pub fn push(&mut self, keys: &[u8]) {
        self.waiting.extend_from_slice(keys);
        self.deliver();
    }

    /// Tries again, after what [`Input::wants`] named became ready.
    pub fn retry(&mut self) {
        if let Sink::Serial(_, room) = &self.sink {
            // The descriptor doesn't block; only its being signalled matters.
            let _ = room.read();
        }
        self.deliver();
    }

    /// Whether the guest has to take some keys before more are read.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    /// What to wait for on behalf of the waiting keys. `None` where no device
    /// takes keys.
    pub fn wants(&self) -> Option<(RawFd, EventSet)> {
        let when = |set| {
            if self.waiting.is_empty() {
                EventSet::empty()
            } else {
                set
            }
        };
        match &self.sink {
            Sink::None => None,
            Sink::Serial(_, room) => Some((room.as_raw_fd(), when(EventSet::IN))),
            Sink::Console(pipe) => Some((pipe.as_raw_fd(), when(EventSet::OUT))),
        }
    }

    fn deliver(&mut self) {
        let taken = match &mut self.sink {
            Sink::None => self.waiting.len(),
            Sink::Serial(serial, _) => lock(serial).enqueue(&self.waiting),
            Sink::Console(pipe) => match pipe.write(&self.waiting) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                // The console is gone, and the keys with it.
                Err(_) => self.waiting.len(),
            },
        };
        self.waiting.drain(..taken);
    }
}
