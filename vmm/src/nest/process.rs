//! Child processes and what is waited for: process descriptors, signals, poll.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Prepares `command` so that its process keeps `fds` open under their numbers,
/// starts with no signal blocked, and dies when this thread's process does.
///
/// With `group` it leads a process group of its own, so that its descendants can
/// be killed with it; without, it stays in the terminal's foreground.
pub fn prepare(command: &mut Command, fds: &[BorrowedFd<'_>], group: bool) {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    if group {
        command.process_group(0);
    }
    let child_side = move || {
        // SAFETY: between fork and exec only async-signal-safe calls are made;
        // the set is initialised by sigemptyset before it is read.
        unsafe {
            for &fd in &fds {
                check(libc::fcntl(fd, libc::F_SETFD, 0))?;
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock; the descriptors
    // are the caller's, who keeps them open until the spawn.
    unsafe { command.pre_exec(child_side) };
}

/// A descriptor that becomes readable when `child` has ended (pidfd_open(2)).
///
/// # Errors
/// What the system says; the child must not have been waited for.
pub fn exit_descriptor(child: &Child) -> io::Result<OwnedFd> {
    descriptor(pid_of(child))
}

/// A descriptor that becomes readable when process `pid`, a child of this one and not
/// yet waited for, has ended.
pub(crate) fn descriptor(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: a fresh descriptor that nothing else owns.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to `child`, or with `group` to the group it leads. A process
/// that is gone already is fine.
pub fn signal(child: &Child, signal: libc::c_int, group: bool) {
    let pid = pid_of(child);
    // SAFETY: takes no pointers. The child is this process's own and not yet
    // waited for, so its number can't be another's.
    unsafe { libc::kill(if group { -pid } else { pid }, signal) };
}

/// Sends `signal` to the calling thread.
#[cfg(test)]
pub(crate) fn raise(signal: libc::c_int) {
    // SAFETY: takes no pointers.
    unsafe { libc::raise(signal) };
}

fn pid_of(child: &Child) -> libc::pid_t {
    libc::pid_t::try_from(child.id()).expect("the kernel's process numbers fit pid_t")
}

/// Waits until one of `fds` is readable or hung up, and answers which are.
///
/// # Errors
/// What the system says; an interrupted wait answers that none is.
pub fn poll(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<Vec<bool>> {
    let mut entries: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let count = libc::nfds_t::try_from(entries.len()).map_err(io::Error::other)?;
    // Rounded up: a rest below a millisecond must not become a busy loop.
    let timeout = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
    // SAFETY: the kernel reads and writes exactly `count` entries.
    match check(unsafe { libc::poll(entries.as_mut_ptr(), count, timeout) }) {
        Ok(_) => Ok(entries.iter().map(|entry| entry.revents != 0).collect()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_group_is_killed_with_its_descendants_and_its_end_is_seen() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 1000 & wait"]);
        prepare(&mut command, &[], true);
        let mut child = command.spawn().unwrap();
        let ended = exit_descriptor(&child).unwrap();
        assert_eq!(poll(&[ended.as_fd()], Duration::ZERO).unwrap(), [false]);
        signal(&child, libc::SIGKILL, true);
        assert_eq!(
            poll(&[ended.as_fd()], Duration::from_secs(60)).unwrap(),
            [true]
        );
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
