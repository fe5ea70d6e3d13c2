//! Looking around on the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use nestling_arch::nested::HostFacts;

use crate::facts;
use crate::guest::facts::Processor;
use crate::image::{cache, iso};
use crate::kvm::{self, KvmError};
use crate::memory;
use crate::metal::{Metal, qemu};
use crate::size::Size;
use crate::sysfs::{self, HugePages};

/// The character device that taps come from.
pub(super) const TUN: &str = "/dev/net/tun";

/// All that the checks go by.
#[derive(Debug)]
pub struct Findings {
    /// `/proc/cpuinfo`.
    pub processor: Processor,
    /// The loaded modules of KVM, each with its parameters.
    pub modules: BTreeMap<String, BTreeMap<String, String>>,
    /// What KVM says of itself, or why it can't be asked.
    pub kvm: Result<HostFacts, KvmError>,
    /// What the kernel can give without swapping, where it tells.
    pub memory: Option<Size>,
    /// When transparent huge pages are used: `always`, `madvise` or `never`.
    pub transparent: Option<String>,
    /// Reserved huge pages, by size.
    pub huge_pages: Vec<HugePages>,
    /// The emulated metals.
    pub emulators: Vec<Emulator>,
    /// Kernels that an image can be built from without a network.
    pub kernels: Kernels,
    /// What is missing to write an ISO, each with its package.
    pub iso: Vec<(&'static str, &'static str)>,
    /// Whether taps can be had.
    pub tun: io::Result<()>,
}

/// A metal that a program emulates.
#[derive(Debug)]
pub struct Emulator {
    /// Which.
    pub metal: Metal,
    /// The files and programs it lacks, each with its package.
    pub missing: Vec<(&'static str, &'static str)>,
    /// The program's version, where it tells.
    pub version: Option<String>,
}

/// Kernels at hand.
#[derive(Debug, Default)]
pub struct Kernels {
    /// File names in `/boot`.
    pub host: Vec<String>,
    /// Package files in the cache.
    pub cached: Vec<String>,
}

impl Findings {
    /// Looks around. What can't be read counts as not there.
    pub fn gather() -> Self {
        Self {
            processor: Processor::current(),
            modules: sysfs::kvm_modules(Path::new("/sys/module")),
            kvm: kvm::open().and_then(|kvm| facts::gather(&kvm)),
            memory: memory::available_memory(),
            transparent: sysfs::choice(Path::new("/sys/kernel/mm/transparent_hugepage/enabled")),
            huge_pages: sysfs::huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            emulators: [
                (Metal::Svm, [qemu::PROGRAM, "--version"].as_slice()),
                // Bochs doesn't tell its version without starting a machine.
                (
                    Metal::Vmx,
                    &["dpkg-query", "-Wf", "Bochs ${Version}", "bochs"],
                ),
            ]
            .map(|(metal, command)| emulator(metal, command))
            .into(),
            kernels: Kernels {
                host: sysfs::names(Path::new("/boot"), |name| name.starts_with("vmlinuz-")),
                cached: cache::Cache::default_path()
                    .map(|root| {
                        sysfs::names(&cache::packages(&root), |name| {
                            Path::new(name).extension().is_some_and(|end| end == "deb")
                        })
                    })
                    .unwrap_or_default(),
            },
            iso: iso::missing(),
            tun: File::options().read(true).write(true).open(TUN).map(drop),
        }
    }
}

fn emulator(metal: Metal, command: &[&str]) -> Emulator {
    let missing = metal.missing();
    Emulator {
        metal,
        version: if missing.is_empty() {
            first_line(command)
        } else {
            None
        },
        missing,
    }
}

/// The first line that a program prints, if it ends well.
fn first_line(command: &[&str]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let line = String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()?
        .trim()
        .to_owned();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_or_is_not_there_says_nothing() {
        let said = first_line(&["/bin/echo", "one\ntwo"]);
        assert_eq!(said.as_deref(), Some("one"));
        assert_eq!(first_line(&["/bin/false"]), None);
        assert_eq!(first_line(&["/nonexistent"]), None);
    }
}
