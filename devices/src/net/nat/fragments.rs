//! Putting fragmented packets of guests together again (RFC 791, 3.2;
//! RFC 8200, 4.5), in bounded memory and time.
//!
//! Fragments may come in any order and more than once (RFC 4787, REQ-14). A
//! packet whose fragments overlap in any other way is dropped with all that is
//! yet to come of it (RFC 5722, 4), in IPv4 too: only attacks look so
//! (RFC 1858, 3).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::drops::{DropReason, Drops};
use super::flows::Guest;
use crate::net::payload::Payload;
use crate::net::time::Time;
use crate::net::wire::ip::{Fragment, Ip4Header, Ip6Header, IpHeader, Protocol};

/// How long a packet's fragments are waited for from the first that came
/// (RFC 8200, 4.5; RFC 1122, 3.3.2).
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The most packets of a guest that wait: a new one takes the oldest's place.
const MAX_PACKETS: usize = 64;

/// The most fragments of a packet. With 576 bytes, which each IPv4 host must
/// take (RFC 791, 3.1), the longest packet has 119.
const MAX_PIECES: usize = 256;

/// How much memory waiting fragments may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all guests together.
    pub total: usize,
    /// Bytes of each guest: its oldest packets make room for its newest.
    pub per_guest: usize,
}

/// A packet whose fragments all came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The first fragment's header, as the whole packet's.
    pub header: IpHeader,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// Fragments that wait for others.
#[derive(Debug)]
pub struct Fragments {
    guests: BTreeMap<Guest, Queue>,
    /// The bytes of all guests.
    bytes: usize,
    limits: Limits,
    drops: Drops,
}

/// A guest's packets, the oldest first.
#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<Packet>,
    bytes: usize,
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    identification: u32,
    /// Zero in IPv6, where the first fragment's alone counts (RFC 8200, 4.5).
    protocol: Protocol,
}

#[derive(Debug)]
struct Packet {
    key: Key,
    since: Time,
    /// What came, in order and without overlap.
    pieces: Vec<Piece>,
    /// The first fragment's header, once it came.
    first: Option<IpHeader>,
    /// The whole length, once the last fragment came.
    len: Option<usize>,
    /// Nothing more is taken of this packet.
    spoilt: bool,
    /// The bytes that it is counted with.
    cost: usize,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    bytes: Box<[u8]>,
}

/// A fragment on its way in.
struct Arrival<'a> {
    now: Time,
    key: Key,
    header: &'a IpHeader,
    fragment: Fragment,
    piece: Piece,
}

impl Piece {
    /// What it is counted with: its bytes, itself, and the allocator's share.
    fn cost(&self) -> usize {
        self.bytes.len() + size_of::<Self>() + 16
    }

    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }
}

impl Fragments {
    /// No fragments.
    pub fn new(limits: Limits) -> Self {
        Self {
            guests: BTreeMap::new(),
            bytes: 0,
            limits,
            drops: Drops::default(),
        }
    }

    /// Takes a fragment of a guest; returns the packet if this was the last
    /// that it lacked. An error has been counted.
    pub fn insert(
        &mut self,
        now: Time,
        guest: Guest,
        header: &IpHeader,
        payload: &dyn Payload,
    ) -> Result<Option<Whole>, DropReason> {
        let whole = self.try_insert(now, guest, header, payload);
        whole.inspect_err(|reason| self.drops.count(*reason))
    }

    fn try_insert(
        &mut self,
        now: Time,
        guest: Guest,
        header: &IpHeader,
        payload: &dyn Payload,
    ) -> Result<Option<Whole>, DropReason> {
        let fragment = header.fragment().ok_or(DropReason::BadFragment)?;
        let end = usize::from(fragment.offset) + payload.len();
        // Only the last may end anywhere (RFC 8200, 4.5).
        let uneven = fragment.more && !payload.len().is_multiple_of(8);
        if payload.is_empty() || uneven || end > max_payload(header) {
            return Err(DropReason::BadFragment);
        }
        let key = Key {
            source: header.source(),
            destination: header.destination(),
            identification: fragment.identification,
            protocol: match header {
                IpHeader::V4(header) => header.protocol,
                IpHeader::V6(_) => Protocol(0),
            },
        };
        let mut bytes = vec![0; payload.len()].into_boxed_slice();
        if payload.read_at(0, &mut bytes) != bytes.len() {
            return Err(DropReason::BadFragment);
        }
        let arrival = Arrival {
            now,
            key,
            header,
            fragment,
            piece: Piece {
                offset: fragment.offset.into(),
                bytes,
            },
        };
        let Self { guests, limits, .. } = self;
        let queue = guests.entry(guest).or_default();
        let before = queue.bytes;
        let room = limits.total.saturating_sub(self.bytes);
        let result = queue.insert(arrival, room, limits.per_guest);
        self.bytes = self.bytes - before + queue.bytes;
        result
    }

    /// Gives up the packets whose time is over. Those whose first fragment
    /// came are told with its header and the start of its payload, for the
    /// sender to be told (ICMP Time Exceeded, code 1).
    pub fn expire(&mut self, now: Time, mut f: impl FnMut(Guest, &IpHeader, &[u8])) {
        for (guest, queue) in &mut self.guests {
            let late = |packet: &Packet| packet.since + TIMEOUT <= now;
            while queue.packets.front().is_some_and(late) {
                let Some(packet) = queue.evict() else { break };
                self.bytes -= packet.cost;
                if packet.spoilt {
                    continue;
                }
                self.drops.count(DropReason::FragmentsLate);
                if let (Some(header), Some(piece)) = (&packet.first, packet.pieces.first()) {
                    f(*guest, header, &piece.bytes);
                }
            }
        }
        self.guests.retain(|_, queue| !queue.packets.is_empty());
    }

