//! A virtqueue from the device's side: chains in, used buffers out.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT,
};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

use crate::scatter::{self, ScatterList};
use crate::virtio::device::{ActiveQueue, Interrupt};

/// The ring features that every device offers (virtio 1.3, 2.7.5.3 and 2.7.7).
pub(crate) const RING_FEATURES: u64 =
    1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// How a driver broke the protocol. The device stops until it is reset.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    /// The rings themselves are inconsistent or not in memory.
    #[error("queue {queue}: {source}")]
    Ring {
        /// The queue's index.
        queue: u16,
        source: virtio_queue::Error,
    },
    /// A chain loops, or leads out of the descriptor table, or is empty.
    #[error("queue {queue}: chain {head} doesn't end")]
    Endless {
        /// The queue's index.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
    },
    /// A device-readable buffer follows a device-writable one (2.7.4.2).
    #[error("queue {queue}: chain {head} has a readable buffer after a writable one")]
    Order {
        /// The queue's index.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
    },
    /// A buffer isn't guest memory, or there are too many.
    #[error("queue {queue}: chain {head}: {source}")]
    Buffer {
        /// The queue's index.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
        source: scatter::Error,
    },
    /// The chain isn't what the device's requests look like.
    #[error("queue {queue}: chain {head}: {what}")]
    Request {
        /// The queue's index.
        queue: u16,
        /// The chain's first descriptor.
        head: u16,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// One request: the buffers of a descriptor chain.
pub(crate) struct Chain {
    /// The first descriptor's index, by which the chain is returned.
    pub(crate) head: u16,
    /// What the driver says.
    pub(crate) readable: ScatterList,
    /// Where the device answers.
    pub(crate) writable: ScatterList,
}

impl Chain {
    /// An empty chain, to be filled by [`VirtQueue::pop`] again and again.
    pub(crate) fn new(memory: &Arc<GuestMemory>) -> Self {
        Self {
            head: 0,
            readable: ScatterList::new(memory.clone()),
            writable: ScatterList::new(memory.clone()),
        }
    }
}

/// Whether a device is done with its queue for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// All chains are returned, and the driver will ring the doorbell.
    Drained,
    /// The budget is spent; the doorbell is rung so that the rest follows.
    Yielded,
}

/// A queue in its device's hands.
pub(crate) struct VirtQueue {
    index: u16,
    queue: Queue,
    doorbell: EventFd,
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn Interrupt>,
    /// The used index of which the driver was last told.
    signalled: u16,
}

impl VirtQueue {
    /// Takes an activated queue; `features` are those negotiated.
    pub(crate) fn new(
        active: ActiveQueue,
        features: u64,
        memory: Arc<GuestMemory>,
        interrupt: Arc<dyn Interrupt>,
    ) -> Self {
        let ActiveQueue {
            index,
            mut queue,
            doorbell,
        } = active;
        queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        let signalled = queue.next_used();
        Self {
            index,
            queue,
            doorbell,
            memory,
            interrupt,
            signalled,
        }
    }

    /// The queue's index in its device.
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// The number of entries in the rings.
    pub(crate) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// What the driver signals when it made buffers available.
    pub(crate) fn doorbell(&self) -> &EventFd {
        &self.doorbell
    }

    /// Makes the queue's worker come back to it.
    pub(crate) fn ring_doorbell(&self) {
        // Only a counter at its limit could make this fail, and then the
        // descriptor is readable as it should be.
        let _ = self.doorbell.write(1);
    }

    /// The error for a chain that is no valid request.
    pub(crate) fn bad_request(&self, head: u16, what: &'static str) -> Malformed {
        Malformed::Request {
            queue: self.index,
            head,
            what,
        }
    }

