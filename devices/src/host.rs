//! What the machine lends its devices.

use std::io;
use std::sync::Arc;

use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt as the guest programmed it (PCI 3.0, 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Where the device writes.
    pub address: u64,
    /// What it writes there.
    pub data: u32,
}

/// The services of the machine that a PCI device needs.
///
/// The monitor implements it over KVM; tests implement it with a recorder.
pub trait Host: Send + Sync {
    /// Makes a guest write of any length at `address` signal `fd` without an
    /// exit to user space.
    fn add_doorbell(&self, address: u64, fd: &EventFd) -> io::Result<()>;

    /// Undoes [`Host::add_doorbell`].
    fn remove_doorbell(&self, address: u64, fd: &EventFd) -> io::Result<()>;

    /// Ties `fd` to a fresh interrupt line and returns the line's number.
    /// A signalled `fd` raises the line's message, once one is routed.
    fn allocate_msi(&self, fd: &EventFd) -> io::Result<u32>;

    /// Gives the line its message. Routing the same message again is free.
    fn route_msi(&self, gsi: u32, message: MsiMessage) -> io::Result<()>;

    /// Gives the line and its descriptor back.
    fn free_msi(&self, gsi: u32, fd: &EventFd) -> io::Result<()>;

    /// Lets the guest read `memory`, of whole pages, at `address` without an
    /// exit. Its writes there come to user space still.
    fn show(&self, address: u64, memory: &Arc<MmapRegion>) -> io::Result<()>;

    /// Undoes [`Host::show`]: reads come to user space again.
    fn hide(&self, address: u64) -> io::Result<()>;
}
