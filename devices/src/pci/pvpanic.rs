//! pvpanic: a guest's kernel tells that it has panicked.

use std::time::Duration;

use crate::pci::PciFunction;
use crate::pci::config::{Bar, ConfigSpace, Identity};
use crate::ratelimit::{RateLimit, warn_limited};

const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0011,
    class: 0x08_80_00,
    revision: 1,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// A page, so that nothing else shares it.
const BAR: Bar = Bar {
    size: 0x1000,
    is_64_bit: false,
    prefetchable: false,
};

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// What a guest's kernel reports of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicEvent {
    /// It has panicked and does nothing more of use.
    Panicked,
    /// It has panicked and is about to run its crash kernel.
    CrashLoaded,
}

/// The pvpanic device as a PCI function: one byte, which reads as the events
/// there are and is written with those that happened.
pub struct Pvpanic {
    config: ConfigSpace,
    on_event: Box<dyn Fn(PanicEvent) + Send>,
    events: RateLimit,
}

impl Pvpanic {
    /// A device that calls `on_event`, on the vCPU's thread, for each event.
    pub fn new(on_event: Box<dyn Fn(PanicEvent) + Send>) -> Self {
        let mut config = ConfigSpace::new(&IDENTITY);
        config.add_bar(0, BAR);
        Self {
            config,
            on_event,
            events: RateLimit::new(3, Duration::from_secs(60)),
        }
    }
}

impl PciFunction for Pvpanic {
    fn name(&self) -> &str {
        "pvpanic"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn read_bar(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == 0 {
            data[0] = PANICKED | CRASH_LOADED;
        }
    }

    fn write_bar(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        let events = if offset == 0 { data[0] } else { 0 };
        let event = if events & PANICKED != 0 {
            PanicEvent::Panicked
        } else if events & CRASH_LOADED != 0 {
            PanicEvent::CrashLoaded
        } else {
            return;
        };
        warn_limited!(self.events, "the guest's kernel reports a panic: {event:?}");
        (self.on_event)(event);
    }

    fn reset(&mut self) {
        self.config.reset();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn events_are_offered_and_reported() {
        let (sender, events) = mpsc::channel();
        let mut device = Pvpanic::new(Box::new(move |event| sender.send(event).unwrap()));
        let mut data = [0xff; 4];
        device.read_bar(0, 0, &mut data);
        assert_eq!(data, [3, 0, 0, 0]);
        for (offset, value) in [(0, 0), (0, 4), (0, 1), (1, 1), (0, 2), (0, 3)] {
            device.write_bar(0, offset, &[value]);
        }
        let events: Vec<_> = events.try_iter().collect();
        assert_eq!(
            events,
            [
                PanicEvent::Panicked,
                PanicEvent::CrashLoaded,
                PanicEvent::Panicked
            ]
        );
    }
}
