//! The PCI bus: its functions, their addresses, and the way to each.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use nestling_arch::layout;
use vm_allocator::{AddressAllocator, AllocPolicy};

use crate::bus::{self, Bus, lock};
use crate::host::Host;
use crate::pci::PciFunction;
use crate::pci::config::CONFIG_SPACE_SIZE;
use crate::pci::host_bridge::HostBridge;
use crate::pci::mapping::Mappings;
use crate::pci::ports::{BarWindow, ConfigPorts, Ecam};
use crate::pci::shadow::Shadow;

/// Devices on a bus.
const MAX_SLOTS: usize = 32;

/// The guest physical addresses that BARs can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// For 32-bit BARs; below 4 GiB.
    pub low: Range<u64>,
    /// For 64-bit BARs.
    pub high: Range<u64>,
}

/// By what the guest reaches the configuration spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The ECAM and configuration mechanism 1 (PCI 3.0, 3.2.2.3.2), whose ports
    /// take two exits for each access.
    EcamAndPorts,
    /// The ECAM alone. A kernel that finds the ports as well may use them for all
    /// that the two have in common: Linux does.
    Ecam,
}

/// Why a bus can't be built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A window can't hold BARs.
    #[error("{start:#x}..{end:#x} can't be a window for BARs: it is empty")]
    BadWindow {
        /// The window's first address.
        start: u64,
        /// The address after its last.
        end: u64,
    },
    /// All device numbers are taken.
    #[error("no room on the PCI bus for {name}: it has {MAX_SLOTS} devices already")]
    Full {
        /// The function that was to be added.
        name: String,
    },
    /// A window has no room left for a BAR.
    #[error("no room for BAR {bar} of {name}, {size:#x} bytes, in its window")]
    NoAddress {
        /// The function that was to be added.
        name: String,
        /// The BAR's index.
        bar: usize,
        /// The BAR's size in bytes.
        size: u64,
    },
}

type SharedFunction = Mutex<Box<dyn PciFunction>>;

/// A PCI bus as it is put together, one function after the other.
///
/// ```
/// use nestling_arch::layout;
/// use nestling_devices::bus::Bus;
/// use nestling_devices::pci::bus::{Access, PciRoot, Windows};
/// use nestling_devices::pci::pvpanic::Pvpanic;
///
/// let high = layout::mmio64_window(512 << 20, 39);
/// let mut root = PciRoot::new(Windows { low: layout::PCI_MMIO32, high })?;
/// root.add(Box::new(Pvpanic::new(Box::new(|event| println!("{event:?}")))))?;
/// let (mut memory, mut ports) = (Bus::new(), Bus::new());
/// root.build().attach(Access::EcamAndPorts, &mut memory, &mut ports)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PciRoot {
    windows: Windows,
    low: AddressAllocator,
    high: AddressAllocator,
    functions: Vec<SharedFunction>,
}

impl PciRoot {
    /// A bus with a host bridge at 00:00.0, and `windows` for its BARs.
    pub fn new(windows: Windows) -> Result<Self, Error> {
        let allocator = |window: &Range<u64>| {
            window
                .end
                .checked_sub(window.start)
                .and_then(|size| AddressAllocator::new(window.start, size).ok())
                .ok_or(Error::BadWindow {
                    start: window.start,
                    end: window.end,
                })
        };
        let low = allocator(&windows.low)?;
        let high = allocator(&windows.high)?;
        let bridge: Box<dyn PciFunction> = Box::new(HostBridge::new());
        Ok(Self {
            windows,
            low,
            high,
            functions: vec![Mutex::new(bridge)],
        })
    }

    /// Adds a function, gives its BARs addresses, and returns its device
    /// number.
    pub fn add(&mut self, mut function: Box<dyn PciFunction>) -> Result<u8, Error> {
        let slot = self.functions.len();
        if slot >= MAX_SLOTS {
            return Err(Error::Full {
                name: function.name().to_owned(),
            });
        }
        let bars: Vec<_> = function.config().bars().collect();
        for (index, bar) in bars {
            let allocator = if bar.is_64_bit {
                &mut self.high
            } else {
                &mut self.low
            };
            let range = allocator
                .allocate(bar.size, bar.size, AllocPolicy::FirstMatch)
                .map_err(|_| Error::NoAddress {
                    name: function.name().to_owned(),
                    bar: index,
                    size: bar.size,
                })?;
            function.config_mut().assign_bar(index, range.start());
        }
        self.functions.push(Mutex::new(function));
        Ok(u8::try_from(slot).expect("there are 32 device numbers"))
    }

    /// The finished bus.
    pub fn build(self) -> Arc<PciBus> {
        Arc::new(PciBus {
            functions: self.functions,
            windows: self.windows,
            shadow: Mutex::default(),
            mappings: RwLock::default(),
        })
    }
}

