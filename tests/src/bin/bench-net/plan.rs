//! A run: what is selected, measured in turn, and recorded.

use std::thread;
use std::time::{Duration, Instant};

use crate::contender::{ALL, Contender};
use crate::lab::{self, Lab};
use crate::options::Options;
use crate::progress::Progress;
use crate::rows::{self, ROWS};
use crate::table::{Cell, Row, Table};
use crate::{Failure, signals};

/// A run under way.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// What was asked for.
    pub(crate) options: &'a Options,
    /// Where it happens.
    pub(crate) lab: &'a Lab,
    /// The processor for what is pinned to one.
    pub(crate) cpu: usize,
    table: &'a mut Table,
    progress: Progress,
}

/// The names of all cells that are selected, a line each.
pub(crate) fn list(options: &Options) -> String {
    ROWS.iter()
        .flat_map(|row| {
            row.contenders
                .iter()
                .map(|contender| name(row.id, *contender))
        })
        .filter(|cell| options.wants(cell))
        .map(|cell| cell + "\n")
        .collect()
}

/// Measures what is selected into the table, which holds what there is also if the
/// run is cut short.
pub(crate) fn run(options: &Options, table: &mut Table) -> Result<(), Failure> {
    let cpu = lab::last_processor()?;
    lab::isolate()?;
    let lab = Lab::new()?;
    rows::measure(&mut Bench {
        options,
        lab: &lab,
        cpu,
        table,
        progress: Progress::new(steps(options)),
    })
}

/// How many steps the run has.
fn steps(options: &Options) -> usize {
    let rounds = |row: &Row| if row.every_round { options.rounds() } else { 1 };
    ROWS.iter()
        .flat_map(|row| {
            row.contenders
                .iter()
                .map(move |contender| (row, *contender))
        })
        .filter(|(row, contender)| options.wants(&name(row.id, *contender)))
        .filter_map(|(row, _)| usize::try_from(rounds(row)).ok())
        .sum()
}

fn name(row: &str, contender: Contender) -> String {
    format!("{row}/{contender}")
}

impl Bench<'_> {
    /// Whose cells of any of these rows are selected.
    pub(crate) fn wanted(&self, rows: &[&str]) -> Vec<Contender> {
        let wants = |contender: &Contender| rows.iter().any(|row| self.wants(row, *contender));
        ALL.into_iter().filter(wants).collect()
    }

    /// Whether there is such a cell and it is selected.
    fn wants(&self, row: &str, contender: Contender) -> bool {
        let mut rows = ROWS.iter();
        rows.any(|known| known.id == row && known.contenders.contains(&contender))
            && self.options.wants(&name(row, contender))
    }

    /// Measures a cell if it is selected, and records what came of it. Only a signal
    /// is an error.
    pub(crate) fn cell(
        &mut self,
        row: &'static str,
        contender: Contender,
        measure: impl FnOnce() -> Result<Cell, Failure>,
    ) -> Result<(), Failure> {
        if !self.wants(row, contender) {
            return Ok(());
        }
        self.progress.step(&name(row, contender));
        self.record(row, contender, measure())
    }

    /// Records what came of a cell, if it is selected.
    pub(crate) fn record(
        &mut self,
        row: &'static str,
        contender: Contender,
        outcome: Result<Cell, Failure>,
    ) -> Result<(), Failure> {
        signals::check()?;
        if self.wants(row, contender) {
            self.table.record(row, contender, outcome);
        }
        Ok(())
    }

    /// Records that nothing can come of a contender's cells in these rows.
    pub(crate) fn give_up(
        &mut self,
        rows: &[&'static str],
        contender: Contender,
        why: &Failure,
    ) -> Result<(), Failure> {
        for row in rows {
            self.record(row, contender, Err(why.to_string().into()))?;
        }
        Ok(())
    }

    /// Says that the next step begins.
    pub(crate) fn step(&mut self, what: &str) {
        self.progress.step(what);
    }

    /// Says how the step goes.
    pub(crate) fn say(&self, what: &str) {
        self.progress.say(what);
    }
}

/// Waits, unless a signal comes.
pub(crate) fn pause(duration: Duration) -> Result<(), Failure> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        signals::check()?;
        thread::sleep(Duration::from_millis(50).min(end - Instant::now()));
    }
    signals::check()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_a_bound() {
        for (number, row) in ROWS.iter().enumerate() {
            assert!(
                ROWS[..number].iter().all(|other| other.id != row.id),
                "{}",
                row.id
            );
            assert!(!row.bounds.is_empty(), "{}", row.id);
            assert!(row.contenders.contains(&Contender::Nestling), "{}", row.id);
        }
    }

    #[test]
    fn a_filter_selects_cells_and_their_steps() {
        let words = ["bench-net", "--filter", "tcp-request/", "--rounds", "4"];
        let options = Options::parse_from(words);
        let all = ["veth", "passt", "slirp", "nestling"];
        let expected: String = all.map(|name| format!("tcp-request/{name}\n")).concat();
        assert_eq!(list(&options), expected);
        assert_eq!(steps(&options), 16);
    }
}
