//! `nestling run`: one machine from a kernel.

use std::path::PathBuf;

use clap::Args;
use nestling_arch::hyperv;
use nestling_arch::nested::Request;
use nestling_devices::net::nat::mappings::Mapping;

use super::{Failure, Format, Verdict};
use crate::config::{
    ApiSocket, ConfigFile, ConsoleMode, DiskConfig, Endpoint, MemoryConfig, ModuleConfig,
    NetConfig, NetworkOptions, TemplateSource, VmConfig,
};
use crate::session;

const EXAMPLES: &str = "\
Examples:
  A stock kernel with an initial ramdisk, its serial console here (Ctrl-A X ends it):
    nestling run --kernel vmlinuz --initrd initrd.img --cmdline 'console=ttyS0'

  Two vCPUs, a disk and a tap, and a guest that may host guests of its own:
    nestling run --kernel vmlinuz --cpus 2 --memory 2G --nested on \\
      --disk path=root.img --net tap=tap0 --cmdline 'console=ttyS0 root=/dev/vda rw'

  A network without any set-up: the guest gets an address, and port 2222 here leads to its 22:
    nestling run --kernel vmlinuz --initrd initrd.img --net user,ip=192.168.100.10 \\
      --forward tcp:127.0.0.1:2222:192.168.100.10:22

  A hypervisor, with the kernel and the ramdisk of its first guest as modules:
    nestling run --nested on --kernel xen --cmdline 'console=com1 dom0_mem=512M' \\
      --module 'vmlinuz,console=hvc0' --module initrd.img

  From a file, with more memory than it says:
    nestling run --config machine.toml --memory 4G";

/// The flags of `nestling run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Run {
    /// Take what no flag gives from this TOML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The kernel: a bzImage, an ELF, or a Multiboot image
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The initial ramdisk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// A module for the kernel, FILE[,CMDLINE]; may be repeated
    #[arg(long, value_name = "MODULE")]
    module: Vec<ModuleConfig>,

    /// The kernel's command line [default: console=ttyS0]
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,

    /// The number of vCPUs, 1 to 64 [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,

    /// The host's processors that the vCPUs are pinned to, one for each in order
    #[arg(long, value_name = "CPU,...", value_delimiter = ',')]
    cpu_affinity: Vec<u32>,

    /// The memory: SIZE[,shared=on|off][,hugepages=off|2M|1G][,prefault=on|off] [default: 512M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemoryConfig>,

    /// What of VMX or SVM the guest is shown: auto, on, off, vmx or svm, and controls to hide
    /// or to ask for, as in vmx,-ept,+shadow_vmcs; `doctor --nested` lists them [default: auto]
    #[arg(long, value_name = "WHAT", allow_hyphen_values = true)]
    nested: Option<Request>,

    /// What the guest sees of the processor: a template's name (see `nestling cpu templates`) or
    /// file [default: all that the host's KVM gives]
    #[arg(long, value_name = "TEMPLATE")]
    cpu_template: Option<TemplateSource>,

    /// What the guest is shown of Hyper-V's interface, in place of KVM's: off, on, on,-NAME... or
    /// NAME,... of enlightenments [default: off]
    #[arg(long, value_name = "WHAT")]
    hyperv: Option<hyperv::Request>,

    /// A disk on a raw file: path=FILE[,readonly=on][,queues=N]; may be repeated
    #[arg(long, value_name = "DISK")]
    disk: Vec<DiskConfig>,

    /// A network interface: user|tap=NAME|fd=N[,mac=ADDRESS][,queues=N]; may be repeated.
    /// One of kind user is plugged into a virtual network of its own, and may have
    /// [,ip=ADDRESS][,spoofing=on][,pcap=FILE][,rate=BYTES][,frame_rate=N] (a second)
    #[arg(long, value_name = "NET")]
    net: Vec<NetConfig>,

    /// What the virtual network is to be:
    /// [cidr=PREFIX|off][,cidr6=PREFIX|off][,pool=FIRST-LAST][,mtu=BYTES][,dns=ADDRESS[+ADDRESS]]
    /// [,domain=NAME][,filtering=FILTER][,host_loopback=on][,reserve=MAC=ADDRESS[+MAC=ADDRESS]]
    /// [,control=SOCKET]
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkOptions>,

    /// A static mapping of the virtual network: tcp|udp:OUTER:PORT[-PORT]:INNER:PORT;
    /// may be repeated
    #[arg(long, value_name = "MAPPING")]
    forward: Vec<Mapping>,

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

    /// Let the guest end the run with an exit code: VALUE to port 0xf4 is (VALUE << 1) | 1
    #[arg(long)]
    debug_exit: bool,

    /// Where `nestling stat` and others may ask about the machine: a path or off
    /// [default: $XDG_RUNTIME_DIR/nestling/PID.sock]
    #[arg(long, value_name = "PATH")]
    api_socket: Option<ApiSocket>,

    /// What the machine is called there [default: machine-PID]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

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
        let network = if self.network.is_none() && self.forward.is_empty() {
            None
        } else {
            let mut network = self.network.unwrap_or_default();
            network.forward = self.forward;
            Some(network)
        };
        ConfigFile {
            version: None,
            name: self.name,
            kernel: self.kernel,
            initrd: self.initrd,
            module: (!self.module.is_empty()).then_some(self.module),
            cmdline: self.cmdline,
            cpus: self.cpus,
            cpu_affinity: (!self.cpu_affinity.is_empty()).then_some(self.cpu_affinity),
            memory: self.memory,
            nested: self.nested,
            cpu_template: self.cpu_template,
            hyperv: self.hyperv,
            disk: (!self.disk.is_empty()).then_some(self.disk),
            net: (!self.net.is_empty()).then_some(self.net),
            network,
            serial: self.serial,
            console: self.console,
            channel: self.channel,
            events: self.events,
            api_socket: self.api_socket,
            debug_exit: given(self.debug_exit),
            no_reboot: given(self.no_reboot),
            stats: given(self.stats),
            kernel_cache: self.no_kernel_cache.then_some(false),
        }
    }
}
