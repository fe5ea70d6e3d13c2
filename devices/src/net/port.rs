//! What stands behind a NIC: a place that takes frames and gives frames.

use std::io;
use std::os::fd::BorrowedFd;

use bitflags::bitflags;

use crate::scatter::ScatterList;

/// Bytes before each frame: struct virtio_net_hdr_mrg_rxbuf, little endian
/// (virtio 1.3, 5.1.6; Linux's linux/virtio_net.h), which says what checksum
/// and segmentation the frame still lacks. Linux's taps speak it too.
pub const FRAME_HEADER: usize = 12;

/// The longest frame with its header: an IP packet of 65535 bytes in
/// Ethernet, with room for a VLAN tag.
pub const MAX_FRAME: usize = FRAME_HEADER + 14 + 4 + 65535;

bitflags! {
    /// Work on frames that is left to their receiver.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Offloads: u8 {
        /// Completing a TCP or UDP checksum.
        const CHECKSUM = 1 << 0;
        /// Segmenting TCP over IPv4.
        const TSO4 = 1 << 1;
        /// Segmenting TCP over IPv6.
        const TSO6 = 1 << 2;
        /// Segmenting TCP with congestion notification.
        const ECN = 1 << 3;
        /// Segmenting UDP.
        const USO = 1 << 4;
    }
}

/// A port of a virtual network, from the side of the NIC that is plugged in.
///
/// A NIC with several queue pairs has one port for each. Frames stay in the
/// NIC's guest memory: a port reads and writes them where they are, each
/// with its [`FRAME_HEADER`].
pub trait Port: Send {
    /// The work that the port takes over for frames sent to it, and leaves to
    /// a receiver that says it can do it.
    fn offloads(&self) -> Offloads;

    /// The largest packet in a frame, without the Ethernet header, if the
    /// port knows.
    fn mtu(&self) -> Option<u16>;

    /// Says what the NIC's guest does with received frames itself.
    fn accept(&mut self, offloads: Offloads) -> io::Result<()>;

    /// Whether the NIC uses this port; one that isn't used receives nothing.
    fn set_active(&mut self, active: bool) -> io::Result<()>;

    /// The descriptor that is readable when frames wait, and writable when
    /// the port takes frames.
    fn readiness(&self) -> BorrowedFd<'_>;

    /// Sends a frame. [`io::ErrorKind::WouldBlock`] asks for it again once the
    /// port is writable; after any other error the frame is dropped.
    fn send(&mut self, frame: &ScatterList) -> io::Result<()>;

    /// Writes the next frame to the start of `buffers` and returns its length,
    /// header included; what doesn't fit is cut off.
    /// [`io::ErrorKind::WouldBlock`] means that there is none, any other error
    /// that there never will be one.
    fn receive(&mut self, buffers: &ScatterList) -> io::Result<usize>;
}
