//! `nestling run` on this host's KVM, with guests of a few instructions: a host
//! that can't run a Linux kernel can still run those.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Output, Stdio};

use nestling_tests::payload::Code;
use nestling_tests::{binary, or_skip, skip, terminal};
use serde_json::Value;

/// Runs `code` with further arguments and nothing on standard input.
fn run(code: &Code, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, code.elf()).unwrap();
    binary::command()
        .args(["run", "--memory", "16M", "--kernel"])
        .arg(&kernel)
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_guest_prints_on_standard_output_and_powers_off() {
    or_skip!(skip::needs_kvm());
    let output = run(&Code::new().say("hello\n").power_off(), &[]);
    assert_eq!(stdout(&output), "hello\n");
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
}

#[test]
fn a_reset_ends_the_machine_where_it_must_not_boot_again() {
    or_skip!(skip::needs_kvm());
    let output = run(&Code::new().say("once").reset(), &["--no-reboot"]);
    assert_eq!(stdout(&output), "once");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_reset_boots_the_guest_again() {
    or_skip!(skip::needs_kvm());
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, Code::new().say("boot\n").reset().elf()).unwrap();
    let mut child = Command::new(binary::path())
        .args(["run", "--memory", "16M", "--kernel"])
        .arg(&kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut text = [0; 15];
    let read = child.stdout.take().unwrap().read_exact(&mut text);
    child.kill().unwrap();
    child.wait().unwrap();
    read.unwrap();
    assert_eq!(&text, b"boot\nboot\nboot\n");
}

#[test]
fn a_triple_fault_fails_and_says_so() {
    or_skip!(skip::needs_kvm());
    let output = run(&Code::new().say("here").triple_fault(), &["--no-reboot"]);
    assert_eq!(stdout(&output), "here");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("triple fault"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn counts_are_printed_as_a_table_or_as_json() {
    or_skip!(skip::needs_kvm());
    let code = Code::new().say("four").power_off();
    let text = stderr(&run(&code, &["--stats"]));
    let row = text
        .lines()
        .find(|line| line.starts_with("user_port_writes "))
        .unwrap_or_else(|| panic!("{text}"));
    let count: u64 = row.split_whitespace().last().unwrap().parse().unwrap();
    // Four characters, what shows them, and the power-off.
    assert_eq!(count, 6);
    let output = run(&code, &["--stats", "--format", "json"]);
    let counts: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(counts["version"], 1);
    assert_eq!(counts["total"]["user_port_writes"], 6);
    assert_eq!(counts["vcpus"].as_array().unwrap().len(), 1);
    assert_eq!(stdout(&output), "four");
}

#[test]
fn a_file_configures_a_machine_and_flags_win() {
    or_skip!(skip::needs_kvm());
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write(
        "kernel",
        &Code::new().say("from the file").power_off().elf(),
    );
    write("other", &Code::new().say("from the flag").power_off().elf());
    // Relative paths start at the file's folder.
    write(
        "machine.toml",
        b"version = 1\nkernel = \"kernel\"\nmemory = \"16M\"\nserial = \"file=log\"\n",
    );
    let config = folder.path().join("machine.toml");
    let command = || {
        let mut command = binary::command();
        command.args(["run", "--config"]).arg(&config);
        command
    };
    command().assert().success().stdout("");
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log, "from the file");
    let output = command()
        .arg("--kernel")
        .arg(folder.path().join("other"))
        .args(["--serial", "tty"])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "from the flag");
}

#[test]
fn events_tell_a_machines_life() {
    or_skip!(skip::needs_kvm());
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("events");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let events = format!("unix={}", socket.display());
    let output = run(&Code::new().power_off(), &["--events", &events]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut text = String::new();
    listener
        .accept()
        .unwrap()
        .0
        .read_to_string(&mut text)
        .unwrap();
    let kinds: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["vcpu", "started", "exits", "ended"], "{text}");
    assert!(text.contains("\"power-off\""), "{text}");
}

#[test]
fn two_signals_end_a_guest_that_ignores_its_power_button() {
    or_skip!(skip::needs_kvm());
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, Code::new().say("up").halt().elf()).unwrap();
    let mut child = Command::new(binary::path())
        .args(["run", "--memory", "16M", "--kernel"])
        .arg(&kernel)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 2];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let mut said = child.stderr.take().unwrap();
    terminate(&child);
    // It has taken the first signal once it says so.
    let mut word = [0; 1];
    said.read_exact(&mut word).unwrap();
    terminate(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[expect(unsafe_code, reason = "the standard library has no kill(2)")]
fn terminate(child: &std::process::Child) {
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: takes no pointers; the child isn't waited for yet, so the number is its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
}

/// The terminal's modes: input, output, control, local.
#[expect(unsafe_code, reason = "the standard library has no tcgetattr(3)")]
fn modes(terminal: &impl AsRawFd) -> [libc::tcflag_t; 4] {
    // SAFETY: a termios is plain integers, for which zeroes are values.
    let mut found: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a termios of this frame.
    let got = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut found) };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    [found.c_iflag, found.c_oflag, found.c_cflag, found.c_lflag]
}

#[test]
fn a_terminal_is_raw_while_the_guest_runs_and_restored_by_ctrl_a_x() {
    or_skip!(skip::needs_kvm());
    let (mut person, program) = terminal::open();
    let before = modes(&program);
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, Code::new().say("ready").echo().elf()).unwrap();
    let mut child = Command::new(binary::path())
        .args(["run", "--memory", "16M", "--kernel"])
        .arg(&kernel)
        .stdin(program.try_clone().unwrap())
        .stdout(program.try_clone().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    terminal::read_until(&mut person, "ready");
    let during = modes(&program);
    assert_eq!(during[3] & (libc::ICANON | libc::ECHO | libc::ISIG), 0);
    // What is typed reaches the guest, Ctrl-C as well; Ctrl-A twice is one.
    person.write_all(b"a\x03b\x01\x01c").unwrap();
    terminal::read_until(&mut person, "a\x03b\x01c");
    person.write_all(b"\x01x").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(modes(&program), before);
}

#[test]
fn a_terminal_is_restored_when_the_guest_fails() {
    or_skip!(skip::needs_kvm());
    let (mut person, program) = terminal::open();
    let before = modes(&program);
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, Code::new().say("ready").triple_fault().elf()).unwrap();
    let mut child = Command::new(binary::path())
        .args(["run", "--no-reboot", "--memory", "16M", "--kernel"])
        .arg(&kernel)
        .stdin(program.try_clone().unwrap())
        .stdout(program.try_clone().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    terminal::read_until(&mut person, "ready");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(modes(&program), before);
}
