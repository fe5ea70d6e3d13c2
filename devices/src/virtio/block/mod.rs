//! virtio-blk (virtio 1.3, 5.2): the device; its contents are a [`RawDisk`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::EventSet;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use zerocopy::{Immutable, IntoBytes, LE, U16, U32, U64};

mod disk;
mod request;
#[cfg(test)]
mod tests;

pub use disk::{Error, RawDisk, SECTOR};
use request::{ID_BYTES, MAX_RANGE_SECTORS, MAX_RANGES, Target};

use crate::scatter::ScatterList;
use crate::virtio::config;
use crate::virtio::device::{ActivateError, Activation, Interrupt, VirtioDevice};
use crate::virtio::queue::{Chain, Malformed, RING_FEATURES, VirtQueue};
use crate::virtio::worker::{Handler, Watch, Worker};

/// Entries in each request queue.
const QUEUE_SIZE: u16 = 256;
/// Requests answered before the driver is told: few, for each may take long.
const BUDGET: u16 = 8;
/// Data buffers in one request: a chain also holds a header and a status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// log2 of the sectors in a physical block of 4096 bytes, what file systems
/// and drives under the file work with.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;

/// How a disk appears to the guest.
#[derive(Clone, Debug)]
pub struct BlockConfig {
    /// The device's number among the disks, for thread names and log lines.
    pub number: usize,
    /// The number of request queues, each with its own thread; at least one.
    pub queues: u16,
    /// What GET_ID answers and Linux shows as the disk's serial: cut off
    /// after 20 bytes.
    pub serial: String,
}

/// struct virtio_blk_config (virtio 1.3, 5.2.4) up to the fields of
/// write-zeroes.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ConfigSpace {
    capacity: U64<LE>,
    size_max: U32<LE>,
    seg_max: U32<LE>,
    geometry: [u8; 4],
    blk_size: U32<LE>,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16<LE>,
    opt_io_size: U32<LE>,
    writeback: u8,
    unused0: u8,
    num_queues: U16<LE>,
    max_discard_sectors: U32<LE>,
    max_discard_seg: U32<LE>,
    discard_sector_alignment: U32<LE>,
    max_write_zeroes_sectors: U32<LE>,
    max_write_zeroes_seg: U32<LE>,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

/// Where the driver chooses between write-back and write-through.
const WRITEBACK_OFFSET: u64 = std::mem::offset_of!(ConfigSpace, writeback) as u64;

/// A virtio disk.
pub struct Block {
    disk: Arc<RawDisk>,
    number: usize,
    id: [u8; ID_BYTES],
    queue_sizes: Vec<u16>,
    /// The driver's choice by CONFIG_WCE, and the mode of a running device.
    writeback: Arc<AtomicBool>,
    workers: Vec<Worker<Requests>>,
}

impl Block {
    /// A disk with the contents of `disk`.
    pub fn new(disk: RawDisk, config: &BlockConfig) -> Self {
        let mut id = [0; ID_BYTES];
        for (target, byte) in id.iter_mut().zip(config.serial.bytes()) {
            *target = byte;
        }
        Self {
            disk: Arc::new(disk),
            number: config.number,
            id,
            queue_sizes: vec![QUEUE_SIZE; usize::from(config.queues.max(1))],
            writeback: Arc::new(AtomicBool::new(true)),
            workers: Vec::new(),
        }
    }

    fn config_space(&self) -> ConfigSpace {
        let queues = u16::try_from(self.queue_sizes.len()).expect("built from a u16");
        ConfigSpace {
            capacity: self.disk.sectors().into(),
            size_max: 0.into(),
            seg_max: SEG_MAX.into(),
            geometry: [0; 4],
            blk_size: 512.into(),
            physical_block_exp: PHYSICAL_BLOCK_EXPONENT,
            alignment_offset: 0,
            min_io_size: (1 << PHYSICAL_BLOCK_EXPONENT).into(),
            opt_io_size: 0.into(),
            writeback: self.writeback.load(Ordering::Relaxed).into(),
            unused0: 0,
            num_queues: queues.into(),
            max_discard_sectors: MAX_RANGE_SECTORS.into(),
            max_discard_seg: MAX_RANGES.into(),
            discard_sector_alignment: (1 << PHYSICAL_BLOCK_EXPONENT).into(),
            max_write_zeroes_sectors: MAX_RANGE_SECTORS.into(),
            max_write_zeroes_seg: MAX_RANGES.into(),
            write_zeroes_may_unmap: 1,
            unused1: [0; 3],
        }
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        let mut features = RING_FEATURES
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_TOPOLOGY
            | 1 << VIRTIO_BLK_F_FLUSH;
        if self.queue_sizes.len() > 1 {
            features |= 1 << VIRTIO_BLK_F_MQ;
        }
        if self.disk.readonly() {
            return features | 1 << VIRTIO_BLK_F_RO;
        }
        if self.disk.discards() {
            features |= 1 << VIRTIO_BLK_F_DISCARD;
        }
        features | 1 << VIRTIO_BLK_F_WRITE_ZEROES | 1 << VIRTIO_BLK_F_CONFIG_WCE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(self.config_space().as_bytes(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (WRITEBACK_OFFSET, &[value @ (0 | 1)], false) = (offset, data, self.disk.readonly())
        {
            self.writeback.store(value == 1, Ordering::Relaxed);
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        if queues.is_empty() {
            return Err(ActivateError::MissingQueues {
                enabled: 0,
                needed: 1,
            });
        }
        // A driver that knows nothing of flushing gets write-through (5.2.5.2).
        if features & (1 << VIRTIO_BLK_F_FLUSH) == 0 {
            self.writeback.store(false, Ordering::Relaxed);
        }
        for queue in queues {
            let name = format!("nestling-blk{}.{}", self.number, queue.index);
            let queue = VirtQueue::new(queue, features, memory.clone(), interrupt.clone());
            let requests = Requests {
                disk: self.disk.clone(),
                id: self.id,
                writeback: self.writeback.clone(),
                name: format!("disk {}", self.number),
                chain: Chain::new(&memory),
                status: ScatterList::new(memory.clone()),
                queue,
                interrupt: interrupt.clone(),
            };
            match Worker::spawn(&name, requests) {
                Ok(worker) => self.workers.push(worker),
                Err(failed) => {
                    self.workers.clear();
                    return Err(failed.error);
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.clear();
        self.writeback.store(true, Ordering::Relaxed);
    }
}

/// One request queue at work.
struct Requests {
    disk: Arc<RawDisk>,
    id: [u8; ID_BYTES],
    writeback: Arc<AtomicBool>,
    name: String,
    queue: VirtQueue,
    chain: Chain,
    status: ScatterList,
    interrupt: Arc<dyn Interrupt>,
}

impl Handler for Requests {
    fn watch(&mut self, watch: &mut Watch<'_, '_>) -> io::Result<()> {
        watch.add(&self.queue, 0, EventSet::IN)?;
        self.queue.ring_doorbell();
        Ok(())
    }

    fn ready(&mut self, _token: u32, _watch: &mut Watch<'_, '_>) -> Result<(), Malformed> {
        let target = Target {
            disk: &self.disk,
            id: &self.id,
            write_through: !self.writeback.load(Ordering::Relaxed),
        };
        let status = &mut self.status;
        self.queue.serve(&mut self.chain, BUDGET, |chain| {
            request::execute(&target, &mut chain.readable, &mut chain.writable, status)
        })?;
        Ok(())
    }

    fn identity(&self) -> (&str, &dyn Interrupt) {
        (&self.name, &*self.interrupt)
    }
}
