//! virtio 1.x: devices, the PCI transport, and the queues between them.

mod config;
mod queue;
mod testing;
mod worker;
pub mod block;
pub mod console;
pub mod device;
#[cfg(test)]
mod hostile;
pub mod net;
pub mod pci;
pub mod rng;
#[cfg(test)]
