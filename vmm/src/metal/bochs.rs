//! L0 on Bochs, which emulates VT-x with EPT. It boots from an ISO, for it loads
//! no kernel by itself.
//!
//! Its serial lines are TCP connections to us: on a terminal it would drop what
//! we haven't read yet, for it opens terminals without blocking. Its screen and
//! its debugger's prompt go nowhere; its log comes to us as its messages.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::directory::{Directory, Leftover};
use super::{Disk, Error, Metal, Spec};
use crate::image::{iso, unpacked};
use crate::nest::machine::{Machine, Sight};
use crate::nest::process;

/// Bochs, by the name its Debian package gives it.
pub const PROGRAM: &str = "bochs";
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";
const SCREEN: &str = "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so";

/// What it needs besides itself, with the Debian packages.
pub const FILES: &[(&str, &str)] = &[
    (BIOS, "bochsbios"),
    (VGA_BIOS, "vgabios"),
    (SCREEN, "bochs-term"),
];

/// Without posted interrupts, which Bochs 2.7 checks wrongly.
const PROCESSOR: &str = "corei7_haswell_4770";
/// The instructions that make a second of the machine's time, about as many as
/// Bochs executes in one of ours.
const INSTRUCTIONS_PER_SECOND: u32 = 100_000_000;
/// Debian's Bochs starts in its debugger; this lets it go on.
const DEBUGGER_COMMANDS: &str = "continue\n";
/// How long it may take to connect its serial lines.
const CONNECT: Duration = Duration::from_secs(30);
/// ATA disks are addressed by whole sectors.
const SECTOR: u64 = 512;
/// Two ATA channels, one place of four taken by the ISO.
const PLACES: [&str; 3] = ["ata0-slave", "ata1-master", "ata1-slave"];

/// Starts L0. The console is COM1, the channel COM2.
///
/// # Errors
/// A limit of the metal's, a missing package, or what the system said.
pub fn start(spec: &Spec<'_>) -> Result<Machine, Error> {
    Metal::Vmx.check(spec.processors, spec.memory_mib)?;
    for (index, disk) in spec.disks.iter().enumerate() {
        check_disk(index, disk)?;
    }
    let failed = |what| {
        move |source| Error::Start {
            metal: Metal::Vmx,
            what,
            source,
        }
    };
    let directory = Directory::new().map_err(failed("make a temporary directory"))?;
    let iso = directory.path().join("nest.iso");
    write_iso(spec, directory.path(), &iso)?;
    let mut listeners = Vec::new();
    for _ in ["console", "channel"] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        listeners.push(listener.map_err(failed("listen for its serial lines"))?);
    }
    let configuration = directory.path().join("bochsrc");
    let text = configure(spec, &iso, &listeners).map_err(failed("configure Bochs"))?;
    fs::write(&configuration, text).map_err(failed("configure Bochs"))?;
    let commands = directory.path().join("commands");
    fs::write(&commands, DEBUGGER_COMMANDS).map_err(failed("configure Bochs"))?;

    let mut command = Command::new(PROGRAM);
    command
        .arg("-q")
        .arg("-f")
        .arg(&configuration)
        .arg("-rc")
        .arg(&commands);
    // Curses needs a terminal's name, not a terminal.
    command.env("TERM", "dumb").current_dir(directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let (log, log_end) = io::pipe().map_err(failed("make a pipe"))?;
    command.stderr(log_end);
    process::prepare(&mut command, &[], true);
    let child = command.spawn().map_err(failed("start Bochs"))?;
    drop(command); // It holds the log's other end, whose close is the log's end.
    let (messages, messages_end) = io::pipe().map_err(failed("make a pipe"))?;
    thread::Builder::new()
        .name("bochs-log".to_owned())
        .spawn(move || sift(log, messages_end))
        .map_err(failed("start a thread"))?;
    let mut keep: Vec<Box<dyn std::any::Any + Send>> = vec![Box::new(directory)];
    for disk in spec.disks {
        keep.push(Box::new(Leftover(lock_of(&disk.path))));
    }
    let mut machine = Machine {
        child,
        group: true,
        console: None,
        channel: None,
        listener: None,
        events: None,
        sight: Sight::default(),
        messages: Some(messages.into()),
        power_button: false,
        keep,
    };
    machine.console = Some(connect(
        &listeners[0],
        &mut machine.child,
        &mut machine.messages,
    )?);
    machine.channel = Some(connect(
        &listeners[1],
        &mut machine.child,
        &mut machine.messages,
    )?);
    Ok(machine)
}

