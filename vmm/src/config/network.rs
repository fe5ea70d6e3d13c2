//! The virtual network that the NICs of kind `user` are plugged into.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::nat::mappings::Mapping;
use nestling_devices::net::nat::udp::Filtering;
use nestling_devices::net::prefix::{Prefix4, Prefix6};
use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::options::{OptionError, Options};

/// The network's addresses unless others are given: those of the labs that
/// Hyper-V's documentation builds, and a unique local prefix (RFC 4193).
const DEFAULT_CIDR: &str = "192.168.100.1/24";
const DEFAULT_CIDR6: &str = "fd6e:6573:746c::1/64";

/// Where the pool of leases begins in a network with room for it, so that the
/// first guest's address is easily told: 192.168.100.10.
const POOL_START: u32 = 10;

/// The same of IPv6, ...::10, and how many addresses there are to lease.
const POOL6_START: u128 = 0x10;
const POOL6_SIZE: u128 = 0xFFF0;

/// The last addresses of a prefix are groups' (RFC 2526, 2).
const ANYCAST: u128 = 128;

/// The domain of guests' names unless another is given: reserved for private
/// use (ICANN, 2024).
const DEFAULT_DOMAIN: &str = "internal";

/// The smallest packet that each IPv6 link takes (RFC 8200, 5), and the
/// longest of a NIC whose Ethernet frames are at most 64 KiB.
const MTU: RangeInclusive<u16> = 1280..=65520;

/// What a virtual network is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The gateway's IPv4 address and the network's prefix; none for no IPv4.
    pub v4: Option<(Ipv4Addr, Prefix4)>,
    /// The gateway's IPv6 address and the network's prefix; none for no IPv6.
    pub v6: Option<(Ipv6Addr, Prefix6)>,
    /// The IPv4 addresses that are leased.
    pub pool: Option<RangeInclusive<Ipv4Addr>>,
    /// The IPv6 addresses that are leased.
    pub pool6: Option<RangeInclusive<Ipv6Addr>>,
    /// Networks that guests reach by one of them.
    pub routes: Vec<Route>,
    /// The longest packet.
    pub mtu: u16,
    /// The resolvers that queries are forwarded to; those of the host's
    /// resolv.conf if there are none.
    pub dns: Vec<SocketAddr>,
    /// The domain of guests' names.
    pub domain: String,
    /// Whose datagrams reach guests.
    pub filtering: Filtering,
    /// Whether guests reach the host's loopback by the gateway's address.
    pub host_loopback: bool,
    /// Addresses of single stations.
    pub reservations: Vec<Reservation>,
    /// Static mappings.
    pub forwards: Vec<Mapping>,
    /// The socket where it answers `nestling net list` and the like.
    pub control: Option<PathBuf>,
}

/// An address that is one station's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// The station.
    pub mac: MacAddress,
    /// Its address.
    pub address: IpAddr,
}

impl FromStr for Reservation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no reservation: write MAC=ADDRESS");
        let (mac, address) = text.split_once('=').ok_or_else(form)?;
        Ok(Self {
            mac: mac.parse().map_err(|error| format!("{error}"))?,
            address: address.parse().map_err(|_| form())?,
        })
    }
}

/// A network behind a guest, which others are told of: the inner network of a
/// nest whose L1 routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub prefix: Prefix4,
    /// The guest that leads there.
    pub gateway: Ipv4Addr,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || format!("{text:?} is no route: write PREFIX=ADDRESS, as 10.0.5.0/24=192.168.100.10");
        let (prefix, gateway) = text.split_once('=').ok_or_else(form)?;
        Ok(Self {
            prefix: prefix.parse().map_err(|_| form())?,
            gateway: gateway.parse().map_err(|_| form())?,
        })
    }
}

