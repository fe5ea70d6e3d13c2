//! `nestling bench run`: measuring.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use nestling_arch::nested::Request as Nested;

use super::super::{Failure, Format, Verdict};
use crate::bench::results::{self, Monitor, Plan, Settings};
use crate::bench::row::{Family, Row};
use crate::bench::runner::{self, Progress, Run};
use crate::bench::slurm::{self, Slurm};
use crate::bench::work::Work;
use crate::config::ConfigError;
use crate::console::terminal;
use crate::metal::{self, Metal, Model};
use crate::nest::start;
use crate::signals::Signals;
use crate::size::Size;

/// The arguments of `nestling bench run`.
#[derive(Debug, Args)]
pub(in super::super) struct RunBench {
    /// What is measured: rows (see `nestling bench list`), or micro, macro or all
    #[arg(
        long,
        value_name = "ROW,...",
        value_delimiter = ',',
        default_value = "micro"
    )]
    rows: Vec<String>,

    /// At which levels
    #[arg(
        long,
        value_name = "LEVEL,...",
        value_delimiter = ',',
        default_value = "0,1,2"
    )]
    levels: Vec<u8>,

    /// Boots of each configuration; fewer than six allow no intervals
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    boots: u32,

    /// What of VMX or SVM the levels above L0 are shown, as `nestling nest --nested` takes it;
    /// repeated, each is a configuration of its own, side by side in the report [default: on]
    #[arg(long, value_name = "WHAT", allow_hyphen_values = true)]
    exposure: Vec<Nested>,

    /// Who boots the levels above L0: nestling, qemu-q35, qemu-microvm, or [NAME=]COMMAND LINE of
    /// another monitor (docs/bench.md); repeated, each is a configuration of its own
    /// [default: nestling]
    #[arg(long, value_name = "MONITOR")]
    monitor: Vec<Monitor>,

    /// What L0 runs on: auto, host, svm (QEMU) or vmx (Bochs)
    #[arg(long, value_name = "METAL", default_value_t = metal::Request::Auto)]
    metal: metal::Request,

    /// The processor of an emulated metal
    #[arg(long, value_name = "MODEL")]
    metal_cpu: Option<Model>,

    /// Let the svm metal's clock go by time instead of counting instructions: quicker, but counts
    /// then vary with what else the host does
    #[arg(long)]
    no_count_instructions: bool,

    /// Samples of each row, in each boot [default: 1000, and 2000 on an emulated metal]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,

    /// vCPUs of each level; two rows take two [default: 2, and 1 on an emulated metal]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,

    /// This host's processors that L1's vCPUs are pinned to, one for each [default: from 0]
    #[arg(long, value_name = "CPU,...", value_delimiter = ',')]
    cpu_affinity: Vec<u32>,

    /// The deepest level's memory; each level above gets what it needs on top [default: 256M, or
    /// more if the image takes that]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,

    /// The kernel of every level: a package, a .deb, a bzImage, or `host`
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,

    /// The kernel's modules, where --kernel names a bzImage
    #[arg(long, value_name = "FOLDER")]
    modules: Option<PathBuf>,

    /// Further arguments for every level's kernel
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,

    /// Where the random order of levels and rows begins
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Give up a boot after this many seconds [default: what suits the metal]
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u32).range(1..))]
    timeout: Option<u32>,

    /// Who measures: this machine, boot after boot, or a Slurm cluster whose nodes share the folder
    #[arg(long, value_enum, default_value_t = Executor::Local, value_name = "WHO")]
    executor: Executor,

    /// A further option of sbatch, as in --slurm-option=--partition=x; may be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    slurm_option: Vec<String>,

    /// How many boots may run at once on the cluster [default: as many as Slurm lets]
    #[arg(long, value_name = "N")]
    slurm_parallel: Option<u32>,

    /// The folder of results. If it holds some of a run with the same flags, that goes on where
    /// it was
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

/// Who measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Executor {
    /// This machine.
    Local,
    /// A Slurm cluster.
    Slurm,
}

/// The arguments of `nestling bench boot`, by which a cluster's nodes measure.
#[derive(Debug, Args)]
pub(in super::super) struct Boot {
    /// The folder of results
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// The number of the boot
    #[arg(value_name = "N")]
    number: usize,
}

/// How long a boot may take on a present host, in seconds.
const TIMEOUT_S: u32 = 300;
/// The most samples of a row in one boot.
const MAX_SAMPLES: usize = 1 << 20;

