//! virtio-console (virtio 1.3, 5.3): port 0 is the guest's console, port 1, if
//! there is one, a plain byte channel for programs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use zerocopy::{Immutable, IntoBytes, LE, U16, U32};

mod backend;
mod control;
mod ports;
#[cfg(test)]
mod tests;

use backend::Endpoint;
pub use backend::PortBackend;
use ports::{Parts, Ports};

use crate::virtio::config;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::queue::RING_FEATURES;
use crate::virtio::worker::Worker;

/// The name of the byte channel's port, as the guest finds it in
/// /sys/class/virtio-ports/*/name.
pub const CHANNEL_NAME: &str = "nestling.channel";

const VIRTIO_CONSOLE_F_SIZE: u32 = 0;
pub(super) const VIRTIO_CONSOLE_F_MULTIPORT: u32 = 1;

const QUEUE_SIZE: u16 = 64;

/// What a console is made of.
#[derive(Debug)]
pub struct ConsoleConfig {
    /// The guest's console, hvc0 under Linux.
    pub console: PortBackend,
    /// The byte channel, a port named [`CHANNEL_NAME`].
    pub channel: Option<PortBackend>,
    /// The console's columns and rows; (0, 0) if unknown.
    pub size: (u16, u16),
}

/// struct virtio_console_config (virtio 1.3, 5.3.4).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    cols: U16<LE>,
    rows: U16<LE>,
    max_nr_ports: U32<LE>,
    emerg_wr: U32<LE>,
}

/// The console's size, shared by the device, its worker and its handles.
#[derive(Debug)]
struct Size {
    /// Columns in the upper half, rows in the lower.
    packed: AtomicU32,
    /// Signalled when the size changed.
    changed: EventFd,
}

impl Size {
    fn get(&self) -> (u16, u16) {
        let bytes = self.packed.load(Ordering::Relaxed).to_be_bytes();
        (
            u16::from_be_bytes([bytes[0], bytes[1]]),
            u16::from_be_bytes([bytes[2], bytes[3]]),
        )
    }

    fn set(&self, (cols, rows): (u16, u16)) {
        self.packed
            .store(u32::from(cols) << 16 | u32::from(rows), Ordering::Relaxed);
        // Only a counter at its limit could make this fail, and then the
        // descriptor is readable as it should be.
        let _ = self.changed.write(1);
    }
}

/// Changes a console while its guest runs.
#[derive(Clone, Debug)]
pub struct ConsoleHandle {
    size: Arc<Size>,
}

impl ConsoleHandle {
    /// Gives the console a new size; the guest is told.
    pub fn resize(&self, cols: u16, rows: u16) {
        self.size.set((cols, rows));
    }
}

/// A virtio console with one or two ports.
pub struct Console {
    /// The ports' back ends while no worker has them.
    endpoints: Vec<Endpoint>,
    ports: u16,
    queue_sizes: Vec<u16>,
    size: Arc<Size>,
    worker: Option<Worker<Ports>>,
}

impl Console {
    /// A console with the back ends of `config`.
    pub fn new(config: ConsoleConfig) -> io::Result<Self> {
        let backends = [Some(config.console), config.channel];
        let endpoints: Vec<_> = backends.into_iter().flatten().map(Endpoint::new).collect();
        let ports = u16::try_from(endpoints.len()).expect("one or two");
        let changed = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let size = Arc::new(Size {
            packed: AtomicU32::new(0),
            changed,
        });
        size.set(config.size);
        Ok(Self {
            // A pair for each port, and a pair for control messages (5.3.2).
            queue_sizes: vec![QUEUE_SIZE; 2 * (endpoints.len() + 1)],
            endpoints,
            ports,
            size,
            worker: None,
        })
    }

    /// The means to change the console while its guest runs.
    pub fn handle(&self) -> ConsoleHandle {
        ConsoleHandle {
            size: self.size.clone(),
        }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        RING_FEATURES | 1 << VIRTIO_CONSOLE_F_SIZE | 1 << VIRTIO_CONSOLE_F_MULTIPORT
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (cols, rows) = self.size.get();
        let space = ConfigSpace {
            cols: cols.into(),
            rows: rows.into(),
            max_nr_ports: u32::from(self.ports).into(),
            emerg_wr: 0.into(),
        };
        config::read(space.as_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let multiport = activation.features & 1 << VIRTIO_CONSOLE_F_MULTIPORT != 0;
        let parts = Parts::new(activation, multiport, self.ports)?;
        let endpoints = std::mem::take(&mut self.endpoints);
        let ports = Ports::new(parts, endpoints, self.size.clone());
        match Worker::spawn("nestling-con", ports) {
            Ok(worker) => {
                self.worker = Some(worker);
                Ok(())
            }
            Err(failed) => {
                self.endpoints = failed.handler.into_endpoints();
                Err(failed.error)
            }
        }
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.endpoints = worker.stop().into_endpoints();
        }
    }
}
