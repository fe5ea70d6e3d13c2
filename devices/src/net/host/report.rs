//! Errors that the network sent back about datagrams (IP_RECVERR, ip(7);
//! IPV6_RECVERR, ipv6(7)).

use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::errors::meaning;
use super::message::{Control, Name, receive_message};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::sockets::SocketError;

/// More than what errors quote: 576 bytes with all headers (RFC 1812,
/// 4.3.2.3), or the least MTU of IPv6 (RFC 4443, 2.4).
const MAX_QUOTE: usize = 1280;
/// What a report keeps of that.
const KEPT: usize = 64;

/// An error about a datagram that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketReport {
    /// Where it was sent; of echoes, the port is 0.
    pub to: Endpoint,
    /// What is wrong.
    pub error: SocketError,
    /// Who said so, if it wasn't the host itself.
    pub reporter: Option<IpAddr>,
    /// The bytes of the payload, or of the echo from its ICMP header on, that
    /// the error quotes: all if it was short. None if the host itself says so.
    pub payload_len: usize,
    start: [u8; KEPT],
}

impl SocketReport {
    /// The start of what the error quotes.
    pub fn quote(&self) -> &[u8] {
        &self.start[..self.payload_len.min(KEPT)]
    }

    /// The next one in a socket's queue.
    pub(super) fn take(socket: &impl AsFd) -> Result<Self, Errno> {
        let (mut name, mut control) = (Name::new(), Control::new());
        let mut quote = [0; MAX_QUOTE];
        let payload_len = receive_message(
            socket,
            &mut name,
            &mut control,
            &mut quote,
            libc::MSG_ERRQUEUE,
        )?;
        let mut start = [0; KEPT];
        start.copy_from_slice(&quote[..KEPT]);
        let v4 = control.find(libc::IPPROTO_IP, libc::IP_RECVERR);
        let error = v4.or_else(|| control.find(libc::IPPROTO_IPV6, libc::IPV6_RECVERR));
        let (error, reporter) = error.and_then(parse).ok_or(Errno::BADMSG)?;
        Ok(Self {
            to: name.endpoint().ok_or(Errno::BADMSG)?,
            error,
            reporter,
            payload_len,
            start,
        })
    }
}

/// A struct sock_extended_err, and the address of who said so behind it.
fn parse(item: &[u8]) -> Option<(SocketError, Option<IpAddr>)> {
    let (numbers, offender) = item.split_first_chunk::<16>()?;
    let [a, b, c, d, origin, kind, code, _, e, f, g, h, ..] = *numbers;
    let number = i32::from_ne_bytes([a, b, c, d]);
    let info = u32::from_ne_bytes([e, f, g, h]);
    let error = match (origin, kind, code) {
        // The kernel calls these EHOSTUNREACH and ENETUNREACH: time exceeded,
        // and what RFC 1812, 5.2.7.1 says of prohibited destinations.
        (libc::SO_EE_ORIGIN_ICMP, 11, _) | (libc::SO_EE_ORIGIN_ICMP6, 3, _) => {
            SocketError::TimeExceeded
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, 9 | 10 | 13) => SocketError::Prohibited,
        _ => match meaning(Errno::from_raw_os_error(number)) {
            SocketError::TooBig(_) => SocketError::TooBig(info),
            error => error,
        },
    };
    let reporter = Name::parse(offender).map(|offender| offender.address);
    Some((error, reporter))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn item(number: i32, [origin, kind, code]: [u8; 3], info: u32, offender: &[u8]) -> Vec<u8> {
        let mut item = number.to_ne_bytes().to_vec();
        item.extend([origin, kind, code, 0]);
        item.extend(info.to_ne_bytes());
        item.extend([0; 4]);
        item.extend(offender);
        item
    }

    #[test]
    fn errors_mean_what_routers_said() {
        const LOCAL: u8 = libc::SO_EE_ORIGIN_LOCAL;
        for (number, from, info, expected) in [
            (libc::ECONNREFUSED, [2, 3, 3], 0, SocketError::Refused),
            (libc::EHOSTUNREACH, [2, 11, 0], 0, SocketError::TimeExceeded),
            (libc::EHOSTUNREACH, [3, 3, 0], 0, SocketError::TimeExceeded),
            (libc::EHOSTUNREACH, [2, 3, 13], 0, SocketError::Prohibited),
            (
                libc::EHOSTUNREACH,
                [2, 3, 1],
                0,
                SocketError::HostUnreachable,
            ),
            (libc::EMSGSIZE, [2, 3, 4], 1400, SocketError::TooBig(1400)),
            (libc::EMSGSIZE, [3, 2, 0], 1280, SocketError::TooBig(1280)),
            (
                libc::EMSGSIZE,
                [LOCAL, 0, 0],
                1500,
                SocketError::TooBig(1500),
            ),
            (libc::EPROTO, [3, 4, 1], 0, SocketError::ProtocolUnreachable),
        ] {
            let item = item(number, from, info, &[0; 16]);
            assert_eq!(parse(&item), Some((expected, None)), "{from:?}");
        }
    }

    #[test]
    fn the_reporter_is_named() {
        let mut offender = [0; 16];
        offender[..2].copy_from_slice(&u16::to_ne_bytes(2));
        offender[4..8].copy_from_slice(&[192, 0, 2, 1]);
        let item = item(libc::ECONNREFUSED, [2, 3, 3], 0, &offender);
        let reporter = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(parse(&item), Some((SocketError::Refused, Some(reporter))));
        assert_eq!(parse(&item[..15]), None);
    }
}