impl RunBench {
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        let signals = signals()?;
        let (plan, reason) = self.plan()?;
        let mut run = Run::open(&self.output, plan).map_err(failure)?;
        // With this host alone nothing is booted, and nothing was chosen for it.
        if run.plan().emulated || run.plan().levels != [0] {
            tracing::info!("{reason}");
        }
        let missing = run.missing().to_vec();
        let there = run.plan().total_boots() - missing.len();
        if there > 0 {
            tracing::info!("{there} boots are there already");
        }
        match self.executor {
            Executor::Slurm => {
                run.begin().map_err(failure)?;
                self.spread(&missing, &signals)?;
            }
            Executor::Local if !measure(&mut run, &missing, &signals)? => {
                return Err(Failure::failed(format!(
                    "stopped: the boots that were over are kept in {}; the same command goes on",
                    self.output.display()
                )));
            }
            Executor::Local => {}
        }
        super::MakeReport {
            folder: self.output,
        }
        .execute(format)
    }

    /// Lets a cluster measure.
    fn spread(&self, missing: &[usize], signals: &Signals) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(Failure::failed)?;
        let folder = self.output.canonicalize().map_err(Failure::failed)?;
        let slurm = Slurm {
            options: self.slurm_option.clone(),
            parallel: self.slurm_parallel,
        };
        let mut last = slurm::Progress::default();
        let mut tell = |now: slurm::Progress| {
            if now != last {
                let slurm::Progress {
                    done,
                    running,
                    pending,
                    failed,
                    reason,
                } = &now;
                let reason = reason
                    .as_ref()
                    .map_or_else(String::new, |r| format!(" ({r})"));
                tracing::info!(
                    "boots: {done} done, {running} run, {pending} wait{reason}, {failed} failed"
                );
                last = now;
            }
        };
        let ran = slurm.run(&program, &folder, missing, signals, &mut tell);
        ran.map_err(Failure::failed)
    }

    /// What is asked for, and why on that metal.
    fn plan(&self) -> Result<(Plan, String), Failure> {
        let deepest = self.levels.iter().copied().max().unwrap_or(0);
        let mut host = start::host_facts();
        if deepest == 0 {
            // Nobody is booted.
            host.obstacle = None;
        }
        let choice = metal::choose(self.metal, &host, Metal::missing).map_err(Failure::failed)?;
        let metal = choice.metal;
        let emulated = metal != Metal::Host;
        let samples = self.samples.unwrap_or(if emulated { 2000 } else { 1000 });
        if !(1..=MAX_SAMPLES).contains(&samples) {
            return Err(Failure::usage(format!(
                "--samples {samples}: take 1 to {MAX_SAMPLES}"
            )));
        }
        // An emulated L0 has one processor: with two vCPUs above, its scheduler decides
        // what many a row costs.
        let cpus = self.cpus.unwrap_or(if emulated { 1 } else { 2 });
        let exposures: Vec<String> = match self.exposure.as_slice() {
            [] => vec!["on".to_owned()],
            some => some.iter().map(Nested::to_string).collect(),
        };
        let mut levels = self.levels.clone();
        levels.sort_unstable();
        levels.dedup();
        let mib = |size: Size| u32::try_from(size.bytes().div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let plan = Plan {
            metal: metal.to_string(),
            emulated,
            levels,
            rows: rows(&self.rows)?,
            boots: self.boots,
            exposures,
            monitors: match self.monitor.as_slice() {
                [] => vec![Monitor::default()],
                some => some.to_vec(),
            },
            seed: self.seed,
            settings: Settings {
                samples,
                cpus,
                memory_mib: self.memory.map(mib),
                pin: self.affinity(metal, cpus)?,
                kernel: self.kernel.clone(),
                modules: self.modules.clone(),
                cmdline: self.cmdline.clone(),
                metal_cpu: self.metal_cpu.as_ref().map(|model| model.name().to_owned()),
                count_instructions: metal == Metal::Svm && !self.no_count_instructions,
                timeout_s: self.timeout.unwrap_or(TIMEOUT_S * metal.time_scale()),
            },
        };
        match plan.problem() {
            None => Ok((plan, choice.reason)),
            Some(problem) => Err(Failure::usage(problem)),
        }
    }

    /// Those that were asked for, or the first of this host's if it has enough.
    fn affinity(&self, metal: Metal, cpus: u32) -> Result<Vec<u32>, Failure> {
        let given = self.cpu_affinity.len();
        if given > 0 && u32::try_from(given) != Ok(cpus) {
            return Err(Failure::usage(ConfigError::Affinity { given, cpus }));
        }
        if metal != Metal::Host || given > 0 {
            return Ok(self.cpu_affinity.clone());
        }
        let there = std::thread::available_parallelism().map_or(1, usize::from);
        let enough = u32::try_from(there).is_ok_and(|there| there >= cpus);
        Ok((0..cpus).filter(|_| enough).collect())
    }
}

