//! The PCI transport (virtio 1.3, 4.1): a virtio device as a PCI function.
//!
//! All of the device is in one BAR, with a page for each structure:
//!
//! | offset | structure |
//! | --- | --- |
//! | 0x0000 | common configuration |
//! | 0x1000 | interrupt status |
//! | 0x2000 | the device's configuration |
//! | 0x3000 | notification: a double word for each queue |
//! | 0x4000 | MSI-X table |
//! | 0x5000 | MSI-X pending bits |
//!
//! The driver's doorbells are ioeventfds while the device runs, and its
//! interrupts are MSI-X over irqfds; there is no INTx.

mod common;
mod doorbells;
mod layout;
mod signals;

use std::io;
use std::sync::Arc;

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_config as bits;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use crate::host::Host;
use crate::pci::PciFunction;
use crate::pci::config::ConfigSpace;
use crate::pci::msix::{MSIX_CAPABILITY, MSIX_CONTROL_OFFSET, Msix};
use crate::virtio::device::{ActivateError, Activation, ActiveQueue, VirtioDevice};
use crate::virtio::layout::QueueError;
use crate::virtio::pci::common::CommonConfig;
use crate::virtio::pci::doorbells::Doorbells;
use crate::virtio::pci::layout::{BAR_INDEX, PAGE_SIZE, Region};
use crate::virtio::pci::signals::{Signals, Status};

/// Ring layouts and transport features that this transport doesn't have: they
/// aren't offered, whatever the device says.
const UNSUPPORTED_FEATURES: u64 = 1 << bits::VIRTIO_F_RING_PACKED
    | 1 << bits::VIRTIO_F_SR_IOV
    | 1 << bits::VIRTIO_F_NOTIFICATION_DATA
    | 1 << bits::VIRTIO_F_NOTIF_CONFIG_DATA
    | 1 << bits::VIRTIO_F_RING_RESET
    | 1 << bits::VIRTIO_F_ADMIN_VQ;

/// One vector for each queue and one for the configuration fill a page of the
/// MSI-X table.
const MAX_QUEUES: usize = 255;

/// Why a device can't be a PCI function.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device has more queues than the transport has places.
    #[error("{name} has {count} queues; the PCI transport has room for {MAX_QUEUES}")]
    TooManyQueues {
        /// The device.
        name: String,
        /// Its number of queues.
        count: usize,
    },
    /// A queue's largest size isn't a power of two between 1 and 32768.
    #[error("queue {index} of {name} can't have {size} entries: use a power of two up to 32768")]
    QueueSize {
        /// The device.
        name: String,
        /// The queue.
        index: usize,
        /// Its largest size.
        size: u16,
    },
    /// The device type isn't one that PCI has a number for.
    #[error("{name} is of type {device_type}; the PCI transport has numbers up to 63")]
    DeviceType {
        /// The device.
        name: String,
        /// Its type.
        device_type: u32,
    },
    /// The host has no more descriptors.
    #[error("can't create an eventfd for {name}: {source}")]
    EventFd {
        /// The device.
        name: String,
        /// What the host said.
        source: io::Error,
    },
}

/// Why a device didn't start when its driver asked for it.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("queue {index}: {source}")]
    Queue { index: u16, source: QueueError },
    #[error("queue {index} has no doorbell: {source}")]
    Doorbell { index: u16, source: io::Error },
    #[error("{0}")]
    Device(#[from] ActivateError),
}

/// A virtio device as a PCI function.
pub struct VirtioPciFunction {
    name: String,
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemory>,
    config: ConfigSpace,
    /// Where the MSI-X capability is.
    msix_capability: usize,
    /// Where the capability for access by configuration space is.
    window_capability: usize,
    msix: Msix,
    common: CommonConfig,
    signals: Arc<Signals>,
    doorbells: Doorbells,
}

impl VirtioPciFunction {
    /// Makes `device` a PCI function that is called `name` in messages.
    pub fn new(
        name: impl Into<String>,
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemory>,
        host: Arc<dyn Host>,
    ) -> Result<Self, Error> {
        let name = name.into();
        let device_type = device.device_type();
        let Some(mut config) = layout::config_space(device_type) else {
            return Err(Error::DeviceType { name, device_type });
        };
        let sizes = device.queue_sizes();
        let vectors = match u16::try_from(sizes.len()) {
            Ok(count) if sizes.len() <= MAX_QUEUES => count + 1,
            _ => {
                return Err(Error::TooManyQueues {
                    name,
                    count: sizes.len(),
                });
            }
        };
        let bad = sizes.iter().position(|size| !size.is_power_of_two());
        if let Some(index) = bad {
            return Err(Error::QueueSize {
                name,
                index,
                size: sizes[index],
            });
        }
        let offered = (device.features() & !UNSUPPORTED_FEATURES) | 1 << bits::VIRTIO_F_VERSION_1;
        let common = CommonConfig::new(offered, sizes);
        let eventfd = |source| Error::EventFd {
            name: name.clone(),
            source,
        };
        let msix = Msix::new(vectors, host.clone()).map_err(eventfd)?;
        let doorbells = Doorbells::new(&name, sizes.len(), host).map_err(eventfd)?;
        let signals = Arc::new(Signals::new(&name, sizes.len(), msix.vectors()));

        let (body, writable) = msix.capability(
            layout::BAR_NUMBER,
            Region::MsixTable.offset(),
            Region::MsixPending.offset(),
        );
        let msix_capability = config.add_capability(MSIX_CAPABILITY, &body, &writable);
        let window_capability = layout::add_virtio_capabilities(&mut config, sizes.len());
        Ok(Self {
            name,
            device,
            memory,
            config,
            msix_capability,
            window_capability,
            msix,
            common,
            signals,
            doorbells,
        })
    }

