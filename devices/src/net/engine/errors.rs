//! ICMP errors: those that guests report, and those that they are told.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::counters::Reason;
use super::gateway::Inner;
use super::{Engine, World};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::icmp::{About, ErrorMessage, error4, error6};
use crate::net::nat::sockets::SocketError;
use crate::net::payload::Payload;
use crate::net::switch::{Limiter, Limits, PortId, Rate};
use crate::net::time::Time;
use crate::net::wire::icmp::{Icmp4, Icmp6, Quoted};
use crate::net::wire::ip::{Ip4Header, Ip6Header, IpHeader, Protocol};
use crate::net::wire::packet::Transport;
use crate::net::wire::tcp::TcpHeader;

/// As much of a quotation as is looked at: the longest IPv4 header, or that
/// of IPv6 with a few extensions, and 8 bytes.
const QUOTED: usize = 128;

/// What an error quotes behind the IP header (RFC 792).
const START: usize = 8;

/// The code of Time Exceeded for fragments (RFC 792; RFC 4443, 3.3).
const REASSEMBLY: u8 = 1;

/// The errors that the guests behind a port are told (RFC 1812, 4.3.2.8;
/// RFC 4443, 2.4 (f)): as many as Linux sends (icmp_msgs_per_sec and
/// icmp_msgs_burst).
const LIMITS: Limits = Limits {
    bytes: None,
    frames: Some(Rate {
        per_second: 1000,
        burst: 50,
    }),
};

/// The bounds on errors, port by port.
#[derive(Debug, Default)]
pub(super) struct ErrorLimits(BTreeMap<PortId, Limiter>);

impl ErrorLimits {
    /// Whether another error may go to a port, which is charged if so.
    pub(super) fn admit(&mut self, port: PortId, now: Time) -> bool {
        let limiter = self.0.entry(port).or_insert_with(|| Limiter::new(LIMITS));
        limiter.admit(now, 0)
    }

    /// Begins anew for a port that was given to another.
    pub(super) fn reset(&mut self, port: PortId) {
        self.0.remove(&port);
    }
}

impl Engine {
    /// Takes an error that a guest reports. It can be told to another guest,
    /// who sent by an outer address what it is about (RFC 5508, REQ-7); to
    /// those outside, only the host's kernel could.
    pub(super) fn error_from_guest<S>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
    ) -> Result<(), Reason> {
        let error = match inner.packet.transport {
            Transport::Icmp4(message) => error4(&message),
            Transport::Icmp6(message) => error6(&message),
            _ => None,
        };
        let mut quote = [0; QUOTED];
        let count = inner.payload().read_at(0, &mut quote);
        let quoted = Quoted::parse(&quote[..count]).map_err(|_| Reason::Icmp)?;
        // Nobody reports in the name of the receiver but itself.
        let own = quoted.ip.destination() == inner.ip.source();
        let message = error
            .filter(|_| own)
            .and_then(|error| self.udp.hairpin_error(&quoted, error))
            .ok_or(Reason::Icmp)?;
        self.lan.send_error(world.now, world.ports, &message);
        Ok(())
    }

    /// Whether a segment may go on through the gateway; if not, its sender is
    /// told (RFC 1812, 5.3.1).
    pub(super) fn check_hops<S>(
        &mut self,
        world: &mut World<'_, S>,
        inner: &Inner<'_>,
        header: &TcpHeader,
    ) -> Result<(), Reason> {
        let (source, destination) = (inner.ip.source(), inner.ip.destination());
        if inner.ip.ttl() > 1 || self.config.is_gateway(destination) {
            return Ok(());
        }
        let source = Endpoint::new(source, header.source);
        let destination = Endpoint::new(destination, header.destination);
        let about = About::tcp(source, destination, header.seq);
        let message = self
            .config
            .reach
            .gateway(source.address)
            .and_then(|gateway| ErrorMessage::new(gateway, SocketError::TimeExceeded, about));
        if let Some(message) = message {
            self.lan.send_error(world.now, world.ports, &message);
        }
        Err(Reason::HopLimit)
    }

    /// Gives up packets whose fragments didn't all come, and tells who sent
    /// their first (RFC 1122, 3.3.2; RFC 8200, 4.5).
    pub(super) fn expire_fragments<S>(&mut self, world: &mut World<'_, S>) {
        let mut late = Vec::new();
        self.fragments.expire(world.now, |_, header, payload| {
            let start: Option<[u8; START]> = payload.first_chunk().copied();
            late.extend(start.map(|start| (*header, start)));
        });
        for (header, start) in late {
            self.late(world, &header, start);
        }
    }

    fn late<S>(&mut self, world: &mut World<'_, S>, first: &IpHeader, start: [u8; START]) {
        let to = first.source();
        let gateway = self.config.reach.gateway(to);
        if self.config.is_group(first.destination()) || is_error(first, &start) {
            return;
        }
        let mut quote = [0; QUOTED];
        let Ok(len) = first.write(&mut quote) else {
            return;
        };
        quote[len..len + START].copy_from_slice(&start);
        let quote = &&quote[..len + START];
        let World { now, ports, .. } = world;
        if !self.lan.may_report(*now, *ports, to) {
            return;
        }
        let code = REASSEMBLY;
        match (gateway, to) {
            (Some(IpAddr::V4(gateway)), IpAddr::V4(guest)) => {
                let ip = Ip4Header::new(gateway, guest, Protocol::ICMP);
                let icmp = Icmp4::TimeExceeded { code };
                self.lan.send(*now, *ports, to, quote, |ether, headers| {
                    headers.icmp4(ether, &ip, &icmp, quote)
                });
            }
            (Some(IpAddr::V6(gateway)), IpAddr::V6(guest)) => {
                let ip = Ip6Header::new(gateway, guest, Protocol::ICMPV6);
                let icmp = Icmp6::TimeExceeded { code };
                self.lan.send(*now, *ports, to, quote, |ether, headers| {
                    headers.icmp6(ether, &ip, &icmp, quote)
                });
            }
            _ => {}
        }
    }
}

/// Whether a packet that begins so is an error itself, about which nobody
/// reports errors (RFC 1122, 3.2.2; RFC 4443, 2.4).
fn is_error(ip: &IpHeader, start: &[u8]) -> bool {
    match ip.protocol() {
        Protocol::ICMP => Icmp4::parse(start).is_ok_and(|icmp| icmp.is_error()),
        // Errors are the types below 128.
        Protocol::ICMPV6 => start[0] < 128,
        _ => false,
    }
}
