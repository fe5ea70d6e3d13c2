//! Copies of configuration spaces that a guest reads where they lie.
//!
//! A kernel reads hundreds of registers while it looks for devices and their
//! capabilities, and writes few. A copy of each function's space in the ECAM, which
//! the guest can only read, makes the reads free: they don't leave the guest. Writes
//! reach the function, and the copy follows before the guest goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nestling_arch::layout;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use crate::host::Host;
use crate::pci::PciFunction;
use crate::pci::config::{CONFIG_SPACE_SIZE, ECAM_SLOT_SHIFT};
use crate::ratelimit::{RateLimit, warn_limited};

/// Bytes of a register, which is written at once: no reader sees half a value.
const REGISTER: usize = 4;

/// The copies of all functions of a bus; none unless they were asked for.
#[derive(Default)]
pub(crate) struct Shadow(Vec<Copy>);

impl Shadow {
    /// Room for the copies of as many functions, which `host` shows the guest.
    pub(crate) fn new(host: &Arc<dyn Host>, functions: usize) -> io::Result<Self> {
        let copies = (0..functions as u64).map(|slot| {
            Ok(Copy {
                address: layout::ECAM_BASE + (slot << ECAM_SLOT_SHIFT),
                memory: Arc::new(MmapRegion::new(CONFIG_SPACE_SIZE).map_err(io::Error::other)?),
                shown: false,
                host: Arc::clone(host),
                refused: RateLimit::new(3, Duration::from_secs(60)),
            })
        });
        copies.collect::<io::Result<_>>().map(Self)
    }

    /// Brings the copy of the function at `slot` up to date.
    pub(crate) fn update(&mut self, slot: usize, function: &dyn PciFunction) {
        if let Some(copy) = self.0.get_mut(slot) {
            copy.update(function);
        }
    }
}

struct Copy {
    address: u64,
    memory: Arc<MmapRegion>,
    shown: bool,
    host: Arc<dyn Host>,
    refused: RateLimit,
}

impl Copy {
    /// Takes over what the function holds; while its reads have effects, they
    /// must reach it.
    fn update(&mut self, function: &dyn PciFunction) {
        let plain = function.config_reads_plainly();
        if plain {
            self.fill(function);
        }
        if plain == self.shown {
            return;
        }
        let changed = if plain {
            self.host.show(self.address, &self.memory)
        } else {
            self.host.hide(self.address)
        };
        match changed {
            Ok(()) => self.shown = plain,
            Err(error) => warn_limited!(
                self.refused,
                "the configuration space of {} is {}: {error}",
                function.name(),
                if plain {
                    "read by exits"
                } else {
                    "still read without exits"
                }
            ),
        }
    }

    fn fill(&self, function: &dyn PciFunction) {
        let memory = self.memory.as_volatile_slice();
        for offset in (0..CONFIG_SPACE_SIZE).step_by(REGISTER) {
            let mut register = [0; REGISTER];
            function.config().read(offset, &mut register);
            memory
                .store(u32::from_ne_bytes(register), offset, Ordering::Release)
                .expect("the copy has every register of the space, aligned");
        }
    }
}
