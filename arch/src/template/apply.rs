//! From a host's facts to those of a host as a template has it.

use std::collections::BTreeSet;

use thiserror::Error;

use super::catalogue::{self, Kind};
use super::{Lack, Template, Unnamed, lack, msrs, states};
use crate::cpuid::{Cpuid, Key, Register, Registers, Vendor, feature, names};
use crate::msr::{IA32_ARCH_CAPABILITIES, MsrSet};
use crate::nested::{CAPABILITY_MSRS, HostFacts};

/// Why a template can't be had on a host.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// It is for the processors of another vendor.
    #[error(
        "the template {template} is for {wanted} processors, and this one's vendor is {found}: \
         take one for {found}"
    )]
    Vendor {
        /// The template.
        template: String,
        /// Whose processors it is for.
        wanted: Vendor,
        /// Whose processor the host has.
        found: Vendor,
    },
    /// The host lacks what a guest would see.
    #[error(
        "the template {template} asks for what this host lacks: {}",
        list(lacks)
    )]
    Lacks {
        /// The template.
        template: String,
        /// All that is lacking.
        lacks: Vec<Lack>,
    },
    /// No guest could run with what is left.
    #[error(
        "the template {template} hides what every 64-bit kernel needs: {}; let the host's bits \
         through there",
        list(lacks)
    )]
    Needed {
        /// The template.
        template: String,
        /// What is hidden.
        lacks: Vec<Lack>,
    },
    /// It shows features and hides what they need.
    #[error(
        "the template {template} contradicts itself: {} can't be without the state in CPUID leaf \
         0xd, or the companion, that it hides",
        list(lacks)
    )]
    Contradiction {
        /// The template.
        template: String,
        /// What can't be shown.
        lacks: Vec<Lack>,
    },
}

impl Refusal {
    /// What can't be had, one by one.
    pub fn lacks(&self) -> &[Lack] {
        match self {
            Self::Vendor { .. } => &[],
            Self::Lacks { lacks, .. }
            | Self::Needed { lacks, .. }
            | Self::Contradiction { lacks, .. } => lacks,
        }
    }
}

fn list(lacks: &[Lack]) -> String {
    let words: Vec<String> = lacks.iter().map(Lack::to_string).collect();
    words.join(", ")
}

/// The leaves that say who it is and how far its leaves go: a template that
/// hides what it doesn't name leaves them.
const NAMING: [u32; 3] = [0x0, 0x4000_0000, 0x8000_0000];

impl Template {
    /// The facts of a host as the template has it.
    ///
    /// # Errors
    /// When this host lacks something for it: all of that. When no host could
    /// do: what is wrong with the template.
    pub fn facts(&self, host: &HostFacts) -> Result<HostFacts, Refusal> {
        let (supported, mut lacks) = self.cpuid(&host.supported)?;
        let (msrs, more) = self.feature_msrs(host, &supported);
        lacks.extend(more);
        if !lacks.is_empty() {
            let template = self.name.clone();
            return Err(Refusal::Lacks { template, lacks });
        }
        let (vmx, others) = msrs
            .iter()
            .partition::<MsrSet, _>(|(msr, _)| CAPABILITY_MSRS.contains(msr));
        Ok(HostFacts {
            supported,
            vmx: host.vmx.clone().with(&vmx),
            msrs: others,
            ..host.clone()
        })
    }

    /// CPUID as the template has it, and what the host lacks for it.
    fn cpuid(&self, host: &Cpuid) -> Result<(Cpuid, Vec<Lack>), Refusal> {
        let vendor = Vendor::of(host);
        if let Some(wanted) = self.vendor.filter(|wanted| *wanted != vendor) {
            return Err(Refusal::Vendor {
                template: self.name.clone(),
                wanted,
                found: vendor,
            });
        }
        let mut lacks = Vec::new();
        let mut cpuid = match self.unnamed {
            Unnamed::Keep => host.clone(),
            Unnamed::Hide => Cpuid::default(),
        };
        for key in self.decided() {
            let (registers, lacking) = self.answer(key, host, vendor);
            cpuid.insert(key.0, key.1, registers);
            lacks.extend(lacking);
        }
        if lacks.is_empty() {
            self.check_needed(&cpuid, host)?;
            states::settle(&mut cpuid);
            self.check_shown(&cpuid, vendor)?;
        }
        cpuid.remove_zeros();
        Ok((cpuid, lacks))
    }

