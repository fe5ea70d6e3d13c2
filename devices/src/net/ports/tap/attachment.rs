//! A tap that is plugged into the switch.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use rustix::io::Errno;

use super::namespace::Namespace;
use super::{Error, Tap, check, interface, ioctl};
use crate::net::attachment::{Attachment, Content, Frame, News, Sent, Settings, Watch};
use crate::net::link::{LinkConfig, Routing};
use crate::net::mac::MacAddress;
use crate::net::payload::{Payload, Place};
use crate::net::port::{MAX_FRAME, Offloads, Port};
use crate::net::switch::ReceiveFilter;

/// The most frames that are out at a time. Parked ones among them hold the
/// tap up, and with it the senders behind it, before they fill memory.
const MAX_FRAMES: usize = 64;

/// The most pieces of a frame that are written where they lie. The kernel
/// copies what has more than a packet has fragments (MAX_SKB_FRAGS), too.
const MAX_PIECES: usize = 32;

/// A frame with less than this behind its headers is put together before it is
/// written: one piece costs the kernel less than two.
const SHORT: usize = 512;

/// The MTU of an interface that can't be asked for its own.
const DEFAULT_MTU: u16 = 1500;

/// Which tap is to be opened, and what is to become of its interface.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// The interface's name.
    pub name: String,
    /// The file of the network namespace that it is in, if it isn't this one.
    pub namespace: Option<PathBuf>,
    /// How the interface is set up; without, it is left as it is.
    pub link: Option<LinkConfig>,
}

/// A tap on the switch.
///
/// The kernel behind it does all that frames may still lack, so that they are
/// exchanged with it whole.
pub struct TapAttachment {
    tap: Tap,
    mac: Option<MacAddress>,
    mtu: u16,
    pool: Pool,
    /// Where frames are put together that lie in too many pieces.
    scratch: Vec<u8>,
    /// Whether there was no buffer for a frame that may be waiting.
    starved: bool,
    gone: bool,
}

/// Buffers for frames, as many as were ever out at once.
#[derive(Default)]
struct Pool {
    free: Vec<Box<[u8]>>,
    out: usize,
}

impl Pool {
    fn take(&mut self) -> Option<Box<[u8]>> {
        if self.out == MAX_FRAMES {
            return None;
        }
        self.out += 1;
        // The one that came back last is the likeliest to be in the cache.
        let buffer = self.free.pop();
        Some(buffer.unwrap_or_else(|| vec![0; MAX_FRAME].into_boxed_slice()))
    }

    fn put(&mut self, buffer: Box<[u8]>) {
        self.out -= 1;
        self.free.push(buffer);
    }
}

impl TapAttachment {
    /// Opens a tap, in a namespace if told so, and sets its interface up. A
    /// tap that doesn't exist is created, and vanishes with the attachment.
    pub fn open(config: &TapConfig) -> Result<Self, Error> {
        let name = &config.name;
        check(name)?;
        let namespace = match &config.namespace {
            Some(path) => Namespace::at(path)?,
            None => Namespace::current()?,
        };
        let mut tap = Tap::attach(File::from(namespace.tun), name, 1)?;
        let setup = |what| {
            move |source| Error::Setup {
                name: name.clone(),
                what,
                source,
            }
        };
        let mut routing = Routing::new(namespace.routing);
        let link = routing.find(name).map_err(setup("find its interface"))?;
        if let Some(config) = &config.link {
            routing
                .set_up(link.index, config)
                .map_err(|error| setup(error.what)(error.source))?;
        }
        if config.namespace.is_some() && config.link.is_some() {
            let loopback = routing.find("lo");
            loopback
                .and_then(|loopback| routing.bring_up(loopback.index))
                .map_err(setup("bring the namespace's loopback up"))?;
        }
        let link = routing.find(name).map_err(setup("find its interface"))?;
        tap.mtu = link.mtu;
        Self::new(tap).map_err(setup("set its offloads"))
    }

    /// Plugs `tap` in. If its interface is in another namespace, its MTU is
    /// taken to be 1500.
    pub fn new(mut tap: Tap) -> io::Result<Self> {
        tap.accept(Offloads::all() & tap.offloads())?;
        Ok(Self {
            mac: mac(&tap),
            mtu: tap.mtu().unwrap_or(DEFAULT_MTU),
            tap,
            pool: Pool::default(),
            scratch: Vec::new(),
            starved: false,
            gone: false,
        })
    }

    /// Says what the interface's MTU is, where it is known better.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// Sends a frame that `content` doesn't show in few enough pieces.
    fn send_copy(&mut self, headers: &[u8], content: &dyn Payload) -> Sent {
        self.scratch.clear();
        self.scratch.extend_from_slice(headers);
        self.scratch.resize(headers.len() + content.len(), 0);
        content.read_at(0, &mut self.scratch[headers.len()..]);
        write(&self.tap, &self.scratch)
    }
}

