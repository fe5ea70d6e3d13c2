//! `nestling net`: the virtual network without a machine of its own, and what
//! a network does while it runs.

mod recordings;
mod switch;
mod tap;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};
use nestling_devices::net::nat::mappings::Mapping;

use super::{Failure, Format, Verdict};
use crate::api::line::Line;
use crate::config::{NetworkConfig, NetworkOptions, Reservation, Route};
use crate::network::{self, Reply, Report, Request};
use switch::Switch;
use tap::Tap;

const EXAMPLES: &str = "\
Examples:
  A network for a rootless container, or any network namespace:
    nestling net tap --netns /proc/$PID/ns/net --forward tcp:127.0.0.1:8080:192.168.100.10:80

  A switch that QEMU and other monitors plug their guests into by vhost-user:
    nestling net switch --port socket=a.sock,mac=02:00:00:00:00:0a
    qemu-system-x86_64 -machine memory-backend=m -object memory-backend-memfd,id=m,size=1G \
      -m 1G -chardev socket,id=c,path=a.sock -netdev vhost-user,id=n,chardev=c \
      -device virtio-net-pci,netdev=n,mac=02:00:00:00:00:0a ...

  What a network is doing, and a mapping more while it runs:
    nestling net list --control net.sock
    nestling net forward --control net.sock add tcp:0.0.0.0:2222:192.168.100.10:22";

/// What ends `nestling net tap` and `nestling net switch`.
const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The subcommands of `nestling net`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Net {
    /// Bring a network namespace into a virtual network by a tap
    Tap(Box<Tap>),
    /// Bring guests of other monitors into a virtual network by vhost-user
    Switch(Box<Switch>),
    /// Say what a network is doing
    List(Target),
    /// Add or remove a static mapping of a network that runs
    Forward {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        change: Change,
    },
    /// Turn MAC address spoofing at a port of a network on or off
    Spoofing {
        #[command(flatten)]
        target: Target,
        /// The port's number, as `nestling net list` shows it
        port: u8,
        /// on or off
        #[arg(value_name = "WHEN", value_parser = on_or_off, action = ArgAction::Set)]
        on: bool,
    },
}

/// Which network is meant.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// The network's control socket
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
}

/// A change of static mappings.
#[derive(Debug, Subcommand)]
pub(super) enum Change {
    /// Make a mapping: tcp|udp:OUTER:PORT[-PORT]:INNER:PORT; port 0 for any
    Add {
        /// As tcp:0.0.0.0:2222:192.168.100.10:22
        mapping: Mapping,
    },
    /// End a mapping; its connections live on
    Remove {
        /// Its outer end, as tcp:0.0.0.0:2222
        outer: String,
    },
}

/// What a network is to be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(super) struct NetworkArgs {
    /// The gateway's IPv4 address and prefix, or off [default: 192.168.100.1/24]
    #[arg(long, value_name = "PREFIX")]
    cidr: Option<String>,

    /// The gateway's IPv6 address and prefix, or off [default: fd6e:6573:746c::1/64]
    #[arg(long, value_name = "PREFIX")]
    cidr6: Option<String>,

    /// The IPv4 addresses that are leased
    #[arg(long, value_name = "FIRST-LAST")]
    pool: Option<String>,

    /// The longest packet in bytes, 1280 to 65520 [default: 1500; 65520 on a tap]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,

    /// A resolver to forward queries to, instead of the host's; may be repeated
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    dns: Vec<String>,

    /// The domain of guests' names [default: internal]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,

    /// Whose datagrams reach guests: endpoint-independent or address-and-port-dependent
    #[arg(long, value_name = "FILTER")]
    filtering: Option<String>,

    /// Let guests reach the host's loopback by the gateway's address: on or off [default: off]
    #[arg(long, value_name = "WHEN", value_parser = on_or_off)]
    host_loopback: Option<bool>,

    /// Keep an address for a station: MAC=ADDRESS; may be repeated
    #[arg(long, value_name = "MAC=ADDRESS")]
    reserve: Vec<Reservation>,

    /// Tell guests of a network behind one of them: PREFIX=ADDRESS; may be repeated
    #[arg(long, value_name = "PREFIX=ADDRESS")]
    route: Vec<Route>,

    /// A static mapping: tcp|udp:OUTER:PORT[-PORT]:INNER:PORT; may be repeated
    #[arg(long, value_name = "MAPPING")]
    forward: Vec<Mapping>,

    /// Listen for `nestling net list` and the like at this socket
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl NetworkArgs {
    fn config(&self, default_mtu: u16) -> Result<NetworkConfig, Failure> {
        let options = NetworkOptions {
            cidr: self.cidr.clone(),
            cidr6: self.cidr6.clone(),
            pool: self.pool.clone(),
            mtu: self.mtu.or(Some(default_mtu)),
            dns: self.dns.clone(),
            domain: self.domain.clone(),
            filtering: self.filtering.clone(),
            host_loopback: self.host_loopback,
            reserve: self.reserve.clone(),
            route: self.route.clone(),
            forward: self.forward.clone(),
            control: self.control.clone(),
        };
        NetworkConfig::try_from(options).map_err(Failure::usage)
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".into()),
    }
}

