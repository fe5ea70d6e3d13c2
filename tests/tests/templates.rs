//! Templates of processors by the command line: dumps, fleets, checks, machines
//! under them, and what is said of those that can't be.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::path::{Path, PathBuf};

use nestling_tests::binary::{self, Refusal, refusal};
use nestling_tests::payload::Code;
use nestling_tests::{or_skip, skip};
use serde_json::Value;
use tempfile::TempDir;

/// A dump of one of the emulated metals' processors.
fn dump(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dumps");
    folder.join(format!("{name}.json")).display().to_string()
}

/// What a command prints as JSON, and its exit code.
fn json(arguments: &[&str]) -> (Value, i32) {
    let output = binary::command()
        .args(arguments)
        .args(["--format", "json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    (value, output.status.code().unwrap())
}

fn refuses(arguments: &[&str], code: i32, parts: &[&str]) {
    let Refusal { code: found, line } = refusal(arguments);
    assert_eq!(found, code, "{line}");
    for part in parts {
        assert!(line.contains(part), "no {part:?} in: {line}");
    }
}

fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn contains(list: &Value, text: &str) -> bool {
    list.as_array().unwrap().iter().any(|item| item == text)
}

#[test]
fn a_fleets_template_fits_its_hosts_and_says_what_they_lose() {
    let folder = tempfile::tempdir().unwrap();
    for (metal, lost) in [
        (
            "svm",
            ["VGIF (CPUID.8000000AH:EDX[16])", "UMIP (CPUID.7H.0:ECX[2])"],
        ),
        (
            "vmx",
            ["AVX2 (CPUID.7H.0:EBX[5])", "FMA (CPUID.1H:ECX[12])"],
        ),
    ] {
        let template = folder.path().join(metal).display().to_string();
        let dumps = ["usual", "other"].map(|which| dump(&format!("{metal}-{which}")));
        let (fleet, code) = json(&[
            "cpu",
            "intersect",
            &dumps[0],
            &dumps[1],
            "--output",
            &template,
        ]);
        assert_eq!((code, &fleet["version"]), (0, &Value::from(1)));
        for lost in lost {
            assert!(
                contains(&fleet["hosts"][0]["loses"], lost),
                "{lost}: {fleet}"
            );
        }
        let written: Value = serde_json::from_slice(&fs::read(&template).unwrap()).unwrap();
        assert_eq!(fleet["template"], written);
        for (dump, host) in dumps.iter().zip(fleet["hosts"].as_array().unwrap()) {
            let (check, code) = json(&["cpu", "check", &template, dump]);
            assert_eq!((code, &check["fits"]), (0, &Value::from(true)), "{check}");
            // What the host loses is what guests don't see there.
            assert_eq!(check["hides"], host["loses"]);
        }
        let stranger = dump(if metal == "svm" {
            "vmx-usual"
        } else {
            "svm-usual"
        });
        let (check, code) = json(&["cpu", "check", &template, &stranger]);
        assert_eq!((code, &check["fits"]), (1, &Value::from(false)));
    }
}

#[test]
fn named_templates_are_listed_and_written_out() {
    let (list, _) = json(&["cpu", "templates"]);
    let names: Vec<&str> = list["templates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|template| template["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 9);
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let (template, code) = json(&["cpu", "templates", name]);
        assert_eq!((code, template["name"].as_str()), (0, Some(name)));
        // As a file it says the same of a host as by its name.
        let file = write(&folder, name, &template.to_string());
        for host in ["svm-other", "vmx-usual"].map(dump) {
            let [by_name, by_file] =
                [name, &file].map(|which| json(&["cpu", "check", which, &host]));
            assert_eq!(by_name, by_file);
        }
    }
}

#[test]
fn all_that_a_host_lacks_is_named() {
    let (check, code) = json(&["cpu", "check", "x86-64-v4", &dump("vmx-usual")]);
    assert_eq!(code, 1);
    for lack in [
        "AVX512F (CPUID.7H.0:EBX[16])",
        "AVX512VL (CPUID.7H.0:EBX[31])",
        "opmask (CPUID.DH.0:EAX[5])",
    ] {
        assert!(contains(&check["lacks"], lack), "{check}");
        assert!(check["reason"].as_str().unwrap().contains(lack), "{check}");
    }
    let (check, code) = json(&["cpu", "check", "x86-64-v3-intel", &dump("vmx-usual")]);
    assert_eq!(code, 0, "{check}");
}

#[test]
fn what_is_no_dump_or_no_fleet_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("fleet.json").display().to_string();
    let intersect = |dumps: &[&str], code, parts: &[&str]| {
        let arguments = [&["cpu", "intersect", "-o", &output], dumps].concat();
        refuses(&arguments, code, parts);
        assert!(!PathBuf::from(&output).exists());
    };
    let (amd, intel) = (dump("svm-usual"), dump("vmx-usual"));
    intersect(&[], 2, &["DUMP"]);
    intersect(&["absent.json"], 1, &["can't read the dump absent.json"]);
    intersect(
        &[&amd, &intel],
        1,
        &["svm-usual.json", "vmx-usual.json", "can't be one fleet"],
    );
    for (text, said) in [
        ("", "EOF while parsing"),
        ("{\"version\": 7}", "version 7 isn't known"),
        (
            "{\"version\": 1, \"cpuid\": {}}",
            "nestling cpu dump -o FILE",
        ),
    ] {
        let broken = write(&folder, "broken.json", text);
        intersect(&[&amd, &broken], 1, &["broken.json", said]);
    }
}

