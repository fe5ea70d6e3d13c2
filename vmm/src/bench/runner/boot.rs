//! Measuring one boot: the nest that it boots, and what this host measures itself.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::collect::Collector;
use super::nest::{self, DISK_MIB, Ground};
use super::peer::Peer;
use super::{Error, Told};
use crate::bench::results::{self, Configuration, Plan};
use crate::bench::work::Work;
use crate::channel::Event;
use crate::image::Image;
use crate::metal::directory::Directory;
use crate::metal::{Metal, Model};
use crate::nest::machine::{self, Machine, Sight};
use crate::nest::report::Report;
use crate::nest::start::{self, Start};
use crate::nest::supervise::{Observer, supervise};
use crate::nest::watch::Watch;
use crate::nest::{depth, process};
use crate::order::{self, Limits, Nest};
use crate::signals::Signals;

/// How long all levels together may be quiet where L0 is emulated, in seconds of a
/// present host: a level that hangs there may take ages by its own clock.
const QUIET_S: u32 = 15;

/// What every boot of a run is made with.
#[derive(Debug)]
pub(super) struct Booter {
    /// What L0 runs on.
    pub(super) metal: Metal,
    /// The image of every level that is booted, if one is.
    pub(super) image: Option<Image>,
    /// The most memory that the first level may have, in MiB.
    pub(super) memory_limit_mib: u32,
    /// The benchmark's peer on this host, where it is L0.
    pub(super) peer: Option<Peer>,
}

impl Booter {
    /// Plans boot `number` of `plan`, the first level's disk at `disk`.
    ///
    /// # Errors
    /// If there is no such boot, or its levels can't be.
    pub(super) fn plan(
        &self,
        plan: &Plan,
        number: usize,
        disk: &Path,
    ) -> Result<(Configuration, nest::Boot), Error> {
        let configuration = plan.configuration(number).ok_or(Error::Number {
            number,
            boots: plan.total_boots(),
        })?;
        let image_mib = self.image.as_ref().map(start::image_mib).transpose()?;
        let ground = Ground {
            metal: self.metal,
            image_mib: image_mib.unwrap_or(0),
            memory_limit_mib: self.memory_limit_mib,
            peer: self.peer.as_ref().map(Peer::address),
            disk: disk.to_owned(),
        };
        let boot = nest::Boot::new(plan, number, &configuration, &ground)?;
        Ok((configuration, boot))
    }

    /// Measures boot `number` of `plan`; there is no result if it was stopped.
    ///
    /// # Errors
    /// What keeps it from being measured at all. A level that dies is a result.
    pub(super) fn boot(
        &self,
        plan: &Plan,
        number: usize,
        stop: &Signals,
        told: &mut dyn Told,
    ) -> Result<Option<results::Boot>, Error> {
        let folder = Directory::new()?;
        let disk = folder.path().join("disk");
        let (configuration, boot) = self.plan(plan, number, &disk)?;
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut gathering = Gathering {
            collector: Collector::new(boot.turns, !plan.emulated),
            faults: Vec::new(),
            told,
        };
        let (works, first) = boot.host.unwrap_or_default();
        if first {
            gathering.host(&works, plan, stop)?;
        }
        if let (Some(nest), Some(image)) = (&boot.nest, &self.image) {
            gathering.nest(self.metal, image, plan, nest, &disk, stop)?;
        }
        if !first {
            gathering.host(&works, plan, stop)?;
        }
        let began_s = began.map_or(0, |began| began.as_secs());
        let levels = gathering.finish(boot.nest.as_ref());
        let boot = results::Boot::new(number, configuration, began_s, levels);
        Ok((!stop.pending()).then_some(boot))
    }
}

/// What becomes of one boot.
struct Gathering<'a> {
    collector: Collector,
    /// What went wrong, by level.
    faults: Vec<(u8, String)>,
    told: &'a mut dyn Told,
}

impl Observer for Gathering<'_> {
    fn event(&mut self, event: Event) {
        self.told.event(&event);
        self.collector.observe(event);
    }

    fn tick(&mut self) -> Option<Duration> {
        self.told.tick()
    }
}

