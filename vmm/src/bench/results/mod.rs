//! What a run leaves behind: a folder with one manifest and a file for each boot.
//!
//! Files are only ever added, each at once or not at all, so that a run that was
//! interrupted goes on where it was, several machines can fill one folder, and nothing
//! that was measured is lost. docs/json.md describes both files.

mod boot;
mod folder;
mod manifest;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub use boot::{Boot, Clock, Environment, HugePages, Level, Measured, Outcome, Phase};
pub use folder::{Damage, Folder, Results, kept};
pub use manifest::{Configuration, Manifest, Monitor, Plan, Settings};

/// The version of both files.
pub const VERSION: u32 = 1;

/// Why results can't be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The folder can't be used.
    #[error("{path}: {source}")]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no manifest.
    #[error("{0} holds no results: it has no manifest.json, which `nestling bench run` writes")]
    NoManifest(PathBuf),
    /// A file was cut off, or isn't what it should be.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by another version of nestling.
    #[error(
        "{path} has version {found} of the format, and this nestling reads {VERSION}: \
         use the nestling that wrote it{}", written_by(.nestling.as_deref())
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version in it.
        found: u64,
        /// The version of nestling that wrote it, if it says.
        nestling: Option<String>,
    },
    /// A folder isn't begun twice, and a boot isn't kept twice.
    #[error("{0} is there already, and results are never overwritten: choose another folder")]
    Exists(PathBuf),
}

fn written_by(nestling: Option<&str>) -> String {
    nestling.map_or_else(String::new, |version| format!(", {version}"))
}
