//! Timers, as many as there are flows.
//!
//! A hierarchical timing wheel (Varghese and Lauck, "Hashed and Hierarchical
//! Timing Wheels", SOSP 1987, scheme 7): to set or cancel a timer takes
//! constant time, and so does each level that a timer passes on its way.

use super::slab::{Handle, Slab};
use crate::net::time::Time;

/// A tick is 2²⁰ ns, some 1.05 ms: finer than any timer of a protocol here.
const TICK_BITS: u32 = 20;
/// Each level has 64 slots, one bit of a word for each.
const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
/// Enough for all ticks of a [`Time`].
const LEVELS: usize = (u64::BITS - TICK_BITS).div_ceil(LEVEL_BITS) as usize;

/// The end of a slot's list.
const NONE: u32 = u32::MAX;

/// A timer that is set. It leads to nothing once the timer has gone off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId(Handle);

#[derive(Debug)]
struct Timer<K> {
    what: K,
    tick: u64,
    previous: u32,
    next: u32,
}

#[derive(Debug)]
struct Level {
    /// Which slots have a timer.
    occupied: u64,
    /// The first timer of each slot.
    slots: [u32; SLOTS],
}

/// Timers, each with a `K` that says what it is for.
///
/// A timer goes off at its time or up to a tick later, never before. One that
/// is put off with each packet, like that of an idle flow, needs no change
/// here: it goes off at its first time, and is then set again to what is left
/// ([`Wheel::expire`]).
#[derive(Debug)]
pub struct Wheel<K> {
    timers: Slab<Timer<K>>,
    levels: [Level; LEVELS],
    /// The tick up to which all timers have gone off. A timer is in the level
    /// of the highest digit (of 6 bits) in which its tick differs from this,
    /// in the slot of that digit: so slots come in order, and none of them
    /// wraps around.
    now: u64,
}

impl<K> Wheel<K> {
    /// The bytes that a timer takes at most.
    #[cfg(test)]
    pub(super) const COST: usize = Slab::<Timer<K>>::COST;

    /// A wheel without timers, which starts at `now`.
    pub fn new(now: Time) -> Self {
        Self {
            timers: Slab::new(),
            levels: std::array::from_fn(|_| Level {
                occupied: 0,
                slots: [NONE; SLOTS],
            }),
            now: now.0 >> TICK_BITS,
        }
    }

