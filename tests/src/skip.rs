//! Tests that can't run here. libtest has no word for that at run time, so such a
//! test passes and says on standard error, on one line that can be counted,
//! that it was skipped and why.

use std::io::{self, Write};
use std::path::Path;

/// Says that the calling test is skipped. The line escapes libtest's capture.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test");
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// Unwraps, or skips the calling test with the reason.
#[macro_export]
macro_rules! or_skip {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => {
                $crate::skip::skip(&why.to_string());
                return;
            }
        }
    };
}

/// Whether `program` is in the search path.
///
/// # Errors
/// The reason for a skip.
pub fn needs(program: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        Ok(())
    } else {
        Err(format!("{program} is not installed"))
    }
}

/// Whether this host's KVM can be opened.
///
/// # Errors
/// The reason for a skip.
pub fn needs_kvm() -> Result<(), String> {
    let device = Path::new("/dev/kvm");
    std::fs::File::options()
        .read(true)
        .write(true)
        .open(device)
        .map(drop)
        .map_err(|error| format!("{}: {error}", device.display()))
}
