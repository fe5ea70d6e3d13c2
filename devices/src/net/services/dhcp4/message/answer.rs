//! A server's message, as a client reads it.

use std::net::Ipv4Addr;

use super::{COOKIE, FIXED, MessageType, Options, code};
use crate::net::mac::MacAddress;
use crate::net::prefix::Prefix4;
use crate::net::services::is_domain;

/// The most name servers that are kept.
const MOST_SERVERS: usize = 3;

/// The least MTU that is believed: what each host takes (RFC 791, 3.1).
const LEAST_MTU: u16 = 576;

/// A server's message, as far as a client reads it.
///
/// What the network offers besides an address is passed over where it makes no
/// sense: a client can do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The kind.
    pub kind: MessageType,
    /// The client's number of the exchange.
    pub transaction: u32,
    /// The client's hardware address.
    pub hardware: MacAddress,
    /// The address that the client is given, or zero.
    pub address: Ipv4Addr,
    /// Option 54, which names the server.
    pub server: Option<Ipv4Addr>,
    /// The length of the network's prefix, by option 1.
    pub prefix: Option<u8>,
    /// The first router of option 3.
    pub router: Option<Ipv4Addr>,
    /// The first name servers of option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 15, if it is a domain.
    pub domain: Option<String>,
    /// Option 26.
    pub mtu: Option<u16>,
    /// Option 51, in seconds; all ones for no end.
    pub lease_time: Option<u32>,
    /// Option 58, in seconds.
    pub renewal: Option<u32>,
    /// Option 59, in seconds.
    pub rebinding: Option<u32>,
    /// Option 56: why a request is refused.
    pub message: Option<String>,
}

impl Answer {
    /// The options that a client asks for (option 55) to be told all this.
    pub const OPTIONS: [u8; 8] = [
        code::SUBNET_MASK,
        code::ROUTER,
        code::DNS,
        code::DOMAIN,
        code::MTU,
        code::LEASE_TIME,
        code::RENEWAL,
        code::REBINDING,
    ];

    /// Reads a message. `None` stands for one that no server may send: cut
    /// short, not a reply, not for Ethernet, without a type, or about a lease
    /// with numbers of the wrong length.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; FIXED] = bytes.first_chunk()?;
        // BOOTREPLY, and an Ethernet address of six bytes.
        if fixed[..3] != [2, 1, 6] || fixed[236..] != COOKIE {
            return None;
        }
        let options = Options::new(bytes)?;
        let kind = match options.get(code::MESSAGE_TYPE)?[..] {
            [kind] => MessageType::from_code(kind)?,
            _ => return None,
        };
        let seconds = |code| Some(options.number(code)?.map(u32::from_be_bytes));
        let servers = addresses(&options, code::DNS);
        let mtu = options.get(code::MTU).and_then(|mtu| mtu.try_into().ok());
        Some(Self {
            kind,
            transaction: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            hardware: MacAddress::new([
                fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33],
            ])?,
            address: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            server: options.number(code::SERVER)?.map(Ipv4Addr::from),
            prefix: match options.number(code::SUBNET_MASK)? {
                Some(mask) => Some(length(u32::from_be_bytes(mask))?),
                None => None,
            },
            router: addresses(&options, code::ROUTER).first().copied(),
            dns: servers.into_iter().take(MOST_SERVERS).collect(),
            domain: text(&options, code::DOMAIN).filter(|domain| is_domain(domain)),
            mtu: mtu.map(u16::from_be_bytes).filter(|mtu| *mtu >= LEAST_MTU),
            lease_time: seconds(code::LEASE_TIME)?,
            renewal: seconds(code::RENEWAL)?,
            rebinding: seconds(code::REBINDING)?,
            message: text(&options, code::MESSAGE),
        })
    }

    /// Whether the message gives an address that a host can use.
    pub fn gives_address(&self) -> bool {
        let address = self.address;
        let first = address.octets()[0];
        let usable = (1..224).contains(&first) && !address.is_loopback();
        let network = self
            .prefix
            .and_then(|length| Prefix4::around(address, length).ok());
        usable && network.is_some_and(|network| network.is_host(address))
    }
}

/// The length of the prefix that a mask stands for, if it is one.
fn length(mask: u32) -> Option<u8> {
    let ones = mask.leading_ones();
    let whole = mask.trailing_zeros().min(32) + ones == 32;
    whole.then(|| u8::try_from(ones).ok())?
}

