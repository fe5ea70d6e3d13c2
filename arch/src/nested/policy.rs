//! From what is asked and what the host is, to what the guest is shown.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Exposure, Extension, Request, SvmFeatures, VmxCapabilities};
use crate::cpuid::{Cpuid, Vendor};

/// What the monitor has found out about its host. The extension that the
/// fields speak of is VMX on Intel's processors and SVM on AMD's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Whether the processor has the extension, by its own CPUID.
    pub processor: bool,
    /// Whether the extension's kernel module, kvm_intel or kvm_amd, is there.
    pub module: bool,
    /// The module's parameter `nested`, if it can be read.
    pub nested_parameter: Option<bool>,
    /// Size in bytes of the nested state that KVM can save, 0 for none
    /// (KVM_CAP_NESTED_STATE).
    pub nested_state: u32,
    /// The VMX capability MSRs, from KVM_GET_MSRS on /dev/kvm; empty on AMD.
    #[serde(default)]
    pub vmx: VmxCapabilities,
    /// KVM_GET_SUPPORTED_CPUID.
    pub supported: Cpuid,
}

impl HostFacts {
    /// Whose processor it is.
    pub fn vendor(&self) -> Vendor {
        Vendor::of(&self.supported)
    }

    /// An exposure on this host in words for a table: "VMX, EPT", "SVM, NPT",
    /// "off". Without EPT or NPT a guest's hypervisor works, but keeps shadow
    /// page tables, which is slow; the words say so.
    pub fn describe(&self, exposure: Exposure) -> &'static str {
        match exposure {
            Exposure::Off => "off",
            Exposure::Vmx => match self.vmx.ept() {
                Some(true) => "VMX, EPT",
                Some(false) => "VMX, no EPT",
                None => "VMX",
            },
            Exposure::Svm if SvmFeatures::of(&self.supported).contains(SvmFeatures::NP) => {
                "SVM, NPT"
            }
            Exposure::Svm => "SVM, no NPT",
        }
    }
}

/// What to show a guest on this host.
///
/// # Errors
/// When the request is `on` and the host cannot: the first missing link.
pub fn resolve(request: Request, facts: &HostFacts) -> Result<Exposure, Missing> {
    match request {
        Request::Off => Ok(Exposure::Off),
        Request::On => available(facts),
        Request::Auto => Ok(available(facts).unwrap_or(Exposure::Off)),
    }
}

/// What this host can show a guest.
///
/// # Errors
/// When that is nothing: the first missing link, from the processor up.
pub fn available(facts: &HostFacts) -> Result<Exposure, Missing> {
    let extension = Extension::of(facts.vendor()).ok_or(Missing::Vendor)?;
    // KVM has the last word: where it supports nesting, nothing is missing,
    // however its module is called and whatever can be read of it.
    if facts.supported.has(extension.feature()) {
        return match facts.nested_state {
            0 => Err(Missing::NestedState(extension)),
            _ => Ok(extension.into()),
        };
    }
    Err(if !facts.processor {
        Missing::Processor(extension)
    } else if !facts.module {
        Missing::Module(extension)
    } else if facts.nested_parameter == Some(false) {
        Missing::Parameter(extension)
    } else {
        Missing::Kvm(extension)
    })
}

/// The link that is missing between the host and a nested guest, with the
/// extension that it concerns.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("nested virtualization is not available: {}; {}", self.what(), self.remedy())]
pub enum Missing {
    /// The processor is neither Intel's nor AMD's.
    Vendor,
    /// The processor lacks the extension.
    Processor(Extension),
    /// The kernel module is not loaded.
    Module(Extension),
    /// The module was loaded with `nested=0`.
    Parameter(Extension),
    /// KVM does not list the extension.
    Kvm(Extension),
    /// KVM cannot save nested state.
    NestedState(Extension),
}

impl Missing {
    /// What is missing, and where.
    pub fn what(self) -> String {
        match self {
            Self::Vendor => "the processor is neither Intel's nor AMD's".to_owned(),
            Self::Processor(extension) => format!("the processor shows no {extension}"),
            Self::Module(extension) => {
                format!("the kernel module {} is not loaded", extension.module())
            }
            Self::Parameter(extension) => format!(
                "/sys/module/{}/parameters/nested says that nesting is off",
                extension.module()
            ),
            Self::Kvm(extension) => {
                format!("KVM does not support {extension} for guests (KVM_GET_SUPPORTED_CPUID)")
            }
            Self::NestedState(extension) => {
                format!("KVM cannot save the state of {extension} guests (KVM_CAP_NESTED_STATE)")
            }
        }
    }

    /// What to do about it.
    pub fn remedy(self) -> String {
        match self {
            Self::Vendor => "use a host with VMX or SVM".to_owned(),
            Self::Processor(extension) => format!(
                "turn {extension} on in the firmware or, if this is a virtual machine, have its \
                 host expose it"
            ),
            Self::Module(extension) => format!(
                "run `modprobe {}`; if that fails, turn {extension} on in the firmware",
                extension.module()
            ),
            Self::Parameter(extension) => {
                let module = extension.module();
                format!(
                    "run `modprobe -r {module} && modprobe {module} nested=1`, and put `options \
                     {module} nested=1` into /etc/modprobe.d/kvm.conf to keep it"
                )
            }
            Self::Kvm(_) => {
                "use a host whose KVM runs on the processor's own extension and can nest".to_owned()
            }
            Self::NestedState(_) => "use a host with Linux 4.19 or later".to_owned(),
        }
    }
}
