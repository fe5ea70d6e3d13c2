//! From a run's plan to the nest of one boot: what every level measures, in which
//! order, and on what.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use nestling_arch::hyperv;
use nestling_arch::nested::Request as Nested;

use crate::bench::results::{Configuration, Monitor, Plan};
use crate::bench::row::Row;
use crate::bench::statistics::Random;
use crate::bench::work::{Turn, Work};
use crate::metal::Metal;
use crate::nest::network::{Host, Kind};
use crate::nest::plan;
use crate::order::{Disk, Kvm, Nest, Step, Workload};

/// The deepest level's memory in MiB, if the image doesn't take more: some rows use a
/// good part of it.
const MEMORY_MIB: u32 = 256;
/// The size of a level's scratch disk, in MiB.
pub(super) const DISK_MIB: u32 = 64;
/// Where a level keeps the disk of the next.
const DISK: &str = "/run/bench-disk";
/// The port of the benchmark's peer on an emulated L0.
const PEER_PORT: u16 = 8081;
/// How long a level may be silent on a present host, in seconds. Init speaks every five
/// of its own, which are many where an emulator counts instructions.
const SILENCE_S: u32 = 40;
/// What a row needs of a kernel: registers of devices, and those of the processor.
const CMDLINE: &str = "iomem=relaxed";
const MODULES: [&str; 1] = ["msr"];

/// Why a boot can't be planned.
#[derive(Debug, Error)]
pub enum Error {
    /// An exposure isn't one.
    #[error("the exposure {exposure}: {reason}")]
    Exposure {
        /// As the plan has it.
        exposure: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The levels can't be.
    #[error(transparent)]
    Nest(#[from] plan::Error),
}

/// What a boot is planned with, besides the run's plan.
#[derive(Debug)]
pub(super) struct Ground {
    /// What L0 runs on.
    pub(super) metal: Metal,
    /// The image's size in MiB, rounded up.
    pub(super) image_mib: u32,
    /// The most memory that the first level may have, in MiB.
    pub(super) memory_limit_mib: u32,
    /// Where the benchmark's peer on this host listens, if it is L0 and there is one.
    pub(super) peer: Option<SocketAddr>,
    /// The disk of L1 on this host, or of an emulated L0.
    pub(super) disk: PathBuf,
}

/// One boot.
#[derive(Debug)]
pub(super) struct Boot {
    /// The levels to be booted, and their orders; none if only this host measures.
    pub(super) nest: Option<Nest>,
    /// What this host measures itself, as L0, and whether it does so first.
    pub(super) host: Option<(Vec<Work>, bool)>,
    /// What every level is to measure, rows that come by themselves included.
    pub(super) turns: BTreeMap<u8, Vec<Turn>>,
}

impl Boot {
    /// Plans boot `number` of `plan`.
    ///
    /// # Errors
    /// [`Error`] names what doesn't fit.
    pub(super) fn new(
        plan: &Plan,
        number: usize,
        configuration: &Configuration,
        ground: &Ground,
    ) -> Result<Self, Error> {
        Planner {
            plan,
            ground,
            random: Random::new(plan.seed ^ (number as u64) << 32),
        }
        .boot(configuration)
    }
}

/// Whether a level is booted, and not only this host measured.
pub(super) fn boots_levels(plan: &Plan, metal: Metal) -> bool {
    depth(plan) >= first(metal)
}

/// The first level that is booted: a present host is L0 itself.
fn first(metal: Metal) -> u8 {
    u8::from(metal == Metal::Host)
}

/// The deepest level that measures.
fn depth(plan: &Plan) -> u8 {
    plan.levels.iter().copied().max().unwrap_or(0)
}

/// What every level's kernel is told besides what nestling itself needs. That of an
/// emulated L0 is, too: if its timers were coarse, so would be those that it gives L1.
pub(super) fn arguments(plan: &Plan, metal: Metal) -> String {
    let own = metal.measured_arguments();
    let arguments = format!("{own} {CMDLINE} {}", plan.settings.cmdline);
    arguments.trim().to_owned()
}

/// Whether the levels need disks.
pub(super) fn needs_disk(plan: &Plan) -> bool {
    plan.rows.iter().any(|row| row.needs_disk())
}

/// What one level measures: what has to come first, and the rest.
struct Share {
    first: Vec<Turn>,
    rest: Vec<Turn>,
}

struct Planner<'a> {
    plan: &'a Plan,
    ground: &'a Ground,
    random: Random,
}

impl Planner<'_> {
    fn boot(&mut self, configuration: &Configuration) -> Result<Boot, Error> {
        let levels = &self.plan.levels;
        let (first, depth) = (first(self.ground.metal), depth(self.plan));
        let mut turns = BTreeMap::new();
        let mut shares = BTreeMap::new();
        for &level in levels {
            let share = self.share();
            let mut all = [&share.first[..], &share.rest].concat();
            if self.has(Row::Boot) && (level > 0 || first == 0) {
                all.push(Turn {
                    row: Row::Boot,
                    pass: 0,
                });
            }
            turns.insert(level, all);
            shares.insert(level, share);
        }
        let host = (first == 1).then(|| shares.remove(&0)).flatten();
        let host = host.map(|share| {
            let work = [share.first, share.rest];
            let work = work.into_iter().filter(|turns| !turns.is_empty());
            let works = work.map(|turns| self.work(0, turns)).collect();
            (works, self.coin())
        });
        let nest = if boots_levels(self.plan, self.ground.metal) {
            let mut nest = self.levels(first, depth, configuration)?;
            self.fill(&mut nest, depth, &mut shares);
            Some(nest)
        } else {
            None
        };
        Ok(Boot { nest, host, turns })
    }

