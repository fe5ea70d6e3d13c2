//! The report's tables of figures, as Markdown and a terminal show them.

use super::{Configuration, Report, RowReport};
use crate::bench::number;

/// Rows of text under heads.
pub(super) struct Table {
    /// What it shows.
    pub(super) title: &'static str,
    /// The columns' names.
    pub(super) heads: Vec<String>,
    /// A line for each row and configuration.
    pub(super) rows: Vec<Vec<String>>,
    /// How many columns are words, before those of figures.
    pub(super) words: usize,
    /// What has to be known to read it.
    pub(super) note: Option<&'static str>,
}

/// All tables that the report has figures for.
pub(super) fn of(report: &Report) -> Vec<Table> {
    let mut tables = Vec::new();
    if !report.plan.emulated {
        tables.push(medians(report));
        tables.extend(ratios(report));
    }
    tables.extend(exits(report));
    tables
}

/// A line for each row and configuration.
fn by_row(
    title: &'static str,
    report: &Report,
    heads: Vec<String>,
    cell: impl Fn(&RowReport, &Configuration, usize) -> String,
) -> Table {
    let columns = report.columns();
    let several = columns.len() > 1;
    let named = |row: String, configuration: &String| {
        let configuration = several.then(|| configuration.clone());
        [row].into_iter().chain(configuration)
    };
    let figures = heads.len();
    let mut rows = Vec::new();
    for row in &report.rows {
        for (configuration, name) in &columns {
            let figures = (0..figures).map(|head| cell(row, configuration, head));
            rows.push(named(row.row.to_string(), name).chain(figures).collect());
        }
    }
    Table {
        title,
        heads: named("row".to_owned(), &"configuration".to_owned())
            .chain(heads)
            .collect(),
        rows,
        words: 1 + usize::from(several),
        note: None,
    }
}

fn medians(report: &Report) -> Table {
    let levels = &report.plan.levels;
    let heads = levels.iter().map(|level| format!("L{level}")).collect();
    let table = by_row("Medians", report, heads, |row, configuration, index| {
        let cell = row.cell(configuration, levels[index]);
        let figures = cell.and_then(|cell| cell.figures.as_ref());
        figures.map_or_else(nothing, |figures| {
            let (value, bounds) = number::estimate(&figures.median, row.row.quantity());
            format!("{value} {bounds}")
        })
    });
    Table {
        note: Some(
            "In brackets 95 % intervals; in parentheses the range of too few boots for one.",
        ),
        ..table
    }
}

fn ratios(report: &Report) -> Option<Table> {
    let pairs = report.level_pairs();
    let name = |(over, under): &(u8, u8)| format!("L{over}/L{under}");
    let heads = pairs.iter().map(name).collect();
    (!pairs.is_empty()).then(|| {
        by_row("Ratios", report, heads, |row, configuration, index| {
            let (over, under) = pairs[index];
            let cell = row.cell(configuration, over);
            let ratio = cell.and_then(|cell| cell.ratio(under));
            ratio.map_or_else(nothing, number::ratio)
        })
    })
}

fn exits(report: &Report) -> Option<Table> {
    let places = report.exit_places();
    let name = |(level, machine): &(u8, u8)| format!("in L{level}, counted at L{}", machine - 1);
    let heads = places.iter().map(name).collect();
    let title = "Exits for one operation";
    (!places.is_empty()).then(|| {
        by_row(title, report, heads, |row, configuration, index| {
            let (level, machine) = places[index];
            let exits = row.exits(configuration, level, machine);
            exits.map_or_else(nothing, |exits| number::plain(exits.total.value))
        })
    })
}

/// What stands where there is no figure.
fn nothing() -> String {
    "-".to_owned()
}
