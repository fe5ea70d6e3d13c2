//! The gateway's side of ARP (RFC 826, with RFC 5227's probes).

use std::net::Ipv4Addr;

use super::neighbours::Evidence;
use crate::net::mac::{Mac, MacAddress};
use crate::net::prefix::Prefix4;
use crate::net::wire::arp::{Arp, Operation};

/// Answers for the gateway's addresses.
#[derive(Clone, Debug)]
pub struct Responder {
    mac: MacAddress,
    prefix: Prefix4,
    /// The gateway's addresses; the first is the one it asks with.
    addresses: Vec<Ipv4Addr>,
}

/// What a message says and asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The answer, to the sender's station.
    pub reply: Option<Arp>,
    /// The sender, as the table of neighbours takes it.
    pub sender: Option<(Ipv4Addr, MacAddress, Evidence)>,
}

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// The frame's source isn't the sender in the message.
    ForeignHardware,
    /// The sender says that it has one of the gateway's addresses. The
    /// gateway's own claim is to be announced (RFC 5227, 2.4).
    Conflict(Ipv4Addr),
    /// The sender's address isn't of this network.
    OffLink,
    /// Neither to the gateway nor about it.
    NotForUs,
}

impl Responder {
    /// Answers as `mac` for `addresses` in the network `prefix`.
    pub fn new(mac: MacAddress, prefix: Prefix4, addresses: Vec<Ipv4Addr>) -> Self {
        Self {
            mac,
            prefix,
            addresses,
        }
    }

    /// Takes a message from the station `source`.
    pub fn receive(&self, source: MacAddress, arp: &Arp) -> Result<Outcome, Ignored> {
        if arp.sender_mac != Mac::from(source) {
            return Err(Ignored::ForeignHardware);
        }
        if self.addresses.contains(&arp.sender_ip) {
            return Err(Ignored::Conflict(arp.sender_ip));
        }
        // A probe asks without having the address yet (RFC 5227, 1.1).
        let probe = arp.sender_ip.is_unspecified();
        if !probe && !self.prefix.is_host(arp.sender_ip) {
            return Err(Ignored::OffLink);
        }
        let sender = |evidence| (!probe).then_some((arp.sender_ip, source, evidence));
        let ours = self.addresses.contains(&arp.target_ip);
        match arp.operation {
            Operation::Request if ours => Ok(Outcome {
                reply: Some(Arp {
                    operation: Operation::Reply,
                    sender_mac: self.mac.into(),
                    sender_ip: arp.target_ip,
                    target_mac: source.into(),
                    target_ip: arp.sender_ip,
                }),
                sender: sender(Evidence::Claim),
            }),
            // An announcement (RFC 5227, 3) updates what is known, and a
            // question to others does too (RFC 826): neither is entered new.
            Operation::Request => Ok(Outcome {
                reply: None,
                sender: sender(Evidence::Answer),
            }),
            Operation::Reply if ours || arp.target_mac == Mac::from(self.mac) => Ok(Outcome {
                reply: None,
                sender: sender(Evidence::Answer),
            }),
            Operation::Reply => Err(Ignored::NotForUs),
        }
    }

    /// The question for `address`, to all stations or to one.
    pub fn question(&self, address: Ipv4Addr) -> Option<Arp> {
        let &sender_ip = self.addresses.first()?;
        Some(Arp {
            operation: Operation::Request,
            sender_mac: self.mac.into(),
            sender_ip,
            target_mac: Mac::default(),
            target_ip: address,
        })
    }

    /// The announcement of one of the gateway's addresses, to all stations
    /// (RFC 5227, 1.1).
    pub fn announcement(&self, address: Ipv4Addr) -> Arp {
        Arp {
            operation: Operation::Request,
            sender_mac: self.mac.into(),
            sender_ip: address,
            target_mac: Mac::default(),
            target_ip: address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn mac(last: u8) -> MacAddress {
        MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
    }

    fn responder() -> Responder {
        Responder::new(mac(1), "10.0.0.0/24".parse().unwrap(), vec![OURS])
    }

    fn message(operation: Operation, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Arp {
        Arp {
            operation,
            sender_mac: mac(9).into(),
            sender_ip,
            target_mac: match operation {
                Operation::Request => Mac::default(),
                Operation::Reply => mac(1).into(),
            },
            target_ip,
        }
    }

    #[test]
    fn questions_for_the_gateway_are_answered() {
        for (sender, learned) in [
            (GUEST, Some((GUEST, mac(9), Evidence::Claim))),
            (NOBODY, None),
        ] {
            let question = message(Operation::Request, sender, OURS);
            let outcome = responder().receive(mac(9), &question).unwrap();
            assert_eq!(
                outcome.reply,
                Some(Arp {
                    operation: Operation::Reply,
                    sender_mac: mac(1).into(),
                    sender_ip: OURS,
                    target_mac: mac(9).into(),
                    target_ip: sender,
                })
            );
            assert_eq!(outcome.sender, learned);
        }
    }

    #[test]
    fn the_rest_is_heard_or_dropped() {
        let (request, reply) = (Operation::Request, Operation::Reply);
        let other = Ipv4Addr::new(10, 0, 0, 7);
        let heard = Ok(Outcome {
            reply: None,
            sender: Some((GUEST, mac(9), Evidence::Answer)),
        });
        let elsewhere = Arp {
            target_mac: mac(7).into(),
            ..message(reply, GUEST, other)
        };
        for (arp, expected) in [
            (message(reply, GUEST, OURS), heard),
            (message(request, GUEST, other), heard),
            (message(request, GUEST, GUEST), heard),
            (message(request, NOBODY, other), Ok(Outcome::default())),
            (elsewhere, Err(Ignored::NotForUs)),
            (message(request, OURS, OURS), Err(Ignored::Conflict(OURS))),
            (message(reply, OURS, GUEST), Err(Ignored::Conflict(OURS))),
            (
                message(request, Ipv4Addr::new(10, 0, 1, 1), OURS),
                Err(Ignored::OffLink),
            ),
            (
                message(request, Ipv4Addr::new(10, 0, 0, 255), OURS),
                Err(Ignored::OffLink),
            ),
        ] {
            assert_eq!(responder().receive(mac(9), &arp), expected, "{arp:?}");
        }
        let foreign = responder().receive(mac(8), &message(request, GUEST, OURS));
        assert_eq!(foreign, Err(Ignored::ForeignHardware));
    }

    #[test]
    fn the_gateway_asks_and_announces_in_its_own_name() {
        let question = responder().question(GUEST).unwrap();
        assert_eq!((question.sender_ip, question.target_ip), (OURS, GUEST));
        let announcement = responder().announcement(OURS);
        assert_eq!(
            (announcement.sender_ip, announcement.target_ip),
            (OURS, OURS)
        );
        for arp in [question, announcement] {
            assert_eq!(arp.operation, Operation::Request);
            assert_eq!(arp.sender_mac, mac(1).into());
        }
    }
}
