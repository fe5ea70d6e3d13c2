//! A level's network: what its order asks for, by the parts in [`net`](super::net).

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::net::dhcp::{self, Change, Client, Lease};
use super::net::fetch::{self, Limits, Url, fetch};
use super::net::interface::{self, Interfaces, nics};
use super::net::page::{self, Server};
use super::net::ping::{self, Options, ping};
use super::net::resolve::{self, Resolver};
use super::report::say;
use super::sys;
use crate::bench::server;
use crate::channel::WorkloadResult;
use crate::order::{Network, NetworkWork};
use crate::signals::Signals;

/// The bridge that a level's NIC and its guest's tap are on.
const BRIDGE: &str = "br0";

/// What a level's page says.
const PAGE: &[u8] = b"This page was served from within a nest.\n";

/// How long a lease, a carrier, a page or an answer may take: emulated levels
/// are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// One answer is enough, whichever request it is to.
const PINGS: Options = Options {
    count: 3,
    interval: Duration::from_millis(200),
    timeout: PATIENCE,
};

/// How long a level waits for its own page to be asked for.
const SERVING: Duration = Duration::from_secs(120);

/// Where programs look for resolvers.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why a level's network isn't as ordered.
#[derive(Debug, Error)]
pub(super) enum Error {
    #[error("no network interface: give the machine one by --net")]
    NoNic,
    #[error("no address was ordered by DHCP")]
    NoLease,
    #[error(transparent)]
    Interface(#[from] interface::Error),
    #[error(transparent)]
    Dhcp(#[from] dhcp::Error),
    #[error(transparent)]
    Page(#[from] page::Error),
    #[error(transparent)]
    Ping(#[from] ping::Error),
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Peer(#[from] server::Error),
    #[error("{url} has status {status}: look at the server")]
    Status { url: Url, status: u16 },
    #[error("nobody fetched this level's page within {} s", SERVING.as_secs())]
    NotFetched,
    #[error("{path}: {source}")]
    File {
        path: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    System(#[from] io::Error),
}

/// A level's network as it is.
#[derive(Debug, Default)]
pub(super) struct Joined {
    lease: Option<Lease>,
}

impl Joined {
    /// Sets a level's network up; the result says what address it has.
    ///
    /// What goes on for as long as the level lives is done by processes, which
    /// `stop` ends: this one is to stay without threads, so that it may fork.
    pub(super) fn set_up(
        order: &Network,
        host_name: &str,
        stop: &Signals,
    ) -> (Self, Option<WorkloadResult>) {
        match Self::try_set_up(order, host_name, stop) {
            Ok(joined) => {
                let told = joined.lease.as_ref().map(|lease| WorkloadResult {
                    name: "address".into(),
                    ok: true,
                    status: None,
                    output: format!(
                        "{}/{} by DHCP from {}",
                        lease.address, lease.prefix, lease.server
                    ),
                });
                (joined, told)
            }
            Err(error) => (
                Self::default(),
                Some(WorkloadResult {
                    name: "address".into(),
                    ok: false,
                    status: None,
                    output: error.to_string(),
                }),
            ),
        }
    }

    fn try_set_up(order: &Network, host_name: &str, stop: &Signals) -> Result<Self, Error> {
        permit_echoes();
        let mut interfaces = Interfaces::open()?;
        for address in &order.addresses {
            interfaces.add_address("lo", IpAddr::V4(*address), 32)?;
        }
        if let Some(address) = order.serve {
            serve(address, stop)?;
        }
        if let Some(address) = order.bench {
            serve_benchmark(address, stop)?;
        }
        if !order.dhcp {
            return Ok(Self::default());
        }
        let nic = nics()?.into_iter().next().ok_or(Error::NoNic)?;
        let name = match &order.bridge {
            Some(tap) => {
                interfaces.bridge(BRIDGE, &nic)?;
                interfaces.bridge_tap(tap, BRIDGE)?;
                BRIDGE.to_owned()
            }
            None => {
                interfaces.bring_up(&nic)?;
                nic
            }
        };
        interfaces.wait_for_carrier(&name, PATIENCE)?;
        let mac = interfaces.mac(&name)?;
        let mut client = Client::open(&name, mac, host_name)?;
        let lease = client.acquire(PATIENCE)?;
        interfaces.configure(&name, &lease)?;
        fs::write(RESOLV_CONF, lease.resolv_conf()).map_err(|source| Error::File {
            path: RESOLV_CONF,
            source,
        })?;
        keep(client, lease.clone(), &name, stop)?;
        Ok(Self { lease: Some(lease) })
    }

    /// Uses the network as `work` says, and is used by it.
    pub(super) fn work(&self, work: &NetworkWork, stop: &Signals) -> Result<String, Error> {
        let lease = self.lease.as_ref().ok_or(Error::NoLease)?;
        ping(work.ping, &PINGS)?;
        let mut told = vec![format!("{} answers pings", work.ping)];
        let resolver = Resolver::of(lease);
        let addresses = resolver.resolve(&work.resolve)?;
        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        told.push(format!("{} is {}", work.resolve, addresses.join(", ")));
        let url = Url {
            host: work.fetch.ip().to_string(),
            port: work.fetch.port(),
            path: "/".into(),
        };
        let limits = Limits {
            timeout: PATIENCE,
            bytes: 1 << 20,
        };
        let page = fetch(&url, &resolver, &limits)?;
        if page.status != 200 {
            return Err(Error::Status {
                url,
                status: page.status,
            });
        }
        told.push(format!("{url} has {} bytes", page.length));
        let here = SocketAddr::new([0, 0, 0, 0].into(), work.serve);
        let server = Server::listen(here, PAGE.to_vec())?;
        say(&format!(
            "{}; serves a page at port {}",
            told.join("; "),
            work.serve
        ));
        if server.serve(1, SERVING, stop.as_fd())? == 0 {
            return Err(Error::NotFetched);
        }
        told.push("its own page was fetched".into());
        Ok(told.join("; "))
    }
}

/// Lets this level's monitor send echo requests for its guests, by the sockets
/// that Linux has for that (ping_group_range, icmp(7)).
fn permit_echoes() {
    let setting = Path::new("/proc/sys/net/ipv4/ping_group_range");
    // Without it, a guest's pings end at the gateway.
    let _ = fs::write(setting, "0 2147483647");
}

/// Lets a process of its own do `work` until the level ends; an error is said.
fn in_background<E: fmt::Display>(work: impl FnOnce() -> Result<(), E>) -> io::Result<()> {
    sys::fork(|| match work() {
        Ok(()) => 0,
        Err(error) => {
            say(&error.to_string());
            1
        }
    })?;
    Ok(())
}

/// Serves the page until the level ends.
fn serve(address: SocketAddr, stop: &Signals) -> Result<(), Error> {
    let server = Server::listen(address, PAGE.to_vec())?;
    in_background(|| {
        let served = server.serve(u32::MAX, Duration::MAX, stop.as_fd());
        served.map(drop)
    })?;
    Ok(())
}

/// Serves the benchmark's peer until the level ends.
fn serve_benchmark(address: SocketAddr, stop: &Signals) -> Result<(), Error> {
    let server = server::Server::listen(address)?;
    in_background(|| server.serve(stop.as_fd()))?;
    Ok(())
}

/// Keeps the lease until the level ends, and the interface's address with it.
fn keep(mut client: Client, lease: Lease, name: &str, stop: &Signals) -> io::Result<()> {
    let mut held = Some(lease);
    in_background(|| {
        client.keep(stop.as_fd(), |change| {
            if let Err(error) = follow(change, &mut held, name) {
                say(&format!("the lease of {name} can't be followed: {error}"));
            }
        })
    })
}

/// Gives the interface what has become of its lease (RFC 2131, 4.4.5).
fn follow(change: Change, held: &mut Option<Lease>, name: &str) -> Result<(), Error> {
    let mut interfaces = Interfaces::open()?;
    let new = match change {
        Change::Bound(lease) => Some(lease),
        Change::Lost => None,
    };
    if let Some(old) = held.take()
        && new.as_ref().map(|new| new.address) != Some(old.address)
    {
        interfaces.unconfigure(name, &old)?;
    }
    if let Some(new) = &new {
        interfaces.configure(name, new)?;
    }
    *held = new;
    Ok(())
}
