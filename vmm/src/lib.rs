//! The monitor as a library.

pub mod image;
