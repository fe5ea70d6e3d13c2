//! `nestling completions`: a shell's completion script.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, Verdict, print_result};

/// The arguments of `nestling completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  nestling completions bash > ~/.local/share/bash-completion/completions/nestling"
)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints the script.
    pub(super) fn execute(self) -> Result<Verdict, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "nestling", &mut script);
        print_result(&String::from_utf8_lossy(&script))?;
        Ok(Verdict::Done)
    }
}
