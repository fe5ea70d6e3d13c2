//! A nest that ran: its report, its events, and one machine's life among them.

use std::fs;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary;
use crate::plan::Machine;

/// Emulators compete for processors and time limits: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The turn of whoever runs an emulator, until it is dropped.
pub fn turn() -> MutexGuard<'static, ()> {
    // A test that failed while it had its turn took nothing along.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where runs are kept to be looked at, by this environment variable.
const LOGS: &str = "NESTLING_TEST_LOGS";

/// A run that several tests look at. It is made once, also if it fails.
#[derive(Debug, Default)]
pub struct Shared<T>(OnceLock<Option<T>>);

impl<T> Shared<T> {
    /// One that nobody has asked for yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The run, which the first to ask makes.
    ///
    /// # Panics
    /// If making it did: in whoever made it, with the reason, and in all others.
    pub fn get(&self, make: impl FnOnce() -> T) -> &T {
        let mut reason = None;
        let made = self.0.get_or_init(|| {
            panic::catch_unwind(AssertUnwindSafe(make))
                .map_err(|payload| reason = Some(payload))
                .ok()
        });
        if let Some(payload) = reason {
            panic::resume_unwind(payload);
        }
        made.as_ref()
            .expect("the run that this test looks at failed, as another test says")
    }
}

/// What became of one `nestling nest`.
#[derive(Debug)]
pub struct Nest {
    /// How the process ended.
    pub status: ExitStatus,
    /// What it printed with `--format json`.
    pub report: Value,
    /// Every event, in order.
    pub events: Vec<Value>,
    /// What it printed on standard error: the consoles.
    pub console: String,
}

impl Nest {
    /// Boots a nest by these arguments and sees it through, `limit` at most.
    ///
    /// # Panics
    /// If its report or its events can't be read.
    #[must_use]
    pub fn run(arguments: &[&str], limit: Duration) -> Self {
        let _turn = turn();
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let log = folder.path().join("events.jsonl");
        let start = Instant::now();
        let output = binary::command()
            .timeout(limit)
            .args(["--format", "json", "nest", "--events-output"])
            .arg(&log)
            .args(arguments)
            .output()
            .expect("the binary can be run");
        let console = String::from_utf8_lossy(&output.stderr).into_owned();
        say(&format!(
            "nest {}: {} s",
            arguments.join(" "),
            start.elapsed().as_secs()
        ));
        if let Some(kept) = std::env::var_os(LOGS) {
            keep(Path::new(&kept), &log, &console, &output.stdout);
        }
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{}: no report ({error}):\n{console}", output.status);
        });
        let events = fs::read_to_string(&log)
            .expect("an event log")
            .lines()
            .map(|line| serde_json::from_str(line).expect("each event is JSON"))
            .collect();
        Self {
            status: output.status,
            report,
            events,
            console,
        }
    }

    /// Boots the machines of `plan` by `nest --plan` and these further arguments.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    #[must_use]
    pub fn boot(plan: &Machine, arguments: &[&str], limit: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let path = folder.path().join("plan.json");
        fs::write(&path, plan.json().to_string()).expect("a plan can be written");
        let path = path.to_str().expect("temporary paths are UTF-8");
        Self::run(&[&["--plan", path], arguments].concat(), limit)
    }

    /// The life of the machine that the plan calls `name`.
    ///
    /// # Panics
    /// If it was never started.
    #[must_use]
    pub fn machine(&self, name: &str) -> Life<'_> {
        let start = self
            .events
            .iter()
            .position(|event| event["event"] == "starts" && event["name"] == name)
            .unwrap_or_else(|| panic!("{name} was never started:\n{}", self.console));
        self.life_from(start, name)
    }

    /// The life of the first machine of `level`.
    ///
    /// # Panics
    /// If it was never started.
    #[must_use]
    pub fn level(&self, level: u64) -> Life<'_> {
        let start = self
            .events
            .iter()
            .position(|event| event["event"] == "starts" && event["level"] == level)
            .unwrap_or_else(|| panic!("L{level} was never started:\n{}", self.console));
        self.life_from(start, "")
    }

    /// The phase of the report that is the step `name` of `level`.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn phase(&self, level: u64, name: &str) -> &Value {
        let phases = self.report["phases"].as_array().expect("phases are a list");
        phases
            .iter()
            .find(|phase| phase["level"] == level && phase["name"] == name)
            .unwrap_or_else(|| panic!("L{level} has no phase {name}: {phases:#?}"))
    }

    fn life_from(&self, start: usize, name: &str) -> Life<'_> {
        let level = &self.events[start]["level"];
        let rest = &self.events[start..];
        let end = rest
            .iter()
            .position(|event| event["event"] == "ended" && event["level"] == *level)
            .map_or(rest.len(), |end| end + 1);
        Life {
            name: name.to_owned(),
            level: level.as_u64().expect("levels are numbers"),
            events: &rest[..end],
        }
    }
}

