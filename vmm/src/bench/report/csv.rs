//! The report as CSV (RFC 4180): one figure a line, so that any program can pivot it.

use std::fmt::Write as _;

use super::{Cell, Report, RowReport};
use crate::bench::statistics::Estimate;

const HEADER: &str = "row,level,exposure,monitor,metric,unit,value,low,high,spread,boots";

/// The report as CSV.
pub(super) fn text(report: &Report) -> String {
    let mut out = format!("{HEADER}\n");
    for row in &report.rows {
        for cell in &row.cells {
            Lines {
                out: &mut out,
                row,
                cell,
            }
            .all();
        }
    }
    out
}

struct Lines<'a> {
    out: &'a mut String,
    row: &'a RowReport,
    cell: &'a Cell,
}

impl Lines<'_> {
    fn all(&mut self) {
        let cell = self.cell;
        let unit = self.row.row.quantity().unit();
        if let Some(figures) = &cell.figures {
            self.estimate("median", unit, &figures.median);
            let quantiles = &figures.quantiles;
            for (metric, value) in [
                ("min", quantiles.min),
                ("p50", quantiles.p50),
                ("p90", quantiles.p90),
                ("p99", quantiles.p99),
                ("p99.9", quantiles.p99_9),
                ("max", quantiles.max),
            ] {
                self.value(metric, unit, value);
            }
            if let Some(cycles) = figures.cycles {
                self.value("cycles", "cycles", cycles);
            }
            for ratio in &figures.ratios {
                let metric = format!("ratio-to-L{}", ratio.to);
                self.estimate(&metric, "", &ratio.estimate);
            }
        }
        for exits in &cell.exits {
            let metric = format!("exits-at-L{}", exits.machine - 1);
            self.estimate(&metric, "exits/operation", &exits.total);
        }
    }

    fn estimate(&mut self, metric: &str, unit: &str, estimate: &Estimate) {
        let Estimate {
            value,
            low,
            high,
            spread,
            boots,
        } = estimate;
        let spread = serde_json::to_value(spread).unwrap_or_default();
        let spread = spread.as_str().unwrap_or_default();
        self.line(
            metric,
            unit,
            &format!("{value},{low},{high},{spread},{boots}"),
        );
    }

    fn value(&mut self, metric: &str, unit: &str, value: f64) {
        let boots = self.cell.boots;
        self.line(metric, unit, &format!("{value},,,,{boots}"));
    }

    fn line(&mut self, metric: &str, unit: &str, rest: &str) {
        let Cell {
            level,
            configuration,
            ..
        } = self.cell;
        let (exposure, monitor) = (
            field(&configuration.exposure),
            field(&configuration.monitor),
        );
        let row = self.row.row;
        writeln!(
            self.out,
            "{row},{level},{exposure},{monitor},{metric},{unit},{rest}"
        )
        .expect("a string takes all");
    }
}

/// A field, quoted where it has to be.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
