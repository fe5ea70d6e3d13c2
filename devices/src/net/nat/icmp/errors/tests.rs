use super::*;
use crate::net::mac::Mac;
use crate::net::port::FRAME_HEADER;
use crate::net::wire::icmp::{Quoted, QuotedTransport};
use crate::net::wire::packet::{Packet, Transport};

const ERRORS: [SocketError; 8] = [
    SocketError::Refused,
    SocketError::TimedOut,
    SocketError::HostUnreachable,
    SocketError::NetUnreachable,
    SocketError::ProtocolUnreachable,
    SocketError::Prohibited,
    SocketError::TooBig(1400),
    SocketError::TimeExceeded,
];

const ETHER: EtherHeader = EtherHeader {
    destination: Mac([2, 0, 0, 0, 0, 1]),
    source: Mac([2, 0, 0, 0, 0, 2]),
    ethertype: 0,
    vlan: None,
};

/// A guest, its peer, and who reports errors, of both families.
const ADDRESSES: [[&str; 3]; 2] = [
    ["192.168.100.10", "198.51.100.7", "198.51.100.1"],
    ["fd00::10", "2001:db8:1::7", "2001:db8:1::1"],
];

fn addresses() -> impl Iterator<Item = [IpAddr; 3]> {
    ADDRESSES
        .into_iter()
        .map(|all| all.map(|text| text.parse().unwrap()))
}

/// The frame that an error makes, parsed, with all checksums verified.
fn frame(message: &ErrorMessage) -> (Packet, Quoted, Quote) {
    let mut headers = HeaderBuf::default();
    let quote = message.quote().unwrap();
    let vnet = message.compose(&ETHER, &mut headers, &quote).unwrap();
    let frame = [headers.frame(), &quote].concat();
    assert_eq!(headers.with_vnet()[..FRAME_HEADER], vnet.bytes());
    let packet = Packet::parse(vnet, &frame, frame.len()).unwrap();
    assert_eq!(
        (packet.ether.destination, packet.ether.source),
        (ETHER.destination, ETHER.source)
    );
    (packet, Quoted::parse(&quote).unwrap(), quote)
}

#[test]
fn the_packet_is_quoted_as_the_guest_sent_it() {
    let echo = Echo {
        identifier: 0x1234,
        sequence: 7,
    };
    for [guest, peer, reporter] in addresses() {
        let (from, to) = (Endpoint::new(guest, 4000), Endpoint::new(peer, 53));
        let ports = |next| QuotedTransport::Ports {
            source: 4000,
            destination: 53,
            next,
        };
        let control = match guest {
            IpAddr::V4(_) => Protocol::ICMP,
            IpAddr::V6(_) => Protocol::ICMPV6,
        };
        for (about, protocol, len, transport) in [
            (
                About::udp(from, to, 100),
                Protocol::UDP,
                108,
                ports(108 << 16),
            ),
            (
                About::tcp(from, to, 0xDEAD_BEEF),
                Protocol::TCP,
                20,
                ports(0xDEAD_BEEF),
            ),
            (
                About::echo(guest, peer, echo, 56),
                control,
                64,
                QuotedTransport::EchoRequest(echo),
            ),
        ] {
            for error in ERRORS {
                let message = ErrorMessage::new(reporter, error, about).unwrap();
                let (packet, quoted, quote) = frame(&message);
                let ip = packet.ip().unwrap();
                assert_eq!((ip.source(), ip.destination()), (reporter, guest));
                assert_eq!(packet.payload_len, quote.len());
                let told = match packet.transport {
                    Transport::Icmp4(message) => error4(&message),
                    Transport::Icmp6(message) => error6(&message),
                    _ => None,
                };
                let expected = match error {
                    SocketError::TimedOut => SocketError::HostUnreachable,
                    error => error,
                };
                assert_eq!(told, Some(expected));
                assert_eq!((quoted.ip.source(), quoted.ip.destination()), (guest, peer));
                assert_eq!(
                    (quoted.ip.protocol(), quoted.ip.payload_len()),
                    (protocol, len)
                );
                assert_eq!(quoted.transport, transport);
                // The quoted header's own checksum is right.
                assert_eq!(IpHeader::parse(&quote).unwrap().0, quoted.ip);
            }
        }
    }
}

