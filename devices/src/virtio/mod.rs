//! virtio 1.x: devices, the PCI transport, and the queues between them.

pub mod block;
pub(crate) mod config;
pub mod console;
pub mod device;
pub(crate) mod eventfd;
#[cfg(test)]
mod hostile;
pub(crate) mod layout;
pub mod net;
pub mod pci;
pub(crate) mod queue;
pub mod rng;
#[cfg(test)]
pub(crate) mod testing;
mod worker;
