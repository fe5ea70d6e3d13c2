//! What takes two threads or processes: interrupts, wake-ups, switches.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::{Error, Session};
use crate::bench::results::Measured;
use crate::guest::sys;

/// A byte there and back is two switches, or two wake-ups.
const BOTH_WAYS: u64 = 2;

/// membarrier(2): the other thread's processor is interrupted.
pub(super) fn send_ipi(session: &mut Session<'_>) -> Result<Measured, Error> {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)?;
    let resources = session.resources;
    let over = AtomicBool::new(false);
    let spins = AtomicBool::new(false);
    thread::scope(|scope| {
        let spinner = scope.spawn(|| {
            let moved = resources.move_to(1);
            spins.store(true, Ordering::Release);
            while moved.is_ok() && !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            moved
        });
        while !spins.load(Ordering::Acquire) {
            thread::yield_now();
        }
        let measured = session.take(usize::MAX, 1, || {
            membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
        });
        over.store(true, Ordering::Relaxed);
        spinner.join().expect("the spinner doesn't panic")?;
        measured
    })
}

fn membarrier(command: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A futex there and back.
pub(super) fn futex_wake(session: &mut Session<'_>) -> Result<Measured, Error> {
    let (there, back) = (AtomicU32::new(0), AtomicU32::new(0));
    let resources = session.resources;
    // The last turn's number; the other thread goes by it.
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let moved = resources.move_to(1);
            let mut turn = 0;
            loop {
                wait_past(&there, turn);
                turn = turn.wrapping_add(1);
                set_and_wake(&back, turn);
                if over.load(Ordering::Acquire) {
                    return moved;
                }
            }
        });
        let mut turn = 0u32;
        let mut go = || {
            let before = turn;
            turn = turn.wrapping_add(1);
            set_and_wake(&there, turn);
            wait_past(&back, before);
        };
        let measured = session.take(usize::MAX, BOTH_WAYS, || {
            go();
            Ok(())
        });
        over.store(true, Ordering::Release);
        go();
        answering.join().expect("the other thread doesn't panic")?;
        measured
    })
}

/// Sleeps as long as `word` is `value` (FUTEX_WAIT).
fn wait_past(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        let command = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word lives during the call. That it isn't `value` any more, or a
        // signal, is seen by the loop.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                command,
                value,
                ptr::null::<libc::timespec>(),
            )
        };
    }
}

/// Writes `word`, and wakes the one who waits for it (FUTEX_WAKE).
fn set_and_wake(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    let command = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word lives during the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), command, 1) };
}

/// A byte to another process on this processor, and back.
pub(super) fn context_switch(session: &mut Session<'_>) -> Result<Measured, Error> {
    let (there, mut to_other) = pipe()?;
    let (mut from_other, back) = pipe()?;
    let other = {
        let (mut there, mut back, to_other) = (there, back, &to_other);
        let other = sys::fork(|| {
            // SAFETY: this process has its own copy, which would keep the pipe open.
            unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(to_other)) };
            let mut byte = [0];
            while there.read_exact(&mut byte).is_ok() && back.write_all(&byte).is_ok() {}
            0
        });
        other?
    };
    let mut byte = [0];
    let measured = session.take(usize::MAX, BOTH_WAYS, || {
        to_other.write_all(&byte)?;
        from_other.read_exact(&mut byte)
    });
    // The other process ends when its pipe does.
    drop(to_other);
    other.wait()?;
    measured
}

fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = io::pipe()?;
    Ok((
        std::os::fd::OwnedFd::from(reader).into(),
        std::os::fd::OwnedFd::from(writer).into(),
    ))
}
