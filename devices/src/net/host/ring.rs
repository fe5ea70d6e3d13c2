//! Data that is kept in a ring of our own until the guest has it, where the
//! kernel can't show it more than once from any offset.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::message::receive;
use crate::net::nat::tcp::streams::Waiting;
use crate::scatter::ScatterList;

/// The sizes of rings. Each flow may have one of the first; the others are
/// for those who turn out to need them.
const SIZES: [u32; 4] = [4 << 10, 32 << 10, 256 << 10, 1 << 20];
/// No ring takes more than one of this many parts of the memory left, so that
/// there is always some for the next.
const SHARE: usize = 4;
/// How much memory is kept at hand though no ring needs it.
const KEPT: usize = 8 << 20;

/// The memory of all rings.
pub(super) struct Pool {
    spare: [Vec<Box<[u8]>>; SIZES.len()],
    /// Bytes in `spare`.
    kept: usize,
    /// Bytes in rings.
    used: usize,
    limit: usize,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            spare: Default::default(),
            kept: 0,
            used: 0,
            limit,
        }
    }

    /// Bytes in rings.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// A buffer of a class of sizes, if its share allows it.
    fn take(&mut self, class: usize) -> Option<Box<[u8]>> {
        let size = SIZES[class] as usize;
        if class > 0 && size > self.limit.saturating_sub(self.used) / SHARE {
            return None;
        }
        self.used += size;
        if let Some(buffer) = self.spare[class].pop() {
            self.kept -= size;
            return Some(buffer);
        }
        Some(vec![0; size].into_boxed_slice())
    }

    fn give_back(&mut self, buffer: Box<[u8]>) {
        self.used -= buffer.len();
        let class = SIZES.iter().position(|size| *size as usize == buffer.len());
        if let Some(class) = class.filter(|_| self.kept + buffer.len() <= KEPT) {
            self.kept += buffer.len();
            self.spare[class].push(buffer);
        }
    }
}

/// What was read from a socket, and the guest doesn't have yet. An empty ring
/// has no memory.
#[derive(Debug, Default)]
pub(super) struct Ring {
    buffer: Option<Box<[u8]>>,
    /// Where the first byte is.
    head: u32,
    len: u32,
    /// The most that it held since it was last empty.
    peak: u32,
    /// The class of sizes to begin with.
    class: u8,
    /// There may be more in the socket.
    news: bool,
    /// The stream ends with what is in the socket.
    hangup: bool,
    /// The stream ends with what is in the ring.
    end: bool,
}

impl Ring {
    /// Learns that data, or the end, has come.
    pub(super) fn news(&mut self, hangup: bool) {
        self.news = true;
        self.hangup |= hangup;
    }

    pub(super) fn peek(
        &mut self,
        fd: &OwnedFd,
        (offset, most): (u32, u32),
        pool: &mut Pool,
    ) -> Result<Waiting, Errno> {
        let wanted = offset.saturating_add(most);
        while self.news && !self.end && self.len < wanted && self.make_room(pool) {
            self.read(fd)?;
        }
        if self.len == 0 {
            self.release(pool);
        }
        let len = self.len.saturating_sub(offset).min(most);
        Ok(Waiting {
            len,
            end: self.end && offset.saturating_add(len) == self.len,
        })
    }

    /// Makes the ring larger if it is full; false if it may not be.
    fn make_room(&mut self, pool: &mut Pool) -> bool {
        let capacity = self.capacity();
        if self.len < capacity {
            return true;
        }
        let larger = SIZES.iter().position(|size| *size > capacity);
        let Some(larger) = larger else {
            return false;
        };
        let wanted = larger.max(self.class.into());
        let taken = pool.take(wanted).or_else(|| pool.take(larger));
        let Some(mut buffer) = taken else {
            return false;
        };
        if let Some(old) = self.buffer.take() {
            let (end, start) = old.split_at(self.head as usize);
            let (to_start, rest) = buffer.split_at_mut(start.len());
            to_start.copy_from_slice(start);
            rest[..end.len()].copy_from_slice(end);
            pool.give_back(old);
        }
        self.head = 0;
        self.buffer = Some(buffer);
        true
    }

