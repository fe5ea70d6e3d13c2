//! Ends that nobody planned: a signal, a dead emulator. Nothing may be left.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nestling_tests::{binary, or_skip, skip};

/// How long an emulator may take to be there, or to be gone.
const PATIENCE: Duration = Duration::from_secs(120);

/// A nest on the svm metal, with temporary files in a folder of its own.
struct Nest {
    child: Child,
    folder: tempfile::TempDir,
}

impl Nest {
    /// Starts one and waits until its emulator runs.
    fn start() -> (Self, u32) {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(binary::path())
            .args([
                "nest",
                "--metal",
                "svm",
                "--depth",
                "1",
                "--workload",
                "hang",
            ])
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let nest = Self { child, folder };
        let start = Instant::now();
        loop {
            if let Some(emulator) = nest.emulator() {
                return (nest, emulator);
            }
            assert!(start.elapsed() < PATIENCE, "no emulator was started");
            sleep(Duration::from_millis(100));
        }
    }

    /// The process of the emulator, once it is one.
    fn emulator(&self) -> Option<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
            .find(|child| name(*child).is_some_and(|name| name.starts_with("qemu-system")))
    }

    /// Sends a signal and waits for the end.
    fn end_by(self, signal: i32) -> (Output, tempfile::TempDir) {
        send(self.child.id(), signal);
        self.end()
    }

    fn end(self) -> (Output, tempfile::TempDir) {
        (self.child.wait_with_output().unwrap(), self.folder)
    }
}

/// The name of a process that runs.
fn name(id: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    (!field("State")?.starts_with('Z')).then(|| field("Name"))?
}

#[expect(unsafe_code, reason = "the standard library has no kill(2)")]
fn send(id: u32, signal: i32) {
    let id = libc::pid_t::try_from(id).unwrap();
    // SAFETY: takes no pointers; the process is this one's child, or its child's.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0);
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

fn ended_by(signal: i32) {
    let (nest, emulator) = Nest::start();
    let (output, folder) = nest.end_by(signal);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(name(emulator), None, "the emulator runs on");
    assert!(is_empty(folder.path()), "temporary files are left");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("L0 stopped"), "{table}");
}

#[test]
fn ctrl_c_leaves_no_emulator_and_no_files() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    ended_by(libc::SIGINT);
}

#[test]
fn sigterm_leaves_no_emulator_and_no_files() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    ended_by(libc::SIGTERM);
}

#[test]
fn a_killed_emulator_is_the_failure_named() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    let (nest, emulator) = Nest::start();
    send(emulator, libc::SIGKILL);
    let (output, folder) = nest.end();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(is_empty(folder.path()), "temporary files are left");
    let table = String::from_utf8_lossy(&output.stdout);
    let said: Vec<&str> = table
        .lines()
        .filter(|line| line.contains("signal: 9"))
        .collect();
    assert!(!said.is_empty(), "{table}");
}

#[test]
fn an_emulator_goes_when_nestling_is_killed() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    let (nest, emulator) = Nest::start();
    let _ = nest.end_by(libc::SIGKILL);
    let start = Instant::now();
    while name(emulator).is_some() {
        assert!(start.elapsed() < PATIENCE, "the emulator runs on");
        sleep(Duration::from_millis(50));
    }
}
