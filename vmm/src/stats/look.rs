//! Processes of nestling's as they were looked at, and the rows that come of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Counts;
use super::live::Hypervisor;
use crate::api::message::{Info, MachineStat, Stat, What};

/// A column of a table: the counts that it adds up.
#[derive(Debug)]
struct Column {
    /// What stands above it.
    title: &'static str,
    counts: &'static [&'static str],
}

/// The columns of numbers. docs/sight.md says what each means.
const COLUMNS: [Column; 10] = [
    column("exits", &["exits"]),
    column("nested", &["nested_run"]),
    column("user", &["user_exits"]),
    column("fault", &["pf_taken"]),
    column("inject", &["irq_injections", "nmi_injections"]),
    column("irq", &["irq_exits"]),
    column("io", &["io_exits"]),
    column("mmio", &["mmio_exits"]),
    column("halt", &["halt_exits"]),
    column("hcall", &["hypercalls"]),
];

/// What stands after the first columns of numbers, in words and shares.
const STATE: [&str; 3] = ["in L2", "L0/exit", "hypervisor"];
/// After so many of them.
const STATE_AFTER: usize = 2;

const fn column(title: &'static str, counts: &'static [&'static str]) -> Column {
    Column { title, counts }
}

/// Whether a table shows the count of this name.
#[must_use]
pub fn shows(name: &str) -> bool {
    COLUMNS.iter().any(|column| column.counts.contains(&name))
}

/// A process, as it was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Look {
    /// What it is.
    #[serde(flatten)]
    pub info: Info,
    /// What it has counted.
    pub stat: Stat,
    /// How often each vCPU was seen in a guest of its guest since the look before.
    pub seen: Vec<Seen>,
}

/// How often a vCPU was seen in a guest of its guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The vCPU's index.
    pub vcpu: usize,
    /// In how many looks.
    pub in_guest: u32,
    /// Of how many.
    pub looks: u32,
}

impl Look {
    /// Adds counts that its machine doesn't tell itself.
    pub fn add(&mut self, counts: &Counts) {
        for machine in &mut self.stat.machines {
            super::add(&mut machine.vm, counts);
        }
    }
}

/// A row of a table: a machine, one of its vCPUs, or a level of a nest.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    /// Whose row it is.
    name: String,
    /// Which part of it: `all`, a vCPU's number, or a level as `L1`.
    part: String,
    /// Each column's number: a total, or so many a second.
    numbers: [f64; COLUMNS.len()],
    /// The share of the looks in which it was in a guest of its guest, if that is
    /// known, in percent.
    in_guest: Option<f64>,
    /// What is known of a hypervisor in it; empty in a machine's further rows.
    hypervisor: &'static str,
    /// Exits of L0 for one of the level's, from L2 up.
    per_exit: Option<f64>,
}

/// The rows of a process: its counts since the look `before`, a second; without
/// one, in all.
fn rows(look: &Look, before: Option<&Look>) -> Vec<Row> {
    let earlier: BTreeMap<u8, &MachineStat> = before
        .iter()
        .flat_map(|look| &look.stat.machines)
        .map(|machine| (machine.level, machine))
        .collect();
    let mut rows = Vec::new();
    let nest = matches!(look.info.what, What::Nest(_));
    let mut lowest = None;
    for machine in &look.stat.machines {
        // After a reset counts begin anew.
        let earlier = earlier.get(&machine.level).copied();
        let same = earlier.filter(|earlier| earlier.boot == machine.boot);
        let seconds = earlier.map(|earlier| seconds(earlier.time_ns, machine.time_ns));
        let row = |part: String, now: &Counts, was: Option<&Counts>| Row {
            name: look.info.name.clone(),
            part,
            numbers: COLUMNS
                .each_ref()
                .map(|column| number(column, now, was, seconds)),
            in_guest: None,
            hypervisor: "",
            per_exit: None,
        };
        if nest {
            let was = same.map(|earlier| &earlier.total);
            let mut row = row(format!("L{}", machine.level), &machine.total, was);
            let exits = row.numbers[0];
            let lowest = *lowest.get_or_insert(exits);
            row.hypervisor = machine.hypervisor.map_or("", |state| in_words("", state));
            row.per_exit = (machine.level > 1 && exits > 0.0).then(|| lowest / exits);
            rows.push(row);
            continue;
        }
        if machine.vcpus.len() > 1 {
            let was = same.map(|earlier| &earlier.total);
            rows.push(row("all".into(), &machine.total, was));
        }
        for (index, vcpu) in machine.vcpus.iter().enumerate() {
            let was = same.and_then(|earlier| earlier.vcpus.get(index));
            let mut row = row(
                index.to_string(),
                &vcpu.counts,
                was.map(|vcpu| &vcpu.counts),
            );
            row.in_guest = look.seen.get(index).and_then(Seen::percent);
            rows.push(row);
        }
    }
    if let (Some(first), What::Machine(machine)) = (rows.first_mut(), &look.info.what) {
        first.hypervisor = in_words(&machine.exposure, machine.hypervisor);
    }
    rows
}

