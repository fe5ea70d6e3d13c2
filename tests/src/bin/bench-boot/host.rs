//! On the host: builds the image, boots it twice, and prints the table.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nestling_tests::{binary, qemu};
use serde_json::{Value, json};

use crate::measure::{LIMIT, PREFIX};
use crate::report;

type Failure = Box<dyn std::error::Error>;

/// What L1 measures: rounds, and all monitors.
const AT_L1: &[&str] = &["3"];
/// What L2 measures. A boot there takes twenty times as long.
const AT_L2: &[&str] = &["1", "nestling", "QEMU q35"];
/// How long the emulator may go without a result, on the host's clock.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a level is started; docs/metal.md tells why it may hang.
const ATTEMPTS: u32 = 4;
/// What QEMU's default devices need, and where that is a package of its own.
const VGA_FIRMWARE: &str = "/usr/share/seabios/vgabios-stdvga.bin";
const NIC_FIRMWARE: &str = "/usr/lib/ipxe/qemu/efi-e1000e.rom";

/// One monitor's results at one level.
#[derive(Debug, Default)]
struct Row {
    monitor: String,
    seconds: Vec<f64>,
    user_exits: Vec<u64>,
    memory_kib: Vec<u64>,
}

/// Measures at L1 and at L2, and prints both tables.
pub(crate) fn run() -> ExitCode {
    let result = tempfile::tempdir()
        .map_err(Failure::from)
        .and_then(|folder| {
            prepare(folder.path())?;
            let mut out = std::io::stdout();
            for (level, words) in [(1, AT_L1), (2, AT_L2)] {
                let path = folder.path().join("plan.json");
                fs::write(&path, serde_json::to_vec(&plan(level, words))?)?;
                let rows = measure(folder.path(), &path)?;
                out.write_all(table(level, &rows).as_bytes())?;
            }
            Ok(())
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Makes the guests' initramfs, which holds nothing but this program.
fn prepare(folder: &Path) -> Result<(), Failure> {
    let init = fs::read(std::env::current_exe()?)?;
    let entry = |name: &str, mode: u32| cpio::NewcBuilder::new(name).mode(mode).nlink(1);
    let size = u32::try_from(init.len())?;
    let mut archive = entry("dev", 0o040_755).write(Vec::new(), 0).finish()?;
    archive = entry("dev/console", 0o020_600)
        .rdev_major(5)
        .rdev_minor(1)
        .write(archive, 0)
        .finish()?;
    let mut writer = entry("init", 0o100_755).write(archive, size);
    writer.write_all(&init)?;
    archive = cpio::newc::trailer(writer.finish()?)?;
    fs::write(folder.join("initrd"), archive)?;
    Ok(())
}

/// The plan: L0, and for L2 also L1, runs this program's other half.
fn plan(level: u8, words: &[&str]) -> Value {
    let argv = [&["/bench/bench-boot", "measure"], words].concat();
    let work = json!({ "step": "workload", "kind": "program", "argv": argv, "env": {} });
    let nest = |level: u8, memory: u32, step: Value| {
        json!({
            "machine": {
                "cpus": 1, "memory_mib": memory, "nested": "on",
                "cmdline": "console=ttyS0 quiet panic=-1", "disks": [],
            },
            "limits": {"boot_s": 300, "silence_s": 300, "total_s": LIMIT.as_secs()},
            "order": {"version": 1, "level": level, "modules": ["virtio_console"],
                      "kvm": {}, "steps": [step]},
        })
    };
    if level == 1 {
        return nest(0, 3072, work);
    }
    let mut inner = nest(1, 2048, work);
    inner["step"] = json!("nest");
    nest(0, 4096, inner)
}

/// Boots the plan until it yields results.
fn measure(folder: &Path, plan: &Path) -> Result<Vec<Row>, Failure> {
    for _ in 1..ATTEMPTS {
        if let Some(rows) = boot(folder, plan)? {
            return Ok(rows);
        }
        report("the emulator hangs; starting again");
    }
    boot(folder, plan)?.ok_or_else(|| "the emulator hangs again and again".into())
}

/// Boots the plan and gathers its results; none if it hangs.
fn boot(folder: &Path, plan: &Path) -> Result<Option<Vec<Row>>, Failure> {
    let own = std::env::current_exe()?;
    let mut command = Command::new(binary::path());
    command
        .args(["nest", "--metal", "svm", "--count-instructions", "--plan"])
        .arg(plan);
    command.args(qemu::image_arguments(qemu::PROGRAM));
    command.args(["--program", "/bin/mount", "--add", VGA_FIRMWARE]);
    if Path::new(NIC_FIRMWARE).exists() {
        command.args(["--add", NIC_FIRMWARE]);
    }
    for addition in [
        format!("{}:/bench/bench-boot", own.display()),
        format!("{}:/bench/initrd", folder.join("initrd").display()),
    ] {
        command.args(["--add", &addition]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("nestling's output is gone")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut rows: Vec<Row> = Vec::new();
    let mut said = String::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => match line.split_once(PREFIX) {
                Some((_, result)) => {
                    let result = serde_json::from_str(result)?;
                    progress(&result);
                    collect(&mut rows, &result);
                }
                None => said.push_str(&format!("{line}\n")),
            },
            Err(RecvTimeoutError::Timeout) => {
                // Asked to end, it takes its emulator with it.
                Command::new("/bin/kill")
                    .arg(child.id().to_string())
                    .status()?;
                child.wait()?;
                return Ok(None);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if !child.wait()?.success() || rows.is_empty() {
        return Err(format!("the nest failed:\n{said}").into());
    }
    Ok(Some(rows))
}

/// A line for each boot, since the whole takes minutes.
fn progress(result: &Value) {
    let seconds = result["nanoseconds"].as_f64().unwrap_or(f64::NAN) / 1e9;
    let monitor = result["monitor"].as_str().unwrap_or_default();
    report(&format!("{monitor}: {seconds:.3} s"));
}

fn collect(rows: &mut Vec<Row>, result: &Value) {
    let name = result["monitor"].as_str().unwrap_or_default();
    let index = rows
        .iter()
        .position(|row| row.monitor == name)
        .unwrap_or_else(|| {
            rows.push(Row {
                monitor: name.into(),
                ..Row::default()
            });
            rows.len() - 1
        });
    let row = &mut rows[index];
    // The clock counts an instruction as a nanosecond.
    row.seconds
        .extend(result["nanoseconds"].as_f64().map(|ns| ns / 1e9));
    row.user_exits.extend(result["user_exits"].as_u64());
    row.memory_kib.extend(result["memory_kib"].as_u64());
}

/// The rows, each beside its ratio to QEMU's q35.
fn table(level: u8, rows: &[Row]) -> String {
    let qemu = rows.iter().find(|row| row.monitor == "QEMU q35");
    let rounds = rows.iter().map(|row| row.seconds.len()).max().unwrap_or(0);
    let mut text = format!(
        "\nfrom exec to L{level}'s init, 1 vCPU, 512 MiB, the same bzImage; median of {rounds}\n\
         {:<34} {:>9} {:>6} {:>11} {:>6} {:>11} {:>6}\n",
        "monitor", "s (1e9 i)", "ratio", "own memory", "ratio", "user exits", "ratio"
    );
    for row in rows {
        let cell = |own: Option<f64>, other: Option<f64>| {
            let ratio = own.zip(other).map(|(own, other)| own / other);
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
        };
        let whole = |values: &[u64]| -> Option<f64> {
            median(
                &values
                    .iter()
                    .map(|value| u32::try_from(*value).unwrap_or(u32::MAX).into())
                    .collect::<Vec<f64>>(),
            )
        };
        let (seconds, memory, exits) = (
            median(&row.seconds),
            whole(&row.memory_kib),
            whole(&row.user_exits),
        );
        text.push_str(&format!(
            "{:<34} {:>9.3} {:>6} {:>7.1} MiB {:>6} {:>11.0} {:>6}\n",
            row.monitor,
            seconds.unwrap_or(f64::NAN),
            cell(seconds, qemu.and_then(|qemu| median(&qemu.seconds))),
            memory.unwrap_or(f64::NAN) / 1024.0,
            cell(memory, qemu.and_then(|qemu| whole(&qemu.memory_kib))),
            exits.unwrap_or(f64::NAN),
            cell(exits, qemu.and_then(|qemu| whole(&qemu.user_exits))),
        ));
    }
    text
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
