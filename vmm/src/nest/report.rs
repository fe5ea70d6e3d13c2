//! What became of every level, gathered from the events.

use std::collections::BTreeMap;

use serde::Serialize;

use super::account::{Phase, Phases};
use crate::channel::{Booted, Event, Fault, How, What, WorkloadResult};

/// The version of the JSON form.
pub const VERSION: u32 = 1;
/// The most workload results kept of a level.
const MAX_WORKLOADS: usize = 64;

/// A nest's result; its JSON form is what `nest --format json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// What the lowest level ran on: `host`, `svm`, `vmx`.
    pub metal: String,
    /// Whether the metal is emulated; times then mean nothing and are left out.
    pub emulated: bool,
    /// Whether every level did its work and shut down in order.
    pub ok: bool,
    /// The levels, the lowest first.
    pub levels: Vec<Level>,
    /// The levels' steps that have ended, with what their exits cost.
    pub phases: Vec<Phase>,
    #[serde(skip)]
    counting: Phases,
}

/// One level's result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Level {
    /// Its number.
    pub level: u8,
    /// The processor's vendor, once the level has booted.
    pub vendor: Option<String>,
    /// `vmx`, `svm` or `off`: what the level was shown.
    pub exposure: Option<String>,
    /// Its kernel's release.
    pub kernel: Option<String>,
    /// Whether its init came up.
    pub booted: bool,
    /// From its kernel's start to init, in nanoseconds of its own clock.
    pub boot_ns: Option<u64>,
    /// Processors online.
    pub cpus: Option<u32>,
    /// Memory its kernel manages, in MiB.
    pub memory_mib: Option<u64>,
    /// KVM's module parameters in the level.
    pub parameters: BTreeMap<String, String>,
    /// What it ran, in a few words.
    pub workload: String,
    /// How each workload ended.
    pub workloads: Vec<WorkloadResult>,
    /// `ok`, `failed`, or the name of what went wrong.
    pub result: String,
    /// What is known beyond that.
    pub detail: String,
    /// KVM's counts for its machine; L0's machine has none.
    pub exits: Option<BTreeMap<String, u64>>,
    #[serde(skip)]
    state: State,
}

/// What a level's events add up to before the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    reached: bool,
    /// Its system is another than nestling's, and tells nothing of itself.
    other: bool,
    runs: usize,
    done: bool,
    fault: Option<Fault>,
    ended: Option<How>,
}

impl Report {
    /// A report on levels `first` to `depth` before anything has happened.
    #[must_use]
    pub fn new(metal: &str, emulated: bool, first: u8, depth: u8) -> Self {
        let levels = (first..=depth)
            .map(|level| Level {
                level,
                workload: if level < depth {
                    format!("L{}", level + 1)
                } else {
                    String::new()
                },
                result: "not-reached".into(),
                ..Level::default()
            })
            .collect();
        Self {
            version: VERSION,
            metal: metal.to_owned(),
            emulated,
            ok: false,
            levels,
            phases: Vec::new(),
            counting: Phases::default(),
        }
    }

    /// Puts this host in front, as the level that the nest stands on.
    pub fn add_host(&mut self, facts: Booted) {
        let mut host = Level {
            workload: "L1".into(),
            result: "ok".into(),
            ..Level::default()
        };
        host.boot(facts);
        // The host's own boot is no part of the nest.
        host.boot_ns = None;
        host.state = State {
            runs: 0,
            reached: true,
            other: false,
            done: true,
            fault: None,
            ended: Some(How::PowerOff),
        };
        self.levels.insert(0, host);
    }

    /// Takes an event in. One of a level that the nest doesn't have is ignored.
    pub fn observe(&mut self, event: &Event) {
        let emulated = self.emulated;
        let Some(level) = self
            .levels
            .iter_mut()
            .find(|level| level.level == event.level)
        else {
            return;
        };
        level.state.reached = true;
        match &event.what {
            What::Starts { name, kernel } => {
                level.state.other = !kernel.is_empty();
                if level.state.other {
                    level.ran(name);
                }
            }
            What::Booted(facts) => {
                level.boot(facts.clone());
                level.boot_ns = level.boot_ns.filter(|_| !emulated);
            }
            What::Runs { workload } => {
                level.ran(workload);
            }
            What::Workload(result) if level.workloads.len() < MAX_WORKLOADS => {
                level.workloads.push(result.clone());
            }
            What::Exits { counts, at, .. } => {
                level.exits = Some(counts.clone());
                match at {
                    Some(mark) => self.counting.counted(event.level, mark, counts),
                    None => self.counting.counted_in_all(event.level, counts),
                }
            }
            What::Fault(fault) => {
                level.state.fault.get_or_insert_with(|| fault.clone());
            }
            What::Done => level.state.done = true,
            What::Ended { how } => level.state.ended = Some(*how),
            _ => {}
        }
    }

    /// The phases that have ended until now.
    #[must_use]
    pub fn phases_so_far(&self) -> &[Phase] {
        self.counting.done()
    }

