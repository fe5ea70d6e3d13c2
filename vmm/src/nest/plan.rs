//! From what a person asks for to a tree of machines and orders.

use thiserror::Error;

use nestling_arch::hyperv;
use nestling_arch::nested::{Request as Nested, When};
use nestling_arch::template::Template;

use super::network::{self, Networks};
use crate::config::MAX_VCPUS;
use crate::monitor::Monitor;
use crate::order::{self, Kvm, Limits, Machine, Nest, Order, Step, VERSION, Workload};

/// Modules that serve a level itself, where the kernel hasn't them built in.
const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "button",
    "evdev",
    "pvpanic_pci",
    "rtc_cmos",
];
/// What serves a level under another monitor too: microvms have no PCI.
const OTHER_MODULES: [&str; 1] = ["virtio_mmio"];
/// What a kernel and its init need besides the image, in MiB.
const BASE_MIB: u32 = 128;
/// What another monitor needs for itself in the level that runs it, in MiB.
const OTHER_MIB: u32 = 64;
/// What a kernel itself takes of its memory before it unpacks the image, in MiB.
const KERNEL_MIB: u32 = 64;
/// Memory sizes are multiples of this many MiB.
const GRANULE_MIB: u32 = 16;
/// The arguments every level's kernel gets.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1";

/// Why a nest can't be planned.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// No level above the first, or more than an order may name.
    #[error("depth {0} is out of range: choose 1 to {max}", max = order::MAX_LEVEL)]
    Depth(u8),
    /// More or fewer vCPUs than a machine may have.
    #[error("{0} vCPUs are out of range: choose 1 to {MAX_VCPUS}")]
    Cpus(u32),
    /// More values than levels.
    #[error("{option} names {named} levels, the nest has {depth}: give one a level, or one")]
    List {
        /// The option.
        option: &'static str,
        /// Values given.
        named: usize,
        /// Levels there are.
        depth: u8,
    },
    /// Not enough for the deepest level to boot its image.
    #[error("{given} MiB of memory are too little for this image: give at least {needed} MiB")]
    MemoryTooSmall {
        /// What was asked for.
        given: u32,
        /// What the image needs.
        needed: u32,
    },
    /// A machine that the monitor can't boot.
    #[error("{0}")]
    Monitor(String),
    /// The levels together need more than the metal has.
    #[error(
        "{depth} levels need {needed} MiB at L{first}, this metal has {limit} MiB: \
         lower --memory or --depth"
    )]
    MemoryTooLarge {
        /// The nest's depth.
        depth: u8,
        /// The lowest level booted.
        first: u8,
        /// What it would need.
        needed: u64,
        /// What there is.
        limit: u32,
    },
}

/// What a person asks for, and what the metal and the image say to it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The level that the metal boots: 0 on an emulated one, 1 on this host's KVM.
    pub first: u8,
    /// The deepest level.
    pub depth: u8,
    /// What the deepest level runs.
    pub workload: Workload,
    /// vCPUs of L1, L2 and so on; the last counts for the rest.
    pub cpus: Vec<u32>,
    /// The deepest level's memory in MiB.
    pub memory_mib: u32,
    /// The most memory that the first level may have, in MiB.
    pub memory_limit_mib: u32,
    /// The image's size in MiB, rounded up.
    pub image_mib: u32,
    /// What of VMX or SVM L1, L2 and so on are shown; the last counts for the
    /// rest.
    pub nested: Vec<Nested>,
    /// `--cpu-template`, for every level above L0.
    pub cpu_template: Option<Template>,
    /// What of Hyper-V's interface L1, L2 and so on are shown; the last counts for
    /// the rest.
    pub hyperv: Vec<hyperv::Request>,
    /// Kernel arguments for every level besides nestling's own.
    pub cmdline: String,
    /// Who boots the levels above L0.
    pub monitor: Monitor,
    /// How KVM is loaded.
    pub kvm: Kvm,
    /// How the levels reach each other.
    pub network: network::Kind,
    /// Where L1's host meets them.
    pub host: network::Host,
    /// The whole nest's time limit in seconds.
    pub timeout_s: u32,
    /// How long a level may be silent, in seconds; init speaks every five.
    pub silence_s: u32,
    /// How often each level's counts are reported, in seconds; 0 for only when its
    /// steps begin and end.
    pub sample_s: u32,
    /// Whether exits are counted by reason.
    pub trace: bool,
}

