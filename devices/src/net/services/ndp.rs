//! The gateway's side of neighbour discovery (RFC 4861; RFC 4862 for guests'
//! duplicate address detection).

use std::net::Ipv6Addr;

use super::neighbours::Evidence;
use crate::net::mac::{Mac, MacAddress};
use crate::net::prefix::Prefix6;
use crate::net::wire::icmp::Icmp6;
use crate::net::wire::ip6::Ip6Header;
use crate::net::wire::ndp::{NdpOption, Options};

/// The hop limit of every message, which shows that no router passed it on
/// (RFC 4861, 4).
pub const HOP_LIMIT: u8 = 255;

/// All nodes of the link (RFC 4291, 2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);

/// The addresses of the link (RFC 4291, 2.5.6).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0);

/// The group that a node with `address` is in (RFC 4291, 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let mut group = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 1, 0xFF00, 0).octets();
    group[13..].copy_from_slice(&address.octets()[13..]);
    group.into()
}

/// The link-local address of `mac` (RFC 4291, appendix A).
pub fn link_local(mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.bytes();
    let mut address = LINK_LOCAL.octets();
    address[8..].copy_from_slice(&[a ^ 2, b, c, 0xFF, 0xFE, d, e, f]);
    address.into()
}

/// A message to send, with [`HOP_LIMIT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The station or group it goes to.
    pub station: Mac,
    /// The sender.
    pub source: Ipv6Addr,
    /// The receiver.
    pub destination: Ipv6Addr,
    /// The message.
    pub icmp: Icmp6,
    /// Its options.
    pub options: Vec<u8>,
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// It passed a router, or says what its kind can't (RFC 4861, 6.1 and
    /// 7.1).
    Invalid,
    /// The frame's source isn't the hardware address in the message.
    ForeignHardware,
    /// The sender says that it has one of the gateway's addresses.
    Conflict(Ipv6Addr),
    /// The neighbour's address isn't of this link.
    OffLink,
    /// A guest plays the router, or redirects.
    NotARouter,
    /// Not about the gateway.
    NotForUs,
}

/// What a message says and asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The answer.
    pub reply: Option<Message>,
    /// The sender or the target, as the table of neighbours takes it.
    pub neighbour: Option<(Ipv6Addr, MacAddress, Evidence)>,
    /// The address that asks for a router advertisement, maybe none
    /// ([`super::ra`]).
    pub solicits_router: Option<Ipv6Addr>,
}

/// Answers for the gateway's addresses.
#[derive(Clone, Debug)]
pub struct Responder {
    mac: MacAddress,
    prefix: Prefix6,
    /// The gateway's addresses, its link-local one first.
    addresses: Vec<Ipv6Addr>,
}

impl Responder {
    /// Answers as `mac` for `addresses` in the network `prefix`, and for the
    /// link-local address of `mac`.
    pub fn new(mac: MacAddress, prefix: Prefix6, addresses: &[Ipv6Addr]) -> Self {
        let mut all = vec![link_local(mac)];
        all.extend_from_slice(addresses);
        Self {
            mac,
            prefix,
            addresses: all,
        }
    }

    /// The gateway's link-local address, which is what a router speaks from
    /// (RFC 4861, 4.2).
    pub fn link_local(&self) -> Ipv6Addr {
        self.addresses[0]
    }

    /// Takes a message from the station `source`; `options` is what follows
    /// the header of `icmp`.
    pub fn receive(
        &self,
        source: MacAddress,
        ip: &Ip6Header,
        icmp: &Icmp6,
        options: &[u8],
    ) -> Result<Outcome, Ignored> {
        let options = Options::parse(options).map_err(|_| Ignored::Invalid)?;
        if ip.hop_limit != HOP_LIMIT || ip.source.is_multicast() {
            return Err(Ignored::Invalid);
        }
        let hardware = |mac: Option<Mac>| match mac {
            Some(mac) if mac == Mac::from(source) => Ok(true),
            Some(_) => Err(Ignored::ForeignHardware),
            None => Ok(false),
        };
        match *icmp {
            Icmp6::NeighborSolicitation { target } => {
                let named = hardware(options.source_link_layer())?;
                self.solicited(source, ip, target, named)
            }
            Icmp6::NeighborAdvertisement {
                target,
                solicited,
                override_,
                ..
            } => {
                // RFC 4861, 7.1.2.
                if target.is_multicast() || solicited && ip.destination.is_multicast() {
                    return Err(Ignored::Invalid);
                }
                let named = hardware(options.target_link_layer())?;
                self.check_neighbour(target)?;
                let evidence = if override_ {
                    Evidence::Answer
                } else {
                    Evidence::Hint
                };
                // Without the option, the answer confirms what was asked one
                // station alone (RFC 4861, 4.4).
                let neighbour = (named || solicited).then_some((target, source, evidence));
                Ok(Outcome {
                    neighbour,
                    ..Outcome::default()
                })
            }
            Icmp6::RouterSolicitation => {
                let named = hardware(options.source_link_layer())?;
                if ip.source.is_unspecified() && named {
                    return Err(Ignored::Invalid);
                }
                Ok(Outcome {
                    neighbour: self.sender(source, ip.source, named)?,
                    solicits_router: Some(ip.source),
                    reply: None,
                })
            }
            Icmp6::RouterAdvertisement(_) => Err(Ignored::NotARouter),
            _ if icmp.is_discovery() => Err(Ignored::NotARouter),
            _ => Err(Ignored::NotForUs),
        }
    }

