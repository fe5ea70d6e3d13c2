//! virtio 1.x: devices, the PCI transport, and the queues between them.

pub mod block;
mod config;
pub mod console;
pub mod device;
mod eventfd;
#[cfg(test)]
mod hostile;
pub mod net;
pub mod pci;
mod queue;
pub mod rng;
#[cfg(test)]
mod testing;
mod worker;
