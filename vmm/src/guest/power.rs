//! The power button, as the input layer reports it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use crate::console::streams;

/// `struct input_event` on x86-64: two 8-byte times, type, code, value.
const EVENT_SIZE: usize = 24;
/// EV_KEY and KEY_POWER of linux/input-event-codes.h.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// An input device that may have a power button.
#[derive(Debug)]
pub(super) struct Button(File);

/// Every input device there is.
pub(super) fn buttons() -> Vec<Button> {
    let Ok(entries) = fs::read_dir("/dev/input") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("event"))
        .filter_map(|entry| File::open(entry.path()).ok())
        .filter(|file| streams::set_nonblocking(file).is_ok())
        .map(Button)
        .collect()
}

impl Button {
    /// Takes the pending events; answers whether one is the button going down.
    pub(super) fn pressed(&self) -> bool {
        let mut pressed = false;
        let mut buffer = [0; EVENT_SIZE * 16];
        while let Ok(count @ 1..) = (&self.0).read(&mut buffer) {
            pressed |= buffer[..count].chunks_exact(EVENT_SIZE).any(is_power_down);
        }
        pressed
    }
}

impl AsFd for Button {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn is_power_down(event: &[u8]) -> bool {
    let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
    (half(16), half(18), value) == (EV_KEY, KEY_POWER, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_power_key_going_down_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = [0; EVENT_SIZE];
            bytes[16..18].copy_from_slice(&kind.to_ne_bytes());
            bytes[18..20].copy_from_slice(&code.to_ne_bytes());
            bytes[20..].copy_from_slice(&value.to_ne_bytes());
            bytes
        };
        assert!(is_power_down(&event(1, 116, 1)));
        assert!(!is_power_down(&event(1, 116, 0)));
        assert!(!is_power_down(&event(1, 30, 1)));
        assert!(!is_power_down(&event(0, 116, 1)));
    }
}
