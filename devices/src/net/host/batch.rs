//! Datagrams received together (recvmmsg(2)).
#![allow(unsafe_code)]

use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use libc::{c_int, c_uint, iovec, mmsghdr};
use rustix::io::Errno;

use super::message::{Control, Name, header};
use super::options::last_error;
use crate::net::nat::flows::Endpoint;

/// The most messages of one call.
const MOST: usize = 32;
/// The fewest room is made for: where there is room for one more than came,
/// one call says that there are no more.
const LEAST: usize = 2;
/// Room for the longest message: datagrams that came together (UDP_GRO,
/// udp(7)), which are at most as long as a packet.
const ROOM: usize = 1 << 16;

/// What a socket received at once: a datagram, or several of one sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// The sender.
    pub from: Endpoint,
    /// There are several datagrams of this length, the last one perhaps
    /// shorter.
    pub segment: Option<NonZeroU16>,
    /// The payload; of echoes the message from its ICMP header on.
    pub bytes: &'a [u8],
}

/// Room for datagrams, allocated once.
pub struct Batch {
    bytes: Box<[u8]>,
    names: [Name; MOST],
    controls: [Control; MOST],
    lens: [usize; MOST],
    /// Kept for their capacity.
    pieces: Vec<iovec>,
    headers: Vec<mmsghdr>,
    /// How many messages came.
    count: usize,
    /// How many there was room for.
    room: usize,
}

// SAFETY: the pointers are followed only in the call that sets them.
unsafe impl Send for Batch {}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch. Of its 2 MiB, what was never used takes no memory.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; MOST * ROOM].into_boxed_slice(),
            names: [Name::new(); MOST],
            controls: [Control::new(); MOST],
            lens: [0; MOST],
            pieces: Vec::with_capacity(MOST),
            headers: Vec::with_capacity(MOST),
            count: 0,
            room: LEAST,
        }
    }

    /// What came.
    pub fn iter(&self) -> impl Iterator<Item = Arrival<'_>> {
        (0..self.count).filter_map(|index| {
            let bytes = &self.bytes[index * ROOM..][..self.lens[index]];
            let segment = self.controls[index].find(libc::SOL_UDP, libc::UDP_GRO);
            let segment = segment.and_then(|data| Some(c_int::from_ne_bytes(*data.first_chunk()?)));
            let segment = segment.and_then(|segment| u16::try_from(segment).ok());
            let segment = segment.filter(|segment| usize::from(*segment) < bytes.len());
            Some(Arrival {
                from: self.names[index].endpoint()?,
                segment: segment.and_then(NonZeroU16::new),
                bytes,
            })
        })
    }

    /// Whether there may be more where this came from.
    pub fn is_full(&self) -> bool {
        self.count == self.room
    }

    /// Replaces what the batch holds by what the socket has.
    pub(super) fn receive(&mut self, socket: &impl AsFd) -> Result<usize, Errno> {
        // As much room as was of use the last time, and then some.
        let room = (2 * self.count).clamp(LEAST, MOST);
        (self.room, self.count) = (room, 0);
        self.pieces.clear();
        self.headers.clear();
        let pieces = self.bytes.chunks_exact_mut(ROOM).take(room);
        self.pieces.extend(pieces.map(|chunk| iovec {
            iov_base: chunk.as_mut_ptr().cast(),
            iov_len: chunk.len(),
        }));
        let names = self.names.iter_mut().zip(&mut self.controls);
        for (piece, (name, control)) in self.pieces.iter_mut().zip(names) {
            let name = (name.as_mut_ptr(), Name::LEN);
            self.headers.push(mmsghdr {
                msg_hdr: header(name, (piece, 1), control.room()),
                msg_len: 0,
            });
        }
        let fd = socket.as_fd().as_raw_fd();
        let len = c_uint::try_from(self.headers.len()).expect("at most MOST");
        let headers = self.headers.as_mut_ptr();
        // SAFETY: there are `len` headers, and what each names lies in `self`.
        let count =
            unsafe { libc::recvmmsg(fd, headers, len, libc::MSG_DONTWAIT, ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| last_error())?;
        for (index, header) in self.headers[..count].iter().enumerate() {
            self.lens[index] = header.msg_len as usize;
            self.controls[index].set_len(header.msg_hdr.msg_controllen);
        }
        self.count = count;
        Ok(count)
    }
}
