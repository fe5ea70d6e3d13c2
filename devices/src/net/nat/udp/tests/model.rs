//! The translation against a model that is plain but slow.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const INNERS: [&str; 5] = [
    "192.168.100.10:4000",
    "192.168.100.10:4001",
    "192.168.100.11:4000",
    "10.5.0.3:4000",
    "192.168.100.12:53",
];
const OUTERS: [&str; 4] = [
    "198.51.100.7:53",
    "198.51.100.7:54",
    "203.0.113.9:53",
    "203.0.113.200:4000",
];

#[derive(Clone, Debug)]
enum Operation {
    Send(Index, Index),
    Receive(Index, Index),
    Map(Index),
    Unmap(Index),
    Leave(Index),
    Pass(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let pair = || (any::<Index>(), any::<Index>());
    prop_oneof![
        6 => pair().prop_map(|(inner, outer)| Operation::Send(inner, outer)),
        6 => pair().prop_map(|(socket, outer)| Operation::Receive(socket, outer)),
        1 => any::<Index>().prop_map(Operation::Map),
        1 => any::<Index>().prop_map(Operation::Unmap),
        1 => any::<Index>().prop_map(Operation::Leave),
        3 => (0u64..200).prop_map(Operation::Pass),
    ]
}

/// A flow of the model: whom it is counted to, and when it was last used.
#[derive(Clone, Copy, Debug)]
struct Use {
    socket: SocketId,
    guest: Guest,
    last: Time,
}

#[derive(Debug, Default)]
struct Model {
    /// The sockets of inner endpoints that have no static mapping as theirs.
    bindings: BTreeMap<Endpoint, Use>,
    /// The static mappings that are their inner endpoints' own sockets.
    primary: BTreeMap<Endpoint, SocketId>,
    /// All static mappings.
    mapped: BTreeMap<SocketId, Endpoint>,
    routes: BTreeMap<(Endpoint, Endpoint), Use>,
}

impl Model {
    fn inner(&self, socket: SocketId) -> Option<Endpoint> {
        let bound = self.bindings.iter().find(|(_, at)| at.socket == socket);
        let bound = bound.map(|(inner, _)| *inner);
        bound.or_else(|| self.mapped.get(&socket).copied())
    }

    /// The socket that a packet leaves by; none if it is to be opened.
    fn leaves_by(&self, inner: Endpoint, outer: Endpoint) -> Option<SocketId> {
        let route = self.routes.get(&(inner, outer)).map(|at| at.socket);
        let own = self.bindings.get(&inner).map(|at| at.socket);
        route.or(own).or_else(|| self.primary.get(&inner).copied())
    }

    fn expire(&mut self, now: Time) {
        self.bindings.retain(|_, at| at.last + IDLE > now);
        self.routes.retain(|_, at| at.last + IDLE > now);
    }

    fn len(&self) -> usize {
        self.bindings.len() + self.primary.len() + self.routes.len()
    }
}

struct Pair {
    bench: Bench,
    model: Model,
    strict: bool,
}

impl Pair {
    fn send(&mut self, inner: usize, outer: usize) -> Result<(), TestCaseError> {
        let guest = Guest(u32::try_from(inner).unwrap() % 2);
        let (from, to) = (at(INNERS[inner]), at(OUTERS[outer]));
        let expected = self.model.leaves_by(from, to);
        let before: Vec<_> = self.bench.host.open_sockets().collect();
        let datagram = datagram(INNERS[inner], OUTERS[outer]);
        let sent = self.bench.send_as(guest, &datagram, b"x");
        prop_assert_eq!(sent, Outcome::Sent);
        prop_assert_eq!(self.bench.host.last().to, to);
        let socket = self.bench.host.last().socket;
        prop_assert_eq!(expected.is_none(), !before.contains(&socket));
        prop_assert_eq!(expected.unwrap_or(socket), socket);
        let last = self.bench.now;
        let new = Use {
            socket,
            guest,
            last,
        };
        if expected.is_none() {
            self.model.bindings.insert(from, new);
        }
        if let Some(at) = self.model.bindings.get_mut(&from) {
            at.last = last;
        }
        match self.model.routes.get_mut(&(from, to)) {
            Some(at) => at.last = last,
            None if self.strict => {
                self.model.routes.insert((from, to), new);
            }
            None => {}
        }
        Ok(())
    }

