//! The user's terminal: raw while a guest has it, restored whatever happens.

#![allow(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once};

use nestling_devices::bus::lock;

/// What to restore if the process is stopped by a signal or a panic.
static SAVED: Mutex<Option<(RawFd, libc::termios)>> = Mutex::new(None);

/// A terminal in raw mode; dropping it restores the mode it had.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts the terminal behind `fd` into raw mode, or returns `None` where
    /// `fd` is no terminal.
    pub fn enter(fd: &impl AsRawFd) -> io::Result<Option<Self>> {
        let fd = fd.as_raw_fd();
        let Some(original) = attributes(fd) else {
            return Ok(None);
        };
        let mut raw = original;
        // SAFETY: `raw` is a whole termios; cfmakeraw only changes its flags.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        restore_on_panic();
        set_attributes(fd, &raw)?;
        *lock(&SAVED) = Some((fd, original));
        Ok(Some(Self(())))
    }
}

/// Whether the alternate screen is shown.
static FULL: AtomicBool = AtomicBool::new(false);
/// The alternate screen, without a cursor (xterm's DECSET 1049 and 25); and back.
const SHOW_SCREEN: &[u8] = b"\x1b[?1049h\x1b[?25l";
const HIDE_SCREEN: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// The whole of the terminal behind standard output, to draw on; dropping it
/// shows again what was there before.
#[derive(Debug)]
pub struct FullScreen {
    _raw: Option<RawMode>,
}

impl FullScreen {
    /// Takes the terminal, whose keys then come as they are typed.
    ///
    /// # Errors
    /// What the system says.
    pub fn enter() -> io::Result<Self> {
        let raw = RawMode::enter(&io::stdin())?;
        restore_on_panic();
        FULL.store(true, Ordering::Relaxed);
        let screen = Self { _raw: raw };
        let mut out = io::stdout().lock();
        out.write_all(SHOW_SCREEN).and_then(|()| out.flush())?;
        Ok(screen)
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        restore();
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// A panic aborts in release builds and runs no destructors, so its hook
/// restores the terminal, before the message.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
    });
}

/// Restores the terminal if it is raw, or drawn on.
fn restore() {
    if FULL.swap(false, Ordering::Relaxed) {
        // Nothing is left to do where even this fails.
        let _ = io::stdout().write_all(HIDE_SCREEN);
        let _ = io::stdout().flush();
    }
    let saved = lock(&SAVED).take();
    if let Some((fd, original)) = saved {
        // Nothing is left to do where even this fails.
        let _ = set_attributes(fd, &original);
    }
}

/// The size of the terminal behind `fd`, as (columns, rows).
pub fn size(fd: &impl AsRawFd) -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: TIOCGWINSZ writes one winsize to the address given, and any bytes are a winsize.
    let size = unsafe {
        if libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) != 0 {
            return None;
        }
        size.assume_init()
    };
    (size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
}

/// Whether to colour what goes to `out`: a terminal, and the user doesn't object
/// by `NO_COLOR` (no-color.org).
pub fn colour(out: &impl IsTerminal) -> bool {
    let objection = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    out.is_terminal() && !objection
}

fn attributes(fd: RawFd) -> Option<libc::termios> {
    let mut attributes = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: tcgetattr writes one termios to the address given, and any bytes are a termios.
    unsafe { (libc::tcgetattr(fd, attributes.as_mut_ptr()) == 0).then(|| attributes.assume_init()) }
}

fn set_attributes(fd: RawFd, attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: the call reads one termios from a valid reference.
    match unsafe { libc::tcsetattr(fd, libc::TCSANOW, attributes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_file_is_no_terminal() {
        let file = File::open("/dev/null").expect("exists everywhere");
        assert!(RawMode::enter(&file).expect("asks, doesn't fail").is_none());
        assert_eq!(size(&file), None);
    }

    #[test]
    fn raw_mode_ends_with_its_guard() {
        let master = File::options()
            .read(true)
            .write(true)
            .open("/dev/ptmx")
            .expect("ptmx");
        let before = attributes(master.as_raw_fd()).expect("a terminal");
        let guard = RawMode::enter(&master).expect("raw").expect("a terminal");
        let raw = attributes(master.as_raw_fd()).expect("a terminal");
        assert_eq!(raw.c_lflag & (libc::ICANON | libc::ECHO | libc::ISIG), 0);
        drop(guard);
        let after = attributes(master.as_raw_fd()).expect("a terminal");
        assert_eq!(after.c_lflag, before.c_lflag);
        assert_eq!(after.c_iflag, before.c_iflag);
    }
}
