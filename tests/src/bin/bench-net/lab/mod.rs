//! The place where all is measured: namespaces that nobody else sees.
//!
//! ```text
//! outside  192.0.2.1, 192.0.2.2
//!    |     veth
//! host     192.0.2.10; 198.51.100.1 for services; the contenders run here
//!    |     veth, or a contender's tap
//! guest    one for each contender
//! ```

mod isolation;
mod namespace;
mod process;

pub(crate) use isolation::isolate;
pub(crate) use namespace::Namespace;
pub(crate) use process::{Place, Process, find, last_processor};

use std::net::Ipv4Addr;
use std::path::Path;

use isolation::Folder;

use crate::Failure;
use crate::traffic::Role;

/// The host's address toward the outside, which NATs translate to.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// What stands outside, behind a link: two addresses of one machine.
pub(crate) const OUTSIDE: [Ipv4Addr; 2] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
/// An address of the host that isn't loopback, where guests find its servers.
pub(crate) const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The first of the ports that the host's servers use.
pub(crate) const SERVICE_PORTS: u16 = 5000;

/// TCP as stock Linux has it, whatever this machine's administrator chose: a
/// congestion control that doesn't pace, and the default limits of buffers.
const TCP: [(&str, &str); 4] = [
    ("ipv4/tcp_congestion_control", "reno"),
    ("ipv4/tcp_rmem", "4096 131072 6291456"),
    ("ipv4/tcp_wmem", "4096 16384 4194304"),
    // So that connection after connection doesn't run out of ports.
    ("ipv4/ip_local_port_range", "10240 65535"),
];

/// The namespaces, and a folder that vanishes with the program.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Where the contenders run.
    pub(crate) host: Namespace,
    /// What is reached through the host.
    pub(crate) outside: Namespace,
    folder: Folder,
}

impl Lab {
    /// Makes the host and the outside. The process must be isolated.
    pub(crate) fn new() -> Result<Self, Failure> {
        let folder = Folder::new()?;
        let host = Self::namespace(folder.path(), "host")?;
        let outside = Self::namespace(folder.path(), "outside")?;
        let (near, far) = (host.path().display(), outside.path().display());
        let [first, second] = OUTSIDE;
        host.ip(&format!(
            "link add name up0 mtu 65520 netns {near} type veth peer name up1 mtu 65520 netns {far}"
        ))?;
        outside.ip(&format!("address add {first}/24 dev up1"))?;
        outside.ip(&format!("address add {second}/24 dev up1"))?;
        outside.ip("link set up1 up")?;
        host.ip(&format!("address add {HOST}/24 dev up0"))?;
        host.ip("link set up0 up")?;
        host.ip(&format!("route add default via {first}"))?;
        host.ip(&format!("address add {SERVICE}/32 dev lo"))?;
        Ok(Self {
            host,
            outside,
            folder,
        })
    }

    /// A namespace for a guest.
    pub(crate) fn guest(&self, name: &str) -> Result<Namespace, Failure> {
        Self::namespace(self.folder.path(), name)
    }

    /// Where temporary files go.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn namespace(folder: &Path, name: &str) -> Result<Namespace, Failure> {
        let namespace = Namespace::new(folder, name)?;
        namespace.ip("link set lo up")?;
        for (key, value) in TCP {
            namespace.set(key, value)?;
        }
        Ok(namespace)
    }
}

/// Starts this program's servers at a place and an address, on the ports from
/// `first` on.
pub(crate) fn serve(place: &Place<'_>, address: Ipv4Addr, first: u16) -> Result<Process, Failure> {
    let role = Role::Serve { address, first };
    let mut server = traffic_process("servers", place, &role)?;
    server.line(process::START)?;
    Ok(server)
}

/// Starts this program in one of its roles, at a place.
pub(crate) fn traffic_process(
    name: &str,
    place: &Place<'_>,
    role: &Role,
) -> Result<Process, Failure> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(role.arguments());
    Process::start(name, command, place)
}
