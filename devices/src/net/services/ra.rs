//! Router advertisements (RFC 4861, 6.2; RFC 4862; RFC 8106).

use std::net::Ipv6Addr;
use std::time::Duration;

use super::is_domain;
use super::ndp::{ALL_NODES, Message, encode};
use crate::net::mac::{Mac, MacAddress};
use crate::net::prefix::Prefix6;
use crate::net::time::Time;
use crate::net::wire::icmp::{Icmp6, RouterAdvertisement};
use crate::net::wire::ndp::{NdpOption, Prefix};

/// The longest time between advertisements (RFC 4861, 6.2.1:
/// MaxRtrAdvInterval); the shortest is a third of it.
const INTERVAL: Duration = Duration::from_secs(600);

/// The longest time between the first ones (MAX_INITIAL_RTR_ADVERT_INTERVAL).
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);

/// How many count as the first (MAX_INITIAL_RTR_ADVERTISEMENTS).
const INITIAL: u8 = 3;

/// The shortest time between advertisements to all (MIN_DELAY_BETWEEN_RAS).
const SPACING: Duration = Duration::from_secs(3);

/// The longest options: the MTU that every link has (RFC 8200, 5) without the
/// headers of IPv6 and ICMPv6. More would have to be told in parts (RFC 4861,
/// 6.2.3).
const LONGEST_OPTIONS: usize = 1280 - 40 - 16;

/// For how long the router is a default router: three intervals
/// (AdvDefaultLifetime). The name servers' lifetime is as long (RFC 8106, 5.1).
const LIFETIME: u16 = 1800;

/// What the router advertises.
#[derive(Clone, Debug)]
pub struct Config {
    /// The router's hardware address.
    pub mac: MacAddress,
    /// Its link-local address, which it advertises from.
    pub source: Ipv6Addr,
    /// Whether it is a default router at all.
    pub default_router: bool,
    /// The prefix of the link.
    pub prefix: Prefix6,
    /// Whether guests make themselves addresses of the prefix (RFC 4862). It
    /// must be of 64 bits for that.
    pub autonomous: bool,
    /// Whether addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Whether more is to be had by DHCPv6.
    pub other: bool,
    /// Seconds for which addresses of the prefix are valid.
    pub valid: u32,
    /// Seconds for which they are preferred, at most `valid`.
    pub preferred: u32,
    /// The name servers.
    pub dns: Vec<Ipv6Addr>,
    /// The domain to search names in.
    pub domain: Option<String>,
    /// The link's MTU.
    pub mtu: Option<u32>,
}

/// A contradiction in a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Guests can't make addresses of the prefix.
    #[error("guests can't choose their addresses in {0}: a prefix of 64 bits is needed")]
    NotAutonomous(Prefix6),
    /// Addresses that are preferred for longer than they are valid.
    #[error("addresses can't be preferred for {preferred} s and valid for {valid} s")]
    Lifetimes {
        /// Seconds for which they are preferred.
        preferred: u32,
        /// Seconds for which they are valid.
        valid: u32,
    },
    /// An MTU that IPv6 doesn't work with.
    #[error("IPv6 needs an MTU of at least 1280 bytes, not {0} (RFC 8200, 5)")]
    Mtu(u32),
    /// A domain name that isn't one.
    #[error("{0:?} is not a domain name of at most 253 characters")]
    Domain(String),
    /// More than one packet can say on every link.
    #[error(
        "an advertisement of {0} bytes is too long for a packet of 1280: name fewer name servers"
    )]
    TooLong(usize),
}

/// Says when which advertisement is due.
pub struct Advertiser {
    config: Config,
    options: Vec<u8>,
    random: u64,
    /// How many of the first advertisements are left.
    initial: u8,
    /// The last one to all.
    last: Option<Time>,
    due: Time,
}

impl Advertiser {
    /// An advertiser that starts at `now`. `seed` spreads the times between
    /// advertisements (RFC 4861, 6.2.4).
    pub fn new(config: Config, now: Time, seed: u64) -> Result<Self, ConfigError> {
        check(&config)?;
        let options = options(&config);
        if options.len() > LONGEST_OPTIONS {
            return Err(ConfigError::TooLong(options.len()));
        }
        Ok(Self {
            config,
            options,
            random: seed,
            initial: INITIAL,
            last: None,
            due: now,
        })
    }

    /// When [`Self::poll`] has the next advertisement.
    pub fn deadline(&self) -> Time {
        self.due
    }

