//! A person at a guest's console: bytes pass between this process's standard
//! streams and the machine, unchanged but for the keys meant for nestling.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::console::keyboard::{HELP, Keyboard, Request};

/// The most that is typed ahead of a guest that doesn't read, in bytes.
const TYPED_AHEAD: usize = 4096;

/// A pair of streams that serves as a machine's console.
#[derive(Debug)]
pub struct Relay {
    input: Option<File>,
    output: File,
    keyboard: Keyboard,
    typed: Vec<u8>,
}

impl Relay {
    /// A relay between this process's standard streams and a console. Raw mode is
    /// the caller's to set and to restore.
    ///
    /// # Errors
    /// What the system says when they can't be duplicated.
    pub fn standard() -> io::Result<Self> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::new(input, output))
    }

    /// A relay from `input` and to `output`.
    #[must_use]
    pub fn new(input: OwnedFd, output: OwnedFd) -> Self {
        let (input, output) = (Some(input.into()), output.into());
        Self {
            input,
            output,
            keyboard: Keyboard::default(),
            typed: Vec::new(),
        }
    }

    /// What to wait for: the input, until it ends.
    pub(super) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    /// Shows what the guest prints.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        // Whoever closed the output doesn't want to see more.
        let _ = self.output.write_all(bytes);
    }

    /// Passes on what was typed, and answers what it asks of nestling. `console`
    /// must not block; what it doesn't take is kept for the next time.
    pub(super) fn pass(&mut self, console: &mut impl Write) -> Option<Request> {
        let mut buffer = [0; 1024];
        let count = match self.input.as_mut().map(|input| input.read(&mut buffer)) {
            Some(Ok(count @ 1..)) => count,
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => return None,
            _ => {
                self.input = None;
                return None;
            }
        };
        let request = self.keyboard.feed(&buffer[..count], &mut self.typed);
        // Beyond that the line is full, and keys are lost as on a real one.
        self.typed.truncate(TYPED_AHEAD);
        if let Ok(taken) = console.write(&self.typed) {
            self.typed.drain(..taken);
        }
        if request == Some(Request::Help) {
            self.show(HELP.as_bytes());
        }
        request
    }
}