    /// Acts on a write to the status register (virtio 1.3, 2.1 and 3.1.1).
    fn write_status(&mut self, value: u8) {
        let value = Status::from_bits_truncate(value);
        if value.is_empty() {
            self.reset_device();
            return;
        }
        let status = self.signals.status();
        // A driver sets bits and never clears one but by a reset.
        let added = value - status;
        self.signals.add_status(added & Status::DRIVER_MAY_SET);
        if status.intersects(Status::FAILED | Status::NEEDS_RESET) {
            return;
        }
        if added.contains(Status::FEATURES_OK)
            && self
                .signals
                .status()
                .contains(Status::ACKNOWLEDGE | Status::DRIVER)
            && self.common.features_acceptable()
        {
            self.signals.add_status(Status::FEATURES_OK);
        }
        if added.contains(Status::DRIVER_OK) && status.contains(Status::FEATURES_OK) {
            self.start();
        }
    }

    fn start(&mut self) {
        // Before the device starts: it may fail at once.
        self.signals.add_status(Status::DRIVER_OK);
        match self.activate() {
            Ok(enabled) => self.doorbells.start(enabled),
            Err(error) => self.signals.fail(&error),
        }
    }

    /// Hands the enabled queues to the device, and returns their indices.
    fn activate(&mut self) -> Result<Vec<u16>, StartError> {
        let features = self.common.features();
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::new();
        for (index, setup) in (0u16..).zip(self.common.queues()) {
            if !setup.enabled() {
                continue;
            }
            let queue = setup
                .queue(&self.memory, event_idx)
                .map_err(|source| StartError::Queue { index, source })?;
            let doorbell = self
                .doorbells
                .fresh(index)
                .map_err(|source| StartError::Doorbell { index, source })?;
            queues.push(ActiveQueue {
                index,
                queue,
                doorbell,
            });
        }
        let enabled = queues.iter().map(|queue| queue.index).collect();
        self.device.activate(Activation {
            memory: self.memory.clone(),
            features,
            queues,
            interrupt: self.signals.clone(),
        })?;
        Ok(enabled)
    }

    /// Resets the device; it is done when this returns (virtio 1.3, 2.4).
    fn reset_device(&mut self) {
        self.doorbells.stop();
        if self.signals.status().contains(Status::DRIVER_OK) {
            self.device.reset();
        }
        self.common.reset();
        // The device is quiet now: nothing sets a bit after this.
        self.signals.reset();
    }

    fn msix_control(&self) -> u16 {
        let mut control = [0; 2];
        self.config
            .read(self.msix_capability + MSIX_CONTROL_OFFSET, &mut control);
        u16::from_le_bytes(control)
    }

    /// What an access to `len` bytes at `offset` of the configuration space
    /// reads or writes in the BAR by way of the PCI configuration access
    /// capability (virtio 1.3, 4.1.4.9); `None` if it isn't to its data, or the
    /// driver has set it up wrongly.
    fn window(&self, offset: usize, len: usize) -> Option<(u64, usize)> {
        let data = self.window_capability + layout::WINDOW_DATA_OFFSET;
        let touches_data = offset < data + 4 && data < offset + len;
        touches_data.then(|| layout::window_target(&self.config, self.window_capability))?
    }
}

impl PciFunction for VirtioPciFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if let Some((target, len)) = self.window(offset, data.len()) {
            let mut value = [0; 4];
            self.read_bar(BAR_INDEX, target, &mut value[..len]);
            self.config
                .set(self.window_capability + layout::WINDOW_DATA_OFFSET, &value);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let control = self.msix_control();
        self.config.write(offset, data);
        if self.msix_control() != control {
            self.msix.set_control(self.msix_control());
        }
        if let Some((target, len)) = self.window(offset, data.len()) {
            let mut value = [0; 4];
            self.config.read(
                self.window_capability + layout::WINDOW_DATA_OFFSET,
                &mut value,
            );
            self.write_bar(BAR_INDEX, target, &value[..len]);
        }
    }

    fn config_reads_plainly(&self) -> bool {
        layout::window_target(&self.config, self.window_capability).is_none()
    }

    fn read_bar(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let within = offset % PAGE_SIZE;
        match Region::at(offset) {
            Some(Region::Common) => self.common.read(&self.signals, within, data),
            Some(Region::InterruptStatus) if within == 0 => {
                data[0] = self.signals.take_interrupt_status();
            }
            Some(Region::Device) => self.device.read_config(within, data),
            Some(Region::MsixTable) => self.msix.read_table(within, data),
            Some(Region::MsixPending) => self.msix.read_pending(within, data),
            Some(Region::InterruptStatus | Region::Notify) | None => {}
        }
    }

    fn write_bar(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        let within = offset % PAGE_SIZE;
        match Region::at(offset) {
            Some(Region::Common) => {
                if let Some(status) = self.common.write(&self.signals, within, data) {
                    self.write_status(status);
                }
            }
            Some(Region::Device) => self.device.write_config(within, data),
            Some(Region::Notify) => self.doorbells.ring(within),
            Some(Region::MsixTable) => self.msix.write_table(within, data),
            Some(Region::InterruptStatus | Region::MsixPending) | None => {}
        }
    }

    fn bar_mapped(&mut self, _bar: usize, address: Option<u64>) {
        self.doorbells
            .moved(address.map(|bar| bar + u64::from(Region::Notify.offset())));
    }

    fn reset(&mut self) {
        self.reset_device();
        self.msix.reset();
        self.config.reset();
    }
}

#[cfg(test)]
mod tests;
