//! `nestling bench run` on this host, which measures as L0 alone: what it leaves, how it
//! goes on, and what it refuses.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nestling_tests::binary::{self, Refusal, refusal};
use nestling_tests::{or_skip, skip, terminal};
use serde_json::{Value, json};

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

fn read(folder: &Path, file: &str) -> Value {
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
    let plan = &read(&folder, "manifest.json")["plan"];
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
    let ends: Vec<&str> = said.lines().collect();
    assert_eq!(ends.len(), 2, "{said}");
    assert!(ends[0].starts_with("boot 0: ok, ") && ends[1].starts_with("boot 1: ok, "));
    assert!(
        !said.contains(['\r', '\x1b']) && !said.contains("left"),
        "{said}"
    );

    // Every row was measured twice, so that there is an A/A control.
    let boot = read(&folder, "boot-0001.json");
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
    let report = read(&folder, "report.json");
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
    assert_eq!(read(folder, damaged)["number"], 1);

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
        (
            "--cpus 2 --cpu-affinity 0",
            2,
            "names 1 processors for 2 vCPUs",
        ),
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
    assert_eq!(read(folder, "boot-0001.json")["number"], 1);

    let empty = tempfile::tempdir().unwrap();
    let Refusal { code, line } = refusal(["bench", "boot", empty.path().to_str().unwrap(), "0"]);
    assert_eq!(code, 2, "{line}");
    assert!(line.contains("holds no results"), "{line}");
}

#[test]
fn what_this_host_measures_is_told_as_a_level_tells_it() {
    let measure = |tell: bool| -> Vec<Value> {
        let order = json!({
            "turns": [{ "row": "nop" }, { "row": "hypercall" }, { "row": "cpuid", "pass": 1 }],
            "samples": 150,
            "tell_samples": tell,
        });
        let output = binary::command()
            .args(["bench", "measure"])
            .write_stdin(order.to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let events = measure(true);
    let told: Vec<&str> = events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    // Ten times as many of a control, of which a line takes 1024.
    let expected = [
        "environment",
        "progress",
        "samples",
        "samples",
        "measured",
        "progress",
        "measured",
        "progress",
        "samples",
        "measured",
        "done",
    ];
    assert_eq!(told, expected);
    let count = |event: &Value| event["samples"].as_array().unwrap().len();
    assert_eq!(
        [2, 3, 8].map(|place| count(&events[place])),
        [1024, 476, 150]
    );
    assert_eq!(events[8]["turn"], json!({ "row": "cpuid", "pass": 1 }));
    assert_eq!(events[9]["outcome"]["measured"]["operations"], 150);
    // What can't be measured doesn't keep the next from it.
    let failed = json!({ "failed": "L0 has no hypervisor to call" });
    assert_eq!(
        (&events[6]["row"], &events[6]["outcome"]),
        (&"hypercall".into(), &failed)
    );
    // Where times mean nothing they aren't told.
    assert!(
        measure(false)
            .iter()
            .all(|event| event["event"] != "samples")
    );

    let mut odd = binary::command();
    let odd = odd
        .args(["bench", "measure"])
        .write_stdin("{}")
        .output()
        .unwrap();
    let Refusal { code, line } = binary::refused(&odd);
    assert!(
        code == 2 && line.contains("missing field `turns`"),
        "{line}"
    );
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
    "400",
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
    assert!(
        shown.contains("boot 0 (1 of 6), L0 measures cpu"),
        "{shown:?}"
    );
    // Nothing is known before the first is over.
    let (first, rest) = shown.split_once("boot 0: ok, ").unwrap();
    assert!(!first.contains(" left"), "{first:?}");
    let lines = rest.split(['\r', '\n']);
    let mut left =
        lines.filter(|line| line.contains("boot 3 (4 of 6)") && line.ends_with(" s left"));
    assert!(left.next().is_some(), "{rest:?}");
    // The last that is drawn is taken away.
    assert!(shown.trim_end().ends_with(" s"), "{shown:?}");
    assert!(shown.rfind("\x1b[K") > shown.rfind(" left"), "{shown:?}");
}