    /// The number of timers.
    pub fn len(&self) -> usize {
        self.timers.len() as usize
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets a timer. One for the past goes off with the next call of
    /// [`Wheel::expire`] or [`Wheel::pop`].
    ///
    /// # Panics
    ///
    /// If 2³² - 1 timers are set, which take 128 GiB: their owners are bounded
    /// far below.
    pub fn insert(&mut self, at: Time, what: K) -> TimerId {
        let tick = self.tick_of(at);
        let timer = Timer {
            what,
            tick,
            previous: NONE,
            next: NONE,
        };
        let handle = self.timers.insert(timer).expect("bounded by its owner");
        self.link(handle.index);
        TimerId(handle)
    }

    /// Moves a timer to another time; false if it isn't set any more.
    pub fn reset(&mut self, id: TimerId, at: Time) -> bool {
        if self.timers.get(id.0).is_none() {
            return false;
        }
        self.unlink(id.0.index);
        let tick = self.tick_of(at);
        if let Some(timer) = self.timers.get_mut(id.0) {
            timer.tick = tick;
        }
        self.link(id.0.index);
        true
    }

    /// Takes a timer away, unless it has gone off.
    pub fn cancel(&mut self, id: TimerId) -> Option<K> {
        self.timers.get(id.0)?;
        self.unlink(id.0.index);
        Some(self.timers.remove(id.0)?.what)
    }

    /// When to call [`Wheel::expire`] again. Nothing goes off before; there may
    /// be up to seven such moments until the first timer does.
    pub fn next_deadline(&self) -> Option<Time> {
        let (_, _, start) = self.first()?;
        Some(Time(start << TICK_BITS))
    }

    /// Lets each timer go off that is due. Where `f` returns a time, the timer
    /// stays, with its id, and goes off then, but not within this call.
    pub fn expire(&mut self, now: Time, mut f: impl FnMut(&K) -> Option<Time>) {
        while let Some(index) = self.advance(now) {
            self.unlink(index);
            let again = self.timers.at(index).and_then(|timer| f(&timer.what));
            if let Some(at) = again {
                let next = (now.0 >> TICK_BITS) + 1;
                let tick = self.tick_of(at).max(next);
                if let Some(timer) = self.timers.at_mut(index) {
                    timer.tick = tick;
                }
                self.link(index);
            } else {
                self.timers.remove(self.timers.handle(index));
            }
        }
    }

    /// Takes the next timer that is due: for who changes the wheel meanwhile.
    pub fn pop(&mut self, now: Time) -> Option<K> {
        let index = self.advance(now)?;
        self.unlink(index);
        let handle = self.timers.handle(index);
        Some(self.timers.remove(handle)?.what)
    }

    /// The first tick that isn't before `at`, nor in the past.
    fn tick_of(&self, at: Time) -> u64 {
        let tick = at.0.div_ceil(1 << TICK_BITS);
        tick.max(self.now)
    }

    /// The level and slot that come first, and the slot's first tick.
    fn first(&self) -> Option<(usize, usize, u64)> {
        let (number, level) = (0..).zip(&self.levels).find(|(_, l)| l.occupied != 0)?;
        let slot = level.occupied.trailing_zeros();
        let shift = LEVEL_BITS * number;
        let above = self.now >> shift >> LEVEL_BITS << LEVEL_BITS << shift;
        let start = above | u64::from(slot) << shift;
        Some((number as usize, slot as usize, start))
    }

    /// Goes on to the first timer that is due at `now`, or else to `now`.
    fn advance(&mut self, now: Time) -> Option<u32> {
        let now = now.0 >> TICK_BITS;
        loop {
            match self.first() {
                Some((level, slot, start)) if start <= now => {
                    self.now = self.now.max(start);
                    if level == 0 {
                        return Some(self.levels[0].slots[slot]);
                    }
                    self.cascade(level, slot);
                }
                _ => {
                    self.now = self.now.max(now);
                    return None;
                }
            }
        }
    }

    /// Moves the timers of a slot whose first tick has come to lower levels.
    fn cascade(&mut self, level: usize, slot: usize) {
        let level = &mut self.levels[level];
        level.occupied &= !(1 << slot);
        let mut index = std::mem::replace(&mut level.slots[slot], NONE);
        while let Some(timer) = self.timers.at(index) {
            let next = timer.next;
            self.link(index);
            index = next;
        }
    }

    /// Where a tick's timers are.
    fn place(&self, tick: u64) -> (usize, usize) {
        let level = match (tick ^ self.now).checked_ilog2() {
            Some(bit) => bit / LEVEL_BITS,
            None => 0,
        };
        let [digit, ..] = (tick >> (LEVEL_BITS * level)).to_le_bytes();
        (level as usize, usize::from(digit) % SLOTS)
    }

    /// Puts a timer at the head of the list of its slot.
    fn link(&mut self, index: u32) {
        let Some(timer) = self.timers.at(index) else {
            return;
        };
        let (level, slot) = self.place(timer.tick);
        let level = &mut self.levels[level];
        level.occupied |= 1 << slot;
        let next = std::mem::replace(&mut level.slots[slot], index);
        if let Some(timer) = self.timers.at_mut(next) {
            timer.previous = index;
        }
        if let Some(timer) = self.timers.at_mut(index) {
            (timer.previous, timer.next) = (NONE, next);
        }
    }

    /// Takes a timer out of the list of its slot.
    fn unlink(&mut self, index: u32) {
        let Some(timer) = self.timers.at(index) else {
            return;
        };
        let (previous, next) = (timer.previous, timer.next);
        if let Some(timer) = self.timers.at_mut(next) {
            timer.previous = previous;
        }
        if let Some(timer) = self.timers.at_mut(previous) {
            timer.next = next;
            return;
        }
        let Some(timer) = self.timers.at(index) else {
            return;
        };
        let (level, slot) = self.place(timer.tick);
        let level = &mut self.levels[level];
        level.slots[slot] = next;
        if next == NONE {
            level.occupied &= !(1 << slot);
        }
    }
}

#[cfg(test)]
mod tests;
