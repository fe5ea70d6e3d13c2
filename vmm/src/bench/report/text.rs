//! The report's figures for a terminal.

use super::{Report, tables};
use crate::table::aligned;

/// What was found, without the environment.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("{}\n", report.statement);
    for note in report.notes() {
        out.push_str(&format!("- {note}\n"));
    }
    for table in tables::of(report) {
        out.push_str(&format!("\n{}\n", table.title));
        let heads = [table.heads];
        let rows: Vec<Vec<String>> = heads.into_iter().chain(table.rows).collect();
        out.push_str(&aligned(&rows, table.words));
        if let Some(note) = table.note {
            out.push_str(&format!("{note}\n"));
        }
    }
    out
}
