//! The nest image.

pub mod archive;
