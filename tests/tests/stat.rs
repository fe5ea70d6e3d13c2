//! `nestling stat` and `nestling top`, on machines of this host's KVM with guests
//! of a few instructions.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nestling_tests::payload::Code;
use nestling_tests::{binary, or_skip, skip};
use serde_json::Value;
use tempfile::TempDir;

/// A user's folder for sockets, with a machine that answers in it.
struct Machine {
    runtime: TempDir,
    child: Child,
}

impl Machine {
    /// Boots a guest that sends back what it is sent, and waits until it is asked
    /// for.
    fn boot(arguments: &[&str]) -> Self {
        let runtime = tempfile::tempdir().unwrap();
        let kernel = runtime.path().join("kernel");
        fs::write(&kernel, Code::new().say("up").echo().elf()).unwrap();
        let child = Command::new(binary::path())
            .args(["run", "--memory", "16M", "--kernel"])
            .arg(&kernel)
            .args(arguments)
            .env("XDG_RUNTIME_DIR", runtime.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { runtime, child }
    }

    fn named(name: &str) -> Self {
        let machine = Self::boot(&["--cpus", "2", "--name", name]);
        machine.wait_for(&machine.socket());
        machine
    }

    fn socket(&self) -> PathBuf {
        let name = format!("{}.sock", self.child.id());
        self.runtime.path().join("nestling").join(name)
    }

    fn wait_for(&self, path: &Path) {
        let start = Instant::now();
        while !path.exists() {
            assert!(start.elapsed() < Duration::from_secs(30), "no {path:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn stat(&self, arguments: &[&str]) -> String {
        stat(self.runtime.path(), arguments)
    }

    fn look(&self) -> Value {
        serde_json::from_str(&self.stat(&["--format", "json"])).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `nestling stat` prints for the user whose folder this is.
fn stat(runtime: &Path, arguments: &[&str]) -> String {
    let output = binary::command()
        .arg("stat")
        .args(arguments)
        .env("XDG_RUNTIME_DIR", runtime)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_machine_that_runs_says_what_it_is_and_what_it_counts() {
    or_skip!(skip::needs_kvm());
    let machine = Machine::named("lab");
    let folder = fs::metadata(machine.socket().parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o700);
    let first = machine.look();
    assert_eq!(first["version"], 1);
    let lab = &first["machines"][0];
    assert_eq!(
        (&lab["name"], &lab["kind"]),
        (&"lab".into(), &"machine".into())
    );
    assert_eq!(lab["pid"], machine.child.id());
    assert_eq!(
        (&lab["cpus"], &lab["memory_bytes"]),
        (&2.into(), &(16 << 20).into())
    );
    assert_eq!(lab["hypervisor"], "none");
    assert_eq!(lab["threads"].as_array().unwrap().len(), 2);
    let counted = |look: &Value| {
        let machine = &look["machines"][0]["stat"]["machines"][0];
        assert_eq!(machine["vcpus"].as_array().unwrap().len(), 2);
        assert_eq!(machine["boot"], 1);
        let count = |value: &Value| value["user_port_reads"].as_u64().unwrap();
        let vcpus = [0, 1].map(|vcpu| count(&machine["vcpus"][vcpu]["counts"]));
        assert!(count(&machine["total"]) >= vcpus[0] + vcpus[1]);
        vcpus
    };
    // The guest polls its serial port; the other vCPU waits to be started.
    let (before, after) = (counted(&first), counted(&machine.look()));
    assert!(after[0] > before[0], "{before:?} {after:?}");
    assert_eq!(after[1], 0);
}

#[test]
fn counts_are_a_table_of_totals_or_rates() {
    or_skip!(skip::needs_kvm());
    let machine = Machine::named("lab");
    let process = machine.child.id().to_string();
    let socket = machine.socket();
    for named in ["lab", &process, socket.to_str().unwrap()] {
        let totals = machine.stat(&[named]);
        let rows: Vec<Vec<&str>> = totals
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0][..3], ["machine", "part", "exits"]);
        let parts: Vec<_> = rows[1..].iter().map(|row| (row[0], row[1])).collect();
        assert_eq!(parts, [("lab", "all"), ("lab", "0"), ("lab", "1")]);
    }
    let rates = machine.stat(&["lab", "--interval", "1", "--count", "2"]);
    let titles = rates.lines().filter(|line| line.starts_with("machine "));
    assert_eq!(titles.count(), 2, "{rates}");
}

#[test]
fn counts_are_metrics_for_prometheus() {
    or_skip!(skip::needs_kvm());
    let machine = Machine::named("lab");
    let text = machine.stat(&["--format", "prometheus"]);
    let reads = r#"nestling_user_exits_total{machine="lab",vcpu="0",level="1",kind="port_read"} "#;
    let line = text.lines().find_map(|line| line.strip_prefix(reads));
    let count: u64 = line.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(count > 0);
    for line in [
        "# TYPE nestling_user_exits_total counter",
        r#"nestling_hypervisor_on{machine="lab"} 0"#,
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
}

#[test]
fn a_socket_is_where_it_is_wanted_or_nowhere_and_goes_with_its_machine() {
    or_skip!(skip::needs_kvm());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.sock");
    let mut machine = Machine::boot(&["--api-socket", path.to_str().unwrap()]);
    machine.wait_for(&path);
    assert!(!machine.socket().exists());
    assert!(machine.stat(&[path.to_str().unwrap()]).contains("machine-"));
    // This guest doesn't see its power button; asked again, the machine is ended.
    let id = machine.child.id().to_string();
    while machine.child.try_wait().unwrap().is_none() {
        let kill = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(kill.success());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!path.exists());

    let log = folder.path().join("log");
    let serial = format!("file={}", log.display());
    let machine = Machine::boot(&["--api-socket", "off", "--serial", &serial]);
    machine.wait_for(&log);
    assert!(!machine.socket().exists());
    assert!(machine.stat(&[]).starts_with("no machine and no nest"));
}

#[test]
fn what_killed_machines_left_is_removed() {
    let runtime = tempfile::tempdir().unwrap();
    assert!(stat(runtime.path(), &[]).starts_with("no machine and no nest"));
    let left = runtime.path().join("nestling/999999.sock");
    drop(UnixListener::bind(&left).unwrap());
    assert_eq!(stat(runtime.path(), &["--format", "prometheus"]), "");
    assert!(!left.exists());
}

#[test]
fn what_cannot_be_shown_is_refused() {
    for (arguments, code, part) in [
        (&["stat", "nobody"][..], 1, "no machine or nest of yours"),
        (&["stat", "/nonexistent/socket"], 1, "/nonexistent/socket"),
        (&["stat", "--count", "2"], 2, "--interval"),
        (&["stat", "--interval", "0"], 2, "1..=86400"),
        (
            &["stat", "--format", "prometheus", "--interval", "1"],
            2,
            "--interval",
        ),
        (&["doctor", "--format", "prometheus"], 2, "nestling stat"),
        (&["top"], 2, "needs a terminal"),
        (&["run", "--kernel", "k", "--name", "12"], 2, "--name"),
        (&["run", "--kernel", "k", "--name", "a/b"], 2, "--name"),
    ] {
        let refusal = binary::refusal(arguments);
        assert_eq!(refusal.code, code, "{}", refusal.line);
        assert!(refusal.line.contains(part), "{}", refusal.line);
    }
}