/// A PCI bus in a machine, with one function a device.
///
/// Lock order: `shadow`, then one function at a time, then `mappings`. An access
/// to a BAR takes `mappings`, lets it go, and takes the function.
pub struct PciBus {
    windows: Windows,
    /// Held while configuration changes, which may move a BAR: a move involves
    /// several functions.
    shadow: Mutex<Shadow>,
    functions: Vec<SharedFunction>,
    mappings: RwLock<Mappings>,
}

impl PciBus {
    /// Puts the bus in reach of the guest: configuration by `access`, BARs
    /// through their windows.
    pub fn attach(
        self: &Arc<Self>,
        access: Access,
        memory: &mut Bus,
        ports: &mut Bus,
    ) -> Result<(), bus::Error> {
        let ecam = Arc::new(Mutex::new(Ecam::new(self.clone())));
        memory.insert(
            layout::ECAM_BASE,
            layout::ECAM_SIZE,
            ecam,
            "PCI configuration (ECAM)",
        )?;
        for (window, name) in [
            (&self.windows.low, "PCI memory below 4 GiB"),
            (&self.windows.high, "PCI memory"),
        ] {
            let device = Arc::new(Mutex::new(BarWindow::new(self.clone(), window.start)));
            memory.insert(window.start, window.end - window.start, device, name)?;
        }
        let config = match access {
            Access::EcamAndPorts => ConfigPorts::new(self.clone()),
            Access::Ecam => ConfigPorts::without_mechanism(),
        };
        let config = Arc::new(Mutex::new(config));
        let first = u64::from(layout::PCI_CONFIG_PORT);
        let count = u64::from(layout::PCI_CONFIG_PORTS);
        ports.insert(first, count, config, "PCI configuration ports")
    }

    /// Lets the guest read the configuration spaces in the ECAM without exits,
    /// from copies that `host` shows it.
    ///
    /// # Errors
    /// If there is no memory for the copies.
    pub fn show(&self, host: &Arc<dyn Host>) -> io::Result<()> {
        let mut shadow = lock(&self.shadow);
        *shadow = Shadow::new(host, self.functions.len())?;
        for (slot, function) in self.functions.iter().enumerate() {
            shadow.update(slot, &**lock(function));
        }
        Ok(())
    }

    /// Returns every function to its state at power-on.
    pub fn reset(&self) {
        let mut shadow = lock(&self.shadow);
        for (slot, function) in self.functions.iter().enumerate() {
            let mut function = lock(function);
            function.reset();
            shadow.update(slot, &**function);
        }
        self.remap();
    }

    /// Reads the configuration space of the function at `slot`: all ones where
    /// none is or the access passes its end.
    pub(crate) fn read_config(&self, slot: usize, offset: usize, data: &mut [u8]) {
        match self.functions.get(slot) {
            Some(function) if offset + data.len() <= CONFIG_SPACE_SIZE => {
                lock(function).read_config(offset, data);
            }
            _ => data.fill(0xff),
        }
    }

    /// Writes the configuration space of the function at `slot`.
    pub(crate) fn write_config(&self, slot: usize, offset: usize, data: &[u8]) {
        let Some(function) = self.functions.get(slot) else {
            return;
        };
        if offset + data.len() > CONFIG_SPACE_SIZE {
            return;
        }
        let mut shadow = lock(&self.shadow);
        let moved = {
            let mut function = lock(function);
            let before = function.config().decoded();
            function.write_config(offset, data);
            shadow.update(slot, &**function);
            function.config().decoded() != before
        };
        if moved {
            self.remap();
        }
    }

    /// Reads guest memory at `address`: all ones where no BAR has the whole
    /// access.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((function, bar, offset)) => lock(function).read_bar(bar, offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes guest memory at `address`.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((function, bar, offset)) = self.find(address, data.len()) {
            lock(function).write_bar(bar, offset, data);
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(&SharedFunction, usize, u64)> {
        let mappings = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let (mapping, offset) = mappings.find(address, len)?;
        Some((&self.functions[mapping.slot], mapping.bar, offset))
    }

    /// Brings the mappings up to date with what the functions decode, with
    /// `shadow` held. Every BAR leaves its old place before any takes a new
    /// one, so that no two are ever told of the same.
    fn remap(&self) {
        let decoded: Vec<_> = self
            .functions
            .iter()
            .map(|function| lock(function).config().decoded())
            .collect();
        let new = Mappings::new(
            &decoded,
            &[self.windows.low.clone(), self.windows.high.clone()],
        );
        let old = {
            let mut mappings = self
                .mappings
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *mappings, new.clone())
        };
        for mapping in old.without(&new) {
            lock(&self.functions[mapping.slot]).bar_mapped(mapping.bar, None);
        }
        for mapping in new.without(&old) {
            lock(&self.functions[mapping.slot]).bar_mapped(mapping.bar, Some(mapping.base));
        }
    }
}

#[cfg(test)]
mod tests;