/// The rows that are named, in the order of the list.
fn rows(names: &[String]) -> Result<Vec<Row>, Failure> {
    let mut chosen = Vec::new();
    for name in names {
        let of = |family: Family| Row::ALL.iter().filter(move |row| row.family() == family);
        match name.as_str() {
            "all" => chosen.extend(Row::ALL),
            "micro" => chosen.extend(of(Family::Control).chain(of(Family::Micro))),
            "macro" => chosen.extend(of(Family::Macro)),
            name => chosen.push(name.parse().map_err(Failure::usage)?),
        }
    }
    let all = Row::ALL.iter().copied();
    Ok(all.filter(|row| chosen.contains(row)).collect())
}

impl Boot {
    pub(super) fn execute(self) -> Result<Verdict, Failure> {
        let signals = signals()?;
        let mut run = Run::existing(&self.folder).map_err(failure)?;
        if measure(&mut run, &[self.number], &signals)? {
            Ok(Verdict::Done)
        } else {
            Err(Failure::failed(format!("boot {} was stopped", self.number)))
        }
    }
}

/// Measures what standard input orders, as this host's L0, and tells it by standard
/// output as a level does.
pub(super) fn measure_here() -> Result<Verdict, Failure> {
    let mut order = Vec::new();
    io::stdin()
        .take(crate::order::MAX_SIZE)
        .read_to_end(&mut order)
        .map_err(Failure::failed)?;
    let work: Work = serde_json::from_slice(&order).map_err(Failure::usage)?;
    let channel = io::stdout().as_fd().try_clone_to_owned();
    let channel = File::from(channel.map_err(Failure::failed)?);
    runner::measure_here(&work, channel).map_err(Failure::failed)?;
    Ok(Verdict::Done)
}

/// Before any thread or child starts, so that all are covered.
fn signals() -> Result<Signals, Failure> {
    Signals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]).map_err(Failure::failed)
}

fn measure(run: &mut Run, numbers: &[usize], signals: &Signals) -> Result<bool, Failure> {
    let out = io::stderr();
    let columns = terminal::size(&out)
        .filter(|_| out.is_terminal())
        .map(|(columns, _)| columns.into());
    let mut progress = Progress::new(out, run.plan().clone(), numbers.len(), columns);
    let measured = run.measure(numbers, signals, &mut progress);
    progress.clear();
    measured.map_err(failure)
}

fn failure(error: runner::Error) -> Failure {
    match error {
        runner::Error::OtherPlan { .. }
        | runner::Error::Number { .. }
        | runner::Error::Nest(_)
        | runner::Error::Results(results::Error::NoManifest(_)) => Failure::usage(error),
        error => Failure::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Result<Vec<Row>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rows(&names).map_err(|failure| failure.to_string())
    }

    #[test]
    fn rows_are_in_the_order_of_the_list_and_each_once() {
        let found = named(&["cpu", "cpuid", "nop", "cpuid"]);
        assert_eq!(found, Ok(vec![Row::Nop, Row::Cpuid, Row::Cpu]));
    }

    #[test]
    fn families_name_their_rows() {
        let all = named(&["all"]).unwrap();
        assert_eq!(all, Row::ALL);
        let of = |names: &[&str]| named(names).unwrap();
        let (micro, r#macro) = (of(&["micro"]), of(&["macro"]));
        // The controls come along, without which no figure can be trusted.
        assert!(micro.contains(&Row::Nop) && micro.contains(&Row::Hypercall));
        assert!(r#macro.iter().all(|row| row.family() == Family::Macro));
        assert!(micro.iter().all(|row| row.family() != Family::Macro));
        assert_eq!(of(&["macro", "micro"]), all);
        assert_eq!(of(&["micro", "cpuid"]), micro);
        assert_eq!(of(&["micro", "cpu"]).len(), micro.len() + 1);
    }

    #[test]
    fn an_unknown_row_is_named() {
        for name in ["cpu-id", "Micro", ""] {
            let error = named(&["nop", name]).unwrap_err();
            assert!(
                error.starts_with(&format!("no row is called `{name}`")),
                "{error}"
            );
        }
    }
}
