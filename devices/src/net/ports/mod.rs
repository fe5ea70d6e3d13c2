//! What a port can be.

pub mod tap;
