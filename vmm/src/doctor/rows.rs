//! The checks. Each is a function of the findings, and of nothing else.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use nestling_arch::nested::{self, Exposure, Extension, Missing};

use super::findings::TUN;
use super::{Emulator, Findings, Row};
use crate::kvm::{API_VERSION, DEVICE, KvmError};
use crate::metal::Metal;
use crate::size::Size;

/// What the smallest nest of two levels is comfortable with.
const ENOUGH_MEMORY: Size = Size::mib(2048);

/// All checks, from the processor up. One that has no meaning here, such as
/// nested paging where there is no extension, is left out.
pub(super) fn all(findings: &Findings) -> Vec<Row> {
    [
        Some(processor(findings)),
        extension(findings),
        nested_paging(findings),
        Some(modules(findings)),
        parameters(findings),
        Some(device(findings)),
        interface(findings),
        nested_state(findings),
        exposure(findings),
        Some(memory(findings)),
        Some(huge_pages(findings)),
    ]
    .into_iter()
    .flatten()
    .chain(findings.emulators.iter().map(emulator))
    .chain([kernels(findings), iso(findings), tun(findings)])
    .collect()
}

/// The extension that the processor's vendor has.
fn extension_of(findings: &Findings) -> Option<Extension> {
    match findings.processor.vendor.as_str() {
        "GenuineIntel" => Some(Extension::Vmx),
        "AuthenticAMD" | "HygonGenuine" => Some(Extension::Svm),
        _ => None,
    }
}

fn processor(findings: &Findings) -> Row {
    const CHECK: &str = "processor";
    let processor = &findings.processor;
    let cpus = match processor.count {
        1 => "1 CPU".to_owned(),
        count => format!("{count} CPUs"),
    };
    let found = format!("{}, {}, {cpus}", processor.vendor, processor.model);
    match extension_of(findings) {
        Some(_) => Row::ok(CHECK, found),
        None => Row::fail(CHECK, found, Missing::Vendor.remedy()),
    }
}

fn extension(findings: &Findings) -> Option<Row> {
    const CHECK: &str = "virtualization";
    let extension = extension_of(findings)?;
    let flag = flag(extension);
    Some(if findings.processor.has(flag) {
        Row::ok(CHECK, format!("{extension} (flag {flag})"))
    } else {
        let missing = Missing::Processor(extension);
        Row::fail(CHECK, missing.what(), missing.remedy())
    })
}

fn flag(extension: Extension) -> &'static str {
    match extension {
        Extension::Vmx => "vmx",
        Extension::Svm => "svm",
    }
}

fn nested_paging(findings: &Findings) -> Option<Row> {
    const CHECK: &str = "nested paging";
    let extension = extension_of(findings)?;
    if !findings.processor.has(flag(extension)) {
        return None;
    }
    let (name, flag) = match extension {
        Extension::Vmx => ("EPT", "ept"),
        Extension::Svm => ("NPT", "npt"),
    };
    Some(if findings.processor.has(flag) {
        Row::ok(CHECK, format!("{name} (flag {flag})"))
    } else {
        Row::warn(
            CHECK,
            format!("no {name}: KVM keeps shadow page tables, which is slow"),
            format!("use a processor with {name}, or have this virtual machine's host expose it"),
        )
    })
}

fn modules(findings: &Findings) -> Row {
    const CHECK: &str = "kernel modules";
    let names: Vec<&str> = findings.modules.keys().map(String::as_str).collect();
    let loaded = match names.as_slice() {
        [] => "none of KVM's are loaded".to_owned(),
        names => names.join(", "),
    };
    let Some(extension) = extension_of(findings) else {
        return match names.is_empty() {
            true => Row::fail(CHECK, loaded, Missing::Vendor.remedy()),
            false => Row::ok(CHECK, loaded),
        };
    };
    if names.contains(&extension.module()) {
        Row::ok(CHECK, loaded)
    } else {
        let missing = Missing::Module(extension);
        let found = match names.is_empty() {
            true => loaded,
            false => format!("{loaded}, without {}", extension.module()),
        };
        Row::fail(CHECK, found, missing.remedy())
    }
}

/// The parameters of the vendor's module, those that decide about nesting first.
fn parameters(findings: &Findings) -> Option<Row> {
    const CHECK: &str = "module parameters";
    let extension = extension_of(findings)?;
    let parameters = findings
        .modules
        .get(extension.module())
        .filter(|parameters| !parameters.is_empty())?;
    let paging = match extension {
        Extension::Vmx => "ept",
        Extension::Svm => "npt",
    };
    let found = listed(parameters, &["nested", paging]);
    let is_off = |name| matches!(parameters.get(name).map(String::as_str), Some("N" | "0"));
    let module = extension.module();
    Some(if is_off("nested") {
        Row::fail(CHECK, found, Missing::Parameter(extension).remedy())
    } else if is_off(paging) {
        Row::warn(
            CHECK,
            found,
            format!(
                "without {paging} guests are slow: run `modprobe -r {module} && modprobe \
                 {module} {paging}=1`"
            ),
        )
    } else {
        Row::ok(CHECK, found)
    })
}

fn listed(parameters: &BTreeMap<String, String>, first: &[&str]) -> String {
    let leading = first
        .iter()
        .filter_map(|name| parameters.get_key_value(*name));
    let others = parameters
        .iter()
        .filter(|(name, _)| !first.contains(&name.as_str()));
    let words: Vec<String> = leading
        .chain(others)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.join(" ")
}

