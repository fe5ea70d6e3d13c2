//! virtio 1.x: devices, the PCI transport, and the queues between them.

pub mod device;
