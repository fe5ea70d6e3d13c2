//! What a level is told to do: a small versioned file in its initramfs.
//!
//! An order is a tree. A step either runs a workload in the level itself, or
//! boots the next level, which carries an order of its own. The order travels as
//! a second newc segment behind the image, so one image serves every level and
//! every nest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nestling_arch::hyperv;
use nestling_arch::nested::Request;
use nestling_arch::template::Template;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bench::work::Work;
use crate::image::archive::{self, Tree};
use crate::monitor::Monitor;

/// The version of the format; a level refuses any other.
pub const VERSION: u32 = 1;
/// Where a level finds its order.
pub const PATH: &str = "/etc/nestling/order.json";
/// The highest level an order may name.
pub const MAX_LEVEL: u8 = 7;
/// The longest order read, in bytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// Why an order can't be followed.
#[derive(Debug, Error)]
pub enum Error {
    /// Not JSON, an unknown field, or a wrong type.
    #[error("order is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by another version of nestling.
    #[error("order has version {found}, this nestling reads {VERSION}: rebuild the image")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// A level that doesn't follow the one that boots it, or one too high.
    #[error("order names level {found} where level {expected} belongs (at most {MAX_LEVEL})")]
    Level {
        /// The level in the order.
        found: u8,
        /// The level its place in the tree gives it.
        expected: u8,
    },
    /// A program workload without a program.
    #[error("order of level {level} has a program step with an empty argv")]
    NoProgram {
        /// The level whose order it is.
        level: u8,
    },
    /// The archive segment couldn't be written.
    #[error("cannot write the order's archive segment: {0}")]
    Segment(#[from] archive::Error),
    /// An initramfs couldn't be read or written.
    #[error("cannot put the order behind the image: {0}")]
    Append(#[from] std::io::Error),
}

/// One level's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The format's version, [`VERSION`].
    pub version: u32,
    /// The level that follows this order; 0 owns the (emulated) hardware.
    pub level: u8,
    /// Kernel modules to load before the steps. One that is neither in the image
    /// nor built in is noted, not fatal.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Load KVM for the processor's vendor, if it shows VMX or SVM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm: Option<Kvm>,
    /// The level's own network; none leaves its links up and without addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What to do, one after another. A failed step doesn't keep the next from
    /// running.
    pub steps: Vec<Step>,
}

/// A level's own network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Ask for an address by DHCP at the first NIC, if there is one.
    #[serde(default)]
    pub dhcp: bool,
    /// Join the first NIC by a bridge to a tap of this name, which the next
    /// level's NIC is then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Addresses of the level itself that no network leads to: the loopback
    /// interface has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Ipv4Addr>,
    /// Serve a page here as long as the order is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve: Option<SocketAddr>,
    /// Serve the benchmark's peer here as long as the order is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bench: Option<SocketAddr>,
}

/// How KVM is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kvm {
    /// Parameters for `kvm`, e.g. `min_timer_period_us=20000`.
    #[serde(default)]
    pub common: String,
    /// Parameters for `kvm_intel` besides `nested=1`, e.g. `enable_apicv=0`.
    #[serde(default)]
    pub intel: String,
    /// Parameters for `kvm_amd` besides `nested=1`.
    #[serde(default)]
    pub amd: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Work in this level.
    Workload(Workload),
    /// Boot the next level and see it through.
    Nest(Nest),
    /// Boot a machine of the next level that runs another system, and see it
    /// through.
    Run(Run),
}

impl Step {
    /// What it is called where its counts are reported.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Workload(work) => work.name(),
            Self::Nest(nest) if nest.name.is_empty() => format!("L{}", nest.order.level),
            Self::Nest(nest) => nest.name.clone(),
            Self::Run(run) => run.name.clone(),
        }
    }
}

