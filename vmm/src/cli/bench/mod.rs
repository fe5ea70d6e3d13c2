//! `nestling bench`: what a level costs.

mod run;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Format, Verdict, print_result};
use crate::bench::compare::Comparison;
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
    nestling bench report results

  Is anything more than 5 % worse than it was? For a CI job, which fails if so:
    nestling bench compare before after --threshold 5%";

/// The version of the JSON forms printed here; docs/json.md describes them.
const VERSION: u32 = 1;

/// The subcommands of `nestling bench`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Bench {
    /// Measure: boot nests, and keep what every level's rows take and count
    Run(Box<run::RunBench>),
    /// Measure one boot of a run
    #[command(hide = true)]
    Boot(run::Boot),
    /// Measure as L0 what standard input orders
    #[command(hide = true)]
    Measure,
    /// Say what can be measured: what each row is, how, and what it can't tell
    List(List),
    /// Make a report from a folder of results: JSON, CSV, Markdown and a page
    Report(MakeReport),
    /// Say what differs between two folders of results; fail if anything regressed
    Compare(Compare),
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

/// The arguments of `nestling bench compare`.
#[derive(Debug, Args)]
pub(super) struct Compare {
    /// The folder of results to compare with
    #[arg(value_name = "A")]
    before: PathBuf,

    /// The folder of results that is judged
    #[arg(value_name = "B")]
    after: PathBuf,

    /// By how much B may cost more than A
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percentage)]
    threshold: f64,

    /// Only these rows
    #[arg(long, value_name = "ROW,...", value_delimiter = ',')]
    rows: Vec<Row>,
}

/// A percentage, as a share.
fn percentage(text: &str) -> Result<f64, String> {
    text.strip_suffix('%')
        .and_then(|number| number.trim_end().parse().ok())
        .filter(|number: &f64| number.is_finite() && *number >= 0.0)
        .map(|number| number / 100.0)
        .ok_or_else(|| "write a percentage, as in 5%".into())
}

impl Bench {
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        match self {
            Self::Run(run) => run.execute(format),
            Self::Boot(boot) => boot.execute(),
            Self::Measure => run::measure_here(),
            Self::List(list) => list.execute(format),
            Self::Report(report) => report.execute(format),
            Self::Compare(compare) => compare.execute(format),
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
                let mut text = report.text();
                text.push('\n');
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

impl Compare {
    fn execute(&self, format: Format) -> Result<Verdict, Failure> {
        let (before, after) = (read(&self.before)?, read(&self.after)?);
        let comparison = Comparison::new(
            [&before, &after],
            &self.rows,
            self.threshold,
            Bootstrap::default(),
        );
        if comparison.differences.is_empty() && comparison.lost.is_empty() {
            return Err(Failure::failed(format!(
                "{} and {} have nothing in common to compare",
                self.before.display(),
                self.after.display()
            )));
        }
        let text = match format {
            Format::Text => comparison.text(),
            Format::Json => {
                serde_json::to_string_pretty(&comparison).map_err(Failure::failed)? + "\n"
            }
        };
        print_result(&text)?;
        Ok(if comparison.ok {
            Verdict::Done
        } else {
            Verdict::Failed
        })
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
