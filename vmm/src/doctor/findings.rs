//! Looking around on the host.

use std::collections::BTreeMap;
use std::fs::{self, File};
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

/// A pool of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// The size of one.
    pub size: Size,
    /// How many nobody uses.
    pub free: u64,
    /// How many are reserved.
    pub total: u64,
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
            modules: modules(Path::new("/sys/module")),
            kvm: kvm::open().and_then(|kvm| facts::gather(&kvm)),
            memory: memory::available_memory(),
            transparent: fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
                .ok()
                .and_then(|text| selected(&text)),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
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
                host: names(Path::new("/boot"), |name| name.starts_with("vmlinuz-")),
                cached: cache::Cache::default_path()
                    .map(|root| {
                        names(&cache::packages(&root), |name| {
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

/// KVM's modules, and what they were loaded with. Parameters that this user
/// may not read are left out.
fn modules(folder: &Path) -> BTreeMap<String, BTreeMap<String, String>> {
    names(folder, |name| name == "kvm" || name.starts_with("kvm_"))
        .into_iter()
        .map(|module| {
            let folder = folder.join(&module).join("parameters");
            let parameters = names(&folder, |_| true).into_iter().filter_map(|name| {
                let value = fs::read_to_string(folder.join(&name)).ok()?;
                Some((name, value.trim().to_owned()))
            });
            let parameters = parameters.collect();
            (module, parameters)
        })
        .collect()
}

/// Pools of huge pages: folders named `hugepages-<size>kB`.
fn huge_pages(folder: &Path) -> Vec<HugePages> {
    let mut pools: Vec<HugePages> = names(folder, |_| true)
        .iter()
        .filter_map(|name| {
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count = |file: &str| -> Option<u64> {
                let text = fs::read_to_string(folder.join(name).join(file)).ok()?;
                text.trim().parse().ok()
            };
            Some(HugePages {
                size: Size(kib.checked_mul(1024)?),
                free: count("free_hugepages")?,
                total: count("nr_hugepages")?,
            })
        })
        .collect();
    pools.sort_by_key(|pool| pool.size);
    pools
}

/// The word in brackets, by which sysfs marks a choice.
fn selected(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
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

/// The names in a folder that `wanted` takes, in order.
fn names(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| wanted(name))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files below a fresh folder.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn modules_are_kvms_with_or_without_parameters() {
        let root = folder(&[
            ("kvm/refcnt", "1\n"),
            ("kvm_amd/parameters/nested", "1\n"),
            ("kvm_amd/parameters/npt", "Y\n"),
            ("kvmgt/refcnt", "0\n"),
        ]);
        let found = modules(root.path());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["kvm", "kvm_amd"]);
        assert!(found["kvm"].is_empty());
        assert_eq!(found["kvm_amd"]["npt"], "Y");
    }

    #[test]
    fn huge_pages_are_listed_from_the_smallest() {
        let root = folder(&[
            ("hugepages-1048576kB/free_hugepages", "0\n"),
            ("hugepages-1048576kB/nr_hugepages", "1\n"),
            ("hugepages-2048kB/free_hugepages", "3\n"),
            ("hugepages-2048kB/nr_hugepages", "4\n"),
            ("other/nr_hugepages", "4\n"),
        ]);
        let pool = |size, free, total| HugePages { size, free, total };
        assert_eq!(
            huge_pages(root.path()),
            [pool(Size::mib(2), 3, 4), pool(Size::mib(1024), 0, 1)]
        );
    }

    #[test]
    fn a_choice_is_the_word_in_brackets() {
        let chosen = selected("always [madvise] never\n");
        assert_eq!(chosen.as_deref(), Some("madvise"));
        assert_eq!(selected("always"), None);
    }

    #[test]
    fn a_program_that_fails_or_is_not_there_says_nothing() {
        let said = first_line(&["/bin/echo", "one\ntwo"]);
        assert_eq!(said.as_deref(), Some("one"));
        assert_eq!(first_line(&["/bin/false"]), None);
        assert_eq!(first_line(&["/nonexistent"]), None);
    }
}
