//! Which station is behind which port.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use super::config::PortId;
use super::counters::DropReason;
use crate::net::mac::{Mac, MacAddress};
use crate::net::time::Time;

/// How long a learned station stays known after its last frame, to within a
/// second (the default of IEEE 802.1Q, 8.8.3).
pub const AGEING_TIME: Duration = Duration::from_secs(300);

/// A station that was heard this recently isn't noted anew.
const REFRESH: Duration = Duration::from_secs(1);

/// The stations of all ports.
#[derive(Debug)]
pub(super) struct Stations {
    known: HashMap<u64, Station, AddressHash>,
    /// The learned stations behind each port, the longest unheard first.
    learned: Vec<BTreeSet<(Time, Mac)>>,
    /// The most stations learned behind one port.
    limit: usize,
}

#[derive(Clone, Copy, Debug)]
enum Station {
    /// A port's own, by its configuration.
    Own(PortId),
    Learned {
        port: PortId,
        heard: Time,
    },
}

impl Stations {
    pub(super) fn new(limit: usize, seed: [u64; 2]) -> Self {
        Self {
            known: HashMap::with_hasher(AddressHash(seed)),
            learned: vec![BTreeSet::new(); PortId::COUNT],
            limit,
        }
    }

    /// The port that `address` is behind.
    #[inline]
    pub(super) fn find(&self, address: MacAddress, now: Time) -> Option<PortId> {
        match *self.known.get(&key(address))? {
            Station::Own(port) => Some(port),
            Station::Learned { port, heard } => (!aged(heard, now)).then_some(port),
        }
    }

    /// The port that has `address` by configuration.
    pub(super) fn owner(&self, address: MacAddress) -> Option<PortId> {
        match *self.known.get(&key(address))? {
            Station::Own(port) => Some(port),
            Station::Learned { .. } => None,
        }
    }

    /// Gives a port an address of its own, wherever it was learned before.
    pub(super) fn assign(&mut self, address: MacAddress, port: PortId) {
        self.forget(address);
        self.known.insert(key(address), Station::Own(port));
    }

    /// Notes that `address` was heard behind `port`, unless it belongs to
    /// another port or the port's stations are too many.
    pub(super) fn hear(
        &mut self,
        address: MacAddress,
        port: PortId,
        now: Time,
    ) -> Result<(), DropReason> {
        match self.known.get_mut(&key(address)) {
            Some(Station::Own(owner)) if *owner == port => return Ok(()),
            Some(Station::Own(_)) => return Err(DropReason::StolenSource),
            Some(Station::Learned { port: at, heard }) if !aged(*heard, now) => {
                if *at != port {
                    return Err(DropReason::StolenSource);
                }
                if now.since(*heard) >= REFRESH {
                    let heard = std::mem::replace(heard, now);
                    let learned = &mut self.learned[port.index()];
                    learned.remove(&(heard, address.into()));
                    learned.insert((now, address.into()));
                }
                return Ok(());
            }
            Some(Station::Learned { .. }) => self.forget(address),
            None => {}
        }
        self.forget_aged(port, now);
        if self.learned[port.index()].len() >= self.limit {
            return Err(DropReason::TooManyStations);
        }
        self.learned[port.index()].insert((now, address.into()));
        let station = Station::Learned { port, heard: now };
        self.known.insert(key(address), station);
        Ok(())
    }

    /// The stations learned behind `port`.
    pub(super) fn learned(&self, port: PortId, now: Time) -> impl Iterator<Item = MacAddress> + '_ {
        self.learned[port.index()]
            .iter()
            .filter(move |(heard, _)| !aged(*heard, now))
            .filter_map(|(_, address)| address.station())
    }

    /// Forgets what was learned behind `port`.
    pub(super) fn forget_learned(&mut self, port: PortId) {
        for (_, address) in std::mem::take(&mut self.learned[port.index()]) {
            self.known.remove(&octets(address));
        }
    }

    /// Forgets the port with all its stations, of which `own` are its own.
    pub(super) fn remove_port(&mut self, port: PortId, own: &[MacAddress]) {
        self.forget_learned(port);
        for &address in own {
            self.known.remove(&key(address));
        }
    }

    fn forget_aged(&mut self, port: PortId, now: Time) {
        let learned = &mut self.learned[port.index()];
        while let Some(&(heard, address)) = learned.first()
            && aged(heard, now)
        {
            learned.pop_first();
            self.known.remove(&octets(address));
        }
    }

    fn forget(&mut self, address: MacAddress) {
        if let Some(Station::Learned { port, heard }) = self.known.remove(&key(address)) {
            self.learned[port.index()].remove(&(heard, address.into()));
        }
    }
}

fn aged(heard: Time, now: Time) -> bool {
    now.since(heard) >= AGEING_TIME
}

fn key(address: MacAddress) -> u64 {
    octets(address.into())
}

fn octets(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Hashes one u64 by a multiplication with its halves folded, keyed so that
/// nobody outside can choose addresses that collide.
#[derive(Clone, Copy, Debug)]
struct AddressHash([u64; 2]);

impl BuildHasher for AddressHash {
    type Hasher = AddressHasher;

    fn build_hasher(&self) -> AddressHasher {
        AddressHasher {
            keys: self.0,
            state: 0,
        }
    }
}

struct AddressHasher {
    keys: [u64; 2],
    state: u64,
}

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        let [first, second] = self.keys;
        let mixed = self.state ^ value ^ first;
        let product = u128::from(mixed) * u128::from(second | 1);
        let [a, b, c, d, e, f, g, h, low @ ..] = product.to_be_bytes();
        self.state = u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ u64::from_be_bytes(low);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}
