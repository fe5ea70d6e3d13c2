//! What a level costs, measured so that it can be trusted.

pub mod results;
pub mod row;
pub mod statistics;
