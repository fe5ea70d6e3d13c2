//! What a machine is to be: from the command line, from a TOML file, or both.
//!
//! The file's schema is versioned and documented in docs/configuration.md.
//! Flags win over the file. A list given by flags replaces the file's list.

mod file;
mod network;
mod options;
mod parts;
mod template;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use nestling_arch::hyperv;
use nestling_arch::nested::Request;
use nestling_arch::template::Template;
use nestling_devices::net::prefix::Prefix4;

pub use file::{ConfigFile, FileError};
pub use network::{NetworkConfig, NetworkOptions, Reservation, Route};
pub use options::{OptionError, Options};
pub use parts::{
    ApiSocket, ConsoleMode, DiskConfig, Endpoint, HugePages, MemoryConfig, ModuleConfig, NetConfig,
    Wire,
};
pub use template::{TemplateError, TemplateSource};

use crate::size::Size;

pub use nestling_arch::layout::MAX_VCPUS;

/// The highest number of a processor that a set of the C library holds (CPU_SET(3)).
const MAX_PROCESSOR: u32 = 1023;

/// The least memory a machine may have: a small kernel with its initramfs.
pub const MIN_MEMORY: Size = Size::mib(16);

/// Memory comes in steps of this, so that huge pages can back all of it.
pub const MEMORY_STEP: Size = Size::mib(2);

/// The most memory a machine may have: what fits below the 64-bit BAR window
/// within 46 address bits, the least of any processor that nests well.
pub const MAX_MEMORY: Size = Size(32 << 40);

/// A machine, completely described and checked as far as no host is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// What it is called by whoever asks for it.
    pub name: Option<String>,
    /// The kernel: a bzImage, an ELF, or a Multiboot image.
    pub kernel: PathBuf,
    /// The initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// Modules, in the order in which the kernel finds them.
    pub modules: Vec<ModuleConfig>,
    /// The kernel's command line.
    pub cmdline: String,
    /// The number of vCPUs.
    pub cpus: u32,
    /// The host's processors that the vCPUs are pinned to, in order; empty where they
    /// aren't.
    pub cpu_affinity: Vec<u32>,
    /// The memory.
    pub memory: MemoryConfig,
    /// What of VMX or SVM the guest is shown.
    pub nested: Request,
    /// What the guest sees of the processor, if not all that the host's KVM gives.
    pub cpu_template: Option<Template>,
    /// What the guest is shown of Hyper-V's interface, in place of KVM's.
    pub hyperv: hyperv::Request,
    /// Block devices, /dev/vda first.
    pub disks: Vec<DiskConfig>,
    /// Network interfaces.
    pub nets: Vec<NetConfig>,
    /// The virtual network that interfaces of kind `user` are plugged into.
    pub network: NetworkConfig,
    /// Where the 16550 at 0x3f8 leads.
    pub serial: ConsoleMode,
    /// Where the virtio console (hvc0) leads.
    pub console: ConsoleMode,
    /// What stands behind the guest's port `nestling.channel`.
    pub channel: Option<Endpoint>,
    /// Where the monitor reports the machine's life as JSON lines.
    pub events: Option<Endpoint>,
    /// Where others may ask about the machine while it runs.
    pub api_socket: ApiSocket,
    /// Let the guest end the run with an exit status, by port 0xf4.
    pub debug_exit: bool,
    /// End with the guest's reset instead of starting over.
    pub no_reboot: bool,
    /// Print KVM's counts at the end.
    pub stats: bool,
    /// Keep the kernel unpacked for the next boot.
    pub kernel_cache: bool,
}