    /// Draws the conclusions once the lowest machine has ended.
    pub fn conclude(&mut self) {
        for level in &mut self.levels {
            (level.result, level.detail) = level.outcome();
        }
        self.ok = self.levels.iter().all(|level| level.result == "ok");
        self.phases = self.counting.done().to_vec();
    }
}

impl Level {
    /// Notes what it runs, as long as a line of it can be read.
    fn ran(&mut self, what: &str) {
        if self.state.runs < MAX_WORKLOADS {
            self.state.runs += 1;
            if !self.workload.is_empty() {
                self.workload.push_str(", ");
            }
            self.workload.push_str(what);
        }
    }

    fn boot(&mut self, facts: Booted) {
        self.booted = true;
        self.vendor = Some(facts.vendor);
        self.exposure = Some(facts.exposure);
        self.kernel = Some(facts.kernel);
        self.boot_ns = Some(facts.boot_ns);
        self.cpus = Some(facts.cpus);
        self.memory_mib = Some(facts.memory_mib);
        self.parameters = facts.parameters;
    }

    fn outcome(&self) -> (String, String) {
        let failed = self.workloads.iter().find(|work| !work.ok);
        let plain = |result: &str| (result.to_owned(), String::new());
        match (&self.state, failed) {
            (
                State {
                    fault: Some(fault), ..
                },
                _,
            ) => (fault.kind.name().to_owned(), fault.detail.clone()),
            (State { reached: false, .. }, _) => plain("not-reached"),
            (State { other: false, .. }, _) if !self.booted => plain("not-booted"),
            (_, Some(work)) => (
                "failed".to_owned(),
                format!("{}: {}", work.name, work.output),
            ),
            (State { done: false, .. }, _) => plain("not-done"),
            (State { ended: None, .. }, _) => plain("not-ended"),
            _ => plain("ok"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::channel::FaultKind;

    /// The events of a level that does its work.
    pub(crate) fn good(level: u8) -> Vec<Event> {
        [
            What::Hello { v: 1 },
            What::Booted(Booted {
                kernel: "6.12.0".into(),
                boot_ns: 1_500_000_000,
                vendor: "AuthenticAMD".into(),
                exposure: "svm".into(),
                ..Booted::default()
            }),
            What::Runs {
                workload: "hello".into(),
            },
            What::Workload(WorkloadResult {
                name: "hello".into(),
                ok: true,
                status: None,
                output: String::new(),
            }),
            What::Exits {
                counts: BTreeMap::from([("exits".into(), 12_345)]),
                at: None,
                hypervisor: None,
            },
            What::Done,
            What::Ended { how: How::PowerOff },
        ]
        .map(|what| Event { level, what })
        .into()
    }

    fn results(events: &[Event]) -> (bool, Vec<String>) {
        let mut report = Report::new("svm", true, 0, 2);
        events.iter().for_each(|event| report.observe(event));
        report.conclude();
        (
            report.ok,
            report
                .levels
                .into_iter()
                .map(|level| level.result)
                .collect(),
        )
    }

    #[test]
    fn a_nest_is_ok_when_every_level_is() {
        let all: Vec<_> = (0..=2).flat_map(good).collect();
        assert_eq!(results(&all), (true, vec!["ok".into(); 3]));
        // Whatever event of a level is missing, besides its counts and results
        // and the greeting, the nest isn't.
        for (index, event) in all.iter().enumerate() {
            let optional = matches!(
                event.what,
                What::Hello { .. } | What::Exits { .. } | What::Runs { .. } | What::Workload(_)
            );
            let mut some = all.clone();
            some.remove(index);
            assert_eq!(results(&some).0, optional, "{event:?}");
        }
    }

    #[test]
    fn a_fault_belongs_to_its_level_alone() {
        let mut events: Vec<_> = (0..=1).flat_map(good).collect();
        let fault = Fault {
            kind: FaultKind::Panic,
            detail: "boo".into(),
        };
        events.push(Event {
            level: 2,
            what: What::Fault(fault),
        });
        assert_eq!(
            results(&events),
            (false, vec!["ok".into(), "ok".into(), "panic".into()])
        );
        assert_eq!(
            results(&events[..7]).1,
            ["ok", "not-reached", "not-reached"]
        );
    }

    #[test]
    fn another_system_is_ok_without_a_word_of_its_own() {
        let starts = What::Starts {
            name: "xen".into(),
            kernel: "/boot/xen".into(),
        };
        let mut events: Vec<_> = (0..=1).flat_map(good).collect();
        events.extend(
            [starts, What::Done, What::Ended { how: How::PowerOff }]
                .map(|what| Event { level: 2, what }),
        );
        assert_eq!(results(&events), (true, vec!["ok".into(); 3]));
        events.remove(events.len() - 2);
        assert_eq!(results(&events).1[2], "not-done");
    }

    #[test]
    fn times_are_left_out_under_an_emulated_metal() {
        for (emulated, time) in [(true, None), (false, Some(1_500_000_000))] {
            let mut report = Report::new("x", emulated, 1, 1);
            good(1).iter().for_each(|event| report.observe(event));
            assert_eq!(report.levels[0].boot_ns, time);
        }
    }
}
