//! A tap: a network interface of the host whose wire is a descriptor
//! (Linux's Documentation/networking/tuntap.rst).
#![allow(unsafe_code)]

mod attachment;
mod namespace;

pub use crate::net::link::LinkConfig;
pub use attachment::{TapAttachment, TapConfig};

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use libc::{c_int, c_short, c_uint, c_ulong};

use crate::net::port::{FRAME_HEADER, Offloads, Port};
use crate::scatter::ScatterList;

const DEVICE: &str = "/dev/net/tun";
/// Ethernet frames, nothing but the frame header before them.
const FRAMES: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// The longest name of an interface; a zero byte follows it.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// Why a tap can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no taps.
    #[error("cannot open {DEVICE}: {source}: load the module tun, or run with access to the file")]
    Device {
        /// What the system said.
        source: io::Error,
    },
    /// No interface can have this name.
    #[error(
        "{name:?} is not a name for a tap: use 1 to {MAX_NAME} bytes without '/', '%', ':' or spaces"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Another process holds the tap.
    #[error("tap {name} is in use by another process")]
    InUse {
        /// The tap's name.
        name: String,
    },
    /// The user may neither use nor create the tap.
    #[error(
        "no permission for tap {name}: create it with \
         'ip tuntap add dev {name} mode tap user USER', or run with CAP_NET_ADMIN"
    )]
    Permission {
        /// The tap's name.
        name: String,
    },
    /// An interface of that name exists, but of another kind.
    #[error(
        "interface {name} exists, but is not a tap with {queues} queue(s): create it with \
         'ip tuntap add dev {name} mode tap', with multi_queue for more than one"
    )]
    Kind {
        /// The interface's name.
        name: String,
        /// The queues that were asked for.
        queues: u16,
    },
    /// An inherited descriptor isn't a tap's.
    #[error("descriptor {fd} is not a tap's: {source}")]
    NotATap {
        /// The descriptor's number.
        fd: i32,
        /// What the system said.
        source: io::Error,
    },
    /// An inherited descriptor's tap has other flags than needed.
    #[error(
        "descriptor {fd} is a tap's with flags {flags:#x}: open it with \
         IFF_TAP | IFF_NO_PI | IFF_VNET_HDR"
    )]
    Flags {
        /// The descriptor's number.
        fd: i32,
        /// Its flags.
        flags: c_int,
    },
    /// The tap can't be set up.
    #[error("tap {name}: cannot {what}: {source}")]
    Setup {
        /// The tap's name.
        name: String,
        /// What was asked of it.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A network namespace isn't one, or can't be entered.
    #[error(
        "network namespace {path}: cannot {what}: {source}: use the path of one \
         that this user may enter, such as /proc/PID/ns/net or /run/netns/NAME"
    )]
    Namespace {
        /// The namespace's file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// One queue of a tap.
#[derive(Debug)]
pub struct Tap {
    file: File,
    multi_queue: bool,
    attached: bool,
    offloads: Offloads,
    mtu: Option<u16>,
}

impl Tap {
    /// Opens `queues` queues of the tap `name`. A tap that doesn't exist is
    /// created, with the right to do so, and vanishes when it is closed.
    pub fn open(name: &str, queues: u16) -> Result<Vec<Self>, Error> {
        check(name)?;
        (0..queues.max(1))
            .map(|_| {
                let mut tap = Self::attach(open_device()?, name, queues)?;
                tap.mtu = mtu(name);
                Ok(tap)
            })
            .collect()
    }

    /// Makes `file`, which is [`DEVICE`], a queue of the tap `name` of the
    /// namespace where it was opened.
    fn attach(file: File, name: &str, queues: u16) -> Result<Self, Error> {
        let mode = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let mut request = interface(name);
        request.ifr_ifru.ifru_flags = flags(FRAMES | mode);
        // SAFETY: TUNSETIFF reads and writes an ifreq.
        unsafe { ioctl(&file, libc::TUNSETIFF, &mut request) }.map_err(|source| {
            let name = name.to_owned();
            match source.raw_os_error() {
                Some(libc::EBUSY) => Error::InUse { name },
                Some(libc::EPERM | libc::EACCES) => Error::Permission { name },
                Some(libc::EINVAL | libc::EEXIST | libc::E2BIG) => Error::Kind { name, queues },
                _ => Error::Setup {
                    name,
                    what: "attach to the interface",
                    source,
                },
            }
        })?;
        Self::set_up(file, name, queues > 1)
    }

    /// Takes a descriptor of a tap that somebody else opened and attached.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let file = File::from(fd);
        let number = file.as_raw_fd();
        let mut request = interface("");
        // SAFETY: TUNGETIFF writes an ifreq.
        unsafe { ioctl(&file, libc::TUNGETIFF, &mut request) }
            .map_err(|source| Error::NotATap { fd: number, source })?;
        // SAFETY: TUNGETIFF filled in the flags; any bits are a valid short.
        let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & 0xFFFF;
        // Attached multiqueue descriptors and plain ones serve equally.
        if flags & (FRAMES | libc::IFF_TUN) != FRAMES {
            return Err(Error::Flags { fd: number, flags });
        }
        let name = request.ifr_name.iter().take_while(|byte| **byte != 0);
        let name: String = name.map(|byte| char::from(byte.to_ne_bytes()[0])).collect();
        set_nonblocking(&file).map_err(|source| Error::Setup {
            name: name.clone(),
            what: "make its descriptor non-blocking",
            source,
        })?;
        let mut tap = Self::set_up(file, &name, flags & libc::IFF_MULTI_QUEUE != 0)?;
        tap.mtu = mtu(&name);
        Ok(tap)
    }

    /// Lets the tap outlive its descriptors, so that another process can use
    /// it by its name.
    pub fn persist(&self) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes its argument by value.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETPERSIST, 1) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn set_up(file: File, name: &str, multi_queue: bool) -> Result<Self, Error> {
        let setup = |what| {
            move |source| Error::Setup {
                name: name.to_owned(),
                what,
                source,
            }
        };
        let mut length = c_int::try_from(FRAME_HEADER).expect("a small number");
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        unsafe { ioctl(&file, libc::TUNSETVNETHDRSZ, &mut length) }
            .map_err(setup("set the length of frame headers"))?;
        let mut tap = Self {
            file,
            multi_queue,
            attached: true,
            offloads: Offloads::all(),
            mtu: None,
        };
        // Segmenting UDP came with Linux 6.2; all else is older than KVM's
        // irqfds.
        if tap.accept(Offloads::all()).is_err() {
            tap.offloads.remove(Offloads::USO);
        }
        tap.accept(Offloads::empty())
            .map_err(setup("turn its offloads off"))?;
        Ok(tap)
    }
}

