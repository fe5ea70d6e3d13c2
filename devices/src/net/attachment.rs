//! What is plugged into the switch, from the side of the network's thread.
//!
//! A [`Port`](super::port::Port) is what stands behind a NIC that moves its
//! frames itself. Where many NICs, taps and sockets meet, one thread moves the
//! frames of all, and each is an [`Attachment`] to it.

use std::io;
use std::os::fd::BorrowedFd;

use bitflags::bitflags;

use super::mac::MacAddress;
use super::nat::tcp::streams::{Source, Streams};
use super::payload::{Payload, Place};
use super::port::Offloads;
use super::switch::ReceiveFilter;
use crate::scatter::ScatterList;

bitflags! {
    /// What an attachment's descriptors have told it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct News: u8 {
        /// [`Attachment::receive`] may have a frame.
        const FRAMES = 1 << 0;
        /// [`Attachment::send`] may have room again.
        const ROOM = 1 << 1;
        /// [`Attachment::settings`] may have changed.
        const SETTINGS = 1 << 2;
        /// There will never be a frame again.
        const GONE = 1 << 3;
    }
}

/// How the other side wants to be served, which it may change at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The work on frames that it does itself, so that it is left to it.
    pub offloads: Offloads,
    /// The frames that its NIC wants.
    pub filter: ReceiveFilter,
    /// Whether it can receive now.
    pub link: bool,
}

/// Where a received frame's bytes lie.
enum Bytes {
    Own(Box<[u8]>, usize),
    Guest(ScatterList),
}

/// A frame that came from an attachment, with its header of
/// [`FRAME_HEADER`](super::port::FRAME_HEADER) bytes. It belongs to the
/// attachment, which is to get it back by [`Attachment::release`].
pub struct Frame {
    bytes: Bytes,
    token: u32,
}

impl Frame {
    /// A frame in the first `len` bytes of `buffer`. The attachment finds what
    /// belongs to it by `token`.
    pub fn owned(buffer: Box<[u8]>, len: usize, token: u32) -> Self {
        let len = len.min(buffer.len());
        Self {
            bytes: Bytes::Own(buffer, len),
            token,
        }
    }

    /// A frame in guest memory.
    pub fn scattered(list: ScatterList, token: u32) -> Self {
        Self {
            bytes: Bytes::Guest(list),
            token,
        }
    }

    /// What the attachment calls it.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// The buffer of a frame made by [`Frame::owned`].
    pub fn into_buffer(self) -> Option<Box<[u8]>> {
        match self.bytes {
            Bytes::Own(buffer, _) => Some(buffer),
            Bytes::Guest(_) => None,
        }
    }

    /// The list of a frame made by [`Frame::scattered`].
    pub fn into_list(self) -> Option<ScatterList> {
        match self.bytes {
            Bytes::Own(..) => None,
            Bytes::Guest(list) => Some(list),
        }
    }
}

impl Payload for Frame {
    fn len(&self) -> usize {
        match &self.bytes {
            Bytes::Own(_, len) => *len,
            Bytes::Guest(list) => list.len(),
        }
    }

    fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        match &self.bytes {
            Bytes::Own(buffer, len) => (&buffer[..*len]).read_at(offset, data),
            Bytes::Guest(list) => list.read_at(offset, data),
        }
    }

    fn place(&self) -> Place<'_> {
        match &self.bytes {
            Bytes::Own(buffer, len) => Place::Slice(&buffer[..*len]),
            Bytes::Guest(list) => Place::Scattered(list, 0..list.len()),
        }
    }
}

/// What follows the headers of a frame that is sent to an attachment.
pub enum Content<'a> {
    /// These bytes, which may be none.
    Payload(&'a dyn Payload),
    /// Bytes that wait in a socket.
    Waiting(&'a mut dyn Streams, Source),
}

impl Content<'_> {
    /// The same content, to be given away once more.
    pub fn again(&mut self) -> Content<'_> {
        match self {
            Self::Payload(payload) => Content::Payload(*payload),
            Self::Waiting(streams, source) => Content::Waiting(&mut **streams, *source),
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Payload(payload) => payload.len(),
            Self::Waiting(_, source) => usize::try_from(source.len).unwrap_or(usize::MAX),
        }
    }

    /// Whether there is nothing but headers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What became of a frame that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It is with the other side, or will be after [`Attachment::flush`].
    Yes,
    /// There is no room: [`News::ROOM`] will tell when there is.
    Full,
    /// It can't be sent, now or later.
    Refused,
}

/// How an attachment has its descriptors watched: edge-triggered (epoll(7)),
/// each under a token that [`Attachment::ready`] is told.
///
/// Whoever watches forgets an attachment's descriptors before it drops the
/// attachment: the files behind them may outlive it, and epoll would go on
/// watching these.
pub trait Watch {
    /// Watches a descriptor for being readable, and writable if asked.
    fn add(&mut self, fd: BorrowedFd<'_>, token: u8, writable: bool) -> io::Result<()>;
    /// Forgets a descriptor.
    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()>;
}

/// One plugged into the switch: a virtual NIC, a tap, a vhost-user front end.
pub trait Attachment: Send {
    /// Its own address, if it has one that is known from the start.
    fn mac(&self) -> Option<MacAddress>;

    /// The longest packet without the Ethernet header that it takes.
    fn mtu(&self) -> u16;

    /// How it wants to be served.
    fn settings(&self) -> Settings;

    /// Has its descriptors watched: the same ones each time it is called. All is
    /// taken to be ready from here on.
    fn watch(&mut self, watch: &mut dyn Watch) -> io::Result<()>;

    /// Learns that the descriptor watched under `token` is ready.
    fn ready(&mut self, token: u8, watch: &mut dyn Watch) -> News;

    /// The next frame; none until [`News::FRAMES`] comes again. Only so many
    /// may be out at a time as the attachment has buffers for.
    fn receive(&mut self) -> Option<Frame>;

    /// Takes back a frame that it gave.
    fn release(&mut self, frame: Frame);

    /// Sends the frame that consists of `headers`, the virtio header first,
    /// and `content`. It is one that [`Attachment::settings`] lets be sent.
    fn send(&mut self, headers: &[u8], content: Content<'_>) -> Sent;

    /// Has the other side notice what was sent and released since the last
    /// call: at the end of each batch. Returns what was learned meanwhile
    /// without a descriptor's help: that frames can be received again because
    /// some were released, or that the other side is gone.
    fn flush(&mut self) -> News;
}

/// A place on the switch that waits for an attachment, from the side of what is
/// plugged in and out at its own will, as a NIC is by its driver.
pub trait Plug: Send {
    /// The work on frames that the network takes over.
    fn offloads(&self) -> Offloads;

    /// The longest packet without the Ethernet header that the network carries.
    fn mtu(&self) -> u16;

    /// Hands `attachment` to the network's thread. The place must be free.
    fn plug(&mut self, attachment: Box<dyn Attachment>) -> io::Result<()>;

    /// Frees the place. When this returns, the attachment is dropped, and so are
    /// all frames it gave: nobody reads or writes what lies behind it.
    fn unplug(&mut self);
}

#[cfg(test)]
pub(crate) mod testing;
