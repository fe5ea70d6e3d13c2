//! Which station has which address on the inner network, for ARP and NDP.
//!
//! The states are those of RFC 4861, 7.3.2, in short: an address is being
//! asked for, reachable, or stale; a stale one is still used, and asked after
//! as soon as it is. What waits for an answer waits with the caller.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::PortNumber;
use super::leases::Limits;
use crate::net::mac::MacAddress;
use crate::net::time::Time;

/// How long a neighbour counts as reachable (RFC 4861, 10: REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);

/// The time between questions (RETRANS_TIMER).
const RETRY: Duration = Duration::from_secs(1);

/// The questions before a neighbour is given up (MAX_MULTICAST_SOLICIT,
/// MAX_UNICAST_SOLICIT).
const TRIES: u8 = 3;

/// The most addresses that are asked for at once without knowing a station.
const MAX_UNKNOWN: usize = 256;

/// Signs of life closer together than this count as one.
const GRAIN: Duration = Duration::from_secs(1);

/// A place to send frames to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its hardware address.
    pub mac: MacAddress,
    /// The port it is behind.
    pub port: PortNumber,
}

/// What to do with a packet for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send it to this station.
    Send(Station),
    /// Send it to this station, and ask the station whether it is still
    /// there.
    SendAndAsk(Station),
    /// Keep it, and ask all stations for the address.
    Ask,
    /// Keep it: the question is on its way.
    Wait,
    /// Drop it: too many addresses are being asked for.
    Refuse,
}

/// What became of news about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The station is known; what waited for it can go.
    Resolved,
    /// Nothing that wasn't known.
    Unchanged,
    /// The station has taken the place of another behind the same port.
    Moved,
    /// The station behind another port holds the address, and is asked
    /// whether it still does: send this question.
    Contested(Station),
    /// Not entered: somebody else holds the address, or there is no room.
    Refused,
}

/// How the news came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The answer to a question of ours.
    Answer,
    /// A message to us that names its sender, or an announcement to all that
    /// replaces what was known.
    Claim,
    /// A hint that gives way to what is known (an advertisement without the
    /// override flag, RFC 4861, 7.2.5).
    Hint,
}

/// What a passed deadline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout<A> {
    /// Ask again: the station, if one is known, else all.
    Ask(A, Option<Station>),
    /// Nobody has the address: drop what waits for it.
    Lost(A),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    station: Option<Station>,
    /// The last sign of life.
    confirmed: Time,
    /// When to ask again, and how often it was asked.
    asking: Option<(Time, u8)>,
}

/// The table of neighbours of one family of addresses.
pub struct Neighbours<A> {
    limits: Limits,
    entries: HashMap<A, Entry>,
    /// The known stations' entries, port by port, the longest silent first.
    by_port: BTreeMap<PortNumber, BTreeSet<(Time, A)>>,
    /// The number of entries with a known station.
    known: usize,
    deadlines: BTreeSet<(Time, A)>,
}

impl<A: Copy + Ord + Hash> Neighbours<A> {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            by_port: BTreeMap::new(),
            known: 0,
            deadlines: BTreeSet::new(),
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where a packet for `address` goes.
    pub fn next(&mut self, now: Time, address: A) -> Next {
        let Some(&entry) = self.entries.get(&address) else {
            if self.entries.len() - self.known >= MAX_UNKNOWN {
                return Next::Refuse;
            }
            self.put(
                address,
                Entry {
                    station: None,
                    confirmed: now,
                    asking: Some((now + RETRY, 1)),
                },
            );
            return Next::Ask;
        };
        let Some(station) = entry.station else {
            return Next::Wait;
        };
        if entry.asking.is_some() || now.since(entry.confirmed) < REACHABLE {
            return Next::Send(station);
        }
        self.ask(now, address, entry);
        Next::SendAndAsk(station)
    }

    /// Notes a packet from `address`: its station is there. False says that
    /// the address is known to be behind another port.
    pub fn heard(&mut self, now: Time, address: A, station: Station) -> bool {
        let Some(&entry) = self.entries.get(&address) else {
            return true;
        };
        let Some(known) = entry.station else {
            return true;
        };
        let unsure = now.since(entry.confirmed) >= GRAIN || entry.asking.is_some();
        if known == station && unsure {
            self.confirm(now, address, station);
        }
        known.port == station.port
    }

