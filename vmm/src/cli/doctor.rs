//! `nestling doctor`: what this host can do, and what to do about the rest.

use std::io;

use super::{Failure, Format, Verdict, print_result};
use crate::console::terminal;
use crate::doctor::{self, Diagnosis, Findings};

const AFTER_HELP: &str = "\
Looks only: nothing is loaded, installed or changed. Exits with 0 if `nestling nest` can use \
at least one metal, else with 1.

Examples:
  What can this host do?
    nestling doctor

  For a script: what is wrong, and what to do about it
    nestling doctor --format json | jq -r '.rows[] | select(.remedy) | .check + \": \" + .remedy'";

/// The flags of `nestling doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Doctor {}

impl Doctor {
    /// Looks around and says what was found.
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        let diagnosis = Diagnosis::of(Findings::gather());
        let text = match format {
            Format::Text => doctor::text(&diagnosis, terminal::colour(&io::stdout())),
            Format::Json => {
                let json = serde_json::to_string_pretty(&diagnosis).map_err(Failure::failed)?;
                json + "\n"
            }
        };
        print_result(&text)?;
        Ok(if diagnosis.can_nest() {
            Verdict::Done
        } else {
            Verdict::Failed
        })
    }
}
