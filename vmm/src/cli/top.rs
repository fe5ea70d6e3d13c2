//! `nestling top`: a terminal's view of what runs.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;

use super::{Failure, Verdict};
use crate::console::streams;
use crate::console::terminal::{self, FullScreen};
use crate::nest::process;
use crate::signals::Signals;
use crate::stats::look::{Look, table};
use crate::stats::watcher::Watcher;
use crate::table::aligned;

const KEYS: &str = "\
q, or Ctrl-C, ends it. `nestling stat --interval 1` prints the same table by table.";

/// What a terminal is taken for that doesn't tell its size.
const USUAL: (u16, u16) = (80, 24);

/// Those that end it, and the one that tells of a new size.
const SIGNALS: [libc::c_int; 5] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGWINCH,
];

/// The flags of `nestling top`.
#[derive(Debug, Args)]
#[command(after_help = KEYS)]
pub(super) struct Top {
    /// The machine or nest: its name, its process's number, or its socket's path [default: all]
    #[arg(value_name = "MACHINE")]
    machine: Option<String>,

    /// How many seconds there are between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
}

/// What happened while nothing was drawn.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// It is time to look again.
    Time,
    /// The terminal has another size.
    Resized,
    /// A key or a signal ends it.
    End,
}

impl Top {
    /// Shows what runs until a key or a signal ends it.
    pub(super) fn execute(self) -> Result<Verdict, Failure> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "nestling top needs a terminal: `nestling stat --interval 1` prints to anything",
            ));
        }
        let signals = Signals::block(&SIGNALS).map_err(Failure::failed)?;
        let mut watcher = Watcher::new(self.machine, false);
        let mut before: Option<Vec<Look>> = None;
        let mut now = watcher.look().map_err(Failure::failed)?;
        let interval = Duration::from_secs(self.interval.into());
        let bold = terminal::colour(&io::stdout());
        let _screen = FullScreen::enter().map_err(Failure::failed)?;
        let mut next = Instant::now() + interval;
        loop {
            let size = terminal::size(&io::stdout()).unwrap_or(USUAL);
            draw(&frame(&now, before.as_deref(), size), bold).map_err(Failure::failed)?;
            match wait(next, &mut watcher, &signals).map_err(Failure::failed)? {
                Event::End => return Ok(Verdict::Done),
                Event::Resized => {}
                Event::Time => {
                    next = Instant::now() + interval;
                    let latest = watcher.look().map_err(Failure::failed)?;
                    before = Some(std::mem::replace(&mut now, latest));
                }
            }
        }
    }
}

/// Watches until something happens that is to be shown, or at `next`.
fn wait(next: Instant, watcher: &mut Watcher, signals: &Signals) -> io::Result<Event> {
    while let Some(rest) = next.checked_duration_since(Instant::now()) {
        let stdin = io::stdin();
        let ready = process::poll(&[signals.as_fd(), stdin.as_fd()], rest.min(Watcher::TICK))?;
        if ready[0] {
            let resized = signals.take() == Some(libc::SIGWINCH.cast_unsigned());
            return Ok(if resized { Event::Resized } else { Event::End });
        }
        if ready[1] {
            let mut keys = [0; 64];
            let count = streams::read(stdin.as_fd(), &mut keys)?;
            // In raw mode Ctrl-C is a byte.
            let ends = |key: &u8| matches!(key, b'q' | b'Q' | 0x03);
            if count == 0 || keys[..count].iter().any(ends) {
                return Ok(Event::End);
            }
        }
        watcher.tick();
    }
    Ok(Event::Time)
}

/// The lines of a screen of this size, its columns and rows: what doesn't fit is
/// left out, the columns to the right first.
fn frame(looks: &[Look], before: Option<&[Look]>, (columns, rows): (u16, u16)) -> Vec<String> {
    let since = if before.is_some() {
        "a second"
    } else {
        "since the start"
    };
    let title = match looks {
        [] => "nestling top: no machine and no nest of yours is running; q quits".into(),
        looks => format!("nestling top: {} running, {since}; q quits", looks.len()),
    };
    let mut table = table(looks, before, short);
    let fits = |table: &[Vec<String>]| {
        let widest = aligned(table, 1)
            .lines()
            .map(|line| line.chars().count())
            .max();
        widest.unwrap_or(0) <= columns.into()
    };
    while !fits(&table) && table[0].len() > 3 {
        for row in &mut table {
            row.pop();
        }
    }
    let text = aligned(&table, 1);
    let lines = [title.as_str(), ""].into_iter().chain(text.lines());
    lines
        .take(rows.into())
        .map(|line| line.chars().take(columns.into()).collect())
        .collect()
}

/// A number in at most five characters.
fn short(number: f64) -> String {
    match number {
        number if number < 9.95 => format!("{number:.1}"),
        number if number < 9999.5 => format!("{number:.0}"),
        number if number < 9.995e5 => format!("{:.0}k", number / 1e3),
        number if number < 9.995e8 => format!("{:.1}M", number / 1e6),
        number => format!("{:.1}G", number / 1e9),
    }
}

/// Draws over what is there, so that nothing flickers.
fn draw(lines: &[String], bold: bool) -> io::Result<()> {
    let mut text = String::from("\x1b[H");
    for (number, line) in lines.iter().enumerate() {
        let ends = if number == 0 { "" } else { "\r\n" };
        let head = bold && number == 2;
        let (on, off) = if head {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        write!(text, "{ends}{on}{line}{off}\x1b[K").expect("a string takes all");
    }
    text.push_str("\x1b[J");
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::look::tests::{machine, nest};

    #[test]
    fn a_frame_fits_its_screen() {
        let looks = [machine(3, 1, 5_000_000), nest(3, 50)];
        let before = [machine(1, 1, 0), nest(1, 30)];
        for size in [(80, 24), (200, 50), (20, 5), (1, 1)] {
            let lines = frame(&looks, Some(&before), size);
            assert!(lines.len() <= usize::from(size.1), "{lines:#?}");
            let widest = lines.iter().map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(size.0)), "{lines:#?}");
        }
        let lines = frame(&looks, Some(&before), (80, 24));
        assert_eq!(lines[0], "nestling top: 2 running, a second; q quits");
        assert!(lines[2].contains("hypervisor"), "{}", lines[2]);
        assert!(lines[3].contains(" 5.0M "), "{}", lines[3]);
        assert!(lines[7].contains(" 16.00 "), "{}", lines[7]);
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0.0"),
            (9.94, "9.9"),
            (9.96, "10"),
            (9999.4, "9999"),
            (9999.6, "10k"),
            (123_456.0, "123k"),
            (1_234_567.0, "1.2M"),
            (2.5e9, "2.5G"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
