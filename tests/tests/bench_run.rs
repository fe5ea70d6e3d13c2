//! `nestling bench run`: on this host, which measures as L0 alone, and on an emulated
//! one with levels above it.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nestling_tests::binary::{self, Refusal, refusal};
use nestling_tests::nest::Shared;
use nestling_tests::{or_skip, skip, terminal};
use serde_json::Value;

/// This host as L0, and two rows that are quick.
const HOST: [&str; 6] = ["--metal", "host", "--levels", "0", "--rows", "nop,cpuid"];
/// Two boots of a moment each.
const BRIEF: [&str; 4] = ["--boots", "2", "--samples", "20"];

/// What a folder holds.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap();
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(|entry| file(entry.unwrap())).collect()
}

/// The results alone: a report is made anew each time.
fn results(folder: &Path) -> Files {
    let mut files = files(folder);
    files.retain(|name, _| !name.starts_with("report."));
    files
}

fn arguments<'a>(folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let folder = folder.to_str().unwrap();
    [&["bench", "run", "-o", folder], &HOST[..], &BRIEF, more].concat()
}

/// How a run ended, and what it printed.
struct Ended {
    code: Option<i32>,
    out: String,
    said: String,
}

fn nestling(arguments: &[&str]) -> Ended {
    let output = binary::command().args(arguments).output().unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        said: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Measures this host, as [`HOST`] and [`BRIEF`] say.
fn run(folder: &Path) -> Ended {
    let ended = nestling(&arguments(folder, &[]));
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    ended
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

#[test]
fn a_run_leaves_its_boots_and_four_reports() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new/results");
    let mut arguments = arguments(&folder, &["--seed", "7"]);
    let rows = arguments.iter().position(|it| *it == "nop,cpuid").unwrap();
    arguments[rows] = "block-rand-read,syscall,cpu,nop,cpuid";
    let Ended { code, out, said } = nestling(&arguments);
    assert_eq!(code, Some(0), "{said}");
    let names: Vec<String> = files(&folder).into_keys().collect();
    let expected = [
        "boot-0000.json",
        "boot-0001.json",
        "manifest.json",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
    ];
    assert_eq!(names, expected);
    let plan = &json(&folder, "manifest.json")["plan"];
    let rows = "[\"nop\",\"syscall\",\"cpuid\",\"cpu\",\"block-rand-read\"]";
    assert_eq!(plan["rows"].to_string(), rows);
    assert_eq!(
        (&plan["emulated"], &plan["seed"]),
        (&false.into(), &7.into())
    );
    assert_eq!(plan["settings"]["samples"], 20);

    // The tables, and where the rest is.
    assert!(out.starts_with("Measured on "), "{out}");
    for row in ["nop", "syscall", "cpuid", "cpu", "block-rand-read"] {
        assert!(out.contains(&format!("\n{row} ")), "{row}: {out}");
    }
    assert!(out.contains("report.html\n"), "{out}");
    // Without a terminal there is no line that moves.
    assert!(said.contains("\nboot 0: ok, "), "{said}");
    assert!(said.contains("\nboot 1: ok, "), "{said}");
    assert!(
        !said.contains(['\r', '\x1b']) && !said.contains("left"),
        "{said}"
    );

    // Every row was measured twice, so that there is an A/A control.
    let boot = json(&folder, "boot-0001.json");
    let [level] = &boot["levels"].as_array().unwrap()[..] else {
        panic!("{boot}")
    };
    assert!(!level["environment"]["kernel"].as_str().unwrap().is_empty());
    let phases = level["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 10, "{boot}");
    for phase in phases {
        let measured = &phase["outcome"]["measured"];
        let taken = measured["samples"].as_array().unwrap().len();
        assert!(taken > 0, "{phase}");
        assert!(measured["operations"].as_u64() > Some(0), "{phase}");
    }
    let report = json(&folder, "report.json");
    let controls = report["controls"].as_array().unwrap();
    // Of nothing there may be nothing to compare.
    for row in ["syscall", "cpuid", "cpu", "block-rand-read"] {
        assert!(
            controls.iter().any(|control| control["row"] == row),
            "{row}: {controls:?}"
        );
    }
}

#[test]
fn a_run_that_is_over_is_not_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder);
    let before = results(folder);
    let again = run(folder);
    assert!(
        again.said.contains("2 boots are there already"),
        "{}",
        again.said
    );
    assert!(!again.said.contains("boot 0"), "{}", again.said);
    assert_eq!(results(folder), before);

    // Others can read the report.
    let printed = nestling(&arguments(folder, &["--format", "json"]));
    assert_eq!(printed.code, Some(0), "{}", printed.said);
    let report = fs::read_to_string(folder.join("report.json")).unwrap();
    assert_eq!(printed.out, report);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        (&report["boots"], &report["plan"]["metal"]),
        (&2.into(), &"host".into())
    );
}

