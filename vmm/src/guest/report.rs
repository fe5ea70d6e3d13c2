//! The level's end of the channel, and its console.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sys;
use crate::channel::{Event, PARAMETER, PORT_NAME, What};

/// Prints one line on the level's console.
pub(crate) fn say(text: &str) {
    // A console that takes nothing leaves nobody to tell.
    let _ = writeln!(io::stderr(), "nestling: {text}");
}

/// Writes events to the channel, or in words to the console where none is.
#[derive(Debug)]
pub(crate) struct Reporter {
    level: u8,
    channel: Option<File>,
    beat: Option<Instant>,
}

impl Reporter {
    /// A reporter without a channel.
    pub(crate) fn new() -> Self {
        Self {
            level: 0,
            channel: None,
            beat: None,
        }
    }

    /// Sets the level that [`send`](Self::send) speaks for.
    pub(crate) fn set_level(&mut self, level: u8) {
        self.level = level;
    }

    /// Opens the virtio-console port of the channel's name, else the serial line
    /// that the kernel command line names.
    pub(crate) fn open_channel(&mut self) -> io::Result<()> {
        let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let device = match (
            port(Path::new("/sys/class/virtio-ports")),
            parameter(&cmdline),
        ) {
            (Some(port), _) => Path::new("/dev").join(port),
            (None, Some(tty)) => Path::new("/dev").join(tty),
            (None, None) => return Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        let file = File::options().read(true).write(true).open(&device)?;
        if io::IsTerminal::is_terminal(&file) {
            sys::make_raw(&file)?;
        }
        self.channel = Some(file);
        Ok(())
    }

    /// Reports something about this level.
    pub(crate) fn send(&mut self, what: What) {
        self.forward(Event {
            level: self.level,
            what,
        });
    }

    /// Reports what is known of another level.
    pub(crate) fn forward(&mut self, event: Event) {
        match &mut self.channel {
            Some(channel) => {
                self.beat = Some(Instant::now());
                if let Err(error) = channel.write_all(&event.line()) {
                    say(&format!("channel: {error}"));
                    self.channel = None;
                }
            }
            None => match event.what {
                What::Heartbeat => {}
                What::Console { line } => say(&format!("L{} | {line}", event.level)),
                _ => say(String::from_utf8_lossy(&event.line()).trim_end()),
            },
        }
    }

    /// Waits until all that was sent is on its way: a serial line is slow, and
    /// powering off drops what it still holds.
    pub(crate) fn drain(&self) {
        if let Some(channel) = &self.channel
            && io::IsTerminal::is_terminal(channel)
        {
            sys::drain(channel);
        }
    }

    /// Gives a sign of life if none was given for `interval`.
    pub(crate) fn heartbeat(&mut self, interval: Duration) {
        if self.beat.is_none_or(|beat| beat.elapsed() >= interval) {
            self.beat = Some(Instant::now());
            self.send(What::Heartbeat);
        }
    }
}

/// The device of the port named [`PORT_NAME`].
fn port(class: &Path) -> Option<PathBuf> {
    fs::read_dir(class).ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim_end() == PORT_NAME).then(|| entry.file_name().into())
    })
}

/// The value of [`PARAMETER`], if it is a plain device name.
fn parameter(cmdline: &str) -> Option<&str> {
    cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(PARAMETER)?.strip_prefix('='))
        .next_back()
        .filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        for (port, name) in [("vport0p1", "other\n"), ("vport1p1", "nestling.channel\n")] {
            fs::create_dir(class.path().join(port)).unwrap();
            fs::write(class.path().join(port).join("name"), name).unwrap();
        }
        assert_eq!(port(class.path()), Some("vport1p1".into()));
        assert_eq!(port(&class.path().join("absent")), None);
    }

    #[test]
    fn the_last_parameter_counts_and_must_be_a_device_name() {
        assert_eq!(parameter("quiet nestling.channel=ttyS1 x"), Some("ttyS1"));
        assert_eq!(
            parameter("nestling.channel=ttyS1 nestling.channel=ttyS2"),
            Some("ttyS2")
        );
        assert_eq!(parameter("nestling.channel=../etc/x"), None);
        assert_eq!(parameter("nestling.channels=ttyS1 nestling.channel="), None);
    }
}
