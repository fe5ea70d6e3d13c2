//! Programs started: this one, which then exits at once.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;

use super::{Error, Session};
use crate::bench::results::Measured;
use crate::guest::sys::{self, Arguments, Pid, Status};

/// The argument that the program answers by exiting.
pub const EXIT: &str = "exit-at-once";
/// What the program is called with. To the tests' program it names a test that it hasn't.
const ARGUMENTS: &[&str] = if cfg!(test) {
    &["nestling", EXIT, "--list", "--format=terse"]
} else {
    &["nestling", EXIT]
};
const PROGRAM: &str = "/proc/self/exe";

/// So many take a second or more.
const MOST_PROCESSES: usize = 1000;
/// The kernel takes namespaces apart later than it makes them.
const MOST_CONTAINERS: usize = 200;

/// What a container has for itself.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;
/// A folder that every system has, for the container's root to be mounted on at first.
const ROOT: &CStr = c"/tmp";

pub(super) fn fork_exec(session: &mut Session<'_>) -> Result<Measured, Error> {
    let arguments = Arguments::new(ARGUMENTS)?;
    session.take(MOST_PROCESSES, 1, || {
        succeeded(sys::spawn(PROGRAM, &arguments)?)
    })
}

pub(super) fn container(session: &mut Session<'_>) -> Result<Measured, Error> {
    // Kept open: the container doesn't see the file.
    let program = File::open(PROGRAM)?;
    let arguments = Arguments::new(ARGUMENTS)?;
    let run = || {
        let container = || enter(program.as_fd(), &arguments);
        succeeded(sys::fork_into(NAMESPACES, container)?)
    };
    // Once before, for it to say why it can't be.
    run().map_err(|source| Error::Missing {
        path: "a container's namespaces and mounts".to_owned(),
        source,
    })?;
    session.take(MOST_CONTAINERS, 1, run)
}

/// Waits for a process, whose code is the number of the error that it ended by.
fn succeeded(process: Pid) -> io::Result<()> {
    match process.wait()? {
        Status::Exited(0) => Ok(()),
        Status::Exited(error) => Err(io::Error::from_raw_os_error(error)),
        Status::Killed(signal) => Err(io::Error::other(format!("killed by signal {signal}"))),
    }
}

/// Gives this process, the first of its namespaces, a root of its own, and executes
/// `program` there; makes system calls and nothing else. Returns the error's number.
fn enter(program: BorrowedFd<'_>, arguments: &Arguments) -> i32 {
    let error = match set_root() {
        Ok(()) => sys::execute(program, arguments),
        Err(error) => error,
    };
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// A tmpfs with /proc. It is moved over the root: pivot_root(2) can't leave an initramfs.
fn set_root() -> io::Result<()> {
    let mount = |what: *const c_char, on: &CStr, kind: *const c_char, flags| {
        // SAFETY: the pointers are null where the kernel takes nothing, and else to
        // strings that end in NUL and outlive the call.
        check(unsafe { libc::mount(what, on.as_ptr(), kind, flags, ptr::null()) })
    };
    let (tmpfs, proc, here) = (c"tmpfs".as_ptr(), c"proc".as_ptr(), c".".as_ptr());
    let safe = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(
        ptr::null(),
        c"/",
        ptr::null(),
        libc::MS_REC | libc::MS_PRIVATE,
    )?;
    mount(tmpfs, ROOT, tmpfs, 0)?;
    // SAFETY: the path ends in NUL.
    check(unsafe { libc::chdir(ROOT.as_ptr()) })?;
    // SAFETY: as above.
    check(unsafe { libc::mkdir(proc, 0o555) })?;
    mount(proc, c"proc", proc, safe)?;
    mount(here, c"/", ptr::null(), libc::MS_MOVE)?;
    // SAFETY: as above.
    check(unsafe { libc::chroot(here) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
