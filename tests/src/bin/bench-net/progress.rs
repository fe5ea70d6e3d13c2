//! A line that says what is being measured, for a person at a terminal.

use std::io::{self, IsTerminal, Write};

/// How far the run has come.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    done: usize,
    total: usize,
}

impl Progress {
    /// Of `total` steps none is done.
    pub(crate) fn new(total: usize) -> Self {
        Self {
            shown: io::stderr().is_terminal(),
            done: 0,
            total,
        }
    }

    /// Says what is done now.
    pub(crate) fn step(&mut self, what: &str) {
        self.done += 1;
        self.say(what);
    }

    /// Says how the step goes.
    pub(crate) fn say(&self, what: &str) {
        let total = self.total.max(self.done);
        self.draw(&format!("[{}/{total}] {what}", self.done));
    }

    fn draw(&self, line: &str) {
        if self.shown {
            // A terminal that is gone has nobody to tell.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.draw("");
    }
}
