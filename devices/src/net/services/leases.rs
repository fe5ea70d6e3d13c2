//! Which client holds which address, for DHCP of both families.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;

use super::PortNumber;
use crate::net::mac::MacAddress;
use crate::net::prefix::Address;
use crate::net::time::Time;

/// How many leases a server keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub total: usize,
    /// Of clients behind one port.
    pub per_port: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: 4096,
            per_port: 256,
        }
    }
}

impl Limits {
    /// The limits for this pool: whatever one port takes, a quarter of the
    /// pool is left to others.
    pub(super) fn sharing<A: Address>(self, pool: &RangeInclusive<A>) -> Self {
        let last = pool.end().number().saturating_sub(pool.start().number());
        let size = last.saturating_add(1);
        let share = usize::try_from(size - size / 4).unwrap_or(usize::MAX);
        Self {
            per_port: self.per_port.min(share),
            ..self
        }
    }
}

/// What a lease is now. Each state but `Free` ends when the lease expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Held for a client that may take it.
    Offered,
    /// The client's.
    Bound,
    /// Given back; remembered for the client while nobody else needs it.
    Free,
    /// Found in use by a stranger, so that nobody gets it for a while.
    Declined,
}

/// An address and its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease<K> {
    /// The name that the client gives itself in the protocol.
    pub client: K,
    /// Its hardware address.
    pub mac: MacAddress,
    /// The port it is behind; `None` once that port is gone.
    pub port: Option<PortNumber>,
    /// Its host name, one label in lower case.
    pub name: Option<String>,
    /// What the lease is.
    pub state: State,
    /// When the state ends.
    pub expires: Time,
}

/// Who asks for an address.
#[derive(Clone, Debug)]
pub(super) struct Asker<K> {
    pub(super) port: PortNumber,
    pub(super) mac: MacAddress,
    pub(super) client: K,
}

/// The leases of one pool.
///
/// A client is known by its port and its name, so that no port can take over
/// the lease of another by using its name. An expired lease is remembered
/// until its room or its address is needed.
pub(super) struct Leases<A, K> {
    pool: RangeInclusive<A>,
    /// Addresses of the pool that no lease ever gets unless it is reserved.
    excluded: BTreeSet<A>,
    reservations: HashMap<MacAddress, A>,
    limits: Limits,
    leases: BTreeMap<A, Lease<K>>,
    /// The clients' leases, without those declined.
    clients: BTreeMap<(Option<PortNumber>, K), A>,
    /// All leases, the first to expire first; and the same port by port.
    ages: BTreeSet<(Time, A)>,
    port_ages: BTreeSet<(Option<PortNumber>, Time, A)>,
    /// The pool's first address that was never leased, if any is left.
    fresh: Option<A>,
    /// The addresses before it that have no lease.
    returned: BTreeSet<A>,
}

impl<A: Address, K: Clone + Ord> Leases<A, K> {
    /// Leases of `pool`, of which `excluded` are somebody's already and the
    /// values of `reservations` their keys'.
    pub(super) fn new(
        pool: RangeInclusive<A>,
        excluded: impl IntoIterator<Item = A>,
        reservations: HashMap<MacAddress, A>,
        limits: Limits,
    ) -> Self {
        let mut excluded: BTreeSet<A> = excluded.into_iter().collect();
        excluded.extend(reservations.values());
        let fresh = (!pool.is_empty()).then_some(*pool.start());
        Self {
            pool,
            excluded,
            reservations,
            limits,
            leases: BTreeMap::new(),
            clients: BTreeMap::new(),
            ages: BTreeSet::new(),
            port_ages: BTreeSet::new(),
            fresh,
            returned: BTreeSet::new(),
        }
    }

