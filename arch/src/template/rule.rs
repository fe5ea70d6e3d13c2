//! What a template makes of one register.

use std::ops::{BitAnd, BitOr};

/// What a guest reads where its host has a value: the host's bits under `mask`,
/// and those of `set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule<T> {
    /// The bits that are as on the host.
    pub mask: T,
    /// The bits that are 1 on any host.
    pub set: T,
}

impl<T: Copy + BitAnd<Output = T> + BitOr<Output = T>> Rule<T> {
    /// What a guest reads where its host has `value`.
    pub fn apply(self, value: T) -> T {
        value & self.mask | self.set
    }
}

impl Rule<u32> {
    /// As on the host.
    pub const KEEP: Self = Self {
        mask: u32::MAX,
        set: 0,
    };
    /// Nothing.
    pub const HIDE: Self = Self { mask: 0, set: 0 };

    /// This value on any host.
    pub const fn exactly(value: u32) -> Self {
        Self {
            mask: 0,
            set: value,
        }
    }
}

impl Rule<u64> {
    /// This value on any host.
    pub const fn exactly(value: u64) -> Self {
        Self {
            mask: 0,
            set: value,
        }
    }
}
