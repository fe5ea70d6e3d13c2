//! Sequence numbers: positions on a circle of 2^32 (RFC 9293, 3.4).

use std::ops::{Add, AddAssign};

/// A sequence number. Two of them are compared only when they lie within
/// 2^31 of each other, which windows of at most 2^30 bytes see to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seq(pub u32);

impl Seq {
    /// How far this lies after `earlier`; zero if it lies before it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        if self.is_after(earlier) {
            self.0.wrapping_sub(earlier.0)
        } else {
            0
        }
    }

    /// Whether this lies after `other`.
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0) > i32::MAX.cast_unsigned()
    }

    /// Whether this lies before `other`.
    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        other.is_after(self)
    }

    /// The later of the two.
    #[must_use]
    pub const fn max(self, other: Self) -> Self {
        if other.is_after(self) { other } else { self }
    }

    /// The earlier of the two.
    #[must_use]
    pub const fn min(self, other: Self) -> Self {
        if other.is_after(self) { self } else { other }
    }

    /// The position `count` before this one.
    #[must_use]
    pub const fn back(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, count: u32) {
        *self = *self + count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_holds_around_the_circle(base: u32, step in 1u32..1 << 31) {
            let (first, second) = (Seq(base), Seq(base) + step);
            // 2^31 apart, neither is "after" by a strict rule; all else is ordered.
            prop_assert!(second.is_after(first));
            prop_assert!(first.is_before(second));
            prop_assert!(!first.is_after(second));
            prop_assert_eq!(second.since(first), step);
            prop_assert_eq!(first.since(second), 0);
            prop_assert_eq!(first.max(second), second);
            prop_assert_eq!(first.min(second), first);
            prop_assert_eq!(second.back(step), first);
        }
    }

    #[test]
    fn a_position_is_not_after_itself() {
        assert!(!Seq(7).is_after(Seq(7)));
        assert_eq!(Seq(7).since(Seq(7)), 0);
        assert_eq!(Seq(u32::MAX) + 2, Seq(1));
    }
}
