//! What of VMX or SVM a guest is shown.
//!
//! A person asks by a [`Request`]; [`resolve`] holds it against the
//! [`HostFacts`] and answers with an [`Exposure`], or with the [`Obstacle`].
//! The CPUID passes and the MSRs then carry the exposure out.

use std::fmt;

use crate::cpuid::{Feature, Vendor, feature};

mod control;
mod exposure;
mod policy;
mod request;
mod svm;
#[cfg(test)]
mod tests;
mod vmx;

pub use control::{Control, Group, Place, control};
pub use exposure::{Exposure, Reason};
pub use policy::{HostFacts, Missing, Obstacle, Shown, available, resolve, table};
pub use request::{Request, RequestError, When};
pub use svm::{MIN_ASIDS, SVM_LEAF, SvmCapabilities, SvmFeatures};
pub use vmx::{CAPABILITY_MSRS, VmxCapabilities};

/// A vendor's virtualization extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Intel's VT-x.
    Vmx,
    /// AMD-V.
    Svm,
}

impl Extension {
    /// The extension of a vendor's processors.
    pub const fn of(vendor: Vendor) -> Option<Self> {
        match vendor {
            Vendor::Intel => Some(Self::Vmx),
            Vendor::Amd => Some(Self::Svm),
            Vendor::Other => None,
        }
    }

    /// The bit that shows it.
    pub const fn feature(self) -> Feature {
        match self {
            Self::Vmx => feature::VMX,
            Self::Svm => feature::SVM,
        }
    }

    /// The kernel module that drives it.
    pub const fn module(self) -> &'static str {
        match self {
            Self::Vmx => "kvm_intel",
            Self::Svm => "kvm_amd",
        }
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmx => "VMX",
            Self::Svm => "SVM",
        })
    }
}
