//! The work a level is given, and the faults it is told to provoke.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::bench;
use super::cpu;
use super::facts::{self, Processor};
use super::network::{self, Joined};
use super::report::{Reporter, say};
use super::setup;
use super::sys::{self, Status};
use crate::channel::{MAX_TEXT, WorkloadResult};
use crate::image::programs::SEARCH_PATH;
use crate::nest::process;
use crate::order::{Workload, pattern};
use crate::signals::Signals;

/// How long a program may take to end once it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How long a provoked fault may take to show.
const FAULT: Duration = Duration::from_secs(600);

/// Why a workload couldn't be run.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("no shell in this image: add /bin/sh to it")]
    NoShell,
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{device} holds fewer than {length} bytes")]
    Short { device: String, length: u64 },
    #[error("the fault did not happen: {0}")]
    NoFault(String),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// The result of a workload that did its work.
fn passed(work: &Workload, output: String) -> WorkloadResult {
    WorkloadResult {
        name: work.name(),
        ok: true,
        status: None,
        output,
    }
}

/// Runs `work`; a fault that shows ends the system instead of returning.
pub(super) fn run(
    work: &Workload,
    level: u8,
    network: &Joined,
    reporter: &mut Reporter,
    stop: &Signals,
) -> Result<WorkloadResult, Error> {
    let output = match work {
        Workload::Hello => hello(level),
        Workload::Shell => return shell(level, stop),
        Workload::Program { argv, env } => return program(work, argv, env, level, stop),
        Workload::Network(work) => network.work(work, stop)?,
        Workload::Probe => probe(),
        Workload::CpuDump => cpu::dump(reporter)?,
        Workload::Bench(work) => bench::run(work, level, reporter, stop)?,
        Workload::Cpuid { count } => cpuid(*count),
        Workload::DiskWrite {
            device,
            length,
            seed,
        } => disk_write(device, *length, *seed)?,
        Workload::DiskDigest { device, length } => disk_digest(device, *length)?,
        Workload::PowerOff => String::new(),
        Workload::Reset => return Err(reset("acpi")),
        Workload::TripleFault => return Err(reset("triple")),
        Workload::Panic => return Err(panic()),
        Workload::Hang => return Err(hang()),
        Workload::OutOfMemory => return out_of_memory(work),
    };
    Ok(passed(work, output))
}

fn hello(level: u8) -> String {
    let Processor { vendor, count, .. } = Processor::current();
    let text = format!(
        "hello from L{level}: Linux {}, {count} x {vendor}",
        sys::kernel_release()
    );
    say(&text);
    text
}

/// Facts as one JSON object.
fn probe() -> String {
    let processor = Processor::current();
    let flags: BTreeMap<&str, bool> = ["vmx", "svm", "ept", "npt", "hypervisor"]
        .into_iter()
        .map(|flag| (flag, processor.has(flag)))
        .collect();
    json!({
        "vendor": processor.vendor,
        "cpus": processor.count,
        "flags": flags,
        "hypervisor": facts::hypervisor(),
        "kvm": facts::has_kvm(),
        "parameters": facts::kvm_parameters(),
    })
    .to_string()
}

/// Executes CPUID so many times. A hypervisor sees each: with VMX it can't be
/// let through (SDM 3, 26.1.2), and with SVM KVM intercepts it.
fn cpuid(count: u64) -> String {
    for _ in 0..count {
        std::hint::black_box(std::arch::x86_64::__cpuid(0));
    }
    format!("{count} times")
}

/// Adds what every process of a level finds in its environment.
fn environment(command: &mut Command, level: u8) {
    command
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("HOME", "/root");
    command
        .env("TERM", "linux")
        .env("NESTLING_LEVEL", level.to_string());
}

fn shell(level: u8, stop: &Signals) -> Result<WorkloadResult, Error> {
    let shells = [("/bin/sh", None), ("/bin/busybox", Some("sh"))];
    let (path, applet) = shells
        .into_iter()
        .find(|(path, _)| Path::new(path).exists())
        .ok_or(Error::NoShell)?;
    let mut command = Command::new(path);
    command.args(applet).arg("-i");
    environment(&mut command, level);
    command
        .env("PS1", format!("L{level} \\w # "))
        .current_dir("/");
    process::prepare(&mut command, &[], false);
    sys::take_terminal(&mut command);
    let child = start(&mut command, path)?;
    let (status, _) = attend(child, None, false, stop)?;
    // How an interactive shell ends says nothing about the level.
    Ok(WorkloadResult {
        name: "shell".into(),
        ok: true,
        status: status.code(),
        output: String::new(),
    })
}

