//! Inside a level: starts each monitor in turn, and measures it up to its
//! guest's init.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::guest::MARKER;
use crate::report;

/// What every line of results begins with.
pub(crate) const PREFIX: &str = "bench-boot-result ";

const KERNEL: &str = "/nestling/kernel";
const INITRD: &str = "/bench/initrd";
/// The same for every monitor: nothing but the console and what a panic does.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1";
const TRACING: &str = "/sys/kernel/tracing";
/// Larger mappings are the guest's memory, 512 MiB, and not the monitor's.
const GUEST_MAPPING_KIB: u64 = 256 << 10;

/// What every nestling and every QEMU is told.
const NESTLING: &str = "/init run --memory 512M --nested on --no-reboot";
const QEMU: &str = "/usr/bin/qemu-system-x86_64 -M q35 -enable-kvm -cpu host -m 512 -no-reboot";

/// The monitors: the name in the table, the command line, and what it has besides.
const MONITORS: [(&str, &str, &str); 4] = [
    ("nestling", NESTLING, ""),
    (
        "nestling, first boot of a kernel",
        NESTLING,
        "--no-kernel-cache",
    ),
    ("QEMU q35", QEMU, "-nographic"),
    (
        "QEMU q35, no default devices",
        QEMU,
        "-nodefaults -display none -serial stdio",
    ),
];

/// Measures the named monitors, or all, `rounds` times and prints a line each.
pub(crate) fn run(rounds: u32, names: &[&str]) -> ExitCode {
    let counter = UserExits::start();
    // The first start of each is left out: it fills the page cache.
    for round in 0..=rounds {
        let wanted = |name| names.is_empty() || names.contains(&name);
        for (name, command, more) in MONITORS.iter().filter(|monitor| wanted(monitor.0)) {
            match measure(&format!("{command} {more}"), &counter) {
                Ok(_) if round == 0 => {}
                Ok(mut result) => {
                    result["monitor"] = json!(name);
                    if print(&format!("{PREFIX}{result}")).is_err() {
                        return ExitCode::FAILURE;
                    }
                }
                Err(error) => {
                    report(&format!("{name}: {error}"));
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// Prints past the pipe in which a workload's output is gathered.
fn print(line: &str) -> io::Result<()> {
    let mut console = fs::File::options().write(true).open("/dev/console")?;
    console.write_all(format!("{line}\n").as_bytes())
}

fn measure(line: &str, counter: &UserExits) -> io::Result<serde_json::Value> {
    let mut words = line.split_ascii_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    if line.starts_with(NESTLING) {
        command.args(["--kernel", KERNEL, "--initrd", INITRD, "--cmdline", CMDLINE]);
    } else {
        command.args(["-kernel", KERNEL, "-initrd", INITRD, "-append", CMDLINE]);
    }
    command.env("XDG_CACHE_HOME", "/tmp/cache");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let before = counter.read();
    let start = Instant::now();
    let mut child = command.spawn()?;
    let said = read_to_marker(&mut child)?;
    let (elapsed, after) = (start.elapsed(), counter.read());
    if let Some(said) = said {
        let _ = child.kill();
        child.wait()?;
        return Err(io::Error::other(format!(
            "init was not reached; the guest said: {}",
            said.lines().last().unwrap_or_default()
        )));
    }
    let memory = own_memory(child.id())?;
    if let Some(mut rest) = child.stdout.take() {
        io::copy(&mut rest, &mut io::sink())?;
    }
    child.wait()?;
    Ok(json!({
        "nanoseconds": u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
        "user_exits": before.zip(after).map(|(before, after)| after - before),
        "memory_kib": memory,
    }))
}

/// Reads the guest's console until init has spoken. If the monitor ends before,
/// what there was is returned.
fn read_to_marker(child: &mut Child) -> io::Result<Option<String>> {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Some(console) = &mut child.stdout {
        let count = console.read(&mut buffer)?;
        seen.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&seen);
        if text.contains(MARKER) {
            return Ok(None);
        }
        if count == 0 {
            return Ok(Some(text.into_owned()));
        }
    }
    Ok(Some(String::new()))
}

/// The process's resident memory without the guest's, in KiB.
fn own_memory(pid: u32) -> io::Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut total, mut size) = (0, 0);
    for line in maps.lines() {
        let kib = |text: &str| text.trim().trim_end_matches(" kB").parse::<u64>().ok();
        if let Some(value) = line.strip_prefix("Size:").and_then(kib) {
            size = value;
        } else if let Some(value) = line.strip_prefix("Rss:").and_then(kib)
            && size < GUEST_MAPPING_KIB
        {
            total += value;
        }
    }
    Ok(total)
}

/// Exits to user space of all machines, counted by the kernel's tracing.
struct UserExits {
    enabled: bool,
}

impl UserExits {
    fn start() -> Self {
        let enabled = (|| {
            if !Path::new(TRACING).join("events").exists() {
                let mounted = Command::new("/bin/mount")
                    .args(["-t", "tracefs", "tracefs", TRACING])
                    .status()?;
                if !mounted.success() {
                    return Err(io::Error::other("tracefs can't be mounted"));
                }
            }
            // Only the count matters: a small buffer that is overwritten will do.
            let event = Path::new(TRACING).join("events/kvm/kvm_userspace_exit/enable");
            fs::write(event, "1")
        })();
        if let Err(error) = &enabled {
            report(&format!("exits to user space are not counted: {error}"));
        }
        Self {
            enabled: enabled.is_ok(),
        }
    }

    /// Events seen so far on all CPUs: those still in the buffer and those overwritten.
    fn read(&self) -> Option<u64> {
        let cpus = fs::read_dir(Path::new(TRACING).join("per_cpu")).ok()?;
        let count = |path: &Path| -> Option<u64> {
            let stats = fs::read_to_string(path.join("stats")).ok()?;
            let values = stats.lines().filter_map(|line| {
                let value = line
                    .strip_prefix("entries:")
                    .or(line.strip_prefix("overrun:"))?;
                value.trim().parse::<u64>().ok()
            });
            Some(values.sum())
        };
        let sum = cpus.flatten().filter_map(|cpu| count(&cpu.path())).sum();
        self.enabled.then_some(sum)
    }
}

/// How long a level may take for all of it, in seconds of its clock.
pub(crate) const LIMIT: Duration = Duration::from_secs(3000);