#[test]
fn what_is_no_template_is_refused_with_file_and_place() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = write(&folder, "kernel", "");
    for (text, parts) in [
        (
            "version = 1\nname = \"a\"\ncpuid = 3\n",
            &["a.toml:3", "invalid type"][..],
        ),
        (
            "version = 1\nname = \"a\"\n[cpuid.\"0x99\"]\n",
            &["a.toml", "cpuid.\"0x99\"", "no leaf"],
        ),
        (
            "version = 1\nname = \"a\"\n[cpuid.\"0x1\"]\nesi = \"0x0\"\n",
            &["a.toml:4", "unknown field `esi`", "`eax`"],
        ),
        (
            "version = 1\nname = \"a\"\n[msrs]\n0x1a0 = \"0x0\"\n",
            &["a.toml", "msrs.\"0x1a0\"", "IA32_ARCH_CAPABILITIES"],
        ),
        (
            "version = 1\nname = \"a\"\n[cpuid.\"0x1\"]\neax = { mask = \"x\" }\n",
            &["a.toml", "cpuid.\"0x1\".EAX.mask", "`x`", "0x20"],
        ),
        (
            "version = 1\nname = \"a\"\nhide = [\"AVX9\"]\n",
            &["a.toml", "hide", "`AVX9`"],
        ),
        (
            "version = 9\nname = \"a\"\n",
            &["a.toml", "schema version 9"],
        ),
        (
            "{\"version\": 1, \"name\": \"a\", \"mask\": 0}",
            &["a.toml", "`mask`", "line 1"],
        ),
    ] {
        let file = write(&folder, "a.toml", text);
        refuses(&["cpu", "check", &file], 2, parts);
        let run = ["run", "--kernel", &kernel, "--cpu-template", &file];
        refuses(&run, 2, parts);
        refuses(
            &[
                "nest",
                "--metal",
                "svm",
                "--cpu-template",
                &file,
                "--print-plan",
            ],
            2,
            parts,
        );
    }
    refuses(
        &["cpu", "check", "x86-64-v9"],
        2,
        &["no template `x86-64-v9`", "x86-64-v3-amd"],
    );
    refuses(
        &["cpu", "templates", "x86-64-v9"],
        2,
        &["no template `x86-64-v9`"],
    );
    refuses(
        &["nest", "--metal-cpu", "a b"],
        2,
        &["--metal-cpu", "letters"],
    );
}

#[test]
fn a_machine_runs_under_its_hosts_own_template() {
    or_skip!(skip::needs_kvm());
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (own, template) = (path("own.json"), path("template.json"));
    for arguments in [
        &["cpu", "dump", "--output", &own][..],
        &["cpu", "intersect", &own, "--output", &template],
        &["cpu", "check", &template],
    ] {
        binary::command().args(arguments).assert().success();
    }
    let kernel = path("kernel");
    fs::write(&kernel, Code::new().power_off().elf()).unwrap();
    let machine = [
        "run", "--kernel", &kernel, "--memory", "16M", "--nested", "off",
    ];
    let output = binary::command()
        .args(machine)
        .args(["--cpu-template", &template])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("and KVM keeps") {
        skip::skip(&format!("this host's KVM changes CPUID: {}", said.trim()));
    } else {
        assert!(output.status.success(), "{said}");
    }
    // No processor has had all of these.
    let impossible = write(
        &folder,
        "impossible.toml",
        "version = 1\nname = \"impossible\"\nrequire = [\"3DNow\", \"XOP\", \"AMX_TILE\"]\n",
    );
    let arguments = [&machine[..], &["--cpu-template", &impossible]].concat();
    refuses(
        &arguments,
        1,
        &["impossible asks for what this host lacks", "3DNow (CPUID.8"],
    );
}

#[test]
fn what_cannot_be_of_hyperv_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = write(&folder, "kernel", "");
    for (text, parts) in [
        ("hv-time", &["hv-time", "no enlightenment", "relaxed"][..]),
        ("stimer", &["stimer needs synic"]),
        ("evmcs", &["evmcs needs vapic"]),
        ("-time", &["on before it"]),
        ("off,time", &["leave \"time\" out"]),
    ] {
        let option = format!("--hyperv={text}");
        refuses(&["run", "--kernel", &kernel, &option], 2, parts);
        refuses(&["nest", &option], 2, parts);
    }
}
