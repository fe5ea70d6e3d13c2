//! A virtual network of this process: from its configuration to the thread
//! that runs it.

mod control;
mod message;
mod places;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nestling_devices::net::engine::{Config, Network4, Network6};
use nestling_devices::net::host::{self, Resolvers};
use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::nat::reach::Reach;
use nestling_devices::net::nat::{flows, fragments, tcp};
use nestling_devices::net::network::{self, Handle, Network};
use nestling_devices::net::services::ndp::link_local;
use nestling_devices::net::services::{dhcp4, dhcp6, dns, leases, ra};

pub use control::{Control, ControlError, ask};
pub use message::{Reply, Report, Request};
pub use places::{Place, Places, PlacesError, limits};

use crate::config::NetworkConfig;

/// The gateway's hardware address in every network: locally administered, and
/// easily told in a capture ("nest").
const GATEWAY_MAC: [u8; 6] = [0x02, 0x6E, 0x65, 0x73, 0x74, 0x01];

/// How long leases are.
const LEASE: Duration = Duration::from_secs(12 * 3600);

/// For how long IPv6 addresses of the prefix are valid, in seconds (RFC 4861,
/// 6.2.1: AdvValidLifetime), and preferred.
const VALID: u32 = 2_592_000;
const PREFERRED: u32 = 604_800;

/// Flows of each protocol: more than the descriptors a process usually has,
/// which are the true bound.
const FLOWS: flows::Limits = flows::Limits {
    total: 262_144,
    per_guest: 131_072,
};

/// Connections of TCP; those not established, in TIME-WAIT and with parked
/// frames are bounded for each guest.
const CONNECTIONS: tcp::Limits = tcp::Limits {
    flows: FLOWS,
    embryonic: 4096,
    lingering: 16_384,
    parked: 96,
};

/// Queries of DNS under way: each takes a descriptor.
const QUERIES: leases::Limits = leases::Limits {
    total: 1024,
    per_port: 256,
};

/// What of fragments may wait, in bytes.
const FRAGMENTS: fragments::Limits = fragments::Limits {
    total: 8 << 20,
    per_guest: 1 << 20,
};

/// The nested stations that may be behind one port.
const STATIONS_PER_PORT: usize = 256;

/// Why a network can't be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host doesn't tell its addresses.
    #[error("cannot list the host's addresses: {0}")]
    Addresses(io::Error),
    /// The network itself.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// A virtual network at work.
pub struct VirtualNetwork {
    /// Before the network, so that nobody asks one that is gone.
    _control: Option<Control>,
    network: Network,
}

impl VirtualNetwork {
    /// Starts a network, with its static mappings and its control socket.
    pub fn start(config: &NetworkConfig) -> Result<Self, Error> {
        let resolvers = if config.dns.is_empty() {
            Resolvers::of_host()
        } else {
            Resolvers::Fixed(config.dns.clone())
        };
        let host = host::addresses().map_err(Error::Addresses)?;
        let network = Network::start(engine_config(config, host), resolvers)?;
        for mapping in &config.forwards {
            let made = network.handle().map(*mapping)?;
            if made.outer.port != mapping.outer.port {
                tracing::info!("{made}: the outer port was chosen");
            }
        }
        let handle = network.handle().clone();
        let control = config
            .control
            .as_ref()
            .map(|path| Control::listen(path, handle))
            .transpose()?;
        Ok(Self {
            _control: control,
            network,
        })
    }

    /// A way to ask it for something.
    pub fn handle(&self) -> &Handle {
        self.network.handle()
    }
}

/// What the engine is told.
fn engine_config(config: &NetworkConfig, host: Vec<IpAddr>) -> Config {
    let mac = MacAddress::new(GATEWAY_MAC).expect("a station's address");
    let dhcp4 = |gateway, prefix| {
        let pool = config.pool.clone()?;
        let routes = config.routes.iter();
        let routes = routes.map(|route| (route.prefix, route.gateway));
        Some(dhcp4::Config {
            server: gateway,
            prefix,
            pool,
            reservations: reservations(config, |address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
            lease: LEASE,
            router: Some(gateway),
            dns: vec![gateway],
            domain: Some(config.domain.clone()),
            mtu: Some(config.mtu),
            routes: routes.collect(),
            limits: leases::Limits::default(),
        })
    };
    let dhcp6 = |gateway, prefix| {
        let pool = config.pool6.clone()?;
        Some(dhcp6::Config {
            mac,
            prefix,
            gateway: vec![gateway],
            pool,
            reservations: reservations(config, |address| match address {
                IpAddr::V4(_) => None,
                IpAddr::V6(address) => Some(address),
            }),
            preferred: LEASE,
            valid: LEASE,
            dns: vec![gateway],
            domain: Some(config.domain.clone()),
            limits: leases::Limits::default(),
        })
    };
    Config {
        mac,
        mtu: config.mtu,
        v4: config.v4.map(|(gateway, prefix)| Network4 {
            gateway,
            prefix,
            dhcp: dhcp4(gateway, prefix),
        }),
        v6: config.v6.map(|(gateway, prefix)| Network6 {
            gateway,
            prefix,
            router: Some(ra::Config {
                mac,
                source: link_local(mac),
                default_router: true,
                prefix,
                // SLAAC needs 64 bits (RFC 4862, 5.5.3); without, DHCPv6 gives
                // addresses alone.
                autonomous: prefix.length() == 64,
                managed: true,
                other: true,
                valid: VALID,
                preferred: PREFERRED,
                dns: vec![gateway],
                domain: Some(config.domain.clone()),
                mtu: Some(config.mtu.into()),
            }),
            dhcp: dhcp6(gateway, prefix),
        }),
        reach: Reach {
            gateway4: config.v4.map(|(gateway, _)| gateway),
            gateway6: config.v6.map(|(gateway, _)| gateway),
            host_loopback: config.host_loopback,
            resolver: None,
            host,
        },
        filtering: config.filtering,
        connections: CONNECTIONS,
        flows: FLOWS,
        dns: dns::Config {
            zone: dns::Zone {
                domain: Some(config.domain.clone()),
                prefixes4: config.v4.iter().map(|(_, prefix)| *prefix).collect(),
                prefixes6: config.v6.iter().map(|(_, prefix)| *prefix).collect(),
            },
            limits: QUERIES,
            // The longest headers: those of IPv6 and UDP.
            longest_datagram: usize::from(config.mtu) - 48,
        },
        fragments: FRAGMENTS,
        stations_per_port: STATIONS_PER_PORT,
    }
}

/// The reservations of one family.
fn reservations<A>(
    config: &NetworkConfig,
    of_family: impl Fn(IpAddr) -> Option<A>,
) -> HashMap<MacAddress, A> {
    let reserved = config.reservations.iter();
    reserved
        .filter_map(|reserved| Some((reserved.mac, of_family(reserved.address)?)))
        .collect()
}