/// Work in a level, or a fault provoked there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Workload {
    /// Say which level this is and what it runs on.
    Hello,
    /// An interactive shell on the level's console.
    Shell,
    /// A program of the image.
    Program {
        /// The program's path and its arguments.
        argv: Vec<String>,
        /// Its whole environment besides `PATH`, `HOME` and `NESTLING_LEVEL`.
        #[serde(default)]
        env: BTreeMap<String, String>,
    },
    /// Use the network, and be used by it.
    Network(NetworkWork),
    /// Report the facts a test asks for: flags, `/dev/kvm`, KVM's parameters.
    Probe,
    /// Report what CPUID and the MSRs tell on each processor, each in an event of
    /// its own.
    CpuDump,
    /// Fill the start of a block device with [`pattern`].
    DiskWrite {
        /// The device, e.g. `/dev/vda`.
        device: String,
        /// Bytes to write.
        length: u64,
        /// Selects the pattern.
        seed: u64,
    },
    /// Measure rows of the benchmark.
    Bench(Work),
    /// Execute CPUID so many times: each is one exit.
    Cpuid {
        /// How many times.
        count: u64,
    },
    /// Report the SHA-256 of the start of a block device.
    DiskDigest {
        /// The device, e.g. `/dev/vda`.
        device: String,
        /// Bytes to read.
        length: u64,
    },
    /// End the order here and power off.
    PowerOff,
    /// Fault injection: reset the machine.
    Reset,
    /// Fault injection: triple-fault the processor.
    TripleFault,
    /// Fault injection: make the kernel panic.
    Panic,
    /// Fault injection: keep every processor from running anything else.
    Hang,
    /// Fault injection: use memory until the kernel kills the user.
    OutOfMemory,
}

impl Workload {
    /// The name under which results are reported.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Hello => "hello".into(),
            Self::Shell => "shell".into(),
            Self::Program { argv, .. } => argv.first().cloned().unwrap_or_default(),
            Self::Network(_) => "network".into(),
            Self::Probe => "probe".into(),
            Self::CpuDump => "cpu-dump".into(),
            Self::Bench(_) => "bench".into(),
            Self::Cpuid { count } => format!("cpuid {count}"),
            Self::DiskWrite { device, .. } => format!("disk-write {device}"),
            Self::DiskDigest { device, .. } => format!("disk-digest {device}"),
            Self::PowerOff => "power-off".into(),
            Self::Reset => "reset".into(),
            Self::TripleFault => "triple-fault".into(),
            Self::Panic => "panic".into(),
            Self::Hang => "hang".into(),
            Self::OutOfMemory => "out-of-memory".into(),
        }
    }
}

/// What a level does with its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkWork {
    /// Whose answer to an echo request is awaited.
    pub ping: IpAddr,
    /// The name that is looked up.
    pub resolve: String,
    /// Where a page is fetched from, by HTTP.
    pub fetch: SocketAddr,
    /// The port at which a page is served until it was fetched once.
    pub serve: u16,
}

/// The next level, its machine and its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nest {
    /// What the events of its start call it, where an order boots several.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The machine to boot.
    pub machine: Machine,
    /// Who boots it; nestling if nobody is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
    /// How long each phase may take, by the clock of the level that waits.
    pub limits: Limits,
    /// Report the machine's counts every so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_s: Option<u32>,
    /// Count the machine's exits by reason, as KVM's tracepoints tell them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trace: bool,
    /// The guest's console is this level's console, byte for byte, in both
    /// directions; otherwise its lines are reported.
    #[serde(default)]
    pub raw_console: bool,
    /// Fetch a page here, by HTTP, as soon as it is served: by a static mapping
    /// it is one of a level above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<SocketAddr>,
    /// The order of the next level.
    pub order: Box<Order>,
}

/// A machine of the next level with another system than nestling's image. It has
/// no channel: its console and its end are all that it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// What its events and its result call it.
    pub name: String,
    /// Its kernel, a file of the level that boots it.
    pub kernel: String,
    /// Its initial ramdisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// Its kernel's modules, each a value of `--module`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// Its guest has a debug exit, and has done its work if it ends the run with
    /// this status; without one, if it powers off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// How long it may take from its start to its end, in seconds.
    pub total_s: u32,
}

