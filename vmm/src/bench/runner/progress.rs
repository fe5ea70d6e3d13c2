//! What a person sees of a run: a line on a terminal that says where it is and how
//! long it still takes, and a line for each boot that is over.

use std::io::Write;
use std::time::{Duration, Instant};

use super::Told;
use crate::bench::results::{Boot, Configuration, Plan};
use crate::channel::{Event, What};

/// How often the line's clock moves.
const TICK: Duration = Duration::from_secs(1);

/// Writes how a run goes.
#[derive(Debug)]
pub struct Progress<W> {
    out: W,
    plan: Plan,
    /// The terminal's width, if it is one.
    columns: Option<usize>,
    /// Boots to be measured, and how many of them are over.
    all: usize,
    over: usize,
    start: Instant,
    number: usize,
    boot: Instant,
    doing: String,
    shown: bool,
}

impl<W: Write> Progress<W> {
    /// The progress of `all` boots of `plan`; `columns` is the terminal's width, if
    /// `out` is one.
    pub fn new(out: W, plan: Plan, all: usize, columns: Option<usize>) -> Self {
        let now = Instant::now();
        Self {
            out,
            plan,
            columns,
            all,
            over: 0,
            start: now,
            number: 0,
            boot: now,
            doing: String::new(),
            shown: false,
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(self.out, "\r\x1b[K").and_then(|()| self.out.flush());
        }
    }

    fn draw(&mut self) {
        let Some(columns) = self.columns else { return };
        self.clear();
        let mut line = format!("boot {} ({} of {})", self.number, self.over + 1, self.all);
        if !self.doing.is_empty() {
            line.push_str(&format!(", {}", self.doing));
        }
        if let Some(left) = left(
            self.start.elapsed(),
            self.over,
            self.all,
            self.boot.elapsed(),
        ) {
            line.push_str(&format!(", {left} left"));
        }
        // One column stays free: a full line would wrap.
        let line: String = line.chars().take(columns.saturating_sub(1)).collect();
        let _ = write!(self.out, "{line}").and_then(|()| self.out.flush());
        self.shown = true;
    }

    /// Says what came of a boot in a line of its own.
    fn ended(&mut self, boot: &Boot, then: &str) {
        self.clear();
        let Configuration { exposure, monitor } = &boot.configuration;
        let mut line = format!("boot {}", boot.number);
        if self.plan.exposures.len() > 1 {
            line.push_str(&format!(" {exposure}"));
        }
        if self.plan.monitors.len() > 1 {
            line.push_str(&format!(" {monitor}"));
        }
        let outcome = boot.died().unwrap_or_else(|| "ok".to_owned());
        let took = spell(self.boot.elapsed());
        let _ = writeln!(self.out, "{line}: {outcome}, {took}{then}");
    }
}

/// How long it still takes, as long as the boots before took; nothing is known before
/// one is over.
fn left(elapsed: Duration, over: usize, all: usize, this: Duration) -> Option<String> {
    let boots = u32::try_from(over).ok().filter(|boots| *boots > 0)?;
    let each = elapsed.saturating_sub(this) / boots;
    let rest = u32::try_from(all.saturating_sub(over)).ok()?;
    let left = (each * rest).saturating_sub(this.min(each));
    Some(spell(left))
}

