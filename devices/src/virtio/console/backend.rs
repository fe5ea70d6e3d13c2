//! What stands behind a console port: descriptors that bytes come from and go to.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use crate::scatter::ScatterList;

/// What a pipe or terminal that is ready takes without making the writer wait
/// (PIPE_BUF, pipe(7)).
const READY_BYTES: usize = 4096;

/// Where a port's bytes come from and where they go.
///
/// The descriptors' flags are left alone: a terminal's are shared with other
/// processes.
#[derive(Debug)]
pub struct PortBackend {
    /// Bytes for the guest; none if there never are any.
    pub input: Option<OwnedFd>,
    /// Bytes from the guest.
    pub output: OwnedFd,
}

impl PortBackend {
    /// A back end whose both directions are one socket or terminal.
    pub fn duplex(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            input: Some(fd.try_clone()?),
            output: fd,
        })
    }
}

/// What became of bytes that were to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// All were written, or there is nobody left to read them.
    All,
    /// The output takes no more now.
    Blocked,
}

/// What an input had for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// This many bytes.
    Bytes(usize),
    /// None now.
    Nothing,
    /// None ever again.
    End,
}

/// How to write without waiting.
#[derive(Debug)]
enum Output {
    /// A socket: each call says that it must not wait.
    Socket(OwnedFd),
    /// Waiting is off, in an open file description of our own.
    NonBlocking(OwnedFd),
    /// Others use the description: ask for room before each small write.
    Shared(OwnedFd),
    /// The reader is gone.
    Closed,
}

/// A port's back end at work.
#[derive(Debug)]
pub(super) struct Endpoint {
    input: Option<OwnedFd>,
    output: Output,
}

impl Endpoint {
    pub(super) fn new(backend: PortBackend) -> Self {
        Self {
            input: backend.input,
            output: Output::new(backend.output),
        }
    }

    /// The descriptor to wait on for input.
    pub(super) fn input(&self) -> Option<&OwnedFd> {
        self.input.as_ref()
    }

    /// The descriptor to wait on for room.
    pub(super) fn output(&self) -> Option<&OwnedFd> {
        match &self.output {
            Output::Socket(fd) | Output::NonBlocking(fd) | Output::Shared(fd) => Some(fd),
            Output::Closed => None,
        }
    }

    /// Whether somebody can still read what the guest writes.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.output, Output::Closed)
    }

    /// Whether a read would give something at once, be it the end.
    pub(super) fn has_input(&self) -> bool {
        self.input
            .as_ref()
            .is_some_and(|fd| poll(fd.as_fd(), libc::POLLIN) != 0)
    }

    /// Reads what there is into `buffers`; call it only if there is input.
    pub(super) fn receive(&mut self, buffers: &ScatterList) -> Received {
        let Some(input) = &self.input else {
            return Received::End;
        };
        match buffers.read_from(input) {
            Ok(0) => {}
            Ok(count) => return Received::Bytes(count),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Received::Nothing;
            }
            // A terminal whose other side is gone says EIO, a socket ECONNRESET.
            Err(error) => tracing::debug!(%error, "a console port's input ended"),
        }
        self.input = None;
        Received::End
    }

    /// Notices a reader that went away while nothing was being written.
    pub(super) fn check_output(&mut self) {
        let gone = self.output().is_some_and(|fd| {
            poll(fd.as_fd(), libc::POLLOUT) & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
        });
        if gone {
            self.output = Output::Closed;
        }
    }

    /// Writes `buffers` in order and consumes what was written. Without a
    /// reader all is consumed.
    pub(super) fn send(&mut self, buffers: &mut ScatterList) -> Written {
        while !buffers.is_empty() {
            match self.output.write(buffers) {
                Ok(count) => buffers.advance(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Blocked,
                Err(error) => {
                    tracing::debug!(%error, "a console port's output closed");
                    self.output = Output::Closed;
                }
            }
        }
        Written::All
    }
}

impl Output {
    fn new(fd: OwnedFd) -> Self {
        let file = File::from(fd);
        let kind = file.metadata().map(|metadata| metadata.file_type());
        let waits = kind
            .as_ref()
            .is_ok_and(|kind| kind.is_fifo() || kind.is_char_device());
        let is_socket = kind.is_ok_and(|kind| kind.is_socket());
        let fd = OwnedFd::from(file);
        if is_socket {
            return Self::Socket(fd);
        }
        if !waits {
            // Writing to a file never waits for a reader.
            return Self::NonBlocking(fd);
        }
        // Opening the same pipe or terminal anew gives a description whose
        // flags nobody else sees.
        let reopened = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        match reopened {
            Ok(file) => Self::NonBlocking(file.into()),
            Err(_) => Self::Shared(fd),
        }
    }

    fn write(&self, buffers: &mut ScatterList) -> io::Result<usize> {
        match self {
            Self::Socket(fd) => buffers.send_to(fd),
            Self::NonBlocking(fd) => buffers.write_to(fd),
            Self::Shared(fd) if poll(fd.as_fd(), libc::POLLOUT) == 0 => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Self::Shared(fd) => {
                let mut data = [0; READY_BYTES];
                let count = buffers.peek(&mut data);
                // SAFETY: `data` holds `count` bytes and outlives the call.
                let done = unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), count) };
                usize::try_from(done).map_err(|_| io::Error::last_os_error())
            }
            Self::Closed => Ok(buffers.len()),
        }
    }
}

/// What `fd` is ready for, without waiting (poll(2)).
fn poll(fd: BorrowedFd<'_>, events: libc::c_short) -> libc::c_short {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one pollfd, which outlives the call.
    match unsafe { libc::poll(&mut poll, 1, 0) } {
        1 => poll.revents,
        _ => 0,
    }
}
