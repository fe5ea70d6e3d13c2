//! `nestling bench`: what becomes of results, good and bad.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nestling_tests::binary::{self, refusal};
use nestling_tests::or_skip;
use nestling_tests::results::Run;
use serde_json::Value;
use tempfile::TempDir;

/// A folder with results of `run`.
fn results(run: &Run) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    run.write(folder.path());
    folder
}

/// Runs `nestling bench` and gives its exit code, standard output and standard error.
fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = binary::command()
        .arg("bench")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn path(folder: &TempDir) -> &str {
    folder.path().to_str().unwrap()
}

/// Refuses the arguments by an exit code of `code`, and says `part`.
fn refuses(arguments: &[&str], code: i32, part: &str) {
    let refused = refusal([&["bench"], arguments].concat());
    assert_eq!(refused.code, code, "{arguments:?}: {}", refused.line);
    assert!(
        refused.line.contains(part),
        "{arguments:?}: {}",
        refused.line
    );
}

#[test]
fn rows_are_listed_and_explained() {
    let (code, text, _) = bench(&["list"]);
    assert_eq!(code, Some(0));
    let rows: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    for row in [
        "nop",
        "hypercall",
        "device-notify",
        "program-timer",
        "send-ipi",
        "container",
    ] {
        assert!(rows.contains(&row), "{row}: {text}");
    }
    let (_, json, _) = bench(&["list", "--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), rows.len());
    let (_, text, _) = bench(&["list", "cpuid"]);
    assert!(
        text.starts_with("cpuid (ns)\n") && text.contains("Leaf 0"),
        "{text}"
    );
    refuses(&["list", "cpu-id"], 2, "no row is called `cpu-id`");
}

#[test]
fn a_report_is_four_files() {
    let folder = results(&Run::default());
    let (code, text, _) = bench(&["report", path(&folder)]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("Measured on EPYC, 10 boots.\n"), "{text}");
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let json: Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(json["noisy"], false, "{}", json["complaints"]);
    assert!(read("report.csv").contains("\ncpuid,2,svm,nestling,ratio-to-L1,,"));
    assert!(read("report.md").contains("| cpuid | 1 | 21 | 1 |"));
    assert!(read("report.html").contains("<h1>What a level costs</h1>"));
    // Again, over the first.
    let (code, printed, _) = bench(&["report", path(&folder), "--format", "json"]);
    assert_eq!((code, printed), (Some(0), read("report.json")));
}

#[test]
fn an_emulated_metal_is_the_first_line_and_no_time_is_given() {
    let folder = results(&Run {
        metal: "svm",
        boots: 3,
        ..Run::default()
    });
    let (_, text, _) = bench(&["report", path(&folder)]);
    assert!(
        text.starts_with("L0 ran on an emulated processor (svm)"),
        "{text}"
    );
    let markdown = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(
        markdown.starts_with("L0 ran on an emulated processor (svm)"),
        "{markdown}"
    );
    assert!(
        !markdown.contains(" ns") && !markdown.contains("µs"),
        "{markdown}"
    );
}

#[test]
fn broken_results_are_refused_and_stay_as_they_are() {
    let empty = tempfile::tempdir().unwrap();
    refuses(&["report", path(&empty)], 2, "holds no results");
    refuses(&["report", "/nonexistent"], 1, "/nonexistent: No such file");
    let other = results(&Run::default());
    let manifest = other.path().join("manifest.json");
    fs::write(&manifest, r#"{"version": 2, "nestling": "7.0.0"}"#).unwrap();
    refuses(
        &["report", path(&other)],
        1,
        "version 2 of the format, and this nestling reads 1",
    );
    let good = results(&Run::default());
    refuses(
        &["compare", path(&good), path(&other)],
        1,
        "the nestling that wrote it, 7.0.0",
    );
    fs::write(&manifest, r#"{"version": 1, "nest"#).unwrap();
    refuses(
        &["report", path(&other)],
        1,
        "manifest.json is damaged: it ends too early",
    );
    // A boot of another version: the run was continued by another nestling.
    let boot = good.path().join("boot-0003.json");
    let text = fs::read_to_string(&boot).unwrap();
    fs::write(&boot, text.replace("\"version\":1", "\"version\":9")).unwrap();
    refuses(&["report", path(&good)], 1, "boot-0003.json has version 9");
    assert!(!good.path().join("report.json").exists());
}

#[test]
fn an_interrupted_file_is_named_and_the_others_are_used() {
    let folder = results(&Run::default());
    let boot = folder.path().join("boot-0004.json");
    let whole = fs::read(&boot).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(&boot, half).unwrap();
    let (code, text, warning) = bench(&["report", path(&folder)]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("Measured on EPYC, 9 boots."), "{text}");
    let expected = format!("it ends too early, after {} bytes", half.len());
    assert!(
        warning.contains("boot-0004.json") && warning.contains(&expected),
        "{warning}"
    );
    assert_eq!(fs::read(&boot).unwrap(), half);
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains(&expected) && page.contains("1 boot of the plan is missing"));
}

#[test]
fn comparing_fails_where_something_regressed() {
    let [a, b] = [1, 2].map(|seed| {
        results(&Run {
            seed,
            ..Run::default()
        })
    });
    let worse = results(&Run {
        slowness: 1.2,
        seed: 3,
        ..Run::default()
    });
    let (code, text, _) = bench(&["compare", path(&a), path(&b)]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.ends_with(" 0 regressed, 0 improved, 0 undecided, 0 controls differ, 0 lost\n"));
    let (code, text, _) = bench(&["compare", path(&a), path(&worse)]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(" 3 regressed"), "{text}");
    let (code, _, _) = bench(&["compare", path(&a), path(&worse), "--threshold", "30%"]);
    assert_eq!(code, Some(0));
    let rows = ["compare", path(&a), path(&worse), "--rows", "syscall"];
    assert_eq!(bench(&rows).0, Some(0));
    let (code, json, _) = bench(&["compare", path(&a), path(&worse), "--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["ok"]), (Some(1), &Value::Bool(false)));
    refuses(
        &["compare", path(&a), path(&b), "--threshold", "5"],
        2,
        "as in 5%",
    );
    refuses(
        &["compare", path(&a), path(&b), "--rows", "frob"],
        2,
        "`frob`",
    );
    refuses(
        &["compare", path(&a), path(&b), "--rows", "nop"],
        1,
        "nothing in common",
    );
}

#[test]
fn estimates_agree_with_numpy() {
    let python = or_skip!(numpy());
    let folder = results(&Run::default());
    assert_eq!(bench(&["report", path(&folder)]).0, Some(0));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference.py");
    let output = Command::new(python)
        .arg(script)
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("12 estimates agree"), "{said}");
}

/// A Python that has numpy: the first in the path, or Debian's.
fn numpy() -> Result<PathBuf, String> {
    let pythons = ["python3", "/usr/bin/python3"].map(PathBuf::from);
    let has_numpy = |python: &PathBuf| {
        let status = Command::new(python)
            .args(["-c", "import numpy"])
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let found = pythons.into_iter().find(has_numpy);
    found.ok_or_else(|| "no numpy: install python3-numpy".to_owned())
}
