//! What a level measures on, read from its `/proc` and `/sys`.
//!
//! It travels from a guest to L0 as one line of the channel, so it has bounds, which
//! both sides see to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::results::{Environment, HugePages};
use crate::channel::printable;
use crate::guest::facts::{Processor, counter};
use crate::sysfs::{choice, huge_pages, kvm_modules, names, switch, text, texts};

// The most of each that is kept, which is more than Linux has. An environment then takes
// less than 24 KiB as JSON, whatever the texts hold.
const TEXT: usize = 96;
/// COMMAND_LINE_SIZE of x86.
const CMDLINE: usize = 2048;
const PARAMETERS: Limits = Limits {
    entries: 80,
    name: 48,
    value: 24,
};
const MITIGATIONS: Limits = Limits {
    entries: 28,
    name: 32,
    value: 144,
};
const POOLS: usize = 4;
const PINNED: usize = 64;

/// Bounds of a map of texts.
struct Limits {
    entries: usize,
    /// In bytes, as the next.
    name: usize,
    value: usize,
}

impl Environment {
    /// That of the system whose `/proc` and `/sys` are in `root`. What it doesn't tell
    /// is left out; to whom its processors are pinned only the level below knows.
    #[must_use]
    pub fn gather(root: &Path) -> Self {
        let proc = |file: &str| text(&root.join("proc").join(file)).unwrap_or_default();
        let sys = root.join("sys");
        let cpu = sys.join("devices/system/cpu");
        let memory = sys.join("kernel/mm");
        let clock = sys.join("devices/system/clocksource/clocksource0");
        let processor = Processor::parse(&proc("cpuinfo"));
        let environment = Self {
            nestling: env!("CARGO_PKG_VERSION").to_owned(),
            exposure: processor.exposure().to_owned(),
            vendor: processor.vendor,
            processor: processor.model,
            microcode: processor.microcode,
            cpus: processor.count,
            memory_mib: counter(&proc("meminfo"), "MemTotal:").unwrap_or(0) / 1024,
            kernel: proc("sys/kernel/osrelease"),
            cmdline: proc("cmdline"),
            parameters: parameters(&sys.join("module")),
            governor: governor(&cpu.join("cpufreq")),
            turbo: turbo(&cpu),
            smt: switch(&cpu.join("smt/active")),
            mitigations: texts(&cpu.join("vulnerabilities")),
            transparent_huge_pages: choice(&memory.join("transparent_hugepage/enabled")),
            huge_pages: reserved(&memory.join("hugepages")),
            clock_source: text(&clock.join("current_clocksource")),
            pinning: Vec::new(),
        };
        environment.bounded()
    }

    /// Itself within bounds and without control characters, whoever made it.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let optional = [
            &mut self.microcode,
            &mut self.governor,
            &mut self.transparent_huge_pages,
            &mut self.clock_source,
        ];
        let texts = [
            &mut self.nestling,
            &mut self.exposure,
            &mut self.vendor,
            &mut self.processor,
            &mut self.kernel,
        ];
        for text in optional.into_iter().flatten().chain(texts) {
            *text = printable(text, TEXT);
        }
        self.cmdline = printable(&self.cmdline, CMDLINE);
        PARAMETERS.apply(&mut self.parameters);
        MITIGATIONS.apply(&mut self.mitigations);
        self.huge_pages.truncate(POOLS);
        self.pinning.truncate(PINNED);
        self
    }
}

impl Limits {
    /// Keeps the entries whose names are plain, as all of the kernel's are.
    fn apply(&self, map: &mut BTreeMap<String, String>) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        *map = std::mem::take(map)
            .into_iter()
            .filter(|(name, _)| name.len() <= self.name && name.chars().all(plain))
            .map(|(name, value)| (name, printable(&value, self.value)))
            .take(self.entries)
            .collect();
    }
}

/// Every parameter of KVM's modules, by `module.parameter`.
fn parameters(modules: &Path) -> BTreeMap<String, String> {
    kvm_modules(modules)
        .into_iter()
        .flat_map(|(module, parameters)| {
            let parameters = parameters.into_iter();
            parameters.map(move |(name, value)| (format!("{module}.{name}"), value))
        })
        .collect()
}

/// The governors of all processors: one, if all is well.
fn governor(cpufreq: &Path) -> Option<String> {
    let governors: BTreeSet<String> = names(cpufreq, |name| name.starts_with("policy"))
        .iter()
        .filter_map(|policy| text(&cpufreq.join(policy).join("scaling_governor")))
        .collect();
    let governors: Vec<String> = governors.into_iter().collect();
    (!governors.is_empty()).then(|| governors.join(", "))
}

/// Intel's driver has a switch of its own, and it is the other way around.
fn turbo(cpu: &Path) -> Option<bool> {
    switch(&cpu.join("intel_pstate/no_turbo"))
        .map(|off| !off)
        .or_else(|| switch(&cpu.join("cpufreq/boost")))
}

