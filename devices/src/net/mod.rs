//! The virtual network: ports that carry Ethernet frames.
//!
//! Nothing here knows virtio, but [`ports::vhost_user`], whose peers speak it: a
//! virtual NIC is one user of a [`port::Port`] or one [`attachment`].

pub mod attachment;
pub mod engine;
pub mod host;
pub mod link;
pub mod mac;
pub mod nat;
pub mod network;
pub mod payload;
pub mod port;
pub mod ports;
pub mod prefix;
pub mod services;
pub mod switch;
pub mod time;
pub mod wire;