    /// Takes the news that `station` has `address`.
    ///
    /// An address that is known behind one port goes to another only once
    /// its station doesn't answer any more: a guest can't take the address
    /// of another by saying so.
    pub fn learn(
        &mut self,
        now: Time,
        address: A,
        station: Station,
        evidence: Evidence,
    ) -> Learned {
        let Some(&entry) = self.entries.get(&address) else {
            // An answer that nobody asked for tells nothing (RFC 4861, 7.2.5).
            if evidence != Evidence::Claim || !self.make_room(station.port) {
                return Learned::Refused;
            }
            self.confirm(now, address, station);
            return Learned::Resolved;
        };
        let Some(known) = entry.station else {
            if !self.make_room(station.port) {
                return Learned::Refused;
            }
            self.confirm(now, address, station);
            return Learned::Resolved;
        };
        if known == station {
            self.confirm(now, address, station);
            return Learned::Unchanged;
        }
        if known.port == station.port && evidence != Evidence::Hint {
            self.confirm(now, address, station);
            return Learned::Moved;
        }
        if entry.asking.is_some() || now.since(entry.confirmed) < REACHABLE {
            return Learned::Refused;
        }
        self.ask(now, address, entry);
        Learned::Contested(known)
    }

    /// Forgets that a station behind `port` has `address`, which it gave back.
    pub fn forget(&mut self, address: A, port: PortNumber) {
        let entry = self.entries.get(&address);
        let station = entry.and_then(|entry| entry.station);
        if station.is_some_and(|station| station.port == port) {
            self.remove(address);
        }
    }

    /// Forgets the stations behind `port`, which is gone.
    pub fn forget_port(&mut self, port: PortNumber) {
        while let Some(address) = self.silent_longest(port) {
            self.remove(address);
        }
    }

    /// When [`Self::timeout`] has something to say next.
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|&(due, _)| due)
    }

    /// The next thing to do about deadlines that have passed; to be called
    /// until it says `None`.
    pub fn timeout(&mut self, now: Time) -> Option<Timeout<A>> {
        let &(due, address) = self.deadlines.first()?;
        if due > now {
            return None;
        }
        let mut entry = self.remove(address)?;
        match entry.asking {
            Some((_, tries)) if tries < TRIES => {
                entry.asking = Some((now + RETRY, tries + 1));
                self.put(address, entry);
                Some(Timeout::Ask(address, entry.station))
            }
            _ => Some(Timeout::Lost(address)),
        }
    }

    fn ask(&mut self, now: Time, address: A, entry: Entry) {
        let asking = Some((now + RETRY, 1));
        self.put(address, Entry { asking, ..entry });
    }

    fn confirm(&mut self, now: Time, address: A, station: Station) {
        self.put(
            address,
            Entry {
                station: Some(station),
                confirmed: now,
                asking: None,
            },
        );
    }

    /// Whether one more station behind `port` may be entered, after
    /// forgetting the port's most silent one if need be.
    fn make_room(&mut self, port: PortNumber) -> bool {
        let of_port = self.by_port.get(&port).map_or(0, BTreeSet::len);
        let full = self.known >= self.limits.total;
        if of_port < self.limits.per_port && !full {
            return true;
        }
        match self.silent_longest(port) {
            Some(address) => {
                self.remove(address);
                true
            }
            None => false,
        }
    }

    fn silent_longest(&self, port: PortNumber) -> Option<A> {
        let &(_, address) = self.by_port.get(&port)?.first()?;
        Some(address)
    }

    fn put(&mut self, address: A, entry: Entry) {
        self.remove(address);
        if let Some(station) = entry.station {
            let of_port = self.by_port.entry(station.port).or_default();
            of_port.insert((entry.confirmed, address));
            self.known += 1;
        }
        if let Some((due, _)) = entry.asking {
            self.deadlines.insert((due, address));
        }
        self.entries.insert(address, entry);
    }

    fn remove(&mut self, address: A) -> Option<Entry> {
        let entry = self.entries.remove(&address)?;
        if let Some(station) = entry.station {
            self.known -= 1;
            if let Some(of_port) = self.by_port.get_mut(&station.port) {
                of_port.remove(&(entry.confirmed, address));
                if of_port.is_empty() {
                    self.by_port.remove(&station.port);
                }
            }
        }
        if let Some((due, _)) = entry.asking {
            self.deadlines.remove(&(due, address));
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