/// A machine, in the terms of `nestling run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Virtual CPUs.
    pub cpus: u32,
    /// The processors of the level below that they are pinned to, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_affinity: Vec<u32>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What of VMX or SVM the guest is shown, as `--nested` takes it.
    pub nested: Request,
    /// What the guest sees of the processor; without, all that KVM gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<Template>,
    /// What of Hyper-V's interface, as `--hyperv` takes it.
    #[serde(default, skip_serializing_if = "hyperv::Request::is_off")]
    pub hyperv: hyperv::Request,
    /// The kernel command line.
    pub cmdline: String,
    /// Disks in the order in which the guest sees them.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network interfaces, each a value of `--net`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<String>,
    /// The virtual network, a value of `--network`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// Its static mappings, each a value of `--forward`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<String>,
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// A file or block device of the level that boots the machine.
    pub path: String,
    /// The guest must not write to it.
    #[serde(default)]
    pub readonly: bool,
    /// Make `path` a file of this many MiB first, in the level's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_mib: Option<u32>,
}

/// How long a machine may take, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// From its start to its first event.
    pub boot_s: u32,
    /// Between two signs of life after that.
    pub silence_s: u32,
    /// From its start to its end.
    pub total_s: u32,
}

impl Nest {
    /// Reads and checks a nest: the first level's machine, with its order.
    ///
    /// # Errors
    /// Whatever [`Error`] names; the tree is checked to its leaves.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let nest: Self = serde_json::from_slice(bytes)?;
        nest.order.check(nest.order.level)?;
        Ok(nest)
    }
}

impl Order {
    /// Reads and checks an order.
    ///
    /// # Errors
    /// Whatever [`Error`] names; the tree is checked to its leaves.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        // The version is looked at first: a later format may have other fields.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        let order: Self = serde_json::from_slice(bytes)?;
        order.check(order.level)?;
        Ok(order)
    }

    /// Whether the level measures rows of the benchmark.
    #[must_use]
    pub fn measures(&self) -> bool {
        let bench = |step: &Step| matches!(step, Step::Workload(Workload::Bench(_)));
        self.steps.iter().any(bench)
    }

    fn check(&self, expected: u8) -> Result<(), Error> {
        if self.version != VERSION {
            return Err(Error::Version {
                found: self.version,
            });
        }
        if self.level != expected || self.level > MAX_LEVEL {
            return Err(Error::Level {
                found: self.level,
                expected,
            });
        }
        for step in &self.steps {
            match step {
                Step::Nest(nest) => nest.order.check(expected + 1)?,
                Step::Run(_) if self.level == MAX_LEVEL => {
                    return Err(Error::Level {
                        found: self.level + 1,
                        expected: self.level + 1,
                    });
                }
                Step::Run(_) => {}
                Step::Workload(Workload::Program { argv, .. }) if argv.is_empty() => {
                    return Err(Error::NoProgram { level: self.level });
                }
                Step::Workload(_) => {}
            }
        }
        Ok(())
    }

    /// The order as a newc archive segment, to be put behind an initramfs whose
    /// length is a multiple of four.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Segment`] if it can't be encoded.
    pub fn segment(&self) -> Result<Vec<u8>, Error> {
        let mut tree = Tree::new();
        tree.insert_bytes(PATH, 0o444, serde_json::to_vec_pretty(self)?)?;
        Ok(tree.write_to(Vec::new())?)
    }
}

/// The `index`-th 8-byte word of the test pattern `seed` (splitmix64), so that a
/// reader elsewhere can tell what a disk must hold.
#[must_use]
pub fn pattern(seed: u64, index: u64) -> [u8; 8] {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).to_le_bytes()
}

#[cfg(test)]
mod tests;
