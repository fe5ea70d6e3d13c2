//! A host's processor as its KVM gives it to guests: dumps of it, what several
//! have in common, and whether a template fits.

mod check;
mod common;
mod dump;

pub use check::Check;
pub use common::{Fleet, FleetError};
pub use dump::{Dump, DumpError};
