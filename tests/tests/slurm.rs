//! `nestling bench run --executor slurm`: boots as tasks of a real cluster.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nestling_tests::slurm::{self, Cluster};
use nestling_tests::{binary, or_skip, skip};
use serde_json::Value;

/// A run of two boots of an emulated L0.
fn command(cluster: &Cluster, folder: &Path) -> Command {
    let mut command = Command::new(binary::path());
    command
        .env(slurm::VARIABLE, cluster.configuration())
        .args(["bench", "run", "--executor", "slurm", "--metal", "svm"])
        .args(["--levels", "0", "--rows", "nop,cpuid", "--samples", "20"])
        .args(["--boots", "2", "--output"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Lets it end; its exit code, and what it said on standard error.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

/// The tasks that the cluster has had, each with its state.
fn tasks(cluster: &Cluster) -> Vec<String> {
    let options = ["--noheader", "--array", "--states=all", "--format=%i %T"];
    let listing = cluster.ask("squeue", &options);
    let mut tasks: Vec<String> = listing.lines().map(str::to_owned).collect();
    tasks.sort();
    tasks
}

#[test]
fn boots_are_tasks_of_an_array() {
    or_skip!(skip::needs("qemu-system-x86_64"));
    let cluster = or_skip!(Cluster::start());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();

    // Without a search path a task finds no emulator. The first array is job 1, and as
    // each task has a number, the next is job 3.
    let (code, said) =
        run(command(&cluster, folder).arg("--slurm-option=--export=ALL,PATH=/nonexistent"));
    assert_eq!(code, Some(1), "{said}");
    for boot in 0..2 {
        let log = folder.join(format!("slurm-1_{boot}.log"));
        let named = format!(
            "boot {boot} (FAILED, NonZeroExitCode, see {})",
            log.display()
        );
        assert!(said.contains(&named), "{said}");
        let log = fs::read_to_string(log).unwrap();
        assert!(log.contains("qemu-system-x86_64"), "{log}");
    }

    // A signal takes the tasks back.
    let running = command(&cluster, folder).spawn().unwrap();
    cluster.wait("running tasks", || {
        let tasks = tasks(&cluster);
        ["3_0 RUNNING", "3_1 RUNNING"].map(str::to_owned) == tasks[2..]
    });
    let mut kill = Command::new("kill");
    kill.args(["-INT", &running.id().to_string()]);
    assert!(kill.status().unwrap().success());
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Slurm's job 3 is cancelled"), "{said}");
    cluster.wait("cancelled tasks", || {
        let tasks = tasks(&cluster);
        ["3_0 CANCELLED", "3_1 CANCELLED"].map(str::to_owned) == tasks[2..]
    });

    // The same command goes on.
    let (code, said) = run(&mut command(&cluster, folder));
    assert_eq!(code, Some(0), "{said}");
    for boot in 0..2 {
        let file = folder.join(format!("boot-{boot:04}.json"));
        let measured: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let environment = &measured["levels"][0]["environment"];
        assert_eq!(environment["exposure"], "svm", "{measured}");
        let log = folder.join(format!("slurm-5_{boot}.log"));
        assert!(log.exists(), "{said}");
    }
    assert!(folder.join("report.html").exists());

    // Nothing is left to do.
    let before = tasks(&cluster);
    let (code, said) = run(&mut command(&cluster, folder));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(tasks(&cluster), before);
}
