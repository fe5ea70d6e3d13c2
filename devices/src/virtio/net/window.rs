//! Receive buffers that are taken from their queue and hold no frame yet.

use std::collections::VecDeque;
use std::sync::Arc;

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use crate::net::port::FRAME_HEADER;
use crate::scatter::ScatterList;
use crate::virtio::queue::{Malformed, VirtQueue};

/// Where the frame header says how many buffers a frame takes.
const NUM_BUFFERS_OFFSET: usize = 10;

/// Whether there is room for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is.
    Enough,
    /// There will be when the driver makes more buffers available.
    Lacking,
    /// The driver's buffers are too small for such a frame.
    Never,
}

/// Buffers taken from a receive queue.
pub(super) struct Window {
    buffers: ScatterList,
    /// Each chain's head and length, in the order of `buffers`.
    chains: VecDeque<(u16, usize)>,
    /// Whether a frame may be spread over several chains.
    mergeable: bool,
}

impl Window {
    /// Without any buffers. `features` are those negotiated.
    pub(super) fn new(memory: Arc<GuestMemory>, features: u64) -> Self {
        Self {
            buffers: ScatterList::new(memory),
            chains: VecDeque::new(),
            mergeable: features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0,
        }
    }

    /// Where the next frame goes.
    pub(super) fn buffers(&self) -> &ScatterList {
        &self.buffers
    }

    /// Whether a frame may be spread over several chains.
    pub(super) fn mergeable(&self) -> bool {
        self.mergeable
    }

    /// Takes buffers until a frame of `wanted` bytes has room.
    pub(super) fn fill(&mut self, queue: &mut VirtQueue, wanted: usize) -> Result<Room, Malformed> {
        loop {
            if self.mergeable && self.buffers.len() >= wanted {
                return Ok(Room::Enough);
            }
            match self.chains.front() {
                Some((_, length)) if !self.mergeable && *length >= wanted => {
                    return Ok(Room::Enough);
                }
                Some(_) if !self.mergeable => return Ok(Room::Never),
                _ => {}
            }
            let before = self.buffers.len();
            let Some(head) = queue.pop_writable(&mut self.buffers)? else {
                // A driver that gave half of its ring and still not enough has
                // buffers too small for the frame.
                let never = self.chains.len() > usize::from(queue.size() / 2);
                return Ok(if never { Room::Never } else { Room::Lacking });
            };
            let length = self.buffers.len() - before;
            if length < FRAME_HEADER {
                return Err(queue.bad_request(head, "too short for a frame header"));
            }
            self.chains.push_back((head, length));
        }
    }

    /// Returns the chains that a frame of `length` bytes fills; the driver
    /// sees them with the next [`VirtQueue::publish_used`].
    pub(super) fn deliver(
        &mut self,
        length: usize,
        queue: &mut VirtQueue,
    ) -> Result<(), Malformed> {
        let mut count = 0u16;
        let mut room = 0;
        while room < length.max(1) {
            let Some((_, chain)) = self.chains.get(usize::from(count)) else {
                break;
            };
            room += chain;
            count += 1;
        }
        self.buffers
            .write_at(NUM_BUFFERS_OFFSET, &count.to_le_bytes());
        let mut left = length;
        for (head, chain) in self.chains.drain(..usize::from(count)) {
            let written = left.min(chain);
            left -= written;
            queue.stage_used(head, written)?;
        }
        self.buffers.advance(room);
        self.buffers.compact();
        Ok(())
    }
}
