//! Counts: KVM's own, and how they are shown.

mod descriptor;
pub mod report;

pub use descriptor::{Counts, Statistics, add};
