//! The networks of a nest: how each level reaches the next, and what the
//! deepest does with it.
//!
//! L1 is on a virtual network that its monitor runs. With a bridge, every level
//! above is on that network too, by the bridges of the levels between: Linux's
//! `br0`, and on the switch's port MAC address spoofing. With NAT, each level
//! runs a virtual network of its own for the next.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use nestling_devices::net::host;

use crate::guest::net::page::Server;
use crate::order::{self, NetworkWork};

/// What this host's page says.
const HOST_PAGE: &[u8] = b"This page was served by the host of a nest.\n";

/// The port of the deepest level's page, and of each mapping that leads to it.
const PAGE_PORT: u16 = 8080;

/// The name of the tap that a level's guest is on.
const TAP: &str = "tap0";

/// How a level reaches the levels above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no network.
    Off,
    /// All levels are on one network.
    Bridge,
    /// Each level has its own.
    Nat,
    /// Each level has what another monitor than nestling gives it.
    Monitors,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "bridge" => Ok(Self::Bridge),
            "nat" => Ok(Self::Nat),
            _ => Err("write bridge, nat or off".into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Bridge => "bridge",
            Self::Nat => "nat",
            Self::Monitors => "monitors",
        })
    }
}

/// Where the host of L1 meets the nest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Where it serves a page to the nest.
    pub page: SocketAddr,
    /// Where a mapping leads to the deepest level's page.
    pub mapping: SocketAddr,
}

impl Host {
    /// An emulated L0, which has nobody else on its network: the address is one
    /// for documentation (RFC 5737).
    pub const EMULATED: Self = Self {
        page: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 80),
        mapping: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PAGE_PORT),
    };
}

/// A page that this host serves to a nest that stands on it, as long as it is
/// kept.
pub struct HostPage {
    /// Where the nest meets it.
    pub host: Host,
    _server: HostServer,
}

/// A server of this host's, on a thread of its own, as long as it is kept.
#[derive(Debug)]
pub(crate) struct HostServer {
    /// Its end ends the server.
    _until: io::PipeWriter,
}

impl HostServer {
    /// The first of this host's addresses that guests reach, with a port of the
    /// system's choice.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AddrNotAvailable`] if this host has no
    /// such address.
    pub(crate) fn address() -> io::Result<SocketAddr> {
        let reached = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(_) => false,
        };
        let address = host::addresses()?.into_iter().find(reached);
        let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(SocketAddr::new(address, 0))
    }

    /// Lets a thread called `name` do `work`, which ends when what it is given is
    /// hung up.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start(
        name: &str,
        work: impl FnOnce(BorrowedFd<'_>) + Send + 'static,
    ) -> io::Result<Self> {
        let (ended, until) = io::pipe()?;
        let thread = thread::Builder::new().name(name.to_owned());
        thread.spawn(move || work(ended.as_fd()))?;
        Ok(Self { _until: until })
    }
}

impl HostPage {
    /// Serves a page at the first of this host's addresses that guests reach.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AddrNotAvailable`] if this host
    /// has no such address.
    pub fn serve() -> io::Result<Self> {
        let server =
            Server::listen(HostServer::address()?, HOST_PAGE.to_vec()).map_err(io::Error::other)?;
        let page = server.address();
        // A port that is free now; the mapping says so if it isn't then.
        let mapping = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let served = HostServer::start("nestling-page", move |ended| {
            // It ends with the pipe's other end.
            let _ = server.serve(u32::MAX, Duration::MAX, ended);
        })?;
        Ok(Self {
            host: Host { page, mapping },
            _server: served,
        })
    }
}

/// The networks of a nest of this depth.
#[derive(Debug, Clone, Copy)]
pub struct Networks {
    /// How its levels reach each other.
    pub kind: Kind,
    /// Its deepest level.
    pub depth: u8,
    /// Where its host meets it.
    pub host: Host,
}