#[test]
fn a_damaged_file_is_set_aside_and_its_boot_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder);
    let before = results(folder);
    let (damaged, whole) = ("boot-0001.json", &before["boot-0001.json"]);
    let half = &whole[..whole.len() / 2];
    fs::write(folder.join(damaged), half).unwrap();
    // What a process left that was killed while it wrote.
    let partial = "boot-0000.json.77.partial";
    fs::write(folder.join(partial), b"{\"version\":").unwrap();

    let Ended { said, .. } = run(folder);
    let reason = format!(
        "{damaged} is set aside: it ends too early, after {} bytes",
        half.len()
    );
    assert!(said.contains(&reason), "{said}");
    assert!(
        said.contains("\nboot 1: ok") && !said.contains("\nboot 0:"),
        "{said}"
    );
    let after = results(folder);
    assert_eq!(after["boot-0001.json.damaged-0"], half);
    assert_eq!(
        after["boot-0000.json.77.partial.damaged-0"],
        b"{\"version\":"
    );
    assert!(!after.contains_key(partial));
    for kept in ["manifest.json", "boot-0000.json"] {
        assert_eq!(after[kept], before[kept]);
    }
    assert_eq!(json(folder, damaged)["number"], 1);

    // Twice the same doesn't cover up the first.
    fs::write(folder.join(damaged), b"no").unwrap();
    run(folder);
    let last = results(folder);
    assert_eq!(last["boot-0001.json.damaged-0"], half);
    assert_eq!(last["boot-0001.json.damaged-1"], b"no");
}

#[test]
fn other_flags_in_the_same_folder_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder);
    let before = files(folder);
    for (flags, what) in [
        (["--rows", "nop"], "rows"),
        (["--boots", "3"], "numbers of boots"),
        (["--seed", "5"], "seeds"),
        (["--exposure", "off"], "exposures"),
        (["--samples", "21"], "settings"),
        (["--cmdline", "quiet"], "settings"),
    ] {
        let mut arguments = arguments(folder, &[]);
        // A flag that is there already gets another value.
        match arguments.iter().position(|it| *it == flags[0]) {
            Some(place) => arguments[place + 1] = flags[1],
            None => arguments.extend(flags),
        }
        let Refusal { code, line } = refusal(arguments);
        assert_eq!(code, 2, "{line}");
        let said = format!("holds results of another run, whose {what} differ");
        assert!(line.contains(&said), "{flags:?}: {line}");
        assert_eq!(files(folder), before, "{flags:?}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_and_leaves_no_folder() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("results");
    for (flags, code, part) in [
        ("--rows nop,frob", 2, "no row is called `frob`"),
        ("--rows=", 2, "no row is called ``"),
        ("--levels 9", 2, "level 9, and 7 is the highest"),
        ("--levels 300", 2, "300"),
        ("--samples 0", 2, "--samples 0: take 1 to 1048576"),
        ("--samples 1048577", 2, "take 1 to 1048576"),
        ("--boots 0", 2, "0 is not in 1.."),
        ("--timeout 0", 2, "0 is not in 1.."),
        ("--cpu-affinity 0", 2, "names 1 processors for 2 vCPUs"),
        ("--boots 100001", 2, "at most 100000"),
        ("--exposure svn", 2, "svn"),
        (
            "--exposure on --exposure on",
            2,
            "an exposure or a monitor twice",
        ),
        ("--monitor qemu-i440fx", 2, "qemu-i440fx"),
        ("--metal hots", 2, "hots"),
        // What only the metal and the image can tell.
        (
            "--metal svm --kernel /nonexistent/bzImage",
            1,
            "/nonexistent/bzImage",
        ),
        (
            "--metal svm --memory 16M",
            2,
            "16 MiB of memory are too little",
        ),
        ("--metal svm --memory 4000G", 2, "lower --memory"),
        // The fourth configuration is the first that can't be.
        (
            "--metal svm --memory 320M --monitor nestling --monitor qemu-q35 --exposure on \
             --exposure svm,-npt",
            2,
            "monitor qemu-q35 cannot boot a machine with controls",
        ),
    ] {
        let path = folder.to_str().unwrap();
        let words = flags.split_whitespace();
        let arguments = ["bench", "run", "-o", path].into_iter().chain(words);
        let ended = nestling(&arguments.collect::<Vec<_>>());
        assert_eq!(ended.code, Some(code), "{flags}: {}", ended.said);
        assert_eq!(ended.out, "", "{flags}");
        // Besides which metal it would have been.
        let lines = ended.said.lines();
        let lines: Vec<&str> = lines
            .filter(|line| !line.starts_with(" INFO metal: "))
            .collect();
        let [line] = lines[..] else {
            panic!("{flags}: {}", ended.said)
        };
        assert!(
            line.starts_with("nestling: ") && line.contains(part),
            "{flags}: {line}"
        );
        assert!(!folder.exists(), "{flags}");
    }

    // A file isn't a folder.
    fs::write(&folder, b"mine").unwrap();
    let arguments = arguments(&folder, &[]);
    let Refusal { code, line } = refusal(arguments);
    assert_eq!(code, 1, "{line}");
    assert!(line.contains("results: Not a directory"), "{line}");
    assert_eq!(fs::read(&folder).unwrap(), b"mine");
}

#[test]
fn results_of_another_version_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder);
    for file in ["boot-0001.json", "manifest.json"] {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        let other = text.replace("\"version\":1,", "\"version\":9,");
        assert_ne!(other, text);
        fs::write(&path, other).unwrap();
        let before = files(folder);
        let Refusal { code, line } = refusal(arguments(folder, &[]));
        assert_eq!(code, 1, "{line}");
        let said = format!("{file} has version 9 of the format, and this nestling reads 1");
        assert!(line.contains(&said), "{line}");
        assert_eq!(files(folder), before);
    }
}

