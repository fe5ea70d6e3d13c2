//! What hosts can show their guests, and what several have in common.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use thiserror::Error;

use super::catalogue::{self, Kind};
use super::{Lack, Rule, Template, Unnamed, lack, msrs, states};
use crate::cpuid::{self, Cpuid, Key, Register, Registers, Vendor, on_any_vcpu};
use crate::msr::MsrSet;

/// What a host can show its guests, as far as a template can decide about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    cpuid: Cpuid,
    msrs: MsrSet,
}

/// Hosts that have nothing in common that a guest could run on.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{a} and {b} processors can't be one fleet: their guests use different instructions for \
     system calls and for virtualization; make one template for each"
)]
pub struct MixedVendors {
    /// One vendor.
    pub a: Vendor,
    /// The other.
    pub b: Vendor,
}

impl Profile {
    /// The profile of a host whose KVM has this in KVM_GET_SUPPORTED_CPUID and
    /// these feature MSRs.
    ///
    /// # Errors
    /// When the host lacks a leaf that every x86 machine has.
    pub fn of(supported: &Cpuid, msrs: &MsrSet) -> Result<Self, cpuid::Error> {
        let mut cpuid = on_any_vcpu(supported)?;
        let unknown: Vec<Key> = cpuid
            .iter()
            .map(|(key, _)| key)
            .filter(|key| catalogue::kinds(*key).is_none())
            .collect();
        for (leaf, subleaf) in unknown {
            if let Some(registers) = cpuid.get_mut(leaf, subleaf) {
                *registers = Registers::ZERO;
            }
        }
        let known = |(msr, _): &(u32, u64)| msrs::kind(*msr).is_some();
        let mut profile = Self {
            cpuid,
            msrs: msrs.iter().filter(known).collect(),
        };
        profile.settle();
        Ok(profile)
    }

    fn settle(&mut self) {
        states::settle(&mut self.cpuid);
        self.cpuid.remove_zeros();
    }

    /// Whose processor it is.
    pub fn vendor(&self) -> Vendor {
        Vendor::of(&self.cpuid)
    }

    /// What this host and another have in common: any guest of such a profile
    /// finds all it sees on both.
    ///
    /// # Errors
    /// When the hosts' vendors differ.
    pub fn common(&self, other: &Self) -> Result<Self, MixedVendors> {
        if self.vendor_name() != other.vendor_name() {
            return Err(MixedVendors {
                a: self.vendor(),
                b: other.vendor(),
            });
        }
        let oldest = if self.age(other) == Ordering::Greater {
            other
        } else {
            self
        };
        let mut cpuid = Cpuid::default();
        for key in self.keys_with(other) {
            let [a, b, old] = [self, other, oldest].map(|profile| profile.answer(key));
            cpuid.insert(key.0, key.1, common_answer(key, a, b, old));
        }
        let msrs = self
            .msrs
            .iter()
            .filter_map(|(msr, a)| Some((msr, msrs::kind(msr)?.common(a, other.msrs.get(msr)?))))
            .collect();
        let mut common = Self { cpuid, msrs };
        common.settle();
        Ok(common)
    }

    /// What this host can show and `less` lacks.
    pub fn beyond(&self, less: &Self) -> Vec<Lack> {
        let mut lacks = Vec::new();
        for key in self.keys_with(less) {
            let (own, seen) = (self.answer(key), less.answer(key));
            for (register, kind) in kinds(key) {
                let (own, seen) = (own.get(register), seen.get(register));
                lacks.extend(lack::of_register(key, register, kind, own, seen));
            }
        }
        for (msr, own) in self.msrs.iter() {
            match (less.msrs.get(msr), msrs::kind(msr)) {
                (Some(seen), Some(kind)) => lacks.extend(lack::of_msr(msr, kind, own, seen)),
                _ => lacks.push(Lack::Msr(msr)),
            }
        }
        lacks
    }

