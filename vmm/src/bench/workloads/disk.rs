//! A disk, past the level's own page cache.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::{Error, Session};
use crate::bench::results::Measured;
use crate::bench::statistics::Random;

/// What is used of a disk, from its start.
const USED: u64 = 16 << 20;
/// Read or written at once where one is after another.
const LARGE: usize = 128 << 10;
/// Read at once where they are here and there.
const SMALL: usize = 4 << 10;
/// Many times all that is used.
const MOST: usize = 2000;
/// A multiple of all disks' sectors, which O_DIRECT asks of places and of memory.
const ALIGNMENT: usize = 4 << 10;

pub(super) fn read_in_order(session: &mut Session<'_>) -> Result<Measured, Error> {
    let disk = Disk::open(session)?;
    let mut buffer = Buffer::new();
    let mut places = disk.in_order();
    session.take(MOST, LARGE as u64, || {
        disk.file.read_exact_at(buffer.bytes(), places())
    })
}

pub(super) fn write_in_order(session: &mut Session<'_>) -> Result<Measured, Error> {
    let disk = Disk::open(session)?;
    let mut buffer = Buffer::new();
    let mut places = disk.in_order();
    session.take(MOST, LARGE as u64, || {
        disk.file.write_all_at(buffer.bytes(), places())
    })
}

pub(super) fn read_here_and_there(session: &mut Session<'_>) -> Result<Measured, Error> {
    let disk = Disk::open(session)?;
    let mut buffer = Buffer::new();
    let mut random = Random::new(1);
    let count = usize::try_from(disk.used).map_err(io::Error::other)? / SMALL;
    session.take(usize::MAX, 1, || {
        let place = (random.below(count) * SMALL) as u64;
        disk.file.read_exact_at(&mut buffer.bytes()[..SMALL], place)
    })
}

/// The level's scratch disk.
struct Disk {
    file: File,
    /// A multiple of [`LARGE`], and not zero.
    used: u64,
}

impl Disk {
    /// Opens it, and writes all that is used of it: the file behind it then has it.
    fn open(session: &Session<'_>) -> Result<Self, Error> {
        let path = session.resources.disk.as_deref().ok_or(Error::NoDisk)?;
        let open = || {
            let mut file = File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(path)?;
            // Of a block device, too, this is the size.
            let size = file.seek(SeekFrom::End(0))?;
            let used = size.min(USED) / LARGE as u64 * LARGE as u64;
            if used == 0 {
                let error = format!("it has {size} bytes, and it takes {LARGE} at least");
                return Err(io::Error::other(error));
            }
            let mut buffer = Buffer::new();
            for place in (0..used).step_by(LARGE) {
                file.write_all_at(buffer.bytes(), place)?;
            }
            Ok(Self { file, used })
        };
        open().map_err(|source| Error::Missing {
            path: path.display().to_string(),
            source,
        })
    }

    /// One place after another, and after the last the first.
    fn in_order(&self) -> impl FnMut() -> u64 + use<> {
        let (used, mut next) = (self.used, 0);
        move || {
            let place = next;
            next = (next + LARGE as u64) % used;
            place
        }
    }
}

/// [`LARGE`] bytes, aligned.
struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let memory = vec![0xA5; LARGE + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..LARGE]
    }
}
