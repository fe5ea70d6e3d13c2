//! Messages: the calls that move bytes between sockets and the places where
//! payloads lie (sendmsg(2), recvmsg(2)), without a copy on the way.
#![allow(unsafe_code)]

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use libc::{c_int, c_void, iovec, msghdr, socklen_t};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::net::addr::SocketAddrArg;

use super::options::last_error;
use crate::net::nat::flows::Endpoint;
use crate::net::payload::{Part, Payload, Place};
use crate::scatter::ScatterList;

/// Bytes of an item's header in ancillary data (cmsg(3)).
const ITEM_HEADER: usize = size_of::<libc::cmsghdr>();
/// To which multiple of bytes items are filled up.
const ITEM_ALIGN: usize = size_of::<usize>();

/// Ancillary data (cmsg(3)): at most what one of our messages needs, which is
/// an error and who reported it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; 96],
    len: usize,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; 96],
            len: 0,
        }
    }

    /// Appends an item.
    ///
    /// # Panics
    ///
    /// If there is no room: what is to be sent is known beforehand.
    pub(super) fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let len = ITEM_HEADER + data.len();
        let item = &mut self.bytes[self.len..][..len.next_multiple_of(ITEM_ALIGN)];
        item[..ITEM_ALIGN].copy_from_slice(&len.to_ne_bytes());
        item[ITEM_ALIGN..][..4].copy_from_slice(&level.to_ne_bytes());
        item[ITEM_ALIGN + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
        item[ITEM_HEADER..len].copy_from_slice(data);
        self.len += item.len();
    }

    /// The data of the first item of a kind.
    pub(super) fn find(&self, level: c_int, kind: c_int) -> Option<&[u8]> {
        let mut rest = &self.bytes[..self.len];
        loop {
            let (header, _) = rest.split_at_checked(ITEM_HEADER)?;
            let (len, names) = header.split_first_chunk::<ITEM_ALIGN>()?;
            let len = usize::from_ne_bytes(*len);
            let data = rest.get(ITEM_HEADER..len)?;
            if names[..4] == level.to_ne_bytes() && names[4..8] == kind.to_ne_bytes() {
                return Some(data);
            }
            rest = rest.get(len.next_multiple_of(ITEM_ALIGN)..)?;
        }
    }

    /// Where the kernel is to put items, and how many bytes it may use.
    pub(super) fn room(&mut self) -> (*mut c_void, usize) {
        (self.bytes.as_mut_ptr().cast(), self.bytes.len())
    }

    /// Notes how many bytes the kernel used.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(self.bytes.len());
    }
}

/// An address as the kernel writes it (struct sockaddr_in, ip(7); struct
/// sockaddr_in6, ipv6(7)).
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub(super) struct Name([u8; Self::LEN as usize]);

impl Name {
    pub(super) const LEN: socklen_t = 28;

    pub(super) fn new() -> Self {
        Self([0; 28])
    }

    /// The address that starts at some bytes, if there is one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Endpoint> {
        let family = c_int::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
        let address: IpAddr = match family {
            libc::AF_INET => {
                let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
                Ipv4Addr::from(octets).into()
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
                Ipv6Addr::from(octets).into()
            }
            _ => return None,
        };
        Some(Endpoint::new(address, port))
    }

    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        Self::parse(&self.0)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut c_void {
        self.0.as_mut_ptr().cast()
    }
}

/// A message in the pieces and with the addition given.
pub(super) fn header(
    (name, name_len): (*mut c_void, socklen_t),
    (pieces, count): (*mut iovec, usize),
    (control, control_len): (*mut c_void, usize),
) -> msghdr {
    msghdr {
        msg_name: name,
        msg_namelen: name_len,
        msg_iov: pieces,
        msg_iovlen: count,
        msg_control: control,
        msg_controllen: control_len,
        msg_flags: 0,
    }
}

/// Sends payloads from where they lie, and reads to guest memory.
#[derive(Default)]
pub(super) struct Mover {
    /// Kept for its capacity.
    pieces: Vec<iovec>,
    /// The copy of a payload that lies nowhere.
    copy: Vec<u8>,
}

// SAFETY: the pointers are followed only in the call that sets them.
unsafe impl Send for Mover {}

