//! The controls of VMX and SVM: single things that an extension can do, which a
//! guest can be shown or not, by the names of the SDM and the APM.

use std::fmt;

use super::{Extension, svm, vmx};
use crate::cpuid::Feature;

/// Something that an extension can do.
#[derive(Debug, PartialEq, Eq)]
pub struct Control {
    /// The manual's name, in lower case and with underscores.
    pub name: &'static str,
    /// The bit that shows it.
    pub place: Place,
    /// The controls without which it can't be used, by name.
    pub needs: &'static [&'static str],
    /// What it is about, where that is an instruction that CPUID may lack: one
    /// of these is needed.
    pub instructions: &'static [Feature],
}

/// The bit that shows a control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A VM-execution, VM-exit or VM-entry control: the MSR that says by its
    /// high half which may be 1, and by its low half which must be (SDM vol. 3D,
    /// A.2).
    Setting {
        /// The capability MSR.
        msr: u32,
        /// The control's bit in the VMCS field, 0 to 31.
        bit: u32,
    },
    /// A bit of another VMX capability MSR.
    Capability {
        /// The capability MSR.
        msr: u32,
        /// The bit, 0 to 63.
        bit: u32,
    },
    /// A bit of EDX of CPUID leaf 0x8000000A.
    Svm {
        /// The bit, 0 to 31.
        bit: u32,
    },
}

impl Place {
    /// The extension that the control is of.
    pub const fn extension(self) -> Extension {
        match self {
            Self::Setting { .. } | Self::Capability { .. } => Extension::Vmx,
            Self::Svm { .. } => Extension::Svm,
        }
    }
}

impl fmt::Display for Place {
    /// As the manuals write a bit: `IA32_VMX_PROCBASED_CTLS2[33]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (msr, bit) = match *self {
            Self::Setting { msr, bit } => (msr, 32 + bit),
            Self::Capability { msr, bit } => (msr, bit),
            Self::Svm { bit } => return write!(f, "CPUID.8000000AH:EDX[{bit}]"),
        };
        match vmx::msr_name(msr) {
            Some(name) => write!(f, "{name}[{bit}]"),
            None => write!(f, "MSR {msr:#x}[{bit}]"),
        }
    }
}

/// A name for several controls that are used together.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// What the field calls them.
    pub name: &'static str,
    /// The controls, by name.
    pub members: &'static [&'static str],
}

impl Extension {
    /// Its controls. Each stands behind those that it needs.
    pub fn controls(self) -> &'static [Control] {
        match self {
            Self::Vmx => vmx::CONTROLS,
            Self::Svm => svm::CONTROLS,
        }
    }
}

/// The control of that name, of either extension.
pub fn control(name: &str) -> Option<&'static Control> {
    all().find(|control| control.name == name)
}

/// The controls that a name stands for: one, or those of a group.
pub(super) fn named(name: &str) -> Option<Vec<&'static Control>> {
    match vmx::GROUPS.iter().find(|group| group.name == name) {
        Some(group) => group.members.iter().copied().map(control).collect(),
        None => control(name).map(|control| vec![control]),
    }
}

fn all() -> impl Iterator<Item = &'static Control> {
    vmx::CONTROLS.iter().chain(svm::CONTROLS)
}

/// The names that come nearest to `word`: those that hold it or differ from it
/// in few letters, the nearest first, three at the most.
pub(super) fn nearest(word: &str) -> Vec<&'static str> {
    let groups = vmx::GROUPS.iter().map(|group| group.name);
    let mut near: Vec<(usize, &str)> = all()
        .map(|control| control.name)
        .chain(groups)
        .map(|name| (distance(word, name), name))
        .filter(|(distance, name)| {
            *distance <= word.len() / 3 || (word.len() > 2 && name.contains(word))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, name)| name).take(3).collect()
}

/// How many letters have to be put in, taken out or changed between two words
/// (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (left, b) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[left + 1];
            row[left + 1] = changed.min(row[left] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_places_are_unique_and_needs_stand_before() {
        let mut names = BTreeSet::new();
        let mut places = BTreeSet::new();
        for control in all() {
            for need in control.needs {
                let parent = super::control(need).unwrap_or_else(|| panic!("{need}"));
                assert_eq!(parent.place.extension(), control.place.extension());
                assert!(names.contains(need), "{need} of {}", control.name);
            }
            assert!(names.insert(control.name), "{}", control.name);
            assert!(
                places.insert(control.place.to_string()),
                "{}",
                control.place
            );
        }
        for group in vmx::GROUPS {
            assert!(names.insert(group.name), "{}", group.name);
            assert!(named(group.name).unwrap().len() > 1, "{}", group.name);
        }
    }

    #[test]
    fn places_are_written_as_the_manuals_do() {
        let cases = [
            ("ept", "IA32_VMX_PROCBASED_CTLS2[33]"),
            ("posted_interrupts", "IA32_VMX_TRUE_PINBASED_CTLS[39]"),
            ("ept_accessed_dirty", "IA32_VMX_EPT_VPID_CAP[21]"),
            ("npt", "CPUID.8000000AH:EDX[0]"),
        ];
        for (name, place) in cases {
            assert_eq!(control(name).unwrap().place.to_string(), place);
        }
    }

    #[test]
    fn words_that_are_nearly_names_find_them() {
        let cases: [(&str, &[&str]); 6] = [
            ("unrestricted", &["unrestricted_guest"]),
            ("posted-interrupts", &["posted_interrupts"]),
            ("flushbyasid", &["flush_by_asid"]),
            ("nript", &["nrips"]),
            ("shadow-vmcs", &["shadow_vmcs"]),
            ("frobnicate", &[]),
        ];
        for (word, names) in cases {
            assert_eq!(nearest(word), names, "{word}");
        }
        for name in ["", "ept"] {
            assert!(nearest(name).len() <= 3);
        }
    }

    #[test]
    fn distances_count_letters() {
        for (from, to, letters) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("abc", "axc", 1),
            ("abc", "ac", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), letters, "{from} {to}");
            assert_eq!(distance(to, from), letters, "{to} {from}");
        }
    }
}
