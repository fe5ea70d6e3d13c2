//! The time-stamp counter.

#![allow(unsafe_code)]

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long the counter is held against the clock.
const CALIBRATION: Duration = Duration::from_millis(20);

/// Reads the counter when all that comes before is done, and before anything that
/// comes after begins (SDM 2B, RDTSC; LFENCE waits for both).
#[inline(always)]
pub(super) fn read() -> u64 {
    // SAFETY: both instructions are in every x86-64 processor and touch no memory.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Ticks between two readings with nothing between them: the median of many.
pub(super) fn cost() -> u64 {
    let mut costs = [(); 1001].map(|()| {
        let start = read();
        read().wrapping_sub(start)
    });
    let (_, median, _) = costs.select_nth_unstable(500);
    *median
}

/// The counter's frequency, held against CLOCK_MONOTONIC once.
pub(super) fn khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(|| {
        let (start, ticks) = (Instant::now(), read());
        while start.elapsed() < CALIBRATION {
            std::hint::spin_loop();
        }
        let ticks = u128::from(read().wrapping_sub(ticks));
        let khz = ticks * 1_000_000 / start.elapsed().as_nanos();
        u64::try_from(khz).unwrap_or(u64::MAX)
    })
}