    fn solicited(
        &self,
        source: MacAddress,
        ip: &Ip6Header,
        target: Ipv6Addr,
        named: bool,
    ) -> Result<Outcome, Ignored> {
        let detection = ip.source.is_unspecified();
        // RFC 4861, 7.1.1.
        if target.is_multicast() || detection && (named || ip.destination != solicited_node(target))
        {
            return Err(Ignored::Invalid);
        }
        if !self.addresses.contains(&target) {
            return Err(Ignored::NotForUs);
        }
        let neighbour = self.sender(source, ip.source, named)?;
        // A guest that tries an address of ours is told at once, and so are
        // all others (RFC 4861, 7.2.4).
        let (station, destination) = if detection {
            (Mac::of_group6(ALL_NODES), ALL_NODES)
        } else {
            (source.into(), ip.source)
        };
        let icmp = Icmp6::NeighborAdvertisement {
            target,
            router: true,
            solicited: !detection,
            override_: true,
        };
        Ok(Outcome {
            reply: Some(Message {
                station,
                source: target,
                destination,
                icmp,
                options: encode(&[NdpOption::TargetLinkLayer(self.mac.into())]),
            }),
            neighbour,
            solicits_router: None,
        })
    }

    /// The question for `address`, to the station `to` or to all that may
    /// have it (RFC 4861, 7.2.2).
    pub fn question(&self, address: Ipv6Addr, to: Option<MacAddress>) -> Message {
        let (station, destination) = match to {
            Some(mac) => (mac.into(), address),
            None => {
                let group = solicited_node(address);
                (Mac::of_group6(group), group)
            }
        };
        Message {
            station,
            source: self.link_local(),
            destination,
            icmp: Icmp6::NeighborSolicitation { target: address },
            options: encode(&[NdpOption::SourceLinkLayer(self.mac.into())]),
        }
    }

    /// The announcement of one of the gateway's addresses, to all stations
    /// (RFC 4861, 7.2.6).
    pub fn announcement(&self, address: Ipv6Addr) -> Message {
        let icmp = Icmp6::NeighborAdvertisement {
            target: address,
            router: true,
            solicited: false,
            override_: true,
        };
        Message {
            station: Mac::of_group6(ALL_NODES),
            source: address,
            destination: ALL_NODES,
            icmp,
            options: encode(&[NdpOption::TargetLinkLayer(self.mac.into())]),
        }
    }

    /// The sender of a message that names its hardware address.
    fn sender(
        &self,
        source: MacAddress,
        address: Ipv6Addr,
        named: bool,
    ) -> Result<Option<(Ipv6Addr, MacAddress, Evidence)>, Ignored> {
        if address.is_unspecified() {
            return Ok(None);
        }
        self.check_neighbour(address)?;
        Ok(named.then_some((address, source, Evidence::Claim)))
    }

    /// Whether `address` can be a guest's.
    fn check_neighbour(&self, address: Ipv6Addr) -> Result<(), Ignored> {
        if self.addresses.contains(&address) {
            return Err(Ignored::Conflict(address));
        }
        let link = Prefix6::around(LINK_LOCAL, 64).is_ok_and(|link| link.contains(address));
        if link || self.prefix.contains(address) {
            return Ok(());
        }
        Err(Ignored::OffLink)
    }
}

