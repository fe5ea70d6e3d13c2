//! `nestling run`: one machine from a kernel.

use std::path::PathBuf;

use clap::Args;
use nestling_arch::nested::Request;

use super::{Failure, Format, Verdict};
use crate::config::{
    ConfigFile, ConsoleMode, DiskConfig, Endpoint, MemoryConfig, NetConfig, VmConfig,
};
use crate::session;

const EXAMPLES: &str = "\
Examples:
  A stock kernel with an initial ramdisk, its serial console here (Ctrl-A X ends it):
    nestling run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'

  Two vCPUs, a disk and a tap, and a guest that may host guests of its own:
    nestling run --kernel vmlinuz --cpus 2 --memory 2G --nested on \\
      --disk path=root.img --net tap=tap0 --cmdline 'console=ttyS0 root=/dev/vda rw'

  From a file, with more memory than it says:
    nestling run --config machine.toml --memory 4G";

/// The flags of `nestling run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Run {
    /// Take what no flag gives from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The kernel: a bzImage, or an ELF with a PVH entry
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The initial ramdisk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The kernel's command line [default: console=ttyS0]
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,

    /// The number of vCPUs, 1 to 64 [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,

    /// The memory: SIZE[,shared=on|off][,hugepages=off|2M|1G][,prefault=on|off] [default: 512M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemoryConfig>,

    /// Show the guest VMX or SVM: auto, on or off [default: auto]
    #[arg(long, value_name = "WHEN")]
    nested: Option<Request>,

    /// A disk on a raw file: path=FILE[,readonly=on][,queues=N]; may be repeated
    #[arg(long, value_name = "DISK")]
    disk: Vec<DiskConfig>,

    /// A network interface: tap=NAME|fd=N[,mac=ADDRESS][,queues=N]; may be repeated
    #[arg(long, value_name = "NET")]
    net: Vec<NetConfig>,

    /// Where the serial port leads: tty, off or file=PATH [default: tty]
    #[arg(long, value_name = "WHERE")]
    serial: Option<ConsoleMode>,

    /// Where the virtio console (hvc0) leads: tty, off or file=PATH [default: off]
    #[arg(long, value_name = "WHERE")]
    console: Option<ConsoleMode>,

    /// What stands behind the guest's virtio port nestling.channel: fd=N or unix=PATH
    #[arg(long, value_name = "STREAM")]
    channel: Option<Endpoint>,

    /// Where the machine's life is told as JSON lines: fd=N or unix=PATH
    #[arg(long, value_name = "STREAM")]
    events: Option<Endpoint>,

    /// End when the guest resets, instead of booting it again
    #[arg(long)]
    no_reboot: bool,

    /// Print KVM's counts of exits at the end, on standard error
    #[arg(long)]
    stats: bool,

    /// Unpack the kernel anew, and don't keep it unpacked for the next boot
    #[arg(long)]
    no_kernel_cache: bool,
}

impl Run {
    /// Boots the machine and stays until it ends.
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        let file = match &self.config {
            Some(path) => ConfigFile::read(path).map_err(Failure::usage)?,
            None => ConfigFile::default(),
        };
        let config =
            VmConfig::from_merged(file.overlaid(self.into_flags())).map_err(Failure::usage)?;
        session::run(&config, format == Format::Json).map_err(Failure::failed)
    }

    fn into_flags(self) -> ConfigFile {
        let given = |list: bool| list.then_some(true);
        ConfigFile {
            version: None,
            kernel: self.kernel,
            initrd: self.initrd,
            cmdline: self.cmdline,
            cpus: self.cpus,
            memory: self.memory,
            nested: self.nested,
            disk: (!self.disk.is_empty()).then_some(self.disk),
            net: (!self.net.is_empty()).then_some(self.net),
            serial: self.serial,
            console: self.console,
            channel: self.channel,
            events: self.events,
            no_reboot: given(self.no_reboot),
            stats: given(self.stats),
            kernel_cache: self.no_kernel_cache.then_some(false),
        }
    }
}
