//! The monitor as a library, and what it is inside a guest.

pub mod builder;
pub mod channel;
pub mod cli;
pub mod config;
pub mod exit;
pub mod facts;
pub mod guest;
pub mod image;
pub mod input;
pub mod keyboard;
pub mod kvm;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod nest;
pub mod order;
pub mod platform;
pub mod report;
pub mod session;
pub mod signals;
pub mod size;
pub mod stats;
pub mod streams;
pub mod terminal;
pub mod vcpu;
pub mod vm;
