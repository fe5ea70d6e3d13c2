//! What the host's kernel can do, found out once.

use std::io;
use std::os::fd::OwnedFd;

use libc::c_int;
use rustix::net::{SocketType, ipproto};

use super::datagrams::open;
use super::options;
use crate::net::nat::sockets::Family;

/// What the host can do of what it may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// TCP shows data from any offset (SO_PEEK_OFF; IPv4 since Linux 6.9).
    /// Without, each flow that is read from has a ring for it.
    pub peek_offset: bool,
    /// UDP sends many datagrams by one call (UDP_SEGMENT, Linux 4.18).
    pub udp_segment: bool,
    /// UDP receives many datagrams by one call (UDP_GRO, Linux 5.0).
    pub udp_gro: bool,
    /// There is IPv6.
    pub ipv6: bool,
    /// We may send echo requests (net.ipv4.ping_group_range, icmp(7)).
    pub ping4: bool,
    /// The same over IPv6.
    pub ping6: bool,
}

impl Capabilities {
    /// Finds out by trying.
    ///
    /// # Errors
    ///
    /// What the system says, if there are no sockets to be had, or the kernel
    /// is older than Linux 4.12.
    pub fn probe() -> io::Result<Self> {
        let tcp = |family| open(family, SocketType::STREAM, ipproto::TCP);
        let peeks = |socket: &OwnedFd| has(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0);
        let (tcp4, tcp6) = (tcp(Family::V4)?, tcp(Family::V6).ok());
        // Needed to know a socket's room: there since Linux 4.12.
        options::send_memory(&tcp4)?;
        let udp = open(Family::V4, SocketType::DGRAM, ipproto::UDP)?;
        let ping = |family, protocol| open(family, SocketType::DGRAM, protocol).is_ok();
        Ok(Self {
            peek_offset: peeks(&tcp4) && tcp6.as_ref().is_none_or(peeks),
            udp_segment: has(&udp, libc::SOL_UDP, libc::UDP_SEGMENT, 0),
            udp_gro: has(&udp, libc::SOL_UDP, libc::UDP_GRO, 1),
            ipv6: tcp6.is_some(),
            ping4: ping(Family::V4, ipproto::ICMP),
            ping6: ping(Family::V6, ipproto::ICMPV6),
        })
    }
}

fn has(socket: &OwnedFd, level: c_int, name: c_int, value: c_int) -> bool {
    options::set(socket, level, name, value).is_ok()
}
