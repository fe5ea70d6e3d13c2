//! A machine that runs, as its monitor's other threads may look at it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nestling_arch::nested::Extension;
use nestling_devices::bus::lock;
use serde::{Deserialize, Serialize};

use super::report::with_user_exits;
use super::{Counts, Reading, Statistics};
use crate::vcpu::View;

/// The vCPUs are asked about their registers at most once in this time.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long they may take to answer: one that a device keeps waiting doesn't.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a guest does with the virtualization extension that it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hypervisor {
    /// It has turned neither VMX nor SVM on (CR4.VMXE, EFER.SVME).
    #[default]
    None,
    /// It has; no vCPU has been in a guest of it lately.
    On,
    /// It runs guests of its own.
    RunsGuest,
}

/// The machine of a session as it is now: another after each reset, and none in
/// between.
#[derive(Debug, Default)]
pub struct Current {
    live: Mutex<Option<Arc<Live>>>,
    boots: AtomicU64,
}

impl Current {
    /// Shows the machine that has just been started.
    pub fn show(&self, live: Arc<Live>) {
        self.boots.fetch_add(1, Ordering::Relaxed);
        *self.lock() = Some(live);
    }

    /// Shows no machine any more.
    pub fn hide(&self) {
        *self.lock() = None;
    }

    /// The machine that runs, if one does.
    pub fn get(&self) -> Option<Arc<Live>> {
        self.lock().clone()
    }

    /// How many times it has been booted.
    pub fn boots(&self) -> u64 {
        self.boots.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Live>>> {
        lock(&self.live)
    }
}

/// A machine that runs. Looking at it takes no lock that a vCPU's thread takes on
/// its way.
#[derive(Debug)]
pub struct Live {
    /// What of virtualization the guest is shown.
    extension: Option<Extension>,
    statistics: Option<Statistics>,
    vcpus: Vec<Arc<View>>,
    last: Mutex<Last>,
}

/// What is remembered of the last answer about a hypervisor.
#[derive(Debug, Default)]
struct Last {
    nested_runs: Option<u64>,
    looked: Option<Instant>,
    on: bool,
}

impl Live {
    /// The machine whose counts are behind `statistics`, with these vCPUs.
    pub fn new(
        extension: Option<Extension>,
        statistics: Option<Statistics>,
        vcpus: Vec<Arc<View>>,
    ) -> Self {
        Self {
            extension,
            statistics,
            vcpus,
            last: Mutex::default(),
        }
    }

    /// KVM's counts of the machine as a whole.
    pub fn vm(&self) -> Reading {
        let reading = self.statistics.as_ref().and_then(|s| s.read().ok());
        reading.unwrap_or_default()
    }

    /// The counts of each vCPU, KVM's and the monitor's. No vCPU notices.
    pub fn vcpus(&self) -> Vec<Reading> {
        let read = |view: &Arc<View>| {
            let Reading { counts, instants } = view.read();
            Reading {
                counts: with_user_exits(&counts, view.exits().get()),
                instants,
            }
        };
        self.vcpus.iter().map(read).collect()
    }

    /// The threads of the vCPUs that run.
    pub fn threads(&self) -> Vec<i32> {
        self.vcpus.iter().filter_map(|view| view.thread()).collect()
    }

    /// Whether a hypervisor runs in the guest. KVM's counts tell while it runs
    /// guests; otherwise each vCPU is asked about its registers, which costs it an
    /// exit, at most twice a second.
    pub fn hypervisor(&self) -> Hypervisor {
        if self.extension.is_none() {
            return Hypervisor::None;
        }
        let readings: Vec<Reading> = self.vcpus.iter().map(|view| view.read()).collect();
        let of = |counts: &Counts, name| counts.get(name).copied().unwrap_or(0);
        let nested_runs = readings.iter().map(|r| of(&r.counts, "nested_run")).sum();
        let in_guest = readings.iter().any(|r| of(&r.instants, "guest_mode") != 0);
        let mut last = lock(&self.last);
        let before = last.nested_runs.replace(nested_runs);
        if in_guest || before.is_some_and(|before| nested_runs > before) {
            return Hypervisor::RunsGuest;
        }
        if last
            .looked
            .is_none_or(|looked| looked.elapsed() >= INTERVAL)
        {
            last.on = self.look();
            last.looked = Some(Instant::now());
        }
        if last.on {
            Hypervisor::On
        } else {
            Hypervisor::None
        }
    }

    /// Whether any vCPU has VMX or SVM turned on.
    fn look(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        // All are asked before the first is waited for.
        let asked: Vec<_> = self
            .vcpus
            .iter()
            .map(|view| (view, view.ask_for_look()))
            .collect();
        asked.iter().fold(false, |on, (view, count)| {
            view.wait_for_look(*count, deadline) || on
        })
    }
}