impl Networks {
    /// The address of a level's NIC.
    fn mac(level: u8) -> String {
        format!("02:6e:65:73:74:{:02x}", 0x10 + level)
    }

    /// The third byte of the prefix of the network that a level runs.
    fn subnet(level: u8) -> u8 {
        100 + level
    }

    /// The IPv4 address of a level.
    fn address(self, level: u8) -> Ipv4Addr {
        let network = match self.kind {
            Kind::Nat => Self::subnet(level - 1),
            Kind::Bridge | Kind::Off | Kind::Monitors => Self::subnet(0),
        };
        Ipv4Addr::new(192, 168, network, 10 + level)
    }

    /// The domain of the network that a level runs.
    fn domain(level: u8) -> String {
        format!("l{level}.internal")
    }

    /// Completes the machine of a level, which is 1 at least.
    pub fn complete(self, machine: &mut order::Machine, level: u8) {
        if matches!(self.kind, Kind::Off | Kind::Monitors) {
            return;
        }
        let mac = Self::mac(level);
        if self.kind == Kind::Bridge && level > 1 {
            machine.nets.push(format!("tap={TAP},mac={mac}"));
            return;
        }
        let bridged = self.kind == Kind::Bridge && self.depth > 1;
        let spoofing = if bridged { ",spoofing=on" } else { "" };
        let address = self.address(level);
        machine
            .nets
            .push(format!("user,mac={mac},ip={address}{spoofing}"));
        let runs = level - 1;
        let mut network = format!(
            "cidr=192.168.{}.0/24,cidr6=fd6e:6573:746c:{runs}::/64,domain={}",
            Self::subnet(runs),
            Self::domain(runs)
        );
        let (outer, inner) = match self.kind {
            Kind::Nat if level > 1 => (
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PAGE_PORT),
                address,
            ),
            Kind::Nat => (self.host.mapping, address),
            Kind::Bridge | Kind::Off | Kind::Monitors => {
                (self.host.mapping, self.address(self.depth))
            }
        };
        if bridged {
            let nested = (2..=self.depth)
                .map(|level| format!("{}={}", Self::mac(level), self.address(level)));
            network.push_str(",reserve=");
            network.push_str(&nested.collect::<Vec<_>>().join("+"));
        }
        machine.network = network;
        let (to, port) = (outer.ip(), outer.port());
        machine
            .forwards
            .push(format!("tcp:{to}:{port}:{inner}:{PAGE_PORT}"));
    }

    /// What a level's own network is.
    pub fn own(self, level: u8) -> Option<order::Network> {
        if self.kind == Kind::Off {
            return None;
        }
        if level == 0 {
            let IpAddr::V4(address) = self.host.page.ip() else {
                return None;
            };
            return Some(order::Network {
                addresses: vec![address],
                serve: Some(self.host.page),
                ..order::Network::default()
            });
        }
        let bridges = self.kind == Kind::Bridge && level < self.depth;
        Some(order::Network {
            dhcp: true,
            bridge: bridges.then(|| TAP.to_owned()),
            ..order::Network::default()
        })
    }

    /// What the deepest level does with its network.
    pub fn work(self) -> Option<NetworkWork> {
        matches!(self.kind, Kind::Bridge | Kind::Nat).then(|| NetworkWork {
            ping: Ipv4Addr::new(192, 168, Self::subnet(0), 1).into(),
            resolve: format!("gateway.{}", Self::domain(0)),
            fetch: self.host.page,
            serve: PAGE_PORT,
        })
    }

    /// Where the one who boots a level fetches the deepest level's page.
    pub fn fetch(self, level: u8) -> Option<SocketAddr> {
        (self.work().is_some() && level == 1).then_some(self.host.mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(networks: Networks, level: u8) -> order::Machine {
        let mut machine = order::Machine {
            cpus: 1,
            cpu_affinity: Vec::new(),
            memory_mib: 256,
            nested: nestling_arch::nested::Request::default(),
            cpu_template: None,
            hyperv: nestling_arch::hyperv::Request::Off,
            cmdline: String::new(),
            disks: Vec::new(),
            nets: Vec::new(),
            network: String::new(),
            forwards: Vec::new(),
        };
        networks.complete(&mut machine, level);
        machine
    }

    fn networks(kind: Kind, depth: u8) -> Networks {
        Networks {
            kind,
            depth,
            host: Host::EMULATED,
        }
    }

    #[test]
    fn bridged_levels_are_on_one_network() {
        let networks = networks(Kind::Bridge, 3);
        let first = machine(networks, 1);
        assert_eq!(
            first.nets,
            ["user,mac=02:6e:65:73:74:11,ip=192.168.100.11,spoofing=on"]
        );
        assert!(first.network.ends_with(
            "reserve=02:6e:65:73:74:12=192.168.100.12+02:6e:65:73:74:13=192.168.100.13"
        ));
        assert_eq!(first.forwards, ["tcp:127.0.0.1:8080:192.168.100.13:8080"]);
        let third = machine(networks, 3);
        assert_eq!(third.nets, ["tap=tap0,mac=02:6e:65:73:74:13"]);
        assert!(third.network.is_empty() && third.forwards.is_empty());
        let bridge = |level| networks.own(level).and_then(|network| network.bridge);
        assert_eq!([bridge(1), bridge(3)], [Some("tap0".into()), None]);
    }

    #[test]
    fn levels_behind_nat_have_networks_of_their_own() {
        let networks = networks(Kind::Nat, 2);
        let first = machine(networks, 1);
        assert_eq!(first.nets, ["user,mac=02:6e:65:73:74:11,ip=192.168.100.11"]);
        assert_eq!(first.forwards, ["tcp:127.0.0.1:8080:192.168.100.11:8080"]);
        let second = machine(networks, 2);
        assert_eq!(
            second.nets,
            ["user,mac=02:6e:65:73:74:12,ip=192.168.101.12"]
        );
        assert_eq!(second.forwards, ["tcp:0.0.0.0:8080:192.168.101.12:8080"]);
        assert!(second.network.contains("domain=l1.internal"));
    }

    #[test]
    fn what_is_planned_can_be_configured() {
        for (kind, level) in [(Kind::Bridge, 1), (Kind::Nat, 1), (Kind::Nat, 2)] {
            let machine = machine(networks(kind, 2), level);
            let options: crate::config::NetworkOptions = machine.network.parse().expect("valid");
            crate::config::NetworkConfig::try_from(options).expect("valid");
            for net in &machine.nets {
                net.parse::<crate::config::NetConfig>().expect(net);
            }
        }
    }

    #[test]
    fn this_host_serves_a_page_where_guests_reach_it() {
        use std::io::{Read, Write};
        match HostPage::serve() {
            Ok(page) => {
                let mut client = std::net::TcpStream::connect(page.host.page).unwrap();
                client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).unwrap();
                assert!(answer.ends_with(HOST_PAGE));
                assert!(!page.host.page.ip().is_loopback());
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable),
        }
    }

    #[test]
    fn under_other_monitors_a_level_asks_for_an_address_and_nothing_else_is_known() {
        let networks = networks(Kind::Monitors, 2);
        let machine = machine(networks, 2);
        assert!(machine.nets.is_empty() && machine.network.is_empty());
        let own = networks.own(1).unwrap();
        assert!(own.dhcp && own.bridge.is_none());
        assert_eq!(networks.own(0).unwrap().serve, Some(Host::EMULATED.page));
        assert_eq!((networks.work(), networks.fetch(1)), (None, None));
    }

    #[test]
    fn without_a_network_nothing_is_said_of_one() {
        let networks = networks(Kind::Off, 2);
        let machine = machine(networks, 1);
        assert!(machine.nets.is_empty() && machine.network.is_empty());
        assert_eq!(networks.own(0), None);
        assert_eq!(networks.work(), None);
    }
}
