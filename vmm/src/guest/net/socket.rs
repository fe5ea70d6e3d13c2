//! Sockets that the standard library can't make.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn open(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; the result is checked.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small type")
}

/// Has the connection reset as soon as the stream is dropped (SO_LINGER,
/// socket(7)), so that its peer learns that it is given up.
pub(super) fn reset_by_close(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the kernel reads one struct linger. It refuses no connected socket; if it did,
    // the connection would end in order.
    let _ = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length::<libc::linger>(),
        )
    };
}

/// A UDP socket of IPv4 at `port` of one interface, whatever addresses the
/// interface has, if any (SO_BINDTODEVICE, socket(7)). It may send to all.
pub(super) fn udp_on(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = open(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let name_length = libc::socklen_t::try_from(interface.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads as many bytes of the name as it is told.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            name_length,
        )
    })?;
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("a small number"),
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    };
    // SAFETY: the kernel reads one sockaddr_in.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length::<libc::sockaddr_in>(),
        )
    })?;
    let socket = UdpSocket::from(socket);
    socket.set_broadcast(true)?;
    Ok(socket)
}

/// A raw socket for the control messages of `peer`'s family, which takes those
/// of `peer` only (raw(7), raw(7) of ipv6(7)). That of IPv6 puts checksums in
/// by itself. The standard library's type serves for its calls.
pub(super) fn icmp(peer: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match peer {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
    };
    let socket = UdpSocket::from(open(family, libc::SOCK_RAW, protocol)?);
    socket.connect((peer, 0))?;
    Ok(socket)
}