/// Plans the nest: the first level's machine and its order, down to the deepest.
///
/// # Errors
/// [`Error`] names the value that doesn't fit.
pub fn plan(request: &Request) -> Result<Nest, Error> {
    let Request { first, depth, .. } = *request;
    if depth < first.max(1) || depth > order::MAX_LEVEL {
        return Err(Error::Depth(depth));
    }
    for (option, named) in [
        ("--cpus", request.cpus.len()),
        ("--nested", request.nested.len()),
        ("--hyperv", request.hyperv.len()),
    ] {
        if named > usize::from(depth) {
            return Err(Error::List {
                option,
                named,
                depth,
            });
        }
    }
    let needed = least_memory_mib(request.image_mib);
    if request.memory_mib < needed {
        return Err(Error::MemoryTooSmall {
            given: request.memory_mib,
            needed,
        });
    }
    let mut memory_mib = u64::from(request.memory_mib);
    let networks = Networks {
        kind: match request.network {
            network::Kind::Bridge | network::Kind::Nat if !request.monitor.is_nestling() => {
                network::Kind::Monitors
            }
            kind => kind,
        },
        depth,
        host: request.host,
    };
    let mut steps = vec![Step::Workload(request.workload.clone())];
    // The greeting is the nest's own proof, of its network too.
    if request.workload == Workload::Hello {
        let work = networks.work().map(Workload::Network);
        steps.extend(work.map(Step::Workload));
    }
    for level in (first..=depth).rev() {
        let limit = request.memory_limit_mib;
        let fits = u32::try_from(memory_mib).ok().filter(|&mib| mib <= limit);
        let too_large = Error::MemoryTooLarge {
            depth,
            first,
            needed: memory_mib,
            limit,
        };
        let nest = level_nest(request, networks, level, fits.ok_or(too_large)?, steps)?;
        if level == first {
            return Ok(nest);
        }
        memory_mib += overhead_mib(request, nest.machine.memory_mib);
        steps = vec![Step::Nest(nest)];
    }
    Err(Error::Depth(depth))
}

/// The least memory that a level can boot the image with, in MiB. It is there packed, and
/// then unpacked too, in a tmpfs that may take half of what the kernel has left.
#[must_use]
pub fn least_memory_mib(image_mib: u32) -> u32 {
    let both = BASE_MIB + 2 * image_mib;
    let unpacked = KERNEL_MIB + 3 * image_mib;
    both.max(unpacked).next_multiple_of(GRANULE_MIB)
}

/// What a machine does that boots the image by itself, as from its ISO, unless
/// it is told otherwise: L0 boots L1, and L1 boots L2, which says hello.
///
/// # Errors
/// None that this request could meet; as [`plan`].
pub fn appliance() -> Result<Order, Error> {
    let request = Request {
        first: 0,
        depth: 2,
        workload: Workload::Hello,
        cpus: vec![1],
        memory_mib: 256,
        // What the machine has isn't known here; it is the machine's to check.
        memory_limit_mib: u32::MAX,
        image_mib: 64,
        nested: vec![Nested::plain(When::On)],
        cpu_template: None,
        hyperv: Vec::new(),
        cmdline: String::new(),
        monitor: Monitor::default(),
        kvm: Kvm::default(),
        network: network::Kind::Bridge,
        host: network::Host::EMULATED,
        timeout_s: 600,
        silence_s: 120,
        sample_s: 0,
        trace: false,
    };
    plan(&request).map(|nest| *nest.order)
}