#[test]
fn one_boot_is_measured_by_its_number_but_never_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    run(folder);
    let path = folder.to_str().unwrap();
    let before = files(folder);
    let there = nestling(&["bench", "boot", path, "1"]);
    assert_eq!(there.code, Some(1), "{}", there.said);
    let said = "boot-0001.json is there already, and results are never overwritten";
    assert!(there.said.contains(said), "{}", there.said);
    let Refusal { code, line } = refusal(["bench", "boot", path, "2"]);
    assert_eq!(code, 2, "{line}");
    assert!(
        line.contains("the run has no boot 2: its plan has 2, from 0"),
        "{line}"
    );
    assert_eq!(files(folder), before);

    fs::remove_file(folder.join("boot-0001.json")).unwrap();
    let missing = nestling(&["bench", "boot", path, "1"]);
    assert_eq!(missing.code, Some(0), "{}", missing.said);
    assert_eq!(json(folder, "boot-0001.json")["number"], 1);

    let empty = tempfile::tempdir().unwrap();
    let Refusal { code, line } = refusal(["bench", "boot", empty.path().to_str().unwrap(), "0"]);
    assert_eq!(code, 2, "{line}");
    assert!(line.contains("holds no results"), "{line}");
}

/// A run of boots that take a good part of a second each.
const LONG: [&str; 12] = [
    "--metal",
    "host",
    "--levels",
    "0",
    "--rows",
    "cpu",
    "--samples",
    "150",
    "--boots",
    "6",
    "--seed",
    "3",
];

fn long(folder: &Path) -> Command {
    let mut command = Command::new(binary::path());
    command
        .args(["bench", "run", "-o"])
        .arg(folder)
        .args(LONG)
        .env_remove("NESTLING_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn wait_for(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {path:?}");
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before {path:?}"
        );
        sleep(Duration::from_millis(5));
    }
}

#[expect(unsafe_code, reason = "the standard library has no kill(2)")]
fn interrupt(child: &Child) {
    let id = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: takes no pointers; the child isn't waited for yet, so the number is its own.
    assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
}

#[test]
fn ctrl_c_keeps_the_boots_that_were_over_and_the_same_command_goes_on() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("results");
    let mut child = long(&folder).spawn().unwrap();
    wait_for(&folder.join("boot-0000.json"), &mut child);
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let kept = format!("kept in {}; the same command goes on", folder.display());
    assert!(said.contains(&kept), "{said}");
    assert_eq!(output.stdout, b"");
    let before = files(&folder);
    let boots = before.keys().filter(|name| name.starts_with("boot-"));
    let boots = boots.count();
    assert!((1..6).contains(&boots), "{boots}");
    // Nothing half done.
    assert_eq!(before.len(), boots + 1, "{:?}", before.keys());

    let output = long(&folder).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let there = format!("{boots} boots are there already");
    assert!(said.contains(&there) || boots == 1, "{said}");
    let after = files(&folder);
    for (name, content) in before {
        assert_eq!(after[&name], content, "{name}");
    }
    assert!(after.contains_key("boot-0005.json"));
}

