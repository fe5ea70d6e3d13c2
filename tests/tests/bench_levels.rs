//! `nestling bench run` on an emulated L0 with levels above it: what each level's rows
//! cost in exits, with paging in two dimensions and without.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use nestling_tests::nest::{self, Shared};
use nestling_tests::{binary, or_skip, skip};
use serde_json::{Value, json};

/// Runs on an emulated L0.
struct Emulated {
    /// What was printed.
    text: String,
    report: Value,
    boots: Vec<Value>,
}

impl Emulated {
    fn run(arguments: &[&str]) -> Self {
        let _turn = nest::turn();
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let output = binary::command()
            .timeout(Duration::from_secs(1200))
            .args([
                "bench", "run", "--metal", "svm", "--cpus", "1", "--boots", "1", "-o",
            ])
            .arg(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let spent = start.elapsed().as_secs();
        // A closed standard error leaves nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "bench run {}: {spent} s",
            arguments.join(" ")
        );
        assert_eq!(output.status.code(), Some(0), "{said}");
        let read = |file| -> Value {
            serde_json::from_slice(&fs::read(folder.path().join(file)).unwrap()).unwrap()
        };
        Self {
            text: String::from_utf8(output.stdout).unwrap(),
            report: read("report.json"),
            boots: ["boot-0000.json", "boot-0001.json"].map(read).into(),
        }
    }

    /// What `level` of boot `number` has told.
    fn level(&self, number: usize, level: usize) -> &Value {
        let found = &self.boots[number]["levels"][level];
        assert_eq!(found["level"], level, "{found}");
        found
    }

    fn cell(&self, row: &str, exposure: &str, level: u8) -> &Value {
        let row = find(&self.report["rows"], |it| it["row"] == row);
        find(&row["cells"], |it| {
            it["exposure"] == exposure && it["level"] == level
        })
    }

    /// The exits of `machine`'s level for one operation of `level`.
    fn exits(&self, row: &str, exposure: &str, level: u8, machine: u8) -> f64 {
        let cell = self.cell(row, exposure, level);
        let exits = find(&cell["exits"], |it| it["machine"] == machine);
        exits["total"]["value"].as_f64().unwrap()
    }
}

/// The first of a list that fits.
fn find(list: &Value, fits: impl Fn(&Value) -> bool) -> &Value {
    let mut all = list.as_array().unwrap().iter();
    let found = all.find(|it| fits(it));
    found.unwrap_or_else(|| panic!("not in {list}"))
}

/// With paging in two dimensions, and without.
const NPT: &str = "svm";
const SHADOW: &str = "svm,-npt";

fn ablation() -> Result<&'static Emulated, String> {
    static RUN: Shared<Emulated> = Shared::new();
    skip::needs("qemu-system-x86_64")?;
    let rows = "nop,syscall,cpuid,hypercall,page-touch-4k,pointer-chase,boot";
    let levels = ["--levels", "0,1,2", "--samples", "1000", "--rows", rows];
    let exposures = ["--exposure", NPT, "--exposure", SHADOW];
    Ok(RUN.get(|| Emulated::run(&[&levels[..], &exposures].concat())))
}

#[test]
fn an_emulated_run_says_first_that_it_has_no_times() {
    let run = or_skip!(ablation());
    let first = run.text.lines().next().unwrap();
    assert!(
        first.starts_with("L0 ran on an emulated processor (svm), where no time"),
        "{first}"
    );
    assert_eq!(run.report["statement"], first);
    for unit in [" ns", "µs", " ms", "B/s", "cycles"] {
        let rest = &run.text[first.len()..];
        assert!(!rest.contains(unit), "{unit}: {rest}");
    }
    for row in run.report["rows"].as_array().unwrap() {
        for cell in row["cells"].as_array().unwrap() {
            assert_eq!(cell["figures"], Value::Null, "{cell}");
        }
    }
    for phase in run.boots.iter().flat_map(phases) {
        let samples = &phase["outcome"]["measured"]["samples"];
        assert!(samples.as_array().is_none_or(Vec::is_empty), "{phase}");
    }
}

/// All phases of a boot.
fn phases(boot: &Value) -> impl Iterator<Item = &Value> {
    let levels = boot["levels"].as_array().unwrap().iter();
    levels.flat_map(|level| level["phases"].as_array().unwrap())
}

