//! Which BAR answers at which address.

use std::ops::Range;

use crate::pci::config::{BAR_COUNT, Decoded};

/// A BAR in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) base: u64,
    pub(crate) size: u64,
    /// The function's device number.
    pub(crate) slot: usize,
    pub(crate) bar: usize,
}

impl Mapping {
    fn overlaps(&self, other: &Self) -> bool {
        // A mapped BAR lies in a window, so its end doesn't wrap.
        self.base < other.base + other.size && other.base < self.base + self.size
    }
}

/// The mapped BARs by address. They don't overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mappings(Vec<Mapping>);

impl Mappings {
    /// Maps what `decoded` says the functions decode, by slot. A BAR outside
    /// the windows isn't mapped, nor is one that overlaps a BAR of a lower slot
    /// or index.
    pub(crate) fn new<'a>(
        decoded: impl IntoIterator<Item = &'a [Option<Decoded>; BAR_COUNT]>,
        windows: &[Range<u64>],
    ) -> Self {
        let mut mapped: Vec<Mapping> = Vec::new();
        for (slot, bars) in decoded.into_iter().enumerate() {
            for (bar, decoded) in bars.iter().enumerate() {
                let Some(Decoded { base, size }) = *decoded else {
                    continue;
                };
                let in_window = |window: &Range<u64>| {
                    window.start <= base
                        && base.checked_add(size).is_some_and(|end| end <= window.end)
                };
                let mapping = Mapping {
                    base,
                    size,
                    slot,
                    bar,
                };
                if windows.iter().any(in_window) && !mapped.iter().any(|m| m.overlaps(&mapping)) {
                    mapped.push(mapping);
                }
            }
        }
        mapped.sort_unstable_by_key(|mapping| mapping.base);
        Self(mapped)
    }

    /// The BAR that has all `len` bytes from `address`, and the offset into it.
    pub(crate) fn find(&self, address: u64, len: usize) -> Option<(Mapping, u64)> {
        let after = self.0.partition_point(|mapping| mapping.base <= address);
        let mapping = self.0[..after].last()?;
        let offset = address - mapping.base;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= mapping.size).then_some((*mapping, offset))
    }

    /// The mappings that `other` doesn't have.
    pub(crate) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Mapping> {
        self.0.iter().filter(|mapping| !other.0.contains(mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: [Range<u64>; 2] = [0x1000..0x9000, 0x10_0000..0x20_0000];

    fn at(base: u64, size: u64) -> [Option<Decoded>; BAR_COUNT] {
        let mut bars = [None; BAR_COUNT];
        bars[0] = Some(Decoded { base, size });
        bars
    }

    #[test]
    fn only_bars_inside_a_window_are_mapped() {
        for (base, size, mapped) in [
            (0x1000, 0x1000, true),
            (0x8000, 0x1000, true),
            (0x8000, 0x2000, false),
            (0, 0x1000, false),
            (0x10_0000, 0x10_0000, true),
            (u64::MAX - 0xfff, 0x1000, false),
        ] {
            let mappings = Mappings::new(&[at(base, size)], &WINDOWS);
            assert_eq!(
                mappings.find(base, 1).is_some(),
                mapped,
                "{base:#x}+{size:#x}"
            );
        }
    }

    #[test]
    fn the_lower_slot_wins_an_overlap() {
        let mappings = Mappings::new(&[at(0x4000, 0x1000), at(0x4000, 0x4000)], &WINDOWS);
        assert_eq!(mappings.find(0x4000, 4).unwrap().0.slot, 0);
        assert!(mappings.find(0x5000, 4).is_none());
    }

    #[test]
    fn a_lookup_needs_the_whole_access() {
        let mappings = Mappings::new(&[at(0x4000, 0x1000), at(0x6000, 0x1000)], &WINDOWS);
        let (mapping, offset) = mappings.find(0x6ffc, 4).unwrap();
        assert_eq!((mapping.slot, offset), (1, 0xffc));
        for address in [0x3fff, 0x4ffd, 0x5000, 0x6ffd, 0x7000] {
            assert!(mappings.find(address, 4).is_none(), "{address:#x}");
        }
    }

    #[test]
    fn differences_are_by_place() {
        let old = Mappings::new(&[at(0x4000, 0x1000), at(0x6000, 0x1000)], &WINDOWS);
        let new = Mappings::new(&[at(0x4000, 0x1000), at(0x7000, 0x1000)], &WINDOWS);
        assert_eq!(
            old.without(&new).map(|m| m.base).collect::<Vec<_>>(),
            [0x6000]
        );
        assert_eq!(
            new.without(&old).map(|m| m.base).collect::<Vec<_>>(),
            [0x7000]
        );
    }
}
