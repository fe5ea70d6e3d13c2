//! A running machine as its supervisor sees it: a process and three streams.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::process;
use crate::order;

/// A monitor or emulator that runs one machine.
///
/// Every descriptor must be one that poll(2) can wait for: a pipe, a socket or a
/// terminal, not a regular file.
pub struct Machine {
    /// The process. Killed, with its group, when the machine is dropped.
    pub child: Child,
    /// Whether the process leads a group of its own.
    pub group: bool,
    /// What the guest prints on its console; none where the console is shared
    /// with this process.
    pub console: Option<OwnedFd>,
    /// The clean channel, both ways.
    pub channel: Option<OwnedFd>,
    /// The monitor's own events; an emulator has none.
    pub events: Option<OwnedFd>,
    /// The process's messages.
    pub messages: Option<OwnedFd>,
    /// Whether SIGTERM presses the guest's power button; otherwise the process
    /// can only be killed.
    pub power_button: bool,
    /// What must live as long as the machine: temporary directories and the like.
    pub keep: Vec<Box<dyn Any + Send>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("child", &self.child)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Asks the guest to power off. Answers whether it could be asked.
    pub fn press_power_button(&self) -> bool {
        if self.power_button {
            process::signal(&self.child, libc::SIGTERM, false);
        }
        self.power_button
    }

    /// Kills the process and, where it leads one, its group; waits for its end.
    ///
    /// # Errors
    /// What the system says of the wait.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            process::signal(&self.child, libc::SIGKILL, self.group);
        }
        self.child.wait()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing is left to tell it to, and nothing must be left running.
        let _ = self.kill();
    }
}

/// What `nestling run` is given to boot a level.
#[derive(Debug)]
pub struct MonitorSpec<'a> {
    /// The program, this one.
    pub program: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// The initramfs with the level's order behind it.
    pub initrd: &'a Path,
    /// The machine.
    pub machine: &'a order::Machine,
    /// The guest's console is this process's standard input and output.
    pub raw_console: bool,
}

/// Starts the monitor for a level.
///
/// # Errors
/// What the system says of the sockets, pipes or the start.
pub fn spawn_monitor(spec: &MonitorSpec<'_>) -> io::Result<Machine> {
    let (channel, channel_end) = UnixStream::pair()?;
    let (events, events_end) = io::pipe()?;
    let machine = spec.machine;
    let mut command = Command::new(spec.program);
    command
        .arg("run")
        .arg("--kernel")
        .arg(spec.kernel)
        .arg("--initrd")
        .arg(spec.initrd)
        .args(["--cmdline", &machine.cmdline])
        .args(["--cpus", &machine.cpus.to_string()])
        .args(["--memory", &format!("{}M", machine.memory_mib)])
        .args(["--nested", &machine.nested])
        .args(["--channel", &format!("fd={}", channel_end.as_raw_fd())])
        .args(["--events", &format!("fd={}", events_end.as_raw_fd())])
        .args(["--no-reboot", "--stats"]);
    for disk in &machine.disks {
        let readonly = if disk.readonly { ",readonly=on" } else { "" };
        command.args(["--disk", &format!("path={}{readonly}", disk.path)]);
    }
    if !spec.raw_console {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    command.stderr(Stdio::piped());
    process::prepare(
        &mut command,
        &[channel_end.as_fd(), events_end.as_fd()],
        !spec.raw_console,
    );
    let mut child = command.spawn()?;
    let console = child.stdout.take().map(OwnedFd::from);
    let messages = child.stderr.take().map(OwnedFd::from);
    Ok(Machine {
        child,
        group: !spec.raw_console,
        console,
        channel: Some(channel.into()),
        events: Some(events.into()),
        messages,
        power_button: true,
        keep: Vec::new(),
    })
}

/// Makes the files that `disks` ask to have created, of that length and empty.
///
/// # Errors
/// What the system says of the first that fails.
pub fn create_disks(disks: &[order::Disk]) -> io::Result<()> {
    for disk in disks {
        if let Some(mib) = disk.create_mib {
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&disk.path)?
                .set_len(u64::from(mib) << 20)?;
        }
    }
    Ok(())
}