/// The bytes of `options`.
pub(super) fn encode(options: &[NdpOption]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for option in options {
        // An option is at most 255 units of 8 bytes long.
        let mut buffer = [0; 255 * 8];
        // What is longer has no encoding, and no caller has such an option.
        if let Ok(length) = option.write(&mut buffer) {
            bytes.extend_from_slice(&buffer[..length]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::wire::ip::Protocol;
    use proptest::prelude::*;

    const OURS: Ipv6Addr = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 1);
    const GUEST: Ipv6Addr = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0x1234, 0x5678);
    const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
    const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 2);

    fn mac(last: u8) -> MacAddress {
        MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
    }

    fn responder() -> Responder {
        Responder::new(mac(1), "fd00::/64".parse().unwrap(), &[OURS])
    }

    fn ip(source: Ipv6Addr, destination: Ipv6Addr) -> Ip6Header {
        Ip6Header {
            source,
            destination,
            protocol: Protocol::ICMPV6,
            hop_limit: 255,
            dscp: 0,
            ecn: 0,
            flow_label: 0,
            payload_len: 0,
            fragment: None,
        }
    }

    fn from(last: u8) -> Vec<u8> {
        encode(&[NdpOption::SourceLinkLayer(mac(last).into())])
    }

    fn solicitation(target: Ipv6Addr) -> Icmp6 {
        Icmp6::NeighborSolicitation { target }
    }

    fn advertisement(target: Ipv6Addr, override_: bool) -> Icmp6 {
        Icmp6::NeighborAdvertisement {
            target,
            router: false,
            solicited: true,
            override_,
        }
    }

    #[test]
    fn addresses_are_derived_as_rfc_4291_shows() {
        let mac = MacAddress::new([0x34, 0x56, 0x78, 0x9A, 0xBC, 0xDE]).unwrap();
        assert_eq!(
            link_local(mac),
            "fe80::3656:78ff:fe9a:bcde".parse::<Ipv6Addr>().unwrap()
        );
        let address = "4037::1:800:200e:8c6c".parse().unwrap();
        assert_eq!(
            solicited_node(address),
            "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap()
        );
    }

    #[test]
    fn a_solicitation_is_answered_to_its_sender() {
        let group = solicited_node(OURS);
        let outcome = responder()
            .receive(mac(9), &ip(GUEST, group), &solicitation(OURS), &from(9))
            .unwrap();
        assert_eq!(outcome.neighbour, Some((GUEST, mac(9), Evidence::Claim)));
        let reply = outcome.reply.unwrap();
        assert_eq!((reply.source, reply.destination), (OURS, GUEST));
        assert_eq!(reply.station, mac(9).into());
        let expected = Icmp6::NeighborAdvertisement {
            target: OURS,
            router: true,
            solicited: true,
            override_: true,
        };
        assert_eq!(reply.icmp, expected);
        assert_eq!(reply.options, [2, 1, 2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn a_guest_that_tries_our_address_hears_that_it_is_taken() {
        let group = solicited_node(OURS);
        let outcome = responder()
            .receive(mac(9), &ip(NOBODY, group), &solicitation(OURS), &[])
            .unwrap();
        assert_eq!(outcome.neighbour, None);
        let reply = outcome.reply.unwrap();
        assert_eq!(reply.destination, ALL_NODES);
        assert_eq!(reply.station, Mac([0x33, 0x33, 0, 0, 0, 1]));
        let Icmp6::NeighborAdvertisement { solicited, .. } = reply.icmp else {
            panic!("{reply:?}");
        };
        assert!(!solicited);
    }

    #[test]
    fn advertisements_teach_what_they_may() {
        let learned = |icmp: Icmp6, options: &[u8]| {
            let outcome = responder().receive(mac(9), &ip(GUEST, OURS), &icmp, options);
            outcome.map(|outcome| outcome.neighbour)
        };
        let target = encode(&[NdpOption::TargetLinkLayer(mac(9).into())]);
        assert_eq!(
            learned(advertisement(GUEST, true), &target),
            Ok(Some((GUEST, mac(9), Evidence::Answer)))
        );
        assert_eq!(
            learned(advertisement(GUEST, false), &[]),
            Ok(Some((GUEST, mac(9), Evidence::Hint)))
        );
        assert_eq!(
            learned(advertisement(OURS, true), &target),
            Err(Ignored::Conflict(OURS))
        );
        let foreign = encode(&[NdpOption::TargetLinkLayer(mac(7).into())]);
        assert_eq!(
            learned(advertisement(GUEST, true), &foreign),
            Err(Ignored::ForeignHardware)
        );
    }

    #[test]
    fn a_router_is_asked_for_with_or_without_an_address() {
        for (source, options, neighbour) in [
            (NOBODY, vec![], None),
            (GUEST, vec![], None),
            (GUEST, from(9), Some((GUEST, mac(9), Evidence::Claim))),
        ] {
            let outcome = responder().receive(
                mac(9),
                &ip(source, ALL_ROUTERS),
                &Icmp6::RouterSolicitation,
                &options,
            );
            let expected = Outcome {
                reply: None,
                neighbour,
                solicits_router: Some(source),
            };
            assert_eq!(outcome, Ok(expected));
        }
    }

    #[test]
    fn what_breaks_the_rules_is_dropped() {
        let group = solicited_node(OURS);
        let routed = Ip6Header {
            hop_limit: 254,
            ..ip(GUEST, group)
        };
        let outside = "2001:db8::1".parse().unwrap();
        let redirect = Icmp6::Other {
            kind: 137,
            code: 0,
            rest: [0; 4],
        };
        let advertised = Icmp6::RouterAdvertisement(Default::default());
        let multicast = Icmp6::NeighborAdvertisement {
            target: GUEST,
            router: false,
            solicited: true,
            override_: true,
        };
        for (ip, icmp, options, expected) in [
            (routed, solicitation(OURS), from(9), Ignored::Invalid),
            (
                ip(GUEST, group),
                solicitation(group),
                from(9),
                Ignored::Invalid,
            ),
            (
                ip(NOBODY, group),
                solicitation(OURS),
                from(9),
                Ignored::Invalid,
            ),
            (
                ip(NOBODY, OURS),
                solicitation(OURS),
                vec![],
                Ignored::Invalid,
            ),
            (
                ip(GUEST, group),
                solicitation(OURS),
                vec![1, 0],
                Ignored::Invalid,
            ),
            (
                ip(GUEST, group),
                solicitation(OURS),
                vec![1, 2, 0, 0],
                Ignored::Invalid,
            ),
            (
                ip(GUEST, group),
                solicitation(OURS),
                from(7),
                Ignored::ForeignHardware,
            ),
            (
                ip(OURS, group),
                solicitation(OURS),
                from(9),
                Ignored::Conflict(OURS),
            ),
            (
                ip(outside, group),
                solicitation(OURS),
                from(9),
                Ignored::OffLink,
            ),
            (
                ip(GUEST, group),
                solicitation(GUEST),
                from(9),
                Ignored::NotForUs,
            ),
            (ip(GUEST, ALL_NODES), multicast, vec![], Ignored::Invalid),
            (
                ip(NOBODY, ALL_ROUTERS),
                Icmp6::RouterSolicitation,
                from(9),
                Ignored::Invalid,
            ),
            (
                ip(GUEST, ALL_NODES),
                advertised,
                vec![],
                Ignored::NotARouter,
            ),
            (ip(GUEST, OURS), redirect, vec![], Ignored::NotARouter),
        ] {
            let outcome = responder().receive(mac(9), &ip, &icmp, &options);
            assert_eq!(outcome, Err(expected), "{icmp:?} {options:?}");
        }
    }

    #[test]
    fn questions_go_to_all_or_to_one() {
        let all = responder().question(GUEST, None);
        assert_eq!(all.destination, solicited_node(GUEST));
        assert_eq!(all.station, Mac([0x33, 0x33, 0xFF, 0x34, 0x56, 0x78]));
        let one = responder().question(GUEST, Some(mac(9)));
        assert_eq!((one.destination, one.station), (GUEST, mac(9).into()));
        for question in [all, one] {
            assert_eq!(question.icmp, solicitation(GUEST));
            assert_eq!(question.source, link_local(mac(1)));
            assert_eq!(question.options, from(1));
        }
        let announcement = responder().announcement(OURS);
        assert_eq!(announcement.destination, ALL_NODES);
        assert_eq!(announcement.source, OURS);
    }

    proptest! {
        #[test]
        fn arbitrary_messages_teach_nothing_foreign(
            message in proptest::collection::vec(any::<u8>(), 0..80),
            kind in 130..140u8,
            source in prop_oneof![Just(GUEST), Just(NOBODY), Just(OURS), any::<u128>().prop_map(Ipv6Addr::from)],
        ) {
            let mut message = message;
            if let [first, code, ..] = &mut message[..] {
                (*first, *code) = (kind, 0);
            }
            if let Ok((icmp, length)) = Icmp6::parse(&message)
                && let Ok(outcome) =
                    responder().receive(mac(9), &ip(source, OURS), &icmp, &message[length..])
                && let Some((address, found, _)) = outcome.neighbour
            {
                prop_assert_eq!(found, mac(9));
                prop_assert!(address != OURS);
                prop_assert!(responder().check_neighbour(address).is_ok());
            }
        }
    }
}