/// Why a configuration can't be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No kernel at all.
    #[error("no kernel: give one by --kernel, or by `kernel =` in the configuration")]
    NoKernel,
    /// A name that can't be told from a number or a path.
    #[error("--name {0:?}: write up to 64 letters, digits, `-`, `_` and `.`, a letter first")]
    Name(String),
    /// vCPUs outside 1 to 64.
    #[error("--cpus {0}: a machine has 1 to {MAX_VCPUS} vCPUs")]
    Cpus(u32),
    /// Fewer or more processors than vCPUs.
    #[error("--cpu-affinity names {given} processors for {cpus} vCPUs: name one for each")]
    Affinity {
        /// Processors named.
        given: usize,
        /// vCPUs.
        cpus: u32,
    },
    /// A processor that Linux can't have.
    #[error("--cpu-affinity {0}: processors are numbered from 0 to {MAX_PROCESSOR}")]
    Processor(u32),
    /// Memory outside its limits.
    #[error("--memory {0}: a machine has {MIN_MEMORY} to {MAX_MEMORY} of memory")]
    MemorySize(Size),
    /// Memory that isn't a whole number of pages.
    #[error("--memory {size}: the size must be a multiple of {step}")]
    MemoryStep {
        /// What was asked for.
        size: Size,
        /// What it must be a multiple of.
        step: Size,
    },
    /// A virtual network that can't be.
    #[error("--network: {0}")]
    Network(#[from] OptionError),
    /// A template that can't be had.
    #[error("--cpu-template: {0}")]
    Template(#[from] TemplateError),
    /// Addresses for interfaces of a network without IPv4, or outside of it.
    #[error("--net user,ip={0}: the network has no such address for a guest")]
    Address(Ipv4Addr),
    /// An inherited descriptor that two parts would own.
    #[error("the same file descriptor {0} is given twice")]
    SharedDescriptor(i32),
}

impl VmConfig {
    /// Checks `file`, which holds flags and file merged, and fills the gaps
    /// with defaults.
    pub fn from_merged(file: ConfigFile) -> Result<Self, ConfigError> {
        let config = Self {
            name: file.name,
            kernel: file.kernel.ok_or(ConfigError::NoKernel)?,
            initrd: file.initrd,
            modules: file.module.unwrap_or_default(),
            cmdline: file.cmdline.unwrap_or_else(|| "console=ttyS0".into()),
            cpus: file.cpus.unwrap_or(1),
            cpu_affinity: file.cpu_affinity.unwrap_or_default(),
            memory: file.memory.unwrap_or_default(),
            nested: file.nested.unwrap_or_default(),
            cpu_template: file.cpu_template.map(TemplateSource::read).transpose()?,
            hyperv: file.hyperv.unwrap_or_default(),
            disks: file.disk.unwrap_or_default(),
            nets: file.net.unwrap_or_default(),
            network: file.network.unwrap_or_default().try_into()?,
            serial: file.serial.unwrap_or(ConsoleMode::Tty),
            console: file.console.unwrap_or(ConsoleMode::Off),
            channel: file.channel,
            events: file.events,
            api_socket: file.api_socket.unwrap_or_default(),
            debug_exit: file.debug_exit.unwrap_or(false),
            no_reboot: file.no_reboot.unwrap_or(false),
            stats: file.stats.unwrap_or(false),
            kernel_cache: file.kernel_cache.unwrap_or(true),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if let Some(name) = self.name.as_ref().filter(|name| !is_name(name)) {
            return Err(ConfigError::Name(name.clone()));
        }
        for net in &self.nets {
            if let Wire::User { ip: Some(ip), .. } = net.wire {
                let fits =
                    |(gateway, prefix): (Ipv4Addr, Prefix4)| prefix.is_host(ip) && ip != gateway;
                if !self.network.v4.is_some_and(fits) {
                    return Err(ConfigError::Address(ip));
                }
            }
        }
        if !(1..=MAX_VCPUS).contains(&self.cpus) {
            return Err(ConfigError::Cpus(self.cpus));
        }
        let given = self.cpu_affinity.len();
        if given > 0 && u32::try_from(given) != Ok(self.cpus) {
            return Err(ConfigError::Affinity {
                given,
                cpus: self.cpus,
            });
        }
        if let Some(high) = self.cpu_affinity.iter().find(|cpu| **cpu > MAX_PROCESSOR) {
            return Err(ConfigError::Processor(*high));
        }
        let size = self.memory.size;
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
            return Err(ConfigError::MemorySize(size));
        }
        let step = match self.memory.hugepages {
            HugePages::Off | HugePages::Size2M => MEMORY_STEP,
            HugePages::Size1G => Size::mib(1024),
        };
        if !size.bytes().is_multiple_of(step.bytes()) {
            return Err(ConfigError::MemoryStep { size, step });
        }
        let mut descriptors = std::collections::BTreeSet::new();
        let endpoints = [&self.channel, &self.events].into_iter().flatten();
        let named = endpoints.filter_map(Endpoint::descriptor);
        for fd in named.chain(self.nets.iter().filter_map(NetConfig::fd)) {
            if !descriptors.insert(fd) {
                return Err(ConfigError::SharedDescriptor(fd));
            }
        }
        Ok(())
    }
}

/// Whether a person can call a machine so: it is no number and no path.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= 64
        && text.chars().all(plain)
}

#[cfg(test)]
mod tests;