    fn receive(&mut self, socket: SocketId, outer: usize) -> Result<(), TestCaseError> {
        let got = self.bench.receive(socket, OUTERS[outer]);
        let Some(inner) = self.model.inner(socket) else {
            prop_assert_eq!(got, Err(DropReason::NoFlow));
            return Ok(());
        };
        let flow = (inner, at(OUTERS[outer]));
        let route = self.model.routes.get(&flow).copied();
        if self.model.mapped.contains_key(&socket) {
            let primary = self.model.primary.get(&inner) == Some(&socket);
            if !primary || route.is_some() {
                let back = Use {
                    socket,
                    guest: route.map_or(OUTSIDE, |at| at.guest),
                    last: self.bench.now,
                };
                self.model.routes.insert(flow, back);
            }
        } else if self.strict && route.is_none() {
            prop_assert_eq!(got, Err(DropReason::Filtered));
            return Ok(());
        }
        let expected = Delivery {
            source: flow.1,
            destination: inner,
            segment: None,
        };
        prop_assert_eq!(got, Ok(expected));
        Ok(())
    }

    fn map(&mut self, inner: Endpoint) {
        let host = &mut self.bench.host;
        let (socket, _) = self.bench.udp.map(at("0.0.0.0:0"), inner, host).unwrap();
        self.model.mapped.insert(socket, inner);
        if !self.model.bindings.contains_key(&inner) {
            self.model.primary.entry(inner).or_insert(socket);
        }
    }

    fn unmap(&mut self, socket: SocketId) -> Result<(), TestCaseError> {
        let ended = self.bench.udp.unmap(socket, &mut self.bench.host);
        prop_assert_eq!(ended, self.model.mapped.remove(&socket).is_some());
        if ended {
            self.model.primary.retain(|_, own| *own != socket);
            self.model.routes.retain(|_, at| at.socket != socket);
        }
        Ok(())
    }

    fn leave(&mut self, guest: Guest) {
        self.bench.udp.remove_guest(guest, &mut self.bench.host);
        self.model.bindings.retain(|_, at| at.guest != guest);
        self.model.routes.retain(|_, at| at.guest != guest);
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let model = &self.model;
        prop_assert_eq!(self.bench.udp.len(), model.len());
        let open: Vec<_> = self.bench.host.open_sockets().collect();
        prop_assert_eq!(open.len(), model.bindings.len() + model.mapped.len());
        let ports = open.iter().map(|id| self.bench.host.local(*id).port);
        prop_assert_eq!(ports.collect::<HashSet<_>>().len(), open.len());
        Ok(())
    }
}

fn socket(index: &Index) -> SocketId {
    SocketId(u32::try_from(index.index(8)).unwrap())
}

proptest! {
    #[test]
    fn flows_are_as_modelled(
        strict: bool,
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let filtering = if strict {
            Filtering::AddressAndPortDependent
        } else {
            Filtering::EndpointIndependent
        };
        let mut pair = Pair { bench: Bench::new(filtering), model: Model::default(), strict };
        for operation in operations {
            match operation {
                Operation::Send(inner, outer) => {
                    pair.send(inner.index(INNERS.len()), outer.index(OUTERS.len()))?;
                }
                Operation::Receive(from, outer) => {
                    pair.receive(socket(&from), outer.index(OUTERS.len()))?;
                }
                Operation::Map(inner) => pair.map(at(INNERS[inner.index(INNERS.len())])),
                Operation::Unmap(which) => pair.unmap(socket(&which))?,
                Operation::Leave(guest) => {
                    pair.leave(Guest(u32::try_from(guest.index(2)).unwrap()));
                }
                Operation::Pass(seconds) => {
                    pair.bench.pass(seconds);
                    pair.model.expire(pair.bench.now);
                }
            }
            pair.check()?;
        }
        for socket in pair.model.mapped.clone().into_keys() {
            pair.unmap(socket)?;
        }
        pair.bench.ends();
    }
}