    /// Takes the next available chain; false if there is none.
    pub(crate) fn pop(&mut self, chain: &mut Chain) -> Result<bool, Malformed> {
        chain.readable.clear();
        chain.writable.clear();
        match self.next_chain(Some(&mut chain.readable), &mut chain.writable)? {
            Some(head) => chain.head = head,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Takes the next available chain of a queue whose chains are only
    /// written by the device, and appends its buffers to `buffers`. Returns
    /// the chain's head.
    pub(crate) fn pop_writable(
        &mut self,
        buffers: &mut ScatterList,
    ) -> Result<Option<u16>, Malformed> {
        let before = buffers.len();
        let head = self.next_chain(None, buffers)?;
        match head {
            Some(head) if buffers.len() == before => {
                Err(self.bad_request(head, "no room to receive into"))
            }
            head => Ok(head),
        }
    }

    /// Appends the buffers of the next available chain to `readable`, without
    /// which it may have no such buffers, and to `writable`.
    fn next_chain(
        &mut self,
        mut readable: Option<&mut ScatterList>,
        writable: &mut ScatterList,
    ) -> Result<Option<u16>, Malformed> {
        let queue = self.index;
        let ring = |source| Malformed::Ring { queue, source };
        let mut available = self.queue.iter(&*self.memory).map_err(ring)?;
        let Some(descriptors) = available.next() else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        // The iterator ends early when a chain loops or leads astray: it is
        // whole only if the last descriptor says that none follows.
        let mut complete = false;
        let mut answering = false;
        for descriptor in descriptors {
            complete = !descriptor.has_next();
            let target = match (descriptor.is_write_only(), answering) {
                (true, _) => {
                    answering = true;
                    &mut *writable
                }
                (false, false) => readable.as_deref_mut().ok_or(Malformed::Request {
                    queue,
                    head,
                    what: "not a buffer to receive into",
                })?,
                (false, true) => return Err(Malformed::Order { queue, head }),
            };
            let length = descriptor.len() as usize;
            target
                .push(descriptor.addr(), length)
                .map_err(|source| Malformed::Buffer {
                    queue,
                    head,
                    source,
                })?;
        }
        if !complete {
            return Err(Malformed::Endless { queue, head });
        }
        Ok(Some(head))
    }

    /// Puts the chain that was popped last back, as if it never had been.
    pub(crate) fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain of which the device wrote the first `written` bytes.
    pub(crate) fn push_used(&mut self, head: u16, written: usize) -> Result<(), Malformed> {
        self.stage_used(head, written)?;
        self.publish_used()
    }

    /// Writes a used element which the driver sees with the next
    /// [`VirtQueue::publish_used`]: chains that belong together appear
    /// together.
    pub(crate) fn stage_used(&mut self, head: u16, written: usize) -> Result<(), Malformed> {
        let next = self.queue.next_used();
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        let element = u64::from(written) << 32 | u64::from(head);
        // Flags and index come first, then elements of eight bytes (2.7.8).
        let offset = 4 + 8 * u64::from(next % self.queue.size());
        let slot = self.ring_address(self.queue.used_ring(), offset)?;
        let stored = self.memory.write_obj(element.to_le(), slot);
        stored.map_err(|source| self.unreachable(source))?;
        self.queue.set_next_used(next.wrapping_add(1));
        Ok(())
    }

    /// Shows the driver all used elements written so far.
    pub(crate) fn publish_used(&mut self) -> Result<(), Malformed> {
        let index = self.ring_address(self.queue.used_ring(), 2)?;
        let stored = self
            .memory
            .store(self.queue.next_used().to_le(), index, Ordering::Release);
        stored.map_err(|source| self.unreachable(source))
    }

    /// Interrupts the driver, if chains were returned and it wants to know.
    pub(crate) fn signal_used(&mut self) -> Result<(), Malformed> {
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.signalled, new);
        if new != old && self.driver_wants_interrupt(old, new)? {
            self.interrupt.queue_used(self.index);
        }
        Ok(())
    }

    /// Whether the driver wants to know that the used index went from `old`
    /// to `new` (2.7.7 and 2.7.10).
    fn driver_wants_interrupt(&self, old: u16, new: u16) -> Result<bool, Malformed> {
        // The used index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let available = self.queue.avail_ring();
        let event_idx = self.queue.event_idx_enabled();
        // used_event follows the ring, whose entries have two bytes.
        let offset = if event_idx {
            4 + 2 * u64::from(self.queue.size())
        } else {
            0
        };
        let wish = self
            .memory
            .load(self.ring_address(available, offset)?, Ordering::Relaxed);
        let wish = u16::from_le(wish.map_err(|source| self.unreachable(source))?);
        if event_idx {
            let passed = new.wrapping_sub(wish).wrapping_sub(1);
            return Ok(passed < new.wrapping_sub(old));
        }
        Ok(u32::from(wish) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    fn ring_address(&self, base: u64, offset: u64) -> Result<GuestAddress, Malformed> {
        let address = base.checked_add(offset).map(GuestAddress);
        let source = virtio_queue::Error::AddressOverflow;
        address.ok_or(Malformed::Ring {
            queue: self.index,
            source,
        })
    }

    fn unreachable(&self, source: GuestMemoryError) -> Malformed {
        let source = virtio_queue::Error::GuestMemory(source);
        Malformed::Ring {
            queue: self.index,
            source,
        }
    }

    /// Asks the driver not to ring the doorbell.
    pub(crate) fn disable_doorbell(&mut self) -> Result<(), Malformed> {
        let queue = self.index;
        self.queue
            .disable_notification(&*self.memory)
            .map_err(|source| Malformed::Ring { queue, source })
    }

    /// Asks the driver to ring the doorbell; true if chains became available
    /// meanwhile, which then may have no ring of their own.
    pub(crate) fn enable_doorbell(&mut self) -> Result<bool, Malformed> {
        let queue = self.index;
        self.queue
            .enable_notification(&*self.memory)
            .map_err(|source| Malformed::Ring { queue, source })
    }

    /// Answers available chains one by one by `answer`, which says how many
    /// bytes it wrote, until none is left or `budget` is spent: a driver that
    /// keeps its ring full mustn't keep the worker from anything else.
    pub(crate) fn serve(
        &mut self,
        chain: &mut Chain,
        budget: u16,
        mut answer: impl FnMut(&mut Chain) -> Result<usize, &'static str>,
    ) -> Result<Pass, Malformed> {
        let mut left = budget;
        loop {
            self.disable_doorbell()?;
            while left > 0 && self.pop(chain)? {
                left -= 1;
                let head = chain.head;
                let written = answer(chain).map_err(|what| self.bad_request(head, what))?;
                self.push_used(head, written)?;
            }
            self.signal_used()?;
            if left == 0 {
                self.ring_doorbell();
                return Ok(Pass::Yielded);
            }
            if !self.enable_doorbell()? {
                return Ok(Pass::Drained);
            }
        }
    }
}

impl AsRawFd for VirtQueue {
    /// The doorbell.
    fn as_raw_fd(&self) -> RawFd {
        self.doorbell.as_raw_fd()
    }
}

#[cfg(test)]
mod tests;
