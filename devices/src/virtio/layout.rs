//! Where the rings of a queue lie (virtio 1.3, 2.7).

use nestling_arch::GuestMemory;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

/// Why a queue can't be used as its driver has set it up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    #[error("its size is {size}, not a power of two up to {max}")]
    Size { size: u16, max: u16 },
    #[error("its {ring} at {address:#x} is misaligned")]
    Alignment { ring: &'static str, address: u64 },
    #[error(
        "its rings at {descriptors:#x}, {available:#x} and {used:#x} for {size} buffers \
         aren't all in memory"
    )]
    OutsideMemory {
        descriptors: u64,
        available: u64,
        used: u64,
        size: u16,
    },
}

/// The rings of a queue: their number of entries, and their guest physical
/// addresses.
pub(crate) struct RingLayout {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

impl RingLayout {
    /// The queue, with at most `max` entries, if all of its rings are aligned
    /// and in `memory`.
    pub(crate) fn queue(&self, max: u16, memory: &GuestMemory) -> Result<Queue, QueueError> {
        let &Self {
            size,
            descriptors,
            available,
            used,
        } = self;
        let bad_size = |_| QueueError::Size { size, max };
        let mut queue = Queue::new(max).map_err(bad_size)?;
        queue.try_set_size(size).map_err(bad_size)?;
        let misaligned = |ring, address| move |_| QueueError::Alignment { ring, address };
        queue
            .try_set_desc_table_address(GuestAddress(descriptors))
            .map_err(misaligned("descriptor table", descriptors))?;
        queue
            .try_set_avail_ring_address(GuestAddress(available))
            .map_err(misaligned("available ring", available))?;
        queue
            .try_set_used_ring_address(GuestAddress(used))
            .map_err(misaligned("used ring", used))?;
        queue.set_ready(true);
        if !queue.is_valid(memory) {
            return Err(QueueError::OutsideMemory {
                descriptors,
                available,
                used,
                size,
            });
        }
        Ok(queue)
    }
}
