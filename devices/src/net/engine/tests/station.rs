//! A station: addresses, and as much of ARP, neighbour discovery and IP as it
//! takes to use them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rig::{FRAGMENTS, GATEWAY, GATEWAY4, MTU, gateway6};
use super::wires::Received;
use crate::net::mac::{Mac, MacAddress};
use crate::net::nat::flows::Guest;
use crate::net::nat::fragment::Fragmenter;
use crate::net::nat::fragments::Fragments;
use crate::net::services::ndp::{link_local, solicited_node};
use crate::net::switch::PortId;
use crate::net::time::Time;
use crate::net::wire::arp::{Arp, Operation};
use crate::net::wire::build::HeaderBuf;
use crate::net::wire::ether::EtherHeader;
use crate::net::wire::icmp::{Echo, Icmp6};
use crate::net::wire::ip::{Ip6Header, IpHeader, Protocol};
use crate::net::wire::ndp::NdpOption;
use crate::net::wire::packet::{ChecksumState, Network, Packet, Transport};
use crate::net::wire::testing::{Frame, Parts, Upper};
use crate::net::wire::vnet::VnetHeader;

/// A frame that came to a station, finished.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub(super) packet: Packet,
    pub(super) bytes: Vec<u8>,
}

impl Arrived {
    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[self.packet.payload_offset..][..self.packet.payload_len]
    }

    pub(super) fn source(&self) -> IpAddr {
        self.packet.ip().unwrap().source()
    }

    pub(super) fn destination(&self) -> IpAddr {
        self.packet.ip().unwrap().destination()
    }
}

#[derive(Debug)]
pub(super) struct Station {
    pub(super) port: PortId,
    pub(super) mac: MacAddress,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
    /// Whether it answers questions about its addresses.
    pub(super) answers: bool,
    pub(super) inbox: Vec<Arrived>,
}

