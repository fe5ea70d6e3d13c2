//! Buffers scattered over guest memory, as one run of bytes.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use nestling_arch::GuestMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

/// The most pieces a list takes: what one vectored system call takes
/// (IOV_MAX, readv(2)), and more than any driver puts into one chain.
pub const MAX_PIECES: usize = 1024;

/// A range that isn't guest memory, or one piece too many.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Part of the range isn't guest memory.
    #[error("{length} bytes at {address:#x} aren't all guest memory")]
    NotMemory {
        /// The guest physical address where the range starts.
        address: u64,
        /// Its length in bytes.
        length: usize,
    },
    /// The list is full.
    #[error("more than {MAX_PIECES} buffers in one chain")]
    TooManyPieces,
}

/// Pieces of guest memory, read and written in order as if they were one
/// buffer, and lent to vectored system calls without a copy.
///
/// Bytes are consumed from the front. The list keeps its capacity when it is
/// cleared, so a list that lives as long as its queue allocates rarely.
pub struct ScatterList {
    memory: Arc<GuestMemory>,
    pieces: Vec<libc::iovec>,
    /// Index of the first piece that isn't consumed.
    first: usize,
    /// Bytes left in the pieces from `first` on.
    len: usize,
}

// SAFETY: the pointers lead into `memory`, which the list keeps mapped and
// which any thread may access through raw pointers: the guest does so too.
unsafe impl Send for ScatterList {}

impl ScatterList {
    /// An empty list over `memory`.
    pub fn new(memory: Arc<GuestMemory>) -> Self {
        Self {
            memory,
            pieces: Vec::new(),
            first: 0,
            len: 0,
        }
    }