/// One machine's events and those of the machines within, from its start to its end.
#[derive(Debug)]
pub struct Life<'a> {
    name: String,
    level: u64,
    events: &'a [Value],
}

impl<'a> Life<'a> {
    /// The events of this kind that are the machine's own.
    pub fn own<'b>(&'b self, kind: &'b str) -> impl Iterator<Item = &'a Value> + 'b {
        self.events
            .iter()
            .filter(move |event| event["event"] == kind && event["level"] == self.level)
    }

    /// What it found when it came up.
    ///
    /// # Panics
    /// If it didn't.
    pub fn booted(&self) -> &'a Value {
        self.own("booted")
            .next()
            .unwrap_or_else(|| panic!("{} did not boot: {:#?}", self.name, self.events))
    }

    /// The results of its workloads of this name, in order.
    #[must_use]
    pub fn results(&self, workload: &str) -> Vec<&'a Value> {
        self.own("workload")
            .filter(|event| event["name"] == workload)
            .collect()
    }

    /// What its workload of this name reported on success.
    ///
    /// # Panics
    /// If there is no such result, or more than one, or a failed one.
    pub fn output(&self, workload: &str) -> &'a str {
        let results = self.results(workload);
        let [result] = results[..] else {
            panic!(
                "{} has {} results of {workload}: {:#?}",
                self.name,
                results.len(),
                self.events
            );
        };
        assert_eq!(result["ok"], true, "{result}");
        result["output"].as_str().expect("an output is text")
    }

    /// What its `probe` found.
    ///
    /// # Panics
    /// As [`output`](Self::output).
    #[must_use]
    pub fn probe(&self) -> Value {
        serde_json::from_str(self.output("probe")).expect("a probe reports JSON")
    }

    /// The kind of its fault, if it had one.
    #[must_use]
    pub fn fault(&self) -> Option<&'a str> {
        self.own("fault")
            .next()
            .map(|fault| fault["kind"].as_str().expect("a kind is text"))
    }

    /// How it ended.
    ///
    /// # Panics
    /// If it didn't.
    #[must_use]
    pub fn how(&self) -> &'a str {
        self.own("ended")
            .next()
            .and_then(|event| event["how"].as_str())
            .unwrap_or_else(|| panic!("{} has no end: {:#?}", self.name, self.events))
    }

    /// How many exits KVM counted for it.
    ///
    /// # Panics
    /// As [`exits`](Self::exits).
    #[must_use]
    pub fn exit_count(&self) -> u64 {
        self.exits()["exits"].as_u64().expect("counts are numbers")
    }

    /// KVM's counts for it, those at its end.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn exits(&self) -> &'a Value {
        let event = self
            .own("exits")
            .last()
            .unwrap_or_else(|| panic!("{} has no counts: {:#?}", self.name, self.events));
        &event["counts"]
    }
}

/// Says something that a log of the tests should have, capture or not.
fn say(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Keeps a run's events, consoles and report under the name of the test that made it.
fn keep(folder: &Path, log: &Path, console: &str, report: &[u8]) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test");
    let kept = fs::create_dir_all(folder)
        .and_then(|()| fs::copy(log, folder.join(format!("{test}.events.jsonl"))))
        .and_then(|_| fs::write(folder.join(format!("{test}.console.txt")), console))
        .and_then(|()| fs::write(folder.join(format!("{test}.report.json")), report));
    if let Err(error) = kept {
        say(&format!(
            "cannot keep the run in {}: {error}",
            folder.display()
        ));
    }
}

/// What a nest's levels did with their network.
pub mod network {
    use super::Nest;

    /// Asserts that each level above L0 has the address that it should have,
    /// that the deepest used its network, and that L0 reached it.
    ///
    /// # Panics
    /// If it isn't so.
    pub fn is_used(nest: &Nest, addresses: &[&str]) {
        for (level, address) in (1..).zip(addresses) {
            let told = nest.level(level).output("address");
            assert!(
                told.starts_with(&format!("{address} by DHCP")),
                "L{level}: {told}"
            );
        }
        let depth = u64::try_from(addresses.len()).expect("a few levels");
        let told = nest.level(depth).output("network");
        for found in [
            "192.168.100.1 answers pings",
            "gateway.l0.internal is 192.168.100.1",
            "http://192.0.2.1:80/ has 41 bytes",
            "its own page was fetched",
        ] {
            assert!(told.contains(found), "{told}");
        }
        let fetched = nest.level(0).output("fetch 127.0.0.1:8080");
        assert!(
            fetched.starts_with("the deepest level's page, 41 bytes"),
            "{fetched}"
        );
    }
}
