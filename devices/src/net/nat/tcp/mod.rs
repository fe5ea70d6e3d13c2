//! The TCP translator.

mod congestion;
pub mod flow;
mod rtt;
pub mod seq;
pub mod streams;

#[cfg(test)]
mod tests;
