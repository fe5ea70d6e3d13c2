//! Signals as events: blocked everywhere, read from one descriptor.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

/// Signals taken as readable events instead of by handlers (signalfd(2)).
#[derive(Debug)]
pub struct Signals(File);

impl Signals {
    /// Blocks `signals` for this thread, and those it starts, and gathers them.
    ///
    /// # Errors
    /// What the system says.
    pub fn block(signals: &[libc::c_int]) -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is read.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for &signal in signals {
                check(libc::sigaddset(&raw mut set, signal))?;
            }
            check(libc::sigprocmask(
                libc::SIG_BLOCK,
                &raw const set,
                std::ptr::null_mut(),
            ))?;
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            check(libc::signalfd(-1, &raw const set, flags)).map(|fd| Self(File::from_raw_fd(fd)))
        }
    }

    /// Waits for a signal.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            match self.poll(-1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Whether one has come that nobody has taken yet.
    pub fn pending(&self) -> bool {
        self.poll(0).is_ok_and(|ready| ready == 1)
    }

    /// Waits for a signal so many milliseconds, or without end if they are negative;
    /// answers how many descriptors have one, of the one there is.
    fn poll(&self, milliseconds: libc::c_int) -> io::Result<libc::c_int> {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd is valid for the call.
        check(unsafe { libc::poll(&raw mut poll, 1, milliseconds) })
    }

    /// Takes one pending signal's number.
    pub fn take(&self) -> Option<u32> {
        // struct signalfd_siginfo has 128 bytes, the first four ssi_signo.
        let mut record = [0; 128];
        io::Read::read_exact(&mut &self.0, &mut record).ok()?;
        record
            .first_chunk()
            .map(|number| u32::from_ne_bytes(*number))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
