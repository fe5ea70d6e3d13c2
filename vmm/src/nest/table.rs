//! The table at a nest's end.

use std::fmt::Write;

use super::account::{Phase, Reason, reasons};
use super::report::{Level, Report};
use crate::channel::WorkloadResult;
use crate::table::aligned;

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
    let words = rows[0].len();
    let mut out = aligned(&rows, words);
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
    out.push_str(&costs(&report.phases));
    for phase in &report.phases {
        out.push_str(&traced(phase));
    }
    out
}

/// Reasons shown of one phase: the rest is in the JSON form.
const MAX_REASONS: usize = 12;

/// The reasons of the exits of every traced level's machine that has guests of
/// its own, for the step of the level above it.
fn traced(phase: &Phase) -> String {
    let mut out = String::new();
    for cost in phase.costs.iter().filter(|cost| cost.split.is_some()) {
        let (host, machine) = (cost.level - 2, cost.level - 1);
        let Some(counts) = phase.counts.get(&machine) else {
            continue;
        };
        let title = format!("L{host}'s exits, {} of L{}", phase.name, phase.level);
        let mut rows = vec![
            [
                title.as_str(),
                &format!("of L{machine}"),
                &format!("of L{}, handled", cost.level),
                "reflected",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        let reasons = reasons(counts);
        rows.extend(reasons.iter().take(MAX_REASONS).map(Reason::cells));
        let all = cost.split.map(|split| Reason { name: "all", split });
        rows.extend(all.as_ref().map(Reason::cells));
        let _ = write!(out, "\n{}", aligned(&rows, 1));
    }
    out
}

/// What the exits of levels above L1 cost, a row for each step during which they
/// were counted.
fn costs(phases: &[Phase]) -> String {
    let counted = || {
        let of = |phase| move |cost| (phase, cost);
        phases
            .iter()
            .flat_map(move |phase: &Phase| phase.costs.iter().map(of(phase)))
    };
    let lowest = counted().filter_map(|(_, cost)| cost.below.last().map(|share| share.level));
    let highest = counted().filter_map(|(_, cost)| cost.below.first().map(|share| share.level));
    let (Some(lowest), Some(highest)) = (lowest.min(), highest.max()) else {
        return String::new();
    };
    let mut header: Vec<String> = [
        "exits of",
        "during",
        "of",
        "exits",
        "to user space",
        "entries",
    ]
    .map(str::to_owned)
    .into();
    for level in (lowest..=highest).rev() {
        header.extend([format!("L{level} took"), "per exit".to_owned()]);
    }
    let mut rows = vec![header];
    for (phase, cost) in counted() {
        let mut row = vec![
            format!("L{}", cost.level),
            phase.name.clone(),
            format!("L{}", phase.level),
            cost.exits.to_string(),
            cost.user_exits.to_string(),
            cost.entries.to_string(),
        ];
        for level in (lowest..=highest).rev() {
            let share = cost.below.iter().find(|share| share.level == level);
            row.extend(match share {
                Some(share) => [share.exits.to_string(), format!("{:.2}", share.per_exit)],
                None => ["-", "-"].map(str::to_owned),
            });
        }
        rows.push(row);
    }
    format!("\n{}", aligned(&rows, 3))
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
    use crate::nest::account::{Cost, Share};
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
    fn what_exits_cost_is_lined_up() {
        let share = |level, exits, per_exit| Share {
            level,
            exits,
            per_exit,
        };
        let cost = |level, exits, below| Cost {
            level,
            exits,
            user_exits: 2,
            entries: exits,
            difference_percent: 0.0,
            below,
            split: None,
        };
        let mut report = report(true);
        report.phases = vec![Phase {
            level: 3,
            name: "cpuid 10".into(),
            costs: vec![
                cost(2, 100, vec![share(0, 1650, 16.5)]),
                cost(3, 10, vec![share(1, 100, 10.0), share(0, 1650, 165.0)]),
            ],
            ..Phase::default()
        }];
        let text = table(&report);
        let rows: Vec<_> = text.lines().skip(5).collect();
        assert_eq!(
            rows,
            [
                "exits of  during    of  exits  to user space  entries  \
                 L1 took  per exit  L0 took  per exit",
                "L2        cpuid 10  L3    100              2      100        \
                 -         -     1650     16.50",
                "L3        cpuid 10  L3     10              2       10      \
                 100     10.00     1650    165.00",
            ]
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