#[test]
fn errors_have_the_numbers_of_the_standards() {
    for (error, four, six) in [
        (SocketError::Refused, (3, 3), (1, 4)),
        (SocketError::TimedOut, (3, 1), (1, 3)),
        (SocketError::HostUnreachable, (3, 1), (1, 3)),
        (SocketError::NetUnreachable, (3, 0), (1, 0)),
        (SocketError::ProtocolUnreachable, (3, 2), (4, 1)),
        (SocketError::Prohibited, (3, 13), (1, 1)),
        (SocketError::TooBig(1400), (3, 4), (2, 0)),
        (SocketError::TimeExceeded, (11, 0), (3, 0)),
    ] {
        for ([guest, peer, reporter], expected) in addresses().zip([four, six]) {
            let about = About::udp(Endpoint::new(guest, 1), Endpoint::new(peer, 2), 0);
            let message = ErrorMessage::new(reporter, error, about).unwrap();
            let mut headers = HeaderBuf::default();
            let quote = message.quote().unwrap();
            message.compose(&ETHER, &mut headers, &quote).unwrap();
            let frame = headers.frame();
            let icmp = &frame[frame.len() - 8..];
            assert_eq!((icmp[0], icmp[1]), expected, "{error}");
            // RFC 1191, 4; RFC 4443, 3.2.
            if error == SocketError::TooBig(1400) {
                assert_eq!(icmp[4..], 1400u32.to_be_bytes());
            }
        }
    }
}

#[test]
fn some_errors_are_nobodys_business() {
    let [guest, peer, reporter] = addresses().next().unwrap();
    let from = Endpoint::new(guest, 1);
    let about = About::udp(from, Endpoint::new(peer, 2), 0);
    for error in [
        SocketError::Reset,
        SocketError::WouldBlock,
        SocketError::Exhausted,
        SocketError::InUse,
        SocketError::NoSuchAddress,
        SocketError::Unsupported,
        SocketError::Other(5),
    ] {
        assert_eq!(ErrorMessage::new(reporter, error, about), None, "{error}");
    }
    let refused = SocketError::Refused;
    for destination in ["224.0.0.1", "255.255.255.255", "2001:db8::1"] {
        let to = Endpoint::new(destination.parse::<IpAddr>().unwrap(), 2);
        let about = About::udp(from, to, 0);
        assert_eq!(ErrorMessage::new(reporter, refused, about), None);
    }
    let other = "2001:db8::1".parse().unwrap();
    assert_eq!(ErrorMessage::new(other, refused, about), None);
    for message in [
        Icmp4::EchoRequest(Echo {
            identifier: 0,
            sequence: 0,
        }),
        Icmp4::TimeExceeded { code: 1 },
        Icmp4::Unreachable { code: 5, mtu: 0 },
        Icmp4::ParameterProblem {
            code: 0,
            pointer: 0,
        },
    ] {
        assert_eq!(error4(&message), None);
    }
    for message in [
        Icmp6::EchoRequest(Echo {
            identifier: 0,
            sequence: 0,
        }),
        Icmp6::TimeExceeded { code: 1 },
        Icmp6::Unreachable { code: 2 },
        Icmp6::ParameterProblem {
            code: 0,
            pointer: 0,
        },
    ] {
        assert_eq!(error6(&message), None);
    }
}

#[test]
fn long_packets_are_quoted_with_lengths_that_fit() {
    let [guest, peer, reporter] = addresses().nth(1).unwrap();
    let (from, to) = (Endpoint::new(guest, 1), Endpoint::new(peer, 2));
    let echo = Echo {
        identifier: 1,
        sequence: 1,
    };
    for about in [
        About::udp(from, to, 70_000),
        About::echo(guest, peer, echo, 70_000),
    ] {
        let message = ErrorMessage::new(reporter, SocketError::TooBig(1280), about).unwrap();
        let (_, quoted, _) = frame(&message);
        assert_eq!(quoted.ip.payload_len(), u16::MAX);
    }
}
