//! What L0 runs on: this host's own KVM, or an emulated machine whose processor
//! has AMD-V (QEMU) or VT-x (Bochs), for hosts that can't nest.

pub mod bochs;
pub mod directory;
pub mod qemu;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::MAX_VCPUS;
use crate::image::{iso, programs, unpacked};

/// What L0 runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metal {
    /// This host's KVM.
    Host,
    /// QEMU's TCG, which emulates AMD-V with nested paging.
    Svm,
    /// Bochs, which emulates VT-x with EPT.
    Vmx,
}

/// What was asked for by `--metal`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Request {
    /// The host if it can nest, else the quickest emulator that is installed.
    #[default]
    Auto,
    /// That one, or an error.
    Exactly(Metal),
}

impl fmt::Display for Metal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Svm => "svm",
            Self::Vmx => "vmx",
        })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(metal) => metal.fmt(f),
        }
    }
}

impl FromStr for Request {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "host" => Ok(Self::Exactly(Metal::Host)),
            "svm" => Ok(Self::Exactly(Metal::Svm)),
            "vmx" => Ok(Self::Exactly(Metal::Vmx)),
            _ => Err(format!("unknown metal {text:?}: auto, host, svm or vmx")),
        }
    }
}

/// The model of an emulated processor, as its emulator calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model(String);

impl Model {
    /// What the emulator calls it.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if !text.is_empty() && text.chars().all(part) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a model's name is of letters, digits, `_`, `-` and `.`".to_owned())
        }
    }
}

