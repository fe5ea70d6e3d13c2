//! What a guest is shown, and how controls are taken out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::control::{Control, control};
use super::policy::HostFacts;
use super::{Extension, SvmCapabilities, SvmFeatures, VmxCapabilities, vmx};
use crate::cpuid::{Cpuid, Feature};

/// What of VMX or SVM a guest is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Neither.
    Off,
    /// VMX, with these capabilities; none where KVM doesn't tell of them, and
    /// then what it gives by itself.
    Vmx(VmxCapabilities),
    /// SVM, with these capabilities.
    Svm(SvmCapabilities),
}

/// Why a control that the host has isn't shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request hides it.
    Request,
    /// It needs a control that isn't shown.
    Needs(&'static Control),
    /// It is about an instruction that the guest's CPUID lacks.
    Instruction(Feature),
    /// None is left of the controls that it activates.
    Nothing,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => f.write_str("hidden by the request"),
            Self::Needs(parent) => write!(f, "needs {}", parent.name),
            Self::Instruction(feature) => write!(f, "the guest has no {}", feature.name),
            Self::Nothing => f.write_str("nothing is left for it to activate"),
        }
    }
}

impl Exposure {
    /// All that KVM can give of an extension.
    pub fn full(extension: Extension, facts: &HostFacts) -> Self {
        match extension {
            Extension::Vmx => Self::Vmx(facts.vmx.clone()),
            Extension::Svm => Self::Svm(SvmCapabilities::of(&facts.supported)),
        }
    }

    /// The extension that is shown.
    pub const fn extension(&self) -> Option<Extension> {
        match self {
            Self::Off => None,
            Self::Vmx(_) => Some(Extension::Vmx),
            Self::Svm(_) => Some(Extension::Svm),
        }
    }

    /// Whether a guest finds this control.
    pub fn has(&self, control: &Control) -> bool {
        match self {
            Self::Off => false,
            Self::Vmx(capabilities) => capabilities.has(control.place),
            Self::Svm(capabilities) => capabilities.has(control.place),
        }
    }

    fn take_out(&mut self, control: &Control) {
        match self {
            Self::Off => {}
            Self::Vmx(capabilities) => capabilities.hide(control.place),
            Self::Svm(capabilities) => capabilities.hide(control.place),
        }
    }

    /// Takes out the controls of these names, and all that can't be used
    /// without them or without an instruction that `cpuid` lacks. Answers why
    /// each went.
    pub fn hide(
        &mut self,
        names: &BTreeSet<&'static str>,
        cpuid: &Cpuid,
    ) -> BTreeMap<&'static str, Reason> {
        let mut gone = BTreeMap::new();
        let Some(extension) = self.extension() else {
            return gone;
        };
        // What activates others stands before them, and goes after them.
        loop {
            let before = gone.len();
            for control in extension.controls() {
                if let Some(reason) = self.reason_against(control, names, cpuid) {
                    self.take_out(control);
                    gone.insert(control.name, reason);
                }
            }
            if gone.len() == before {
                break;
            }
        }
        if let Self::Vmx(capabilities) = self {
            capabilities.clear_parts();
        }
        gone
    }

    /// The same for a guest with this CPUID, which may lack what the host has.
    pub fn within(&self, cpuid: &Cpuid) -> Self {
        let mut exposure = self.clone();
        exposure.hide(&BTreeSet::new(), cpuid);
        exposure
    }

    /// Why `candidate` can't stay, if it is there and can't.
    fn reason_against(
        &self,
        candidate: &Control,
        names: &BTreeSet<&'static str>,
        cpuid: &Cpuid,
    ) -> Option<Reason> {
        if !self.has(candidate) {
            return None;
        }
        if names.contains(candidate.name) {
            return Some(Reason::Request);
        }
        let mut needs = candidate.needs.iter().copied().filter_map(control);
        if let Some(parent) = needs.find(|parent| !self.has(parent)) {
            return Some(Reason::Needs(parent));
        }
        let instructions = candidate.instructions;
        if !instructions.is_empty() && !instructions.iter().any(|feature| cpuid.has(*feature)) {
            return Some(Reason::Instruction(instructions[0]));
        }
        let Self::Vmx(capabilities) = self else {
            return None;
        };
        vmx::activated_by(candidate.name)
            .filter(|msr| capabilities.get(*msr).unwrap_or(0) == 0)
            .map(|_| Reason::Nothing)
    }

    /// The exposure in words for a table: "VMX, EPT", "SVM, NPT", "off". Without
    /// EPT or NPT a guest's hypervisor works, but keeps shadow page tables,
    /// which is slow; the words say so.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Vmx(capabilities) => match capabilities.ept() {
                Some(true) => "VMX, EPT",
                Some(false) => "VMX, no EPT",
                None => "VMX",
            },
            Self::Svm(capabilities) if capabilities.features.contains(SvmFeatures::NP) => {
                "SVM, NPT"
            }
            Self::Svm(_) => "SVM, no NPT",
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
