//! Why exits were taken, by KVM's tracepoints: `kvm_exit` for all, and of those
//! taken while a guest of the guest ran `kvm_nested_vmexit`, and
//! `kvm_nested_vmexit_inject` for those reflected to the guest.
//!
//! The kernel adds them up itself, in histograms by exit reason
//! (Documentation/trace/histogram.rst), of an instance of its tracing that is
//! nestling's alone and goes with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use nestling_arch::exit_reason;
use nestling_arch::nested::Extension;

use super::{Counts, EXIT, NESTED_EXIT, REFLECTED};

/// Where the kernel's tracing is, of itself and within debugfs.
const ROOTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
/// How the instances' names begin; a process's number follows.
const INSTANCE: &str = "nestling-";
/// What a filter may be long: a page.
const MAX_FILTER: usize = 4000;

/// A tracepoint, the field that holds the exit's reason, and how the counts of
/// it begin.
const POINTS: [(&str, &str, &str); 3] = [
    ("kvm_exit", "exit_reason", EXIT),
    ("kvm_nested_vmexit", "exit_reason", NESTED_EXIT),
    ("kvm_nested_vmexit_inject", "exit_code", REFLECTED),
];

/// Why exits can't be traced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No tracing to be found, for want of a mount or of a right.
    #[error(
        "no reasons of exits: {path}: {source}; run as root, with tracefs mounted \
         (`mount -t tracefs tracefs /sys/kernel/tracing`)"
    )]
    Access {
        /// What was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel doesn't trace KVM in this way.
    #[error(
        "no reasons of exits: the kernel refuses a histogram of kvm:{point}: {source}; it needs \
         CONFIG_HIST_TRIGGERS and KVM loaded"
    )]
    Point {
        /// The tracepoint.
        point: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is nobody to trace.
    #[error("no reasons of exits: the machine has no vCPUs that run")]
    NoThreads,
}

/// A trace of some vCPUs' exits. It ends when this is dropped.
#[derive(Debug)]
pub struct Tracer {
    instance: Instance,
    threads: Vec<i32>,
}

impl Tracer {
    /// Traces the vCPUs that these threads run, from now on.
    pub fn start(threads: &[i32]) -> Result<Self, Error> {
        let filter = filter(threads).ok_or(Error::NoThreads)?;
        let instance = Instance::new()?;
        for (point, field, _) in POINTS {
            let trigger = format!("hist:keys=isa,{field} if {filter}");
            fs::write(instance.file(point, "trigger"), trigger)
                .map_err(|source| Error::Point { point, source })?;
        }
        Ok(Self {
            instance,
            threads: threads.to_vec(),
        })
    }

    /// The threads that it follows.
    #[must_use]
    pub fn threads(&self) -> &[i32] {
        &self.threads
    }

    /// How many exits there were for each reason, by names such as
    /// `reflected:CPUID`.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self) -> io::Result<Counts> {
        let mut counts = Counts::new();
        for (point, field, prefix) in POINTS {
            let text = fs::read_to_string(self.instance.file(point, "hist"))?;
            for (isa, reason, hits) in text.lines().filter_map(|line| entry(line, field)) {
                let name = format!("{prefix}{}", name(isa, reason));
                *counts.entry(name).or_default() += hits;
            }
        }
        Ok(counts)
    }
}

/// What selects the events of these threads; none if that would select nothing,
/// or take too long to say.
fn filter(threads: &[i32]) -> Option<String> {
    let terms: Vec<String> = threads
        .iter()
        .map(|thread| format!("common_pid == {thread}"))
        .collect();
    let filter = terms.join(" || ");
    (!filter.is_empty() && filter.len() <= MAX_FILTER).then_some(filter)
}

/// An entry of a histogram: extension, reason, and how often.
fn entry(line: &str, field: &str) -> Option<(u32, u32, u64)> {
    let number = |key: &str| {
        let (_, rest) = line.split_once(&format!("{key}:"))?;
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].parse::<u64>().ok()
    };
    let word = |key: &str| u32::try_from(number(key)?).ok();
    Some((word("isa")?, word(field)?, number("hitcount")?))
}

/// The name of an exit reason. KVM numbers the extensions 1 (VMX) and 2 (SVM) in
/// its tracepoints.
fn name(isa: u32, reason: u32) -> String {
    let extension = match isa {
        1 => Some(Extension::Vmx),
        2 => Some(Extension::Svm),
        _ => None,
    };
    let known = extension.and_then(|extension| exit_reason::name(extension, reason));
    known.map_or_else(|| format!("{reason:#x}"), str::to_owned)
}

/// A part of the kernel's tracing that is this process's own.
#[derive(Debug)]
struct Instance(PathBuf);

impl Instance {
    fn new() -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut failed = None;
        for root in ROOTS {
            let instances = Path::new(root).join("instances");
            remove_abandoned(&instances);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = instances.join(format!("{INSTANCE}{}-{number}", process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(source) => failed.get_or_insert(Error::Access {
                    path: instances,
                    source,
                }),
            };
        }
        Err(failed.unwrap_or(Error::NoThreads))
    }

    fn file(&self, point: &str, name: &str) -> PathBuf {
        self.0.join("events/kvm").join(point).join(name)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Its histograms go with it. Nobody is left to tell.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Removes the instances of processes that were killed.
fn remove_abandoned(instances: &Path) {
    let Ok(entries) = fs::read_dir(instances) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner);
        if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The process whose instance has this name.
fn owner(name: &str) -> Option<&str> {
    let (process, _) = name.strip_prefix(INSTANCE)?.split_once('-')?;
    process
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then_some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_read_by_name() {
        let text = "\
# event histogram
#
# trigger info: hist:keys=isa,exit_reason:vals=hitcount:sort=hitcount:size=2048 if common_pid == 7 [active]
#

{ isa:          2, exit_reason:        114 } hitcount:       1034
{ isa:          2, exit_reason:       4096 } hitcount:         12
{ isa:          1, exit_reason:         10 } hitcount:          3

Totals:
    Hits: 1049
";
        let entries: Vec<_> = text
            .lines()
            .filter_map(|line| entry(line, "exit_reason"))
            .collect();
        assert_eq!(entries, [(2, 114, 1034), (2, 4096, 12), (1, 10, 3)]);
        assert_eq!(name(2, 114), "CPUID");
        assert_eq!(name(1, 10), "CPUID");
        assert_eq!(name(1, 9999), "0x270f");
        assert_eq!(name(9, 1), "0x1");
    }

    #[test]
    fn a_filter_names_the_threads_there_are() {
        let two = "common_pid == 7 || common_pid == 8";
        assert_eq!(filter(&[7, 8]).as_deref(), Some(two));
        assert_eq!(filter(&[]), None);
        assert_eq!(filter(&vec![1_000_000; 1000]), None);
        assert!(filter(&[4_194_304; 64]).is_some());
    }

    #[test]
    fn only_instances_of_ours_have_an_owner() {
        assert_eq!(owner("nestling-12-0"), Some("12"));
        for name in [
            "nestling-12",
            "nestling-x-0",
            "other-12-0",
            "nestling-../x-0",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