/// A table of looks, what matters most to the left: rates since the looks
/// `before`, or without any, totals; each number as `show` writes it.
#[must_use]
pub fn table(
    looks: &[Look],
    before: Option<&[Look]>,
    show: impl Fn(f64) -> String,
) -> Vec<Vec<String>> {
    let titles = COLUMNS.iter().map(|column| column.title.to_owned());
    let head = ["machine", "part"].map(str::to_owned).to_vec();
    let mut table = vec![line(head, titles.collect(), STATE.map(str::to_owned))];
    for look in looks {
        let earlier = before.and_then(|looks| same(looks, look));
        // A new one has no rate yet.
        if before.is_some() && earlier.is_none() {
            continue;
        }
        table.extend(rows(look, earlier).into_iter().map(|row| {
            let or_none = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
            let state = [
                or_none(row.in_guest.map(|share| format!("{share:.0} %"))),
                or_none(row.per_exit.map(|exits| format!("{exits:.2}"))),
                row.hypervisor.to_owned(),
            ];
            let numbers = row.numbers.iter().map(|number| show(*number));
            line(vec![row.name, row.part], numbers.collect(), state)
        }));
    }
    table
}

fn line(mut head: Vec<String>, mut numbers: Vec<String>, state: [String; 3]) -> Vec<String> {
    let rest = numbers.split_off(STATE_AFTER);
    head.extend(numbers.into_iter().chain(state).chain(rest));
    head
}

/// The same process, as it was looked at before.
#[must_use]
pub fn same<'a>(before: &'a [Look], look: &Look) -> Option<&'a Look> {
    let pid = look.info.pid;
    before.iter().find(|earlier| earlier.info.pid == pid)
}

impl Seen {
    fn percent(&self) -> Option<f64> {
        (self.looks > 0).then(|| 100.0 * f64::from(self.in_guest) / f64::from(self.looks))
    }
}

/// What a guest does with what it is shown, in words.
fn in_words(exposure: &str, state: Hypervisor) -> &'static str {
    match (state, exposure) {
        (_, "off") => "not shown",
        (Hypervisor::None, _) => "none",
        (Hypervisor::On, "vmx") => "VMX on",
        (Hypervisor::On, "svm") => "SVM on",
        (Hypervisor::On, _) => "on",
        (Hypervisor::RunsGuest, _) => "runs guest",
    }
}

fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    let passed = std::time::Duration::from_nanos(to_ns.saturating_sub(from_ns));
    passed.as_secs_f64()
}

