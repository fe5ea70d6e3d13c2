//! What can be said of measurements, and how surely. Pure: numbers in, numbers out,
//! the same every time.

mod bootstrap;
mod control;
mod random;
mod series;
mod sorted;

pub use bootstrap::{Bootstrap, Estimate, Spread};
pub use control::{Control, sign_flip_p};
pub use random::Random;
pub use series::Series;
pub use sorted::{Quantiles, Sorted};

/// The fewest boots from which anything follows with 95 %.
///
/// The median of all boots there could be lies outside the range of n measured ones
/// with probability 2^(1-n), and swapping signs at random can't be less likely than
/// that either: 6 % for five boots, 3 % for six.
pub const MIN_BOOTS: usize = 6;
