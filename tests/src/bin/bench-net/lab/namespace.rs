//! A network namespace with a path, which any program can be told.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::isolation;
use super::process::find;
use crate::Failure;

/// A network namespace. It ends when this is dropped and its processes have ended.
#[derive(Debug)]
pub(crate) struct Namespace {
    path: PathBuf,
    file: File,
}

impl Namespace {
    /// Makes a namespace at `folder/name`.
    pub(super) fn new(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(name);
        File::create_new(&path)?;
        // A thread can be in another namespace than its process.
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                // SAFETY: the call takes no pointers, and changes nothing but this
                // thread, which ends after it.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                isolation::bind(Path::new("/proc/thread-self/ns/net"), &path)
            });
            made.join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })?;
        let file = File::open(&path)?;
        Ok(Self { path, file })
    }

    /// Where programs find it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor that [`enter`] takes.
    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Calls a function inside the namespace.
    pub(crate) fn within<T: Send>(&self, call: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let done = scope.spawn(|| enter(self.descriptor()).map(|()| call()));
            done.join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }

    /// Runs `ip` with these arguments inside the namespace.
    pub(crate) fn ip(&self, arguments: &str) -> Result<(), Failure> {
        let program = find("ip")?;
        let output = self.within(|| {
            Command::new(program)
                .args(arguments.split_ascii_whitespace())
                .output()
        })??;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("ip {arguments}: {}", said.trim()).into())
    }

    /// Sets a network parameter, as in `ipv4/tcp_rmem`.
    pub(crate) fn set(&self, key: &str, value: &str) -> Result<(), Failure> {
        let path = Path::new("/proc/sys/net").join(key);
        self.within(|| fs::write(&path, value))?
            .map_err(|error| format!("{key} = {value}: {error}").into())
    }

    /// How many retransmissions of TCP have timed out here.
    pub(crate) fn timeouts(&self) -> Result<u64, Failure> {
        let text = self.within(|| fs::read_to_string("/proc/thread-self/net/netstat"))??;
        netstat(&text, "TcpExt", "TCPTimeouts").ok_or_else(|| "no count of TCPTimeouts".into())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // If it fails, the mount ends with the process.
        let _ = isolation::unmount(&self.path);
        let _ = fs::remove_file(&self.path);
    }
}

/// Moves the calling thread into the namespace of the descriptor. It only makes a
/// system call, as what runs between fork and exec must.
pub(super) fn enter(namespace: RawFd) -> io::Result<()> {
    // SAFETY: the call takes no pointers; a descriptor that is none is an error.
    if unsafe { libc::setns(namespace, libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One count of /proc/net/netstat: pairs of lines, names over values.
fn netstat(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    while let (Some((names_of, names)), Some((_, values))) = (lines.next(), lines.next()) {
        if names_of == group {
            return names
                .split_ascii_whitespace()
                .zip(values.split_ascii_whitespace())
                .find(|pair| pair.0 == name)?
                .1
                .parse()
                .ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_stands_under_its_name() {
        let text = "TcpExt: SyncookiesSent TCPTimeouts\nTcpExt: 4 17\n\
                    IpExt: InNoRoutes TCPTimeouts\nIpExt: 1 2\n";
        assert_eq!(netstat(text, "TcpExt", "TCPTimeouts"), Some(17));
        assert_eq!(netstat(text, "IpExt", "InNoRoutes"), Some(1));
        assert_eq!(netstat(text, "TcpExt", "Missing"), None);
        assert_eq!(netstat(text, "MPTcpExt", "TCPTimeouts"), None);
    }
}
