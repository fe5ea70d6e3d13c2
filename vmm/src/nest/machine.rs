//! A running machine as its supervisor sees it: a process and three streams.

use std::any::Any;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::process;
use crate::api::directory;
use crate::monitor::{CommandLine, Monitor, Values};
use crate::order::{self, Order};

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
    /// Where the monitor connects to make the channel, if it isn't there yet.
    pub listener: Option<UnixListener>,
    /// The monitor's own events; an emulator, or another monitor, has none.
    pub events: Option<OwnedFd>,
    /// The process's messages.
    pub messages: Option<OwnedFd>,
    /// How its counts are read.
    pub sight: Sight,
    /// Whether SIGTERM presses the guest's power button; otherwise the process
    /// can only be killed.
    pub power_button: bool,
    /// What must live as long as the machine: temporary directories and the like.
    pub keep: Vec<Box<dyn Any + Send>>,
}

/// How a machine's counts are read.
#[derive(Debug, Default)]
pub struct Sight {
    /// Who has counted; nobody for an emulator.
    pub counts: Option<CountedBy>,
    /// Report them so often, besides at marks and at the end.
    pub sample: Option<Duration>,
    /// Count its exits by reason, as KVM's tracepoints tell them.
    pub trace: bool,
}

/// Who tells a machine's counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CountedBy {
    /// Its monitor, which listens here.
    Monitor(PathBuf),
    /// KVM itself, by debugfs, for any other monitor.
    Kernel,
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

/// Writes to `out` the initramfs that boots a level: `image`, then its order.
///
/// # Errors
/// [`order::Error`] if the order can't be encoded or a file can't be read or
/// written.
pub fn write_initrd(image: &Path, order: &Order, out: &Path) -> Result<(), order::Error> {
    let segment = order.segment()?;
    let mut file = File::create(out)?;
    let length = io::copy(&mut File::open(image)?, &mut file)?;
    // The kernel looks for the next archive at multiples of four bytes.
    file.set_len(length.next_multiple_of(4))?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&segment)?;
    Ok(())
}

/// What `nestling run` is given to boot a level.
#[derive(Debug)]
pub struct MonitorSpec<'a> {
    /// The program, this one.
    pub program: &'a Path,
    /// The kernel.
    pub kernel: &'a Path,
    /// The initramfs, with the level's order behind it where it is nestling's.
    pub initrd: Option<&'a Path>,
    /// The kernel's modules, each a value of `--module`.
    pub modules: &'a [String],
    /// The level that it boots.
    pub level: u8,
    /// Report the machine's counts every so many seconds.
    pub sample_s: Option<u32>,
    /// Count the machine's exits by reason.
    pub trace: bool,
    /// The machine.
    pub machine: &'a order::Machine,
    /// The guest's console is this process's standard input and output.
    pub raw_console: bool,
    /// The guest may end the run with an exit status.
    pub debug_exit: bool,
    /// The guest is nestling, which speaks through the channel.
    pub channel: bool,
    /// Keep the kernel unpacked in this user's cache for the next nest.
    pub kernel_cache: bool,
    /// The monitor that boots it instead of this program.
    pub other: Option<Other<'a>>,
}

impl<'a> MonitorSpec<'a> {
    /// What boots the first level of `nest` by `program`, with its order behind the
    /// image in `initrd`.
    #[must_use]
    pub fn of(
        nest: &'a order::Nest,
        program: &'a Path,
        kernel: &'a Path,
        initrd: &'a Path,
    ) -> Self {
        Self {
            program,
            kernel,
            initrd: Some(initrd),
            modules: &[],
            level: nest.order.level,
            sample_s: nest.sample_s,
            trace: nest.trace,
            machine: &nest.machine,
            raw_console: nest.raw_console,
            debug_exit: false,
            channel: true,
            kernel_cache: false,
            other: None,
        }
    }
}

/// Another monitor than nestling.
#[derive(Debug)]
pub struct Other<'a> {
    /// Which.
    pub monitor: &'a Monitor,
    /// Its command line.
    pub command: &'a CommandLine,
    /// Where a socket for the channel may be made.
    pub socket: &'a Path,
}

impl<'a> Other<'a> {
    /// The monitor that is to boot `nest`, if it is another; `socket` is a path for
    /// its channel.
    #[must_use]
    pub fn of(nest: &'a order::Nest, socket: &'a Path) -> Option<Self> {
        let monitor = nest.monitor.as_ref()?;
        let command = monitor.command.as_ref()?;
        Some(Self {
            monitor,
            command,
            socket,
        })
    }
}

/// Starts the monitor for a level.
///
/// # Errors
/// What the system says of the sockets, pipes or the start.
pub fn spawn_monitor(spec: &MonitorSpec<'_>) -> io::Result<Machine> {
    match &spec.other {
        Some(other) => spawn_other(spec, other),
        None => spawn_nestling(spec),
    }
}

