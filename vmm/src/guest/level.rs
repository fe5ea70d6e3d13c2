//! Following a level's order: its workloads, and the level above it.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::network::{self, Joined};
use super::report::{Reporter, say};
use super::{facts, setup, workload};
use crate::bench::work::BOOT;
use crate::channel::{Edge, Event, Fault, FaultKind, How, What, WorkloadResult};
use crate::image::archive::{self, Tree};
use crate::nest::fetcher::Fetcher;
use crate::nest::machine::{self, MonitorSpec, Other};
use crate::nest::supervise::supervise;
use crate::nest::watch::Watch;
use crate::order::{self, Nest, Order, Run, Step, Workload};
use crate::signals::Signals;

/// This program, which is the next level's monitor.
const PROGRAM: &str = "/proc/self/exe";
/// The image's kernel, which boots the next level as well.
const KERNEL: &str = "/nestling/kernel";
/// The next level's initramfs: the image, then the order.
const INITRD: &str = "/run/nestling/initrd";
/// Where another monitor connects for the channel.
const CHANNEL: &str = "/run/nestling/channel";
/// What the running system added to the image's root.
const EXCLUDED: [&str; 7] = [
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    network::RESOLV_CONF,
    order::PATH,
];

/// Why the next level wasn't started.
#[derive(Debug, Error)]
enum Error {
    #[error("cannot pack the image for the next level: {0}")]
    Pack(#[from] archive::Error),
    #[error(transparent)]
    Order(#[from] order::Error),
    #[error("cannot prepare the next level: {0}")]
    Prepare(#[from] io::Error),
}

/// Follows the order to its end; the result is this process's exit code.
pub(super) fn follow(order: &Order, reporter: &mut Reporter, up: Duration) -> i32 {
    let stop = match Signals::block(&[libc::SIGTERM, libc::SIGINT]) {
        Ok(stop) => stop,
        Err(error) => {
            say(&format!("cannot take signals: {error}"));
            return 1;
        }
    };
    reporter.send(What::Booted(facts::booted(up)));
    for note in fs::read_to_string(setup::NOTES).unwrap_or_default().lines() {
        reporter.send(What::Progress {
            text: note.to_owned(),
        });
    }
    let mut network = Joined::default();
    if let Some(ordered) = &order.network {
        let host_name = format!("nestling-l{}", order.level);
        let (joined, told) = Joined::set_up(ordered, &host_name, &stop);
        network = joined;
        if let Some(told) = told {
            reporter.send(What::Workload(told));
        }
    }
    // That which begins with the machine's start ends here.
    reporter.mark(BOOT, Edge::End);
    let mut initrd = Initrd::default();
    for step in &order.steps {
        if stop.pending() {
            let fault = Fault {
                kind: FaultKind::Stopped,
                detail: "by the power button".into(),
            };
            reporter.send(What::Fault(fault));
            break;
        }
        let phase = step.name();
        reporter.mark(&phase, Edge::Begin);
        match step {
            Step::Workload(work) => {
                run_workload(work, order.level, &network, reporter, &stop);
            }
            Step::Nest(nest) => {
                let (level, name) = (nest.order.level, &nest.name);
                start(level, name, "", reporter, |reporter| {
                    boot(nest, &mut initrd, reporter, &stop)
                });
            }
            Step::Run(run) => {
                let (level, name) = (order.level + 1, &run.name);
                start(level, name, &run.kernel, reporter, |reporter| {
                    boot_other(run, level, reporter, &stop)
                });
            }
        }
        reporter.mark(&phase, Edge::End);
        if matches!(step, Step::Workload(Workload::PowerOff)) {
            break;
        }
    }
    reporter.send(What::Done);
    reporter.drain();
    0
}

fn run_workload(
    work: &Workload,
    level: u8,
    network: &Joined,
    reporter: &mut Reporter,
    stop: &Signals,
) {
    let name = work.name();
    reporter.send(What::Runs {
        workload: name.clone(),
    });
    let killed_before = facts::oom_kills();
    let result = workload::run(work, level, network, reporter, stop).unwrap_or_else(|error| {
        WorkloadResult {
            name: name.clone(),
            ok: false,
            status: None,
            output: error.to_string(),
        }
    });
    let killed = facts::oom_kills().saturating_sub(killed_before);
    if killed > 0 {
        let detail = format!("{killed} processes killed while {name} ran");
        reporter.send(What::Fault(Fault {
            kind: FaultKind::OutOfMemory,
            detail,
        }));
    }
    reporter.send(What::Workload(result));
}

/// Reports on the start of a machine of `level`, and on its end if it doesn't come
/// to a start.
fn start(
    level: u8,
    name: &str,
    kernel: &str,
    reporter: &mut Reporter,
    boot: impl FnOnce(&mut Reporter) -> Result<(), Error>,
) {
    reporter.send(What::Progress {
        text: format!("boots L{level}"),
    });
    reporter.forward(Event {
        level,
        what: What::Starts {
            name: name.to_owned(),
            kernel: kernel.to_owned(),
        },
    });
    let killed_before = facts::oom_kills();
    if let Err(error) = boot(reporter) {
        let fault = Fault {
            kind: FaultKind::NotStarted,
            detail: error.to_string(),
        };
        reporter.forward(Event {
            level,
            what: What::Fault(fault),
        });
        reporter.forward(Event {
            level,
            what: What::Ended { how: How::Error },
        });
    }
    if facts::oom_kills() > killed_before {
        let detail = format!("while L{level} ran");
        reporter.send(What::Fault(Fault {
            kind: FaultKind::OutOfMemory,
            detail,
        }));
    }
}

fn boot(
    nest: &Nest,
    initrd: &mut Initrd,
    reporter: &mut Reporter,
    stop: &Signals,
) -> Result<(), Error> {
    initrd.write(&nest.order)?;
    machine::create_disks(&nest.machine.disks)?;
    let other = Other::of(nest, Path::new(CHANNEL));
    if other.is_some() {
        setup::mount_debugfs();
    }
    let [program, kernel, initrd] = [PROGRAM, KERNEL, INITRD].map(Path::new);
    let machine = machine::spawn_monitor(&MonitorSpec {
        // A level's files are its memory.
        kernel_cache: false,
        other,
        ..MonitorSpec::of(nest, program, kernel, initrd)
    })?;
    if nest.trace {
        setup::mount_tracing();
    }
    let fetcher = nest.fetch.map(Fetcher::start);
    let watch = Watch::new(nest.order.level, nest.limits);
    let supervised = supervise(machine, watch, Some(stop), None, &mut |event| {
        reporter.forward(event);
    });
    if let Some(fetcher) = fetcher {
        reporter.send(What::Workload(fetcher.finish()));
    }
    supervised?;
    Ok(())
}

/// Boots a machine with another system than the image.
fn boot_other(run: &Run, level: u8, reporter: &mut Reporter, stop: &Signals) -> Result<(), Error> {
    machine::create_disks(&run.machine.disks)?;
    let machine = machine::spawn_monitor(&MonitorSpec {
        program: Path::new(PROGRAM),
        kernel: Path::new(&run.kernel),
        initrd: run.initrd.as_deref().map(Path::new),
        modules: &run.modules,
        level,
        sample_s: None,
        trace: false,
        machine: &run.machine,
        raw_console: false,
        debug_exit: run.status.is_some(),
        channel: false,
        kernel_cache: false,
        other: None,
    })?;
    let watch = Watch::other(level, &run.name, run.status, run.total_s);
    supervise(machine, watch, Some(stop), None, &mut |event| {
        reporter.forward(event);
    })?;
    Ok(())
}

/// The next level's initramfs. The image is packed once; each order takes the
/// place of the one before.
#[derive(Debug, Default)]
struct Initrd {
    image: Option<(File, u64)>,
}

impl Initrd {
    fn write(&mut self, order: &Order) -> Result<(), Error> {
        let (file, length) = match &mut self.image {
            Some(image) => image,
            none => none.insert(pack()?),
        };
        file.set_len(*length)?;
        file.seek(io::SeekFrom::Start(*length))?;
        file.write_all(&order.segment()?)?;
        Ok(())
    }
}

/// Packs this level's root without what the running system has put there: the
/// image, and what earlier steps added to it.
fn pack() -> Result<(File, u64), Error> {
    let mut tree = Tree::new();
    tree.add(Path::new("/"), "/", &EXCLUDED.map(Path::new))?;
    let file = File::create(INITRD)?;
    let file = tree
        .write_to(io::BufWriter::new(file))?
        .into_inner()
        .map_err(|e| e.into_error())?;
    let length = file.metadata()?.len();
    Ok((file, length))
}
