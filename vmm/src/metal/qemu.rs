//! L0 on QEMU's TCG, which emulates AMD-V with nested paging.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::{Error, Metal, Spec};
use crate::nest::machine::{Machine, Sight};
use crate::nest::process;

/// QEMU for x86-64 machines.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// With `cx16` this TCG's cmpxchg16b now and then corrupts the flags, and L0 dies
/// of a double fault in its slab allocator. With `smap` an IRET in ring 3 reads its
/// frame as the kernel would and faults, as it does where Xen runs Linux in ring 3.
const FEATURES: &str = "+svm,+npt,-cx16,-smap";
/// All that this TCG emulates.
const PROCESSOR: &str = "max";

/// Starts L0. The console is COM1, the channel COM2; both are sockets, so that
/// nothing is lost when their reader is late.
///
/// # Errors
/// A limit of the metal's, or what the system said.
pub fn start(spec: &Spec<'_>) -> Result<Machine, Error> {
    Metal::Svm.check(spec.processors, spec.memory_mib)?;
    let failed = |what| {
        move |source| Error::Start {
            metal: Metal::Svm,
            what,
            source,
        }
    };
    let (console, console_end) = UnixStream::pair().map_err(failed("make a console"))?;
    let (channel, channel_end) = UnixStream::pair().map_err(failed("make a channel"))?;
    let mut command = Command::new(PROGRAM);
    command.args(arguments(
        spec,
        console_end.as_raw_fd(),
        channel_end.as_raw_fd(),
    ));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    process::prepare(
        &mut command,
        &[console_end.as_fd(), channel_end.as_fd()],
        true,
    );
    let mut child = command
        .spawn()
        .map_err(|source| not_started(source, failed("start QEMU")))?;
    let messages = child.stderr.take().map(OwnedFd::from);
    Ok(Machine {
        child,
        group: true,
        console: Some(console.into()),
        channel: Some(channel.into()),
        listener: None,
        events: None,
        sight: Sight::default(),
        messages,
        power_button: false,
        keep: Vec::new(),
    })
}

fn not_started(source: io::Error, otherwise: impl FnOnce(io::Error) -> Error) -> Error {
    if source.kind() == io::ErrorKind::NotFound {
        Error::Missing {
            metal: Metal::Svm,
            what: PROGRAM,
            package: "qemu-system-x86",
        }
    } else {
        otherwise(source)
    }
}

fn arguments(spec: &Spec<'_>, console: i32, channel: i32) -> Vec<OsString> {
    let mut all: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| all.extend(words.iter().map(OsString::from));
    // Only what is named here: the same machine whatever the host's defaults.
    add(&[
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    let model = spec.processor.unwrap_or(PROCESSOR);
    let processor = format!("{model},{FEATURES}");
    add(&["-machine", "q35", "-accel", "tcg", "-cpu", &processor]);
    add(&[
        "-smp",
        &spec.processors.to_string(),
        "-m",
        &format!("{}M", spec.memory_mib),
    ]);
    for (name, fd) in [("console", console), ("channel", channel)] {
        add(&["-chardev", &format!("socket,id={name},fd={fd}")]);
        add(&["-serial", &format!("chardev:{name}")]);
    }
    if spec.count_instructions {
        add(&["-icount", "shift=0,sleep=off"]);
    }
    for (index, disk) in spec.disks.iter().enumerate() {
        // QEMU takes a doubled comma for one that belongs to the value.
        let path = disk.path.to_string_lossy().replace(',', ",,");
        let readonly = if disk.readonly { ",readonly=on" } else { "" };
        let drive = format!("if=none,id=disk{index},format=raw,file={path}{readonly}");
        add(&[
            "-drive",
            &drive,
            "-device",
            &format!("virtio-blk-pci,drive=disk{index}"),
        ]);
    }
    all.push("-kernel".into());
    all.push(spec.kernel.into());
    all.push("-initrd".into());
    all.push(spec.initramfs.into());
    all.push("-append".into());
    all.push(spec.command_line.into());
    all.extend(spec.extra.iter().map(OsString::from));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metal::Disk;
    use std::path::Path;

    #[test]
    fn the_machine_is_described_in_full() {
        let disks = [Disk {
            path: "/a,b".into(),
            readonly: true,
        }];
        let extra = ["-trace".to_owned(), "x".to_owned()];
        let spec = Spec {
            kernel: Path::new("/k"),
            initramfs: Path::new("/i"),
            command_line: "quiet x=1",
            processors: 2,
            processor: Some("EPYC"),
            memory_mib: 512,
            disks: &disks,
            count_instructions: true,
            extra: &extra,
        };
        let words: Vec<_> = arguments(&spec, 7, 8)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        let text = words.join(" ");
        for part in [
            "-cpu EPYC,+svm,+npt,-cx16,-smap -smp 2 -m 512M",
            "-chardev socket,id=console,fd=7 -serial chardev:console",
            "-chardev socket,id=channel,fd=8 -serial chardev:channel",
            "-icount shift=0,sleep=off",
            "format=raw,file=/a,,b,readonly=on",
            "-kernel /k -initrd /i -append quiet x=1 -trace x",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
