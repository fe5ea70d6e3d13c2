//! Data that stays in the kernel until the guest has it: SO_PEEK_OFF, which
//! TCP has since Linux 6.9 (socket(7)).

use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use libc::c_int;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{RecvFlags, recv};

use super::message::{Mover, drop_bytes};
use super::options;
use super::scratch::{AHEAD, Scratch, Span};
use super::table::Token;
use crate::net::nat::tcp::streams::Waiting;
use crate::scatter::ScatterList;

/// The first look takes along this much: a short answer is there at once.
const FIRST_LOOK: u32 = 4096;
/// What is at least this long goes to the guest without passing the scratch.
const DIRECT: u32 = 8192;
/// How much the kernel may keep, and after how many calls, of what it could
/// drop: so a call is made not for each acknowledgement.
const OWED: u32 = 16 << 10;
const OWED_CALLS: u8 = 16;
/// If nothing else waits, a flow may be idle from now on: then the kernel
/// keeps only this much.
const OWED_IDLE: u32 = 512;

/// What waits in a socket. Offsets are from the first byte that the kernel
/// keeps; callers count from the first that they haven't discarded.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Where in the stream the first byte stands.
    position: u32,
    /// Bytes that were discarded, and the kernel wasn't told yet.
    owed: u32,
    owed_calls: u8,
    /// Bytes that are known to be there.
    known: u32,
    /// Where the kernel looks next; at 0 until it is told to move on.
    kernel_offset: Option<u32>,
    /// There may be more than is known.
    news: bool,
    /// The stream ends with what is there.
    hangup: bool,
    /// The last look found more than one look takes along.
    bulk: bool,
}

impl Queue {
    /// Learns that data, or the end, has come.
    pub(super) fn news(&mut self, hangup: bool) {
        self.news = true;
        self.hangup |= hangup;
    }

    pub(super) fn peek(
        &mut self,
        (fd, token): (&OwnedFd, Token),
        range: (u32, u32),
        scratch: &mut Scratch,
    ) -> Result<Waiting, Errno> {
        let (offset, most) = range;
        let start = self.owed.saturating_add(offset);
        if self.news && self.known < start.saturating_add(most) {
            self.look(fd, token, start, scratch)?;
        }
        let len = self.known.saturating_sub(start).min(most);
        let all = start.saturating_add(len) == self.known;
        Ok(Waiting {
            len,
            end: self.hangup && !self.news && all,
        })
    }

    /// Finds out how much there is.
    fn look(
        &mut self,
        fd: &OwnedFd,
        token: Token,
        start: u32,
        scratch: &mut Scratch,
    ) -> Result<(), Errno> {
        // Of a stream that has hung up, only the end may be missing.
        let seeks = self.kernel_offset.unwrap_or(0) != start;
        if self.known == start && !self.bulk && !(self.hangup && seeks) {
            let span = self.span(token, start, FIRST_LOOK);
            let count = match self.load(fd, span, scratch) {
                Err(Errno::AGAIN) => None,
                count => Some(count?),
            };
            self.known = start + count.unwrap_or(0);
            // Only the end is found to be nothing.
            self.hangup |= count == Some(0);
            self.bulk = count == Some(FIRST_LOOK);
            if !self.bulk {
                self.news = false;
                return Ok(());
            }
        }
        let count = u32::try_from(ioctl_fionread(fd)?).unwrap_or(u32::MAX);
        self.bulk = count.saturating_sub(start) >= FIRST_LOOK;
        self.known = self.known.max(count);
        self.news = false;
        Ok(())
    }

    pub(super) fn view(
        &mut self,
        (fd, token): (&OwnedFd, Token),
        (offset, len): (u32, u32),
        scratch: &mut Scratch,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), Errno> {
        let span = self.span(token, self.owed.saturating_add(offset), len);
        with(&[IoSlice::new(self.bytes(fd, span, scratch)?)]);
        Ok(())
    }

    pub(super) fn fill(
        &mut self,
        (fd, token): (&OwnedFd, Token),
        (offset, len): (u32, u32),
        (buffers, at): (&ScatterList, usize),
        (scratch, mover): (&mut Scratch, &mut Mover),
    ) -> Result<(), Errno> {
        let span = self.span(token, self.owed.saturating_add(offset), len);
        if len < DIRECT || scratch.get(span).is_some() {
            buffers.write_at(at, self.bytes(fd, span, scratch)?);
            return Ok(());
        }
        let place = Range {
            start: at,
            end: at + len as usize,
        };
        self.seek(fd, span)?;
        let count = mover.receive_scattered(fd, buffers, place, libc::MSG_PEEK)?;
        self.moved(count);
        if count < len as usize {
            return Err(Errno::CONNRESET);
        }
        Ok(())
    }

    /// The bytes of a span that is known to be there.
    fn bytes<'a>(
        &mut self,
        fd: &OwnedFd,
        span: Span,
        scratch: &'a mut Scratch,
    ) -> Result<&'a [u8], Errno> {
        if scratch.get(span).is_none() {
            let start = span.from.wrapping_sub(self.position);
            let more = self.known.saturating_sub(start).min(AHEAD);
            let ahead = Span {
                len: if scratch.follows(span) {
                    span.len.max(more)
                } else {
                    span.len
                },
                ..span
            };
            self.load(fd, ahead, scratch)?;
        }
        scratch.get(span).ok_or(Errno::CONNRESET)
    }

    fn load(&mut self, fd: &OwnedFd, span: Span, scratch: &mut Scratch) -> Result<u32, Errno> {
        self.seek(fd, span)?;
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let count = scratch.load(span, |bytes| Ok::<_, Errno>(recv(fd, bytes, flags)?.0))?;
        self.moved(count as usize);
        Ok(count)
    }

    /// Has the kernel look at the start of a span.
    fn seek(&mut self, fd: &OwnedFd, span: Span) -> Result<(), Errno> {
        let offset = span.from.wrapping_sub(self.position);
        if self.kernel_offset.unwrap_or(0) != offset {
            let value = c_int::try_from(offset).map_err(|_| Errno::OVERFLOW)?;
            options::set(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, value)?;
            self.kernel_offset = Some(offset);
        }
        Ok(())
    }

    /// The kernel has shown bytes, and goes on after them.
    fn moved(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(offset) = &mut self.kernel_offset {
            *offset = offset.saturating_add(count);
        }
    }

    pub(super) fn discard(&mut self, fd: &impl AsFd, count: u32) {
        self.owed = self.owed.saturating_add(count).min(self.known);
        self.owed_calls += 1;
        let idle = self.owed == self.known;
        if self.owed >= OWED || self.owed_calls >= OWED_CALLS || (idle && self.owed > OWED_IDLE) {
            self.settle(fd);
        }
    }

    /// Has the kernel drop what was discarded. It must have, before the socket
    /// is closed: else it resets the connection, since data was lost.
    pub(super) fn settle(&mut self, fd: &impl AsFd) {
        self.owed_calls = 0;
        if self.owed == 0 {
            return;
        }
        let Ok(dropped) = drop_bytes(fd, self.owed as usize) else {
            return;
        };
        let dropped = u32::try_from(dropped).unwrap_or(self.owed).min(self.owed);
        self.owed -= dropped;
        self.known -= dropped;
        self.position = self.position.wrapping_add(dropped);
        if let Some(offset) = &mut self.kernel_offset {
            *offset = offset.saturating_sub(dropped);
        }
    }

    fn span(&self, stream: Token, start: u32, len: u32) -> Span {
        Span {
            stream,
            from: self.position.wrapping_add(start),
            len,
        }
    }
}
