//! The results: what was measured, beside what must be shown.

mod bound;
mod print;

pub(crate) use bound::Bound;

use std::collections::HashMap;

use crate::Failure;
use crate::contender::Contender;

/// A row: what is measured, of whom, and what must be shown of nestling.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name, by which filters find it.
    pub(crate) id: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    /// The unit of its figures.
    pub(crate) unit: &'static str,
    /// Which of two figures is the better one.
    pub(crate) better: Better,
    /// Who is measured.
    pub(crate) contenders: &'static [Contender],
    /// What must be shown.
    pub(crate) bounds: &'static [Bound],
    /// Whether each round measures it anew.
    pub(crate) every_round: bool,
}

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// The larger, as with throughput.
    More,
    /// The smaller, as with latency.
    Less,
}

impl Better {
    /// How many times as good the first figure is as the second.
    fn ratio(self, first: f64, second: f64) -> f64 {
        match self {
            Self::More => first / second,
            Self::Less => second / first,
        }
    }
}

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    /// Figures, one for each round.
    Figures(Vec<f64>),
    /// A finding in words.
    Words(String),
    /// Why there is nothing.
    Failed(String),
}

impl Cell {
    /// The median of its figures.
    fn figure(&self) -> Option<f64> {
        match self {
            Self::Figures(figures) => median(figures),
            Self::Words(_) | Self::Failed(_) => None,
        }
    }
}

/// All rows, and the cells that have been measured.
#[derive(Debug)]
pub(crate) struct Table {
    rows: &'static [Row],
    cells: HashMap<(&'static str, Contender), Cell>,
}

impl Table {
    /// A table of these rows, without any figure.
    pub(crate) fn new(rows: &'static [Row]) -> Self {
        Self {
            rows,
            cells: HashMap::new(),
        }
    }

    /// Adds what a round has come to. A failure stays, whatever other rounds come to.
    pub(crate) fn record(
        &mut self,
        row: &'static str,
        contender: Contender,
        outcome: Result<Cell, Failure>,
    ) {
        let new = outcome.unwrap_or_else(|error| Cell::Failed(error.to_string()));
        match (self.cells.get_mut(&(row, contender)), new) {
            (Some(Cell::Failed(_)), _) => {}
            (Some(Cell::Figures(figures)), Cell::Figures(new)) => figures.extend(new),
            (_, new) => {
                self.cells.insert((row, contender), new);
            }
        }
    }

    /// Whether nothing has been measured.
    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Whether nothing that was measured misses a bound or has failed for nestling.
    pub(crate) fn met(&self) -> bool {
        self.rows.iter().all(|row| {
            let judged = row.bounds.iter().filter_map(|bound| self.judge(row, bound));
            let failed = matches!(self.cell(row, Contender::Nestling), Some(Cell::Failed(_)));
            !failed && judged.into_iter().all(|judgement| judgement.met)
        })
    }

    fn cell(&self, row: &Row, contender: Contender) -> Option<&Cell> {
        self.cells.get(&(row.id, contender))
    }

    /// The rows in which anything was measured.
    fn measured(&self) -> impl Iterator<Item = &'static Row> {
        self.rows.iter().filter(|row| {
            row.contenders
                .iter()
                .any(|contender| self.cell(row, *contender).is_some())
        })
    }
}

/// The middle one; of an even number, the mean of the two in the middle.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(sorted[sorted.len() / 2 - 1], upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::ALL;

    const ROWS: [Row; 1] = [Row {
        id: "speed",
        title: "speed",
        unit: "Gbit/s",
        better: Better::More,
        contenders: &ALL,
        bounds: &[Bound::OfVeth(0.5)],
        every_round: true,
    }];

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 9.0, 1.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_ratio_above_one_is_always_the_better() {
        assert!((Better::More.ratio(10.0, 5.0) - 2.0).abs() < f64::EPSILON);
        assert!((Better::Less.ratio(5.0, 10.0) - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn rounds_add_up_and_a_failure_stays() {
        let mut table = Table::new(&ROWS);
        let record = |table: &mut Table, outcome| table.record("speed", Contender::Veth, outcome);
        for figure in [1.0, 5.0, 3.0] {
            record(&mut table, Ok(Cell::Figures(vec![figure])));
        }
        let cell = table.cell(&ROWS[0], Contender::Veth).cloned();
        assert_eq!(cell, Some(Cell::Figures(vec![1.0, 5.0, 3.0])));
        record(&mut table, Err("it stalls".into()));
        record(&mut table, Ok(Cell::Figures(vec![1.0])));
        let cell = table.cell(&ROWS[0], Contender::Veth).cloned();
        assert_eq!(cell, Some(Cell::Failed("it stalls".into())));
    }

    #[test]
    fn only_nestling_can_miss() {
        let mut table = Table::new(&ROWS);
        table.record("speed", Contender::Passt, Err("not here".into()));
        table.record("speed", Contender::Veth, Ok(Cell::Figures(vec![10.0])));
        assert!(table.met());
        table.record("speed", Contender::Nestling, Ok(Cell::Figures(vec![4.0])));
        assert!(!table.met());

        let mut table = Table::new(&ROWS);
        table.record("speed", Contender::Nestling, Err("not here".into()));
        assert!(!table.met());
    }
}