fn device(findings: &Findings) -> Row {
    match &findings.kvm {
        Err(error @ (KvmError::Absent | KvmError::Permission | KvmError::Open(_))) => {
            kvm_failed(DEVICE, error)
        }
        Ok(_) | Err(_) => Row::ok(DEVICE, "opens"),
    }
}

fn kvm_failed(check: &'static str, error: &KvmError) -> Row {
    let remedy = error.remedy().unwrap_or("see what dmesg says of kvm");
    Row::fail(check, error.what(), remedy)
}

fn interface(findings: &Findings) -> Option<Row> {
    const CHECK: &str = "KVM interface";
    match &findings.kvm {
        Err(KvmError::Absent | KvmError::Permission | KvmError::Open(_)) => None,
        Err(error) => Some(kvm_failed(CHECK, error)),
        Ok(_) => Some(Row::ok(
            CHECK,
            format!("version {API_VERSION}, with every capability that machines need"),
        )),
    }
}

fn nested_state(findings: &Findings) -> Option<Row> {
    const CHECK: &str = "nested state";
    let facts = findings.kvm.as_ref().ok()?;
    let extension =
        extension_of(findings).filter(|extension| facts.supported.has(extension.feature()))?;
    Some(match facts.nested_state {
        0 => {
            let missing = Missing::NestedState(extension);
            Row::fail(CHECK, missing.what(), missing.remedy())
        }
        size => Row::ok(CHECK, format!("KVM saves up to {size} bytes of it")),
    })
}

/// What `--nested auto` comes to.
fn exposure(findings: &Findings) -> Option<Row> {
    const CHECK: &str = "--nested auto";
    let facts = findings.kvm.as_ref().ok()?;
    Some(match nested::available(facts) {
        Ok(exposure) => Row::ok(CHECK, format!("shows guests {}", exposure.describe())),
        Err(missing) => Row::fail(
            CHECK,
            format!("{}: {}", Exposure::Off.describe(), missing.what()),
            missing.remedy(),
        ),
    })
}

fn memory(findings: &Findings) -> Row {
    const CHECK: &str = "memory";
    match findings.memory {
        None => Row::warn(
            CHECK,
            "/proc/meminfo doesn't say how much is available",
            "mount /proc",
        ),
        Some(available) => {
            let found = format!("{} MiB available", available.bytes() >> 20);
            if available >= ENOUGH_MEMORY {
                Row::ok(CHECK, found)
            } else {
                let enough = ENOUGH_MEMORY.bytes() >> 20;
                Row::warn(
                    CHECK,
                    found,
                    format!("free some: a nest of two levels wants {enough} MiB"),
                )
            }
        }
    }
}

/// Huge pages are a choice, not a need: this says what there is.
fn huge_pages(findings: &Findings) -> Row {
    const CHECK: &str = "huge pages";
    let pools = findings
        .huge_pages
        .iter()
        .map(|pool| format!("{} of {} free at {}", pool.free, pool.total, pool.size));
    let transparent = findings.transparent.as_deref();
    let words: Vec<String> = transparent
        .map(|when| format!("transparent: {when}"))
        .into_iter()
        .chain(pools)
        .collect();
    let found = match words.is_empty() {
        true => "none".to_owned(),
        false => words.join(", "),
    };
    match transparent {
        Some("always" | "madvise") => Row::ok(CHECK, found),
        _ => Row::warn(
            CHECK,
            found,
            "nested guests are faster with them: `echo madvise > \
             /sys/kernel/mm/transparent_hugepage/enabled`",
        ),
    }
}

fn emulator(emulator: &Emulator) -> Row {
    let check = match emulator.metal {
        Metal::Host => "host",
        Metal::Svm => "emulator for svm",
        Metal::Vmx => "emulator for vmx",
    };
    if emulator.missing.is_empty() {
        let version = emulator.version.as_deref().unwrap_or("installed");
        Row::ok(check, version.replace("emulator version ", ""))
    } else {
        not_installed(check, &emulator.missing)
    }
}

fn kernels(findings: &Findings) -> Row {
    const CHECK: &str = "kernels";
    let kernels = &findings.kernels;
    let host = kernels.host.iter().map(|name| format!("/boot/{name}"));
    let cached = kernels.cached.iter().map(|name| format!("{name} (cached)"));
    let names: Vec<String> = host.chain(cached).collect();
    if names.is_empty() {
        Row::warn(
            CHECK,
            "none in /boot or in the cache",
            "run `nestling image build`, which has apt download one",
        )
    } else {
        Row::ok(CHECK, names.join(", "))
    }
}

fn iso(findings: &Findings) -> Row {
    const CHECK: &str = "image tools";
    if findings.iso.is_empty() {
        Row::ok(CHECK, "xorriso, isolinux")
    } else {
        not_installed(CHECK, &findings.iso)
    }
}

fn not_installed(check: &'static str, missing: &[(&str, &str)]) -> Row {
    let what: Vec<&str> = missing.iter().map(|(what, _)| *what).collect();
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    Row::warn(
        check,
        format!("missing: {}", what.join(", ")),
        format!("apt-get install {}", packages.join(" ")),
    )
}

fn tun(findings: &Findings) -> Row {
    match &findings.tun {
        Ok(()) => Row::ok(TUN, "opens"),
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::PermissionDenied => {
                    "have its owner allow it, or hand a tap in with `--net fd=N`"
                }
                _ => "run `modprobe tun`; only `--net tap=` needs it",
            };
            Row::warn(TUN, error.to_string(), remedy)
        }
    }
}
