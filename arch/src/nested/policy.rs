//! From what is asked and what the host is, to what the guest is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Control, Exposure, Extension, Reason, Request, SvmCapabilities, VmxCapabilities, When,
};
use crate::cpuid::{Cpuid, Vendor};
use crate::msr::MsrSet;

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
    /// The other feature MSRs that a machine can set for a vCPU, from
    /// KVM_GET_MSRS on /dev/kvm.
    #[serde(default)]
    pub msrs: MsrSet,
    /// KVM_GET_SUPPORTED_CPUID.
    pub supported: Cpuid,
}

impl HostFacts {
    /// Whose processor it is.
    pub fn vendor(&self) -> Vendor {
        Vendor::of(&self.supported)
    }
}

/// What to show a guest on this host.
///
/// # Errors
/// When the request can't be met: by `auto` only what no host of this vendor
/// can, or what this KVM doesn't let anybody choose; by `on` also what this
/// host lacks.
pub fn resolve(request: &Request, facts: &HostFacts) -> Result<Exposure, Obstacle> {
    choose(request, facts).map(|(exposure, _)| exposure)
}

/// A control, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The control.
    pub control: &'static Control,
    /// Whether the host has it for guests.
    pub host: bool,
    /// Whether the guest finds it.
    pub guest: bool,
    /// Why not, where the host has it.
    pub reason: Option<Reason>,
}

/// Every control of the extension that the host's vendor has: whether the host
/// has it, and whether a guest would find it.
///
/// # Errors
/// As [`resolve`]; and where the host can't nest at all, for there is nothing
/// to list then.
pub fn table(request: &Request, facts: &HostFacts) -> Result<Vec<Shown>, Obstacle> {
    let full = available(facts)?;
    let (exposure, mut reasons) = choose(request, facts)?;
    let controls = full.extension().map_or(&[][..], Extension::controls);
    let row = |control: &'static Control| Shown {
        control,
        host: full.has(control),
        guest: exposure.has(control),
        reason: reasons.remove(control.name),
    };
    Ok(controls.iter().map(row).collect())
}

type Reasons = BTreeMap<&'static str, Reason>;

fn choose(request: &Request, facts: &HostFacts) -> Result<(Exposure, Reasons), Obstacle> {
    if request.when == When::Off {
        return Ok((Exposure::Off, Reasons::new()));
    }
    let on = request.when == When::On;
    if let (Some(asked), Some(host)) = (request.extension, Extension::of(facts.vendor()))
        && asked != host
    {
        return Err(Obstacle::OtherVendor { asked, host });
    }
    let mut exposure = match available(facts) {
        Ok(exposure) => exposure,
        Err(missing) if on => return Err(missing.into()),
        Err(_) => return Ok((Exposure::Off, Reasons::new())),
    };
    if request.chooses() && exposure == Exposure::Vmx(VmxCapabilities::default()) {
        return Err(Obstacle::NoChoice);
    }
    let reasons = exposure.hide(&request.hidden, &facts.supported);
    let mut wanted = request.wanted.iter().copied();
    if let Some(lacking) = wanted.find(|name| !has(&exposure, name))
        && on
    {
        return Err(Obstacle::Lacks(lacking));
    }
    if let (Exposure::Svm(capabilities), Some(asids)) = (&mut exposure, request.asids) {
        capabilities.asids = fewer_asids(capabilities, asids, on)?;
    }
    Ok((exposure, reasons))
}

fn has(exposure: &Exposure, name: &str) -> bool {
    super::control(name).is_some_and(|control| exposure.has(control))
}

fn fewer_asids(host: &SvmCapabilities, wanted: u32, on: bool) -> Result<u32, Obstacle> {
    if wanted > host.asids && on {
        return Err(Obstacle::Asids {
            wanted,
            most: host.asids,
        });
    }
    Ok(wanted.min(host.asids))
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
            _ => Ok(Exposure::full(extension, facts)),
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

/// Why a request can't be met on a host.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Obstacle {
    /// The host can't nest.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The host's processor has the other extension.
    #[error("the request is for {asked}, and this host's processor has {host}")]
    OtherVendor {
        /// The extension that the request names.
        asked: Extension,
        /// The host's.
        host: Extension,
    },
    /// The host, or what the request leaves of it, is without the control.
    #[error("this host can't show a guest {0}: leave it out, or write auto to do without")]
    Lacks(&'static str),
    /// The host has fewer address space identifiers.
    #[error("asids={wanted}: this host gives a guest {most}")]
    Asids {
        /// What is asked for.
        wanted: u32,
        /// What there is.
        most: u32,
    },
    /// KVM doesn't tell of VMX's capabilities, so they can't be chosen from.
    #[error(
        "this host's KVM doesn't tell of VMX's controls (KVM_CAP_GET_MSR_FEATURES), so none can be \
         chosen: use Linux 4.17 or later"
    )]
    NoChoice,
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
