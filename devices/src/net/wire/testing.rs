//! Frames for tests.

use std::net::IpAddr;
use std::ops::Range;

use proptest::prelude::*;

use super::build::{Body, HeaderBuf};
use super::ether::EtherHeader;
use super::icmp::{Echo, Icmp4, Icmp6};
use super::ip::{IpHeader, Protocol};
use super::tcp::{TcpFlags, TcpHeader, TcpOptions, Timestamps};
use super::vnet::VnetHeader;
use crate::net::mac::Mac;

/// The bytes that `digits` stand for; spaces don't matter.
pub(crate) fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<char> = digits.chars().filter(|digit| *digit != ' ').collect();
    let pairs = digits.chunks(2).map(String::from_iter);
    pairs
        .map(|pair| u8::from_str_radix(&pair, 16).unwrap())
        .collect()
}

/// A frame and how it is to be finished.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) vnet: VnetHeader,
    /// From Ethernet on.
    pub(crate) bytes: Vec<u8>,
}

/// The headers and the payload of a frame of TCP or UDP.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) ether: EtherHeader,
    pub(crate) ip: IpHeader,
    pub(crate) upper: Upper,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Upper {
    Tcp(TcpHeader),
    Udp(u16, u16),
    Echo(Echo),
}

impl Parts {
    /// The frame with its checksum made, or left with segmentation into
    /// pieces of `segment` bytes to its receiver.
    pub(crate) fn frame(&self, offload: Option<Option<u16>>) -> Frame {
        let body = match offload {
            Some(segment) => Body::Offloaded {
                len: self.payload.len(),
                segment,
            },
            None => Body::Whole(&self.payload),
        };
        let mut headers = HeaderBuf::default();
        let payload = &self.payload;
        let vnet = match (&self.upper, self.ip) {
            (Upper::Tcp(tcp), ip) => headers.tcp(&self.ether, &ip, tcp, body),
            (Upper::Udp(from, to), ip) => headers.udp(&self.ether, &ip, (*from, *to), body),
            (Upper::Echo(echo), IpHeader::V4(ip)) => {
                headers.icmp4(&self.ether, &ip, &Icmp4::EchoRequest(*echo), payload)
            }
            (Upper::Echo(echo), IpHeader::V6(ip)) => {
                headers.icmp6(&self.ether, &ip, &Icmp6::EchoRequest(*echo), payload)
            }
        };
        Frame {
            vnet: vnet.unwrap(),
            bytes: [headers.frame(), &payload[..]].concat(),
        }
    }
}

/// Frames of TCP, UDP and echo requests over both versions of IP, with a
/// payload of so many bytes.
pub(crate) fn parts(length: Range<usize>) -> impl Strategy<Value = Parts> {
    with(prop_oneof![4 => tcp(), 4 => udp(), 1 => echo()], length)
}

/// Frames that offloads are for: of TCP and UDP.
pub(crate) fn offloadable(length: Range<usize>) -> impl Strategy<Value = Parts> {
    with(prop_oneof![tcp(), udp()], length)
}

fn with(upper: impl Strategy<Value = Upper>, length: Range<usize>) -> impl Strategy<Value = Parts> {
    let payload = prop::collection::vec(any::<u8>(), length);
    (ether(), ip(), upper, payload).prop_map(|(ether, ip, upper, payload)| Parts {
        ether,
        ip,
        upper,
        payload,
    })
}

fn ether() -> impl Strategy<Value = EtherHeader> {
    let vlan = prop::option::weighted(0.2, 0u16..4095);
    (any::<[u8; 6]>(), any::<[u8; 6]>(), vlan).prop_map(|(destination, source, vlan)| EtherHeader {
        destination: Mac(destination),
        source: Mac(source),
        ethertype: 0,
        vlan,
    })
}

fn ip() -> impl Strategy<Value = IpHeader> {
    let addresses = prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|pair| pair.map(IpAddr::from)),
        any::<[[u8; 16]; 2]>().prop_map(|pair| pair.map(IpAddr::from)),
    ];
    (addresses, any::<u16>(), any::<u8>()).prop_map(|([source, destination], id, ttl)| {
        match IpHeader::new(source, destination, Protocol::default()).unwrap() {
            IpHeader::V4(mut header) => {
                header.identification = id;
                header.ttl = ttl;
                header.into()
            }
            IpHeader::V6(mut header) => {
                header.flow_label = id.into();
                header.hop_limit = ttl;
                header.into()
            }
        }
    })
}

fn tcp() -> impl Strategy<Value = Upper> {
    let tcp = (
        any::<(u16, u16, u32, u32)>(),
        any::<(u8, u16, u16)>(),
        any::<Option<u16>>(),
        any::<Option<(u32, u32)>>(),
    );
    tcp.prop_map(
        |((source, destination, seq, ack), (flags, window, urgent), mss, timestamps)| {
            Upper::Tcp(TcpHeader {
                source,
                destination,
                seq,
                ack,
                flags: TcpFlags::from_bits_retain(flags),
                window,
                urgent,
                options: TcpOptions {
                    mss,
                    timestamps: timestamps.map(|(value, echo)| Timestamps { value, echo }),
                    ..TcpOptions::default()
                },
            })
        },
    )
}

fn udp() -> impl Strategy<Value = Upper> {
    any::<(u16, u16)>().prop_map(|(from, to)| Upper::Udp(from, to))
}

fn echo() -> impl Strategy<Value = Upper> {
    any::<(u16, u16)>().prop_map(|(identifier, sequence)| {
        Upper::Echo(Echo {
            identifier,
            sequence,
        })
    })
}