/// Makes the ISO, with the kernel unpacked where that can be done: unpacking is
/// half of the way to `/init` here.
fn write_iso(spec: &Spec<'_>, directory: &Path, iso: &Path) -> Result<(), Error> {
    let plain = directory.join("kernel");
    let kernel = match unpacked::write(spec.kernel, &plain) {
        Ok(()) => plain.as_path(),
        Err(unpacked::Error::Unsuitable { .. }) => spec.kernel,
        Err(error) => return Err(error.into()),
    };
    let Spec {
        initramfs,
        command_line,
        ..
    } = *spec;
    iso::write(
        &iso::Layout {
            kernel,
            initramfs,
            command_line,
        },
        iso,
    )?;
    // The ISO has its own copy.
    if kernel == plain {
        let _ = fs::remove_file(&plain); // It goes with the directory at last.
    }
    Ok(())
}

fn check_disk(index: usize, disk: &Disk) -> Result<(), Error> {
    let refused = |reason| Error::Disk {
        metal: Metal::Vmx,
        path: disk.path.clone(),
        reason,
    };
    if index >= PLACES.len() {
        return Err(refused("Bochs has room for three disks"));
    }
    if disk.readonly {
        return Err(refused("Bochs has no read-only disks"));
    }
    if disk
        .path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .any(|byte| b",\"\n".contains(byte))
    {
        return Err(refused("its name holds a comma, a quote or a line break"));
    }
    match fs::metadata(&disk.path) {
        Err(_) => Err(refused("it cannot be read")),
        Ok(meta) if meta.len() == 0 || !meta.len().is_multiple_of(SECTOR) => {
            Err(refused("its size is no multiple of 512 bytes"))
        }
        Ok(_) => Ok(()),
    }
}