    /// A level's rows in their order. Memory is touched for the first time only once,
    /// and by the first who does so; all else is in random order, and measured twice
    /// where times mean something: the A/A control.
    fn share(&mut self) -> Share {
        let touches = [Row::PageTouch4k, Row::PageTouch2m];
        let first = touches.into_iter().filter(|row| self.has(*row));
        let turn = |row, pass| Turn { row, pass };
        let first = first.map(|row| turn(row, 0)).collect();
        let rows = self.plan.rows.iter().copied();
        let rest = rows.filter(|row| !touches.contains(row) && *row != Row::Boot);
        let passes = if self.plan.emulated { 1 } else { 2 };
        let mut rest: Vec<Turn> = rest
            .flat_map(|row| (0..passes).map(move |pass| turn(row, pass)))
            .collect();
        for last in (1..rest.len()).rev() {
            rest.swap(last, self.random.below(last + 1));
        }
        Share { first, rest }
    }

    fn coin(&mut self) -> bool {
        self.random.below(2) == 0
    }

    fn has(&self, row: Row) -> bool {
        self.plan.rows.contains(&row)
    }

    fn needs_network(&self) -> bool {
        self.plan.rows.iter().any(|row| row.needs_network())
    }

    fn needs_disk(&self) -> bool {
        needs_disk(self.plan)
    }

    /// The levels from the first that is booted, without work.
    fn levels(&self, first: u8, depth: u8, configuration: &Configuration) -> Result<Nest, Error> {
        let settings = &self.plan.settings;
        let metal = self.ground.metal;
        let exposure = &configuration.exposure;
        let nested: Nested = exposure.parse().map_err(|reason| Error::Exposure {
            exposure: exposure.clone(),
            reason: format!("{reason}"),
        })?;
        let memory_mib = plan::least_memory_mib(self.ground.image_mib).max(MEMORY_MIB);
        let nest = plan::plan(&plan::Request {
            first,
            depth: depth.max(1),
            workload: Workload::Bench(self.work(depth, Vec::new())),
            cpus: vec![settings.cpus],
            memory_mib: settings.memory_mib.unwrap_or(memory_mib),
            memory_limit_mib: self.ground.memory_limit_mib,
            image_mib: self.ground.image_mib,
            monitor: self.monitor(configuration),
            nested: vec![nested],
            cpu_template: None,
            hyperv: vec![hyperv::Request::Off],
            cmdline: arguments(self.plan, metal),
            kvm: Kvm {
                common: metal.kvm_parameters().to_owned(),
                ..Kvm::default()
            },
            network: if self.needs_network() {
                Kind::Nat
            } else {
                Kind::Off
            },
            host: Host::EMULATED,
            timeout_s: settings.timeout_s,
            silence_s: SILENCE_S * metal.time_scale(),
            sample_s: 0,
            trace: false,
        })?;
        Ok(nest)
    }

