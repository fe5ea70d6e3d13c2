//! The monitor as a library.

pub mod channel;
pub mod guest;
pub mod image;
pub mod nest;
pub mod order;
