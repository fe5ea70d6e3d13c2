//! A level's network, set up by init itself: the image holds no other program
//! that could.
//!
//! [`interface`] brings interfaces up and bridges them, [`dhcp`] gets them an
//! address, [`resolve`] finds addresses by name. [`ping`], [`fetch`] and
//! [`page`] then show that the level reaches others and is reached.

pub mod dhcp;
pub mod fetch;
pub mod interface;
pub mod page;
pub mod ping;
pub mod resolve;

mod socket;

#[cfg(test)]
mod tests;
