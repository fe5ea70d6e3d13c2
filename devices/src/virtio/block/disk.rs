//! A disk's contents in a raw file or a block device.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use crate::scatter::ScatterList;

/// Bytes in a sector, the unit of virtio-blk whatever the disk (virtio 1.3, 5.2.4).
pub const SECTOR: u64 = 512;

/// Written where a file can't be zeroed in place.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// Why a disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be opened as asked.
    #[error("cannot open disk {path:?}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is neither a regular file nor a block device.
    #[error("disk {path:?} is neither a regular file nor a block device", path = path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
    },
    /// The size isn't a whole, non-zero number of sectors.
    #[error(
        "disk {path:?} has {size} bytes, which is not a positive multiple of {SECTOR}: \
         extend it with truncate --size=%{SECTOR}",
        path = path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Another process has the disk, and one of the two wants to write.
    #[error(
        "disk {path:?} is in use by another process: stop it, or open the disk read-only in both",
        path = path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be locked.
    #[error("cannot lock disk {path:?}: {source}", path = path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A raw disk image or a block device, locked for as long as it is open.
///
/// The lock is advisory (open file description locks, fcntl(2)): shared for
/// readers, exclusive for a writer, so that two machines can't write one disk.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    path: PathBuf,
    sectors: u64,
    readonly: bool,
    discards: bool,
}

impl RawDisk {
    /// Opens and locks the disk at `path`.
    pub fn open(path: &Path, readonly: bool) -> Result<Self, Error> {
        let open = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!readonly)
            .open(path)
            .map_err(open)?;
        let kind = file.metadata().map_err(open)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::NotADisk {
                path: path.to_owned(),
            });
        }
        lock(&file, path, readonly)?;
        // The end is the size of block devices as well, whose metadata says zero.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(open)?;
        if size == 0 || size % SECTOR != 0 {
            return Err(Error::Size {
                path: path.to_owned(),
                size,
            });
        }
        let discards = !readonly && (kind.is_block_device() || punches_holes(&file, size));
        Ok(Self {
            file,
            path: path.to_owned(),
            sectors: size / SECTOR,
            readonly,
            discards,
        })
    }

    /// The path by which the disk was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The disk's size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the disk refuses to be written.
    pub fn readonly(&self) -> bool {
        self.readonly
    }

    /// Whether discarding sectors gives their room back to the host.
    pub fn discards(&self) -> bool {
        self.discards
    }

    /// Reads from byte `offset` until `buffers` is full, and consumes it.
    pub fn read(&self, buffers: &mut ScatterList, offset: u64) -> io::Result<()> {
        buffers.read_exact_at(&self.file, offset)
    }

    /// Writes all of `buffers` from byte `offset` on, and consumes it.
    pub fn write(&self, buffers: &mut ScatterList, offset: u64) -> io::Result<()> {
        buffers.write_all_at(&self.file, offset)
    }

    /// Makes what was written survive a power cut.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the room of `length` bytes at `offset` back to the host; what
    /// they read as from then on is undefined.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateMode::PunchHole, true, offset, length) {
            Ok(()) => Ok(()),
            // A discard is a hint: without support, keeping the data is right.
            Err(error) if unsupported(error.errno()) => Ok(()),
            Err(error) => Err(io::Error::from_raw_os_error(error.errno())),
        }
    }

    /// Makes `length` bytes at `offset` read as zero; `unmap` allows giving
    /// their room back.
    pub fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let mode = if unmap {
            FallocateMode::PunchHole
        } else {
            FallocateMode::ZeroRange
        };
        match fallocate(&self.file, mode, true, offset, length) {
            Ok(()) => Ok(()),
            Err(error) if unsupported(error.errno()) => self.write_zero_bytes(offset, length),
            Err(error) => Err(io::Error::from_raw_os_error(error.errno())),
        }
    }

    fn write_zero_bytes(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let count = ZEROES
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            self.file.write_all_at(&ZEROES[..count], offset)?;
            offset += count as u64;
            length -= count as u64;
        }
        Ok(())
    }
}

fn unsupported(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV)
}

/// Asks the file system by punching a hole past the end, which changes nothing.
fn punches_holes(file: &File, size: u64) -> bool {
    fallocate(file, FallocateMode::PunchHole, true, size, SECTOR).is_ok()
}

fn lock(file: &File, path: &Path, readonly: bool) -> Result<(), Error> {
    // SAFETY: all-zero bytes are a valid flock: the whole file, from its start.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    let kind = if readonly {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    lock.l_type = libc::c_short::try_from(kind).expect("lock types are small numbers");
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).expect("zero");
    // SAFETY: F_OFD_SETLK only reads the structure, which outlives the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    match source.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(Error::InUse {
            path: path.to_owned(),
        }),
        _ => Err(Error::Lock {
            path: path.to_owned(),
            source,
        }),
    }
}
