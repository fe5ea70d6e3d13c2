//! Counts: KVM's own, and how they are shown.

mod descriptor;
pub mod live;
pub mod report;

pub use descriptor::{Counts, Reading, Statistics, add};
