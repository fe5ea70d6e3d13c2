//! Socket options that rustix lacks, each by its number (setsockopt(2)).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, socklen_t};
use rustix::io::Errno;

/// Bytes of an option that is a number.
const NUMBER: socklen_t = 4;
/// Numbers that SO_MEMINFO gives (SK_MEMINFO_VARS, linux/sock_diag.h).
const MEMORY_NUMBERS: socklen_t = 9;

/// The memory of a socket's send queue, in bytes, with what the kernel needs
/// to keep order in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendMemory {
    /// From how much on nothing more is taken.
    pub(super) limit: u32,
    /// How much is used.
    pub(super) used: u32,
}

/// What the system says about the call that just failed.
pub(super) fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Sets an option that is a number.
pub(super) fn set(
    socket: &impl AsFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> Result<(), Errno> {
    let value: *const c_int = &value;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `value` points to a number, which lives until the call is over.
    let result = unsafe { libc::setsockopt(fd, level, name, value.cast::<c_void>(), NUMBER) };
    if result == 0 {
        Ok(())
    } else {
        Err(last_error())
    }
}

/// The send queue's memory (SO_MEMINFO, Linux 4.12): what decides whether
/// sendmsg(2) takes more, unlike the bytes that SIOCOUTQ counts.
pub(super) fn send_memory(socket: &impl AsFd) -> Result<SendMemory, Errno> {
    let mut numbers = [0u32; MEMORY_NUMBERS as usize];
    let mut len = MEMORY_NUMBERS * NUMBER;
    let to = numbers.as_mut_ptr().cast::<c_void>();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `to` has room for `len` bytes, and any bytes are valid numbers.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut len) };
    if result != 0 {
        return Err(last_error());
    }
    Ok(SendMemory {
        limit: numbers[libc::SK_MEMINFO_SNDBUF as usize],
        used: numbers[libc::SK_MEMINFO_WMEM_QUEUED as usize],
    })
}
