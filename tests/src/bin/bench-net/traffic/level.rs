//! This program inside a nest: in L0 it counts the exits to user space of an L1
//! that sends, and in L1 it sends.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::guest::{configure, output, start_servers};
use super::{Bulk, Client, Test, approximate, bulk};
use crate::Failure;
use crate::contender::{GATEWAY, GUEST};
use crate::lab::{SERVICE, SERVICE_PORTS};

/// What stands before a result on a console.
pub(crate) const PREFIX: &str = "bench-net-result ";
/// Where L0 has L1's initramfs.
pub(crate) const INITRD: &str = "/bench/initrd";
/// The kernel parameter that tells L1 for how long to send.
const PARAMETER: &str = "bench-net.milliseconds=";
/// Of a short and a long one, the difference is all sending and no boot.
const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(5);
/// How much is sent for each exit that is allowed.
const UNIT: f64 = 65536.0;

/// What a machine did that sent for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    exits: u64,
    bytes: u64,
}

/// Exits to user space for each 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exits {
    /// How many.
    pub(crate) each: f64,
}

/// In L0: boots L1 twice and prints the exits.
pub(super) fn count() -> Result<(), Failure> {
    output("/bin/busybox", "ip link set lo up")?;
    output(
        "/bin/busybox",
        &format!("ip address add {SERVICE}/32 dev lo"),
    )?;
    start_servers(SERVICE, SERVICE_PORTS)?;
    let each = between(upload(SHORT)?, upload(LONG)?).ok_or("L1 sent nothing")?;
    tell(&Exits { each })
}

/// The exits for each unit, of what the second sent more.
fn between(short: Sent, long: Sent) -> Option<f64> {
    let bytes = long
        .bytes
        .checked_sub(short.bytes)
        .filter(|bytes| *bytes > 0)?;
    let exits = long.exits.saturating_sub(short.exits);
    Some(approximate(exits) * UNIT / approximate(bytes))
}

/// Boots L1, which sends for so long.
fn upload(duration: Duration) -> Result<Sent, Failure> {
    let milliseconds = duration.as_millis();
    let command = Command::new("/init")
        .args(["--format", "json", "run", "--stats", "--net", "user"])
        .args(["--kernel", "/nestling/kernel", "--initrd", INITRD])
        .args(["--memory", "512M", "--no-reboot", "--cmdline"])
        .arg(format!(
            "console=ttyS0 quiet panic=-1 {PARAMETER}{milliseconds}"
        ))
        .stdin(Stdio::null())
        .output()?;
    let console = String::from_utf8_lossy(&command.stdout);
    let errors = String::from_utf8_lossy(&command.stderr);
    let bulk: Bulk = result(&console).map_err(|error| {
        let last = errors.lines().chain(console.lines()).last();
        format!("L1: {error}; it said: {}", last.unwrap_or_default())
    })?;
    Ok(Sent {
        exits: user_exits(&errors).ok_or("nestling run --stats has no user_exits")?,
        bytes: bulk.bytes,
    })
}

/// The exits in the counts that `run --stats` prints as its last line of JSON.
fn user_exits(errors: &str) -> Option<u64> {
    let counts = errors
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Value>(line).ok())?;
    counts["total"]["user_exits"].as_u64()
}

/// In L1: sends to L0 and prints what went.
pub(super) fn send() -> Result<(), Failure> {
    let cmdline = fs::read_to_string("/proc/cmdline")?;
    let milliseconds = parameter(&cmdline).ok_or("the kernel's command line has no time")?;
    configure(GUEST, GATEWAY, 1500)?;
    let duration = Duration::from_millis(milliseconds);
    let client = Client::new(Test::Bulk, SERVICE, SERVICE_PORTS, duration);
    tell(&bulk::send(&client)?)
}

fn parameter(cmdline: &str) -> Option<u64> {
    let mut words = cmdline.split_ascii_whitespace();
    words
        .find_map(|word| word.strip_prefix(PARAMETER))?
        .parse()
        .ok()
}

/// Prints past the pipe in which a workload's output is gathered.
fn tell(outcome: &impl Serialize) -> Result<(), Failure> {
    let mut console = File::options().write(true).open("/dev/console")?;
    writeln!(console, "{PREFIX}{}", serde_json::to_string(outcome)?)?;
    Ok(())
}

/// The result that a console shows.
pub(crate) fn result<T: for<'a> Deserialize<'a>>(console: &str) -> Result<T, Failure> {
    let mut lines = console.lines();
    let text = lines.find_map(|line| Some(line.split_once(PREFIX)?.1));
    Ok(serde_json::from_str(text.ok_or("there is no result")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_did_cancels_out() {
        let sent = |exits, bytes| Sent { exits, bytes };
        let each = between(
            sent(1200, 10_000_000),
            sent(1700, 10_000_000 + 1000 * 65_536),
        );
        assert!(each.is_some_and(|each| (each - 0.5).abs() < 1e-9));
        assert_eq!(between(sent(1200, 10), sent(1300, 10)), None);
    }

    #[test]
    fn a_result_is_found_on_a_console() {
        let console = format!("[    0.1] boot\r\nL1 {PREFIX}{{\"each\":0.25}}\r\n");
        let exits: Exits = result(&console).expect("it is there");
        assert!((exits.each - 0.25).abs() < f64::EPSILON);
        assert!(result::<Exits>("nothing\n").is_err());
    }

    #[test]
    fn counts_and_the_time_are_found_among_other_words() {
        let errors = "WARN something\n{\"version\":1,\"total\":{\"user_exits\":1190}}\n";
        assert_eq!(user_exits(errors), Some(1190));
        assert_eq!(user_exits("WARN something\n"), None);
        let cmdline = "console=ttyS0 bench-net.milliseconds=5000 quiet\n";
        assert_eq!(parameter(cmdline), Some(5000));
        assert_eq!(parameter("quiet\n"), None);
    }
}
