//! A machine's counts, for people and for programs.

use std::fmt::Write as _;

use serde_json::json;

use crate::channel::MonitorEvent;
use crate::exit::UserExits;
use crate::machine::Report;
use crate::stats::Counts;

/// The version of the JSON form; docs/json.md describes it.
const VERSION: u32 = 1;

/// The counts as the event that ends a machine's log.
pub fn exits_event(report: &Report) -> MonitorEvent {
    let vcpus = report
        .vcpus
        .iter()
        .map(|vcpu| with_user_exits(&vcpu.counts, vcpu.user_exits));
    MonitorEvent::Exits {
        vm: report.vm.clone(),
        vcpus: vcpus.collect(),
    }
}

/// KVM's counts, and the monitor's own beside them.
fn with_user_exits(counts: &Counts, user: UserExits) -> Counts {
    let mut all = counts.clone();
    all.extend(
        [
            ("user_exits", user.total()),
            ("user_port_reads", user.port_reads),
            ("user_port_writes", user.port_writes),
            ("user_mmio_reads", user.mmio_reads),
            ("user_mmio_writes", user.mmio_writes),
        ]
        .map(|(name, count)| (name.to_owned(), count)),
    );
    all
}

/// The counts as one JSON object.
pub fn json(report: &Report) -> String {
    let vcpus: Vec<Counts> = report
        .vcpus
        .iter()
        .map(|v| with_user_exits(&v.counts, v.user_exits))
        .collect();
    let mut text = json!({
        "version": VERSION,
        "vm": report.vm,
        "vcpus": vcpus,
        "total": with_user_exits(&report.vcpu_total(), report.user_exits()),
    })
    .to_string();
    text.push('\n');
    text
}

/// The counts as a table: what isn't zero, the largest first.
pub fn text(report: &Report) -> String {
    let mut rows: Vec<(String, u64)> = with_user_exits(&report.vcpu_total(), report.user_exits())
        .into_iter()
        .chain(report.vm.clone())
        .filter(|(_, count)| *count != 0)
        .collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, count) in rows {
        writeln!(text, "{name:width$}  {count:>12}").expect("a string takes all");
    }
    text
}
