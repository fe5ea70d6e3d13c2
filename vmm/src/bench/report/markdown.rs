//! The report as Markdown.

use std::fmt::Write as _;

use super::tables::{self, Table};
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
    for found in tables::of(report) {
        table(&mut out, &found);
    }
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

fn table(out: &mut String, table: &Table) {
    line!(out, "\n## {}\n", table.title);
    let cells = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |", cells.join(" | "))
    };
    line!(out, "{}", cells(&table.heads));
    line!(out, "|{}", " --- |".repeat(table.heads.len()));
    for row in &table.rows {
        line!(out, "{}", cells(row));
    }
    if let Some(note) = table.note {
        line!(out, "\n{note}");
    }
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
