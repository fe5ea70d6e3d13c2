//! Dispatch of a guest's port and memory accesses to devices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Action;

/// A device that answers accesses to a range of ports or addresses.
///
/// `data` is as long as the access is wide: 1, 2, 4 or 8 bytes, little-endian.
/// `offset` counts from the start of the device's range, and the whole access
/// lies within it.
pub trait BusDevice: Send {
    /// Answers a read by filling all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes a write, and says what it asks of the machine.
    fn write(&mut self, offset: u64, data: &[u8]) -> Action;
}

/// A device shared between the vCPUs that access it.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Why a device can't be put on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The range has no bytes or goes beyond the end of the address space.
    #[error("{name}: the range of {len:#x} bytes at {base:#x} is empty or passes the bus's end")]
    BadRange {
        /// The device.
        name: String,
        /// Its first address.
        base: u64,
        /// Its length in bytes.
        len: u64,
    },
    /// Another device has some of the range.
    #[error("{name} at {base:#x}+{len:#x} overlaps {other} at {other_base:#x}+{other_len:#x}")]
    Overlap {
        /// The device that was to be inserted.
        name: String,
        /// Its first address.
        base: u64,
        /// Its length in bytes.
        len: u64,
        /// The device that is there.
        other: String,
        /// That device's first address.
        other_base: u64,
        /// That device's length in bytes.
        other_len: u64,
    },
}

struct Entry {
    len: u64,
    name: String,
    device: SharedDevice,
}

/// A map of address ranges to devices.
///
/// It is filled while the machine is built and doesn't change afterwards, so
/// vCPUs share it without a lock; each device has its own.
#[derive(Default)]
pub struct Bus {
    entries: BTreeMap<u64, Entry>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at the `len` addresses from `base` on.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: SharedDevice,
        name: impl Into<String>,
    ) -> Result<(), Error> {
        let name = name.into();
        let Some(last) = len.checked_sub(1).and_then(|span| base.checked_add(span)) else {
            return Err(Error::BadRange { name, base, len });
        };
        // Ranges don't overlap, so the one that starts last before our end is
        // the only one that can reach into us.
        if let Some((&other_base, other)) = self.entries.range(..=last).next_back()
            && other_base + (other.len - 1) >= base
        {
            return Err(Error::Overlap {
                name,
                base,
                len,
                other: other.name.clone(),
                other_base,
                other_len: other.len,
            });
        }
        self.entries.insert(base, Entry { len, name, device });
        Ok(())
    }

    /// Reads from the device at `address`; all ones where none has the whole
    /// access.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => lock(device).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes to the device at `address`; ignored where none has the whole
    /// access.
    pub fn write(&self, address: u64, data: &[u8]) -> Action {
        match self.find(address, data.len()) {
            Some((offset, device)) => lock(device).write(offset, data),
            None => Action::None,
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, &SharedDevice)> {
        let (base, entry) = self.entries.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= entry.len).then_some((offset, &entry.device))
    }
}

/// Locks a device, or what else threads share. It keeps its state if another
/// thread panicked with it: a guest's accesses leave none half-written that a
/// later access relies on.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Answers reads with its tag and the offset, and remembers writes.
    struct Probe {
        tag: u8,
        writes: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.tag);
            data[0] = offset.to_le_bytes()[0];
        }

        fn write(&mut self, offset: u64, data: &[u8]) -> Action {
            self.writes.push((offset, data.to_vec()));
            Action::Reset
        }
    }

    fn probe(tag: u8) -> Arc<Mutex<Probe>> {
        Arc::new(Mutex::new(Probe {
            tag,
            writes: Vec::new(),
        }))
    }

    #[test]
    fn accesses_reach_the_device_with_an_offset() {
        let device = probe(7);
        let mut bus = Bus::new();
        bus.insert(0x3f8, 8, device.clone(), "serial").unwrap();
        let mut data = [0; 2];
        bus.read(0x3fb, &mut data);
        assert_eq!(data, [3, 7]);
        assert_eq!(bus.write(0x3ff, &[9]), Action::Reset);
        assert_eq!(lock(&device).writes, [(7, vec![9])]);
    }

    #[test]
    fn unmapped_and_crossing_accesses_read_ones_and_do_nothing() {
        let device = probe(7);
        let mut bus = Bus::new();
        bus.insert(0x3f8, 8, device.clone(), "serial").unwrap();
        bus.insert(u64::MAX, 1, probe(1), "last").unwrap();
        for address in [0, 0x3f7, 0x3ff, 0x400, u64::MAX] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4], "at {address:#x}");
            assert_eq!(bus.write(address, &[0; 4]), Action::None, "at {address:#x}");
        }
        assert!(lock(&device).writes.is_empty());
    }

    #[test]
    fn an_overlap_names_both_devices() {
        let mut bus = Bus::new();
        bus.insert(0x100, 0x10, probe(1), "first").unwrap();
        for (base, len) in [(0xff, 2), (0x100, 1), (0x10f, 1), (0xf0, 0x40), (0x104, 4)] {
            let error = bus.insert(base, len, probe(2), "second").unwrap_err();
            let text = error.to_string();
            assert!(text.contains("first") && text.contains("second"), "{text}");
        }
        bus.insert(0xf0, 0x10, probe(3), "below").unwrap();
        bus.insert(0x110, 1, probe(4), "above").unwrap();
    }

    #[test]
    fn empty_and_wrapping_ranges_are_refused() {
        let mut bus = Bus::new();
        for (base, len) in [(5, 0), (u64::MAX, 2), (2, u64::MAX)] {
            let result = bus.insert(base, len, probe(1), "bad");
            assert!(
                matches!(result, Err(Error::BadRange { .. })),
                "{base:#x}+{len:#x}"
            );
        }
        bus.insert(1, u64::MAX, probe(1), "all but the first")
            .unwrap();
    }

    proptest! {
        /// Whatever is inserted, every address has the device of the one
        /// accepted range around it.
        #[test]
        fn lookup_agrees_with_the_accepted_ranges(
            ranges in prop::collection::vec((0u64..256, 0u64..64), 1..20),
        ) {
            let mut bus = Bus::new();
            let mut owners = [0xffu8; 512];
            for (tag, &(base, len)) in (0u8..).zip(&ranges) {
                let span = usize::try_from(base).unwrap()..usize::try_from(base + len).unwrap();
                let free = len > 0 && owners[span.clone()].iter().all(|&owner| owner == 0xff);
                prop_assert_eq!(bus.insert(base, len, probe(tag), "x").is_ok(), free);
                if free {
                    owners[span].fill(tag);
                }
            }
            for (address, pair) in (0u64..).zip(owners.windows(2)) {
                let mut data = [0; 2];
                bus.read(address, &mut data);
                let mapped = pair[0] == pair[1];
                prop_assert_eq!(data[1], if mapped { pair[0] } else { 0xff });
            }
        }
    }
}
