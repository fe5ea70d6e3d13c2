//! The descriptors a machine talks through: standard input and output, and
//! the endpoints that the configuration names.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{ConsoleMode, Endpoint, VmConfig};

/// Why a stream can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// An inherited descriptor that isn't open.
    #[error("--{flag} fd={fd}: the descriptor isn't open; hand it in on exec")]
    NotOpen {
        /// The flag.
        flag: &'static str,
        /// The descriptor.
        fd: RawFd,
    },
    /// A socket or file that can't be opened.
    #[error("--{flag}: can't open {path}: {source}")]
    Open {
        /// The flag.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A descriptor can't be had twice.
    #[error("can't duplicate a descriptor: {0}")]
    Duplicate(io::Error),
}

/// What a machine's consoles and channel lead to, for all of its resets.
#[derive(Debug)]
pub struct Streams {
    /// Where the serial port's output goes.
    pub serial: Option<OwnedFd>,
    /// Where the virtio console's output goes.
    pub console: Option<OwnedFd>,
    /// What stands behind the channel port.
    pub channel: Option<OwnedFd>,
    /// Where the monitor's events go.
    pub events: Option<OwnedFd>,
    /// The tap handed in for each network interface, where one was.
    pub taps: Vec<Option<OwnedFd>>,
}

impl Streams {
    /// Opens what `config` names.
    pub fn open(config: &VmConfig) -> Result<Self, StreamError> {
        Ok(Self {
            serial: open_console("serial", &config.serial)?,
            console: open_console("console", &config.console)?,
            channel: open_endpoint("channel", config.channel.as_ref())?,
            events: open_endpoint("events", config.events.as_ref())?,
            taps: config
                .nets
                .iter()
                .map(|net| net.fd().map(|fd| adopt("net", fd)).transpose())
                .collect::<Result<_, _>>()?,
        })
    }
}

/// A second descriptor for the same stream.
pub fn duplicate(fd: &impl AsFd) -> Result<OwnedFd, StreamError> {
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(StreamError::Duplicate)
}

fn open_console(flag: &'static str, mode: &ConsoleMode) -> Result<Option<OwnedFd>, StreamError> {
    match mode {
        ConsoleMode::Off => Ok(None),
        ConsoleMode::Tty => duplicate(&io::stdout()).map(Some),
        ConsoleMode::File(path) => create(flag, path).map(|file| Some(file.into())),
    }
}

fn create(flag: &'static str, path: &Path) -> Result<File, StreamError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(|source| StreamError::Open {
            flag,
            path: path.into(),
            source,
        })
}

fn open_endpoint(
    flag: &'static str,
    endpoint: Option<&Endpoint>,
) -> Result<Option<OwnedFd>, StreamError> {
    match endpoint {
        None => Ok(None),
        Some(Endpoint::Descriptor(fd)) => adopt(flag, *fd).map(Some),
        Some(Endpoint::Socket(path)) => UnixStream::connect(path)
            .map(|stream| Some(stream.into()))
            .map_err(|source| StreamError::Open {
                flag,
                path: path.clone(),
                source,
            }),
    }
}

/// Takes over a descriptor that was inherited on exec, and keeps it from the
/// monitor's own children.
pub fn adopt(flag: &'static str, fd: RawFd) -> Result<OwnedFd, StreamError> {
    // SAFETY: F_GETFD and F_SETFD only look at the process's descriptor table.
    let open = unsafe {
        libc::fcntl(fd, libc::F_GETFD) >= 0 && libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) >= 0
    };
    if !open {
        return Err(StreamError::NotOpen { flag, fd });
    }
    // SAFETY: the descriptor is open and was handed to this process under this number for this
    // one use; the configuration refuses the same number twice.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pipe, both ends closed on exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: pipe2 writes two descriptors into an array of two.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned both just now, and nothing else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Makes reads and writes on `fd` return instead of waiting.
pub fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL only change the description's flags.
    let done = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) >= 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits until `fd` takes something, or `patience` is over.
pub fn wait_writable(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    let timeout = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the kernel reads and writes one entry.
    match unsafe { libc::poll(&raw mut entry, 1, timeout) } {
        0.. => Ok(entry.revents != 0),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}

/// Reads what is there from `fd`; 0 is its end.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into the buffer.
    let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_descriptor_is_named() {
        let error = adopt("channel", 987_654).expect_err("never open");
        assert_eq!(
            error.to_string(),
            "--channel fd=987654: the descriptor isn't open; hand it in on exec"
        );
    }

    #[test]
    fn a_missing_socket_is_named() {
        let endpoint = Endpoint::Socket("/nonexistent/socket".into());
        let error = open_endpoint("events", Some(&endpoint)).expect_err("isn't there");
        assert!(
            error
                .to_string()
                .starts_with("--events: can't open /nonexistent/socket: ")
        );
    }
}
