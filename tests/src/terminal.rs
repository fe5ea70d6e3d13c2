//! A pseudo-terminal, for what a person sees.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};

/// A terminal of 24 lines with 80 columns: the end a person has, and the end a program
/// has.
///
/// # Panics
/// If the system has none.
#[must_use]
#[expect(unsafe_code, reason = "the standard library has no openpty(3)")]
pub fn open() -> (File, OwnedFd) {
    let (mut person, mut program) = (-1, -1);
    let size = libc::winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: all pointers are to values of this frame; the others may be null.
    let made = unsafe {
        libc::openpty(
            &raw mut person,
            &raw mut program,
            std::ptr::null_mut(),
            std::ptr::null(),
            &raw const size,
        )
    };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    // SAFETY: openpty has just made both, and nothing else owns them.
    unsafe { (File::from_raw_fd(person), OwnedFd::from_raw_fd(program)) }
}

/// Reads from a terminal until `expected` has come.
///
/// # Panics
/// If the program's end is closed before.
pub fn read_until(terminal: &mut File, expected: &str) {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(expected) {
        let mut byte = [0];
        terminal
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&text)));
        text.push(byte[0]);
    }
}