impl Net {
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        match self {
            Self::Tap(tap) => tap.execute(),
            Self::Switch(switch) => switch.execute(),
            Self::List(target) => target.ask(Request::List, format),
            Self::Forward { target, change } => {
                let request = match change {
                    Change::Add { mapping } => Request::Forward {
                        mapping: mapping.to_string(),
                    },
                    Change::Remove { outer } => Request::Unforward { outer },
                };
                target.ask(request, format)
            }
            Self::Spoofing { target, port, on } => {
                target.ask(Request::Spoofing { port, on }, format)
            }
        }
    }
}

impl Target {
    fn ask(&self, request: Request, format: Format) -> Result<Verdict, Failure> {
        let reply = network::ask(&self.control, request).map_err(Failure::failed)?;
        let mut out = io::stdout().lock();
        let written = if format == Format::Json {
            let text = serde_json::to_string(&Line::new(reply)).map_err(Failure::failed)?;
            writeln!(out, "{text}")
        } else {
            match &reply {
                Reply::Network(report) => print(&mut out, report),
                Reply::Forward { mapping } => writeln!(out, "{mapping}"),
                Reply::Done | Reply::Error { .. } => Ok(()),
            }
        };
        written.map_err(Failure::failed)?;
        Ok(Verdict::Done)
    }
}

/// A report for people.
fn print(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for port in &report.ports {
        let state = if port.plugged { "plugged in" } else { "free" };
        let spoofing = if port.spoofing { ", spoofing on" } else { "" };
        writeln!(
            out,
            "port {} {}: {}, {state}{spoofing}",
            port.port,
            port.name,
            port.macs.join(" ")
        )?;
        writeln!(
            out,
            "  received {} frames, {} bytes; sent {} frames, {} bytes",
            port.received_frames, port.received_bytes, port.sent_frames, port.sent_bytes
        )?;
        if !port.stations.is_empty() {
            writeln!(out, "  behind it: {}", port.stations.join(" "))?;
        }
        for (reason, count) in &port.drops {
            writeln!(out, "  dropped {reason}: {count}")?;
        }
    }
    for lease in &report.leases {
        let name = lease.name.as_deref().unwrap_or("-");
        writeln!(
            out,
            "lease {} {} {name}, {} s",
            lease.address, lease.mac, lease.rest_s
        )?;
    }
    for mapping in &report.forwards {
        writeln!(out, "forward {mapping}")?;
    }
    let flows = report.flows;
    writeln!(
        out,
        "flows: {} TCP, {} UDP, {} ICMP; {} sockets",
        flows.tcp, flows.udp, flows.icmp, report.sockets
    )?;
    for (reason, count) in &report.drops {
        writeln!(out, "dropped {reason}: {count}")?;
    }
    Ok(())
}
