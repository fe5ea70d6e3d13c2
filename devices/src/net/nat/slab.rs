//! Values in numbered slots, and handles that know when their value is gone.

/// The end of the list of free slots.
const NONE: u32 = u32::MAX;

/// Where a value is. A handle of a removed value leads to nothing, also when
/// another value took its slot, until 2³² values have been through that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Handle {
    pub(super) index: u32,
    generation: u32,
}

/// One enum over both words, so that its tag and the generation share one.
#[derive(Debug)]
enum Slot<T> {
    Used {
        generation: u32,
        value: T,
    },
    /// The generation is the next value's.
    Free {
        generation: u32,
        next: u32,
    },
}

/// Values in a vector that reuses its slots. It never shrinks.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: u32,
}

impl<T> Slab<T> {
    /// The bytes that a value takes at most, right after the vector grew.
    #[cfg(test)]
    pub(super) const COST: usize = 2 * size_of::<Slot<T>>();

    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Puts a value in, unless there are 2³² - 1 of them.
    pub(super) fn insert(&mut self, value: T) -> Option<Handle> {
        let index = if self.free == NONE {
            let index = u32::try_from(self.slots.len()).ok();
            let index = index.filter(|&index| index != NONE)?;
            let generation = 0;
            self.slots.push(Slot::Used { generation, value });
            index
        } else {
            let index = self.free;
            let slot = &mut self.slots[index as usize];
            if let Slot::Free { generation, next } = *slot {
                self.free = next;
                *slot = Slot::Used { generation, value };
            }
            index
        };
        self.len += 1;
        Some(self.handle(index))
    }

    pub(super) fn remove(&mut self, handle: Handle) -> Option<T> {
        self.get(handle)?;
        let free = Slot::Free {
            generation: handle.generation.wrapping_add(1),
            next: self.free,
        };
        let slot = &mut self.slots[handle.index as usize];
        match std::mem::replace(slot, free) {
            Slot::Used { value, .. } => {
                self.free = handle.index;
                self.len -= 1;
                Some(value)
            }
            Slot::Free { .. } => None,
        }
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&T> {
        match self.slots.get(handle.index as usize)? {
            Slot::Used { generation, value } if *generation == handle.generation => Some(value),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        match self.slots.get_mut(handle.index as usize)? {
            Slot::Used { generation, value } if *generation == handle.generation => Some(value),
            _ => None,
        }
    }

    /// The value in a slot, whatever its generation.
    pub(super) fn at(&self, index: u32) -> Option<&T> {
        match self.slots.get(index as usize)? {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// The value in a slot, whatever its generation.
    pub(super) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.slots.get_mut(index as usize)? {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    /// The handle of the value that is in the slot now.
    pub(super) fn handle(&self, index: u32) -> Handle {
        let (Slot::Used { generation, .. } | Slot::Free { generation, .. }) =
            self.slots[index as usize];
        Handle { index, generation }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| {
            let Slot::Used { generation, value } = slot else {
                return None;
            };
            let generation = *generation;
            Some((Handle { index, generation }, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_dies_with_its_value() {
        let mut slab = Slab::new();
        let first = slab.insert('a').unwrap();
        assert_eq!(slab.get(first), Some(&'a'));
        assert_eq!(slab.remove(first), Some('a'));
        assert_eq!(slab.remove(first), None);
        let second = slab.insert('b').unwrap();
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.get(second), Some(&'b'));
    }

    #[test]
    fn slots_are_reused() {
        let mut slab = Slab::new();
        let handles: Vec<_> = (0..10).map(|i| slab.insert(i).unwrap()).collect();
        for handle in &handles[2..5] {
            slab.remove(*handle).unwrap();
        }
        assert_eq!(slab.len(), 7);
        for i in 20..23 {
            assert!((2..5).contains(&slab.insert(i).unwrap().index));
        }
        assert_eq!(slab.insert(23).unwrap().index, 10);
        assert_eq!(slab.len(), 11);
        let values: Vec<_> = slab.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, [0, 1, 22, 21, 20, 5, 6, 7, 8, 9, 23]);
    }
}