/// Why there is no machine for L0.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host was asked for, and can't nest.
    #[error("this host cannot nest: {0}; use --metal svm or --metal vmx")]
    Host(String),
    /// The emulator was asked for, and isn't installed.
    #[error("--metal {metal} needs {what}: apt-get install {package}")]
    Missing {
        /// The metal.
        metal: Metal,
        /// The file or program.
        what: &'static str,
        /// Its Debian package.
        package: &'static str,
    },
    /// Neither the host nor an emulator will do.
    #[error(
        "this host cannot nest ({0}), and no emulator is installed: apt-get install qemu-system-x86"
    )]
    Nothing(String),
    /// More processors than the metal has.
    #[error("--metal {metal} has at most {limit} processors for L0, {asked} were asked for")]
    Processors {
        /// The metal.
        metal: Metal,
        /// How many were asked for.
        asked: u32,
        /// Its limit.
        limit: u32,
    },
    /// More memory than the metal has.
    #[error("--metal {metal} has at most {limit} MiB of memory for L0, {asked} MiB were asked for")]
    Memory {
        /// The metal.
        metal: Metal,
        /// How much was asked for, in MiB.
        asked: u32,
        /// Its limit, in MiB.
        limit: u32,
    },
    /// A disk the emulator can't take.
    #[error("disk {path:?} cannot be used with --metal {metal}: {reason}")]
    Disk {
        /// The metal.
        metal: Metal,
        /// The disk's file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// Something on the way to a running emulator failed.
    #[error("cannot {what} for --metal {metal}: {source}")]
    Start {
        /// The metal.
        metal: Metal,
        /// The step.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The emulator ended before the machine ran.
    #[error("{program} ended before its machine ran: {said}")]
    Ended {
        /// The emulator.
        program: &'static str,
        /// What it said last.
        said: String,
    },
    /// The kernel is damaged or can't be read.
    #[error(transparent)]
    Kernel(#[from] unpacked::Error),
    /// The ISO it boots from could not be made.
    #[error(transparent)]
    Iso(#[from] iso::Error),
}

/// What decides between the host and an emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Why the host's KVM can't nest, in a few words; nothing if it can.
    pub obstacle: Option<String>,
}

/// The metal chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What L0 runs on.
    pub metal: Metal,
    /// One line for people.
    pub reason: String,
}

/// Chooses the metal. `missing` answers what an emulator lacks here, as
/// [`Metal::missing`] does.
///
/// # Errors
/// [`Error::Host`], [`Error::Missing`] or [`Error::Nothing`] with the remedy.
pub fn choose(
    request: Request,
    host: &HostFacts,
    missing: impl Fn(Metal) -> Vec<(&'static str, &'static str)>,
) -> Result<Choice, Error> {
    let chosen = |metal, reason: String| Ok(Choice { metal, reason });
    match (request, &host.obstacle) {
        (Request::Auto | Request::Exactly(Metal::Host), None) => {
            chosen(Metal::Host, "metal: host, whose KVM can nest".to_owned())
        }
        (Request::Exactly(Metal::Host), Some(obstacle)) => Err(Error::Host(obstacle.clone())),
        (Request::Exactly(metal), _) => match missing(metal).first() {
            None => chosen(
                metal,
                format!("metal: {metal} ({}), as asked", metal.describe()),
            ),
            Some(&(what, package)) => Err(Error::Missing {
                metal,
                what,
                package,
            }),
        },
        (Request::Auto, Some(obstacle)) => {
            let found = [Metal::Svm, Metal::Vmx]
                .into_iter()
                .find(|&metal| missing(metal).is_empty());
            let Some(metal) = found else {
                return Err(Error::Nothing(obstacle.clone()));
            };
            let description = metal.describe();
            chosen(
                metal,
                format!("metal: {metal} ({description}), for {obstacle}"),
            )
        }
    }
}

impl Metal {
    /// What it is, in a few words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Host => "this host's KVM",
            Self::Svm => "emulated AMD-V with NPT, by QEMU",
            Self::Vmx => "emulated VT-x with EPT, by Bochs",
        }
    }

    /// The files and programs it lacks here, each with its Debian package.
    pub fn missing(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Host => Vec::new(),
            Self::Svm => missing(&[], &[(qemu::PROGRAM, "qemu-system-x86")]),
            Self::Vmx => {
                let mut all = missing(bochs::FILES, &[(bochs::PROGRAM, "bochs")]);
                all.extend(iso::missing());
                all
            }
        }
    }

    /// How many times longer than on a present host's hardware things may take.
    pub fn time_scale(self) -> u32 {
        match self {
            Self::Host => 1,
            Self::Svm => 10,
            Self::Vmx => 30,
        }
    }

    /// The most processors L0 can have.
    pub fn max_processors(self) -> u32 {
        match self {
            Self::Host => MAX_VCPUS,
            // With more, QEMU now and then runs code that L0's kernel has just
            // patched, as it does whenever its first VM comes or its last goes.
            Self::Svm => 1,
            // Debian builds it without SMP.
            Self::Vmx => 1,
        }
    }

    /// The most memory L0 can have, in MiB, where the metal sets a limit itself.
    pub fn max_memory_mib(self) -> Option<u32> {
        match self {
            Self::Host | Self::Svm => None,
            Self::Vmx => Some(2048),
        }
    }

    /// What L0's kernel is told for the metal's sake, besides what every level's is: its
    /// consoles, and what the emulator gets wrong.
    pub fn kernel_arguments(self) -> String {
        let own = match self {
            Self::Host => return String::new(),
            Self::Svm => "",
            // Its time-stamp counter counts instructions; its EDD call is slow.
            Self::Vmx => " nokaslr tsc=unstable edd=off nosmp no_timer_check",
        };
        let consoles = "console=ttyS0,115200 nestling.channel=ttyS1 quiet panic=-1";
        format!("{consoles}{own}")
    }

    /// What the kernel of every level is told where the processor is emulated:
    /// to leave out what costs much there and gives a nest nothing.
    pub fn level_arguments(self) -> String {
        if self == Self::Host {
            return String::new();
        }
        // The tick then comes from a timer that is set once. One that each tick sets
        // anew costs exits at every level below, each time.
        let tick = "nohz=off highres=off lapic=notscdeadline";
        format!("{} {tick}", self.measured_arguments())
    }

    /// As [`level_arguments`](Self::level_arguments), for levels that are measured:
    /// their timers are as everywhere.
    pub fn measured_arguments(self) -> String {
        if self == Self::Host {
            return String::new();
        }
        [
            "mitigations=off",
            "init_on_alloc=0",
            "nowatchdog",
            "rcupdate.rcu_cpu_stall_suppress=1",
            "audit=0",
            "apparmor=0",
            "cryptomgr.notests",
            // One measures jitter for random numbers nobody asks for, one names
            // enumerations in traces, two parse type data for BPF: together
            // half of the time from the kernel's start to /init under Bochs.
            "initcall_blacklist=jent_mod_init,trace_eval_init,\
             bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init",
        ]
        .join(" ")
    }

    /// What every level tells its `kvm` where the processor is emulated: to tick
    /// for its guests every 20 ms at most. At depth 3 a tick takes longer than the
    /// 4 ms that a Debian kernel asks for, and the guest would do nothing else.
    pub fn kvm_parameters(self) -> &'static str {
        match self {
            Self::Host => "",
            Self::Svm | Self::Vmx => "min_timer_period_us=20000",
        }
    }

    /// Fails if L0 can't have that much.
    ///
    /// # Errors
    /// [`Error::Processors`] or [`Error::Memory`] with the limit.
    pub fn check(self, processors: u32, memory_mib: u32) -> Result<(), Error> {
        let limit = self.max_processors();
        if processors > limit {
            return Err(Error::Processors {
                metal: self,
                asked: processors,
                limit,
            });
        }
        match self.max_memory_mib() {
            Some(limit) if memory_mib > limit => Err(Error::Memory {
                metal: self,
                asked: memory_mib,
                limit,
            }),
            _ => Ok(()),
        }
    }
}