fn number(column: &Column, now: &Counts, was: Option<&Counts>, seconds: Option<f64>) -> f64 {
    let sum = |counts: &Counts| -> u64 {
        let named = column.counts.iter();
        named.filter_map(|name| counts.get(*name)).sum()
    };
    let counted = sum(now).saturating_sub(was.map_or(0, sum));
    // Counts of exits are far below the 2^53 that a double holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let counted = counted as f64;
    match seconds {
        None => counted,
        Some(seconds) if seconds > 0.0 => counted / seconds,
        // A level that hasn't reported since.
        Some(_) => 0.0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::api::message::{MachineInfo, NestInfo, VcpuStat};

    fn counts(exits: u64) -> Counts {
        [
            ("exits", exits),
            ("irq_injections", 3),
            ("nmi_injections", 1),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into()
    }

    /// A machine with two vCPUs that has counted so many exits at each.
    pub(crate) fn machine(time_s: u64, boot: u64, exits: u64) -> Look {
        let vcpu = |guest_mode| VcpuStat {
            counts: counts(exits),
            instants: [("guest_mode".to_owned(), guest_mode)].into(),
        };
        let time_ns = time_s * 1_000_000_000;
        Look {
            info: Info {
                pid: 12,
                name: "lab".into(),
                nestling: "0.1.0".into(),
                what: What::Machine(MachineInfo {
                    exposure: "svm".into(),
                    hypervisor: Hypervisor::On,
                    ..MachineInfo::default()
                }),
            },
            stat: Stat {
                time_ns,
                machines: vec![MachineStat {
                    level: 1,
                    boot,
                    time_ns,
                    total: counts(2 * exits),
                    vcpus: vec![vcpu(1), vcpu(0)],
                    ..MachineStat::default()
                }],
                ..Stat::default()
            },
            seen: vec![
                Seen {
                    vcpu: 0,
                    in_guest: 1,
                    looks: 4,
                },
                Seen {
                    vcpu: 1,
                    in_guest: 0,
                    looks: 4,
                },
            ],
        }
    }

    /// A nest of two levels.
    pub(crate) fn nest(time_s: u64, exits: u64) -> Look {
        let level = |level, exits| MachineStat {
            level,
            boot: 1,
            time_ns: time_s * 1_000_000_000,
            total: counts(exits),
            ..MachineStat::default()
        };
        let mut look = machine(time_s, 1, 0);
        look.info.pid = 13;
        look.info.what = What::Nest(NestInfo {
            metal: "svm".into(),
            emulated: true,
            depth: 2,
        });
        look.stat.machines = vec![level(1, 16 * exits), level(2, exits)];
        look.seen.clear();
        look
    }

    fn exits(rows: &[Row]) -> Vec<(&str, f64)> {
        rows.iter()
            .map(|row| (row.part.as_str(), row.numbers[0]))
            .collect()
    }

    #[test]
    fn without_an_earlier_look_there_are_totals() {
        let rows = rows(&machine(1, 1, 50), None);
        assert_eq!(exits(&rows), [("all", 100.0), ("0", 50.0), ("1", 50.0)]);
        // Interrupts and NMIs together.
        assert!((rows[1].numbers[4] - 4.0).abs() < 1e-9);
        assert_eq!(rows[0].hypervisor, "SVM on");
        assert_eq!((rows[0].in_guest, rows[1].in_guest), (None, Some(25.0)));
    }

    #[test]
    fn with_one_there_are_rates() {
        let rates = rows(&machine(3, 1, 50), Some(&machine(1, 1, 30)));
        assert_eq!(exits(&rates), [("all", 20.0), ("0", 10.0), ("1", 10.0)]);
        let booted = rows(&machine(3, 2, 50), Some(&machine(1, 1, 300)));
        assert_eq!(exits(&booted)[1], ("0", 25.0));
        let silent = rows(&machine(3, 1, 50), Some(&machine(3, 1, 50)));
        assert_eq!(exits(&silent)[1], ("0", 0.0));
    }

    #[test]
    fn a_nest_has_a_row_a_level_with_what_an_exit_cost() {
        let rows = rows(&nest(3, 50), Some(&nest(1, 30)));
        assert_eq!(exits(&rows), [("L1", 160.0), ("L2", 10.0)]);
        assert_eq!((rows[0].per_exit, rows[1].per_exit), (None, Some(16.0)));
    }
}
