//! The address resolution protocol for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

use super::ether::ethertype;
use super::{WireError, read};
use crate::net::mac::Mac;

/// The packet's length.
pub const LEN: usize = 28;

const NAME: &str = "ARP";
const HARDWARE_ETHERNET: u16 = 1;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// What a packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks whose the target's protocol address is.
    Request,
    /// Answers, or announces.
    Reply,
}

/// A request or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: Mac,
    /// The sender's protocol address; unspecified in a probe (RFC 5227, 2.1.1).
    pub sender_ip: Ipv4Addr,
    /// The target's hardware address; without meaning in a request.
    pub target_mac: Mac,
    /// The target's protocol address.
    pub target_ip: Ipv4Addr,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    hardware: U16,
    protocol: U16,
    hardware_len: u8,
    protocol_len: u8,
    operation: U16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

impl Arp {
    /// The packet at the front of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let raw: Raw = read(bytes, NAME)?;
        let expect = |field, value: u16, expected: u16| {
            let invalid = WireError::Invalid {
                header: NAME,
                field,
                value: value.into(),
            };
            (value == expected).then_some(()).ok_or(invalid)
        };
        expect("hardware space", raw.hardware.get(), HARDWARE_ETHERNET)?;
        expect("protocol space", raw.protocol.get(), ethertype::IPV4)?;
        expect("hardware length", raw.hardware_len.into(), 6)?;
        expect("protocol length", raw.protocol_len.into(), 4)?;
        let operation = match raw.operation.get() {
            REQUEST => Operation::Request,
            REPLY => Operation::Reply,
            value => {
                return Err(WireError::Invalid {
                    header: NAME,
                    field: "opcode",
                    value: value.into(),
                });
            }
        };
        Ok(Self {
            operation,
            sender_mac: Mac(raw.sender_mac),
            sender_ip: raw.sender_ip.into(),
            target_mac: Mac(raw.target_mac),
            target_ip: raw.target_ip.into(),
        })
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> [u8; LEN] {
        let operation = match self.operation {
            Operation::Request => REQUEST,
            Operation::Reply => REPLY,
        };
        transmute!(Raw {
            hardware: HARDWARE_ETHERNET.into(),
            protocol: ethertype::IPV4.into(),
            hardware_len: 6,
            protocol_len: 4,
            operation: operation.into(),
            sender_mac: self.sender_mac.0,
            sender_ip: self.sender_ip.octets(),
            target_mac: self.target_mac.0,
            target_ip: self.target_ip.octets(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST_BYTES: [u8; LEN] = [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 168, 100, 10, 0, 0, 0, 0, 0, 0, 192, 168,
        100, 1,
    ];

    #[test]
    fn known_request() {
        let arp = Arp {
            operation: Operation::Request,
            sender_mac: Mac([2, 0, 0, 0, 0, 1]),
            sender_ip: Ipv4Addr::new(192, 168, 100, 10),
            target_mac: Mac::default(),
            target_ip: Ipv4Addr::new(192, 168, 100, 1),
        };
        assert_eq!(Arp::parse(&REQUEST_BYTES), Ok(arp));
        assert_eq!(arp.bytes(), REQUEST_BYTES);
        for length in 0..LEN {
            let error = Arp::parse(&REQUEST_BYTES[..length]);
            assert_eq!(error, Err(WireError::Truncated(NAME)));
        }
    }

    proptest! {
        #[test]
        fn only_arp_is_taken(at in 0usize..LEN, value: u8) {
            let mut bytes = REQUEST_BYTES;
            bytes[at] = value;
            match Arp::parse(&bytes) {
                Ok(arp) => prop_assert_eq!(arp.bytes(), bytes),
                Err(_) => prop_assert!(at < 8 && value != REQUEST_BYTES[at]),
            }
        }
    }
}
