//! `nestling man`: the manual pages.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Cli, Failure, Verdict};

/// The arguments of `nestling man`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nestling man ~/.local/share/man/man1")]
pub(super) struct Man {
    /// The folder, which must exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Man {
    /// Writes a page for the program and one for each command.
    pub(super) fn execute(self) -> Result<Verdict, Failure> {
        clap_mangen::generate_to(Cli::command(), &self.folder).map_err(|error| {
            Failure::failed(format!(
                "can't write into {}: {error}",
                self.folder.display()
            ))
        })?;
        Ok(Verdict::Done)
    }
}
