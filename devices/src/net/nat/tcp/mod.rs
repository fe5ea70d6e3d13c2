//! The translation of TCP.
//!
//! Not addresses in packets are translated but streams: between a guest's
//! connection to the gateway and one of the host's sockets ([`flow`]). So the
//! host's kernel is the NAT toward outside, and [`Tcp`] is its table.
//!
//! What RFC 5382 and RFC 7857 require, and where it is met:
//!
//! - REQ-1, endpoint-independent mapping: all connections of an inner address
//!   and port leave from one outer port, the same one where it is free
//!   (`ports`). Its mapping ends with the last of them.
//! - REQ-2, all ways to begin and end: three-way handshake, simultaneous
//!   open, half-closed streams, RST ([`flow`], which is an endpoint of TCP).
//! - REQ-3, filtering: a static mapping's port takes connections from
//!   everybody ([`Tcp::map`]); that of connections which a guest makes takes
//!   what belongs to them only (address- and port-dependent).
//! - REQ-4, unsolicited SYNs: what isn't mapped never reaches the translator.
//!   The host's kernel answers it as it answers for any port of its own.
//! - REQ-5, idle connections: established ones live for 2 h 4 min and are
//!   asked whether they still are before they end; others (RFC 7857, 2.1) for
//!   4 min. TIME-WAIT lasts a minute, as at the host.
//! - REQ-6: no application's data is looked at.
//! - REQ-7, no port overloading: no two inner endpoints have one outer port,
//!   not even toward different peers (which RFC 7857, 3 allows).
//! - REQ-8, hairpinning: a guest reaches a static mapping at the host's
//!   address through the host's kernel, like everything outside, and is seen
//!   with its external address and port.
//! - REQ-9, ICMP errors: what the host learns about a connection that can't be
//!   made is told to the guest ([`Outlet::unreachable`]).
//! - REQ-10, no ICMP message ends a connection: the host's kernel takes those
//!   about established connections as hints (RFC 1122, 4.2.3.9).
//! - RFC 7857, 2.2, which has a RST leave some time to a session, since a NAT
//!   can't know whether the ends believe it: here the translator is an end. It
//!   believes a RST that stands exactly where it must (RFC 5961), and the
//!   session is over.

mod congestion;
mod entries;
pub mod flow;
mod listeners;
mod open;
mod outlet;
mod ports;
mod rtt;
pub mod seq;
mod shares;
mod statistics;
pub mod streams;
mod translator;

pub use outlet::{Leg, Outlet};
pub use statistics::{Counters, Listed};
pub use translator::{Limits, Outcome, Tcp};

#[cfg(test)]
pub(crate) mod tests;
