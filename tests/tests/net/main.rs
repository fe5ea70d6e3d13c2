//! The virtual network, from a network namespace that plays the guest and with
//! the programs that people use.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod dhcp;
mod dns;
mod flows;
mod forward;
mod ipv6;
mod labs;
mod sockets;
