//! Files read in place.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::slice;

/// Why a file can't be read in place.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// It can't be opened, or isn't a regular file's content.
    #[error("can't read the {what} {path}: {source}")]
    Open {
        /// What the file is to be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds nothing.
    #[error("the {what} {path} is empty")]
    Empty {
        /// What the file is to be.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It is a folder, a socket, a device.
    #[error("the {what} {path} is no regular file")]
    NotRegular {
        /// What the file is to be.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
}

/// A private, read-only mapping of a whole file: its pages stay in the page
/// cache and none is copied to the heap.
///
/// Whoever truncates the file meanwhile ends the monitor by SIGBUS; kernels
/// and ramdisks are replaced by renaming, not rewritten.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: the mapping is read-only memory of the process, not of a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing can be changed through it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the file at `path`; `what` names its purpose in errors.
    pub fn open(path: &Path, what: &'static str) -> Result<Self, MappingError> {
        let failed = |source| MappingError::Open {
            what,
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(MappingError::NotRegular {
                what,
                path: path.into(),
            });
        }
        let length = usize::try_from(metadata.len())
            .map_err(|_| failed(io::Error::from_raw_os_error(libc::EFBIG)))?;
        if length == 0 {
            return Err(MappingError::Empty {
                what,
                path: path.into(),
            });
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file is open.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(failed(io::Error::last_os_error())),
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range is mapped readable for as long as `self` lives, and private: no
        // other process's write to the file is a write to these bytes that the language must
        // know of, as nobody writes the file in place (see the type).
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `open` and no slice of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_its_bytes() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), b"kernel").expect("written");
        let mapping = Mapping::open(file.path(), "kernel").expect("readable");
        assert_eq!(&*mapping, b"kernel");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty");
        fs::write(&empty, b"").expect("written");
        for (path, end) in [
            (
                folder.path().join("none"),
                "none: No such file or directory (os error 2)",
            ),
            (empty, "empty is empty"),
            (folder.path().to_owned(), " is no regular file"),
        ] {
            let error = Mapping::open(&path, "kernel").expect_err(end).to_string();
            assert!(error.contains("kernel ") && error.ends_with(end), "{error}");
        }
    }
}
