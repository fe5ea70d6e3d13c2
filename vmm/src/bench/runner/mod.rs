//! Running a benchmark: a boot of a nest after the other, each kept as it ends, so
//! that a run that is interrupted goes on where it was.

mod boot;
mod collect;
mod nest;
mod peer;
mod progress;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::results::{self, Folder, Manifest, Plan, Results};
use crate::bench::work::Work;
use crate::channel::{Event, What};
use crate::guest::bench;
use crate::guest::report::Reporter;
use crate::image::{self, Image, kernel};
use crate::memory;
use crate::metal::{self, Metal};
use crate::monitor;
use crate::nest::start;
use crate::signals::Signals;
use crate::size::Size;
use boot::Booter;
use peer::Peer;

pub use nest::Error as NestError;
pub use progress::Progress;

/// How often a boot in which a level died is measured again, where L0 is emulated.
const AGAIN: usize = 2;

/// Why a run can't go on.
#[derive(Debug, Error)]
pub enum Error {
    /// The results can't be read or written.
    #[error(transparent)]
    Results(#[from] results::Error),
    /// The folder holds results of another plan.
    #[error(
        "{folder} holds results of another run, whose {what} differ: give the same flags to go \
         on with it, or choose another folder"
    )]
    OtherPlan {
        /// The folder.
        folder: String,
        /// What differs first.
        what: &'static str,
    },
    /// No such boot.
    #[error("the run has no boot {number}: its plan has {boots}, from 0")]
    Number {
        /// What was asked for.
        number: usize,
        /// How many there are.
        boots: usize,
    },
    /// There is no such metal, or not here.
    #[error(transparent)]
    Metal(#[from] metal::Error),
    /// The metal isn't one, or its processor's name isn't one.
    #[error("the plan's metal: {0}")]
    Model(String),
    /// A monitor can't be used.
    #[error(transparent)]
    Monitor(#[from] monitor::Error),
    /// There is no image.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The levels can't be planned.
    #[error(transparent)]
    Nest(#[from] NestError),
    /// The first machine couldn't be started.
    #[error(transparent)]
    Start(#[from] start::Error),
    /// The system refuses a file or a process.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Who is told how a run goes.
pub trait Told {
    /// A boot begins.
    fn begins(&mut self, number: usize);
    /// Something happens at one of its levels.
    fn event(&mut self, event: &Event);
    /// A boot in which a level died is measured once more.
    fn again(&mut self, boot: &results::Boot);
    /// A boot is over, and kept.
    fn kept(&mut self, boot: &results::Boot);
    /// Called now and then; answers how soon it wants to be called again.
    fn tick(&mut self) -> Option<Duration>;
}

/// A folder of results that is to be filled.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    /// There is none before the run has begun.
    folder: Option<Folder>,
    plan: Plan,
    missing: Vec<usize>,
}

impl Run {
    /// A run by `plan` that [begins](Self::begin) in the folder at `path`, or goes on
    /// there where it was. Damaged files are set aside, so that their boots are measured
    /// again.
    ///
    /// # Errors
    /// [`Error::OtherPlan`] if the folder holds results of another plan.
    pub fn open(path: &Path, plan: Plan) -> Result<Self, Error> {
        match Folder::open(path) {
            Ok((folder, manifest)) => {
                let version = manifest.nestling != env!("CARGO_PKG_VERSION");
                let what = version.then_some("versions of nestling");
                if let Some(what) = what.or_else(|| manifest.plan.difference(&plan)) {
                    let folder = path.display().to_string();
                    return Err(Error::OtherPlan { folder, what });
                }
                Self::go_on(path, folder, manifest.plan)
            }
            Err(results::Error::NoManifest(_)) => Ok(Self::new(path, None, plan)),
            Err(results::Error::File { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Self::new(path, None, plan))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The run that the folder at `path` was begun for.
    ///
    /// # Errors
    /// If it holds no results.
    pub fn existing(path: &Path) -> Result<Self, Error> {
        let (folder, manifest) = Folder::open(path)?;
        Ok(Self::new(path, Some(folder), manifest.plan))
    }

    fn new(path: &Path, folder: Option<Folder>, plan: Plan) -> Self {
        Self {
            path: path.to_owned(),
            folder,
            missing: (0..plan.total_boots()).collect(),
            plan,
        }
    }

    fn go_on(path: &Path, folder: Folder, plan: Plan) -> Result<Self, Error> {
        let results = Results::read(path)?;
        for damage in &results.damaged {
            tracing::warn!("{} is set aside: {}", damage.file, damage.reason);
            folder.set_aside(damage)?;
        }
        Ok(Self {
            missing: results.missing(),
            ..Self::new(path, Some(folder), plan)
        })
    }

    /// Makes the folder and its manifest, if the run hasn't begun yet.
    ///
    /// # Errors
    /// If the folder can't be written, or another run has begun there.
    pub fn begin(&mut self) -> Result<&Folder, Error> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let began_s = now.map_or(0, |now| now.as_secs());
                Folder::create(&self.path, &Manifest::new(began_s, self.plan.clone()))?
            }
        };
        Ok(self.folder.insert(folder))
    }

    /// What is measured.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The numbers of the boots that aren't there yet.
    pub fn missing(&self) -> &[usize] {
        &self.missing
    }

    /// Measures the boots of these numbers, one after another, here. Answers whether
    /// all were: a signal in `stop` ends the run, and what was measured stays.
    ///
    /// # Errors
    /// What keeps a boot from being measured at all, before the run begins as far as it
    /// can be known by then. A level that dies is a result; an emulator has several tries.
    pub fn measure(
        &mut self,
        numbers: &[usize],
        stop: &Signals,
        told: &mut dyn Told,
    ) -> Result<bool, Error> {
        if numbers.is_empty() {
            return Ok(true);
        }
        let booter = Booter::new(&self.plan)?;
        for number in 0..self.plan.configurations().count() {
            booter.plan(&self.plan, number, Path::new(""))?;
        }
        let plan = self.plan.clone();
        let folder = self.begin()?;
        for &number in numbers {
            folder.vacant(number)?;
            told.begins(number);
            let Some(boot) = booter.boot_until_it_ends(&plan, number, stop, told)? else {
                return Ok(false);
            };
            folder.keep(&boot)?;
            told.kept(&boot);
        }
        Ok(true)
    }
}

impl Booter {
    fn new(plan: &Plan) -> Result<Self, Error> {
        let metal = metal_of(plan)?;
        let image = nest::boots_levels(plan, metal)
            .then(|| image_of(plan))
            .transpose()?;
        let available = memory::available_memory().map_or(u64::MAX, Size::bytes);
        let available = u32::try_from(available >> 20).unwrap_or(u32::MAX);
        let networked = plan.rows.iter().any(|row| row.needs_network());
        let peer = (metal == Metal::Host && networked)
            .then(Peer::serve)
            .transpose()?;
        Ok(Self {
            metal,
            image,
            memory_limit_mib: metal.max_memory_mib().unwrap_or(u32::MAX).min(available),
            peer,
        })
    }

    /// Measures a boot, and where L0 is emulated once more if a level dies: more often
    /// than not that is the emulator's fault, and no time is measured there. What
    /// became of it before is kept with it.
    fn boot_until_it_ends(
        &self,
        plan: &Plan,
        number: usize,
        stop: &Signals,
        told: &mut dyn Told,
    ) -> Result<Option<results::Boot>, Error> {
        let mut lost = Vec::new();
        loop {
            let Some(mut boot) = self.boot(plan, number, stop, told)? else {
                return Ok(None);
            };
            let died = boot.died().filter(|_| plan.emulated && lost.len() < AGAIN);
            let Some(died) = died else {
                boot.lost = lost;
                return Ok(Some(boot));
            };
            told.again(&boot);
            lost.push(died);
        }
    }
}

/// The image of every level.
fn image_of(plan: &Plan) -> Result<Image, Error> {
    let settings = &plan.settings;
    let source: kernel::Source = settings
        .kernel
        .as_ref()
        .map(|text| text.parse().unwrap_or_else(|never| match never {}))
        .unwrap_or_default();
    let mut options = image::Options {
        kernel: source,
        modules: settings.modules.clone(),
        ..image::Options::default()
    };
    for monitor in &plan.monitors {
        options.programs.extend(monitor.program()?);
        options.additions.extend(monitor.additions()?);
    }
    Ok(image::build(&options)?)
}

/// The metal that a plan names.
fn metal_of(plan: &Plan) -> Result<Metal, Error> {
    let request: metal::Request = plan.metal.parse().map_err(Error::Model)?;
    match request {
        metal::Request::Exactly(metal) => Ok(metal),
        metal::Request::Auto => Err(Error::Model("a plan names one exactly".to_owned())),
    }
}

/// Measures `work` in this process as L0, and tells what comes of it by `channel`.
///
/// # Errors
/// What the system says when no process can be made.
pub fn measure_here(work: &Work, channel: std::fs::File) -> io::Result<()> {
    let stop = Signals::block(&[libc::SIGTERM, libc::SIGINT])?;
    let mut reporter = Reporter::on(channel);
    bench::run(work, 0, &mut reporter, &stop)?;
    reporter.send(What::Done);
    Ok(())
}
