//! Whether a template fits a host.

use std::fmt::Write as _;

use nestling_arch::cpuid::Error;
use nestling_arch::template::{Lack, Profile, Template};
use serde::Serialize;

use super::Dump;

/// The version of the JSON form; docs/json.md describes it.
const VERSION: u32 = 1;

/// How a template came out on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    version: u32,
    /// The template's name.
    pub template: String,
    /// The host's processor and kernel.
    pub host: String,
    /// Whether a machine can have the template there.
    pub fits: bool,
    /// Why not, where it can't.
    pub reason: Option<String>,
    /// What the host lacks, one by one.
    pub lacks: Vec<String>,
    /// What the host has and a guest doesn't see under the template.
    pub hides: Vec<String>,
}

fn words(lacks: &[Lack]) -> Vec<String> {
    lacks.iter().map(Lack::to_string).collect()
}

impl Check {
    /// Holds `template` against a host.
    ///
    /// # Errors
    /// When the dump lacks a leaf that every x86 machine has.
    pub fn of(template: &Template, host: &Dump) -> Result<Self, Error> {
        let mut check = Self {
            version: VERSION,
            template: template.name.clone(),
            host: format!("{}, Linux {}", host.processor, host.kernel),
            fits: true,
            reason: None,
            lacks: Vec::new(),
            hides: Vec::new(),
        };
        match template.facts(&host.facts()) {
            Ok(facts) => {
                let vmx = facts.vmx.writes();
                let msrs = vmx.into_iter().chain(facts.msrs.iter()).collect();
                let seen = Profile::of(&facts.supported, &msrs)?;
                check.hides = words(&host.profile()?.beyond(&seen));
            }
            Err(refusal) => {
                check.fits = false;
                check.lacks = words(refusal.lacks());
                check.reason = Some(refusal.to_string());
            }
        }
        Ok(check)
    }

    /// The check for people.
    pub fn text(&self) -> String {
        let Self { template, host, .. } = self;
        let mut text = match &self.reason {
            None => format!("{template} fits {host}\n"),
            Some(reason) => format!("{template} doesn't fit {host}: {reason}\n"),
        };
        if !self.hides.is_empty() {
            text.push_str("its guests don't see\n");
        }
        for hidden in &self.hides {
            writeln!(text, "  {hidden}").expect("a string takes all");
        }
        text
    }
}