/// A gateway and its network: `192.168.100.0/24`, where the gateway has the
/// first address, or `192.168.100.254/24`, where it is named.
fn gateway4(text: &str) -> Result<(Ipv4Addr, Prefix4), String> {
    let (address, prefix) = around::<Ipv4Addr>(text)?;
    let gateway = if address == prefix.first() {
        Ipv4Addr::from_bits(address.to_bits().saturating_add(1))
    } else {
        address
    };
    if prefix.length() > 30 || !prefix.is_host(gateway) {
        return Err(format!(
            "{text} has no room for a gateway and a guest: write a prefix of at most 30 bits, \
             such as 192.168.100.0/24"
        ));
    }
    Ok((gateway, prefix))
}

/// As [`gateway4`] for IPv6: `fd00::/64` or `fd00::1/64`.
fn gateway6(text: &str) -> Result<(Ipv6Addr, Prefix6), String> {
    let (address, prefix) = around::<Ipv6Addr>(text)?;
    let gateway = if address == prefix.first() {
        Ipv6Addr::from_bits(address.to_bits().saturating_add(1))
    } else {
        address
    };
    if prefix.length() > 120 {
        return Err(format!(
            "{text} has too little room for guests: write a prefix of 64 bits, such as fd00::/64"
        ));
    }
    Ok((gateway, prefix))
}

fn around<A>(text: &str) -> Result<(A, nestling_devices::net::prefix::Prefix<A>), String>
where
    A: nestling_devices::net::prefix::Address,
{
    let form = || format!("{text:?} is no address with a prefix: write it like 192.168.100.0/24");
    let (address, length) = text.split_once('/').ok_or_else(form)?;
    let address: A = address.parse().map_err(|_| form())?;
    let length = length.parse().map_err(|_| form())?;
    let prefix = nestling_devices::net::prefix::Prefix::around(address, length)
        .map_err(|error| error.to_string())?;
    Ok((address, prefix))
}

/// The network as a table of a file, or as flags, tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkOptions {
    /// The gateway's IPv4 address and prefix, or off.
    pub cidr: Option<String>,
    /// The gateway's IPv6 address and prefix, or off.
    pub cidr6: Option<String>,
    /// The leased addresses: FIRST-LAST.
    pub pool: Option<String>,
    /// The longest packet.
    pub mtu: Option<u16>,
    /// Resolvers, instead of the host's.
    #[serde(default)]
    pub dns: Vec<String>,
    /// The domain of guests' names.
    pub domain: Option<String>,
    /// Whose datagrams reach guests.
    pub filtering: Option<String>,
    /// Whether guests reach the host's loopback.
    pub host_loopback: Option<bool>,
    /// Reservations: MAC=ADDRESS.
    #[serde(default, deserialize_with = "texts")]
    pub reserve: Vec<Reservation>,
    /// Routes: PREFIX=ADDRESS.
    #[serde(default, deserialize_with = "texts")]
    pub route: Vec<Route>,
    /// Static mappings.
    #[serde(default, deserialize_with = "texts")]
    pub forward: Vec<Mapping>,
    /// The control socket.
    pub control: Option<PathBuf>,
}

fn texts<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parsed = texts
        .iter()
        .map(|text| text.parse().map_err(de::Error::custom));
    parsed.collect()
}

const KEYS: &[&str] = &[
    "cidr",
    "cidr6",
    "pool",
    "mtu",
    "dns",
    "domain",
    "filtering",
    "host_loopback",
    "reserve",
    "control",
];

impl FromStr for NetworkOptions {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let mut options = Options::parse(text, KEYS)?;
        let dns: Option<String> = options.take("dns")?;
        let reserve: Option<String> = options.take("reserve")?;
        let reserve = reserve
            .into_iter()
            .flat_map(|reserve| split(&reserve))
            .map(|text| {
                text.parse()
                    .map_err(|reason| wrong("reserve", &text, reason))
            });
        let options = Self {
            cidr: options.take("cidr")?,
            cidr6: options.take("cidr6")?,
            pool: options.take("pool")?,
            mtu: options.take("mtu")?,
            dns: dns.into_iter().flat_map(|dns| split(&dns)).collect(),
            domain: options.take("domain")?,
            filtering: options.take("filtering")?,
            host_loopback: options.switch_if_given("host_loopback")?,
            reserve: reserve.collect::<Result<_, _>>()?,
            control: options.take("control")?,
            ..Self::default()
        };
        NetworkConfig::try_from(options.clone())?;
        Ok(options)
    }
}