fn spawn_nestling(spec: &MonitorSpec<'_>) -> io::Result<Machine> {
    let channel = spec.channel.then(UnixStream::pair).transpose()?;
    let (events, events_end) = io::pipe()?;
    let mut inherited = vec![events_end.as_fd()];
    let machine = spec.machine;
    let mut command = Command::new(spec.program);
    command
        .arg("run")
        .args([
            "--name",
            &format!("nest-{}.L{}", std::process::id(), spec.level),
        ])
        .arg("--kernel")
        .arg(spec.kernel)
        .args(["--cmdline", &machine.cmdline])
        .args(["--cpus", &machine.cpus.to_string()])
        .args(["--memory", &format!("{}M", machine.memory_mib)])
        .arg(format!("--nested={}", machine.nested))
        .args(["--events", &format!("fd={}", events_end.as_raw_fd())])
        .arg("--no-reboot");
    if !machine.cpu_affinity.is_empty() {
        let processors: Vec<String> = machine.cpu_affinity.iter().map(u32::to_string).collect();
        command.args(["--cpu-affinity", &processors.join(",")]);
    }
    if let Some(initrd) = spec.initrd {
        command.arg("--initrd").arg(initrd);
    }
    if spec.debug_exit {
        command.arg("--debug-exit");
    }
    if let Some(template) = &machine.cpu_template {
        command.args(["--cpu-template", &serde_json::to_string(template)?]);
    }
    if !machine.hyperv.is_off() {
        command.args(["--hyperv", &machine.hyperv.to_string()]);
    }
    for module in spec.modules {
        command.args(["--module", module]);
    }
    if let Some((_, end)) = &channel {
        command.args(["--channel", &format!("fd={}", end.as_raw_fd())]);
        inherited.push(end.as_fd());
    }
    if !spec.kernel_cache {
        command.arg("--no-kernel-cache");
    }
    for disk in &machine.disks {
        let readonly = if disk.readonly { ",readonly=on" } else { "" };
        command.args(["--disk", &format!("path={}{readonly}", disk.path)]);
    }
    for net in &machine.nets {
        command.args(["--net", net]);
    }
    if !machine.network.is_empty() {
        command.args(["--network", &machine.network]);
    }
    for mapping in &machine.forwards {
        command.args(["--forward", mapping]);
    }
    let child = start(command, &inherited, spec)?;
    let counts = directory::socket_of(child.id()).ok();
    let mut machine = started(child, spec, counts.map(CountedBy::Monitor));
    machine.channel = channel.map(|(channel, _)| channel.into());
    machine.events = Some(events.into());
    machine.power_button = true;
    Ok(machine)
}

fn spawn_other(spec: &MonitorSpec<'_>, other: &Other<'_>) -> io::Result<Machine> {
    let machine = spec.machine;
    other.monitor.check(machine).map_err(io::Error::other)?;
    let arguments = other.command.arguments(&Values {
        kernel: spec.kernel,
        initrd: spec.initrd.unwrap_or(Path::new("/dev/null")),
        cmdline: &machine.cmdline,
        cpus: machine.cpus,
        memory_mib: machine.memory_mib,
        channel: other.socket,
        disk: machine.disks.first().map(|disk| Path::new(&disk.path)),
    });
    let mut command = Command::new(other.command.program());
    command.args(arguments.map_err(io::Error::other)?);
    // That of the machine before.
    let _ = fs::remove_file(other.socket);
    let listener = UnixListener::bind(other.socket)?;
    listener.set_nonblocking(true)?;
    let child = start(command, &[], spec).map_err(|error| {
        let text = format!("{}: {error}", other.command.program());
        io::Error::new(error.kind(), text)
    })?;
    let mut machine = started(child, spec, Some(CountedBy::Kernel));
    machine.listener = Some(listener);
    Ok(machine)
}

/// Starts `command`, which keeps `inherited`, with the streams that `spec` asks for.
fn start(
    mut command: Command,
    inherited: &[BorrowedFd<'_>],
    spec: &MonitorSpec<'_>,
) -> io::Result<Child> {
    if !spec.raw_console {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    command.stderr(Stdio::piped());
    process::prepare(&mut command, inherited, !spec.raw_console);
    command.spawn()
}

/// The machine of a monitor that was just started, of which nothing but its console
/// and its messages is known.
fn started(mut child: Child, spec: &MonitorSpec<'_>, counts: Option<CountedBy>) -> Machine {
    let seconds = spec.sample_s.filter(|seconds| *seconds > 0);
    let sight = Sight {
        counts,
        sample: seconds.map(|seconds| Duration::from_secs(seconds.into())),
        trace: spec.trace,
    };
    let console = child.stdout.take().map(OwnedFd::from);
    let messages = child.stderr.take().map(OwnedFd::from);
    Machine {
        child,
        sight,
        group: !spec.raw_console,
        console,
        channel: None,
        listener: None,
        events: None,
        messages,
        power_button: false,
        keep: Vec::new(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_follows_its_image_at_the_kernels_alignment() {
        let dir = tempfile::tempdir().unwrap();
        let (image, out) = (dir.path().join("image"), dir.path().join("out"));
        fs::write(&image, b"12345").unwrap();
        let order = Order {
            version: order::VERSION,
            level: 1,
            modules: vec![],
            kvm: None,
            network: None,
            steps: vec![],
        };
        write_initrd(&image, &order, &out).unwrap();
        let bytes = fs::read(&out).unwrap();
        assert_eq!(bytes[..8], *b"12345\0\0\0");
        assert_eq!(bytes[8..], order.segment().unwrap());
    }

    #[test]
    fn disks_are_created_at_their_size_and_kept_if_they_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, b"kept").unwrap();
        let path_text = path.to_str().unwrap().to_owned();
        let disk = order::Disk {
            path: path_text,
            readonly: false,
            create_mib: Some(1),
        };
        create_disks(&[disk]).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..4]), (1 << 20, &b"kept"[..]));
    }
}
