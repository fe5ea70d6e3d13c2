//! Who boots the levels above L0: nestling, or another monitor by its command line.
//!
//! The image and the order are the same under any. What another monitor's guest is
//! given beyond them (devices, a network) is what its command line says.

pub mod command;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use nestling_arch::nested::{Request, When};
use serde::{Deserialize, Serialize};

use crate::image::{Addition, programs};
use crate::order::Machine;
pub use command::{CommandLine, Values};

/// nestling, which needs no command line.
pub const NESTLING: &str = "nestling";

/// Command lines that are there by name: QEMU as its documentation and libvirt would
/// have it for a Linux guest, with the devices that nestling's guests have.
const READY_MADE: [(&str, &str); 2] = [
    (
        "qemu-q35",
        "qemu-system-x86_64 -M q35,smm=off,hpet=off,vmport=off,usb=off -accel kvm -cpu host \
         -smp {cpus} -m {memory} -nodefaults -no-user-config -display none -no-reboot \
         -serial stdio \
         -device virtio-serial-pci -chardev socket,id=channel,path={channel} \
         -device virtserialport,chardev=channel,name=nestling.channel \
         -device virtio-rng-pci \
         -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= \
         [ -drive if=none,id=disk,format=raw,file={disk} -device virtio-blk-pci,drive=disk ] \
         -kernel {kernel} -initrd {initrd} -append {cmdline}",
    ),
    (
        "qemu-microvm",
        "qemu-system-x86_64 -M microvm,acpi=on,rtc=on,isa-serial=on,pit=off,pic=off,x-option-roms=off \
         -global virtio-mmio.force-legacy=false -accel kvm -cpu host \
         -smp {cpus} -m {memory} -nodefaults -no-user-config -display none -no-reboot \
         -serial stdio \
         -device virtio-serial-device -chardev socket,id=channel,path={channel} \
         -device virtserialport,chardev=channel,name=nestling.channel \
         -device virtio-rng-device \
         -netdev user,id=net -device virtio-net-device,netdev=net \
         [ -drive if=none,id=disk,format=raw,file={disk} -device virtio-blk-device,drive=disk ] \
         -kernel {kernel} -initrd {initrd} -append {cmdline}",
    ),
];

/// How QEMU's programs are called.
const QEMU: &str = "qemu-system-";
/// What QEMU loads into a PC or a microvm that boots a kernel directly.
const QEMU_FIRMWARE: [&str; 5] = [
    "bios-256k.bin",
    "bios-microvm.bin",
    "kvmvapic.bin",
    "linuxboot_dma.bin",
    "pvh.bin",
];

/// Why a monitor can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that stands for nothing.
    #[error(
        "unknown monitor {0:?}: nestling, qemu-q35, qemu-microvm, or [NAME=]COMMAND LINE with \
         {{kernel}}, {{initrd}} and {{cmdline}}"
    )]
    Name(String),
    /// The command line is none.
    #[error("monitor {name}: {source}")]
    Command {
        /// The monitor.
        name: String,
        /// Why.
        source: command::Error,
    },
    /// The program isn't there.
    #[error("monitor {name}: there is no program {program} on this host: install it")]
    NoProgram {
        /// The monitor.
        name: String,
        /// Its program.
        program: String,
    },
    /// The program doesn't say where its firmware is.
    #[error("monitor {name}: cannot ask {program:?} for its firmware (-L help): {source}")]
    Firmware {
        /// The monitor.
        name: String,
        /// Its program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The machine has what only nestling gives.
    #[error("monitor {name} cannot boot a machine with {what}: only nestling can")]
    Unable {
        /// The monitor.
        name: String,
        /// What the machine has.
        what: &'static str,
    },
}

/// A monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form")]
pub struct Monitor {
    /// What it is called in the report: `nestling`, `qemu-q35`.
    pub name: String,
    /// Its command line with `{kernel}`, `{initrd}` and `{cmdline}`; none for nestling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
}

/// A monitor as it is written in JSON, where a name from the list is enough.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    name: String,
    #[serde(default)]
    command: Option<CommandLine>,
}

impl TryFrom<Form> for Monitor {
    type Error = Error;

