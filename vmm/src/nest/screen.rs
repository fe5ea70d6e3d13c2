//! What a person sees while a nest runs: every level's console with its level in
//! front, and on a terminal one line that says where each level is.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::channel::{Event, What};

/// How often the progress line's clock moves.
const TICK: Duration = Duration::from_secs(1);
/// ANSI colours by level: cyan, yellow, magenta, green, blue.
const COLOURS: [u8; 5] = [36, 33, 35, 32, 34];

/// What the output can show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Level prefixes in colour.
    pub colour: bool,
    /// A progress line, rewritten in place; its width in columns.
    pub progress: Option<usize>,
    /// What levels do, besides what they print.
    pub verbose: bool,
}

impl Style {
    /// What suits an output: plain if it is no terminal (then it has no width),
    /// without colour if the environment has `NO_COLOR` (no-color.org).
    #[must_use]
    pub fn detect(columns: Option<usize>, verbose: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: columns.is_some() && !no_colour,
            progress: columns,
            verbose,
        }
    }
}

/// Writes events for a person to read.
#[derive(Debug)]
pub struct Screen<W> {
    out: W,
    style: Style,
    start: Instant,
    phases: BTreeMap<u8, String>,
    shown: bool,
}

impl<W: Write> Screen<W> {
    /// A screen on `out`.
    pub fn new(out: W, style: Style) -> Self {
        Self {
            out,
            style,
            start: Instant::now(),
            phases: BTreeMap::new(),
            shown: false,
        }
    }

    /// Shows an event, if it is one to show.
    pub fn show(&mut self, event: &Event) {
        let phase = match &event.what {
            What::Hello { .. } | What::Booted(_) => Some("up".to_owned()),
            What::Progress { text } => Some(text.clone()),
            What::Runs { workload } => Some(format!("runs {workload}")),
            What::Fault(fault) => Some(fault.kind.name().to_owned()),
            What::Done => Some("done".to_owned()),
            What::Ended { .. } => Some("off".to_owned()),
            _ => None,
        };
        match &event.what {
            What::Console { line } => self.line(event.level, line),
            What::Warning { text } => self.line(event.level, &format!("[{text}]")),
            What::Progress { text } if self.style.verbose => {
                self.line(event.level, &format!("[{text}]"));
            }
            What::Runs { workload } if self.style.verbose => {
                self.line(event.level, &format!("[runs {workload}]"));
            }
            What::Fault(fault) => {
                self.line(
                    event.level,
                    &format!("[{}: {}]", fault.kind.name(), fault.detail),
                );
            }
            _ => {}
        }
        if let Some(phase) = phase {
            self.phases.insert(event.level, phase);
            self.progress();
        }
    }

    fn line(&mut self, level: u8, text: &str) {
        self.clear();
        // A closed output must not end the nest before its machines are.
        let _ = if self.style.colour {
            let colour = COLOURS[usize::from(level) % COLOURS.len()];
            writeln!(self.out, "\x1b[{colour}mL{level} |\x1b[0m {text}")
        } else {
            writeln!(self.out, "L{level} | {text}")
        };
        self.progress();
    }

    /// Draws the progress line; answers how soon it should be drawn again.
    pub fn progress(&mut self) -> Option<Duration> {
        let columns = self.style.progress?;
        self.clear();
        let seconds = self.start.elapsed().as_secs();
        let mut text = format!("{:02}:{:02}", seconds / 60, seconds % 60);
        for (level, phase) in &self.phases {
            text.push_str(&format!("  L{level} {phase}"));
        }
        // One column stays free: a full line would wrap.
        let text: String = text.chars().take(columns.saturating_sub(1)).collect();
        let _ = write!(self.out, "{text}").and_then(|()| self.out.flush());
        self.shown = true;
        Some(TICK)
    }

    /// Takes the progress line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(self.out, "\r\x1b[K").and_then(|()| self.out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: Style) -> String {
        let mut out = Vec::new();
        let mut screen = Screen::new(&mut out, style);
        for (level, what) in [
            (0, What::Hello { v: 1 }),
            (
                0,
                What::Progress {
                    text: "boots L1".into(),
                },
            ),
            (
                1,
                What::Console {
                    line: "hello".into(),
                },
            ),
        ] {
            screen.show(&Event { level, what });
        }
        screen.clear();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plain_output_gets_lines_and_no_control_sequences() {
        assert_eq!(shown(Style::default()), "L1 | hello\n");
        let verbose = Style {
            verbose: true,
            ..Style::default()
        };
        assert_eq!(shown(verbose), "L0 | [boots L1]\nL1 | hello\n");
    }

    #[test]
    fn a_terminal_gets_a_progress_line_that_never_wraps_and_goes_away() {
        let text = shown(Style {
            colour: true,
            progress: Some(20),
            verbose: false,
        });
        assert!(text.contains("\x1b[33mL1 |\x1b[0m hello\n"), "{text:?}");
        assert!(text.contains("00:00  L0 boots L1\r"), "{text:?}");
        assert!(text.ends_with("\r\x1b[K"), "{text:?}");
    }
}