/// A time as a person says it.
fn spell(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

impl<W: Write> Told for Progress<W> {
    fn begins(&mut self, number: usize) {
        self.number = number;
        self.boot = Instant::now();
        self.doing.clear();
        self.draw();
    }

    fn event(&mut self, event: &Event) {
        let level = event.level;
        match &event.what {
            What::Progress { text } => {
                tracing::debug!("boot {}: L{level} {text}", self.number);
                self.doing = format!("L{level} {text}");
            }
            What::Console { line } => {
                tracing::debug!("boot {}: L{level} | {line}", self.number);
                return;
            }
            What::Starts { .. } => self.doing = format!("L{level} boots"),
            What::Warning { text } => {
                self.clear();
                let _ = writeln!(self.out, "boot {}: L{level}: {text}", self.number);
            }
            _ => return,
        }
        self.draw();
    }

    fn again(&mut self, boot: &Boot) {
        self.ended(boot, ", again");
        self.begins(boot.number);
    }

    fn kept(&mut self, boot: &Boot) {
        self.ended(boot, "");
        self.over += 1;
    }

    fn tick(&mut self) -> Option<Duration> {
        self.columns?;
        self.draw();
        Some(TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Results;
    use crate::bench::synthetic::Synthetic;

    fn results(exposures: &'static [&'static str]) -> Results {
        let synthetic = Synthetic {
            exposures,
            boots: 2,
            ..Synthetic::default()
        };
        synthetic.results()
    }

    /// What is written while the first boots of `results` are measured.
    fn written(results: &Results, columns: Option<usize>, events: &[What]) -> String {
        let mut out = Vec::new();
        let plan = results.manifest.plan.clone();
        let mut progress = Progress::new(&mut out, plan, results.boots.len(), columns);
        for boot in &results.boots[..2] {
            progress.begins(boot.number);
            for what in events {
                let what = what.clone();
                progress.event(&Event { level: 2, what });
            }
            progress.kept(boot);
        }
        String::from_utf8(out).unwrap()
    }

    fn measures() -> What {
        What::Progress {
            text: "measures page-touch-4k".to_owned(),
        }
    }

    #[test]
    fn without_a_terminal_only_the_end_of_a_boot_is_written() {
        let text = written(&results(&["svm"]), None, &[measures(), What::Heartbeat]);
        assert_eq!(text, "boot 0: ok, 0 s\nboot 1: ok, 0 s\n");
    }

    #[test]
    fn a_boot_is_named_by_what_it_shares_with_no_other() {
        let mut results = results(&["svm", "svm,-npt"]);
        results.boots[1].levels[1].fault = Some("hang".to_owned());
        results.boots[1].levels[2].fault = Some("panic: oops".to_owned());
        let text = written(&results, None, &[]);
        let expected = "boot 0 svm: ok, 0 s\nboot 1 svm,-npt: L1: hang; L2: panic: oops, 0 s\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_boot_that_is_measured_again_says_so() {
        let mut results = results(&["svm"]);
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, results.manifest.plan.clone(), 1, None);
        let mut died = results.boots.remove(0);
        let ended = died.clone();
        died.levels[1].fault = Some("hang".to_owned());
        progress.begins(0);
        progress.again(&died);
        progress.kept(&ended);
        let expected = "boot 0: L1: hang, 0 s, again\nboot 0: ok, 0 s\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_terminals_line_never_wraps_and_is_taken_away() {
        let text = written(&results(&["svm"]), Some(28), &[measures()]);
        // Drawn anew each time, and gone before the boot's own line.
        let expected =
            "boot 0 (1 of 2)\r\x1b[Kboot 0 (1 of 2), L2 measure\r\x1b[Kboot 0: ok, 0 s\n";
        assert!(text.starts_with(expected), "{text:?}");
        assert!(text.ends_with("\r\x1b[Kboot 1: ok, 0 s\n"), "{text:?}");
    }

    #[test]
    fn a_warning_has_a_line_of_its_own() {
        let warning = What::Warning {
            text: "no msr".to_owned(),
        };
        let text = written(&results(&["svm"]), Some(24), &[warning]);
        let expected = "boot 0 (1 of 2)\r\x1b[Kboot 0: L2: no msr\nboot 0 (1 of 2)\r\x1b[K";
        assert!(text.starts_with(expected), "{text:?}");
    }

    #[test]
    fn the_time_left_follows_the_boots_before() {
        let s = Duration::from_secs;
        assert_eq!(left(s(30), 0, 3, s(30)), None);
        // One took 60 s; the second has run for 20 s.
        assert_eq!(left(s(80), 1, 3, s(20)).as_deref(), Some("2 min"));
        // It takes longer than the first.
        assert_eq!(left(s(200), 1, 3, s(140)).as_deref(), Some("60 s"));
        assert_eq!(left(s(60), 1, 1, s(0)).as_deref(), Some("0 s"));
    }

    #[test]
    fn times_are_said_as_a_person_would() {
        for (seconds, said) in [
            (0, "0 s"),
            (99, "99 s"),
            (100, "2 min"),
            (7500, "2 h 05 min"),
        ] {
            assert_eq!(spell(Duration::from_secs(seconds)), said);
        }
    }
}
