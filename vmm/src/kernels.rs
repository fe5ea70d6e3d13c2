//! Kernels that have been booted before, kept unpacked: unpacking is most of
//! what a boot costs the host, and it comes out the same every time.

#![allow(unsafe_code)]

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::time::SystemTime;

use nestling_arch::boot::Repack;
use sha2::{Digest, Sha256};

use crate::image::cache::Cache;
use crate::mapping::Mapping;

/// Kernels kept; the one unused for longest goes first.
const KEPT: usize = 8;

/// No kernel unpacks to more; a header that says so is damaged.
const MAX_SIZE: usize = 1 << 30;

/// The file to boot `kernel` from: the kernel kept unpacked, or `kernel`
/// itself where that can't be had. Keeping it is never worth a failed boot.
pub fn find(kernel: &Path) -> PathBuf {
    let Ok(folder) = Cache::default_path().map(|root| root.join("unpacked")) else {
        return kernel.to_owned();
    };
    match keep(kernel, &folder) {
        Ok(Some(kept)) => kept,
        Ok(None) => kernel.to_owned(),
        Err(error) => {
            tracing::debug!(
                "the kernel isn't kept unpacked in {}: {error}",
                folder.display()
            );
            kernel.to_owned()
        }
    }
}

fn keep(kernel: &Path, folder: &Path) -> io::Result<Option<PathBuf>> {
    let kept = folder.join(name(&fs::canonicalize(kernel)?, &fs::metadata(kernel)?));
    if let Ok(file) = File::options().append(true).open(&kept) {
        // What was used last is dropped last.
        let _ = file.set_modified(SystemTime::now());
        return Ok(Some(kept));
    }
    let image = Mapping::open(kernel, "kernel").map_err(io::Error::other)?;
    let Some(repack) = Repack::new(&image).map_err(io::Error::other)? else {
        return Ok(None);
    };
    if repack.size() > MAX_SIZE {
        return Ok(None);
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let partial = folder.join(format!("partial-{}", std::process::id()));
    let written = write(&repack, &partial).and_then(|()| fs::rename(&partial, &kept));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written?;
    prune(folder)?;
    Ok(Some(kept))
}

/// A name that changes whenever the kernel's file does.
fn name(path: &Path, metadata: &Metadata) -> String {
    let mut hasher = Sha256::new();
    hasher.update(env!("CARGO_PKG_VERSION"));
    hasher.update(path.as_os_str().as_encoded_bytes());
    for number in [metadata.dev(), metadata.ino(), metadata.size()] {
        hasher.update(number.to_le_bytes());
    }
    for time in [
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ] {
        hasher.update(time.to_le_bytes());
    }
    let digest = hasher.finalize();
    digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Unpacks into the file's own pages: the kernel never lies on the heap.
fn write(repack: &Repack<'_>, path: &Path) -> io::Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let length = repack.size();
    let room = libc::off_t::try_from(length).map_err(io::Error::other)?;
    // A page of the mapping that finds no room on the disk would be a SIGBUS.
    // SAFETY: this concerns the open file alone.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, room) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    // SAFETY: a fresh mapping at an address of the kernel's choice; the file is open.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    let start = NonNull::new(start)
        .filter(|start| start.as_ptr() != libc::MAP_FAILED)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the mapping has `length` bytes, all of them the new file's zeroes, and is this
    // function's alone: the file has a private name in the user's own folder.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), length) };
    let written = repack.write(bytes).map_err(io::Error::other);
    // SAFETY: `bytes` is used no more.
    unsafe { libc::munmap(start.as_ptr(), length) };
    written
}

fn prune(folder: &Path) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    kept.sort();
    for (_, path) in kept.iter().take(kept.len().saturating_sub(KEPT)) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_file_that_changes_gets_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, b"one").unwrap();
        let first = name(&path, &fs::metadata(&path).unwrap());
        assert_eq!(first, name(&path, &fs::metadata(&path).unwrap()));
        fs::write(&path, b"four").unwrap();
        assert_ne!(first, name(&path, &fs::metadata(&path).unwrap()));
    }

    #[test]
    fn what_is_no_packed_kernel_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kept) = (folder.path().join("kernel"), folder.path().join("kept"));
        fs::write(&path, b"\x7fELF and so on").unwrap();
        assert_eq!(keep(&path, &kept).unwrap(), None);
        assert!(!kept.exists());
    }

    #[test]
    fn the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let start = SystemTime::now();
        for index in 0..10u64 {
            let file = File::create(folder.path().join(index.to_string())).unwrap();
            file.set_modified(start + Duration::from_secs(index))
                .unwrap();
        }
        prune(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["2", "3", "4", "5", "6", "7", "8", "9"]);
    }
}
