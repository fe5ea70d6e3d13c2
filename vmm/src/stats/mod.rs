//! Counts: KVM's own, and how they are shown.

pub mod debugfs;
mod descriptor;
pub mod live;
pub mod look;
pub mod prometheus;
pub mod report;
pub mod trace;
pub mod watcher;

pub use descriptor::{Counts, Reading, Statistics, add, sum_of};

/// How the counts of exits by reason begin, which KVM's tracepoints give: all, those
/// taken while a guest of the guest ran, and those reflected to the guest.
pub const EXIT: &str = "exit:";
/// See [`EXIT`].
pub const NESTED_EXIT: &str = "nested_exit:";
/// See [`EXIT`].
pub const REFLECTED: &str = "reflected:";