/// What a level needs besides its guest's memory: its own system, the image
/// unpacked and packed again, the bookkeeping of the guest's pages, and what the
/// kernel keeps free for the sake of huge pages, a twentieth and its watermarks.
fn overhead_mib(request: &Request, guest_mib: u32) -> u64 {
    let shares = u64::from(guest_mib / 32 + guest_mib / 16);
    let monitor = if request.monitor.is_nestling() {
        0
    } else {
        OTHER_MIB
    };
    let own = u64::from(BASE_MIB + monitor) + 2 * u64::from(request.image_mib) + shares;
    own.next_multiple_of(u64::from(GRANULE_MIB))
}

fn level_nest(
    request: &Request,
    networks: Networks,
    level: u8,
    memory_mib: u32,
    steps: Vec<Step>,
) -> Result<Nest, Error> {
    let (cpus, nested, hyperv) = match usize::from(level).checked_sub(1) {
        // An emulated machine, which has what the metal has: see `Metal::max_processors`.
        None => (1, Nested::default(), hyperv::Request::Off),
        Some(place) => (
            of_level(&request.cpus, place).unwrap_or(1),
            of_level(&request.nested, place).unwrap_or_default(),
            of_level(&request.hyperv, place).unwrap_or_default(),
        ),
    };
    if !(1..=MAX_VCPUS).contains(&cpus) {
        return Err(Error::Cpus(cpus));
    }
    // An outer level waits a little longer, so that the inner one names the fault.
    let inner = u32::from(level - request.first);
    let total_s = request.timeout_s - request.timeout_s / 20 * inner;
    let hosts = matches!(steps[..], [Step::Nest(_), ..]);
    let looks = matches!(
        steps[..],
        [
            Step::Workload(
                Workload::Probe | Workload::CpuDump | Workload::Shell | Workload::Program { .. }
            ),
            ..
        ]
    );
    let mut machine = Machine {
        cpus,
        cpu_affinity: Vec::new(),
        memory_mib,
        nested,
        // An emulator has a processor of its own.
        cpu_template: request.cpu_template.clone().filter(|_| level > 0),
        hyperv,
        cmdline: format!("{CMDLINE} {}", request.cmdline)
            .trim_end()
            .to_owned(),
        disks: Vec::new(),
        nets: Vec::new(),
        network: String::new(),
        forwards: Vec::new(),
    };
    let other = Some(&request.monitor).filter(|monitor| level > 0 && !monitor.is_nestling());
    if level > 0 {
        networks.complete(&mut machine, level);
    }
    if let Some(monitor) = other {
        let fits = monitor.check(&machine);
        fits.map_err(|error| Error::Monitor(error.to_string()))?;
    }
    let network = networks.own(level);
    let bridges = network
        .as_ref()
        .is_some_and(|network| network.bridge.is_some());
    let extra: &[&str] = match other {
        Some(_) => &OTHER_MODULES,
        None if bridges => &["tun", "bridge"],
        None => &[],
    };
    let hello = request.workload == Workload::Hello;
    Ok(Nest {
        name: String::new(),
        machine,
        monitor: other.cloned(),
        limits: Limits {
            boot_s: total_s.div_ceil(2),
            silence_s: request.silence_s,
            total_s,
        },
        trace: level > 0 && request.trace,
        sample_s: (level > 0 && request.sample_s > 0).then_some(request.sample_s),
        raw_console: request.workload == Workload::Shell,
        fetch: networks.fetch(level).filter(|_| hello),
        order: Box::new(Order {
            version: VERSION,
            level,
            modules: MODULES
                .iter()
                .chain(extra)
                .map(|name| (*name).to_owned())
                .collect(),
            kvm: (hosts || looks).then(|| request.kvm.clone()),
            network,
            steps,
        }),
    })
}