#[test]
fn every_level_measures_every_row_once() {
    let run = or_skip!(ablation());
    for (boot, exposure) in run.boots.iter().zip([NPT, SHADOW]) {
        assert_eq!(boot["exposure"], exposure);
        for level in boot["levels"].as_array().unwrap() {
            assert_eq!(level["fault"], Value::Null, "{level}");
            let mut rows: Vec<&str> = level["phases"]
                .as_array()
                .unwrap()
                .iter()
                .map(|phase| phase["row"].as_str().unwrap())
                .collect();
            rows.sort_unstable();
            let expected = [
                "boot",
                "cpuid",
                "hypercall",
                "nop",
                "page-touch-4k",
                "pointer-chase",
                "syscall",
            ];
            assert_eq!(rows, expected, "{level}");
        }
        let failed = phases(boot).filter(|phase| phase["outcome"]["failed"].is_string());
        let failed: Vec<String> = failed.map(|phase| phase["outcome"].to_string()).collect();
        assert_eq!(failed, [r#"{"failed":"L0 has no hypervisor to call"}"#]);
    }
}

#[test]
fn what_must_exit_exits_once_and_costs_l0_several() {
    let run = or_skip!(ablation());
    for row in ["cpuid", "hypercall"] {
        let l1 = run.exits(row, NPT, 1, 1);
        assert!((0.97..1.05).contains(&l1), "{row} at L1: {l1}");
        // One is reflected to L1, and what L1 does about it costs more.
        let reflected = run.exits(row, NPT, 2, 2);
        assert!(
            (0.97..1.05).contains(&reflected),
            "{row} at L2: {reflected}"
        );
        let below = run.exits(row, NPT, 2, 1);
        assert!(
            (3.0..15.0).contains(&below),
            "{row} at L2, counted at L0: {below}"
        );
    }
}

#[test]
fn what_need_not_exit_does_not() {
    let run = or_skip!(ablation());
    for row in ["nop", "syscall"] {
        for (exposure, level) in [(NPT, 1), (NPT, 2), (SHADOW, 1), (SHADOW, 2)] {
            let own = run.exits(row, exposure, level, level);
            assert!(own < 0.02, "{row}, {exposure}, L{level}: {own}");
        }
        let below = run.exits(row, NPT, 2, 1);
        assert!(below < 0.05, "{row} at L2, counted at L0: {below}");
    }
}

#[test]
fn paging_without_npt_exits_where_it_did_not() {
    let run = or_skip!(ablation());
    for row in ["page-touch-4k", "pointer-chase"] {
        for (level, machine) in [(2, 2), (2, 1)] {
            let with = run.exits(row, NPT, level, machine);
            let without = run.exits(row, SHADOW, level, machine);
            assert!(with < 0.3, "{row}, machine of L{machine}: {with}");
            assert!(
                without > with + 0.5,
                "{row}, machine of L{machine}: {with}, {without}"
            );
        }
    }
    // Booting is paging as well.
    let (with, without) = (
        run.exits("boot", NPT, 2, 1),
        run.exits("boot", SHADOW, 2, 1),
    );
    assert!(without > 3.0 * with, "{with}, {without}");
}

#[test]
fn a_level_tells_what_it_measures_on() {
    let run = or_skip!(ablation());
    for (number, npt) in [(0, "Y"), (1, "N")] {
        for level in 0..3 {
            let environment = &run.level(number, level)["environment"];
            let kernel = environment["kernel"].as_str().unwrap();
            assert!(kernel.starts_with("6."), "{environment}");
            assert_eq!(environment["exposure"], "svm");
            assert_eq!(environment["cpus"], 1);
            let cmdline = environment["cmdline"].as_str().unwrap();
            assert!(cmdline.contains("mitigations=off"), "{cmdline}");
        }
        let parameter = |level, name: &str| {
            let parameters = &run.level(number, level)["environment"]["parameters"];
            parameters[name]
                .as_str()
                .unwrap_or_else(|| panic!("{parameters}"))
        };
        assert_eq!(parameter(0, "kvm_amd.npt"), "Y");
        assert_eq!(parameter(0, "kvm_amd.nested"), "1");
        assert_eq!(parameter(1, "kvm_amd.npt"), npt);
        // L2's only vCPU may run on L1's only processor.
        assert_eq!(run.level(number, 2)["environment"]["pinning"], json!([0]));
    }
}

/// Two boots of which not even L0's kernel is up in time.
fn hurried(levels: &str) -> Result<Emulated, String> {
    skip::needs("qemu-system-x86_64")?;
    let brief = ["--levels", levels, "--rows", "nop", "--timeout", "5"];
    let exposures = ["--exposure", "on", "--exposure", "off"];
    Ok(Emulated::run(&[&brief[..], &exposures].concat()))
}

#[test]
fn a_level_that_dies_is_given_more_tries_and_then_named_and_the_next_boot_is_measured() {
    let run = or_skip!(hurried("0,1"));
    for number in 0..2 {
        let fault = run.level(number, 0)["fault"].as_str().unwrap();
        assert!(fault.starts_with("boot-timeout: "), "{fault}");
        assert_eq!(run.level(number, 1)["fault"], "not-reached");
        assert!(
            run.text.contains(&format!("boot {number}: L0: {fault}\n")),
            "{}",
            run.text
        );
    }
    let faults = run.report["faults"].as_array().unwrap();
    assert_eq!((faults.len(), &run.report["boots"]), (4, &2.into()));
    for boot in &run.boots {
        let lost = boot["lost"].as_array().unwrap();
        let expected = "L0: boot-timeout: ";
        assert!(
            lost.iter()
                .all(|it| it.as_str().unwrap().starts_with(expected)),
            "{lost:?}"
        );
        assert_eq!(lost.len(), 2);
    }
    assert_eq!(run.report["repeated"].as_array().unwrap().len(), 4);
}

#[test]
fn what_a_level_died_of_is_told_where_the_one_below_is_not_measured() {
    let run = or_skip!(hurried("1"));
    for boot in &run.boots {
        let fault = boot["levels"][0]["fault"].as_str().unwrap();
        let expected = "not-reached, for L0: boot-timeout: ";
        assert!(fault.starts_with(expected), "{fault}");
    }
}