    /// All leases, expired ones that are still remembered among them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (A, &Lease<K>)> {
        self.leases.iter().map(|(&address, lease)| (address, lease))
    }

    /// The lease of `address`.
    pub(super) fn get(&self, address: A) -> Option<&Lease<K>> {
        self.leases.get(&address)
    }

    /// The address that `asker` has or had, behind its port or one that is
    /// gone.
    pub(super) fn address_of(&self, asker: &Asker<K>) -> Option<A> {
        self.of_port(Some(asker.port), asker)
            .or_else(|| self.of_port(None, asker))
    }

    /// The address that `asker` holds at `now`, offered or bound.
    pub(super) fn held_by(&self, now: Time, asker: &Asker<K>) -> Option<A> {
        let address = self.of_port(Some(asker.port), asker)?;
        let lease = self.leases.get(&address)?;
        let held = matches!(lease.state, State::Offered | State::Bound) && lease.expires > now;
        held.then_some(address)
    }

    fn of_port(&self, port: Option<PortNumber>, asker: &Asker<K>) -> Option<A> {
        self.clients.get(&(port, asker.client.clone())).copied()
    }

    /// Finds an address for `asker` in the order of RFC 2131, 4.3.1, and
    /// holds it until `until` if it isn't the asker's already: the reserved
    /// one, the present or previous one, the wanted one, any. `None` if there
    /// is no room, in the pool or for the port.
    pub(super) fn acquire(
        &mut self,
        now: Time,
        until: Time,
        asker: &Asker<K>,
        wanted: Option<A>,
    ) -> Option<A> {
        match self.reserved_for(now, asker.mac) {
            Some(reserved) => Some(self.hold(now, until, asker, reserved)),
            None => self.acquire_any(now, until, asker, wanted),
        }
    }

    /// The same without regard to reservations.
    pub(super) fn acquire_any(
        &mut self,
        now: Time,
        until: Time,
        asker: &Asker<K>,
        wanted: Option<A>,
    ) -> Option<A> {
        let address = self.dynamic(now, asker, wanted)?;
        Some(self.hold(now, until, asker, address))
    }

    fn hold(&mut self, now: Time, until: Time, asker: &Asker<K>, address: A) -> A {
        if self.held_by(now, asker) != Some(address) {
            let lease = Lease {
                client: asker.client.clone(),
                mac: asker.mac,
                port: Some(asker.port),
                name: None,
                state: State::Offered,
                expires: until,
            };
            self.put(address, lease);
        }
        address
    }

    /// Makes `address` its client's until `until`; returns the client's name.
    /// One that extends its lease need not say again what it is called.
    pub(super) fn bind(&mut self, address: A, until: Time, name: Option<String>) -> Option<String> {
        self.change(address, |lease| {
            lease.state = State::Bound;
            lease.expires = until;
            lease.name = name.or(lease.name.take());
        });
        self.get(address)?.name.clone()
    }

    /// Takes `address` back.
    pub(super) fn release(&mut self, now: Time, address: A) {
        self.change(address, |lease| {
            lease.state = State::Free;
            lease.expires = now;
            lease.name = None;
        });
    }

    /// Keeps `address` from everybody until `until`. It still counts as its
    /// port's, so that a client can't decline a whole pool.
    pub(super) fn decline(&mut self, address: A, until: Time) {
        self.change(address, |lease| {
            lease.state = State::Declined;
            lease.expires = until;
            lease.name = None;
        });
    }

    /// Keeps the leases behind `port` for clients that come back behind
    /// another: the port is gone.
    pub(super) fn forget_port(&mut self, port: PortNumber) {
        let first = (Some(port), Time::ZERO, self.pool_floor());
        let addresses: Vec<A> = self
            .port_ages
            .range(first..)
            .take_while(|(of, ..)| *of == Some(port))
            .map(|&(.., address)| address)
            .collect();
        for address in addresses {
            self.change(address, |lease| lease.port = None);
        }
    }

    fn pool_floor(&self) -> A {
        A::from_number(0)
    }

    /// The address reserved for `mac`, unless it is declined.
    fn reserved_for(&self, now: Time, mac: MacAddress) -> Option<A> {
        let address = *self.reservations.get(&mac)?;
        let declined = self
            .leases
            .get(&address)
            .is_some_and(|lease| lease.state == State::Declined && lease.expires > now);
        (!declined).then_some(address)
    }

    fn dynamic(&mut self, now: Time, asker: &Asker<K>, wanted: Option<A>) -> Option<A> {
        if let Some(address) = self.address_of(asker)
            && !self.excluded.contains(&address)
        {
            let stayed = self.leases.get(&address)?.port == Some(asker.port);
            // Making room may take this very lease.
            if stayed || self.make_room(now, asker.port) && self.leases.contains_key(&address) {
                return Some(address);
            }
        }
        if !self.make_room(now, asker.port) {
            return None;
        }
        if let Some(address) = wanted.filter(|&address| self.is_available(now, address)) {
            return Some(address);
        }
        self.unused()
            .or_else(|| self.evict_oldest(now).then(|| self.unused()).flatten())
    }

    fn is_available(&self, now: Time, address: A) -> bool {
        self.pool.contains(&address)
            && !self.excluded.contains(&address)
            && self
                .leases
                .get(&address)
                .is_none_or(|lease| lease.expires <= now)
    }

    /// Whether the port may have one more lease, after forgetting expired
    /// ones if need be.
    fn make_room(&mut self, now: Time, port: PortNumber) -> bool {
        let floor = self.pool_floor();
        let mut of_port = self
            .port_ages
            .range((Some(port), Time::ZERO, floor)..)
            .take_while(|(of, ..)| *of == Some(port));
        let oldest = of_port.next().copied();
        if let Some((_, expires, address)) = oldest
            && of_port.count() + 1 >= self.limits.per_port
        {
            if expires > now {
                return false;
            }
            self.remove(address);
        }
        self.leases.len() < self.limits.total || self.evict_oldest(now)
    }

    /// Forgets the lease that expired first, if any has.
    fn evict_oldest(&mut self, now: Time) -> bool {
        match self.ages.first() {
            Some(&(expires, address)) if expires <= now => {
                self.remove(address);
                true
            }
            _ => false,
        }
    }

    /// An address of the pool without a lease.
    fn unused(&mut self) -> Option<A> {
        if let Some(&address) = self.returned.first() {
            return Some(address);
        }
        while let Some(address) = self.fresh {
            if !self.excluded.contains(&address) && !self.leases.contains_key(&address) {
                return Some(address);
            }
            self.pass(address);
        }
        None
    }

    /// Moves `fresh` behind `address`.
    fn pass(&mut self, address: A) {
        self.fresh = (address < *self.pool.end()).then(|| A::from_number(address.number() + 1));
    }

    /// Enters a lease in place of those of its address and of its client.
    fn put(&mut self, address: A, lease: Lease<K>) {
        self.remove(address);
        // A declined lease is no longer its client's.
        if lease.state != State::Declined {
            let key = (lease.port, lease.client.clone());
            if let Some(former) = self.clients.insert(key, address) {
                self.remove(former);
            }
        }
        if self.fresh == Some(address) {
            self.pass(address);
        }
        self.returned.remove(&address);
        self.ages.insert((lease.expires, address));
        self.port_ages.insert((lease.port, lease.expires, address));
        self.leases.insert(address, lease);
    }

    fn remove(&mut self, address: A) -> Option<Lease<K>> {
        let lease = self.leases.remove(&address)?;
        self.ages.remove(&(lease.expires, address));
        self.port_ages.remove(&(lease.port, lease.expires, address));
        let key = (lease.port, lease.client.clone());
        if self.clients.get(&key) == Some(&address) {
            self.clients.remove(&key);
        }
        let passed = self.fresh.is_none_or(|fresh| address < fresh);
        if passed && self.pool.contains(&address) && !self.excluded.contains(&address) {
            self.returned.insert(address);
        }
        Some(lease)
    }

    fn change(&mut self, address: A, change: impl FnOnce(&mut Lease<K>)) {
        if let Some(mut lease) = self.remove(address) {
            change(&mut lease);
            self.put(address, lease);
        }
    }
}

#[cfg(test)]
mod tests;