/// Bochs leaves this beside an image when it is killed.
fn lock_of(disk: &Path) -> PathBuf {
    let mut lock = disk.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

/// The configuration file, in the words of bochsrc(5).
fn configure(spec: &Spec<'_>, iso: &Path, lines: &[TcpListener]) -> io::Result<String> {
    let mut text = format!(
        "config_interface: textconfig\n\
         display_library: term\n\
         cpu: model={}, count=1, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0\n\
         megs: {}\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         vga: extension=none, update_freq=1\n\
         clock: sync=none\n\
         boot: cdrom\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path=\"{}\", status=inserted\n\
         speaker: enabled=0\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=ignore\n\
         debug: action=ignore\n\
         log: -\n\
         logprefix: %e%d\n",
        spec.processor.unwrap_or(PROCESSOR),
        spec.memory_mib,
        iso.display(),
    );
    let mut add = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    for (index, line) in lines.iter().enumerate() {
        let address = line.local_addr()?;
        add(format!(
            "com{}: enabled=1, mode=socket-client, dev={address}",
            index + 1
        ));
    }
    if spec.disks.len() > 1 {
        add("ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15".to_owned());
    }
    for (disk, place) in spec.disks.iter().zip(PLACES) {
        // Bochs runs in its temporary directory.
        let path = std::path::absolute(&disk.path)?;
        add(format!(
            "{place}: type=disk, mode=flat, path=\"{}\"",
            path.display()
        ));
    }
    spec.extra.iter().cloned().for_each(&mut add);
    Ok(text)
}

/// Waits for the connection of a serial line, and takes none but this user's.
fn connect(
    listener: &TcpListener,
    child: &mut Child,
    messages: &mut Option<OwnedFd>,
) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Start {
        metal: Metal::Vmx,
        what: "connect a serial line",
        source,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let limit = Instant::now() + CONNECT;
    loop {
        match listener.accept() {
            Ok((stream, peer)) if is_ours(&stream, peer).map_err(failed)? => {
                stream.set_nonblocking(false).map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(stream.into());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
        if child.try_wait().map_err(failed)?.is_some() {
            let said = messages.take().map(last_line).unwrap_or_default();
            return Err(Error::Ended {
                program: PROGRAM,
                said,
            });
        }
        if Instant::now() >= limit {
            return Err(failed(io::ErrorKind::TimedOut.into()));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the other end of a local connection belongs to this user: other users
/// may connect to the port before Bochs does. `/proc/net/tcp` has a line for that
/// end, with its address, its peer's and its user (proc(5)).
fn is_ours(stream: &TcpStream, peer: SocketAddr) -> io::Result<bool> {
    let port = stream.local_addr()?.port();
    let own = fs::metadata("/proc/self")?.uid();
    let table = fs::read_to_string("/proc/net/tcp")?;
    Ok(table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ends_with = |index: usize, port: u16| {
            fields
                .get(index)
                .is_some_and(|field| field.ends_with(&format!(":{port:04X}")))
        };
        ends_with(1, peer.port())
            && ends_with(2, port)
            && fields.get(7).is_some_and(|user| user.parse() == Ok(own))
    }))
}

fn last_line(messages: OwnedFd) -> String {
    let lines = BufReader::new(fs::File::from(messages)).lines();
    lines.map_while(Result::ok).last().unwrap_or_default()
}

/// Passes on what of the log tells why a machine failed.
fn sift(log: PipeReader, mut messages: io::PipeWriter) {
    let mut log = BufReader::new(log);
    let mut line = Vec::new();
    let mut heard = true;
    while log
        .read_until(b'\n', &mut line)
        .is_ok_and(|count| count > 0)
    {
        // Read to the end even if nobody listens: Bochs would block.
        if let Some(reason) = reason_in(&String::from_utf8_lossy(&line)) {
            heard = heard && writeln!(messages, "{reason}").is_ok();
        }
        line.clear();
    }
}

/// What a line of the log says of a failure: Bochs's own end, a VM entry it
/// refused, a processor that gave up, or a complaint about its configuration.
fn reason_in(line: &str) -> Option<String> {
    let line = line.trim();
    // The level, then the device: `p[ACPI  ] >>PANIC<< ACPI control: ...`.
    let (head, text) = line.split_once("] ")?;
    let (level, device) = head.split_once('[')?;
    let text = text.trim_start_matches(">>PANIC<< ").trim();
    let device = device.trim();
    let tells = match level {
        // An orderly power-off is a panic to Bochs.
        "p" => !text.ends_with("soft power off"),
        "e" => text.starts_with("VMFAIL") || text.contains("no resolution"),
        _ => false,
    };
    let mut reason = String::new();
    // A String takes all that is written.
    let _ = write!(reason, "{device}: {text}");
    tells.then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_why_and_an_orderly_end_is_no_reason() {
        for (line, reason) in [
            (
                "p[CPU0  ] >>PANIC<< prefetch: getHostMemAddr",
                Some("CPU0: prefetch: getHostMemAddr"),
            ),
            (
                "e[CPU0  ] VMFAIL: VMCS host state invalid",
                Some("CPU0: VMFAIL: VMCS host state invalid"),
            ),
            (
                "e[CPU0  ] exception(): 3rd (13) exception with no resolution",
                Some("CPU0: exception(): 3rd (13) exception with no resolution"),
            ),
            ("p[ACPI  ] >>PANIC<< ACPI control: soft power off", None),
            ("e[CPU0  ] RDMSR: Unknown register 0xe8", None),
            (
                "(0) [0x0000fffffff0] f000:fff0 (unk. ctxt): jmpf 0xf000:e05b",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(reason_in(line).as_deref(), reason, "{line}");
        }
    }

    #[test]
    fn a_connection_of_this_process_is_its_users() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        assert!(is_ours(&stream, peer).unwrap());
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert!(!is_ours(&stream, unknown).unwrap());
    }

    #[test]
    fn a_disk_must_be_whole_sectors_writable_and_one_of_three() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("disk");
        let check = |index, length: usize, readonly| {
            fs::write(&path, vec![0; length]).unwrap();
            let path = path.clone();
            check_disk(index, &Disk { path, readonly })
        };
        assert!(check(0, 1024, false).is_ok());
        assert!(check(3, 1024, false).is_err());
        assert!(check(0, 0, false).is_err());
        assert!(check(0, 1000, false).is_err());
        assert!(check(0, 1024, true).is_err());
        let comma = Disk {
            path: "/a,b".into(),
            readonly: false,
        };
        assert!(matches!(check_disk(0, &comma), Err(Error::Disk { .. })));
    }

    #[test]
    fn a_lock_stands_beside_its_disk_until_it_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let lock = lock_of(&root.path().join("disk.raw"));
        fs::write(&lock, "").unwrap();
        drop(Leftover(lock.clone()));
        assert!(!lock.exists() && lock.ends_with("disk.raw.lock"));
    }
}
