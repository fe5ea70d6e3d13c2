//! PCI: one bus with its functions, as conventional PCI with the configuration
//! mechanisms of PCI and PCI Express.

pub mod bus;
pub mod config;
pub mod host_bridge;
mod mapping;
pub mod msix;
mod ports;
pub mod pvpanic;
mod shadow;

use crate::pci::config::ConfigSpace;

/// A PCI function: a device that is configured through a configuration space
/// and accessed through memory BARs.
///
/// The bus calls these one at a time. An access to a BAR is 1, 2, 4 or 8 bytes
/// wide, may be unaligned, and lies within the BAR.
pub trait PciFunction: Send {
    /// What the function is called in messages.
    fn name(&self) -> &str;

    /// The function's configuration space.
    fn config(&self) -> &ConfigSpace;

    /// The function's configuration space, to assign addresses to its BARs.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// Reads the configuration space; the access lies within its 4096 bytes.
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// Writes the configuration space; the access lies within its 4096 bytes.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config_mut().write(offset, data);
    }

    /// Whether a read of the configuration space does no more than give what
    /// [`PciFunction::config`] holds, so that a copy serves as well.
    fn config_reads_plainly(&self) -> bool {
        true
    }

    /// Reads from a BAR.
    fn read_bar(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// Writes to a BAR.
    fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]);

    /// Tells where a BAR now is in the guest's memory; `None` when it isn't
    /// there any more. A BAR that moves is told of both, one after the other.
    fn bar_mapped(&mut self, _bar: usize, _address: Option<u64>) {}

    /// Returns the function to its state at power-on. The bus tells of the BARs
    /// that move by it afterwards.
    fn reset(&mut self);
}
