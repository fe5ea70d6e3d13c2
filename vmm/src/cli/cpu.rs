//! `nestling cpu`: what this host's processor is to guests, and templates of it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nestling_arch::template::{BASELINES, Template};
use serde::Serialize;
use serde_json::json;

use super::{Failure, Format, Verdict, print_result};
use crate::config::TemplateSource;
use crate::fleet::{Check, Dump, Fleet};
use crate::kvm;

const EXAMPLES: &str = "\
Examples:
  On each host of a fleet, what its guests could see:
    nestling cpu dump -o $(hostname).json

  One template for all of them, and a machine that is the same on each:
    nestling cpu intersect *.json -o fleet.json
    nestling run --cpu-template fleet.json --kernel vmlinuz

  Whether a template fits here, and what it would hide:
    nestling cpu check x86-64-v3

  A named template as a file, to start one's own from:
    nestling cpu templates x86-64-v3-intel > lab.json";

/// The subcommands of `nestling cpu`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Cpu {
    /// Write down what this host's KVM gives to guests
    Dump(DumpFlags),
    /// Make the template of what several hosts have in common
    Intersect(Intersect),
    /// Say whether a template fits this host, or one with a dump
    Check(CheckFlags),
    /// List the named templates, or write one out
    Templates(Templates),
}

/// The flags of `nestling cpu dump`.
#[derive(Debug, Args)]
pub(super) struct DumpFlags {
    /// Write the dump into this file, as JSON
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The flags of `nestling cpu intersect`.
#[derive(Debug, Args)]
pub(super) struct Intersect {
    /// The hosts' dumps
    #[arg(required = true, value_name = "DUMP")]
    dumps: Vec<PathBuf>,

    /// Write the template into this file, which also names it
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// The flags of `nestling cpu check`.
#[derive(Debug, Args)]
#[command(after_help = "Exits with 0 if the template fits, else with 1.")]
pub(super) struct CheckFlags {
    /// The template: a name or a file
    #[arg(value_name = "TEMPLATE")]
    template: TemplateSource,

    /// The dump of a host, instead of this one
    #[arg(value_name = "DUMP")]
    dump: Option<PathBuf>,
}

/// The flags of `nestling cpu templates`.
#[derive(Debug, Args)]
pub(super) struct Templates {
    /// Write this one out, as JSON
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Cpu {
    /// Does what the subcommand says.
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        match self {
            Self::Dump(dump) => dump.execute(format),
            Self::Intersect(intersect) => intersect.execute(format),
            Self::Check(check) => check.execute(format),
            Self::Templates(templates) => templates.execute(format),
        }
    }
}

impl DumpFlags {
    fn execute(self, format: Format) -> Result<Verdict, Failure> {
        let dump = of_host()?;
        if let Some(path) = &self.output {
            write(path, &dump)?;
        }
        match (format, &self.output) {
            (Format::Json, None) => print_json(&dump)?,
            (Format::Text, None) => print_result(&dump.text())?,
            (_, Some(_)) => {}
        }
        Ok(Verdict::Done)
    }
}

impl Intersect {
    fn execute(self, format: Format) -> Result<Verdict, Failure> {
        let stem = self.output.file_stem().unwrap_or_default();
        let fleet = Fleet::of(&self.dumps, &stem.to_string_lossy()).map_err(Failure::failed)?;
        write(&self.output, &fleet.template)?;
        match format {
            Format::Text => print_result(&fleet.text())?,
            Format::Json => print_json(&fleet)?,
        }
        Ok(Verdict::Done)
    }
}

impl CheckFlags {
    fn execute(self, format: Format) -> Result<Verdict, Failure> {
        let template = self.template.read().map_err(Failure::usage)?;
        let dump = match &self.dump {
            Some(path) => Dump::read(path).map_err(Failure::failed)?,
            None => of_host()?,
        };
        let check = Check::of(&template, &dump).map_err(Failure::failed)?;
        match format {
            Format::Text => print_result(&check.text())?,
            Format::Json => print_json(&check)?,
        }
        Ok(if check.fits {
            Verdict::Done
        } else {
            Verdict::Failed
        })
    }
}

impl Templates {
    fn execute(self, format: Format) -> Result<Verdict, Failure> {
        if let Some(name) = &self.name {
            let template = Template::named(name).map_err(Failure::usage)?;
            let text = serde_json::to_string_pretty(&template).map_err(Failure::failed)?;
            print_result(&format!("{text}\n"))?;
            return Ok(Verdict::Done);
        }
        match format {
            Format::Text => {
                let line = |(name, description)| format!("{name:<16}  {description}\n");
                let lines = BASELINES.map(|baseline| line((baseline.name, baseline.description)));
                print_result(&lines.concat())?;
            }
            Format::Json => {
                let one = |name, description| json!({ "name": name, "description": description });
                let all = BASELINES.map(|baseline| one(baseline.name, baseline.description));
                print_json(&json!({ "version": 1, "templates": all }))?;
            }
        }
        Ok(Verdict::Done)
    }
}

fn of_host() -> Result<Dump, Failure> {
    let kvm = kvm::open().map_err(Failure::failed)?;
    Dump::of_host(&kvm).map_err(Failure::failed)
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(Failure::failed)?;
    print_result(&format!("{text}\n"))
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    fs::write(path, text + "\n")
        .map_err(|error| Failure::failed(format!("can't write {}: {error}", path.display())))
}
