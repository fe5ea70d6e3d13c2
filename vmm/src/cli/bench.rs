//! `nestling bench`: what a level costs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Format, Verdict, print_result};
use crate::bench::report::Report;
use crate::bench::results::{self, Results};
use crate::bench::row::Row;
use crate::bench::statistics::Bootstrap;

const EXAMPLES: &str = "\
Examples:
  What can be measured, and all about two of the rows:
    nestling bench list
    nestling bench list cpuid page-touch-4k

  A page to look at, and figures for other programs, from the results in a folder:
    nestling bench report results";

/// The version of the JSON forms printed here; docs/json.md describes them.
const VERSION: u32 = 1;

/// The subcommands of `nestling bench`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Bench {
    /// Say what can be measured: what each row is, how, and what it can't tell
    List(List),
    /// Make a report from a folder of results: JSON, CSV, Markdown and a page
    Report(MakeReport),
}

/// The arguments of `nestling bench list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Rows to explain in full
    #[arg(value_name = "ROW")]
    rows: Vec<Row>,
}

/// The arguments of `nestling bench report`.
#[derive(Debug, Args)]
pub(super) struct MakeReport {
    /// The folder of results; the report is written into it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Bench {
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        match self {
            Self::List(list) => list.execute(format),
            Self::Report(report) => report.execute(format),
        }
    }
}

impl List {
    fn execute(&self, format: Format) -> Result<Verdict, Failure> {
        let text = match (format, self.rows.as_slice()) {
            (Format::Json, []) => json(Row::ALL),
            (Format::Json, some) => json(some),
            (Format::Text, []) => brief(),
            (Format::Text, some) => full(some),
        };
        print_result(&text)?;
        Ok(Verdict::Done)
    }
}

fn brief() -> String {
    let width = Row::ALL
        .iter()
        .map(|row| row.name().len())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for row in Row::ALL {
        let unit = row.quantity().unit();
        writeln!(out, "{row:width$}  {unit:3}  {}", row.measures()).expect("a string takes all");
    }
    out
}

fn full(rows: &[Row]) -> String {
    let texts: Vec<String> = rows
        .iter()
        .map(|row| {
            let unit = row.quantity().unit();
            let (measures, how, limits) = (row.measures(), row.how(), row.limits());
            format!("{row} ({unit})\n  {measures}\n  {how}\n  {limits}\n")
        })
        .collect();
    texts.join("\n")
}

fn json(rows: &[Row]) -> String {
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            json!({
                "row": row,
                "family": row.family(),
                "unit": row.quantity().unit(),
                "better": row.quantity().better(),
                "measures": row.measures(),
                "how": row.how(),
                "limits": row.limits(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "version": VERSION, "rows": rows }))
}

impl MakeReport {
    fn execute(&self, format: Format) -> Result<Verdict, Failure> {
        let results = read(&self.folder)?;
        let report = Report::new(&results, Bootstrap::default());
        let written = report.write(&self.folder).map_err(|(path, error)| {
            Failure::failed(format!("cannot write {}: {error}", path.display()))
        })?;
        let text = match format {
            Format::Json => report.json().map_err(Failure::failed)?,
            Format::Text => {
                let mut text = format!("{}\n", report.statement);
                for path in written {
                    writeln!(text, "{}", path.display()).expect("a string takes all");
                }
                text
            }
        };
        print_result(&text)?;
        Ok(Verdict::Done)
    }
}

/// Reads results, and warns of each file that can't be used.
fn read(folder: &Path) -> Result<Results, Failure> {
    let results = Results::read(folder).map_err(|error| match error {
        results::Error::NoManifest(_) => Failure::usage(error),
        _ => Failure::failed(error),
    })?;
    for damage in &results.damaged {
        let file = folder.join(&damage.file);
        tracing::warn!("{} isn't used: {}", file.display(), damage.reason);
    }
    Ok(results)
}
