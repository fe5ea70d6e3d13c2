//! The level's console.

use std::fs::File;
use std::io::Write;

use super::{Error, Session};
use crate::bench::results::Measured;
use crate::guest::sys;

const CONSOLE: &str = "/dev/console";
/// Padding (ECMA-48, NUL): whoever shows the console shows nothing of it.
const LINE: [u8; 64] = [0; 64];
/// More than these would take a serial line seconds.
const MOST: usize = 200;

pub(super) fn write(session: &mut Session<'_>) -> Result<Measured, Error> {
    let open = || File::options().write(true).open(CONSOLE);
    let mut console = open().map_err(|source| Error::Missing {
        path: CONSOLE.to_owned(),
        source,
    })?;
    session.take(MOST, 1, || {
        console.write_all(&LINE)?;
        sys::drain(&console);
        Ok(())
    })
}