    /// The monitor that the configuration names.
    fn monitor(&self, configuration: &Configuration) -> Monitor {
        let mut monitors = self.plan.monitors.iter();
        let named = monitors.find(|monitor| monitor.name == configuration.monitor);
        named.cloned().unwrap_or_default()
    }

    /// Gives every level from that of `nest` up its share and its disk.
    fn fill(&mut self, nest: &mut Nest, depth: u8, shares: &mut BTreeMap<u8, Share>) {
        let level = nest.order.level;
        let order = &mut nest.order;
        order.modules.extend(MODULES.map(str::to_owned));
        if let Some(network) = &mut order.network
            && level == 0
        {
            network.serve = None;
            network.bench = self.peer();
        }
        // No page of the benchmark's is looked for from outside.
        nest.machine.forwards.clear();
        if level > 0 {
            nest.machine.cpu_affinity = self.affinity(level);
            if self.needs_disk() {
                nest.machine.disks.push(Disk {
                    path: if level == 1 && self.ground.metal == Metal::Host {
                        self.ground.disk.display().to_string()
                    } else {
                        DISK.to_owned()
                    },
                    readonly: false,
                    create_mib: Some(DISK_MIB),
                });
            }
        }
        if self.needs_disk() {
            // A level has the disks of all above in its memory.
            nest.machine.memory_mib += DISK_MIB * u32::from(depth - level);
        }
        let next = order.steps.drain(..).find_map(|step| match step {
            Step::Nest(next) if level < depth => Some(next),
            _ => None,
        });
        let next = next.map(|mut next| {
            self.fill(&mut next, depth, shares);
            Step::Nest(next)
        });
        let share = shares.remove(&level);
        let (first, rest) = share.map_or_else(Default::default, |share| (share.first, share.rest));
        let step = |planner: &Self, turns: Vec<Turn>| {
            let some = !turns.is_empty();
            some.then(|| Step::Workload(Workload::Bench(planner.work(level, turns))))
        };
        let steps = &mut nest.order.steps;
        steps.extend(step(self, first));
        let rest = step(self, rest);
        if self.coin() {
            steps.extend(rest.into_iter().chain(next));
        } else {
            steps.extend(next.into_iter().chain(rest));
        }
    }

    fn work(&self, level: u8, turns: Vec<Turn>) -> Work {
        let host = level == 0 && self.ground.metal == Metal::Host;
        let disk = match (level, self.ground.metal) {
            (0, Metal::Host) => self.ground.disk.with_extension("l0"),
            (0, Metal::Vmx) => "/dev/sda".into(),
            _ => "/dev/vda".into(),
        };
        let pinned = self.plan.settings.pin.iter();
        Work {
            turns,
            samples: self.plan.settings.samples,
            tell_samples: !self.plan.emulated,
            disk: self.needs_disk().then_some(disk),
            // L0 measures where L1's vCPUs would be.
            processors: pinned.filter(|_| host).copied().collect(),
            server: self.peer().filter(|_| self.needs_network() || host),
        }
    }

    /// Where the benchmark's peer on L0 listens.
    fn peer(&self) -> Option<SocketAddr> {
        if self.ground.metal == Metal::Host {
            return self.ground.peer;
        }
        let address = Host::EMULATED.page.ip();
        Some(SocketAddr::new(address, PEER_PORT))
    }

    /// The processors of the level below that a level's vCPUs are pinned to.
    fn affinity(&self, level: u8) -> Vec<u32> {
        let settings = &self.plan.settings;
        match (self.ground.metal, level) {
            (Metal::Host, 1) => settings.pin.clone(),
            // An emulated L0 has one processor.
            (Metal::Svm | Metal::Vmx, 1) => Vec::new(),
            _ => (0..settings.cpus).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
