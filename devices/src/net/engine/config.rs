//! What the network is to be.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::mac::MacAddress;
use crate::net::nat::reach::Reach;
use crate::net::nat::udp::Filtering;
use crate::net::nat::{flows, fragments, tcp};
use crate::net::prefix::{Prefix4, Prefix6};
use crate::net::services::ndp::link_local;
use crate::net::services::{dhcp4, dhcp6, dns, ra};

/// The network of IPv4: its prefix, gateway, leases.
#[derive(Clone, Debug)]
pub struct Network4 {
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// The network's addresses.
    pub prefix: Prefix4,
    /// The server of addresses, if there is one.
    pub dhcp: Option<dhcp4::Config>,
}

/// The network of IPv6.
#[derive(Clone, Debug)]
pub struct Network6 {
    /// The gateway's address, besides its link-local one.
    pub gateway: Ipv6Addr,
    /// The network's addresses.
    pub prefix: Prefix6,
    /// What the gateway advertises, if it does.
    pub router: Option<ra::Config>,
    /// The server of addresses, if there is one.
    pub dhcp: Option<dhcp6::Config>,
}

/// What the network is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gateway's hardware address.
    pub mac: MacAddress,
    /// The longest packet.
    pub mtu: u16,
    /// IPv4, if there is any.
    pub v4: Option<Network4>,
    /// IPv6, if there is any.
    pub v6: Option<Network6>,
    /// Whom guests reach outside.
    pub reach: Reach,
    /// Whose datagrams reach guests.
    pub filtering: Filtering,
    /// How many connections of TCP there may be.
    pub connections: tcp::Limits,
    /// How many flows of UDP there may be, and how many of ICMP.
    pub flows: flows::Limits,
    /// What the forwarder of DNS is told.
    pub dns: dns::Config,
    /// How much of fragments may wait.
    pub fragments: fragments::Limits,
    /// The stations that may be behind one port.
    pub stations_per_port: usize,
}

/// What others mustn't guess.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    /// Keys the table of stations.
    pub switch: [u64; 2],
    /// Spreads router advertisements over time.
    pub router: u64,
    /// The first fragments' identification.
    pub identification: u32,
}

impl Seed {
    /// Random bits.
    pub fn random() -> Self {
        let bits = || RandomState::new().hash_one(());
        Self {
            switch: [bits(), bits()],
            router: bits(),
            identification: u32::try_from(bits() >> 32).unwrap_or_default(),
        }
    }
}

/// A contradiction in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The gateway's address isn't a host's in the network.
    #[error("the gateway {gateway} is not a host's address in {prefix}")]
    Gateway {
        /// The address.
        gateway: IpAddr,
        /// The network.
        prefix: String,
    },
    /// A packet so short that guests can't use IP.
    #[error("an MTU of {0} is too small: write {MIN_MTU} to 65520")]
    Mtu(u16),
    /// The server of IPv4 addresses can't be set up so.
    #[error(transparent)]
    Dhcp4(#[from] dhcp4::ConfigError),
    /// The server of IPv6 addresses can't be set up so.
    #[error(transparent)]
    Dhcp6(#[from] dhcp6::ConfigError),
    /// The forwarder of DNS can't be set up so.
    #[error(transparent)]
    Dns(#[from] dns::ConfigError),
    /// The router's advertisements can't be set up so.
    #[error(transparent)]
    Router(#[from] ra::ConfigError),
}

/// What each IPv6 link takes (RFC 8200, 5).
pub(super) const MIN_MTU: u16 = 1280;

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.mtu < MIN_MTU {
            return Err(ConfigError::Mtu(self.mtu));
        }
        if let Some(v4) = self.v4.as_ref().filter(|v4| !v4.prefix.is_host(v4.gateway)) {
            return Err(ConfigError::Gateway {
                gateway: v4.gateway.into(),
                prefix: v4.prefix.to_string(),
            });
        }
        if let Some(v6) = self
            .v6
            .as_ref()
            .filter(|v6| !v6.prefix.contains(v6.gateway))
        {
            return Err(ConfigError::Gateway {
                gateway: v6.gateway.into(),
                prefix: v6.prefix.to_string(),
            });
        }
        Ok(())
    }

    /// The gateway's addresses.
    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let local = self.v6.as_ref().map(|_| link_local(self.mac).into());
        self.named().chain(local)
    }

    /// Those that the gateway's name stands for: a link-local address can't be
    /// used without a link.
    pub(super) fn named(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.as_ref().map(|v4| v4.gateway.into());
        let v6 = self.v6.as_ref().map(|v6| v6.gateway.into());
        v4.into_iter().chain(v6)
    }

    /// Whether this is an address of the gateway.
    pub(super) fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.as_ref().is_some_and(|v4| v4.gateway == address),
            IpAddr::V6(address) => self
                .v6
                .as_ref()
                .is_some_and(|v6| v6.gateway == address || link_local(self.mac) == address),
        }
    }

    /// Whether a guest may have the address.
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let v4 = self.v4.as_ref();
                v4.is_some_and(|v4| v4.prefix.is_host(address) && address != v4.gateway)
            }
            IpAddr::V6(address) => {
                let v6 = self.v6.as_ref();
                v6.is_some_and(|v6| v6.prefix.contains(address) || address.is_unicast_link_local())
                    && !self.is_gateway(address.into())
            }
        }
    }

    /// Whether packets for the address go to their receiver directly, and not
    /// through the gateway.
    pub(super) fn is_on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let v4 = self.v4.as_ref();
                v4.is_some_and(|v4| v4.prefix.contains(address) && address != v4.gateway)
            }
            IpAddr::V6(_) => self.is_inside(address),
        }
    }

    /// Whether the address is that of all guests, or of a group of them.
    pub(super) fn is_group(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let network = self.v4.as_ref().map(|v4| v4.prefix.last());
                address.is_multicast() || address.is_broadcast() || network == Some(address)
            }
            IpAddr::V6(address) => address.is_multicast(),
        }
    }
}