/// Several values of one key: separated by `+`, since commas separate keys.
fn split(text: &str) -> Vec<String> {
    text.split('+').map(str::to_owned).collect()
}

impl NetworkOptions {
    /// Lays `flags` over these: what they give wins; lists add up.
    pub fn overlaid(self, flags: Self) -> Self {
        Self {
            cidr: flags.cidr.or(self.cidr),
            cidr6: flags.cidr6.or(self.cidr6),
            pool: flags.pool.or(self.pool),
            mtu: flags.mtu.or(self.mtu),
            dns: if flags.dns.is_empty() {
                self.dns
            } else {
                flags.dns
            },
            domain: flags.domain.or(self.domain),
            filtering: flags.filtering.or(self.filtering),
            host_loopback: flags.host_loopback.or(self.host_loopback),
            reserve: self.reserve.into_iter().chain(flags.reserve).collect(),
            route: self.route.into_iter().chain(flags.route).collect(),
            forward: self.forward.into_iter().chain(flags.forward).collect(),
            control: flags.control.or(self.control),
        }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkOptions::default()
            .try_into()
            .expect("the defaults are valid")
    }
}

impl TryFrom<NetworkOptions> for NetworkConfig {
    type Error = OptionError;

    fn try_from(options: NetworkOptions) -> Result<Self, OptionError> {
        let cidr = options.cidr.as_deref().unwrap_or(DEFAULT_CIDR);
        let cidr6 = options.cidr6.as_deref().unwrap_or(DEFAULT_CIDR6);
        let v4 = unless_off(cidr).map(gateway4).transpose();
        let v6 = unless_off(cidr6).map(gateway6).transpose();
        let v4 = v4.map_err(|reason| wrong("cidr", cidr, reason))?;
        let v6 = v6.map_err(|reason| wrong("cidr6", cidr6, reason))?;
        let pool = match (&options.pool, v4) {
            (_, None) => None,
            (None, Some(network)) => Some(default_pool(network)),
            (Some(text), Some(network)) => {
                Some(pool(text, network).map_err(|reason| wrong("pool", text, reason))?)
            }
        };
        let mtu = options.mtu.unwrap_or(1500);
        if !MTU.contains(&mtu) {
            let reason = format!("write {} to {}", MTU.start(), MTU.end());
            return Err(wrong("mtu", &mtu.to_string(), reason));
        }
        let dns = options.dns.iter().map(|text| {
            resolver(text).ok_or_else(|| wrong("dns", text, "write ADDRESS or ADDRESS:PORT".into()))
        });
        let filtering = match options.filtering.as_deref() {
            None | Some("endpoint-independent") => Filtering::EndpointIndependent,
            Some("address-and-port-dependent") => Filtering::AddressAndPortDependent,
            Some(other) => {
                let reason = "write endpoint-independent or address-and-port-dependent";
                return Err(wrong("filtering", other, reason.into()));
            }
        };
        Ok(Self {
            v4,
            v6,
            pool,
            pool6: v6.map(default_pool6),
            routes: options.route,
            mtu,
            dns: dns.collect::<Result<_, _>>()?,
            domain: options.domain.unwrap_or_else(|| DEFAULT_DOMAIN.into()),
            filtering,
            host_loopback: options.host_loopback.unwrap_or(false),
            reservations: options.reserve,
            forwards: options.forward,
            control: options.control,
        })
    }
}

fn wrong(key: &'static str, value: &str, reason: String) -> OptionError {
    OptionError::Value {
        key,
        value: value.into(),
        reason,
    }
}

