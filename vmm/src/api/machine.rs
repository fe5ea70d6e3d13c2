//! What a machine answers at its control socket.

use std::sync::Arc;
use std::time::Instant;

use nestling_arch::nested::Extension;

use super::message::{Info, MachineInfo, MachineStat, Reply, Request, Stat, VcpuStat, What};
use super::{Answer, nanoseconds_since};
use crate::config::VmConfig;
use crate::stats::live::{Current, Live};
use crate::stats::{self, Counts, Reading};

/// A machine, as it answers.
pub struct MachineApi {
    name: String,
    info: MachineInfo,
    current: Arc<Current>,
    start: Instant,
}

impl MachineApi {
    /// The machine of `config`, which is shown in `current` while it runs.
    pub fn new(config: &VmConfig, extension: Option<Extension>, current: Arc<Current>) -> Self {
        let exposure = extension.map_or("off".into(), |shown| shown.to_string().to_lowercase());
        let name = config.name.clone();
        Self {
            name: name.unwrap_or_else(|| format!("machine-{}", std::process::id())),
            info: MachineInfo {
                kernel: config.kernel.clone(),
                initrd: config.initrd.clone(),
                cmdline: config.cmdline.clone(),
                cpus: config.cpus,
                memory_bytes: config.memory.size.bytes(),
                disks: config.disks.iter().map(|disk| disk.path.clone()).collect(),
                nested: config.nested.to_string(),
                exposure,
                ..MachineInfo::default()
            },
            current,
            start: Instant::now(),
        }
    }

    fn info(&self) -> Info {
        let live = self.current.get();
        let hypervisor = live.as_ref().map(|live| live.hypervisor());
        let threads = live.as_ref().map(|live| live.threads());
        Info {
            pid: std::process::id(),
            name: self.name.clone(),
            nestling: env!("CARGO_PKG_VERSION").into(),
            what: What::Machine(MachineInfo {
                hypervisor: hypervisor.unwrap_or_default(),
                threads: threads.unwrap_or_default(),
                ..self.info.clone()
            }),
        }
    }

    fn stat(&self) -> Stat {
        let time_ns = nanoseconds_since(self.start);
        let live = self.current.get();
        let machine = live.map(|live| machine_stat(&live, self.current.boots(), time_ns));
        Stat {
            time_ns,
            machines: machine.into_iter().collect(),
            ..Stat::default()
        }
    }
}

impl Answer for MachineApi {
    fn answer(&self, request: Request) -> Result<Reply, String> {
        Ok(match request {
            Request::Info => Reply::Info(Box::new(self.info())),
            Request::Stat => Reply::Stat(Box::new(self.stat())),
        })
    }
}

fn machine_stat(live: &Live, boot: u64, time_ns: u64) -> MachineStat {
    let Reading { counts: vm, .. } = live.vm();
    let vcpus: Vec<VcpuStat> = live
        .vcpus()
        .into_iter()
        .map(|Reading { counts, instants }| VcpuStat { counts, instants })
        .collect();
    let mut total = Counts::new();
    for vcpu in &vcpus {
        stats::add(&mut total, &vcpu.counts);
    }
    MachineStat {
        level: 1,
        boot,
        time_ns,
        total,
        vm,
        vcpus,
        ..MachineStat::default()
    }
}
