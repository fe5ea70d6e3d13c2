//! A private directory that goes when its owner does.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of mode 0700, removed with its contents on drop.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes one in the system's directory for temporary files.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("nestling-{}-{number}", process::id());
            let path = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&path) {
                // Left by an earlier process of this number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self(path)),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file that goes when this does: a lock that a killed emulator leaves.
#[derive(Debug)]
pub struct Leftover(pub PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        // Most often it isn't there.
        let _ = fs::remove_file(&self.0);
    }
}
