//! nestling.
fn main() {}
