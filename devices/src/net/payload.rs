//! Bytes that frames carry, wherever they lie.

use std::ops::Range;

use crate::scatter::ScatterList;

/// A run of bytes that is read where it is, without knowing where that is.
pub trait Payload {
    /// Its length in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies from `offset` into `data`; returns the bytes copied, fewer than
    /// asked only where the payload ends.
    fn read_at(&self, offset: usize, data: &mut [u8]) -> usize;

    /// Where the bytes lie, for who can use them there without a copy.
    fn place(&self) -> Place<'_> {
        Place::Elsewhere
    }
}

/// Where a payload's bytes lie.
pub enum Place<'a> {
    /// In memory of our own.
    Slice(&'a [u8]),
    /// In guest memory: this range of the list.
    Scattered(&'a ScatterList, Range<usize>),
    /// Only [`Payload::read_at`] knows.
    Elsewhere,
}

impl<T: AsRef<[u8]>> Payload for T {
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        let rest = self.as_ref().get(offset..).unwrap_or_default();
        let count = rest.len().min(data.len());
        data[..count].copy_from_slice(&rest[..count]);
        count
    }

    fn place(&self) -> Place<'_> {
        Place::Slice(self.as_ref())
    }
}

impl Payload for ScatterList {
    fn len(&self) -> usize {
        ScatterList::len(self)
    }

    fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        self.peek_at(offset, data)
    }

    fn place(&self) -> Place<'_> {
        Place::Scattered(self, 0..ScatterList::len(self))
    }
}

/// Part of a payload, which is a payload itself.
pub struct Part<'a> {
    whole: &'a dyn Payload,
    range: Range<usize>,
}

impl<'a> Part<'a> {
    /// The bytes of `whole` in `range`, as far as there are any.
    pub fn new(whole: &'a dyn Payload, range: Range<usize>) -> Self {
        let end = range.end.min(whole.len());
        let range = range.start.min(end)..end;
        Self { whole, range }
    }
}

impl Payload for Part<'_> {
    fn len(&self) -> usize {
        self.range.len()
    }

    fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        let count = data.len().min(self.len().saturating_sub(offset));
        if count == 0 {
            return 0;
        }
        self.whole
            .read_at(self.range.start + offset, &mut data[..count])
    }

    fn place(&self) -> Place<'_> {
        match self.whole.place() {
            Place::Slice(slice) => Place::Slice(&slice[self.range.clone()]),
            Place::Scattered(list, whole) => {
                let start = whole.start + self.range.start;
                Place::Scattered(list, start..start + self.range.len())
            }
            Place::Elsewhere => Place::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nestling_arch::GuestMemory;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn read(payload: &dyn Payload, offset: usize, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        let count = payload.read_at(offset, &mut data);
        data.truncate(count);
        data
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let bytes: &[u8] = b"nestling";
        assert_eq!(read(&bytes, 4, 10), b"ling");
        assert_eq!(read(&bytes, 9, 1), b"");
        assert_eq!(read(&Part::new(&bytes, 2..5), 1, 10), b"tl");
        assert_eq!(read(&Part::new(&bytes, 6..50), 0, 10), b"ng");
        assert!(Part::new(&bytes, 50..60).is_empty());
        let backwards = Range { start: 5, end: 2 };
        assert!(Part::new(&bytes, backwards).is_empty());
        assert_eq!(read(&Part::new(&bytes, 2..5), usize::MAX, 1), b"");
    }

    proptest! {
        #[test]
        fn all_payloads_read_alike(
            data in prop::collection::vec(any::<u8>(), 0..600),
            cuts in prop::collection::vec(0usize..600, 0..5),
            part in (0usize..700, 0usize..700),
            offset in 0usize..700,
            length in 0usize..700,
        ) {
            let memory = Arc::new(
                GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap(),
            );
            let mut list = ScatterList::new(memory.clone());
            let mut ends: Vec<usize> = cuts.iter().map(|cut| *cut.min(&data.len())).collect();
            ends.push(data.len());
            ends.sort_unstable();
            let mut start = 0;
            for (index, end) in ends.into_iter().enumerate() {
                let address = GuestAddress(0x1000 * (index as u64 + 1));
                memory.write_slice(&data[start..end], address).unwrap();
                if end > start {
                    list.push(address, end - start).unwrap();
                }
                start = end;
            }
            let slice = data.as_slice();
            prop_assert_eq!(Payload::len(&list), Payload::len(&slice));
            prop_assert_eq!(read(&list, offset, length), read(&slice, offset, length));
            let range = part.0..part.1;
            let (a, b) = (Part::new(&list, range.clone()), Part::new(&slice, range));
            prop_assert_eq!(a.len(), b.len());
            prop_assert_eq!(read(&a, offset, length), read(&b, offset, length));
            let Place::Scattered(of, place) = a.place() else { panic!("in guest memory") };
            let Place::Slice(expected) = b.place() else { panic!("in a slice") };
            prop_assert_eq!(read(of, place.start, place.len()), expected);
        }
    }
}
