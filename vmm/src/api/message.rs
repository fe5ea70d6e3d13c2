//! What is asked of a machine or a nest, and what it answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::nest::account::Phase;
use crate::stats::Counts;
use crate::stats::live::Hypervisor;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What it is: [`Reply::Info`].
    Info,
    /// What it has counted: [`Reply::Stat`]. No vCPU notices.
    Stat,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Reply {
    /// What it is.
    Info(Box<Info>),
    /// What it has counted.
    Stat(Box<Stat>),
    /// It can't be.
    Error {
        /// Why, in one line.
        message: String,
    },
}

/// What a process of nestling's is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The process's number.
    pub pid: u32,
    /// What it is called.
    pub name: String,
    /// The version of nestling that runs it.
    pub nestling: String,
    /// Whether it is a machine or a nest.
    #[serde(flatten)]
    pub what: What,
}

/// A machine, or a nest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// One machine.
    Machine(MachineInfo),
    /// A chain of levels.
    Nest(NestInfo),
}

/// What a machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Its kernel's file.
    pub kernel: PathBuf,
    /// Its initial ramdisk.
    pub initrd: Option<PathBuf>,
    /// Its kernel's command line.
    pub cmdline: String,
    /// Its vCPUs.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// The files of its disks.
    pub disks: Vec<PathBuf>,
    /// What was asked for by `--nested`.
    pub nested: String,
    /// What the guest is shown: `vmx`, `svm` or `off`.
    pub exposure: String,
    /// What the guest does with that.
    pub hypervisor: Hypervisor,
    /// The threads of its vCPUs, by which KVM's tracepoints know them; none
    /// between two boots.
    pub threads: Vec<i32>,
}

/// What a nest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NestInfo {
    /// What the lowest level runs on: `host`, `svm`, `vmx`.
    pub metal: String,
    /// Whether that is emulated, so that times mean nothing.
    pub emulated: bool,
    /// The deepest level.
    pub depth: u8,
}

/// What was counted until one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// The moment, in nanoseconds since the process's start.
    pub time_ns: u64,
    /// The machine, or each level's machine, the lowest first.
    pub machines: Vec<MachineStat>,
    /// A nest's phases so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
}

/// What was counted of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStat {
    /// The level that it is: 1 for a guest of this system.
    pub level: u8,
    /// Which boot it is, from 1; counts begin anew with each.
    pub boot: u64,
    /// The moment of the counts, as `time_ns` of the whole: a level of a nest
    /// reports now and then.
    pub time_ns: u64,
    /// The counts of all vCPUs added up.
    pub total: Counts,
    /// Whether a hypervisor runs in it, of a nest's level that has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<Hypervisor>,
    /// KVM's counts of the machine as a whole; none of a nest's level.
    pub vm: Counts,
    /// Each vCPU; none of a nest's level.
    pub vcpus: Vec<VcpuStat>,
}

/// What was counted of one vCPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuStat {
    /// KVM's counts, and the monitor's.
    pub counts: Counts,
    /// KVM's values of the moment: `guest_mode`, `blocking`.
    pub instants: Counts,
}
