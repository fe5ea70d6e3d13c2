//! The order a level is given, and the one it passes on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nestling::order::{Nest, Order};

fuzz_target!(|data: &[u8]| {
    let _ = Nest::parse(data);
    if let Ok(order) = Order::parse(data) {
        order.segment().expect("an order can be written");
    }
});
