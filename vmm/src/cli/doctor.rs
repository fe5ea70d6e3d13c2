//! `nestling doctor`: what this host can do, and what to do about the rest.

use std::io;

use nestling_arch::nested::Request;

use super::{Failure, Format, Verdict, print_result};
use crate::console::terminal;
use crate::doctor::{self, Controls, Diagnosis, Findings};
use crate::{facts, kvm};

const AFTER_HELP: &str = "\
Looks only: nothing is loaded, installed or changed. Exits with 0 if `nestling nest` can use \
at least one metal, else with 1.

Examples:
  What can this host do?
    nestling doctor

  What would a guest without EPT find?
    nestling doctor --nested vmx,-ept

  For a script: what is wrong, and what to do about it
    nestling doctor --format json | jq -r '.rows[] | select(.remedy) | .check + \": \" + .remedy'";

/// The flags of `nestling doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Doctor {
    /// Instead list every control of VMX or SVM: whether this host has it, and whether a guest
    /// would find it under `run --nested` with this value
    #[arg(long, value_name = "WHAT", num_args = 0..=1, default_missing_value = "auto",
          allow_hyphen_values = true)]
    nested: Option<Request>,
}

impl Doctor {
    /// Looks around and says what was found.
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        if let Some(request) = self.nested {
            return list(request, format);
        }
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

/// Prints the controls.
fn list(request: Request, format: Format) -> Result<Verdict, Failure> {
    let facts = kvm::open()
        .and_then(|kvm| facts::gather(&kvm))
        .map_err(Failure::failed)?;
    let controls = Controls::of(request, &facts).map_err(Failure::failed)?;
    print_result(&match format {
        Format::Text => controls.text(),
        Format::Json => serde_json::to_string_pretty(&controls).map_err(Failure::failed)? + "\n",
    })?;
    Ok(Verdict::Done)
}
