//! What a port can be.

pub mod pcap;
pub mod tap;
pub mod vhost_user;