fn addresses(options: &Options<'_>, code: u8) -> Vec<Ipv4Addr> {
    let value = options.get(code).unwrap_or_default();
    let chunks = value.as_chunks::<4>().0;
    chunks.iter().copied().map(Ipv4Addr::from).collect()
}

/// The text of an option without control characters. Some servers count a
/// closing NUL, against RFC 2132, 2.
fn text(options: &Options<'_>, code: u8) -> Option<String> {
    let text = String::from_utf8(options.get(code)?).ok()?;
    Some(text.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Reply, Request};
    use super::*;

    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);

    fn request() -> Request {
        Request {
            kind: MessageType::Discover,
            transaction: 0xAABB_CCDD,
            broadcast: true,
            client_address: Ipv4Addr::UNSPECIFIED,
            relay: Ipv4Addr::UNSPECIFIED,
            hardware: MacAddress::new([2, 0, 0, 0, 0, 1]).unwrap(),
            client_id: None,
            requested: None,
            server: None,
            lease_time: None,
            host_name: None,
            requested_options: None,
            max_reply: 548,
        }
    }

    fn offer(options: &[(u8, &[u8])]) -> Answer {
        let mut reply = Reply::new(&request(), MessageType::Offer, SERVER);
        reply.your_address([192, 168, 100, 10].into());
        for (code, value) in options {
            reply.option(*code, value);
        }
        Answer::parse(&reply.finish()).unwrap()
    }

    #[test]
    fn an_offer_is_read() {
        let answer = offer(&[
            (code::SUBNET_MASK, &[255, 255, 255, 0]),
            (code::ROUTER, &[192, 168, 100, 1, 192, 168, 100, 2]),
            (code::DNS, &[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]),
            (code::DOMAIN, b"nest.internal\0"),
            (code::MTU, &[0xFF, 0xF0]),
            (code::LEASE_TIME, &[0, 0, 14, 16]),
            (code::RENEWAL, &[0, 0, 7, 8]),
            (code::MESSAGE, b"wait\x1b"),
        ]);
        let expected = Answer {
            kind: MessageType::Offer,
            transaction: 0xAABB_CCDD,
            hardware: request().hardware,
            address: [192, 168, 100, 10].into(),
            server: Some(SERVER),
            prefix: Some(24),
            router: Some(SERVER),
            dns: [1, 2, 3].map(|a| Ipv4Addr::new(a, a, a, a)).to_vec(),
            domain: Some("nest.internal".into()),
            mtu: Some(65520),
            lease_time: Some(3600),
            renewal: Some(1800),
            rebinding: None,
            message: Some("wait".into()),
        };
        assert_eq!(answer, expected);
        assert!(answer.gives_address());
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let answer = offer(&[
            (code::ROUTER, &[1, 2]),
            (code::DNS, &[]),
            (code::DOMAIN, b"../etc"),
            (code::MTU, &[0, 68]),
        ]);
        assert_eq!(
            (answer.router, answer.mtu, &answer.domain),
            (None, None, &None)
        );
        assert!(answer.dns.is_empty());
        assert!(!answer.gives_address(), "no mask");
    }

    #[test]
    fn addresses_of_no_host_are_known() {
        let masked = offer(&[(code::SUBNET_MASK, &[255, 255, 255, 0])]);
        for (address, usable) in [
            ([192, 168, 100, 1], true),
            ([192, 168, 100, 0], false),
            ([192, 168, 100, 255], false),
            ([0, 0, 0, 0], false),
            ([127, 0, 0, 5], false),
            ([224, 0, 0, 5], false),
        ] {
            let answer = Answer {
                address: address.into(),
                ..masked.clone()
            };
            assert_eq!(answer.gives_address(), usable, "{address:?}");
        }
    }

    #[test]
    fn masks_are_rows_of_ones() {
        for (mask, expected) in [
            (0, Some(0)),
            (0x8000_0000, Some(1)),
            (0xFFFF_FF00, Some(24)),
            (u32::MAX, Some(32)),
            (0xFF00_FF00, None),
            (1, None),
        ] {
            assert_eq!(length(mask), expected, "{mask:#x}");
        }
    }

    proptest! {
        #[test]
        fn hostile_answers_are_survived(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            shaped: bool,
        ) {
            if shaped && bytes.len() >= FIXED {
                bytes[..3].copy_from_slice(&[2, 1, 6]);
                bytes[236..FIXED].copy_from_slice(&COOKIE);
            }
            if let Some(answer) = Answer::parse(&bytes) {
                prop_assert!(answer.dns.len() <= MOST_SERVERS);
            }
        }
    }
}