    /// Reads as much as there is room for.
    fn read(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        let (head, len) = (self.head as usize, self.len as usize);
        let buffer = self.buffer.as_deref_mut().unwrap_or_default();
        let room = buffer.len() - len;
        let tail = head + len;
        let (first, second) = if tail < buffer.len() {
            let (before, after) = buffer.split_at_mut(tail);
            (after, &mut before[..head])
        } else {
            let tail = tail - buffer.len();
            (&mut buffer[tail..head], &mut [][..])
        };
        let received = if second.is_empty() {
            recv(fd, first, RecvFlags::DONTWAIT).map(|(count, _)| count)
        } else {
            let mut places = [IoSliceMut::new(first), IoSliceMut::new(second)];
            receive(fd, &mut places)
        };
        let count = match received {
            Err(Errno::AGAIN) => {
                self.news = false;
                return Ok(());
            }
            count => count?,
        };
        // A short read has emptied the socket (epoll(7)).
        self.news = count == room;
        self.end = count == 0 || (self.hangup && count < room);
        self.len += u32::try_from(count).unwrap_or(0);
        self.peak = self.peak.max(self.len);
        Ok(())
    }

    pub(super) fn view(
        &self,
        range: (u32, u32),
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), Errno> {
        let (first, second) = self.slices(range).ok_or(Errno::CONNRESET)?;
        with(&[IoSlice::new(first), IoSlice::new(second)]);
        Ok(())
    }

    pub(super) fn fill(
        &self,
        range: (u32, u32),
        buffers: &ScatterList,
        at: usize,
    ) -> Result<(), Errno> {
        let (first, second) = self.slices(range).ok_or(Errno::CONNRESET)?;
        buffers.write_at(at, first);
        buffers.write_at(at + first.len(), second);
        Ok(())
    }

    /// `len` bytes from `offset` on.
    fn slices(&self, (offset, len): (u32, u32)) -> Option<(&[u8], &[u8])> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        let buffer = self.buffer.as_deref().unwrap_or_default();
        let start = self.head as usize + offset as usize;
        let start = start.checked_sub(buffer.len()).unwrap_or(start);
        let end = start + len as usize;
        match end.checked_sub(buffer.len()) {
            None => Some((&buffer[start..end], &[])),
            Some(end) => Some((&buffer[start..], &buffer[..end])),
        }
    }

    pub(super) fn discard(&mut self, count: u32, pool: &mut Pool) {
        let count = count.min(self.len);
        self.len -= count;
        self.head += count;
        self.head = self.head.checked_sub(self.capacity()).unwrap_or(self.head);
        if self.len == 0 {
            self.release(pool);
        }
    }

    /// Gives the memory back: what was kept is lost.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        if let Some(buffer) = self.buffer.take() {
            pool.give_back(buffer);
            let fits = SIZES.iter().position(|size| *size >= self.peak);
            let class = fits.filter(|_| self.peak > 0);
            let class = class.and_then(|class| u8::try_from(class).ok());
            self.class = class.unwrap_or(self.class);
        }
        (self.head, self.len, self.peak) = (0, 0, 0);
    }

    fn capacity(&self) -> u32 {
        let capacity = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
        u32::try_from(capacity).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_out() {
        let mut pool = Pool::new(6 << 20);
        let large = pool.take(3).unwrap();
        assert_eq!(large.len(), 1 << 20);
        let second = pool.take(3).unwrap();
        // A quarter of the 4 MiB left is the last that is as large.
        let third = pool.take(3).unwrap();
        assert!(pool.take(3).is_none());
        assert!(pool.take(2).is_some());
        for buffer in [large, second, third] {
            pool.give_back(buffer);
        }
        assert_eq!(pool.used, 256 << 10);
        assert_eq!(pool.kept, 3 << 20);
        let mut none = Pool::new(0);
        assert!(none.take(1).is_none());
        assert_eq!(none.take(0).unwrap().len(), 4096, "each flow's own");
    }
}