    /// The advertisement to all nodes, if it is due.
    pub fn poll(&mut self, now: Time) -> Option<Message> {
        if now < self.due {
            return None;
        }
        self.last = Some(now);
        let longest = match self.initial {
            0 => INTERVAL,
            _ => INITIAL_INTERVAL,
        };
        self.initial = self.initial.saturating_sub(1);
        self.due = now + self.between(longest / 3, longest);
        Some(self.message(Mac::of_group6(ALL_NODES), ALL_NODES))
    }

    /// The answer to the solicitation of `source` at the station `mac`: at
    /// once to it alone, or, if it has no address yet, to all as soon as that
    /// may be (RFC 4861, 6.2.6). The random delay of that section keeps
    /// several routers from speaking at once, and here is one.
    pub fn solicited(&mut self, now: Time, source: Ipv6Addr, mac: MacAddress) -> Option<Message> {
        if !source.is_unspecified() {
            return Some(self.message(mac.into(), source));
        }
        let soonest = self.last.map_or(now, |last| (last + SPACING).max(now));
        self.due = self.due.min(soonest);
        self.poll(now)
    }

    /// The last advertisement: the router is none any more (RFC 4861, 6.2.5).
    pub fn farewell(&self) -> Message {
        let mut message = self.message(Mac::of_group6(ALL_NODES), ALL_NODES);
        if let Icmp6::RouterAdvertisement(router) = &mut message.icmp {
            router.lifetime = 0;
        }
        message
    }

    fn message(&self, station: Mac, destination: Ipv6Addr) -> Message {
        let config = &self.config;
        Message {
            station,
            source: config.source,
            destination,
            icmp: Icmp6::RouterAdvertisement(RouterAdvertisement {
                hop_limit: 64,
                managed: config.managed,
                other: config.other,
                lifetime: if config.default_router { LIFETIME } else { 0 },
                reachable: 0,
                retransmit: 0,
            }),
            options: self.options.clone(),
        }
    }

    /// A time between both, spread evenly enough by SplitMix64.
    fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        let spread = (longest - shortest).as_millis();
        let drawn = u128::from(mixed) % (spread + 1);
        shortest + Duration::from_millis(u64::try_from(drawn).unwrap_or(0))
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    if config.autonomous && config.prefix.length() != 64 {
        return Err(ConfigError::NotAutonomous(config.prefix));
    }
    if config.preferred > config.valid {
        return Err(ConfigError::Lifetimes {
            preferred: config.preferred,
            valid: config.valid,
        });
    }
    if let Some(mtu) = config.mtu.filter(|mtu| *mtu < 1280) {
        return Err(ConfigError::Mtu(mtu));
    }
    if let Some(domain) = config.domain.as_ref().filter(|domain| !is_domain(domain)) {
        return Err(ConfigError::Domain(domain.clone()));
    }
    // An option holds 127 addresses (RFC 8106, 5.1), which is more than this.
    let servers = config.dns.len() * 16;
    if servers > LONGEST_OPTIONS {
        return Err(ConfigError::TooLong(servers));
    }
    Ok(())
}

