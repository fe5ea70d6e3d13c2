//! The table at a nest's end.

use std::fmt::Write;

use super::report::{Level, Report};
use crate::channel::WorkloadResult;

/// The report as an aligned table, with what is known of failures below it.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut header = vec![
        "level", "vendor", "exposure", "kernel", "exits", "ran", "result",
    ];
    if !report.emulated {
        header.insert(4, "boot");
    }
    let mut rows: Vec<Vec<String>> = vec![header.into_iter().map(str::to_owned).collect()];
    rows.extend(
        report
            .levels
            .iter()
            .map(|level| row(level, report.emulated)),
    );
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    for level in &report.levels {
        let found = level.workloads.iter().filter(|work| work.ok && tells(work));
        for work in found {
            let _ = writeln!(out, "L{} {}: {}", level.level, work.name, work.output);
        }
    }
    for level in report
        .levels
        .iter()
        .filter(|level| !level.detail.is_empty())
    {
        let _ = writeln!(
            out,
            "L{} {}: {}",
            level.level,
            level.result,
            level.detail.trim_end()
        );
    }
    out
}

/// Whether a workload's finding is worth a line: it says how the network is.
fn tells(work: &WorkloadResult) -> bool {
    let kind = work.name.split(' ').next();
    matches!(kind, Some("address" | "network" | "fetch"))
}

fn row(level: &Level, emulated: bool) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let mut row = vec![
        format!("L{}", level.level),
        text(&level.vendor),
        text(&level.exposure),
        text(&level.kernel),
        text(
            &level
                .exits
                .as_ref()
                .and_then(|counts| counts.get("exits"))
                .map(u64::to_string),
        ),
        if level.workload.is_empty() {
            "-".into()
        } else {
            level.workload.clone()
        },
        level.result.clone(),
    ];
    if !emulated {
        let seconds = |ns: u64| format!("{}.{:02} s", ns / 1_000_000_000, ns / 10_000_000 % 100);
        row.insert(4, text(&level.boot_ns.map(seconds)));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Event, Fault, FaultKind, What};
    use crate::nest::report::tests::good;

    fn report(emulated: bool) -> Report {
        let mut report = Report::new("svm", emulated, 1, 2);
        good(1).iter().for_each(|event| report.observe(event));
        let fault = Fault {
            kind: FaultKind::Panic,
            detail: "sysrq triggered crash".into(),
        };
        report.observe(&Event {
            level: 2,
            what: What::Fault(fault),
        });
        report.conclude();
        report
    }

    #[test]
    fn an_emulated_metal_shows_counts_and_no_times() {
        assert_eq!(
            table(&report(true)),
            "level  vendor        exposure  kernel  exits  ran        result\n\
             L1     AuthenticAMD  svm       6.12.0  12345  L2, hello  ok\n\
             L2     -             -         -       -      -          panic\n\
             L2 panic: sysrq triggered crash\n"
        );
    }

    #[test]
    fn a_real_one_shows_both() {
        let text = table(&report(false));
        let line = text.lines().nth(1).unwrap();
        assert_eq!(
            line,
            "L1     AuthenticAMD  svm       6.12.0  1.50 s  12345  L2, hello  ok"
        );
    }
}
