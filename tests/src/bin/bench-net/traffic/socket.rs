//! What the standard library doesn't ask of a socket.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// How many segments the kernel has sent again on this flow (TCP_INFO).
pub(super) fn retransmissions(stream: &TcpStream) -> io::Result<u32> {
    // SAFETY: the structure is of integers only, so that all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = socklen(size_of_val(&info))?;
    // SAFETY: the kernel writes at most `length` bytes, the structure's size.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(info.tcpi_total_retrans)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes with a reset instead of a FIN.
pub(super) fn reset(stream: TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the kernel reads the structure, of the size that it is told.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            socklen(size_of_val(&linger))?,
        )
    };
    if result == 0 {
        drop(stream);
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn socklen(size: usize) -> io::Result<libc::socklen_t> {
    size.try_into().map_err(io::Error::other)
}