fn unless_off(text: &str) -> Option<&str> {
    (text != "off").then_some(text)
}

/// An address, with port 53 unless another is given (RFC 1035, 4.2).
fn resolver(text: &str) -> Option<SocketAddr> {
    let with_port = text.parse();
    with_port
        .ok()
        .or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)))
}

/// What is leased of a network: from its tenth address on, if it has so many.
fn default_pool((gateway, prefix): (Ipv4Addr, Prefix4)) -> RangeInclusive<Ipv4Addr> {
    let last = Ipv4Addr::from_bits(prefix.last().to_bits() - 1);
    let tenth = Ipv4Addr::from_bits(prefix.first().to_bits().saturating_add(POOL_START));
    let second = Ipv4Addr::from_bits(prefix.first().to_bits() + 1);
    let first = if prefix.length() <= 27 { tenth } else { second };
    // The gateway's own address is never leased; where it is the pool's only
    // one at an end, the pool is shorter.
    match (first == gateway, last == gateway) {
        (true, _) => Ipv4Addr::from_bits(first.to_bits() + 1)..=last,
        (_, true) => first..=Ipv4Addr::from_bits(last.to_bits() - 1),
        _ => first..=last,
    }
}

/// What is leased of a network of IPv6, which is far more than there are leases.
fn default_pool6((gateway, prefix): (Ipv6Addr, Prefix6)) -> RangeInclusive<Ipv6Addr> {
    let base = prefix.first().to_bits();
    let start = base + POOL6_START;
    let first = start + u128::from(gateway.to_bits() == start);
    let last = (start + POOL6_SIZE - 1).min(prefix.last().to_bits() - ANYCAST);
    Ipv6Addr::from_bits(first)..=Ipv6Addr::from_bits(last)
}