    /// When to call [`Fragments::expire`] next.
    pub fn next_deadline(&self) -> Option<Time> {
        let fronts = self.guests.values().filter_map(|q| q.packets.front());
        fronts.map(|packet| packet.since + TIMEOUT).min()
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was dropped.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
}

impl Queue {
    /// Takes a fragment, if all guests together have `room` for it and this
    /// one has no more than `limit` bytes then.
    fn insert(
        &mut self,
        arrival: Arrival<'_>,
        room: usize,
        limit: usize,
    ) -> Result<Option<Whole>, DropReason> {
        let Arrival {
            key,
            header,
            fragment,
            piece,
            now,
        } = arrival;
        let position = self.packets.iter().position(|packet| packet.key == key);
        let mut at = position.unwrap_or_else(|| {
            if self.packets.len() == MAX_PACKETS {
                self.evict();
            }
            self.packets.push_back(Packet::new(key, now));
            self.bytes += PACKET_COST;
            self.packets.len() - 1
        });
        let before = self.packets[at].cost;
        let admitted = self.packets[at].admit(&piece, fragment);
        self.bytes = self.bytes - before + self.packets[at].cost;
        if !admitted? {
            return Ok(None);
        }
        let cost = piece.cost();
        while self.bytes + cost > limit && at > 0 {
            self.evict();
            at -= 1;
        }
        if self.bytes + cost > limit || cost > room {
            return Err(DropReason::FragmentsFull);
        }
        self.bytes += cost;
        let packet = &mut self.packets[at];
        packet.add(piece, header, fragment);
        if !packet.is_whole() {
            return Ok(None);
        }
        self.bytes -= packet.cost;
        let whole = self.packets.remove(at).and_then(Packet::into_whole);
        Ok(whole)
    }

    /// Gives the oldest packet up.
    fn evict(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.cost;
        Some(packet)
    }
}

/// What a packet is counted with beside its fragments.
const PACKET_COST: usize = size_of::<Packet>();

impl Packet {
    fn new(key: Key, since: Time) -> Self {
        Self {
            key,
            since,
            pieces: Vec::new(),
            first: None,
            len: None,
            spoilt: false,
            cost: PACKET_COST,
        }
    }

    /// Whether a fragment adds to what came; an error if it contradicts that.
    fn admit(&mut self, piece: &Piece, fragment: Fragment) -> Result<bool, DropReason> {
        if self.spoilt {
            return Err(DropReason::Overlap);
        }
        let after = self.pieces.partition_point(|p| p.offset < piece.offset);
        let next = self.pieces.get(after);
        if next.is_some_and(|next| next.offset == piece.offset && next.bytes == piece.bytes) {
            return Ok(false);
        }
        let previous = after.checked_sub(1).map(|before| &self.pieces[before]);
        if previous.is_some_and(|previous| previous.end() > piece.offset)
            || next.is_some_and(|next| next.offset < piece.end())
        {
            self.spoil();
            return Err(DropReason::Overlap);
        }
        let behind = self.pieces.last().map_or(0, Piece::end);
        let bad_end = match self.len {
            Some(len) => !fragment.more || piece.end() > len,
            None => !fragment.more && behind > piece.end(),
        };
        if bad_end {
            self.spoil();
            return Err(DropReason::BadFragment);
        }
        if self.pieces.len() == MAX_PIECES {
            self.spoil();
            return Err(DropReason::FragmentsFull);
        }
        Ok(true)
    }

    /// Adds a fragment that was admitted.
    fn add(&mut self, piece: Piece, header: &IpHeader, fragment: Fragment) {
        if piece.offset == 0 {
            self.first = Some(*header);
        }
        if !fragment.more {
            self.len = Some(piece.end());
        }
        self.cost += piece.cost();
        let at = self.pieces.partition_point(|p| p.offset < piece.offset);
        self.pieces.insert(at, piece);
    }

    /// Forgets all that came, but not that nothing more may come.
    fn spoil(&mut self) {
        self.spoilt = true;
        self.pieces = Vec::new();
        self.cost = PACKET_COST;
    }

    fn is_whole(&self) -> bool {
        // Nothing overlaps, so that all bytes are there once enough are.
        let bytes = self.pieces.iter().map(|piece| piece.bytes.len());
        self.len == Some(bytes.sum())
    }

    fn into_whole(self) -> Option<Whole> {
        let payload = self.pieces.iter().map(|piece| &*piece.bytes);
        let payload: Vec<u8> = payload.collect::<Vec<_>>().concat();
        let first = self.first?;
        let len = u16::try_from(payload.len()).ok()?;
        let header = match first.with_payload(first.protocol(), len) {
            IpHeader::V4(header) => IpHeader::V4(Ip4Header {
                more_fragments: false,
                ..header
            }),
            IpHeader::V6(header) => IpHeader::V6(Ip6Header {
                fragment: None,
                ..header
            }),
        };
        Some(Whole { header, payload })
    }
}

/// The most bytes behind a packet's header.
fn max_payload(header: &IpHeader) -> usize {
    match header {
        // The total length includes the header.
        IpHeader::V4(_) => 65535 - 20,
        IpHeader::V6(_) => 65535,
    }
}

#[cfg(test)]
mod tests;
