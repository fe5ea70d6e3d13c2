//! Those that are measured: each joins a guest's namespace to the host.

mod machine;
mod nestling;
mod pasta;
mod slirp;
mod veth;

pub(crate) use machine::{Image, Machine};
pub(crate) use nestling::{GATEWAY, GUEST, binary};

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::lab::{self, Lab, Namespace, Place, Process};
use crate::traffic::PATIENCE;
use crate::{Failure, plan};

/// What joins a guest to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Contender {
    /// The kernel's own link: what there is to lose.
    Veth,
    /// passt: pasta for a namespace, passt itself for a guest of QEMU.
    Passt,
    /// libslirp: slirp4netns for a namespace, QEMU's own for its guest.
    Slirp,
    /// What all of this is about.
    Nestling,
}

/// All of them, in the order of the table's columns.
pub(crate) const ALL: [Contender; 4] = [
    Contender::Veth,
    Contender::Passt,
    Contender::Slirp,
    Contender::Nestling,
];
/// Those that do the same as nestling.
pub(crate) const PEERS: [Contender; 2] = [Contender::Passt, Contender::Slirp];

/// How a contender is to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// The MTU of the guest's interface.
    pub(crate) mtu: u32,
    /// The one processor for it and for both ends of the traffic, if any.
    pub(crate) cpu: Option<usize>,
    /// Whose datagrams reach the guest.
    pub(crate) filtering: Filtering,
}

/// Whose datagrams reach a guest (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filtering {
    /// Whatever the contender does by itself.
    Default,
    /// Only those of endpoints that the guest has sent to. Peers can't be told so.
    ByPort,
}

impl Settings {
    /// The largest MTU, nothing pinned, the rest as it is by itself.
    pub(crate) const PLAIN: Self = Self {
        mtu: 65520,
        cpu: None,
        filtering: Filtering::Default,
    };
}

/// A guest's namespace, joined to the host. What a contender needs to have started
/// ends with it.
#[derive(Debug)]
pub(crate) struct Site {
    /// The servers in the guest.
    _servers: Process,
    process: Option<Process>,
    /// The guest.
    pub(crate) guest: Namespace,
    /// Where the host finds the guest's servers.
    pub(crate) address: Ipv4Addr,
    /// The first of their ports, on both sides.
    pub(crate) first: u16,
    /// The guest's own address.
    pub(crate) inner: Ipv4Addr,
    control: Option<PathBuf>,
}

/// What a contender has made of a namespace.
struct Joined {
    process: Option<Process>,
    address: Ipv4Addr,
    inner: Ipv4Addr,
    control: Option<PathBuf>,
}

/// The interface in the guest.
pub(crate) const INTERFACE: &str = "tap0";

impl Contender {
    /// Its name in the table and in the names of cells.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Passt => "passt",
            Self::Slirp => "slirp",
            Self::Nestling => "nestling",
        }
    }

    /// Makes a guest, joins it to the host, and starts its servers.
    pub(crate) fn start(self, lab: &Lab, settings: Settings) -> Result<Site, Failure> {
        let guest = lab.guest(self.name())?;
        // All are reached through the host's one address, on ports of their own.
        let (first, joined) = match self {
            Self::Veth => (5100, veth::join(lab, &guest, settings)?),
            Self::Passt => (5200, pasta::join(lab, &guest, settings, 5200)?),
            Self::Slirp => (5300, slirp::join(lab, &guest, settings, 5300)?),
            Self::Nestling => (5400, nestling::join(lab, &guest, settings, 5400)?),
        };
        let place = Place {
            namespace: Some(&guest),
            cpu: settings.cpu,
        };
        Ok(Site {
            _servers: lab::serve(&place, Ipv4Addr::UNSPECIFIED, first)?,
            process: joined.process,
            guest,
            address: joined.address,
            first,
            inner: joined.inner,
            control: joined.control,
        })
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Site {
    /// Fails if the contender has died.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    /// The contender's own memory in bytes: pages that it shares with nobody.
    pub(crate) fn memory(&self) -> Result<u64, Failure> {
        let text = fs::read_to_string(self.proc("smaps_rollup")?)?;
        private_memory(&text).ok_or_else(|| "no count of private memory".into())
    }

    /// How many descriptors the contender has open.
    pub(crate) fn descriptors(&self) -> Result<usize, Failure> {
        Ok(fs::read_dir(self.proc("fd")?)?.count())
    }

    /// How many flows the contender says it has.
    pub(crate) fn flows(&self) -> Result<u64, Failure> {
        let control = self.control.as_ref().ok_or("it has no control socket")?;
        nestling::flows(control)
    }

    fn proc(&self, file: &str) -> io::Result<PathBuf> {
        let process = self.process.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        Ok(format!("/proc/{}/{file}", process.id()).into())
    }
}

/// Waits until the guest has its default route: all of them set it last.
fn await_route(guest: &Namespace, process: &mut Process) -> Result<(), Failure> {
    await_that("the guest gets a default route", process, || {
        let routes = guest.within(|| fs::read_to_string("/proc/thread-self/net/route"))??;
        Ok(has_default_route(&routes))
    })
}

/// Waits until something is so, while a process lives.
pub(crate) fn await_that(
    what: &str,
    process: &mut Process,
    is_so: impl Fn() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        process.check()?;
        if Instant::now() >= deadline {
            return Err(format!("waited in vain: {what}").into());
        }
        plan::pause(Duration::from_millis(20))?;
    }
    Ok(())
}

/// Whether /proc/net/route has a default route by the interface.
fn has_default_route(routes: &str) -> bool {
    routes.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some(INTERFACE) && words.next() == Some("00000000")
    })
}

/// The private memory that smaps_rollup tells, in bytes.
fn private_memory(rollup: &str) -> Option<u64> {
    let kib = |name: &str| {
        rollup.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        })
    };
    Some((kib("Private_Clean")? + kib("Private_Dirty")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_clean_and_dirty() {
        let rollup = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:    5000 kB\n\
                      Pss:    3000 kB\nPrivate_Clean:     120 kB\nPrivate_Dirty:     904 kB\n";
        assert_eq!(private_memory(rollup), Some(1024 * 1024));
        assert_eq!(private_memory("Rss: 5000 kB\n"), None);
    }

    #[test]
    fn a_default_route_goes_everywhere_by_the_interface() {
        let header = "Iface\tDestination\tGateway \tFlags\n";
        let local = "tap0\t0002000A\t00000000\t0001\n";
        let default = "tap0\t00000000\t0202000A\t0003\n";
        assert!(!has_default_route(&format!("{header}{local}")));
        assert!(has_default_route(&format!("{header}{default}{local}")));
        assert!(!has_default_route("eth0\t00000000\t0202000A\t0003\n"));
    }
}
