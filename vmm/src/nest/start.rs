//! Starting a nest's lowest machine: this host's monitor, or an emulator.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::machine::{self, Machine, MonitorSpec, Other};
use crate::image::Image;
use crate::metal::directory::Directory;
use crate::metal::{self, Metal, Model, bochs, qemu};
use crate::order::{self, Nest};
use crate::{facts, kvm};

/// Why no machine was started.
#[derive(Debug, Error)]
pub enum Error {
    /// The emulator wasn't.
    #[error(transparent)]
    Metal(#[from] metal::Error),
    /// The level's order couldn't be written.
    #[error(transparent)]
    Order(#[from] order::Error),
    /// The system refuses a file or a process.
    #[error("cannot start the nest's first machine: {0}")]
    System(#[from] io::Error),
}

/// What a nest's lowest machine is started with, besides what its plan says.
#[derive(Debug)]
pub struct Start<'a> {
    /// What L0 runs on.
    pub metal: Metal,
    /// The image of every level.
    pub image: &'a Image,
    /// What the kernel of an emulated L0 is told as every level's is.
    pub cmdline: &'a str,
    /// The processor of an emulated metal, if not its usual one.
    pub processor: Option<&'a Model>,
    /// Disks for an emulated L0.
    pub disks: &'a [PathBuf],
    /// Let the svm metal's clock count instructions.
    pub count_instructions: bool,
}

impl Start<'_> {
    /// Starts the first machine of `nest`.
    ///
    /// # Errors
    /// [`Error`]; nothing is left running.
    pub fn machine(&self, nest: &Nest) -> Result<Machine, Error> {
        let folder = Directory::new()?;
        let initrd = folder.path().join("initrd");
        machine::write_initrd(&self.image.initramfs, &nest.order, &initrd)?;
        let mut machine = if self.metal == Metal::Host {
            machine::create_disks(&nest.machine.disks)?;
            let channel = folder.path().join("channel");
            let program = std::env::current_exe()?;
            machine::spawn_monitor(&MonitorSpec {
                kernel_cache: true,
                other: Other::of(nest, &channel),
                ..MonitorSpec::of(nest, &program, &self.image.kernel, &initrd)
            })?
        } else {
            self.emulator(nest, &initrd)?
        };
        machine.keep.push(Box::new(folder));
        Ok(machine)
    }

    fn emulator(&self, nest: &Nest, initrd: &Path) -> Result<Machine, metal::Error> {
        let command_line = format!("{} {}", self.metal.kernel_arguments(), self.cmdline);
        let disk = |path: &PathBuf| metal::Disk {
            path: path.clone(),
            readonly: false,
        };
        let spec = metal::Spec {
            kernel: &self.image.kernel,
            initramfs: initrd,
            command_line: command_line.trim(),
            processors: nest.machine.cpus,
            processor: self.processor.map(Model::name),
            memory_mib: nest.machine.memory_mib,
            disks: &self.disks.iter().map(disk).collect::<Vec<_>>(),
            count_instructions: self.count_instructions,
            extra: &[],
        };
        if self.metal == Metal::Svm {
            qemu::start(&spec)
        } else {
            bochs::start(&spec)
        }
    }
}

/// The image's size in MiB, rounded up, which every level holds twice.
///
/// # Errors
/// What the system says of its file.
pub fn image_mib(image: &Image) -> io::Result<u32> {
    let bytes = fs::metadata(&image.initramfs)?.len();
    Ok(u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX))
}

/// Why this host can't be the metal itself, if it can't.
#[must_use]
pub fn host_facts() -> metal::HostFacts {
    let obstacle = kvm::open()
        .and_then(|kvm| facts::gather(&kvm))
        .map_err(|error| error.to_string())
        .and_then(|facts| {
            nestling_arch::nested::available(&facts).map_err(|missing| missing.what())
        })
        .err();
    metal::HostFacts { obstacle }
}