fn program(
    work: &Workload,
    argv: &[String],
    env: &BTreeMap<String, String>,
    level: u8,
    stop: &Signals,
) -> Result<WorkloadResult, Error> {
    let [path, arguments @ ..] = argv else {
        return Err(Error::System(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let (output, output_end) = io::pipe()?;
    let mut command = Command::new(path);
    environment(&mut command, level);
    command
        .args(arguments)
        .envs(env)
        .current_dir("/")
        .stdin(Stdio::null());
    command.stdout(output_end.try_clone()?).stderr(output_end);
    process::prepare(&mut command, &[], true);
    let child = start(&mut command, path)?;
    // The command holds the pipe's other end, whose closing is waited for.
    drop(command);
    let (status, output) = attend(child, Some(output.into()), true, stop)?;
    let output = match status.signal() {
        Some(signal) => format!("{output}killed by signal {signal}"),
        None => output,
    };
    Ok(WorkloadResult {
        name: work.name(),
        ok: status.success(),
        status: status.code(),
        output,
    })
}

fn start(command: &mut Command, program: &str) -> Result<Child, Error> {
    command.spawn().map_err(|source| Error::Start {
        program: program.to_owned(),
        source,
    })
}

/// Waits for `child`, shows its output on the console and keeps the start of it.
/// A stop ends it.
fn attend(
    mut child: Child,
    output: Option<OwnedFd>,
    group: bool,
    stop: &Signals,
) -> io::Result<(ExitStatus, String)> {
    let ended = process::exit_descriptor(&child)?;
    let mut output = output.map(File::from);
    let mut kept = Vec::new();
    let mut kill_at: Option<Instant> = None;
    loop {
        let mut fds = vec![ended.as_fd()];
        fds.extend(output.as_ref().map(AsFd::as_fd));
        if kill_at.is_none() {
            fds.push(stop.as_fd());
        }
        let ready = process::poll(&fds, kill_at.map_or(Duration::MAX, |_| GRACE))?;
        if output.is_some() && ready[1] {
            let mut buffer = [0; 4096];
            let count = output
                .as_mut()
                .map_or(Ok(0), |pipe| pipe.read(&mut buffer))?;
            let _ = io::stderr().write_all(&buffer[..count]);
            kept.extend(&buffer[..count.min(MAX_TEXT - kept.len())]);
            if count == 0 {
                output = None;
            }
        } else if ready[0] {
            // Its output is drained: nothing was ready besides its end. What it
            // left running goes with it.
            process::signal(&child, libc::SIGKILL, group);
            let status = child.wait()?;
            return Ok((status, String::from_utf8_lossy(&kept).into_owned()));
        } else if kill_at.is_none() && ready.last() == Some(&true) {
            process::signal(&child, libc::SIGTERM, group);
            kill_at = Some(Instant::now() + GRACE);
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            process::signal(&child, libc::SIGKILL, group);
        }
    }
}

fn at(path: &str) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        path: path.clone(),
        source,
    }
}

/// Writes the pattern over the first `length` bytes, flushed to the device.
fn disk_write(device: &str, length: u64, seed: u64) -> Result<String, Error> {
    let mut file = File::options()
        .write(true)
        .open(device)
        .map_err(at(device))?;
    let mut index = 0;
    let mut left = length;
    let mut chunk = Vec::with_capacity(64 * 1024);
    while left > 0 {
        chunk.clear();
        while chunk.len() < 64 * 1024 {
            chunk.extend(pattern(seed, index));
            index += 1;
        }
        let count = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        file.write_all(&chunk[..count]).map_err(at(device))?;
        left -= u64::try_from(count).map_err(io::Error::other)?;
    }
    file.sync_all().map_err(at(device))?;
    Ok(format!("{length} bytes written"))
}

/// The SHA-256 of the first `length` bytes.
fn disk_digest(device: &str, length: u64) -> Result<String, Error> {
    let mut file = File::open(device).map_err(at(device))?.take(length);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(at(device))? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    if file.limit() > 0 {
        return Err(Error::Short {
            device: device.to_owned(),
            length,
        });
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn write(path: &str, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(at(path))
}

/// Resets by the kernel's method `kind` (Documentation/ABI/testing/sysfs-kernel-reboot).
fn reset(kind: &str) -> Error {
    // Without the file the kernel's own choice serves for a reset, and a triple
    // fault is what it falls back to.
    if let Err(error) = write("/sys/kernel/reboot/type", kind) {
        say(&error.to_string());
    }
    Error::NoFault(sys::reboot(sys::Reboot::Reset).to_string())
}

fn panic() -> Error {
    match write("/proc/sysrq-trigger", "c") {
        Ok(()) => wait_for_fault(),
        Err(error) => error,
    }
}

/// Keeps every processor busy above everything else, without a share left to
/// ordinary tasks.
fn hang() -> Error {
    if let Err(error) = write("/proc/sys/kernel/sched_rt_runtime_us", "-1") {
        return error;
    }
    // Since 6.8 a deadline server keeps a share for ordinary tasks; earlier
    // kernels lack the files, and debugfs shows them.
    setup::mount_debugfs();
    if let Ok(entries) = fs::read_dir("/sys/kernel/debug/sched/fair_server") {
        for cpu in entries.flatten() {
            if let Err(error) = fs::write(cpu.path().join("runtime"), "0") {
                say(&format!("{}: {error}", cpu.path().display()));
            }
        }
    }
    let count = Processor::current().count;
    // The last child takes this processor, so the others are there by then.
    for cpu in (0..usize::try_from(count).unwrap_or(1)).rev() {
        let spinner = sys::fork(|| sys::spin_on(cpu).map_or(1, |()| 0));
        if let Err(error) = spinner {
            return error.into();
        }
    }
    wait_for_fault()
}

fn wait_for_fault() -> Error {
    std::thread::sleep(FAULT);
    Error::NoFault(format!("nothing seen for {} s", FAULT.as_secs()))
}

/// Takes memory in a child until the kernel kills it.
fn out_of_memory(work: &Workload) -> Result<WorkloadResult, Error> {
    let child = sys::fork(|| {
        // Chosen first, so that the level itself survives to tell.
        if fs::write("/proc/self/oom_score_adj", "1000").is_err() {
            return 1;
        }
        let mut kept: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut chunk = Vec::new();
            if chunk.try_reserve_exact(16 << 20).is_err() {
                return 2;
            }
            chunk.resize(16 << 20, 1);
            kept.push(chunk);
        }
    })?;
    match child.wait()? {
        Status::Killed(libc::SIGKILL) => Ok(WorkloadResult {
            ok: false,
            ..passed(work, "killed by the kernel".into())
        }),
        status => Err(Error::NoFault(format!("{status:?}"))),
    }
}