/// The pools that aren't empty.
fn reserved(pools: &Path) -> Vec<HugePages> {
    let pools = huge_pages(pools).into_iter();
    pools
        .filter(|pool| pool.total > 0)
        .map(|pool| HugePages {
            size_kib: pool.size.bytes() / 1024,
            free: pool.free,
            total: pool.total,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::folder;

    #[test]
    fn everything_that_is_told_is_gathered() {
        let cpu = "sys/devices/system/cpu";
        let root = folder(&[
            (
                "proc/cpuinfo",
                "processor : 0\nvendor_id : AuthenticAMD\nmodel name : EPYC\n\
                 microcode : 0xa0\nflags : fpu svm\n\nprocessor : 1\n",
            ),
            ("proc/meminfo", "MemTotal: 2097152 kB\n"),
            ("proc/sys/kernel/osrelease", "6.12.0\n"),
            ("proc/cmdline", "console=ttyS0 quiet\n"),
            ("sys/module/kvm/parameters/halt_poll_ns", "200000\n"),
            ("sys/module/kvm_amd/parameters/npt", "Y\n"),
            ("sys/module/loop/parameters/max_loop", "8\n"),
            (&format!("{cpu}/cpufreq/boost"), "0\n"),
            (
                &format!("{cpu}/cpufreq/policy0/scaling_governor"),
                "performance\n",
            ),
            (
                &format!("{cpu}/cpufreq/policy1/scaling_governor"),
                "performance\n",
            ),
            (&format!("{cpu}/smt/active"), "1\n"),
            (&format!("{cpu}/vulnerabilities/l1tf"), "Not affected\n"),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always [madvise] never\n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                "512\n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                "12\n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
                "0\n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
                "0\n",
            ),
            (
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
                "kvm-clock\n",
            ),
        ]);
        let map = |entries: &[(&str, &str)]| {
            let entries = entries.iter();
            entries
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let expected = Environment {
            nestling: env!("CARGO_PKG_VERSION").into(),
            exposure: "svm".into(),
            vendor: "AuthenticAMD".into(),
            processor: "EPYC".into(),
            microcode: Some("0xa0".into()),
            cpus: 2,
            memory_mib: 2048,
            kernel: "6.12.0".into(),
            cmdline: "console=ttyS0 quiet".into(),
            parameters: map(&[("kvm.halt_poll_ns", "200000"), ("kvm_amd.npt", "Y")]),
            governor: Some("performance".into()),
            turbo: Some(false),
            smt: Some(true),
            mitigations: map(&[("l1tf", "Not affected")]),
            transparent_huge_pages: Some("madvise".into()),
            huge_pages: vec![HugePages {
                size_kib: 2048,
                free: 12,
                total: 512,
            }],
            clock_source: Some("kvm-clock".into()),
            pinning: Vec::new(),
        };
        assert_eq!(Environment::gather(root.path()), expected);
    }

    #[test]
    fn what_is_not_told_is_left_out() {
        let root = folder(&[]);
        let expected = Environment {
            nestling: env!("CARGO_PKG_VERSION").into(),
            exposure: "off".into(),
            ..Environment::default()
        };
        assert_eq!(Environment::gather(root.path()), expected);
    }

    #[test]
    fn governors_that_differ_are_all_named() {
        let root = folder(&[
            ("policy0/scaling_governor", "schedutil\n"),
            ("policy4/scaling_governor", "performance\n"),
            ("policy8/scaling_governor", "schedutil\n"),
        ]);
        let found = governor(root.path());
        assert_eq!(found.as_deref(), Some("performance, schedutil"));
    }

    #[test]
    fn intels_switch_of_turbo_is_the_other_way_around() {
        let root = folder(&[("intel_pstate/no_turbo", "0\n")]);
        assert_eq!(turbo(root.path()), Some(true));
        let root = folder(&[("intel_pstate/no_turbo", "1\n")]);
        assert_eq!(turbo(root.path()), Some(false));
    }

    #[test]
    fn no_guest_makes_it_larger_than_a_line() {
        // Each takes two bytes in JSON.
        let long = "\"".repeat(5000);
        let map = || {
            (0..5000)
                .map(|n| (format!("{n:032}"), long.clone()))
                .collect()
        };
        let hostile = Environment {
            nestling: long.clone(),
            exposure: long.clone(),
            vendor: long.clone(),
            processor: long.clone(),
            microcode: Some(long.clone()),
            kernel: long.clone(),
            cmdline: long.clone(),
            parameters: map(),
            governor: Some(long.clone()),
            mitigations: map(),
            transparent_huge_pages: Some(long.clone()),
            huge_pages: vec![
                HugePages {
                    size_kib: u64::MAX,
                    free: u64::MAX,
                    total: u64::MAX
                };
                5000
            ],
            clock_source: Some(long.clone()),
            pinning: vec![u32::MAX; 5000],
            ..Environment::default()
        };
        let bounded = hostile.bounded();
        assert_eq!(bounded.parameters.len(), PARAMETERS.entries);
        let json = serde_json::to_string(&bounded).unwrap();
        assert!(json.len() < 24 * 1024, "{} bytes", json.len());
    }

    #[test]
    fn what_a_terminal_would_obey_is_taken_out() {
        let environment = Environment {
            kernel: "6.1\x1b[31m".into(),
            parameters: [
                ("kvm.x".to_owned(), "a\nb".to_owned()),
                ("kvm.\x1b[2J".to_owned(), "Y".to_owned()),
            ]
            .into(),
            ..Environment::default()
        };
        let bounded = environment.bounded();
        assert_eq!(bounded.kernel, "6.1");
        let parameters: Vec<(&str, &str)> = bounded
            .parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(parameters, [("kvm.x", "ab")]);
    }
}
