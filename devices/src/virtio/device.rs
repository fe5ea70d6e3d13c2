//! What a virtio device is, apart from its transport and its back end.

use std::sync::Arc;

use nestling_arch::GuestMemory;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

/// How a device tells its driver something, whatever the transport.
pub trait Interrupt: Send + Sync {
    /// Signals that used buffers wait in queue `index` (virtio 1.3, 2.3).
    fn queue_used(&self, index: u16);

    /// Signals a change of the configuration space (virtio 1.3, 2.3).
    fn config_changed(&self);

    /// Sets DEVICE_NEEDS_RESET and signals a configuration change
    /// (virtio 1.3, 2.1.2): the driver broke the protocol.
    fn needs_reset(&self);
}

/// One queue, ready for its device.
pub struct ActiveQueue {
    /// The queue's index in the device.
    pub index: u16,
    /// The rings, validated against guest memory.
    pub queue: Queue,
    /// Signalled when the driver makes buffers available.
    pub doorbell: EventFd,
}

/// Everything a device needs to start working.
pub struct Activation {
    /// The memory that descriptors point into.
    pub memory: Arc<GuestMemory>,
    /// The features device and driver agreed on.
    pub features: u64,
    /// The queues the driver enabled, by index in ascending order.
    pub queues: Vec<ActiveQueue>,
    /// The way back to the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// Why a device could not start.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver enabled fewer queues than the device works with.
    #[error("the driver enabled {enabled} of {needed} queues")]
    MissingQueues {
        /// Queues the driver enabled.
        enabled: usize,
        /// Queues the device needs.
        needed: usize,
    },
    /// The host refused something the device needs.
    #[error("{what}: {source}")]
    Host {
        /// What was asked of the host.
        what: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
}

/// A virtio device (virtio 1.3, chapter 5), apart from transport and back end.
///
/// The transport calls these one at a time. [`VirtioDevice::activate`] moves
/// the queues into the device's worker; [`VirtioDevice::reset`] stops the
/// worker and brings the back end home, so that the device can be activated
/// again.
pub trait VirtioDevice: Send {
    /// The device's number (virtio 1.3, chapter 5).
    fn device_type(&self) -> u32;

    /// The largest size of each queue; its length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// The features offered, ring features included; the transport adds
    /// VIRTIO_F_VERSION_1.
    fn features(&self) -> u64;

    /// Reads the device's configuration space; what lies past its end is zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device's configuration space; what isn't writable is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts the device (DRIVER_OK).
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops the device and returns it to the state before activation.
    fn reset(&mut self);
}