#[test]
fn a_terminal_is_told_where_the_run_is_and_how_long_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut person, program) = terminal::open();
    let mut child = long(folder.path())
        .stdout(Stdio::null())
        .stderr(program)
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    let mut some = [0; 1024];
    // The terminal ends with an error when nobody has its other end.
    while let Ok(read @ 1..) = person.read(&mut some) {
        shown.extend_from_slice(&some[..read]);
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let shown = String::from_utf8(shown).unwrap();
    assert!(shown.contains("boot 1 of 6, L0 measures cpu"), "{shown:?}");
    // Nothing is known before the first is over.
    let (first, rest) = shown.split_once("boot 0: ok, ").unwrap();
    assert!(!first.contains(" left"), "{first:?}");
    let lines = rest.split(['\r', '\n']);
    let mut left = lines.filter(|line| line.contains("boot 4 of 6") && line.ends_with(" s left"));
    assert!(left.next().is_some(), "{rest:?}");
    // The last that is drawn is taken away.
    assert!(shown.trim_end().ends_with(" s"), "{shown:?}");
    assert!(shown.rfind("\x1b[K") > shown.rfind(" left"), "{shown:?}");
}

/// Runs on an emulated L0.
struct Emulated {
    /// What was printed.
    text: String,
    report: Value,
    boots: Vec<Value>,
}

impl Emulated {
    fn run(arguments: &[&str]) -> Self {
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
        Self {
            text: String::from_utf8(output.stdout).unwrap(),
            report: json(folder.path(), "report.json"),
            boots: ["boot-0000.json", "boot-0001.json"]
                .map(|file| json(folder.path(), file))
                .into(),
        }
    }

    /// What `level` of boot `number` has told.
    fn level(&self, number: usize, level: usize) -> &Value {
        let found = &self.boots[number]["levels"][level];
        assert_eq!(found["level"], level, "{found}");
        found
    }

    fn cell(&self, row: &str, exposure: &str, level: u8) -> &Value {
        let of = |list: &'_ Value, fits: &dyn Fn(&Value) -> bool| {
            list.as_array().unwrap().iter().position(fits).unwrap()
        };
        let rows = &self.report["rows"];
        let cells = &rows[of(rows, &|it| it["row"] == row)]["cells"];
        let place = of(cells, &|it| {
            it["exposure"] == exposure && it["level"] == level
        });
        &cells[place]
    }

    /// The exits of `machine`'s level for one operation of `level`.
    fn exits(&self, row: &str, exposure: &str, level: u8, machine: u8) -> f64 {
        let cell = self.cell(row, exposure, level);
        let exits = cell["exits"].as_array().unwrap();
        let found = exits.iter().find(|it| it["machine"] == machine);
        let value = found.and_then(|it| it["total"]["value"].as_f64());
        value.unwrap_or_else(|| panic!("{row}: {cell}"))
    }
}

/// With paging in two dimensions, and without.
const NPT: &str = "svm";
const SHADOW: &str = "svm,-npt";

fn ablation() -> Result<&'static Emulated, String> {
    static RUN: Shared<Emulated> = Shared::new();
    skip::needs("qemu-system-x86_64")?;
    let rows = "nop,syscall,cpuid,hypercall,page-touch-4k,pointer-chase,boot";
    Ok(RUN.get(|| {
        Emulated::run(&[
            "--levels",
            "0,1,2",
            "--samples",
            "1000",
            "--rows",
            rows,
            "--exposure",
            NPT,
            "--exposure",
            SHADOW,
        ])
    }))
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
    for unit in [" ns", "µs", " ms", "/s", "cycles"] {
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
            assert!(with < 0.3, "{row} at L{machine}, with NPT: {with}");
            assert!(
                without > with + 0.5,
                "{row} at L{machine}: {with}, {without}"
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
        assert_eq!(
            run.level(number, 2)["environment"]["pinning"],
            serde_json::json!([0])
        );
    }
}

#[test]
fn a_level_that_dies_is_named_and_the_next_boot_is_measured() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    // No kernel is up in so little time.
    let run = Emulated::run(&[
        "--levels",
        "0,1",
        "--rows",
        "nop",
        "--timeout",
        "5",
        "--exposure",
        "on",
        "--exposure",
        "off",
    ]);
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
}
