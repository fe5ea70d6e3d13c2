//! The table of flows: found by their addresses in constant time, bounded in
//! all and for each guest.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;

use super::slab::{Handle, Slab};

/// An address and a port (for ICMP: the identifier of queries). Shorter than
/// [`SocketAddr`], which also holds what IPv6 keeps local to a host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The endpoint at an address and a port.
    pub fn new(address: impl Into<IpAddr>, port: u16) -> Self {
        let address = address.into();
        Self { address, port }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip(), address.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address, endpoint.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a flow is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// The protocol's number (IANA's Assigned Internet Protocol Numbers).
    pub protocol: u8,
    /// The guest's end.
    pub inner: Endpoint,
    /// The other end; `None` for a mapping that doesn't depend on it
    /// (RFC 4787, REQ-1).
    pub outer: Option<Endpoint>,
}

impl Hash for FlowKey {
    /// Hashes a packed form of the key in one go, since each packet needs it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 40];
        bytes[0] = self.protocol;
        for (at, endpoint) in [(2, Some(self.inner)), (21, self.outer)] {
            let Some(Endpoint { address, port }) = endpoint else {
                continue;
            };
            let field = &mut bytes[at..at + 19];
            field[..2].copy_from_slice(&port.to_be_bytes());
            match address {
                IpAddr::V4(address) => field[2..6].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => field[2..18].copy_from_slice(&address.octets()),
            }
            field[18] = 1;
        }
        state.write(&bytes);
    }
}

/// Whom a flow is counted to: the number of the switch port that its first
/// packet came through, which no guest can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guest(pub u32);

/// How many flows there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all guests together.
    pub total: u32,
    /// Of each guest.
    pub per_guest: u32,
}

/// Why a flow isn't admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// There is a flow under that key.
    #[error("the flow exists")]
    Exists,
    /// The table is full.
    #[error("all {0} flows of the network are in use")]
    TableFull(u32),
    /// The guest has its share.
    #[error("all {0} flows of one guest are in use")]
    GuestFull(u32),
}

/// A flow of a table. It leads to nothing once the flow has ended, also when
/// another took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId(Handle);

#[derive(Debug)]
struct Flow<T> {
    key: FlowKey,
    guest: Guest,
    value: T,
}

/// Flows with a value each.
///
/// Finding, adding and removing take constant time whatever keys a guest
/// chooses, since the hash is keyed.
#[derive(Debug)]
pub struct FlowTable<T> {
    flows: Slab<Flow<T>>,
    /// Slots in `flows`, by the hash of the flow's key.
    index: HashTable<u32>,
    hasher: RandomState,
    per_guest: HashMap<Guest, u32, RandomState>,
    limits: Limits,
}

impl<T> FlowTable<T> {
    /// The bytes that a flow takes at most.
    #[cfg(test)]
    pub(super) const COST: usize = Slab::<Flow<T>>::COST + hash_cost(size_of::<u32>());

    /// An empty table whose hash has the keys of `hasher`.
    pub fn new(limits: Limits, hasher: RandomState) -> Self {
        Self {
            flows: Slab::new(),
            index: HashTable::new(),
            per_guest: HashMap::with_hasher(hasher.clone()),
            hasher,
            limits,
        }
    }

    /// The number of flows.
    pub fn len(&self) -> usize {
        self.flows.len() as usize
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a guest's flows.
    pub fn count_of(&self, guest: Guest) -> u32 {
        self.per_guest.get(&guest).copied().unwrap_or(0)
    }

    /// Whether the guest may have one more flow: to be asked before a socket
    /// is opened for it.
    pub fn admit(&self, guest: Guest) -> Result<(), FlowError> {
        if self.flows.len() >= self.limits.total {
            return Err(FlowError::TableFull(self.limits.total));
        }
        if self.count_of(guest) >= self.limits.per_guest {
            return Err(FlowError::GuestFull(self.limits.per_guest));
        }
        Ok(())
    }

    /// Adds a flow.
    pub fn insert(&mut self, guest: Guest, key: FlowKey, value: T) -> Result<FlowId, FlowError> {
        self.admit(guest)?;
        self.insert_bounded(guest, key, value)
    }

    /// Adds a flow beyond all limits: one of a kind that is bounded elsewhere.
    pub(super) fn insert_bounded(
        &mut self,
        guest: Guest,
        key: FlowKey,
        value: T,
    ) -> Result<FlowId, FlowError> {
        let hash = self.hasher.hash_one(key);
        let Self { flows, index, .. } = self;
        let is_it = |&slot: &u32| flows.at(slot).is_some_and(|flow| flow.key == key);
        if index.find(hash, is_it).is_some() {
            return Err(FlowError::Exists);
        }
        let flow = Flow { key, guest, value };
        let handle = flows
            .insert(flow)
            .ok_or(FlowError::TableFull(self.limits.total))?;
        index.insert_unique(hash, handle.index, |&slot| {
            let flow = flows.at(slot);
            flow.map_or(0, |flow| self.hasher.hash_one(flow.key))
        });
        *self.per_guest.entry(guest).or_default() += 1;
        Ok(FlowId(handle))
    }

    /// Removes a flow.
    pub fn remove(&mut self, id: FlowId) -> Option<(FlowKey, T)> {
        let Flow { key, guest, value } = self.flows.remove(id.0)?;
        let hash = self.hasher.hash_one(key);
        if let Ok(entry) = self.index.find_entry(hash, |&slot| slot == id.0.index) {
            entry.remove();
        }
        if let Some(count) = self.per_guest.get_mut(&guest) {
            *count -= 1;
            if *count == 0 {
                self.per_guest.remove(&guest);
            }
        }
        Some((key, value))
    }

    /// The flow under a key.
    pub fn find(&self, key: &FlowKey) -> Option<FlowId> {
        let hash = self.hasher.hash_one(key);
        let is_it = |&slot: &u32| self.flows.at(slot).is_some_and(|flow| flow.key == *key);
        let slot = *self.index.find(hash, is_it)?;
        Some(FlowId(self.flows.handle(slot)))
    }

    /// A flow's value.
    pub fn get(&self, id: FlowId) -> Option<&T> {
        Some(&self.flows.get(id.0)?.value)
    }

    /// A flow's value.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut T> {
        Some(&mut self.flows.get_mut(id.0)?.value)
    }

    /// A flow's key.
    pub fn key(&self, id: FlowId) -> Option<&FlowKey> {
        Some(&self.flows.get(id.0)?.key)
    }

    /// Whom a flow is counted to.
    pub fn guest(&self, id: FlowId) -> Option<Guest> {
        Some(self.flows.get(id.0)?.guest)
    }

    /// All flows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &FlowKey, &T)> {
        let flows = self.flows.iter();
        flows.map(|(handle, flow)| (FlowId(handle), &flow.key, &flow.value))
    }

    /// A guest's flows: all of the table is looked through.
    pub fn of(&self, guest: Guest) -> impl Iterator<Item = FlowId> {
        let flows = self.flows.iter();
        let its = flows.filter(move |(_, flow)| flow.guest == guest);
        its.map(|(handle, _)| FlowId(handle))
    }
}

/// The bytes that an entry of a hash table takes at most, if it is so long: it
/// has a byte of metadata, and right after the table grew, 7 of 16 places are
/// taken.
#[cfg(test)]
pub(super) const fn hash_cost(entry: usize) -> usize {
    ((entry + 1) * 16).div_ceil(7)
}

#[cfg(test)]
mod tests;
