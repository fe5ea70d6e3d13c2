//! What a nest answers at its control socket.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use nestling_devices::bus::lock;

use super::message::{Info, MachineStat, NestInfo, Reply, Request, Stat, What};
use super::{Answer, nanoseconds_since};
use crate::channel::{self, Event};
use crate::nest::account::Phase;

/// A nest, as it answers.
pub struct NestApi {
    info: NestInfo,
    start: Instant,
    state: Mutex<State>,
}

/// What the levels have reported so far.
#[derive(Default)]
struct State {
    machines: BTreeMap<u8, MachineStat>,
    phases: Vec<Phase>,
}

impl NestApi {
    /// A nest that starts now.
    pub fn new(info: NestInfo) -> Self {
        Self {
            info,
            start: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Takes in what an event says of a level's machine, and the phases that have
    /// ended until it.
    pub fn observe(&self, event: &Event, phases: &[Phase]) {
        let time_ns = nanoseconds_since(self.start);
        let mut state = lock(&self.state);
        let machine = state.machines.entry(event.level);
        match &event.what {
            channel::What::Starts { .. } => {
                let boot = machine.or_default().boot + 1;
                let level = event.level;
                let begun = MachineStat {
                    level,
                    boot,
                    time_ns,
                    ..MachineStat::default()
                };
                state.machines.insert(level, begun);
            }
            channel::What::Exits {
                counts, hypervisor, ..
            } => {
                let machine = machine.or_default();
                machine.level = event.level;
                machine.time_ns = time_ns;
                // Between marks only some are reported.
                machine.total.extend(counts.clone());
                machine.hypervisor = hypervisor.or(machine.hypervisor);
            }
            _ => return,
        }
        if state.phases.len() != phases.len() {
            state.phases = phases.to_vec();
        }
    }
}

impl Answer for NestApi {
    fn answer(&self, request: Request) -> Result<Reply, String> {
        let pid = std::process::id();
        Ok(match request {
            Request::Info => Reply::Info(Box::new(Info {
                pid,
                name: format!("nest-{pid}"),
                nestling: env!("CARGO_PKG_VERSION").into(),
                what: What::Nest(self.info.clone()),
            })),
            Request::Stat => {
                let state = lock(&self.state);
                // Nobody counts the exits of an emulated L0.
                let counted = state.machines.values().filter(|machine| machine.level > 0);
                Reply::Stat(Box::new(Stat {
                    time_ns: nanoseconds_since(self.start),
                    machines: counted.cloned().collect(),
                    phases: state.phases.clone(),
                }))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::What as Told;
    use crate::stats::Counts;

    #[test]
    fn each_level_has_what_it_reported_last() {
        let nest = NestApi::new(NestInfo {
            metal: "svm".into(),
            emulated: true,
            depth: 2,
        });
        let exits = |count| Told::Exits {
            counts: Counts::from([("exits".into(), count)]),
            at: None,
            hypervisor: None,
        };
        let starts = || Told::Starts {
            name: String::new(),
            kernel: String::new(),
        };
        for (level, what) in [
            (0, starts()),
            (1, starts()),
            (1, exits(5)),
            (2, starts()),
            (2, exits(7)),
            (1, exits(6)),
            (2, starts()),
        ] {
            nest.observe(&Event { level, what }, &[]);
        }
        let Ok(Reply::Stat(stat)) = nest.answer(Request::Stat) else {
            panic!("it counts")
        };
        let seen: Vec<_> = stat
            .machines
            .iter()
            .map(|machine| (machine.level, machine.boot, machine.total.get("exits")))
            .collect();
        assert_eq!(seen, [(1, 1, Some(&6)), (2, 2, None)]);
    }
}
