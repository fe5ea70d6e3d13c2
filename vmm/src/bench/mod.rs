//! What a level costs, measured so that it can be trusted.

pub mod compare;
mod environment;
pub mod exits;
mod number;
pub mod report;
pub mod results;
pub mod row;
pub mod runner;
pub mod server;
pub mod slurm;
pub mod statistics;
pub mod work;
pub mod workloads;

#[cfg(test)]
mod synthetic;
