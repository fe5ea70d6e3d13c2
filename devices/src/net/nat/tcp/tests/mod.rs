//! Whole connections between a model of a guest and a model of a host.
// The models' streams are short: their lengths and positions fit all types.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

mod bounds;
mod cost;
pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod hosts;
mod network;
mod soak;
mod streams;
mod table;
mod translation;