/// Sends a frame whose content lies in a few slices of our own.
fn send_slices<T: Deref<Target = [u8]>>(
    tap: &Tap,
    scratch: &mut Vec<u8>,
    headers: &[u8],
    content: &[T],
) -> Sent {
    let len: usize = content.iter().map(|slice| slice.len()).sum();
    if len == 0 {
        return write(tap, headers);
    }
    if len < SHORT {
        scratch.clear();
        scratch.extend_from_slice(headers);
        content
            .iter()
            .for_each(|slice| scratch.extend_from_slice(slice));
        return write(tap, scratch);
    }
    let mut pieces = [piece(headers); MAX_PIECES];
    let Some(slots) = pieces[1..].get_mut(..content.len()) else {
        return Sent::Refused;
    };
    for (slot, slice) in slots.iter_mut().zip(content) {
        *slot = piece(slice);
    }
    write_pieces(tap, &pieces[..=content.len()])
}

impl Attachment for TapAttachment {
    fn mac(&self) -> Option<MacAddress> {
        self.mac
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn settings(&self) -> Settings {
        Settings {
            offloads: self.tap.offloads(),
            // The kernel behind it sorts out what it wants.
            filter: ReceiveFilter::default(),
            link: !self.gone,
        }
    }

    fn watch(&mut self, watch: &mut dyn Watch) -> io::Result<()> {
        watch.add(self.tap.readiness(), 0, true)
    }

    fn ready(&mut self, _token: u8, _watch: &mut dyn Watch) -> News {
        News::FRAMES | News::ROOM
    }

    fn receive(&mut self) -> Option<Frame> {
        if self.gone {
            return None;
        }
        let Some(mut buffer) = self.pool.take() else {
            self.starved = true;
            return None;
        };
        loop {
            match rustix::io::read(&self.tap.file, &mut buffer[..]) {
                Ok(len) => return Some(Frame::owned(buffer, len, 0)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                // EBADFD: the interface was deleted.
                Err(error) => {
                    tracing::warn!(%error, "a tap of the virtual network is gone");
                    self.gone = true;
                }
            }
            self.pool.put(buffer);
            return None;
        }
    }

    fn release(&mut self, frame: Frame) {
        if let Some(buffer) = frame.into_buffer() {
            self.pool.put(buffer);
        }
    }

    fn send(&mut self, headers: &[u8], content: Content<'_>) -> Sent {
        let payload = match content {
            Content::Waiting(streams, source) => {
                let mut sent = Sent::Refused;
                let (tap, scratch) = (&self.tap, &mut self.scratch);
                let viewed = streams.view(source, &mut |content| {
                    sent = send_slices(tap, scratch, headers, content);
                });
                return viewed.map_or(Sent::Refused, |()| sent);
            }
            Content::Payload(payload) => payload,
        };
        match payload.place() {
            Place::Slice(slice) => send_slices(&self.tap, &mut self.scratch, headers, &[slice]),
            Place::Scattered(list, range) => {
                let mut pieces = [piece(headers); MAX_PIECES];
                let mut count = 1;
                for piece in list.pieces(range) {
                    let Some(slot) = pieces.get_mut(count) else {
                        return self.send_copy(headers, payload);
                    };
                    *slot = piece;
                    count += 1;
                }
                write_pieces(&self.tap, &pieces[..count])
            }
            Place::Elsewhere => self.send_copy(headers, payload),
        }
    }

    fn flush(&mut self) -> News {
        let mut news = News::empty();
        news.set(News::GONE, self.gone);
        if self.starved && self.pool.out < MAX_FRAMES {
            self.starved = false;
            news |= News::FRAMES;
        }
        news
    }
}

fn piece(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

/// Writes a frame that lies in one piece.
fn write(tap: &Tap, frame: &[u8]) -> Sent {
    outcome(|| rustix::io::write(&tap.file, frame))
}

/// Writes a frame (writev(2)), whose `pieces` lead into memory that is mapped.
fn write_pieces(tap: &Tap, pieces: &[libc::iovec]) -> Sent {
    let count = libc::c_int::try_from(pieces.len()).expect("at most MAX_PIECES");
    outcome(|| {
        // SAFETY: the pieces are readable: each was made by `piece` from a
        // slice that is still borrowed, or by a list that is, which keeps
        // guest memory mapped.
        let done = unsafe { libc::writev(tap.file.as_raw_fd(), pieces.as_ptr(), count) };
        usize::try_from(done).map_err(|_| last_error())
    })
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// What became of a frame that was to be written by a call.
fn outcome(mut call: impl FnMut() -> Result<usize, Errno>) -> Sent {
    loop {
        match call() {
            Ok(_) => return Sent::Yes,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Sent::Full,
            // The interface is down (EIO), or the frame makes no sense to it.
            Err(_) => return Sent::Refused,
        }
    }
}

/// The address of the tap's interface, wherever it is: its descriptor answers.
fn mac(tap: &Tap) -> Option<MacAddress> {
    let mut request = interface("");
    // SAFETY: SIOCGIFHWADDR writes an ifreq.
    unsafe { ioctl(&tap.file.as_fd(), libc::SIOCGIFHWADDR, &mut request) }.ok()?;
    // SAFETY: SIOCGIFHWADDR filled in a hardware address; any bytes are one.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    let mut bytes = [0; 6];
    for (byte, value) in bytes.iter_mut().zip(data) {
        *byte = value.to_ne_bytes()[0];
    }
    MacAddress::new(bytes)
}

#[cfg(test)]
mod tests;