fn missing(
    files: &[(&'static str, &'static str)],
    names: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    let files = files.iter().filter(|(file, _)| !Path::new(file).is_file());
    let names = names
        .iter()
        .filter(|(name, _)| programs::find(name).is_none());
    files.chain(names).copied().collect()
}

/// A disk for L0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// A raw image.
    pub path: PathBuf,
    /// L0 can't write to it.
    pub readonly: bool,
}

/// The machine an emulator is to run.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    /// L0's kernel, a bzImage.
    pub kernel: &'a Path,
    /// L0's initramfs.
    pub initramfs: &'a Path,
    /// The whole command line, [`Metal::kernel_arguments`] included.
    pub command_line: &'a str,
    /// How many processors.
    pub processors: u32,
    /// The processors' model, if not the metal's usual one.
    pub processor: Option<&'a str>,
    /// How much memory, in MiB.
    pub memory_mib: u32,
    /// Disks: virtio block devices under QEMU, ATA under Bochs.
    pub disks: &'a [Disk],
    /// The clock counts instructions, 1 ns each, and the run repeats whatever
    /// else the host does. Bochs always does so.
    pub count_instructions: bool,
    /// Further arguments, or lines of configuration, for the emulator.
    pub extra: &'a [String],
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: (&str, &str) = ("program", "package");

    fn facts(obstacle: Option<&str>) -> HostFacts {
        HostFacts {
            obstacle: obstacle.map(str::to_owned),
        }
    }

    #[test]
    fn auto_prefers_the_host_then_the_quicker_emulator() {
        let all = |_| Vec::new();
        let only_bochs = |metal| {
            if metal == Metal::Vmx {
                Vec::new()
            } else {
                vec![ABSENT]
            }
        };
        for (obstacle, missing, metal) in [
            (None, &all as &dyn Fn(Metal) -> Vec<_>, Metal::Host),
            (Some("no svm"), &all, Metal::Svm),
            (Some("no svm"), &only_bochs, Metal::Vmx),
        ] {
            let choice = choose(Request::Auto, &facts(obstacle), missing).unwrap();
            assert_eq!(choice.metal, metal);
            assert!(
                choice.reason.contains(obstacle.unwrap_or("can nest")),
                "{}",
                choice.reason
            );
        }
        let nothing = choose(Request::Auto, &facts(Some("no svm")), |_| vec![ABSENT]);
        assert!(matches!(nothing, Err(Error::Nothing(why)) if why == "no svm"));
    }

    #[test]
    fn what_was_asked_for_is_taken_or_refused() {
        let chosen = choose(Request::Exactly(Metal::Vmx), &facts(None), |_| Vec::new()).unwrap();
        assert_eq!(chosen.metal, Metal::Vmx);
        let host = choose(Request::Exactly(Metal::Host), &facts(Some("x")), |_| {
            Vec::new()
        });
        assert!(matches!(host, Err(Error::Host(_))));
        let svm = choose(Request::Exactly(Metal::Svm), &facts(None), |_| vec![ABSENT]);
        assert!(matches!(
            svm,
            Err(Error::Missing {
                metal: Metal::Svm,
                package: "package",
                ..
            })
        ));
    }

    #[test]
    fn a_metal_has_limits() {
        assert!(Metal::Vmx.check(1, 2048).is_ok());
        assert!(matches!(
            Metal::Vmx.check(2, 512),
            Err(Error::Processors { limit: 1, .. })
        ));
        assert!(matches!(
            Metal::Vmx.check(1, 2049),
            Err(Error::Memory { limit: 2048, .. })
        ));
        assert!(Metal::Svm.check(1, 8192).is_ok());
    }

    #[test]
    fn a_model_is_one_word() {
        assert_eq!("EPYC-v4".parse::<Model>().unwrap().name(), "EPYC-v4");
        for text in ["", "EPYC,-svm", "a b", "a\nmegs: 1"] {
            assert!(text.parse::<Model>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_request_reads_as_it_prints() {
        for text in ["auto", "host", "svm", "vmx"] {
            assert_eq!(text.parse::<Request>().unwrap().to_string(), text);
        }
        assert!("kvm".parse::<Request>().is_err());
    }
}
