//! The host bridge, at 00:00.0.

use crate::pci::PciFunction;
use crate::pci::config::{ConfigSpace, Identity};

/// Red Hat's generic PCI Express host bridge: no operating system has quirks
/// for it.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    class: 0x06_00_00,
    revision: 0,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// A host bridge that has nothing but its identity. By it an operating system
/// recognises that the configuration mechanism works.
pub(crate) struct HostBridge(ConfigSpace);

impl HostBridge {
    pub(crate) fn new() -> Self {
        Self(ConfigSpace::new(&IDENTITY))
    }
}

impl PciFunction for HostBridge {
    fn name(&self) -> &str {
        "host bridge"
    }

    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }

    // It has no BAR to be accessed through.
    fn read_bar(&mut self, _bar: usize, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.0.reset();
    }
}