impl Station {
    pub(super) fn new(port: PortId, mac: MacAddress, last: u8) -> Self {
        Self {
            port,
            mac,
            v4: Ipv4Addr::new(192, 168, 100, last),
            v6: Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, last.into()),
            answers: true,
            inbox: Vec::new(),
        }
    }

    /// Its address of the family of another.
    pub(super) fn address(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(like) if like.is_unicast_link_local() => link_local(self.mac).into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    /// The header of its frames to the gateway.
    pub(super) fn to_gateway(&self) -> EtherHeader {
        self.to(Mac(GATEWAY))
    }

    pub(super) fn to(&self, destination: Mac) -> EtherHeader {
        EtherHeader {
            destination,
            source: self.mac.into(),
            ..EtherHeader::default()
        }
    }

    /// Its packet to `to` by the gateway.
    pub(super) fn packet(&self, to: IpAddr, upper: Upper, payload: &[u8]) -> Parts {
        Parts {
            ether: self.to_gateway(),
            ip: IpHeader::new(self.address(to), to, Protocol::default()).unwrap(),
            upper,
            payload: payload.to_vec(),
        }
    }

    pub(super) fn udp(&self, to: IpAddr, ports: (u16, u16), payload: &[u8]) -> Frame {
        self.packet(to, Upper::Udp(ports.0, ports.1), payload)
            .frame(None)
    }

    pub(super) fn ping(&self, to: IpAddr, sequence: u16, payload: &[u8]) -> Frame {
        let echo = Echo {
            identifier: 0x1234,
            sequence,
        };
        self.packet(to, Upper::Echo(echo), payload).frame(None)
    }

    /// Its questions for the gateway's addresses.
    pub(super) fn questions(&self) -> [Frame; 2] {
        let IpAddr::V6(gateway) = gateway6() else {
            panic!("of IPv6");
        };
        let solicitation = Icmp6::NeighborSolicitation { target: gateway };
        let group = solicited_node(gateway);
        let option = NdpOption::SourceLinkLayer(self.mac.into());
        [
            self.arp(Operation::Request, Mac::BROADCAST, self.v4, GATEWAY4),
            self.discovery(self.v6, group, &solicitation, &option),
        ]
    }

    pub(super) fn arp(
        &self,
        operation: Operation,
        to: Mac,
        sender_ip: Ipv4Addr,
        target_ip: Ipv4Addr,
    ) -> Frame {
        let arp = Arp {
            operation,
            sender_mac: self.mac.into(),
            sender_ip,
            target_mac: to,
            target_ip,
        };
        let mut headers = HeaderBuf::default();
        let vnet = headers.arp(&self.to(to), &arp).unwrap();
        Frame {
            vnet,
            bytes: headers.frame().to_vec(),
        }
    }

    /// A message of neighbour discovery.
    pub(super) fn discovery(
        &self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        icmp: &Icmp6,
        option: &NdpOption,
    ) -> Frame {
        let mut options = [0; 8];
        assert_eq!(option.write(&mut options), Ok(8));
        let station = if to.is_multicast() {
            Mac::of_group6(to)
        } else {
            Mac(GATEWAY)
        };
        let ip = Ip6Header {
            hop_limit: 255,
            ..Ip6Header::new(from, to, Protocol::ICMPV6)
        };
        let mut headers = HeaderBuf::default();
        let vnet = headers
            .icmp6(&self.to(station), &ip, icmp, &options)
            .unwrap();
        Frame {
            vnet,
            bytes: [headers.frame(), &options].concat(),
        }
    }

    /// Takes a frame that came to its port; returns its answer, if it is asked
    /// for an address.
    pub(super) fn receive(&mut self, received: &Received) -> Option<Frame> {
        let destination = Mac(received.bytes[..6].try_into().unwrap());
        if destination != self.mac.into() && !destination.is_group() {
            return None;
        }
        for bytes in received.finished() {
            let Ok(packet) = Packet::parse(VnetHeader::default(), &bytes, bytes.len()) else {
                // Of another guest: those of the gateway were checked.
                continue;
            };
            match (packet.network, packet.transport) {
                (Network::Arp(arp), _) if arp.operation == Operation::Request => {
                    let ours = self.answers && arp.target_ip == self.v4;
                    return ours.then(|| {
                        self.arp(Operation::Reply, arp.sender_mac, self.v4, arp.sender_ip)
                    });
                }
                (
                    Network::Ip(IpHeader::V6(ip)),
                    Transport::Icmp6(Icmp6::NeighborSolicitation { target }),
                ) => {
                    let ours = [self.v6, link_local(self.mac)].contains(&target);
                    let answer = Icmp6::NeighborAdvertisement {
                        target,
                        router: false,
                        solicited: true,
                        override_: true,
                    };
                    let option = NdpOption::TargetLinkLayer(self.mac.into());
                    return (self.answers && ours)
                        .then(|| self.discovery(target, ip.source, &answer, &option));
                }
                _ => self.inbox.push(Arrived { packet, bytes }),
            }
        }
        None
    }
}

/// A frame cut into fragments, as a link of [`super::rig::MTU`] needs it.
pub(super) fn fragments(whole: &Frame, identification: u32) -> Vec<Frame> {
    let packet = Packet::parse(whole.vnet, &whole.bytes, whole.bytes.len()).unwrap();
    let (start, payload) = whole.bytes.split_at(packet.payload_offset);
    let mut headers = HeaderBuf::default();
    let ip = packet.ip().unwrap();
    let len = whole.bytes.len() - packet.payload_offset;
    headers
        .fragment(&packet.ether, ip, &start[packet.transport_offset..], len)
        .unwrap();
    let pieces = Fragmenter::new(&headers, MTU, identification).unwrap();
    pieces
        .map(|piece| {
            let mut headers = HeaderBuf::default();
            let vnet = piece.compose(&packet.ether, &mut headers).unwrap();
            Frame {
                vnet,
                bytes: [headers.frame(), &payload[piece.payload.clone()]].concat(),
            }
        })
        .collect()
}

/// What a packet carries whose fragments came.
pub(super) fn reassembled(arrived: &[Arrived]) -> Vec<u8> {
    let mut fragments = Fragments::new(FRAGMENTS);
    let mut whole = None;
    for arrived in arrived {
        let ip = arrived.packet.ip().unwrap();
        let taken = fragments.insert(Time::ZERO, Guest(1), ip, &arrived.payload());
        whole = whole.or(taken.unwrap());
    }
    let whole = whole.expect("all fragments");
    let packet = Packet::reassembled(EtherHeader::default(), whole.header, &whole.payload).unwrap();
    assert_eq!(packet.checksum, ChecksumState::Good);
    whole.payload[packet.payload_offset..].to_vec()
}
