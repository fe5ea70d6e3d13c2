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
pub(super) fn with_user_exits(counts: &Counts, user: UserExits) -> Counts {
    let mut all = counts.clone();
    all.extend(
        [
            ("user_exits", user.total()),
            ("user_port_reads", user.port_reads),
            ("user_port_writes", user.port_writes),
            ("user_mmio_reads", user.mmio_reads),
            ("user_mmio_writes", user.mmio_writes),
            ("user_other", user.other),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::End;
    use crate::vcpu::Finished;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs
            .iter()
            .map(|&(name, n)| (name.to_owned(), n))
            .collect()
    }

    fn vcpu(index: u32, exits: u64) -> Finished {
        Finished {
            index,
            counts: counts(&[("exits", exits), ("nested_run", 0)]),
            user_exits: UserExits {
                port_writes: 2,
                ..UserExits::default()
            },
        }
    }

    fn report() -> Report {
        Report {
            end: End::PowerOff,
            panicked: false,
            vm: counts(&[("remote_tlb_flush", 7)]),
            vcpus: vec![vcpu(0, 100), vcpu(1, 20)],
        }
    }

    #[test]
    fn the_json_form_keeps_vcpus_apart_and_adds_them_up() {
        let text = json(&report());
        assert!(text.ends_with('\n'));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["vm"]["remote_tlb_flush"], 7);
        assert_eq!(json["vcpus"][1]["exits"], 20);
        assert_eq!(json["vcpus"][1]["user_exits"], 2);
        assert_eq!(json["total"]["exits"], 120);
        assert_eq!(json["total"]["user_port_writes"], 4);
        assert_eq!(json["total"]["nested_run"], 0);
    }

    #[test]
    fn the_table_leaves_zeroes_out_and_begins_with_the_largest() {
        assert_eq!(
            text(&report()),
            "exits                      120\n\
             remote_tlb_flush             7\n\
             user_exits                   4\n\
             user_port_writes             4\n"
        );
    }

    #[test]
    fn the_event_has_the_monitors_counts_beside_kvms() {
        let MonitorEvent::Exits { vm, vcpus } = exits_event(&report()) else {
            panic!("another event");
        };
        assert_eq!(vm["remote_tlb_flush"], 7);
        assert_eq!((vcpus[0]["exits"], vcpus[0]["user_exits"]), (100, 2));
    }
}
