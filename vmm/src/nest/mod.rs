//! The nest: a chain of levels, planned, booted, watched and reported.
//!
//! The lowest level booted is a machine under [`supervise`], whoever runs it: this
//! host's KVM through `nestling run`, or an emulator. Each level does the same for
//! the next, so a nest's result climbs through the levels to here.

pub mod account;
pub mod fetcher;
pub mod machine;
mod meter;
pub mod network;
pub mod plan;
pub mod process;
pub mod relay;
pub mod report;
pub mod screen;
pub mod start;
pub mod supervise;
pub mod table;
pub mod watch;

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use crate::api::nest::NestApi;
use crate::channel::{Event, What};
use crate::guest::facts;
use crate::order::{Nest, Step};
use crate::signals::Signals;
use fetcher::Fetcher;
use machine::Machine;

use relay::Relay;
use report::Report;
use screen::Screen;
use supervise::Observer;
use watch::Watch;

/// Sees a nest through whose lowest `machine` has just been started with the
/// order of `nest`, and reports on every level. A signal in `stop` ends it. Where
/// the nest has a raw console and the machine hands it over, it is relayed to the
/// standard streams, which must be in raw mode. Every event, as it was checked,
/// also goes to `log` as a line of JSON, and what the levels count to `api`.
///
/// # Errors
/// What the system says when the machine can't be waited for; it has been killed.
pub fn run<W: Write>(
    metal: &str,
    nest: &Nest,
    machine: Machine,
    stop: Option<&Signals>,
    screen: &mut Screen<W>,
    log: Option<File>,
    api: &NestApi,
) -> io::Result<Report> {
    let first = nest.order.level;
    let mut report = Report::new(metal, first == 0, first, depth(nest));
    if first > 0 {
        report.add_host(facts::booted(Duration::ZERO));
    }
    let relay = match &machine.console {
        Some(_) if nest.raw_console => Some(Relay::standard()?),
        _ => None,
    };
    let mut observer = Console {
        report: &mut report,
        screen,
        log,
        api,
    };
    observer.event(Event {
        level: first,
        what: What::Starts {
            name: nest.name.clone(),
            kernel: String::new(),
        },
    });
    // An emulated L0 is the host of L1 itself.
    let fetcher = nest.fetch.map(Fetcher::start);
    let watch = Watch::new(first, nest.limits);
    let supervised = supervise::supervise(machine, watch, stop, relay, &mut observer);
    if let Some(fetcher) = fetcher {
        observer.event(Event {
            level: first.saturating_sub(1),
            what: What::Workload(fetcher.finish()),
        });
    }
    supervised?;
    screen.clear();
    report.conclude();
    Ok(report)
}

/// The deepest level that `nest` boots.
#[must_use]
pub fn depth(nest: &Nest) -> u8 {
    let deeper = nest.order.steps.iter().filter_map(|step| match step {
        Step::Nest(next) => Some(depth(next)),
        Step::Run(_) => Some(nest.order.level + 1),
        Step::Workload(_) => None,
    });
    deeper.max().unwrap_or(nest.order.level)
}

/// Hands each event to the report, to those who ask, to the screen and to the log.
struct Console<'a, W> {
    api: &'a NestApi,
    report: &'a mut Report,
    screen: &'a mut Screen<W>,
    log: Option<File>,
}

impl<W: Write> Observer for Console<'_, W> {
    fn event(&mut self, event: Event) {
        self.report.observe(&event);
        self.api.observe(&event, self.report.phases_so_far());
        self.screen.show(&event);
        if let Some(log) = &mut self.log
            && let Err(error) = log.write_all(&event.line())
        {
            // The levels go on; what they do is still told on the screen.
            tracing::warn!("no more events are logged: {error}");
            self.log = None;
        }
    }

    fn tick(&mut self) -> Option<Duration> {
        self.screen.progress()
    }
}