fn options(config: &Config) -> Vec<u8> {
    let lifetime = u32::from(LIFETIME);
    let servers: Vec<_> = config.dns.iter().map(Ipv6Addr::octets).collect();
    let names = config.domain.as_deref().map(super::encode_name);
    let mut options = vec![
        NdpOption::SourceLinkLayer(config.mac.into()),
        NdpOption::Prefix(Prefix {
            prefix: config.prefix.first(),
            length: config.prefix.length(),
            on_link: true,
            autonomous: config.autonomous,
            valid: config.valid,
            preferred: config.preferred,
        }),
    ];
    options.extend(config.mtu.map(NdpOption::Mtu));
    if !servers.is_empty() {
        options.push(NdpOption::Rdnss {
            lifetime,
            servers: &servers,
        });
    }
    options.extend(
        names
            .as_deref()
            .map(|names| NdpOption::Dnssl { lifetime, names }),
    );
    encode(&options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::wire::ndp::Options;

    const ROUTER: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 1);

    fn config() -> Config {
        Config {
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap(),
            source: ROUTER,
            default_router: true,
            prefix: "fd00:1::/64".parse().unwrap(),
            autonomous: true,
            managed: true,
            other: true,
            valid: 7200,
            preferred: 3600,
            dns: vec!["fd00:1::1".parse().unwrap()],
            domain: Some("nest.example".into()),
            mtu: Some(65520),
        }
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn router(message: &Message) -> RouterAdvertisement {
        match message.icmp {
            Icmp6::RouterAdvertisement(router) => router,
            _ => panic!("{message:?}"),
        }
    }

    #[test]
    fn an_advertisement_says_it_all() {
        let mut advertiser = Advertiser::new(config(), at(0), 1).unwrap();
        let message = advertiser.poll(at(0)).unwrap();
        assert_eq!((message.source, message.destination), (ROUTER, ALL_NODES));
        let flags = router(&message);
        assert!(flags.managed && flags.other);
        assert_eq!(flags.lifetime, 1800);
        let options: Vec<_> = Options::parse(&message.options)
            .unwrap()
            .into_iter()
            .collect();
        let prefix = Prefix {
            prefix: "fd00:1::".parse().unwrap(),
            length: 64,
            on_link: true,
            autonomous: true,
            valid: 7200,
            preferred: 3600,
        };
        let server = "fd00:1::1".parse::<Ipv6Addr>().unwrap().octets();
        let expected = [
            NdpOption::SourceLinkLayer(Mac([2, 0, 0, 0, 0, 1])),
            NdpOption::Prefix(prefix),
            NdpOption::Mtu(65520),
            NdpOption::Rdnss {
                lifetime: 1800,
                servers: &[server],
            },
            NdpOption::Dnssl {
                lifetime: 1800,
                names: b"\x04nest\x07example\0\0\0",
            },
        ];
        assert_eq!(options, expected);
        assert_eq!(router(&advertiser.farewell()).lifetime, 0);
    }

    #[test]
    fn advertisements_come_in_the_times_of_the_rfc() {
        let mut advertiser = Advertiser::new(config(), at(0), 7).unwrap();
        let mut now = at(0);
        let mut gaps = Vec::new();
        for _ in 0..50 {
            assert!(advertiser.poll(now).is_some());
            assert_eq!(advertiser.poll(now), None);
            gaps.push(advertiser.deadline().since(now).as_secs_f64());
            now = advertiser.deadline();
        }
        assert!(gaps[..3].iter().all(|gap| (5.0..=16.0).contains(gap)));
        assert!(gaps[3..].iter().all(|gap| (200.0..=600.0).contains(gap)));
        let spread = gaps[3..].iter().fold(0.0, |most: f64, gap| most.max(*gap));
        assert!(gaps[3..].iter().any(|gap| spread - gap > 100.0), "{gaps:?}");
    }

    #[test]
    fn solicitations_are_answered_at_once_but_not_to_all_too_often() {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 9]).unwrap();
        let guest: Ipv6Addr = "fe80::9".parse().unwrap();
        let mut advertiser = Advertiser::new(config(), at(0), 1).unwrap();
        advertiser.poll(at(0)).unwrap();
        let alone = advertiser.solicited(at(1), guest, mac).unwrap();
        assert_eq!((alone.destination, alone.station), (guest, mac.into()));
        let nobody = Ipv6Addr::UNSPECIFIED;
        assert_eq!(advertiser.solicited(at(1), nobody, mac), None);
        assert_eq!(advertiser.deadline(), at(3));
        assert_eq!(advertiser.solicited(at(2), nobody, mac), None);
        assert!(advertiser.poll(at(3)).is_some());
        let soon = advertiser.solicited(at(6), nobody, mac).unwrap();
        assert_eq!(soon.destination, ALL_NODES);
    }

    #[test]
    fn a_link_may_have_no_router_and_no_names() {
        let config = Config {
            default_router: false,
            autonomous: false,
            prefix: "fd00:1::/80".parse().unwrap(),
            dns: Vec::new(),
            domain: None,
            mtu: None,
            ..config()
        };
        let mut advertiser = Advertiser::new(config, at(0), 1).unwrap();
        let message = advertiser.poll(at(0)).unwrap();
        assert_eq!(router(&message).lifetime, 0);
        let options = Options::parse(&message.options).unwrap();
        let kinds: Vec<_> = options.into_iter().skip(1).collect();
        let [NdpOption::Prefix(prefix)] = kinds[..] else {
            panic!("{kinds:?}");
        };
        assert!(prefix.on_link && !prefix.autonomous);
        assert_eq!(prefix.length, 80);
    }

    type Edit = fn(&mut Config);

    #[test]
    fn contradictions_in_a_configuration_are_named() {
        let edits: [(Edit, &str); 6] = [
            (|c| c.prefix = "fd00::/48".parse().unwrap(), "64 bits"),
            (|c| c.preferred = 7201, "7201 s"),
            (|c| c.mtu = Some(1279), "1280"),
            (|c| c.domain = Some("a b".into()), "not a domain"),
            (|c| c.dns = vec![ROUTER; 128], "2048 bytes"),
            (|c| c.dns = vec![ROUTER; 76], "too long"),
        ];
        for (edit, message) in edits {
            let mut config = config();
            edit(&mut config);
            let error = Advertiser::new(config, at(0), 1).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
