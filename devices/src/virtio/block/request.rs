//! virtio-blk requests (virtio 1.3, 5.2.6): parsed, checked, carried out.

use std::io;
use std::time::Duration;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use zerocopy::{FromBytes, IntoBytes, LE, U32, U64};

use super::disk::{RawDisk, SECTOR};
use crate::ratelimit::RateLimit;
use crate::scatter::ScatterList;

/// The most sectors in one segment of a discard or write-zeroes request:
/// 64 MiB, what zeroing by hand does in a moment.
pub(super) const MAX_RANGE_SECTORS: u32 = 64 * 1024 * 1024 / 512;
/// The most segments in a discard or write-zeroes request.
pub(super) const MAX_RANGES: u32 = 16;
/// Bytes of a disk's identity.
pub(super) const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// A full or failing host disk answers every request with an error.
static HOST_ERRORS: RateLimit = RateLimit::new(5, Duration::from_secs(60));

/// The fixed start of a request.
#[derive(FromBytes, IntoBytes, Default)]
#[repr(C)]
struct Header {
    kind: U32<LE>,
    reserved: U32<LE>,
    sector: U64<LE>,
}

/// A segment of a discard or write-zeroes request.
#[derive(FromBytes, IntoBytes, Default)]
#[repr(C)]
struct Range {
    sector: U64<LE>,
    sectors: U32<LE>,
    flags: U32<LE>,
}

/// How a request ends, apart from success.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    Io,
    Unsupported,
}

/// What requests work on.
pub(super) struct Target<'a> {
    pub(super) disk: &'a RawDisk,
    pub(super) id: &'a [u8; ID_BYTES],
    /// Whether each write is to be flushed before it is answered.
    pub(super) write_through: bool,
}

/// Carries out the request in `readable`, answers into `writable`, and
/// returns how many bytes the driver finds written. `status` is scratch room.
///
/// An error says why the chain is no request at all: nothing can be answered.
pub(super) fn execute(
    target: &Target<'_>,
    readable: &mut ScatterList,
    writable: &mut ScatterList,
    status: &mut ScatterList,
) -> Result<usize, &'static str> {
    let mut header = Header::default();
    if !readable.take(header.as_mut_bytes()) {
        return Err("too short for a request header");
    }
    let Some(room) = writable.len().checked_sub(1) else {
        return Err("no room for a request's status");
    };
    writable.split_into(room, status);
    let (code, written) = match target.dispatch(&header, readable, writable) {
        Ok(data) => (VIRTIO_BLK_S_OK, data + 1),
        Err(Failure::Io) => (VIRTIO_BLK_S_IOERR, 1),
        Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 1),
    };
    status.write_at(0, &code.to_le_bytes()[..1]);
    Ok(written)
}

impl Target<'_> {
    /// Returns the bytes of data written to the driver.
    fn dispatch(
        &self,
        header: &Header,
        readable: &mut ScatterList,
        writable: &mut ScatterList,
    ) -> Result<usize, Failure> {
        match header.kind.get() {
            VIRTIO_BLK_T_IN => {
                let length = writable.len();
                let offset = self.offset(header.sector.get(), length as u64)?;
                self.host(self.disk.read(writable, offset))?;
                Ok(length)
            }
            VIRTIO_BLK_T_OUT => {
                self.check_writable()?;
                let offset = self.offset(header.sector.get(), readable.len() as u64)?;
                self.host(self.disk.write(readable, offset))?;
                self.settle()
            }
            VIRTIO_BLK_T_FLUSH => {
                self.host(self.disk.flush())?;
                Ok(0)
            }
            VIRTIO_BLK_T_GET_ID => {
                let length = writable.len().min(ID_BYTES);
                writable.write_at(0, &self.id[..length]);
                Ok(length)
            }
            VIRTIO_BLK_T_DISCARD => self.ranges(readable, |range| {
                if range.flags.get() != 0 || !self.disk.discards() {
                    return Err(Failure::Unsupported);
                }
                let (offset, length) = self.extent(range)?;
                self.host(self.disk.discard(offset, length))
            }),
            VIRTIO_BLK_T_WRITE_ZEROES => self.ranges(readable, |range| {
                let unmap = match range.flags.get() {
                    0 => false,
                    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => true,
                    _ => return Err(Failure::Unsupported),
                };
                let (offset, length) = self.extent(range)?;
                self.host(self.disk.write_zeroes(offset, length, unmap))
            }),
            _ => Err(Failure::Unsupported),
        }
    }

    /// Turns what the host said into what the driver is told.
    fn host(&self, result: io::Result<()>) -> Result<(), Failure> {
        result.map_err(|error| {
            if let Some(suppressed) = HOST_ERRORS.admit() {
                let disk = self.disk.path().display();
                tracing::warn!(%disk, %error, suppressed, "disk request failed");
            }
            match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => Failure::Unsupported,
                _ => Failure::Io,
            }
        })
    }

    /// Applies `apply` to each segment of a discard or write-zeroes request.
    fn ranges(
        &self,
        readable: &mut ScatterList,
        apply: impl Fn(&Range) -> Result<(), Failure>,
    ) -> Result<usize, Failure> {
        self.check_writable()?;
        let limit = size_of::<Range>() * MAX_RANGES as usize;
        if readable.is_empty() || readable.len() > limit {
            return Err(Failure::Io);
        }
        if !readable.len().is_multiple_of(size_of::<Range>()) {
            return Err(Failure::Io);
        }
        let mut range = Range::default();
        while readable.take(range.as_mut_bytes()) {
            apply(&range)?;
        }
        self.settle()
    }

    fn extent(&self, range: &Range) -> Result<(u64, u64), Failure> {
        let sectors = range.sectors.get();
        if sectors == 0 || sectors > MAX_RANGE_SECTORS {
            return Err(Failure::Io);
        }
        let length = u64::from(sectors) * SECTOR;
        Ok((self.offset(range.sector.get(), length)?, length))
    }

    /// The byte offset of `sector`, if `length` bytes from there are whole
    /// sectors of the disk.
    fn offset(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(length / SECTOR).ok_or(Failure::Io)?;
        if !length.is_multiple_of(SECTOR) || end > self.disk.sectors() {
            return Err(Failure::Io);
        }
        Ok(sector * SECTOR)
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.disk.readonly() {
            Err(Failure::Io)
        } else {
            Ok(())
        }
    }

    /// Ends a request that changed the disk.
    fn settle(&self) -> Result<usize, Failure> {
        if self.write_through {
            self.host(self.disk.flush())?;
        }
        Ok(0)
    }
}
