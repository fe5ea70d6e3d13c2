//! A machine's user: keys on their way in, output on its way out, the terminal,
//! and the descriptors behind them.

pub mod input;
pub mod keyboard;
pub mod output;
pub mod streams;
pub mod terminal;