    fn try_from(Form { name, command }: Form) -> Result<Self, Error> {
        match command {
            Some(_) => Ok(Self { name, command }),
            None if name == NESTLING => Ok(Self::default()),
            None => match ready_made(&name) {
                Some(_) => name.parse(),
                None => Err(Error::Name(name)),
            },
        }
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            name: NESTLING.to_owned(),
            command: None,
        }
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Monitor {
    type Err = Error;

    /// A name from the list, or `[NAME=]COMMAND LINE`; without a name it is called
    /// as its program.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text == NESTLING {
            return Ok(Self::default());
        }
        let (name, line) = match ready_made(text) {
            Some(line) => (Some(text), line),
            None => named(text),
        };
        if name.is_none() && !line.contains(|c: char| c.is_whitespace() || c == '{') {
            return Err(Error::Name(text.to_owned()));
        }
        let command: CommandLine = line.parse().map_err(|source| Error::Command {
            name: name.unwrap_or(text).to_owned(),
            source,
        })?;
        let program = Path::new(command.program()).file_name();
        let program = program.map(|name| name.to_string_lossy().into_owned());
        let name = name.map(str::to_owned).or(program);
        Ok(Self {
            name: name.unwrap_or_else(|| command.program().to_owned()),
            command: Some(command),
        })
    }
}

/// The command line that is there by this name.
fn ready_made(name: &str) -> Option<&'static str> {
    let found = READY_MADE.iter().find(|(own, _)| *own == name);
    found.map(|(_, line)| *line)
}

/// The name in front of a command line, if there is one.
fn named(text: &str) -> (Option<&str>, &str) {
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.split_once('=') {
        Some((name, line)) if !name.is_empty() && name.chars().all(of_name) => (Some(name), line),
        _ => (None, text),
    }
}

impl Monitor {
    /// Whether it is nestling itself.
    #[must_use]
    pub fn is_nestling(&self) -> bool {
        self.command.is_none()
    }

    /// The program that an image must hold for levels that run it, with its
    /// libraries; none for nestling, which every image holds.
    ///
    /// # Errors
    /// [`Error::NoProgram`] if this host hasn't got it.
    pub fn program(&self) -> Result<Option<PathBuf>, Error> {
        let Some(program) = self.command.as_ref().map(CommandLine::program) else {
            return Ok(None);
        };
        let path = Path::new(program);
        let found = if program.contains('/') {
            path.is_file().then(|| path.to_owned())
        } else {
            programs::find(program)
        };
        found.map(Some).ok_or_else(|| Error::NoProgram {
            name: self.name.clone(),
            program: program.to_owned(),
        })
    }

    /// The files that an image must hold besides the program, as far as nestling
    /// knows them: QEMU's firmware. What others need is for `--add`.
    ///
    /// # Errors
    /// [`Error::NoProgram`], or [`Error::Firmware`] if QEMU can't be asked.
    pub fn additions(&self) -> Result<Vec<Addition>, Error> {
        let program = self.program()?;
        let is_qemu = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(QEMU))
        };
        let Some(program) = program.filter(is_qemu) else {
            return Ok(Vec::new());
        };
        let output = Command::new(&program).args(["-L", "help"]).output();
        let output = output.map_err(|source| Error::Firmware {
            name: self.name.clone(),
            program,
            source,
        })?;
        let folders = String::from_utf8_lossy(&output.stdout);
        Ok(firmware(folders.lines().map(Path::new)))
    }

    /// Whether `machine` has only what a monitor can be told through a command line.
    ///
    /// # Errors
    /// [`Error::Unable`] names the first thing that it has beyond that.
    pub fn check(&self, machine: &Machine) -> Result<(), Error> {
        let Request {
            when,
            extension: _,
            hidden,
            wanted,
            asids,
        } = &machine.nested;
        let controls = !hidden.is_empty() || !wanted.is_empty() || asids.is_some();
        let beyond = [
            (controls, "controls of VMX or SVM chosen one by one"),
            (*when == When::Off, "VMX and SVM hidden"),
            (machine.cpu_template.is_some(), "a CPU template"),
            (!machine.hyperv.is_off(), "Hyper-V's interface"),
            (machine.disks.len() > 1, "more than one disk"),
            (
                machine.disks.iter().any(|disk| disk.readonly),
                "a read-only disk",
            ),
        ];
        match beyond
            .iter()
            .find(|(has, _)| *has && self.command.is_some())
        {
            Some(&(_, what)) => Err(Error::Unable {
                name: self.name.clone(),
                what,
            }),
            None => Ok(()),
        }
    }
}

/// QEMU's firmware, at the places where QEMU looks for it.
fn firmware<'a>(folders: impl Iterator<Item = &'a Path>) -> Vec<Addition> {
    let folders: Vec<PathBuf> = folders
        .filter_map(|folder| folder.canonicalize().ok())
        .collect();
    let first = |name: &&str| {
        let mut places = folders.iter().map(|folder| folder.join(name));
        let destination = places.find(|path| path.is_file())?;
        let source = destination.canonicalize().ok()?;
        Some(Addition {
            source,
            destination,
        })
    };
    QEMU_FIRMWARE.iter().filter_map(first).collect()
}

#[cfg(test)]
mod tests;
