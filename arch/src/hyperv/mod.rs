//! Hyper-V's interface to its guests, as far as KVM has it: enlightenments, by
//! which a guest that knows Hyper-V saves exits (Hyper-V TLFS, "Feature and
//! Interface Discovery").
//!
//! A person asks by a [`Request`]; [`resolve`] holds it against what KVM gives
//! and answers with the [`Enlightenments`] of a machine, whose leaves then stand
//! where KVM's own would.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::cpuid::{Cpuid, Register, Registers};

mod request;
mod table;

pub use request::{Request, RequestError};
pub use table::{ENLIGHTENMENTS, Enlightenment};

/// The first of the leaves that a hypervisor has for itself.
const SIGNATURE_LEAF: u32 = 0x4000_0000;
const INTERFACE_LEAF: u32 = 0x4000_0001;
const VERSION_LEAF: u32 = 0x4000_0002;
const FEATURES_LEAF: u32 = 0x4000_0003;
const RECOMMENDATIONS_LEAF: u32 = 0x4000_0004;
const LIMITS_LEAF: u32 = 0x4000_0005;
const NESTED_LEAF: u32 = 0x4000_000A;

/// What a guest without enlightenments for it never does: tell how often it has
/// tried in vain to get a lock.
const NEVER_NOTIFY: u32 = u32::MAX;

/// The enlightenments of a machine, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enlightenments(BTreeSet<&'static str>);

impl Enlightenments {
    /// Whether there are none, and the guest sees KVM's own interface.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the one of this name is among them.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().copied()
    }

    /// Puts Hyper-V's leaves in the place of KVM's. Linux takes the interface
    /// that has the higher leaf, so KVM's can't stay behind Hyper-V's.
    pub fn show(&self, cpuid: &mut Cpuid) {
        for leaf in cpuid.leaves(SIGNATURE_LEAF..=0x4FFF_FFFF) {
            cpuid.remove_leaf(leaf);
        }
        for (leaf, registers) in self.leaves() {
            cpuid.insert(leaf, None, registers);
        }
        cpuid.remove_zeros();
    }

    fn leaves(&self) -> Vec<(u32, Registers)> {
        let registers = |[eax, ebx, ecx, edx]: [u32; 4]| Registers { eax, ebx, ecx, edx };
        let mut features = Registers {
            // Hypercalls: no guest takes the interface for Hyper-V's without.
            eax: 1 << 5,
            ..Registers::ZERO
        };
        let mut recommendations = Registers {
            ebx: NEVER_NOTIFY,
            ..Registers::ZERO
        };
        let mut nested = Registers::ZERO;
        for enlightenment in ENLIGHTENMENTS.iter().filter(|e| self.has(e.name)) {
            for (leaf, register, bits) in enlightenment.bits {
                match *leaf {
                    FEATURES_LEAF => *features.get_mut(*register) |= bits,
                    NESTED_LEAF => *nested.get_mut(*register) |= bits,
                    // The number of tries is no set of bits.
                    _ if *register == Register::Ebx => recommendations.ebx = *bits,
                    _ => *recommendations.get_mut(*register) |= bits,
                }
            }
        }
        let highest = if nested == Registers::ZERO {
            LIMITS_LEAF
        } else {
            NESTED_LEAF
        };
        vec![
            (SIGNATURE_LEAF, signature(highest)),
            // "Hv#1": conforms to the TLFS.
            (INTERFACE_LEAF, registers([0x3123_7648, 0, 0, 0])),
            // As KVM has it: build 14393 of version 10.0.
            (VERSION_LEAF, registers([0x3839, 0x000A_0000, 0, 0])),
            (FEATURES_LEAF, features),
            (RECOMMENDATIONS_LEAF, recommendations),
            // Virtual processors, and logical ones.
            (LIMITS_LEAF, registers([64, 64, 0, 0])),
            (NESTED_LEAF, nested),
        ]
    }
}

/// The leaf by which Hyper-V says who it is.
fn signature(highest: u32) -> Registers {
    let part = |bytes: [u8; 4]| u32::from_le_bytes(bytes);
    Registers {
        eax: highest,
        ebx: part(*b"Micr"),
        ecx: part(*b"osof"),
        edx: part(*b"t Hv"),
    }
}

/// Why a request can't be met.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unsupported {
    /// KVM lacks it.
    #[error(
        "this host's KVM doesn't support {0} (KVM_GET_SUPPORTED_HV_CPUID): leave it out, or use a \
         newer kernel"
    )]
    Kvm(&'static str),
    /// It is about nesting by VMX, which the guest isn't shown.
    #[error("{0} is for guests that are shown VMX, and this one isn't: leave it out")]
    NeedsVmx(&'static str),
    /// KVM has none of it at all.
    #[error("this host's KVM has no Hyper-V interface (KVM_CAP_HYPERV_CPUID): use --hyperv off")]
    None,
}

/// What a request comes to on a host whose KVM has `supported` in
/// KVM_GET_SUPPORTED_HV_CPUID, for a guest that is shown VMX or not.
///
/// # Errors
/// When what is asked for by name can't be had.
pub fn resolve(
    request: &Request,
    supported: &Cpuid,
    vmx: bool,
) -> Result<Enlightenments, Unsupported> {
    let lacking = |enlightenment: &Enlightenment| {
        if enlightenment.nested && !vmx {
            Some(Unsupported::NeedsVmx(enlightenment.name))
        } else if !enlightenment.is_in(supported) {
            Some(Unsupported::Kvm(enlightenment.name))
        } else {
            None
        }
    };
    let mut found = Enlightenments::default();
    match request {
        Request::Off => return Ok(found),
        Request::On { .. } if supported.get(FEATURES_LEAF, 0) == Registers::ZERO => {
            return Err(Unsupported::None);
        }
        Request::On { without } => {
            // Each stands behind those that it needs.
            for enlightenment in &ENLIGHTENMENTS {
                let wanted = !without.contains(enlightenment.name)
                    && enlightenment.needs.iter().all(|need| found.has(need));
                if wanted && lacking(enlightenment).is_none() {
                    found.0.insert(enlightenment.name);
                }
            }
        }
        Request::These(names) => {
            for enlightenment in ENLIGHTENMENTS.iter().filter(|e| names.contains(e.name)) {
                if let Some(unsupported) = lacking(enlightenment) {
                    return Err(unsupported);
                }
                found.0.insert(enlightenment.name);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
