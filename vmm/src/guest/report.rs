//! The level's end of the channel, and its console.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sys;
use crate::channel::{Answer, Edge, Event, Lines, Overlong, PARAMETER, PORT_NAME, What};
use crate::nest::process;

/// How long the levels below may take to count.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 256;

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
    answers: Answers,
}

/// What comes down the channel.
#[derive(Debug)]
enum Answers {
    /// Lines, as far as they have come.
    Come(Lines),
    /// Nothing: the one below doesn't answer.
    Stay,
}

impl Reporter {
    /// A reporter without a channel.
    pub(crate) fn new() -> Self {
        Self {
            level: 0,
            channel: None,
            beat: None,
            answers: Answers::Come(Lines::new(MAX_ANSWER, Overlong::Drop)),
        }
    }

    /// A reporter of L0 that writes to `channel`.
    pub(crate) fn on(channel: File) -> Self {
        Self {
            channel: Some(channel),
            ..Self::new()
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

    /// Reports that the level's step `phase` begins or ends, and waits until all
    /// levels below have counted. L0's are nobody's to count.
    pub(crate) fn mark(&mut self, phase: &str, edge: Edge) {
        if self.level > 0 {
            self.send(What::Mark {
                phase: phase.to_owned(),
                edge,
            });
        }
    }

    /// Reports what is known of another level. A mark is waited for: nobody is to
    /// go on before those below have counted.
    pub(crate) fn forward(&mut self, event: Event) {
        let marks = matches!(event.what, What::Mark { .. });
        self.write(event);
        if marks && self.level > 0 {
            self.wait_until_counted();
        }
    }

    /// Waits for the answer to a mark. One below that doesn't give it in time is
    /// not waited for again.
    fn wait_until_counted(&mut self) {
        let (Some(channel), Answers::Come(lines)) = (&mut self.channel, &mut self.answers) else {
            return;
        };
        let deadline = Instant::now() + PATIENCE;
        let mut counted = false;
        while !counted {
            let rest = deadline.saturating_duration_since(Instant::now());
            let ready = process::poll(&[channel.as_fd()], rest);
            let mut buffer = [0; 256];
            let count = match ready.as_deref() {
                Ok([true]) => channel.read(&mut buffer).unwrap_or(0),
                // A signal.
                Ok(_) if !rest.is_zero() => continue,
                Ok(_) | Err(_) => 0,
            };
            if count == 0 {
                self.answers = Answers::Stay;
                return;
            }
            lines.push(&buffer[..count], |line| {
                counted |= matches!(serde_json::from_slice(line), Ok(Answer::Counted));
            });
        }
    }

    fn write(&mut self, event: Event) {
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
