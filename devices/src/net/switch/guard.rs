//! What a frame's contents may not claim.

use std::net::IpAddr;

use super::config::PortConfig;
use super::counters::DropReason;
use super::vlan::Network;
use crate::net::wire::icmp::Icmp6;
use crate::net::wire::ip::{Ip6Header, IpHeader};
use crate::net::wire::packet::{self, Packet, Transport};

/// ICMPv6's redirect (RFC 4861, 4.5).
const REDIRECT: u8 = 137;

/// Where DHCP's clients listen (RFC 2131, 4.1; RFC 8415, 7.2). They take
/// answers from any port, and nobody but servers and relays sends there.
const DHCP_CLIENT: u16 = 68;
const DHCP6_CLIENT: u16 = 546;

/// Refuses a packet that claims an address of the gateway, or speaks as a
/// router or DHCP server from a port that may have none.
///
/// The gateway is only in the network without tags, so elsewhere its addresses
/// are anybody's. Neighbour discovery in fragments passes, as hosts ignore it
/// (RFC 6980, 5).
pub(super) fn inspect(
    port: &PortConfig,
    gateway: &[IpAddr],
    network: Network,
    packet: &Packet,
) -> Result<(), DropReason> {
    let claimed = network == Network::Untagged && claims(packet, gateway);
    let reason = match packet.transport {
        _ if claimed => DropReason::GatewayClaim,
        Transport::Icmp6(message) if !port.router && is_of_router(&message) => {
            DropReason::RouterMessage
        }
        Transport::Udp(udp) if !port.dhcp_server => match (packet.ip(), udp.destination) {
            (Some(IpHeader::V4(_)), DHCP_CLIENT) => DropReason::DhcpServerMessage,
            (Some(IpHeader::V6(_)), DHCP6_CLIENT) => DropReason::DhcpServerMessage,
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    Err(reason)
}

/// Whether a packet makes others believe that its sender has an address of the
/// gateway.
///
/// Probes don't: they name the address as their target, from none (RFC 5227,
/// 2.1.1; RFC 4862, 5.4.2). The gateway is to see them and to object.
fn claims(packet: &Packet, gateway: &[IpAddr]) -> bool {
    match (&packet.network, packet.transport) {
        // Receivers believe the sender's address of any ARP packet (RFC 826).
        (packet::Network::Arp(arp), _) => gateway.contains(&arp.sender_ip.into()),
        (packet::Network::Ip(IpHeader::V6(ip)), Transport::Icmp6(message)) => {
            claims_by_discovery(ip, &message, gateway)
        }
        _ => false,
    }
}

/// An advertisement is believed about its target (RFC 4861, 7.2.5), and other
/// messages about where they come from (6.1.1, 7.2.3, 8.3).
fn claims_by_discovery(ip: &Ip6Header, message: &Icmp6, gateway: &[IpAddr]) -> bool {
    if let Icmp6::NeighborAdvertisement { target, .. } = *message
        && gateway.contains(&target.into())
    {
        return true;
    }
    message.is_discovery() && gateway.contains(&ip.source.into())
}

fn is_of_router(message: &Icmp6) -> bool {
    matches!(
        message,
        Icmp6::RouterAdvertisement(_) | Icmp6::Other { kind: REDIRECT, .. }
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::net::mac::Mac;
    use crate::net::wire::arp::{Arp, Operation};
    use crate::net::wire::ether::{EtherHeader, ethertype};
    use crate::net::wire::icmp::{self, RouterAdvertisement};
    use crate::net::wire::ip::{Ip4Header, Protocol};
    use crate::net::wire::udp::UdpHeader;
    use crate::net::wire::vnet::VnetHeader;

    const GATEWAY4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
    const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 1);
    const GUEST4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 10);
    const GUEST6: Ipv6Addr = Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0x10);
    const NOBODY6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xFF02, 0, 0, 0, 0, 0, 0, 1);
    const GUEST: Mac = Mac([2, 0, 0, 0, 0, 0x10]);

    fn packet(ethertype: u16, write: impl FnOnce(&mut [u8]) -> usize) -> Packet {
        let mut frame = [0; 256];
        let ether = EtherHeader {
            destination: Mac::BROADCAST,
            source: GUEST,
            ethertype,
            vlan: None,
        };
        let start = ether.write(&mut frame).unwrap();
        let len = start + write(&mut frame[start..]);
        Packet::parse(VnetHeader::default(), &frame[..len], len).unwrap()
    }

    fn arp(operation: Operation, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Packet {
        let arp = Arp {
            operation,
            sender_mac: GUEST,
            sender_ip,
            target_mac: Mac::default(),
            target_ip,
        };
        packet(ethertype::ARP, |out| {
            let bytes = arp.bytes();
            out[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        })
    }

    fn icmp6(source: Ipv6Addr, message: Icmp6) -> Packet {
        packet(ethertype::IPV6, |out| {
            let mut body = [0; 64];
            let len = message.write(&mut body).unwrap();
            let mut ip = Ip6Header::new(source, ALL_NODES, Protocol::ICMPV6);
            ip.hop_limit = 255;
            ip.payload_len = len.try_into().unwrap();
            let mut sum = IpHeader::V6(ip).pseudo_sum(Protocol::ICMPV6, len);
            sum.add(&body[..len]);
            let at = usize::from(icmp::CHECKSUM_OFFSET);
            body[at..at + 2].copy_from_slice(&sum.checksum().to_be_bytes());
            let start = ip.write(out).unwrap();
            out[start..start + len].copy_from_slice(&body[..len]);
            start + len
        })
    }

    fn advertisement(target: Ipv6Addr) -> Icmp6 {
        Icmp6::NeighborAdvertisement {
            target,
            router: false,
            solicited: false,
            override_: true,
        }
    }

    fn udp(ip: IpHeader, source: u16, destination: u16) -> Packet {
        let udp = UdpHeader {
            source,
            destination,
            payload_len: 0,
            checksum: 0,
        };
        let ethertype = match ip {
            IpHeader::V4(_) => ethertype::IPV4,
            IpHeader::V6(_) => ethertype::IPV6,
        };
        packet(ethertype, |out| {
            let start = match ip {
                IpHeader::V4(ip) => Ip4Header {
                    payload_len: 8,
                    ..ip
                }
                .write(out)
                .unwrap(),
                IpHeader::V6(ip) => Ip6Header {
                    payload_len: 8,
                    ..ip
                }
                .write(out)
                .unwrap(),
            };
            let mut sum = ip.pseudo_sum(Protocol::UDP, 8);
            let len = udp.write(&mut out[start..]).unwrap();
            sum.add(&out[start..start + len]);
            let checksum = sum.checksum().to_be_bytes();
            out[start + 6..start + 8].copy_from_slice(&checksum);
            start + len
        })
    }

    fn verdict(port: &PortConfig, packet: &Packet) -> Result<(), DropReason> {
        let gateway = [GATEWAY4.into(), GATEWAY6.into()];
        inspect(port, &gateway, Network::Untagged, packet)
    }

    #[test]
    fn nobody_claims_the_gateways_addresses() {
        use Operation::{Reply, Request};
        let none = Ipv4Addr::UNSPECIFIED;
        let solicitation = |target| Icmp6::NeighborSolicitation { target };
        let claim = Err(DropReason::GatewayClaim);
        let cases = [
            (
                "asks for the gateway",
                arp(Request, GUEST4, GATEWAY4),
                Ok(()),
            ),
            ("answers the gateway", arp(Reply, GUEST4, GATEWAY4), Ok(())),
            (
                "probes for the gateway's address",
                arp(Request, none, GATEWAY4),
                Ok(()),
            ),
            (
                "answers as the gateway",
                arp(Reply, GATEWAY4, GUEST4),
                claim,
            ),
            ("asks as the gateway", arp(Request, GATEWAY4, GUEST4), claim),
            (
                "announces the gateway",
                arp(Request, GATEWAY4, GATEWAY4),
                claim,
            ),
            (
                "announces itself",
                icmp6(GUEST6, advertisement(GUEST6)),
                Ok(()),
            ),
            (
                "advertises the gateway",
                icmp6(GUEST6, advertisement(GATEWAY6)),
                claim,
            ),
            (
                "advertises as the gateway",
                icmp6(GATEWAY6, advertisement(GUEST6)),
                claim,
            ),
            (
                "solicits the gateway",
                icmp6(GUEST6, solicitation(GATEWAY6)),
                Ok(()),
            ),
            (
                "detects duplicates",
                icmp6(NOBODY6, solicitation(GATEWAY6)),
                Ok(()),
            ),
            (
                "solicits as the gateway",
                icmp6(GATEWAY6, solicitation(GUEST6)),
                claim,
            ),
            (
                "solicits routers as it",
                icmp6(GATEWAY6, Icmp6::RouterSolicitation),
                claim,
            ),
        ];
        // A port that may have a router and servers is no gateway either.
        let trusted = PortConfig {
            router: true,
            dhcp_server: true,
            ..PortConfig::default()
        };
        for (what, packet, expected) in cases {
            assert_eq!(verdict(&PortConfig::default(), &packet), expected, "{what}");
            assert_eq!(verdict(&trusted, &packet), expected, "{what}");
            let tagged = inspect(&trusted, &[GATEWAY4.into()], Network::Vlan(7), &packet);
            assert_eq!(tagged, Ok(()), "{what} in a VLAN");
        }
    }

    #[test]
    fn routers_and_servers_need_permission() {
        let ip4 = Ip4Header::new(GUEST4, Ipv4Addr::BROADCAST, Protocol::UDP).into();
        let ip6 = Ip6Header::new(GUEST6, ALL_NODES, Protocol::UDP).into();
        let router = icmp6(
            GUEST6,
            Icmp6::RouterAdvertisement(RouterAdvertisement::default()),
        );
        let redirect = Icmp6::Other {
            kind: REDIRECT,
            code: 0,
            rest: [0; 4],
        };
        let router_message = Err(DropReason::RouterMessage);
        let server_message = Err(DropReason::DhcpServerMessage);
        let cases = [
            (router, router_message),
            (icmp6(GUEST6, redirect), router_message),
            (icmp6(GUEST6, Icmp6::RouterSolicitation), Ok(())),
            (udp(ip4, 67, 68), server_message),
            (udp(ip4, 1067, 68), server_message),
            (udp(ip6, 547, 546), server_message),
            (udp(ip4, 68, 67), Ok(())),
            (udp(ip6, 546, 547), Ok(())),
            (udp(ip4, 547, 546), Ok(())),
            (udp(ip6, 67, 68), Ok(())),
        ];
        let trusted = PortConfig {
            router: true,
            dhcp_server: true,
            ..PortConfig::default()
        };
        for (packet, expected) in cases {
            assert_eq!(
                verdict(&PortConfig::default(), &packet),
                expected,
                "{packet:?}"
            );
            assert_eq!(verdict(&trusted, &packet), Ok(()), "{packet:?}");
        }
    }
}