    /// The answers that it decides about.
    fn decided(&self) -> BTreeSet<Key> {
        let naming = NAMING.map(|leaf| (leaf, None));
        let naming = naming.iter().filter(|_| self.unnamed == Unnamed::Hide);
        self.keys().chain(naming.copied()).collect()
    }

    fn answer(&self, key: Key, host: &Cpuid, vendor: Vendor) -> (Registers, Vec<Lack>) {
        let host = host.get(key.0, key.1.unwrap_or(0));
        let mut lacks = Vec::new();
        let mut answer = Registers::ZERO;
        for (register, kind) in kinds(key) {
            let own = host.get(register);
            let named = self.names(key, register);
            let value = match kind {
                Kind::Name => own,
                Kind::Level if !named => own,
                _ => self.rule(key, register).apply(own),
            };
            *answer.get_mut(register) = value;
            let wanted = value & !catalogue::of_the_machine(key, register, vendor);
            lacks.extend(lack::of_register(key, register, kind, wanted, own));
        }
        (answer, lacks)
    }

    /// Fails if it hides from a guest what none can run without.
    fn check_needed(&self, cpuid: &Cpuid, host: &Cpuid) -> Result<(), Refusal> {
        let lacks: Vec<Lack> = catalogue::NEEDED
            .into_iter()
            .flat_map(|(key, register, needed)| {
                let seen = |cpuid: &Cpuid| cpuid.get(key.0, 0).get(register);
                let wanted = needed & seen(host);
                lack::of_register(key, register, Kind::Features, wanted, seen(cpuid))
            })
            .collect();
        if lacks.is_empty() {
            return Ok(());
        }
        let template = self.name.clone();
        Err(Refusal::Needed { template, lacks })
    }

    /// Fails if something that it sets had to go for what it hides.
    fn check_shown(&self, cpuid: &Cpuid, vendor: Vendor) -> Result<(), Refusal> {
        let mut lacks = Vec::new();
        for key in self.keys() {
            let seen = cpuid.get(key.0, key.1.unwrap_or(0));
            for (register, kind) in kinds(key).filter(|(_, kind)| *kind == Kind::Features) {
                let set = self.rule(key, register).set;
                let wanted = set & !catalogue::of_the_machine(key, register, vendor);
                lacks.extend(lack::of_register(
                    key,
                    register,
                    kind,
                    wanted,
                    seen.get(register),
                ));
            }
        }
        if lacks.is_empty() {
            return Ok(());
        }
        let template = self.name.clone();
        Err(Refusal::Contradiction { template, lacks })
    }

    /// The MSRs that it decides about, as it has them, and what the host lacks
    /// for them. One that a guest can't read with this CPUID is left out.
    fn feature_msrs(&self, host: &HostFacts, cpuid: &Cpuid) -> (MsrSet, Vec<Lack>) {
        let mut values = MsrSet::default();
        let mut lacks = Vec::new();
        for (&msr, rule) in self.msrs.iter().filter(|(msr, _)| is_read(**msr, cpuid)) {
            let Some(own) = host.vmx.get(msr).or(host.msrs.get(msr)) else {
                lacks.push(Lack::Msr(msr));
                continue;
            };
            let value = rule.apply(own);
            let kind = msrs::kind(msr).expect("a template names known MSRs only");
            lacks.extend(lack::of_msr(msr, kind, value, own));
            values.insert(msr, value);
        }
        (values, lacks)
    }
}

/// The registers of an answer that a template may name, and what they are.
fn kinds(key: Key) -> impl Iterator<Item = (Register, Kind)> {
    let kinds = catalogue::kinds(key).expect("a template names known leaves only");
    Register::ALL.into_iter().zip(kinds)
}

/// Whether a guest with this CPUID can read the MSR.
fn is_read(msr: u32, cpuid: &Cpuid) -> bool {
    match msr {
        IA32_ARCH_CAPABILITIES => names::find("ARCH_CAPABILITIES").is_some_and(|f| cpuid.has(f)),
        _ if CAPABILITY_MSRS.contains(&msr) => cpuid.has(feature::VMX),
        _ => true,
    }
}
