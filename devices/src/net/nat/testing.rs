//! The host's sockets, and what they were asked for.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flows::Endpoint;
use super::reach::Reach;
use super::sockets::{Family, SendOptions, SocketError, SocketId, SocketKind, Sockets};
use crate::net::payload::Payload;

/// What a socket sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) socket: SocketId,
    pub(crate) to: Endpoint,
    pub(crate) payload: Vec<u8>,
    pub(crate) options: SendOptions,
}

/// Sockets that send nothing but write it down.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// The open ones, and where they are bound.
    sockets: Vec<Option<(SocketKind, Endpoint)>>,
    /// How many may be open.
    pub(crate) limit: usize,
    /// What the host gives when the port that is wanted isn't free.
    pub(crate) next_port: u16,
    pub(crate) sent: Vec<Sent>,
    /// What the next calls to send say; nothing is sent where that is an
    /// error. Without, all goes well.
    pub(crate) answers: VecDeque<Result<(), SocketError>>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            sockets: Vec::new(),
            limit: usize::MAX,
            next_port: 32768,
            sent: Vec::new(),
            answers: VecDeque::new(),
        }
    }

    /// The open sockets.
    pub(crate) fn open_sockets(&self) -> impl Iterator<Item = SocketId> {
        let slots = (0..).zip(&self.sockets);
        slots.filter_map(|(id, slot)| slot.is_some().then_some(SocketId(id)))
    }

    /// Where an open socket is bound.
    pub(crate) fn local(&self, socket: SocketId) -> Endpoint {
        self.sockets[socket.0 as usize].unwrap().1
    }

    /// What was sent last.
    pub(crate) fn last(&self) -> &Sent {
        self.sent.last().unwrap()
    }

    fn is_free(&self, kind: SocketKind, at: Endpoint) -> bool {
        !self.sockets.iter().flatten().any(|(other, local)| {
            let (a, b) = (local.address, at.address);
            let same = a == b || a.is_unspecified() || b.is_unspecified();
            *other == kind && local.port == at.port && same
        })
    }
}

impl Sockets for Recorder {
    fn open(&mut self, kind: SocketKind, want_port: u16) -> Result<(SocketId, u16), SocketError> {
        let address: IpAddr = match kind {
            SocketKind::Udp(Family::V4) | SocketKind::Echo(Family::V4) => {
                Ipv4Addr::UNSPECIFIED.into()
            }
            SocketKind::Udp(Family::V6) | SocketKind::Echo(Family::V6) => {
                Ipv6Addr::UNSPECIFIED.into()
            }
        };
        let wanted = Endpoint::new(address, want_port);
        let free = self.is_free(kind, wanted);
        self.bind(
            kind,
            if free {
                wanted
            } else {
                Endpoint::new(address, 0)
            },
        )
    }

    fn bind(
        &mut self,
        kind: SocketKind,
        mut local: Endpoint,
    ) -> Result<(SocketId, u16), SocketError> {
        if self.open_sockets().count() == self.limit {
            return Err(SocketError::Exhausted);
        }
        if local.port == 0 {
            while !self.is_free(kind, Endpoint::new(local.address, self.next_port)) {
                self.next_port += 1;
            }
            local.port = self.next_port;
        }
        if !self.is_free(kind, local) {
            return Err(SocketError::InUse);
        }
        let slot = self.sockets.iter().position(Option::is_none);
        let slot = slot.unwrap_or_else(|| {
            self.sockets.push(None);
            self.sockets.len() - 1
        });
        self.sockets[slot] = Some((kind, local));
        Ok((SocketId(u32::try_from(slot).unwrap()), local.port))
    }

    fn send_to(
        &mut self,
        socket: SocketId,
        to: Endpoint,
        payload: &dyn Payload,
        options: SendOptions,
    ) -> Result<(), SocketError> {
        assert!(self.sockets[socket.0 as usize].is_some(), "{socket:?}");
        self.answers.pop_front().unwrap_or(Ok(()))?;
        let mut bytes = vec![0; payload.len()];
        assert_eq!(payload.read_at(0, &mut bytes), bytes.len());
        self.sent.push(Sent {
            socket,
            to,
            payload: bytes,
            options,
        });
        Ok(())
    }

    fn close(&mut self, socket: SocketId) {
        let closed = self.sockets[socket.0 as usize].take();
        assert!(closed.is_some(), "{socket:?} is closed twice");
    }
}

/// A network whose gateway is 192.168.100.1 and fd00::1, on a host with
/// 192.0.2.1 and 2001:db8::1.
pub(crate) fn reach() -> Reach {
    Reach {
        resolver: None,
        gateway4: Some(Ipv4Addr::new(192, 168, 100, 1)),
        gateway6: "fd00::1".parse().ok(),
        host_loopback: false,
        host: vec![
            Ipv4Addr::new(192, 0, 2, 1).into(),
            "2001:db8::1".parse().unwrap(),
        ],
    }
}

/// An endpoint as it is written.
pub(crate) fn at(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().unwrap().into()
}
