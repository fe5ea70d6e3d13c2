//! A processor at work.

use std::hint::black_box;

use sha2::{Digest, Sha256};

use super::{Error, Session};
use crate::bench::results::Measured;

/// Half of the smallest first cache.
const HASHED: usize = 16 << 10;
/// How often it is hashed in one sample.
const TIMES: usize = 4;

pub(super) fn hash(session: &mut Session<'_>) -> Result<Measured, Error> {
    let buffer = [0xA5; HASHED];
    session.take(usize::MAX, (HASHED * TIMES) as u64, || {
        for _ in 0..TIMES {
            black_box(Sha256::digest(black_box(&buffer)));
        }
        Ok(())
    })
}
