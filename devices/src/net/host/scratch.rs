//! Where bytes that wait in sockets are shown: one buffer for all, which stays
//! in the processor's cache.

use std::ops::Range;

use super::table::Token;

/// The most that is worth loading ahead: as much as one frame carries.
pub(super) const AHEAD: u32 = 1 << 16;

/// Bytes of one stream, by their position in it, which wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) stream: Token,
    pub(super) from: u32,
    pub(super) len: u32,
}

/// A copy of some bytes of one stream.
pub(super) struct Scratch {
    bytes: Vec<u8>,
    held: Option<Span>,
    /// Where the bytes end that were last used.
    last: Option<(Token, u32)>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; AHEAD as usize],
            held: None,
            last: None,
        }
    }

    /// The bytes of a span, if they are all here.
    pub(super) fn get(&mut self, span: Span) -> Option<&[u8]> {
        let range = self.find(span)?;
        self.last = Some((span.stream, span.from.wrapping_add(span.len)));
        Some(&self.bytes[range])
    }

    fn find(&self, span: Span) -> Option<Range<usize>> {
        let held = self.held.filter(|held| held.stream == span.stream)?;
        let skip = span.from.wrapping_sub(held.from);
        let end = skip.checked_add(span.len)?;
        (end <= held.len).then_some(skip as usize..end as usize)
    }

    /// Whether a span begins where the last one that was used ended: then
    /// more than it will probably be asked for.
    pub(super) fn follows(&self, span: Span) -> bool {
        self.last == Some((span.stream, span.from))
    }

    /// Has `load` fill the buffer with the bytes of a span, which are then
    /// held as far as they came: `load` returns how many.
    pub(super) fn load<E>(
        &mut self,
        span: Span,
        load: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<u32, E> {
        self.held = None;
        let len = span.len as usize;
        if len > self.bytes.len() {
            self.bytes.resize(len, 0);
        }
        let count = load(&mut self.bytes[..len])?;
        let len = u32::try_from(count).map_or(span.len, |count| count.min(span.len));
        self.held = Some(Span { len, ..span });
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::host::table::Table;

    #[test]
    fn only_what_is_held_is_shown() {
        let mut table = Table::new(2);
        let stream = table.insert(()).unwrap();
        let other = table.insert(()).unwrap();
        let mut scratch = Scratch::new();
        let span = |stream, from, len| Span { stream, from, len };
        let all = span(stream, u32::MAX - 2, 8);
        assert_eq!(scratch.get(all), None);
        let loaded = scratch.load(all, |bytes| {
            bytes[..6].copy_from_slice(b"abcdef");
            Ok::<_, ()>(6)
        });
        assert_eq!(loaded, Ok(6));
        assert_eq!(
            scratch.get(span(stream, u32::MAX - 2, 6)),
            Some(&b"abcdef"[..])
        );
        assert_eq!(scratch.get(span(stream, 0, 2)), Some(&b"de"[..]));
        assert!(scratch.follows(span(stream, 2, 9)));
        assert!(!scratch.follows(span(other, 2, 9)));
        for outside in [
            span(stream, u32::MAX - 3, 2),
            span(stream, 2, 2),
            span(other, 0, 1),
        ] {
            assert_eq!(scratch.get(outside), None);
        }
        assert_eq!(scratch.load(all, |_| Err(())), Err(()));
        assert_eq!(scratch.get(span(stream, 0, 1)), None);
    }
}
