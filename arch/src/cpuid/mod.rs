//! What CPUID tells a guest.
//!
//! [`guest_cpuid`] takes what KVM supports on this host and runs ordered
//! passes over it. Each pass is a pure function in its own file and only takes
//! away, fills in what depends on the vCPU, or sets one of the few bits that
//! KVM leaves to the monitor. Verification then holds the
//! result against the host and the request, so that a mistake in a pass stops
//! the machine rather than reach a guest.

use thiserror::Error;

use crate::nested::{Exposure, SVM_LEAF, SvmCapabilities};

mod counters;
pub mod feature;
pub mod names;
mod nesting;
mod normalise;
mod paravirtual;
mod platform;
mod set;
mod text;
mod topology;
mod vendor;
mod verify;

#[cfg(test)]
pub(crate) mod dumps;
#[cfg(test)]
mod tests;

pub use feature::{Feature, Register};
pub use set::{Cpuid, Key, MAX_ENTRIES, Registers};
pub(crate) use text::{format_key, parse_key, parse_registers};
pub use topology::MAX_VCPUS;
pub use vendor::Vendor;
pub(crate) use verify::filled_in;

/// What the passes need to know of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidContext {
    /// Index of this vCPU, which is its APIC id.
    pub vcpu: u32,
    /// How many vCPUs the machine has, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// What of VMX or SVM the guest is shown.
    pub exposure: Exposure,
    /// Whether KVM has KVM_CAP_TSC_DEADLINE_TIMER.
    pub tsc_deadline: bool,
}

type Pass = fn(&mut Cpuid, &CpuidContext) -> Result<(), Error>;

/// The passes, in order. Nesting comes last: no pass after it can lose the
/// bits it leaves, or bring back those it takes away.
const PASSES: [Pass; 6] = [
    normalise::apply,
    platform::apply,
    counters::apply,
    paravirtual::apply,
    topology::apply,
    nesting::apply,
];

/// The CPUID of one vCPU, from `supported`, which is what
/// KVM_GET_SUPPORTED_CPUID says.
///
/// # Errors
/// When the vCPU's number is out of range, the host lacks a leaf that every
/// x86 machine has or the extension that is to be exposed, or the result fails
/// verification.
pub fn guest_cpuid(supported: &Cpuid, context: &CpuidContext) -> Result<Cpuid, Error> {
    let mut cpuid = supported.clone();
    for pass in PASSES {
        pass(&mut cpuid, context)?;
    }
    cpuid.remove_zeros();
    verify::verify(&cpuid, supported, context)?;
    Ok(cpuid)
}

/// What any guest's vCPU sees of what KVM supports, as the first of one, but for
/// the extension for nesting, about which nothing is decided.
pub(crate) fn on_any_vcpu(supported: &Cpuid) -> Result<Cpuid, Error> {
    let context = CpuidContext {
        vcpu: 0,
        vcpus: 1,
        exposure: Exposure::Off,
        tsc_deadline: true,
    };
    let mut cpuid = supported.clone();
    for pass in &PASSES[..PASSES.len() - 1] {
        pass(&mut cpuid, &context)?;
    }
    Ok(cpuid)
}

/// Why there is no CPUID for a guest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// A list for KVM_SET_CPUID2 would be too long.
    #[error("{count} CPUID entries are more than the {MAX_ENTRIES} that KVM takes")]
    TooManyEntries {
        /// Length of the list.
        count: usize,
    },
    /// Two answers to one question.
    #[error("CPUID leaf {leaf:#x}, subleaf {subleaf:?}, is answered twice")]
    Duplicate {
        /// The leaf.
        leaf: u32,
        /// The subleaf, if it has one.
        subleaf: Option<u32>,
    },
    /// KVM's list lacks a leaf that every x86-64 processor has.
    #[error("KVM_GET_SUPPORTED_CPUID lacks leaf {leaf:#x}, which every x86-64 processor has")]
    MissingLeaf {
        /// The leaf.
        leaf: u32,
    },
    /// A vCPU that the machine does not have.
    #[error("vCPU {vcpu} of {vcpus} does not exist: a machine has 1 to {MAX_VCPUS} vCPUs")]
    VcpuOutOfRange {
        /// The vCPU's index.
        vcpu: u32,
        /// The number of vCPUs.
        vcpus: u32,
    },
    /// The extension to be exposed is not in KVM's list.
    #[error("{feature} is to be exposed, but KVM does not support it on this host")]
    NotSupported {
        /// The extension's bit.
        feature: Feature,
    },
    /// Verification: a bit is not as the machine wants it.
    #[error("verification of the guest's CPUID: {feature} must be {expected}", expected = u8::from(*expected))]
    WrongFeature {
        /// The bit.
        feature: Feature,
        /// What it must be.
        expected: bool,
    },
    /// Verification: a leaf tells a guest of an extension it is not shown.
    #[error("verification of the guest's CPUID: leaf {leaf:#x} must be empty")]
    NotEmpty {
        /// The leaf.
        leaf: u32,
    },
    /// Verification: SVM is there with other features than it should be.
    #[error(
        "verification of the guest's CPUID: leaf {SVM_LEAF:#x} must have EBX {:#x} and EDX \
         {:#010x}, not {:#x} and {:#010x}",
        .expected.asids, .expected.features.bits(), .found.asids, .found.features.bits()
    )]
    WrongCapabilities {
        /// What the guest is to find.
        expected: SvmCapabilities,
        /// What the leaf says.
        found: SvmCapabilities,
    },
    /// Verification: a leaf names another vCPU.
    #[error(
        "verification of the guest's CPUID: leaf {leaf:#x} has APIC id {found}, not {expected}"
    )]
    WrongApicId {
        /// The leaf.
        leaf: u32,
        /// The vCPU's id.
        expected: u32,
        /// What the leaf says.
        found: u32,
    },
    /// Verification: KVM keeps something else than it was told.
    #[error(
        "verification of the guest's CPUID: leaf {leaf:#x}, subleaf {subleaf:?}, {register} was \
         set to {expected:#010x}, and KVM keeps {found:#010x}"
    )]
    NotKept {
        /// The leaf.
        leaf: u32,
        /// The subleaf, if it has one.
        subleaf: Option<u32>,
        /// The register.
        register: Register,
        /// What KVM was told.
        expected: u32,
        /// What it keeps.
        found: u32,
    },
    /// Verification: the guest would see what the host lacks.
    #[error(
        "verification of the guest's CPUID: leaf {leaf:#x}, subleaf {subleaf:?}, {register} has \
         bits {bits:#010x} that KVM does not support"
    )]
    NotOnHost {
        /// The leaf.
        leaf: u32,
        /// The subleaf, if it has one.
        subleaf: Option<u32>,
        /// The register.
        register: Register,
        /// The offending bits.
        bits: u32,
    },
}
