//! The nest as seen from the level below: machines under supervision.

pub mod machine;
pub mod process;
pub mod supervise;
pub mod watch;