impl Gathering<'_> {
    /// Sees the nest through.
    fn nest(
        &mut self,
        metal: Metal,
        image: &Image,
        plan: &Plan,
        nest: &Nest,
        disk: &Path,
        stop: &Signals,
    ) -> Result<(), Error> {
        let settings = &plan.settings;
        let processor: Option<Model> = settings
            .metal_cpu
            .as_ref()
            .map(|name| name.parse())
            .transpose()
            .map_err(Error::Model)?;
        let emulated = metal != Metal::Host;
        let disks: Vec<PathBuf> = if emulated && nest::needs_disk(plan) {
            machine::create_disks(&[scratch(disk)])?;
            vec![disk.to_owned()]
        } else {
            Vec::new()
        };
        let machine = Start {
            metal,
            image,
            cmdline: &nest::arguments(plan, metal),
            processor: processor.as_ref(),
            disks: &disks,
            count_instructions: settings.count_instructions,
        }
        .machine(nest)?;
        let first = nest.order.level;
        let mut report = Report::new(&plan.metal, plan.emulated, first, depth(nest));
        let mut watch = Watch::new(first, nest.limits);
        if emulated {
            let limit = QUIET_S * metal.time_scale();
            watch = watch.never_quiet_for(Duration::from_secs(limit.into()));
        }
        let mut both = Reported {
            report: &mut report,
            gathering: self,
        };
        supervise(machine, watch, Some(stop), None, &mut both)?;
        report.conclude();
        for level in report.levels.iter().filter(|level| level.result != "ok") {
            let fault = format!("{}: {}", level.result, level.detail);
            let fault = fault.trim_end_matches(": ").to_owned();
            self.faults.push((level.level, fault));
        }
        Ok(())
    }

    /// Lets this host measure, as L0, in a process of its own.
    fn host(&mut self, works: &[Work], plan: &Plan, stop: &Signals) -> Result<(), Error> {
        for work in works {
            if stop.pending() {
                return Ok(());
            }
            let disks = work.disk.as_deref().map(scratch);
            machine::create_disks(disks.as_slice())?;
            let total_s = plan.settings.timeout_s;
            let limits = Limits {
                boot_s: total_s,
                silence_s: total_s,
                total_s,
            };
            let machine = measuring_process(work)?;
            let verdict = supervise(machine, Watch::new(0, limits), Some(stop), None, self)?;
            if let Some(fault) = verdict.fault {
                let fault = format!("{}: {}", fault.kind.name(), fault.detail);
                self.faults.push((0, fault));
            }
        }
        Ok(())
    }

    fn finish(self, nest: Option<&Nest>) -> Vec<results::Level> {
        let Self {
            collector, faults, ..
        } = self;
        let fault = |level| {
            let mut faults = faults.iter();
            let found = faults.find(|(of, _)| *of == level);
            found.map(|(_, fault)| fault.clone())
        };
        let mut levels = collector.finish(fault);
        // A level that isn't measured has no place of its own for what it died of.
        if let Some(first) = levels.first_mut()
            && let Some(fault) = &mut first.fault
            && let Some((of, why)) = faults.iter().find(|(of, _)| *of < first.level)
        {
            fault.push_str(&format!(", for L{of}: {why}"));
        }
        for level in &mut levels {
            let machine = nest.and_then(|nest| machine_of(nest, level.level));
            level.environment.pinning =
                machine.map_or_else(Vec::new, |machine| machine.cpu_affinity.clone());
        }
        levels
    }
}

/// The machine of a level of `nest`.
fn machine_of(nest: &Nest, level: u8) -> Option<&order::Machine> {
    if nest.order.level == level {
        return Some(&nest.machine);
    }
    let mut steps = nest.order.steps.iter();
    steps.find_map(|step| match step {
        order::Step::Nest(next) => machine_of(next, level),
        _ => None,
    })
}

fn scratch(path: &Path) -> order::Disk {
    order::Disk {
        path: path.display().to_string(),
        readonly: false,
        create_mib: Some(DISK_MIB),
    }
}

/// Starts a process that measures `work` as L0. It speaks as a level does, by its
/// standard output.
fn measuring_process(work: &Work) -> Result<Machine, Error> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["bench", "measure"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process::prepare(&mut command, &[], true);
    let mut child = command.spawn()?;
    let order = serde_json::to_vec(work).map_err(io::Error::other)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&order)?;
    }
    Ok(Machine {
        group: true,
        console: None,
        channel: child.stdout.take().map(OwnedFd::from),
        events: None,
        messages: child.stderr.take().map(OwnedFd::from),
        child,
        sight: Sight::default(),
        listener: None,
        power_button: true,
        keep: Vec::new(),
    })
}

/// Tells a report of the levels as well.
struct Reported<'a, 'b> {
    report: &'a mut Report,
    gathering: &'a mut Gathering<'b>,
}

impl Observer for Reported<'_, '_> {
    fn event(&mut self, event: Event) {
        self.report.observe(&event);
        self.gathering.event(event);
    }

    fn tick(&mut self) -> Option<Duration> {
        self.gathering.tick()
    }
}
