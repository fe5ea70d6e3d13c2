//! How much a socket would take.

use std::os::fd::AsFd;

use super::options::send_memory;

/// What a send takes of the queue besides its bytes, at most: a struct sk_buff
/// and the room for headers, in the sizes that the kernel allocates.
const OVERHEAD: u32 = 2304;
/// As long as less than this was sent, what was known before is still good
/// enough, since it only errs on the safe side.
const SMALL_CHANGE: u32 = 32 << 10;
/// With less room left than this, each byte counts: two of the longest
/// segments.
const AMPLE: u32 = 128 << 10;

/// The room in a socket's send queue, as last seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    seen: u32,
    /// What was sent since, at most.
    sent: u32,
}

impl Room {
    /// Notes that bytes were sent.
    pub(super) fn sent(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.sent = self.sent.saturating_add(count).saturating_add(OVERHEAD);
    }

    /// The socket has just refused something.
    pub(super) fn exhausted(&mut self) {
        self.seen = 0;
    }

    /// How many bytes the socket would take, at least. It is asked only if
    /// the answer may matter; it may always have more than it was known to.
    pub(super) fn get(&mut self, socket: &impl AsFd) -> u32 {
        let left = self.seen.saturating_sub(self.sent);
        if left < AMPLE || self.sent > SMALL_CHANGE {
            let memory = send_memory(socket).ok();
            let free = memory.map_or(0, |memory| memory.limit.saturating_sub(memory.used));
            // The queue's order takes its share: less than 3 % in pieces of
            // 64 KiB, and more in smaller ones.
            *self = Self {
                seen: free - free / 16,
                sent: 0,
            };
        }
        self.seen.saturating_sub(self.sent)
    }
}
