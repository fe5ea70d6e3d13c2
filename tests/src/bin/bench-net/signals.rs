//! Signals that end the run. The handler sets a flag; whoever waits looks at it
//! and fails, and what the run holds is let go on the way out.

#![allow(unsafe_code)]

use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::Failure;

/// The signal that came, or 0.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    CAUGHT.store(signal, Ordering::Relaxed);
}

/// Lets the signals that ask a program to end set the flag instead.
pub(crate) fn catch() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = note;
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Fails once one of the signals has come.
pub(crate) fn check() -> Result<(), Failure> {
    match CAUGHT.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(format!("ended by signal {signal}").into()),
    }
}

/// What a run that failed exits with: as a shell says it, if a signal ended it.
pub(crate) fn exit_code() -> ExitCode {
    match u8::try_from(CAUGHT.load(Ordering::Relaxed)) {
        Ok(signal) if signal > 0 => ExitCode::from(128 + signal),
        _ => ExitCode::FAILURE,
    }
}
