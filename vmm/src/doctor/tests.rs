//! Hosts with one thing wrong each, and what is said of them.

use std::collections::BTreeMap;
use std::io;

use nestling_arch::nested::HostFacts;

use super::*;
use crate::guest::facts::Processor;
use crate::kvm::KvmError;
use crate::size::Size;
use crate::sysfs::HugePages;

/// What a recorded host's KVM said.
fn facts(dump: &str) -> HostFacts {
    let dump: serde_json::Value = serde_json::from_str(dump).unwrap();
    serde_json::from_value(dump["facts"].clone()).unwrap()
}

fn amd() -> HostFacts {
    facts(include_str!("../../../arch/src/cpuid/dumps/amd-milan.json"))
}

fn emulator(metal: Metal, version: &str) -> Emulator {
    Emulator {
        metal,
        missing: Vec::new(),
        version: Some(version.to_owned()),
    }
}

/// A host that lacks nothing.
fn sound() -> Findings {
    let parameters = [("avic", "0"), ("nested", "1"), ("npt", "Y")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Findings {
        processor: Processor {
            vendor: "AuthenticAMD".into(),
            model: "AMD EPYC 7763".into(),
            microcode: None,
            flags: ["fpu", "svm", "npt"].map(String::from).into(),
            count: 8,
        },
        modules: BTreeMap::from([
            ("kvm".into(), BTreeMap::new()),
            ("kvm_amd".into(), BTreeMap::from(parameters)),
        ]),
        kvm: Ok(amd()),
        memory: Some(Size::mib(4096)),
        transparent: Some("madvise".into()),
        huge_pages: vec![HugePages {
            size: Size::mib(2),
            free: 3,
            total: 4,
        }],
        emulators: vec![
            emulator(Metal::Svm, "QEMU emulator version 7.2.22 (Debian)"),
            emulator(Metal::Vmx, "Bochs 2.7"),
        ],
        kernels: Kernels {
            host: vec!["vmlinuz-6.1.0-45-amd64".into()],
            cached: vec!["linux-image-6.12.deb".into()],
        },
        iso: Vec::new(),
        tun: Ok(()),
    }
}

fn parameter(findings: &mut Findings, name: &str, value: &str) {
    let parameters = findings.modules.get_mut("kvm_amd").unwrap();
    parameters.insert(name.into(), value.into());
}

#[test]
fn a_sound_host_needs_no_remedy() {
    let diagnosis = Diagnosis::of(sound());
    for row in &diagnosis.rows {
        assert_eq!((row.status, &row.remedy), (Status::Ok, &None), "{row:?}");
    }
    assert!(diagnosis.metals.iter().all(|metal| metal.usable));
    let found: Vec<&str> = diagnosis
        .rows
        .iter()
        .map(|row| row.found.as_str())
        .collect();
    for line in [
        "AuthenticAMD, AMD EPYC 7763, 8 CPUs",
        "SVM (flag svm)",
        "nested=1 npt=Y avic=0",
        "shows guests SVM, NPT",
        "transparent: madvise, 3 of 4 free at 2M",
        "QEMU 7.2.22 (Debian)",
        "/boot/vmlinuz-6.1.0-45-amd64, linux-image-6.12.deb (cached)",
    ] {
        assert!(found.contains(&line), "{line} isn't in {found:#?}");
    }
}

/// What is wrong, the row that tells, its status, and a word of its remedy.
type Case = (fn(&mut Findings), &'static str, Status, &'static str);

#[test]
fn one_thing_wrong_is_told_with_its_remedy() {
    let cases: [Case; 18] = [
        (
            |f| f.processor.vendor = "CentaurHauls".into(),
            "processor",
            Status::Fail,
            "VMX or SVM",
        ),
        (
            |f| f.processor.flags.clear(),
            "virtualization",
            Status::Fail,
            "firmware",
        ),
        (
            |f| f.processor.flags.retain(|flag| flag != "npt"),
            "nested paging",
            Status::Warn,
            "NPT",
        ),
        (
            |f| f.modules.clear(),
            "kernel modules",
            Status::Fail,
            "modprobe kvm_amd",
        ),
        (
            |f| drop(f.modules.remove("kvm_amd")),
            "kernel modules",
            Status::Fail,
            "modprobe kvm_amd",
        ),
        (
            |f| parameter(f, "nested", "0"),
            "module parameters",
            Status::Fail,
            "nested=1",
        ),
        (
            |f| parameter(f, "npt", "N"),
            "module parameters",
            Status::Warn,
            "npt=1",
        ),
        (
            |f| f.kvm = Err(KvmError::Absent),
            "/dev/kvm",
            Status::Fail,
            "modprobe",
        ),
        (
            |f| f.kvm = Err(KvmError::Permission),
            "/dev/kvm",
            Status::Fail,
            "usermod",
        ),
        (
            |f| f.kvm = Err(KvmError::Open(kvm_ioctls::Error::new(libc::EIO))),
            "/dev/kvm",
            Status::Fail,
            "dmesg",
        ),
        (
            |f| f.kvm = Err(KvmError::Capabilities(vec!["KVM_CAP_IRQFD"])),
            "KVM interface",
            Status::Fail,
            "newer kernel",
        ),
        (
            |f| f.kvm.as_mut().unwrap().nested_state = 0,
            "nested state",
            Status::Fail,
            "4.19",
        ),
        (
            |f| {
                f.kvm = Ok(facts(include_str!(
                    "../../../arch/src/cpuid/dumps/amd-milan-nested-off.json"
                )));
            },
            "--nested auto",
            Status::Fail,
            "modprobe",
        ),
        (
            |f| f.memory = Some(Size::mib(512)),
            "memory",
            Status::Warn,
            "2048 MiB",
        ),
        (
            |f| f.transparent = Some("never".into()),
            "huge pages",
            Status::Warn,
            "madvise",
        ),
        (
            |f| f.emulators[1].missing = vec![("a.rom", "vgabios"), ("bochs", "bochs")],
            "emulator for vmx",
            Status::Warn,
            "apt-get install bochs vgabios",
        ),
        (
            |f| f.kernels = Kernels::default(),
            "kernels",
            Status::Warn,
            "image build",
        ),
        (
            |f| f.tun = Err(io::ErrorKind::NotFound.into()),
            "/dev/net/tun",
            Status::Warn,
            "modprobe tun",
        ),
    ];
    for (break_it, check, status, remedy) in cases {
        let mut findings = sound();
        break_it(&mut findings);
        let diagnosis = Diagnosis::of(findings);
        let row = diagnosis
            .rows
            .iter()
            .find(|row| row.check == check)
            .unwrap_or_else(|| panic!("no row {check}"));
        assert_eq!(row.status, status, "{row:?}");
        let said = row.remedy.as_deref().unwrap_or_default();
        assert!(said.contains(remedy), "{row:?}");
        for other in diagnosis.rows {
            assert_eq!(
                other.remedy.is_none(),
                other.status == Status::Ok,
                "{other:?}"
            );
        }
    }
}

#[test]
fn what_has_no_meaning_is_left_out() {
    let mut pvm = sound();
    pvm.kvm = Ok(facts(include_str!(
        "../../../arch/src/cpuid/dumps/amd-epyc-pvm.json"
    )));
    let rows = Diagnosis::of(pvm).rows;
    assert!(rows.iter().all(|row| row.check != "nested state"));
    assert!(rows.iter().any(|row| row.check == "KVM interface"));

    let mut findings = sound();
    findings.processor.flags.clear();
    findings.kvm = Err(KvmError::Absent);
    let rows = Diagnosis::of(findings).rows;
    for check in ["nested paging", "KVM interface", "nested state"] {
        assert!(rows.iter().all(|row| row.check != check), "{check}");
    }
}

#[test]
fn one_metal_is_enough() {
    let mut findings = sound();
    findings.kvm = Err(KvmError::Permission);
    findings.emulators[0].missing = vec![("qemu-system-x86_64", "qemu-system-x86")];
    let diagnosis = Diagnosis::of(findings);
    assert!(diagnosis.can_nest());
    assert!(diagnosis.facts.is_none());
    assert!(text(&diagnosis, false).ends_with(
        "nestling nest can use --metal vmx (host: no permission to open /dev/kvm; \
         svm: qemu-system-x86_64 isn't installed)\n"
    ));
}

#[test]
fn without_any_metal_nothing_nests() {
    let mut findings = sound();
    findings.kvm = Err(KvmError::Absent);
    for emulator in &mut findings.emulators {
        emulator.missing = vec![("program", "package")];
    }
    let diagnosis = Diagnosis::of(findings);
    assert!(!diagnosis.can_nest());
    assert!(text(&diagnosis, false).contains("\nNo metal can nest here (host: there is no"));
}

#[test]
fn the_table_is_aligned_and_coloured_only_on_demand() {
    let mut findings = sound();
    findings.memory = Some(Size::mib(512));
    let diagnosis = Diagnosis::of(findings);
    let plain = text(&diagnosis, false);
    assert!(plain.starts_with("processor          ok    AuthenticAMD"));
    assert!(plain.contains(
        "\nmemory             warn  512 MiB available\n\
         \x20                        -> free some: a nest of two levels wants 2048 MiB\n"
    ));
    assert!(!plain.contains('\x1b'));
    assert!(text(&diagnosis, true).contains("\x1b[33mwarn\x1b[0m  512 MiB"));
}

#[test]
fn the_json_form_has_a_version_and_facts_as_dumps_hold_them() {
    let json = serde_json::to_value(Diagnosis::of(sound())).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["rows"][0]["check"], "processor");
    assert_eq!(json["rows"][0]["status"], "ok");
    assert_eq!(json["rows"][0]["remedy"], serde_json::Value::Null);
    assert_eq!(json["metals"][0]["metal"], "host");
    assert_eq!(json["metals"][0]["usable"], true);
    let facts: HostFacts = serde_json::from_value(json["facts"].clone()).unwrap();
    assert_eq!(facts, amd());
}
