//! The network address translation between the guests and the host's sockets.
//!
//! Pure state machines: packets, a clock and what sockets report go in;
//! packets and socket operations come out. No part holds a descriptor.

mod bindings;
pub mod drops;
pub mod flows;
pub mod fragment;
pub mod fragments;
pub mod icmp;
pub mod mappings;
pub mod reach;
mod slab;
pub mod sockets;
pub mod tcp;
pub mod udp;
pub mod wheel;

#[cfg(test)]
pub(crate) mod testing;

pub use bindings::Outcome;