impl Port for Tap {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        let table = [
            (Offloads::CHECKSUM, libc::TUN_F_CSUM),
            (Offloads::TSO4, libc::TUN_F_TSO4),
            (Offloads::TSO6, libc::TUN_F_TSO6),
            (Offloads::ECN, libc::TUN_F_TSO_ECN),
            (Offloads::USO, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ];
        let flags = table
            .iter()
            .filter(|(offload, _)| offloads.contains(*offload));
        let flags: c_uint = flags.map(|(_, flag)| flag).sum();
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        let done = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                libc::TUNSETOFFLOAD,
                c_ulong::from(flags),
            )
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn set_active(&mut self, active: bool) -> io::Result<()> {
        if !self.multi_queue || active == self.attached {
            return Ok(());
        }
        let mut request = interface("");
        let queue = if active {
            libc::IFF_ATTACH_QUEUE
        } else {
            libc::IFF_DETACH_QUEUE
        };
        request.ifr_ifru.ifru_flags = flags(queue);
        // SAFETY: TUNSETQUEUE reads an ifreq.
        unsafe { ioctl(&self.file, libc::TUNSETQUEUE, &mut request) }?;
        self.attached = active;
        Ok(())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn send(&mut self, frame: &ScatterList) -> io::Result<()> {
        frame.write_to(&self.file).map(|_| ())
    }

    fn receive(&mut self, buffers: &ScatterList) -> io::Result<usize> {
        buffers.read_from(&self.file)
    }
}

/// Refuses what can't be the name of a tap.
fn check(name: &str) -> Result<(), Error> {
    let valid = |byte: u8| byte.is_ascii_graphic() && !b"/%:".contains(&byte);
    if name.is_empty()
        || name.len() > MAX_NAME
        || [".", ".."].contains(&name)
        || !name.bytes().all(valid)
    {
        return Err(Error::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn open_device() -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(|source| Error::Device { source })
}

/// An ifreq for the interface `name`, all else zero.
fn interface(name: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(MAX_NAME)) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    request
}

fn flags(flags: c_int) -> c_short {
    c_short::try_from(flags).expect("interface flags for taps fit 15 bits")
}

/// # Safety
///
/// `request` must be what the ioctl `number` takes.
unsafe fn ioctl<T>(fd: &impl AsFd, number: libc::Ioctl, request: &mut T) -> io::Result<()> {
    // SAFETY: the caller vouches for the type; the reference outlives the call.
    let done = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), number, std::ptr::from_mut(request)) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    let mut on: c_int = 1;
    // SAFETY: FIONBIO reads an int.
    unsafe { ioctl(file, libc::FIONBIO, &mut on) }
}

/// The interface's MTU, if it is in this network namespace.
fn mtu(name: &str) -> Option<u16> {
    // Any socket will do to ask.
    let socket = UnixDatagram::unbound().ok()?;
    let mut request = interface(name);
    // SAFETY: SIOCGIFMTU reads and writes an ifreq.
    unsafe { ioctl(&socket, libc::SIOCGIFMTU, &mut request) }.ok()?;
    // SAFETY: SIOCGIFMTU filled in the MTU; any bits are a valid int.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Some(u16::try_from(mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::in_namespace;
