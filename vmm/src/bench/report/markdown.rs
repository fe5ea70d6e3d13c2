//! The report as Markdown.

use std::fmt::Write as _;

use super::{LevelEnvironment, Report, environment};
use crate::bench::number;

/// Writes a line; a string takes all.
macro_rules! line {
    ($out:expr $(, $($part:tt)+)?) => {
        writeln!($out $(, $($part)+)?).expect("a string takes all")
    };
}

/// The report as Markdown.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let plan = &report.plan;
    line!(out, "{}\n", report.statement);
    line!(out, "# What a level costs\n");
    line!(
        out,
        "{}, nestling {}, metal {}, {} of {} boots.",
        number::date(report.began_s),
        report.nestling,
        plan.metal,
        report.boots,
        plan.total_boots()
    );
    notes(&mut out, report);
    if !plan.emulated {
        medians(&mut out, report);
        ratios(&mut out, report);
    }
    exits(&mut out, report);
    if !report.controls.is_empty() {
        line!(out, "\n## A/A control\n");
        for cell in &report.controls {
            let words = &cell.control.words;
            let configuration = &cell.configuration;
            let (exposure, monitor) = (&configuration.exposure, &configuration.monitor);
            line!(
                out,
                "- {} at L{} ({monitor}, {exposure}): {words}",
                cell.row,
                cell.level
            );
        }
    }
    environments(&mut out, &report.environments);
    out
}

fn notes(out: &mut String, report: &Report) {
    let notes = report.notes();
    if !notes.is_empty() {
        line!(out);
    }
    for note in notes {
        line!(out, "- {note}");
    }
}

/// A table with one line for each row and configuration.
fn by_row(
    out: &mut String,
    report: &Report,
    heads: &[String],
    cell: impl Fn(&super::RowReport, &super::Configuration, usize) -> String,
) {
    let columns = report.columns();
    let several = columns.len() > 1;
    let configuration = if several { " configuration |" } else { "" };
    line!(out, "| row |{configuration} {} |", heads.join(" | "));
    let rules = heads.len() + 1 + usize::from(several);
    line!(out, "|{}", " --- |".repeat(rules));
    for row in &report.rows {
        for (configuration, name) in &columns {
            let name = if several {
                format!(" {} |", escaped(name))
            } else {
                String::new()
            };
            let cells: Vec<String> = (0..heads.len())
                .map(|head| cell(row, configuration, head))
                .collect();
            line!(out, "| {} |{name} {} |", row.row, cells.join(" | "));
        }
    }
}

fn medians(out: &mut String, report: &Report) {
    line!(out, "\n## Medians\n");
    let levels = &report.plan.levels;
    let heads: Vec<String> = levels.iter().map(|level| format!("L{level}")).collect();
    by_row(out, report, &heads, |row, configuration, index| {
        let cell = row.cell(configuration, levels[index]);
        let figures = cell.and_then(|cell| cell.figures.as_ref());
        figures.map_or_else(
            || "-".to_owned(),
            |figures| {
                let (value, bounds) = number::estimate(&figures.median, row.row.quantity());
                format!("{value} {bounds}")
            },
        )
    });
    line!(
        out,
        "\nIn brackets 95 % intervals; in parentheses the range of too few boots for one."
    );
}

fn ratios(out: &mut String, report: &Report) {
    let pairs = report.level_pairs();
    if pairs.is_empty() {
        return;
    }
    line!(out, "\n## Ratios\n");
    let heads: Vec<String> = pairs
        .iter()
        .map(|(over, under)| format!("L{over}/L{under}"))
        .collect();
    by_row(out, report, &heads, |row, configuration, index| {
        let (over, under) = pairs[index];
        let cell = row.cell(configuration, over);
        let ratio = cell.and_then(|cell| cell.ratio(under));
        ratio.map_or_else(|| "-".to_owned(), number::ratio)
    });
}

fn exits(out: &mut String, report: &Report) {
    let places = report.exit_places();
    if places.is_empty() {
        return;
    }
    line!(out, "\n## Exits for one operation\n");
    let heads: Vec<String> = places
        .iter()
        .map(|(level, machine)| format!("in L{level}, counted at L{}", machine - 1))
        .collect();
    by_row(out, report, &heads, |row, configuration, index| {
        let (level, machine) = places[index];
        row.exits(configuration, level, machine)
            .map_or_else(|| "-".to_owned(), |exits| number::plain(exits.total.value))
    });
}

fn environments(out: &mut String, found: &[LevelEnvironment]) {
    if found.is_empty() {
        return;
    }
    line!(out, "\n## Environment\n");
    let heads: Vec<String> = found
        .iter()
        .map(|found| {
            let configuration = &found.configuration;
            let (exposure, monitor) = (&configuration.exposure, &configuration.monitor);
            escaped(&format!("L{} ({monitor}, {exposure})", found.level))
        })
        .collect();
    line!(out, "| what | {} |", heads.join(" | "));
    line!(out, "|{}", " --- |".repeat(heads.len() + 1));
    for (what, values) in environment::table(found) {
        let values: Vec<String> = values
            .iter()
            .map(|value| escaped(value.as_deref().unwrap_or("-")))
            .collect();
        line!(out, "| {} | {} |", escaped(&what), values.join(" | "));
    }
}

/// Text that ends no cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