impl Mover {
    /// Sends the bytes of `payload` in `range`; returns how many were taken.
    pub(super) fn send(
        &mut self,
        socket: &impl AsFd,
        to: Option<SocketAddr>,
        payload: &dyn Payload,
        range: Range<usize>,
        control: &Control,
    ) -> Result<usize, Errno> {
        let part = Part::new(payload, range);
        let slice = match part.place() {
            Place::Slice(slice) => slice,
            Place::Scattered(list, range) => {
                self.pieces.clear();
                self.pieces.extend(list.pieces(range));
                return self.send_pieces(socket, to, control);
            }
            Place::Elsewhere => {
                self.copy.resize(part.len(), 0);
                part.read_at(0, &mut self.copy);
                &self.copy
            }
        };
        if control.len > 0 {
            self.pieces.clear();
            self.pieces.push(piece(slice));
            return self.send_pieces(socket, to, control);
        }
        // The kernel has less to look at than in a message.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match to {
            None => rustix::net::send(socket, slice, flags),
            Some(to) => rustix::net::sendto(socket, slice, flags, &to),
        }
    }

    /// Sends `self.pieces`, which lead into memory that is mapped.
    fn send_pieces(
        &mut self,
        socket: &impl AsFd,
        to: Option<SocketAddr>,
        control: &Control,
    ) -> Result<usize, Errno> {
        let pieces = (self.pieces.as_mut_ptr(), self.pieces.len());
        let control = match control.len {
            0 => (ptr::null_mut(), 0),
            len => (control.bytes.as_ptr().cast_mut().cast(), len),
        };
        let fd = socket.as_fd().as_raw_fd();
        let send = |name| {
            let message = header(name, pieces, control);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: the name is null, or `with_sockaddr` vouches for it; the
            // pieces lie in a payload or in `self.copy`, which the caller has
            // borrowed; the kernel only reads all of them.
            transferred(unsafe { libc::sendmsg(fd, &raw const message, flags) })
        };
        match to {
            None => send((ptr::null_mut(), 0)),
            // SAFETY: the pointer is used within the call it is valid for.
            Some(to) => unsafe {
                to.with_sockaddr(|name, len| send((name.cast_mut().cast(), len)))
            },
        }
    }

    /// Receives into `list`, into the bytes in `range`.
    pub(super) fn receive_scattered(
        &mut self,
        socket: &impl AsFd,
        list: &ScatterList,
        range: Range<usize>,
        flags: c_int,
    ) -> Result<usize, Errno> {
        self.pieces.clear();
        self.pieces.extend(list.pieces(range));
        let pieces = (self.pieces.as_mut_ptr(), self.pieces.len());
        let mut message = header((ptr::null_mut(), 0), pieces, (ptr::null_mut(), 0));
        let flags = flags | libc::MSG_DONTWAIT;
        // SAFETY: the pieces lie in memory that `list` keeps mapped, and where
        // anyone may write at any time.
        transferred(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) })
    }
}

/// Receives into two places, one after the other.
pub(super) fn receive(
    socket: &impl AsFd,
    places: &mut [IoSliceMut<'_>; 2],
) -> Result<usize, Errno> {
    // An IoSliceMut is a struct iovec.
    let pieces = (places.as_mut_ptr().cast(), places.len());
    let mut message = header((ptr::null_mut(), 0), pieces, (ptr::null_mut(), 0));
    let (fd, flags) = (socket.as_fd().as_raw_fd(), libc::MSG_DONTWAIT);
    // SAFETY: the places are borrowed until the call is over.
    transferred(unsafe { libc::recvmsg(fd, &raw mut message, flags) })
}

/// Drops the first `count` bytes of a TCP socket, without copying them
/// (MSG_TRUNC, tcp(7)); returns how many there were.
pub(super) fn drop_bytes(socket: &impl AsFd, count: usize) -> Result<usize, Errno> {
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC, tcp(7) writes to no buffer.
    transferred(unsafe { libc::recv(fd, ptr::null_mut(), count, flags) })
}

/// Receives a message with its name and ancillary data; returns how many bytes
/// of it fit. Of the error queue (MSG_ERRQUEUE, recvmsg(2)), the message is
/// what an error is about, and its name to whom that was sent.
pub(super) fn receive_message(
    socket: &impl AsFd,
    name: &mut Name,
    control: &mut Control,
    data: &mut [u8],
    flags: c_int,
) -> Result<usize, Errno> {
    let mut piece = iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let name = (name.as_mut_ptr(), Name::LEN);
    let mut message = header(name, (&raw mut piece, 1), control.room());
    let flags = flags | libc::MSG_DONTWAIT;
    // SAFETY: all that the header names is borrowed until the call is over.
    let count =
        transferred(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) })?;
    control.set_len(message.msg_controllen);
    Ok(count)
}

fn piece(slice: &[u8]) -> iovec {
    iovec {
        iov_base: slice.as_ptr().cast_mut().cast(),
        iov_len: slice.len(),
    }
}

fn transferred(result: isize) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last_error())
}
