//! Templates: what a guest sees of a processor, whatever host it runs on.
//!
//! A [`Template`] has a [`Rule`] for each register of CPUID and each feature
//! MSR that it decides about. [`Template::facts`] makes of a host's facts those
//! of a host as the template has it, or says what this one lacks; all that
//! follows, the exposure and CPUID's passes, goes by these. [`Profile`]s are
//! what hosts can show, and can be compared to find what a fleet has in common.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpuid::{Key, Register, Registers, Vendor};

mod apply;
mod baseline;
mod catalogue;
mod lack;
mod msrs;
mod profile;
mod rule;
mod states;
#[cfg(test)]
mod tests;
mod text;

pub use apply::Refusal;
pub use baseline::{BASELINES, Baseline};
pub use lack::Lack;
pub use msrs::{known as feature_msrs, name as msr_name};
pub use profile::{MixedVendors, Profile};
pub use rule::Rule;
pub use text::TextError;

/// What becomes of the registers that a template doesn't name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unnamed {
    /// They are as on the host.
    #[default]
    Keep,
    /// They are zero, and so hide what is in them.
    Hide,
}

impl Unnamed {
    const fn rule(self) -> Rule<u32> {
        match self {
            Self::Keep => Rule::<u32>::KEEP,
            Self::Hide => Rule::<u32>::HIDE,
        }
    }
}

/// What a guest sees of a processor, whatever host it runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "text::Form")]
pub struct Template {
    /// What it is called in messages.
    pub name: String,
    /// What it is for, in a line.
    pub description: String,
    /// Whose processors it is for; any if it doesn't say.
    pub vendor: Option<Vendor>,
    /// What becomes of the registers that it doesn't name.
    pub unnamed: Unnamed,
    cpuid: BTreeMap<Key, BTreeMap<Register, Rule<u32>>>,
    msrs: BTreeMap<u32, Rule<u64>>,
}

impl Template {
    /// A template that decides about nothing yet.
    pub fn new(name: impl Into<String>, unnamed: Unnamed) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            vendor: None,
            unnamed,
            cpuid: BTreeMap::new(),
            msrs: BTreeMap::new(),
        }
    }

    /// The rule for a register of an answer.
    pub fn rule(&self, key: Key, register: Register) -> Rule<u32> {
        let named = self.cpuid.get(&key).and_then(|rules| rules.get(&register));
        named.copied().unwrap_or(self.unnamed.rule())
    }

    /// Whether it decides about a register by a rule of its own.
    fn names(&self, key: Key, register: Register) -> bool {
        let rules = self.cpuid.get(&key);
        rules.is_some_and(|rules| rules.contains_key(&register))
    }

    /// The rule for an MSR, if the template decides about it.
    pub fn msr_rule(&self, msr: u32) -> Option<Rule<u64>> {
        self.msrs.get(&msr).copied()
    }

    fn set_rule(&mut self, key: Key, register: Register, rule: Rule<u32>) {
        self.cpuid.entry(key).or_default().insert(register, rule);
    }

    /// All four registers as here on any host.
    fn pin(&mut self, key: Key, registers: Registers) {
        for register in Register::ALL {
            self.set_rule(key, register, Rule::<u32>::exactly(registers.get(register)));
        }
    }

    /// The answers that it names.
    fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.cpuid.keys().copied()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
