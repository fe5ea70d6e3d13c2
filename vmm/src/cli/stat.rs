//! `nestling stat`: what machines and nests have counted.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Failure, Form, Verdict, print_result};
use crate::nest::account::{Reason, difference, reasons};
use crate::nest::process;
use crate::signals::Signals;
use crate::stats::look::{Look, same, table};
use crate::stats::prometheus;
use crate::stats::watcher::Watcher;
use crate::table::aligned;

const EXAMPLES: &str = "\
Examples:
  All machines and nests of yours, since their start:
    nestling stat

  One of them, a second, every second:
    nestling stat lab --interval 1

  Why its exits are taken, and what its hypervisor sees of those of its guests:
    sudo nestling stat --trace --interval 1 $XDG_RUNTIME_DIR/nestling/4711.sock

  For Prometheus's node exporter:
    nestling stat --format prometheus > nestling.prom";

/// The version of the JSON form; docs/json.md describes it.
const VERSION: u32 = 1;

/// The flags of `nestling stat`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Stat {
    /// The machine or nest: its name, its process's number, or its socket's path [default: all]
    #[arg(value_name = "MACHINE")]
    machine: Option<String>,

    /// Say it again every so many seconds, as so many a second
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    interval: Option<u32>,

    /// End after so many times [default: once, or never with --interval]
    #[arg(long, value_name = "N", requires = "interval",
          value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,

    /// Count exits by reason too, by KVM's tracepoints; the kernel lets only root do that
    #[arg(long, requires = "interval")]
    trace: bool,
}

/// The JSON form.
#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    machines: &'a [Look],
}

impl Stat {
    /// Looks once, or until it is interrupted.
    pub(super) fn execute(self, form: Form) -> Result<Verdict, Failure> {
        if form == Form::Prometheus && self.interval.is_some() {
            return Err(Failure::usage(
                "--format prometheus is one exposition: leave --interval out, and let a timer \
                 run it",
            ));
        }
        // Looked for between two looks, so that a trace is taken away at the end.
        let signals = Signals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])
            .map_err(Failure::failed)?;
        let mut watcher = Watcher::new(self.machine, self.trace);
        let mut before = watcher.look().map_err(Failure::failed)?;
        if let Some(fault) = watcher.take_fault() {
            tracing::warn!("{fault}");
        }
        let Some(interval) = self.interval else {
            print(&before, None, form)?;
            return Ok(Verdict::Done);
        };
        let interval = Duration::from_secs(interval.into());
        for _ in 0..self.count.unwrap_or(u32::MAX) {
            if !pass(interval, &mut watcher, &signals)? {
                break;
            }
            let now = watcher.look().map_err(Failure::failed)?;
            print(&now, Some(&before), form)?;
            before = now;
        }
        Ok(Verdict::Done)
    }
}

/// Lets `interval` pass, and watches meanwhile; answers whether it did before a
/// signal came.
fn pass(interval: Duration, watcher: &mut Watcher, signals: &Signals) -> Result<bool, Failure> {
    let until = Instant::now() + interval;
    while let Some(rest) = until.checked_duration_since(Instant::now()) {
        let stop = process::poll(&[signals.as_fd()], rest.min(Watcher::TICK));
        if stop.map_err(Failure::failed)? == [true] {
            return Ok(false);
        }
        watcher.tick();
    }
    Ok(true)
}

fn print(looks: &[Look], before: Option<&[Look]>, form: Form) -> Result<(), Failure> {
    let text = match form {
        Form::Text => text(looks, before),
        Form::Prometheus => prometheus::exposition(looks),
        Form::Json => {
            let version = VERSION;
            let all = Json {
                version,
                machines: looks,
            };
            serde_json::to_string(&all).map_err(Failure::failed)? + "\n"
        }
    };
    print_result(&text)
}

/// The looks as a table for people, and what was traced below it.
fn text(looks: &[Look], before: Option<&[Look]>) -> String {
    if looks.is_empty() {
        return "no machine and no nest of yours is running\n".into();
    }
    let show = |number| match number {
        number if before.is_some() && number < 10.0 => format!("{number:.1}"),
        number => format!("{number:.0}"),
    };
    let mut text = aligned(&table(looks, before, show), 1);
    for look in looks {
        text.push_str(&traced(look, before.and_then(|looks| same(looks, look))));
    }
    text
}

/// The reasons of a machine's exits since the look before.
fn traced(look: &Look, before: Option<&Look>) -> String {
    let vm = |look: &Look| look.stat.machines.first().map(|machine| machine.vm.clone());
    let was = before.and_then(vm).unwrap_or_default();
    let counts = difference(&was, &vm(look).unwrap_or_default());
    let reasons = reasons(&counts);
    if reasons.is_empty() {
        return String::new();
    }
    let head = [
        look.info.name.as_str(),
        "own",
        "of L2, handled",
        "reflected",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(reasons.iter().map(Reason::cells));
    format!("\n{}", aligned(&table, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::look::tests::{machine, nest};

    #[test]
    fn totals_and_rates_are_tables() {
        assert_eq!(
            text(&[machine(1, 1, 50)], None),
            "machine  part  exits  nested  in L2  L0/exit  hypervisor  user  fault  inject  \
             irq  io  mmio  halt  hcall\n\
             lab       all    100       0      -        -      SVM on     0      0       4    \
             0   0     0     0      0\n\
             lab         0     50       0   25 %        -                 0      0       4    \
             0   0     0     0      0\n\
             lab         1     50       0    0 %        -                 0      0       4    \
             0   0     0     0      0\n"
        );
        let rates = text(&[nest(3, 50)], Some(&[nest(1, 30)]));
        let l2 = rates.lines().last().unwrap();
        let cells: Vec<_> = l2.split_whitespace().collect();
        assert_eq!(cells[..6], ["lab", "L2", "10", "0.0", "-", "16.00"]);
    }

    #[test]
    fn one_that_is_new_has_no_rate_yet_and_none_is_said() {
        assert_eq!(text(&[nest(3, 50)], Some(&[])).lines().count(), 1);
        assert!(text(&[], None).starts_with("no machine"));
    }

    #[test]
    fn what_was_traced_is_below() {
        let look = |count| {
            let mut look = machine(1, 1, 50);
            look.add(&[("exit:CPUID".to_owned(), count)].into());
            look
        };
        let text = text(&[look(9)], Some(&[look(4)]));
        let line = text.lines().last().unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!(cells, ["CPUID", "5", "0", "0"]);
    }
}