/// What a list from L1 on has for L1's `place`-th successor; the last counts for
/// the rest.
fn of_level<T: Clone>(list: &[T], place: usize) -> Option<T> {
    list.get(place).or(list.last()).cloned()
}

/// What `--workload` names: a kind of its own, or a program of the image.
#[must_use]
pub fn workload(words: &[String]) -> Option<Workload> {
    Some(match words {
        [] => return None,
        [program, ..] if program.is_empty() => return None,
        [word] => match word.as_str() {
            "hello" => Workload::Hello,
            "shell" => Workload::Shell,
            "probe" => Workload::Probe,
            "cpu-dump" => Workload::CpuDump,
            "power-off" => Workload::PowerOff,
            "reset" => Workload::Reset,
            "triple-fault" => Workload::TripleFault,
            "panic" => Workload::Panic,
            "hang" => Workload::Hang,
            "out-of-memory" => Workload::OutOfMemory,
            _ => Workload::Program {
                argv: words.to_vec(),
                env: Default::default(),
            },
        },
        [cpuid, count] if cpuid == "cpuid" => Workload::Cpuid {
            count: count.parse().ok()?,
        },
        _ => Workload::Program {
            argv: words.to_vec(),
            env: Default::default(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_appliance_boots_two_levels() {
        let order = appliance().unwrap();
        let [Step::Nest(l1)] = &order.steps[..] else {
            panic!("L0 only boots L1")
        };
        assert_eq!((order.level, l1.order.level), (0, 1));
        let bytes = serde_json::to_vec(&order).unwrap();
        assert_eq!(Order::parse(&bytes).unwrap(), order);
    }

    fn request() -> Request {
        Request {
            first: 0,
            depth: 2,
            workload: Workload::Hello,
            cpus: vec![2, 1],
            memory_mib: 256,
            memory_limit_mib: 2048,
            image_mib: 30,
            nested: vec![Nested::plain(When::Auto)],
            cpu_template: None,
            hyperv: Vec::new(),
            cmdline: String::new(),
            monitor: Monitor::default(),
            kvm: Kvm::default(),
            network: network::Kind::Off,
            host: network::Host::EMULATED,
            timeout_s: 600,
            silence_s: 60,
            sample_s: 5,
            trace: false,
        }
    }

    /// The nests from the first level down.
    fn chain(nest: &Nest) -> Vec<&Nest> {
        let mut all = vec![nest];
        while let [Step::Nest(next)] = &all[all.len() - 1].order.steps[..] {
            all.push(next);
        }
        all
    }

    #[test]
    fn each_level_has_room_for_the_next() {
        let nest = plan(&request()).unwrap();
        let levels = chain(&nest);
        let sizes: Vec<_> = levels.iter().map(|nest| nest.machine.memory_mib).collect();
        assert_eq!(sizes, [720, 480, 256]);
        let cpus: Vec<_> = levels.iter().map(|nest| nest.machine.cpus).collect();
        assert_eq!(cpus, [1, 2, 1]);
        let times: Vec<_> = levels.iter().map(|nest| nest.limits.total_s).collect();
        assert_eq!(times, [600, 570, 540]);
        assert_eq!(levels[2].order.steps, [Step::Workload(Workload::Hello)]);
        assert_eq!(levels[2].order.kvm, None);
        assert!(levels[1].order.kvm.is_some());
    }

    #[test]
    fn each_level_is_shown_its_own_or_the_last() {
        let exposures = |first, nested: &[&str]| -> Vec<String> {
            let request = Request {
                depth: 3,
                first,
                memory_limit_mib: 8192,
                nested: nested.iter().map(|text| text.parse().unwrap()).collect(),
                ..request()
            };
            let nest = plan(&request).unwrap();
            let levels = chain(&nest);
            let nested = levels.iter().map(|nest| nest.machine.nested.to_string());
            nested.collect()
        };
        assert_eq!(exposures(0, &["on"]), ["auto", "on", "on", "on"]);
        assert_eq!(exposures(1, &["vmx,-ept", "on"]), ["vmx,-ept", "on", "on"]);
    }

    #[test]
    fn another_monitor_boots_all_levels_but_the_metals() {
        let mut request = Request {
            monitor: "qemu-microvm".parse().unwrap(),
            network: network::Kind::Bridge,
            ..request()
        };
        let nest = plan(&request).unwrap();
        let levels = chain(&nest);
        let named = levels.iter().map(|nest| nest.monitor.as_ref());
        let named: Vec<_> = named.map(|one| one.map(|one| one.name.as_str())).collect();
        assert_eq!(named, [None, Some("qemu-microvm"), Some("qemu-microvm")]);
        let has = |nest: &Nest| nest.order.modules.contains(&"virtio_mmio".to_owned());
        assert_eq!([has(levels[0]), has(levels[1])], [false, true]);
        let sizes: Vec<_> = levels.iter().map(|nest| nest.machine.memory_mib).collect();
        assert_eq!(sizes, [848, 544, 256]);
        assert_eq!(levels[2].order.steps, [Step::Workload(Workload::Hello)]);
        request.nested = vec!["svm,-npt".parse().unwrap()];
        let error = plan(&request).unwrap_err().to_string();
        assert!(error.starts_with("monitor qemu-microvm cannot boot a machine with controls"));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_value_that_would() {
        let refused = |change: &dyn Fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            plan(&request).unwrap_err()
        };
        assert_eq!(refused(&|r| r.depth = 0), Error::Depth(0));
        assert_eq!(refused(&|r| r.depth = 8), Error::Depth(8));
        assert_eq!(refused(&|r| r.cpus = vec![0]), Error::Cpus(0));
        assert_eq!(
            refused(&|r| r.cpus = vec![1; 3]),
            Error::List {
                option: "--cpus",
                named: 3,
                depth: 2
            }
        );
        assert_eq!(
            refused(&|r| r.nested = vec![Nested::default(); 4]).to_string(),
            "--nested names 4 levels, the nest has 2: give one a level, or one"
        );
        assert_eq!(
            refused(&|r| r.memory_mib = 100),
            Error::MemoryTooSmall {
                given: 100,
                needed: 192
            }
        );
        assert_eq!(
            refused(&|r| r.memory_limit_mib = 512),
            Error::MemoryTooLarge {
                depth: 2,
                first: 0,
                needed: 720,
                limit: 512
            }
        );
    }

    #[test]
    fn a_word_that_is_no_kind_is_a_program() {
        assert_eq!(workload(&["hello".into()]), Some(Workload::Hello));
        let argv = vec!["/bin/true".to_owned()];
        let program = Workload::Program {
            argv: argv.clone(),
            env: Default::default(),
        };
        assert_eq!(workload(&argv), Some(program));
        let cpuid = |count: &str| workload(&["cpuid".into(), count.into()]);
        assert_eq!(cpuid("1000"), Some(Workload::Cpuid { count: 1000 }));
        assert_eq!(cpuid("many"), None);
        assert_eq!(workload(&[]), None);
        assert_eq!(workload(&[String::new(), "x".into()]), None);
    }

    proptest! {
        #[test]
        fn a_plan_is_a_valid_order_within_the_limit(
            depth in 1u8..=7,
            first in 0u8..=1,
            memory_mib in 0u32..4096,
            image_mib in 0u32..512,
        ) {
            let request = Request { depth, first, memory_mib, image_mib, cpus: vec![1], ..request() };
            if let Ok(nest) = plan(&request) {
                prop_assert!(nest.machine.memory_mib <= 2048);
                prop_assert_eq!(chain(&nest).len(), usize::from(depth - first) + 1);
                let bytes = serde_json::to_vec(&nest.order).unwrap();
                prop_assert_eq!(&Order::parse(&bytes).unwrap(), &*nest.order);
            }
        }
    }
}
