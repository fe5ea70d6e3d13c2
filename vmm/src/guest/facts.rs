//! What a level can find out about itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::sys;
use crate::channel::Booted;

/// KVM's module parameters that decide about nesting.
const PARAMETERS: [(&str, &[&str]); 2] = [
    (
        "kvm_intel",
        &[
            "nested",
            "ept",
            "eptad",
            "pml",
            "unrestricted_guest",
            "vpid",
            "flexpriority",
            "enable_apicv",
            "preemption_timer",
            "enable_shadow_vmcs",
            "enlightened_vmcs",
        ],
    ),
    (
        "kvm_amd",
        &["nested", "npt", "nrips", "lbrv", "vls", "vgif", "avic"],
    ),
];

/// A processor as `/proc/cpuinfo` shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processor {
    /// `vendor_id`.
    pub vendor: String,
    /// `model name` of the first processor.
    pub model: String,
    /// `microcode` of the first processor: its revision.
    pub microcode: Option<String>,
    /// `flags` of the first processor.
    pub flags: Vec<String>,
    /// How many there are.
    pub count: u32,
}

impl Processor {
    /// Reads the text of `/proc/cpuinfo`.
    #[must_use]
    pub fn parse(cpuinfo: &str) -> Self {
        let mut processor = Self::default();
        for (key, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
            match key.trim() {
                "processor" => processor.count += 1,
                "vendor_id" => processor.vendor = value.trim().to_owned(),
                "model name" if processor.model.is_empty() => {
                    value.trim().clone_into(&mut processor.model);
                }
                "microcode" if processor.microcode.is_none() => {
                    processor.microcode = Some(value.trim().to_owned());
                }
                "flags" if processor.flags.is_empty() => {
                    processor.flags = value.split_whitespace().map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        processor
    }

    /// The one this runs on.
    #[must_use]
    pub fn current() -> Self {
        Self::parse(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    /// Whether it shows `flag`.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|other| other == flag)
    }

    /// Which virtualization extension it shows: `vmx`, `svm` or `off`.
    #[must_use]
    pub fn exposure(&self) -> &'static str {
        ["vmx", "svm"]
            .into_iter()
            .find(|flag| self.has(flag))
            .unwrap_or("off")
    }
}

/// KVM's module parameters, by `module.parameter`, of the modules loaded.
#[must_use]
pub fn kvm_parameters() -> BTreeMap<String, String> {
    PARAMETERS
        .iter()
        .flat_map(|(module, parameters)| parameters.iter().map(move |name| (module, name)))
        .filter_map(|(module, parameter)| {
            let path = format!("/sys/module/{module}/parameters/{parameter}");
            let value = fs::read_to_string(path).ok()?;
            Some((format!("{module}.{parameter}"), value.trim().to_owned()))
        })
        .collect()
}

/// Which hypervisor the kernel has found below it, in its own words, such as
/// `KVM` or `Microsoft Hyper-V`.
#[must_use]
pub fn hypervisor() -> Option<String> {
    let mut options = File::options();
    let log = options.read(true).custom_flags(libc::O_NONBLOCK);
    let mut log = log.open("/dev/kmsg").ok()?;
    // Each read brings one record; after the last there is nothing to be read yet.
    let mut record = [0; 8192];
    loop {
        let text = match log.read(&mut record) {
            Ok(length) => String::from_utf8_lossy(&record[..length]),
            // Records that were overwritten meanwhile are skipped.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
            Err(_) => return None,
        };
        if let Some(name) = detected(&text) {
            return Some(name.to_owned());
        }
    }
}

/// The hypervisor that a record of the kernel's log names.
fn detected(record: &str) -> Option<&str> {
    let (_, rest) = record.split_once(";Hypervisor detected: ")?;
    rest.lines().next()
}

/// Whether KVM's device is there.
#[must_use]
pub fn has_kvm() -> bool {
    Path::new("/dev/kvm").exists()
}

/// The facts of this system; `boot` is the time from the kernel's start to init.
#[must_use]
pub fn booted(boot: Duration) -> Booted {
    let processor = Processor::current();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Booted {
        kernel: sys::kernel_release(),
        boot_ns: u64::try_from(boot.as_nanos()).unwrap_or(u64::MAX),
        cpus: processor.count,
        memory_mib: counter(&memory, "MemTotal:").unwrap_or(0) / 1024,
        exposure: processor.exposure().to_owned(),
        vendor: processor.vendor,
        parameters: kvm_parameters(),
    }
}

/// How many processes the kernel has killed for want of memory.
pub(super) fn oom_kills() -> u64 {
    counter(
        &fs::read_to_string("/proc/vmstat").unwrap_or_default(),
        "oom_kill",
    )
    .unwrap_or(0)
}

/// The number behind `name` in a file of lines `name number ...`.
pub(crate) fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .map(str::split_whitespace)
        .find_map(|mut words| {
            if words.next()? == name {
                words.next()?.parse().ok()
            } else {
                None
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\n\
                           microcode\t: 0xa0\nflags\t\t: fpu svm npt\n\n\
                           processor\t: 1\nvendor_id\t: AuthenticAMD\n\
                           microcode\t: 0xa1\nflags\t\t: fpu svm npt\n";

    #[test]
    fn cpuinfo_is_read() {
        let processor = Processor::parse(CPUINFO);
        assert_eq!(
            (
                processor.vendor.as_str(),
                processor.model.as_str(),
                processor.count
            ),
            ("AuthenticAMD", "EPYC", 2)
        );
        assert_eq!(processor.microcode.as_deref(), Some("0xa0"));
        assert_eq!(processor.exposure(), "svm");
        assert_eq!(Processor::parse("flags : fpu svml vmx").exposure(), "vmx");
        assert_eq!(Processor::parse("flags : fpu svml").exposure(), "off");
    }

    #[test]
    fn the_hypervisor_is_found_in_the_log() {
        let record = "6,12,34,-;Hypervisor detected: Microsoft Hyper-V\n SUBSYSTEM=x\n";
        assert_eq!(detected(record), Some("Microsoft Hyper-V"));
        assert_eq!(detected("6,13,35,-;Hyper-V: privilege flags\n"), None);
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "oom_kill_x 1\noom_kill 2\nMemTotal:   2048 kB\n";
        assert_eq!(counter(text, "oom_kill"), Some(2));
        assert_eq!(counter(text, "MemTotal:"), Some(2048));
        assert_eq!(counter(text, "absent"), None);
    }
}
