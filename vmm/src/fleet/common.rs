//! What several hosts have in common, as a template.

use std::fmt::Write as _;
use std::path::PathBuf;

use nestling_arch::template::{Lack, MixedVendors, Template};
use serde::Serialize;

use super::{Dump, DumpError};

/// The version of the JSON form; docs/json.md describes it.
const VERSION: u32 = 1;

/// A fleet's template, and what it takes from each host.
#[derive(Clone, Debug, Serialize)]
pub struct Fleet {
    version: u32,
    /// The template.
    pub template: Template,
    /// The hosts, in the order in which they were given.
    pub hosts: Vec<Member>,
}

/// A host of a fleet.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// Its dump.
    pub dump: PathBuf,
    /// Its processor.
    pub processor: String,
    /// What it has and the fleet hasn't.
    pub loses: Vec<String>,
}

/// Why hosts have no template in common.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A dump can't be had.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The hosts are of two vendors.
    #[error("{first} and {other}: {source}")]
    Vendors {
        /// The first dump.
        first: PathBuf,
        /// The one that doesn't go with it.
        other: PathBuf,
        /// Why not.
        source: MixedVendors,
    },
    /// No host at all.
    #[error("no dump is given: make one on each host by `nestling cpu dump -o FILE`")]
    Empty,
}

impl Fleet {
    /// The fleet of the hosts whose dumps these are; its template is called
    /// `name`.
    ///
    /// # Errors
    /// When a dump can't be read, or the hosts' vendors differ.
    pub fn of(dumps: &[PathBuf], name: &str) -> Result<Self, FleetError> {
        let mut members = Vec::new();
        for path in dumps {
            let dump = Dump::read(path)?;
            let profile = dump.profile().map_err(|source| DumpError::Cpuid {
                path: path.clone(),
                source,
            })?;
            members.push((path, dump.processor, profile));
        }
        let Some((first, _, start)) = members.first() else {
            return Err(FleetError::Empty);
        };
        let mut common = start.clone();
        for (path, _, profile) in &members[1..] {
            common = common
                .common(profile)
                .map_err(|source| FleetError::Vendors {
                    first: first.to_path_buf(),
                    other: path.to_path_buf(),
                    source,
                })?;
        }
        let mut template = common.template(name);
        template.description = format!("what {} hosts have in common", members.len());
        let member = |(path, processor, profile): &(&PathBuf, String, _)| Member {
            dump: path.to_path_buf(),
            processor: processor.clone(),
            loses: losses(profile, &common),
        };
        Ok(Self {
            version: VERSION,
            template,
            hosts: members.iter().map(member).collect(),
        })
    }

    /// The fleet for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.template, self.template.description);
        for host in &self.hosts {
            let name = format!("{} ({})", host.dump.display(), host.processor);
            if host.loses.is_empty() {
                writeln!(text, "{name} loses nothing").expect("a string takes all");
            } else {
                writeln!(text, "{name} loses").expect("a string takes all");
            }
            for lost in &host.loses {
                writeln!(text, "  {lost}").expect("a string takes all");
            }
        }
        text
    }
}

fn losses(
    profile: &nestling_arch::template::Profile,
    common: &nestling_arch::template::Profile,
) -> Vec<String> {
    profile.beyond(common).iter().map(Lack::to_string).collect()
}