fn pool(text: &str, (_, prefix): (Ipv4Addr, Prefix4)) -> Result<RangeInclusive<Ipv4Addr>, String> {
    let form = || "write FIRST-LAST".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(form)?;
    let first: Ipv4Addr = first.parse().map_err(|_| form())?;
    let last: Ipv4Addr = last.parse().map_err(|_| form())?;
    if first > last || !prefix.is_host(first) || !prefix.is_host(last) {
        return Err(format!(
            "write two hosts' addresses in {prefix}, the lower one first"
        ));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<NetworkConfig, OptionError> {
        text.parse::<NetworkOptions>()?.try_into()
    }

    #[test]
    fn a_network_needs_no_options() {
        let config = NetworkConfig::default();
        let gateway = Ipv4Addr::new(192, 168, 100, 1);
        assert_eq!(config.v4.map(|(address, _)| address), Some(gateway));
        let first = Ipv4Addr::new(192, 168, 100, 10);
        assert_eq!(config.pool, Some(first..=Ipv4Addr::new(192, 168, 100, 254)));
        let leased6 = config.pool6.expect("by default");
        assert_eq!(leased6.start().to_string(), "fd6e:6573:746c::10");
        assert_eq!(leased6.end().to_string(), "fd6e:6573:746c::ffff");
        assert_eq!(config.mtu, 1500);
        assert!(config.v6.is_some() && !config.host_loopback);
    }

    #[test]
    fn any_prefix_will_do() {
        for (text, gateway, pool) in [
            ("10.0.0.0/8", "10.0.0.1", "10.0.0.10-10.255.255.254"),
            ("10.9.8.0/30", "10.9.8.1", "10.9.8.2-10.9.8.2"),
            ("10.9.8.2/30", "10.9.8.2", "10.9.8.1-10.9.8.1"),
            (
                "172.16.5.254/24",
                "172.16.5.254",
                "172.16.5.10-172.16.5.253",
            ),
            ("172.16.5.10/24", "172.16.5.10", "172.16.5.11-172.16.5.254"),
        ] {
            let config = config(&format!("cidr={text}")).expect(text);
            let (address, _) = config.v4.expect(text);
            assert_eq!(address.to_string(), gateway);
            let leased = config.pool.expect(text);
            assert_eq!(format!("{}-{}", leased.start(), leased.end()), pool);
        }
    }

    #[test]
    fn either_family_can_be_off() {
        let config = config("cidr=off,cidr6=2001:db8::/64").expect("valid");
        assert_eq!((config.v4, config.pool), (None, None));
        let (gateway, _) = config.v6.expect("given");
        assert_eq!(gateway.to_string(), "2001:db8::1");
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            ("cidr=10.0.0.0", "write it like 192.168.100.0/24"),
            ("cidr=10.0.0.0/31", "no room for a gateway and a guest"),
            ("cidr=10.0.0.0/33", "a prefix of 33 bits is too long"),
            ("cidr6=fd00::/128", "too little room"),
            (
                "pool=10.0.0.5-10.0.0.9",
                "write two hosts' addresses in 192.168.100.0/24",
            ),
            ("pool=192.168.100.9-192.168.100.2", "the lower one first"),
            ("mtu=1000", "write 1280 to 65520"),
            ("dns=resolver", "write ADDRESS or ADDRESS:PORT"),
            ("filtering=none", "write endpoint-independent or"),
            ("host_loopback=maybe", "write on or off"),
            ("reserve=192.168.100.9", "write MAC=ADDRESS"),
            ("gateway=10.0.0.1", "there is no key `gateway`"),
        ] {
            let error = config(text).expect_err(text).to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn several_stations_have_reservations() {
        let text = "reserve=02:00:00:00:00:01=192.168.100.20+02:00:00:00:00:02=192.168.100.21";
        let reserved = config(text).expect(text).reservations;
        let addresses: Vec<_> = reserved.iter().map(|one| one.address.to_string()).collect();
        assert_eq!(addresses, ["192.168.100.20", "192.168.100.21"]);
    }

    #[test]
    fn stations_have_addresses_of_both_families_and_lead_to_networks() {
        let options = NetworkOptions {
            reserve: [
                "02:00:00:00:00:01=192.168.100.7",
                "02:00:00:00:00:01=fd00::7",
            ]
            .map(|text| text.parse().expect(text))
            .to_vec(),
            route: vec!["10.0.5.0/24=192.168.100.7".parse().expect("a route")],
            ..NetworkOptions::default()
        };
        let config = NetworkConfig::try_from(options).expect("valid");
        let reserved: Vec<_> = config
            .reservations
            .iter()
            .map(|reserved| reserved.address.to_string())
            .collect();
        assert_eq!(reserved, ["192.168.100.7", "fd00::7"]);
        assert_eq!(config.routes[0].prefix.to_string(), "10.0.5.0/24");
        for text in [
            "10.0.5.0/24",
            "10.0.5.1/24=192.168.100.7",
            "fd00::/64=fd00::1",
        ] {
            let error = text.parse::<Route>().expect_err(text);
            assert!(error.contains("write PREFIX=ADDRESS"), "{error}");
        }
        assert!("02:00:00:00:00:01=".parse::<Reservation>().is_err());
    }

    #[test]
    fn pools_leave_out_the_gateway_and_groups() {
        for (cidr6, pool) in [
            ("fd00::10/64", "fd00::11-fd00::ffff"),
            ("fd00::/120", "fd00::10-fd00::7f"),
        ] {
            let config = config(&format!("cidr6={cidr6}")).expect(cidr6);
            let leased = config.pool6.expect(cidr6);
            assert_eq!(format!("{}-{}", leased.start(), leased.end()), pool);
        }
    }

    #[test]
    fn resolvers_have_port_53() {
        let config = config("dns=192.0.2.1+[2001:db8::1]:5353+2001:db8::2").expect("valid");
        let dns: Vec<_> = config.dns.iter().map(SocketAddr::to_string).collect();
        assert_eq!(
            dns,
            ["192.0.2.1:53", "[2001:db8::1]:5353", "[2001:db8::2]:53"]
        );
    }
}
