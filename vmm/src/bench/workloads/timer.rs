//! The local APIC's timer.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::{Error, Session};
use crate::bench::results::Measured;

/// Far enough that it doesn't expire before it is set again, and mostly nearer than
/// the scheduler's tick, so that the hardware has to be told.
const TIMEOUT_NS: libc::c_long = 500_000;
/// Between two settings. When the tick is nearer they cost next to nothing: without a
/// pace most would be done then.
const PACE_US: u64 = 100;

pub(super) fn program(session: &mut Session<'_>) -> Result<Measured, Error> {
    // SAFETY: no pointer is passed.
    let timer = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    if timer < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel returned this descriptor just now, and nothing else owns it.
    let timer = unsafe { OwnedFd::from_raw_fd(timer) };
    let never = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let setting = libc::itimerspec {
        it_interval: never,
        it_value: libc::timespec {
            tv_nsec: TIMEOUT_NS,
            ..never
        },
    };
    session.take_paced(PACE_US, || {
        // SAFETY: the setting is valid for the call, and the old one isn't asked for.
        let result = unsafe {
            libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const setting, ptr::null_mut())
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}
