//! Hosts for the tests: every file of `dumps/`.
//!
//! To add one, run `nestling doctor --format json` there, and put what it says
//! of the host beside `processor`, `origin`, `note` and `can_nest`.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{Cpuid, CpuidContext};
use crate::nested::{Exposure, HostFacts, available};

/// One host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dump {
    /// The file's name, without its extension.
    #[serde(skip)]
    pub(crate) name: String,
    /// The processor, as a person would call it.
    pub(crate) processor: String,
    /// How the file came to be.
    pub(crate) origin: Origin,
    /// Where and with what.
    pub(crate) note: String,
    /// Whether this host's KVM gives VMX or SVM to a guest.
    pub(crate) can_nest: bool,
    /// What the monitor finds out there.
    pub(crate) facts: HostFacts,
}

/// How a dump came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// By KVM's own answers on such a host.
    Recorded,
    /// By hand.
    Constructed,
}

impl Dump {
    /// What KVM_GET_SUPPORTED_CPUID says there.
    pub(crate) fn supported(&self) -> &Cpuid {
        &self.facts.supported
    }

    /// The exposures that this host can give.
    pub(crate) fn exposures(&self) -> Vec<Exposure> {
        [Exposure::Off]
            .into_iter()
            .chain(available(&self.facts))
            .collect()
    }

    /// Every vCPU of small, uneven and the largest machines, under every
    /// exposure.
    pub(crate) fn contexts(&self) -> Vec<CpuidContext> {
        let mut contexts = Vec::new();
        for exposure in self.exposures() {
            for vcpus in [1, 2, 3, 64] {
                for vcpu in 0..vcpus {
                    contexts.push(CpuidContext {
                        vcpu,
                        vcpus,
                        exposure: exposure.clone(),
                        tsc_deadline: true,
                    });
                }
            }
        }
        contexts
    }
}

/// All hosts, by name.
pub(crate) fn all() -> Vec<Dump> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cpuid/dumps");
    let mut dumps: Vec<Dump> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let dump: Dump = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Dump {
                name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                ..dump
            }
        })
        .collect();
    dumps.sort_by(|a, b| a.name.cmp(&b.name));
    dumps
}

/// The host of that name.
pub(crate) fn named(name: &str) -> Dump {
    all()
        .into_iter()
        .find(|dump| dump.name == name)
        .unwrap_or_else(|| panic!("no dump {name}"))
}

#[test]
fn both_vendors_are_recorded_with_and_without_nesting() {
    use super::Vendor;
    let dumps = all();
    for vendor in [Vendor::Intel, Vendor::Amd] {
        for can_nest in [true, false] {
            assert!(
                dumps
                    .iter()
                    .any(|dump| { dump.facts.vendor() == vendor && dump.can_nest == can_nest }),
                "no {vendor} host with can_nest = {can_nest}"
            );
        }
        assert!(
            dumps
                .iter()
                .any(|dump| dump.facts.vendor() == vendor && dump.origin == Origin::Recorded),
            "no recorded {vendor} host"
        );
    }
    for dump in dumps {
        assert!(
            !dump.processor.is_empty() && !dump.note.is_empty(),
            "{} says nothing",
            dump.name
        );
    }
}
