//! Helpers shared by the integration tests.
//!
//! The tests know nestling by its public face only: the binary, its command line,
//! and the JSON it takes and prints. A test of a nest is an assertion on one
//! shared run, because booting the emulated metal is what takes the time.

pub mod binary;
pub mod cpu;
pub mod fleet;
pub mod hypervisor;
pub mod lab;
pub mod nest;
pub mod pattern;
pub mod payload;
pub mod plan;
pub mod qemu;
pub mod results;
pub mod skip;
pub mod slurm;
pub mod terminal;
pub mod xen;
