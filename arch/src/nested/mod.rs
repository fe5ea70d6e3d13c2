//! What of VMX or SVM a guest is shown.
//!
//! A person asks by a [`Request`]; [`resolve`] holds it against the
//! [`HostFacts`] and answers with an [`Exposure`], or with the link that is
//! [`Missing`]. The CPUID passes and the MSRs then carry the exposure out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::cpuid::{Feature, Vendor, feature};

mod policy;
mod svm;
#[cfg(test)]
mod tests;
mod vmx;

pub use policy::{HostFacts, Missing, available, resolve};
pub use svm::{SVM_LEAF, SvmFeatures};
pub use vmx::{CAPABILITY_MSRS, VmxCapabilities};

/// What a person asks for with `--nested`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// What the host can do.
    #[default]
    Auto,
    /// The extension, or an error that says why not.
    On,
    /// No trace of it.
    Off,
}

/// A word that is no request.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is no way to expose nested virtualization: use auto, on or off")]
pub struct UnknownRequest(String);

impl FromStr for Request {
    type Err = UnknownRequest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(UnknownRequest(text.to_owned())),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

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

/// What of VMX or SVM a guest is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exposure {
    /// Neither.
    Off,
    /// VMX, with all that KVM gives of it.
    Vmx,
    /// SVM, with all that KVM gives of it.
    Svm,
}

impl Exposure {
    /// The extension that is shown.
    pub const fn extension(self) -> Option<Extension> {
        match self {
            Self::Off => None,
            Self::Vmx => Some(Extension::Vmx),
            Self::Svm => Some(Extension::Svm),
        }
    }
}

impl From<Extension> for Exposure {
    fn from(extension: Extension) -> Self {
        match extension {
            Extension::Vmx => Self::Vmx,
            Extension::Svm => Self::Svm,
        }
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.extension() {
            Some(extension) => extension.fmt(f),
            None => f.write_str("off"),
        }
    }
}
