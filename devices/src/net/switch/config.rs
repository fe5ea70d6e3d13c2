//! What a switch and its ports are told to be.

use std::fmt;
use std::net::IpAddr;

use super::bucket::Limits;
use super::vlan::VlanSet;
use crate::net::mac::MacAddress;

/// The most addresses of its own that a port has.
pub const MAX_ADDRESSES: usize = 16;

/// A place on a switch. A removed port's identity goes to a later port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(super) u8);

impl PortId {
    /// The port of the switch's gateway, which is always there.
    pub const GATEWAY: Self = Self(0);

    /// The most ports of a switch, the gateway's included.
    pub const COUNT: usize = 1 << u8::BITS;

    /// The port of a number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// All ports that there may be, the gateway's first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// The identity as an index below [`PortId::COUNT`].
    pub fn index(self) -> usize {
        self.0.into()
    }
}

impl From<PortId> for u8 {
    fn from(port: PortId) -> Self {
        port.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a switch is told to be.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// The gateway's address, which no other port may use.
    pub gateway: MacAddress,
    /// The IP addresses that no port but the gateway's may claim.
    pub gateway_addresses: Vec<IpAddr>,
    /// The most stations learned behind one port.
    pub stations_per_port: usize,
    /// Random bits, which key the table of stations.
    pub seed: [u64; 2],
}

/// What a port is told to be.
///
/// The default is a port that may use no VLAN, may have neither a router nor a
/// DHCP server, isn't isolated and has no limits. It needs an address.
#[derive(Clone, Debug, Default)]
pub struct PortConfig {
    /// The port's own addresses, which no other port may use.
    pub addresses: Vec<MacAddress>,
    /// Whether frames may come from other addresses than the port's own, as a
    /// nested guest's do that is bridged to it.
    ///
    /// Hyper-V's word is MAC address spoofing (`Set-VMNetworkAdapter
    /// -MacAddressSpoofing`).
    pub spoofing: bool,
    /// Whether the port exchanges frames only with ports that aren't isolated,
    /// such as the gateway's.
    pub isolated: bool,
    /// The VLANs that the port is a member of, with tagged frames; Hyper-V's
    /// word is a trunk's allowed list (`Set-VMNetworkAdapterVlan -Trunk`).
    pub vlans: VlanSet,
    /// Whether IPv6 router advertisements and redirects may come from the port;
    /// Hyper-V's word for the opposite is router guard.
    pub router: bool,
    /// Whether messages of a DHCP server may come from the port; Hyper-V's word
    /// for the opposite is DHCP guard.
    pub dhcp_server: bool,
    /// Bounds on all that comes from the port.
    pub ingress: Limits,
    /// Bounds on what comes from the port for groups and unknown stations.
    pub flood: Limits,
    /// Bounds on what goes to the port.
    pub egress: Limits,
}

/// A port that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// All identities are taken.
    #[error("the switch has {} ports already: remove one first", PortId::COUNT)]
    TooManyPorts,
    /// Another port, or the gateway, has the address.
    #[error("{address} is the address of port {port} already: choose another")]
    AddressInUse {
        /// The address asked for.
        address: MacAddress,
        /// The port that has it.
        port: PortId,
    },
    /// One address is given twice.
    #[error("{0} is given to one port twice")]
    Repeated(MacAddress),
    /// More addresses than a port may have.
    #[error("{0} addresses are too many for one port: give at most {MAX_ADDRESSES}")]
    TooManyAddresses(usize),
    /// No frame could ever come from the port.
    #[error("a port without an address needs MAC address spoofing")]
    NoAddress,
    /// There is no such port, or it is the gateway's, which can't be changed.
    #[error("{0} is no port that can be changed")]
    NoSuchPort(PortId),
}