    /// The template under which a guest sees this profile, on any host that has
    /// all of it.
    pub fn template(&self, name: impl Into<String>) -> Template {
        let mut template = Template::new(name, Unnamed::Hide);
        template.vendor = Some(self.vendor());
        for (key, registers) in self.cpuid.iter() {
            let named = |kind| !matches!(kind, Kind::Name | Kind::Derived);
            for (register, _) in kinds(key).filter(|(_, kind)| named(*kind)) {
                let rule = Rule::<u32>::exactly(registers.get(register));
                template.set_rule(key, register, rule);
            }
        }
        for (msr, value) in self.msrs.iter() {
            template.msrs.insert(msr, Rule::<u64>::exactly(value));
        }
        template
    }

    fn answer(&self, (leaf, subleaf): Key) -> Registers {
        self.cpuid.get(leaf, subleaf.unwrap_or(0))
    }

    fn keys_with(&self, other: &Self) -> BTreeSet<Key> {
        let both = self.cpuid.iter().chain(other.cpuid.iter());
        both.map(|(key, _)| key).collect()
    }

    fn vendor_name(&self) -> [u32; 3] {
        let Registers { ebx, ecx, edx, .. } = self.cpuid.get(0, 0);
        [ebx, ecx, edx]
    }

    /// Which of two is of the older processor, by family, model and stepping.
    /// Where these say nothing, all that is said of the processors' make
    /// decides, so that the order is the same whoever is asked first.
    fn age(&self, other: &Self) -> Ordering {
        let generation = |profile: &Self| generation(profile.cpuid.get(1, 0).eax);
        let make = |profile: &Self| -> Vec<(Key, Register, u32)> {
            let all = profile.cpuid.iter();
            all.flat_map(|(key, registers)| {
                kinds(key)
                    .filter(|(_, kind)| *kind == Kind::Identity)
                    .map(move |(register, _)| (key, register, registers.get(register)))
                    .filter(|(_, _, value)| *value != 0)
            })
            .collect()
        };
        generation(self)
            .cmp(&generation(other))
            .then_with(|| make(self).cmp(&make(other)))
    }
}

/// Family, model and stepping, of leaf 1's EAX (SDM vol. 2A, CPUID).
fn generation(signature: u32) -> [u32; 3] {
    let field = |low: u32, bits: u32| signature >> low & ((1 << bits) - 1);
    let (family, model) = (field(8, 4), field(4, 4));
    let extended = field(16, 4) << 4 | model;
    [
        if family == 0xF {
            family + field(20, 8)
        } else {
            family
        },
        if matches!(family, 0x6 | 0xF) {
            extended
        } else {
            model
        },
        field(0, 4),
    ]
}

fn kinds(key: Key) -> impl Iterator<Item = (Register, Kind)> {
    let kinds = catalogue::kinds(key).into_iter().flatten();
    Register::ALL.into_iter().zip(kinds)
}

/// What two answers have in common, where `old` is the older host's.
fn common_answer(key: Key, a: Registers, b: Registers, old: Registers) -> Registers {
    let mut common = Registers::ZERO;
    for (register, kind) in kinds(key) {
        let (in_a, in_b) = (a.get(register), b.get(register));
        *common.get_mut(register) = match kind {
            Kind::Features => {
                let limits = catalogue::limits(key, register);
                in_a & in_b & !limits | (in_a | in_b) & limits
            }
            Kind::Level => in_a.min(in_b),
            Kind::Counts => least_bytes(in_a, in_b),
            Kind::Identity => old.get(register),
            Kind::State if a != b => 0,
            // What is derived is brought into line later.
            Kind::Whole | Kind::Name | Kind::Derived if in_a != in_b => 0,
            Kind::State | Kind::Whole | Kind::Name | Kind::Derived => in_a,
        };
    }
    common
}

fn least_bytes(a: u32, b: u32) -> u32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u32::from_le_bytes([0, 1, 2, 3].map(|byte: usize| a[byte].min(b[byte])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_read_as_the_manual_says() {
        for (signature, expected) in [
            (0x0005_0654, [6, 0x55, 4]),
            (0x0003_06C3, [6, 0x3C, 3]),
            (0x00A0_0F11, [0x19, 0x01, 1]),
            (0x0006_0FB1, [0xF, 0x6B, 1]),
            (0x0000_0543, [5, 4, 3]),
        ] {
            assert_eq!(generation(signature), expected, "{signature:#x}");
        }
    }
}
