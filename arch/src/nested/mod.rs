//! What of VMX or SVM a guest is shown.
//!
//! A person asks by a [`Request`]; [`resolve`] holds it against the
//! [`HostFacts`] and answers with an [`Exposure`], or with the link that is
//! [`Missing`]. The CPUID passes and the MSRs then carry the exposure out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

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

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Vmx => "VMX",
            Self::Svm => "SVM",
        })
    }
}
