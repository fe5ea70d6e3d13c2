//! The monitor as a library, and what it is inside a guest.

pub mod builder;
pub mod channel;
pub mod cli;
pub mod config;
pub mod console;
pub mod doctor;
pub mod exit;
pub mod facts;
pub mod guest;
pub mod image;
pub mod kernels;
pub mod kvm;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod metal;
pub mod nest;
pub mod network;
pub mod order;
pub mod platform;
pub mod session;
pub mod signals;
pub mod size;
pub mod stats;
pub mod vcpu;
pub mod vm;
