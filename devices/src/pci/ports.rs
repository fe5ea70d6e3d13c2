//! The ways a guest reaches the PCI bus: two configuration mechanisms and the
//! windows of its BARs.

use std::sync::Arc;

use nestling_arch::layout;

use crate::Action;
use crate::bus::BusDevice;
use crate::legacy::reset::ResetControl;
use crate::pci::bus::PciBus;
use crate::pci::config::ECAM_SLOT_SHIFT;

const ADDRESS_OFFSET: u64 = 0;
const DATA_OFFSET: u64 = 4;
const RESET_CONTROL_OFFSET: u64 = (layout::RESET_PORT - layout::PCI_CONFIG_PORT) as u64;

const ADDRESS_ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function and register; the rest is reserved.
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

/// The enhanced configuration access mechanism for one bus (PCIe 5.0, 7.2.2):
/// 4096 bytes a function.
pub(crate) struct Ecam(Arc<PciBus>);

impl Ecam {
    pub(crate) fn new(bus: Arc<PciBus>) -> Self {
        Self(bus)
    }

    /// The slot and the offset in its function's space. `None` for functions
    /// other than 0, which no device has.
    fn split(offset: u64) -> Option<(usize, usize)> {
        let function = (offset >> 12) & 7;
        let slot = usize::try_from(offset >> ECAM_SLOT_SHIFT).ok()?;
        let register = usize::try_from(offset & 0xfff).ok()?;
        (function == 0).then_some((slot, register))
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match Self::split(offset) {
            Some((slot, register)) => self.0.read_config(slot, register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        if let Some((slot, register)) = Self::split(offset) {
            self.0.write_config(slot, register, data);
        }
        Action::None
    }
}

/// Configuration mechanism 1 (PCI 3.0, 3.2.2.3.2), and the reset control
/// register among its ports.
///
/// Only a whole double word goes to the address register; a byte at 0xCF9 is
/// the reset control register's, which is there without the mechanism too.
pub(crate) struct ConfigPorts {
    bus: Option<Arc<PciBus>>,
    address: u32,
    reset: ResetControl,
}

impl ConfigPorts {
    pub(crate) fn new(bus: Arc<PciBus>) -> Self {
        Self {
            bus: Some(bus),
            ..Self::without_mechanism()
        }
    }

    /// The reset control register alone.
    pub(crate) fn without_mechanism() -> Self {
        Self {
            bus: None,
            address: 0,
            reset: ResetControl::default(),
        }
    }

    /// The bus, slot and register that an access at `offset` goes to. `None` if
    /// it isn't to the data register, the mechanism is off, or the bus or
    /// function doesn't exist.
    fn target(&self, offset: u64) -> Option<(&PciBus, usize, usize)> {
        let byte = offset.checked_sub(DATA_OFFSET)?;
        let bus = (self.address >> 16) & 0xff;
        let function = (self.address >> 8) & 7;
        if self.address & ADDRESS_ENABLE == 0 || bus != 0 || function != 0 {
            return None;
        }
        let slot = usize::try_from((self.address >> 11) & 0x1f).ok()?;
        let register = usize::try_from(u64::from(self.address & 0xfc) + byte).ok()?;
        Some((self.bus.as_deref()?, slot, register))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, &mut *data) {
            (ADDRESS_OFFSET, [_, _, _, _]) if self.bus.is_some() => {
                data.copy_from_slice(&self.address.to_le_bytes());
            }
            (RESET_CONTROL_OFFSET, [byte]) => *byte = self.reset.read(),
            _ => {
                if let Some((bus, slot, register)) = self.target(offset) {
                    bus.read_config(slot, register, data);
                }
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        match (offset, data) {
            (ADDRESS_OFFSET, &[a, b, c, d]) => {
                self.address = u32::from_le_bytes([a, b, c, d]) & ADDRESS_WRITABLE;
            }
            (RESET_CONTROL_OFFSET, &[byte]) => return self.reset.write(byte),
            _ => {
                if let Some((bus, slot, register)) = self.target(offset) {
                    bus.write_config(slot, register, data);
                }
            }
        }
        Action::None
    }
}

/// A window of the address space that BARs are in.
pub(crate) struct BarWindow {
    bus: Arc<PciBus>,
    start: u64,
}

impl BarWindow {
    pub(crate) fn new(bus: Arc<PciBus>, start: u64) -> Self {
        Self { bus, start }
    }
}

impl BusDevice for BarWindow {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.bus.read_memory(self.start + offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        self.bus.write_memory(self.start + offset, data);
        Action::None
    }
}