    /// The bytes left.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all pieces.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.first = 0;
        self.len = 0;
    }

    /// Appends `length` bytes at guest physical `address`. On an error the
    /// list may hold part of the range.
    pub fn push(&mut self, address: GuestAddress, length: usize) -> Result<(), Error> {
        let not_memory = || Error::NotMemory {
            address: address.0,
            length,
        };
        for slice in GuestMemoryBackend::get_slices(&*self.memory, address, length) {
            let slice = slice.map_err(|_| not_memory())?;
            if self.pieces.len() - self.first == MAX_PIECES {
                return Err(Error::TooManyPieces);
            }
            self.len = self.len.checked_add(slice.len()).ok_or_else(not_memory)?;
            let base = slice.ptr_guard_mut().as_ptr().cast();
            self.pieces.push(libc::iovec {
                iov_base: base,
                iov_len: slice.len(),
            });
        }
        Ok(())
    }

    /// Drops consumed pieces, so that a list that is never empty doesn't grow.
    pub fn compact(&mut self) {
        self.pieces.drain(..self.first);
        self.first = 0;
    }

    /// Consumes `count` bytes, or all if there are fewer.
    pub fn advance(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len -= left;
        while let Some(piece) = self.pieces.get_mut(self.first) {
            if left < piece.iov_len {
                // SAFETY: `left` is less than the piece's length, so the
                // result points into the same mapping.
                piece.iov_base = unsafe { piece.iov_base.byte_add(left) };
                piece.iov_len -= left;
                return;
            }
            left -= piece.iov_len;
            self.first += 1;
        }
    }

    /// Keeps the first `count` bytes and moves what follows into `tail`,
    /// replacing what `tail` held.
    pub fn split_into(&mut self, count: usize, tail: &mut Self) {
        tail.clear();
        if count >= self.len {
            return;
        }
        tail.len = self.len - count;
        self.len = count;
        let mut left = count;
        let mut at = self.first;
        while left >= self.pieces[at].iov_len {
            left -= self.pieces[at].iov_len;
            at += 1;
        }
        tail.pieces.extend_from_slice(&self.pieces[at..]);
        // SAFETY: `left` is less than the piece's length, so the result
        // points into the same mapping.
        tail.pieces[0].iov_base = unsafe { tail.pieces[0].iov_base.byte_add(left) };
        tail.pieces[0].iov_len -= left;
        self.pieces[at].iov_len = left;
        self.pieces.truncate(at + 1);
    }

    /// Keeps the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count.min(self.len);
        self.len = left;
        let mut at = self.first;
        while left > 0 {
            let piece = &mut self.pieces[at];
            piece.iov_len = piece.iov_len.min(left);
            left -= piece.iov_len;
            at += 1;
        }
        self.pieces.truncate(at);
    }

    /// Copies from the front into `data` without consuming; returns the bytes
    /// copied, fewer than asked only where the list ends.
    pub fn peek(&self, data: &mut [u8]) -> usize {
        self.peek_at(0, data)
    }

    /// Copies what lies `offset` bytes from the front into `data` without
    /// consuming; returns the bytes copied, fewer than asked only where the
    /// list ends.
    pub fn peek_at(&self, mut offset: usize, data: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            if done == data.len() {
                break;
            }
            if offset >= slice.len() {
                offset -= slice.len();
                continue;
            }
            let Ok(source) = slice.offset(offset) else {
                break;
            };
            offset = 0;
            done += source.copy_to(&mut data[done..]);
        }
        done
    }

    /// Copies from the front into `data` and consumes what was copied, if the
    /// list holds that many bytes; else does nothing and returns false.
    #[must_use]
    pub fn take(&mut self, data: &mut [u8]) -> bool {
        if self.len < data.len() {
            return false;
        }
        self.peek(data);
        self.advance(data.len());
        true
    }

    /// Writes `data` at `offset` bytes from the front without consuming;
    /// what doesn't fit is left out.
    pub fn write_at(&self, mut offset: usize, mut data: &[u8]) {
        for slice in self.slices() {
            if data.is_empty() {
                return;
            }
            if offset >= slice.len() {
                offset -= slice.len();
                continue;
            }
            let Ok(target) = slice.offset(offset) else {
                return;
            };
            offset = 0;
            let count = target.len().min(data.len());
            target.copy_from(&data[..count]);
            data = &data[count..];
        }
    }

    /// Writes the bytes of `source` in `range` at `offset` bytes from the front
    /// without consuming on either side; what doesn't fit is left out.
    pub fn copy_at(&self, mut offset: usize, source: &Self, range: Range<usize>) {
        let (mut skip, mut left) = (range.start, range.len());
        let mut targets = self.slices();
        let mut target = targets.next();
        for slice in source.slices() {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            let taken = left.min(slice.len() - skipped);
            left -= taken;
            let Ok(mut from) = slice.subslice(skipped, taken) else {
                return;
            };
            while !from.is_empty() {
                let Some(to) = target else { return };
                if offset >= to.len() {
                    offset -= to.len();
                    target = targets.next();
                    continue;
                }
                let (Ok(to), count) = (to.offset(offset), from.len().min(to.len() - offset)) else {
                    return;
                };
                from.copy_to_volatile_slice(to);
                offset += count;
                let Ok(rest) = from.offset(count) else { return };
                from = rest;
            }
        }
    }

    /// Reads from `fd` into the list (readv(2)). Consumes nothing.
    pub fn read_from(&self, fd: &impl AsFd) -> io::Result<usize> {
        let (pieces, count) = self.iovecs();
        // SAFETY: each iovec lies within a mapping that `self.memory` keeps.
        transferred(unsafe { libc::readv(fd.as_fd().as_raw_fd(), pieces, count) })
    }

    /// Writes the list to `fd` (writev(2)). Consumes nothing.
    pub fn write_to(&self, fd: &impl AsFd) -> io::Result<usize> {
        let (pieces, count) = self.iovecs();
        // SAFETY: as in `read_from`.
        transferred(unsafe { libc::writev(fd.as_fd().as_raw_fd(), pieces, count) })
    }

    /// Sends the list through the socket `fd` without waiting and without
    /// SIGPIPE (sendmsg(2)). Consumes nothing.
    pub fn send_to(&self, fd: &impl AsFd) -> io::Result<usize> {
        let (pieces, count) = self.iovecs();
        // SAFETY: all-zero bytes are a valid msghdr: null pointers, zero lengths.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = pieces.cast_mut();
        message.msg_iovlen = usize::try_from(count).expect("a count is not negative");
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `message` outlives the call; its iovecs are as in `read_from`.
        transferred(unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &message, flags) })
    }

    /// Reads the whole list from `fd` at `offset` (preadv(2)) and consumes it.
    pub fn read_exact_at(&mut self, fd: &impl AsFd, offset: u64) -> io::Result<()> {
        self.transfer_at(fd, offset, libc::preadv64, io::ErrorKind::UnexpectedEof)
    }

    /// Writes the whole list to `fd` at `offset` (pwritev(2)) and consumes it.
    pub fn write_all_at(&mut self, fd: &impl AsFd, offset: u64) -> io::Result<()> {
        self.transfer_at(fd, offset, libc::pwritev64, io::ErrorKind::WriteZero)
    }

    fn transfer_at(
        &mut self,
        fd: &impl AsFd,
        mut offset: u64,
        call: unsafe extern "C" fn(
            libc::c_int,
            *const libc::iovec,
            libc::c_int,
            libc::off64_t,
        ) -> libc::ssize_t,
        at_end: io::ErrorKind,
    ) -> io::Result<()> {
        while !self.is_empty() {
            let (pieces, count) = self.iovecs();
            let at = libc::off64_t::try_from(offset)
                .map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
            // SAFETY: as in `read_from`; both calls take the same arguments.
            match transferred(unsafe { call(fd.as_fd().as_raw_fd(), pieces, count, at) }) {
                Ok(0) => return Err(at_end.into()),
                Ok(done) => {
                    self.advance(done);
                    offset += done as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills the list with random bytes (getrandom(2)) and consumes it.
    pub fn fill_random(&mut self) -> io::Result<()> {
        while let Some(piece) = self.pieces.get(self.first) {
            // SAFETY: the piece lies within a mapping that `self.memory` keeps.
            let done = unsafe { libc::getrandom(piece.iov_base, piece.iov_len, 0) };
            match transferred(done) {
                Ok(done) => self.advance(done),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The pieces of the bytes in `range`, for a vectored system call. They
    /// lead into memory that stays mapped as long as the list is.
    pub(crate) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = libc::iovec> {
        let (mut skip, mut left) = (range.start, range.len());
        let pieces = self.pieces[self.first..].iter();
        pieces.map_while(move |piece| {
            let skipped = skip.min(piece.iov_len);
            skip -= skipped;
            let taken = left.min(piece.iov_len - skipped);
            let more = left > 0;
            left -= taken;
            more.then(|| libc::iovec {
                // SAFETY: `skipped` is at most the piece's length, so the
                // result points into the same mapping or right behind it.
                iov_base: unsafe { piece.iov_base.byte_add(skipped) },
                iov_len: taken,
            })
        })
    }

    fn iovecs(&self) -> (*const libc::iovec, libc::c_int) {
        let pieces = &self.pieces[self.first..];
        let count = pieces.len().min(MAX_PIECES);
        (
            pieces.as_ptr(),
            libc::c_int::try_from(count).expect("at most MAX_PIECES"),
        )
    }

    fn slices(&self) -> impl Iterator<Item = VolatileSlice<'_>> {
        self.pieces[self.first..].iter().map(|piece| {
            // SAFETY: the piece lies within a mapping that `self.memory` keeps
            // at least as long as `self` is borrowed.
            unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
        })
    }
}

fn transferred(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
