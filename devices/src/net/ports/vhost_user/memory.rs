//! The guest's memory, as the front end shares it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nestling_arch::GuestMemory;
use rustix::fs::{FsWord, fstatfs};
use vm_memory::{GuestAddress, GuestRegionMmap};

use super::mapping::Mapping;
use super::message;

/// Regions start and end at pages.
const PAGE: u64 = 4096;

/// Where memory is only ever memory (statfs(2)). Elsewhere, whoever touches a
/// page might wait for another process to bring it.
const TMPFS: FsWord = 0x0102_1994;
const HUGETLBFS: FsWord = 0x9584_58F6;

/// Memory that can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("a region of {size:#x} bytes at {address:#x} doesn't consist of whole pages")]
    Pages { address: u64, size: u64 },
    #[error("the region at {address:#x} ends past its file of {len:#x} bytes")]
    PastTheEnd { address: u64, len: u64 },
    #[error(
        "the region at {address:#x} is no shared memory: use a memfd, or a file on tmpfs or \
         hugetlbfs"
    )]
    Kind { address: u64 },
    #[error("the region at {address:#x} cannot be mapped: {source}")]
    Map { address: u64, source: io::Error },
    #[error("the regions are no guest memory: {0}")]
    Layout(vm_memory::GuestRegionCollectionError),
    #[error("{address:#x} of the front end's is in no region")]
    Untranslated { address: u64 },
}

/// A region, and where it is in the guest and in the front end.
struct Region {
    guest: u64,
    user: u64,
    size: u64,
    mapping: Mapping,
}

impl Region {
    fn map(
        region: &message::Region,
        file: &File,
        connection: &Arc<UnixStream>,
    ) -> Result<Self, Error> {
        let &message::Region {
            guest: address,
            size,
            user,
            offset,
        } = region;
        if size == 0
            || [address, size, user, offset]
                .iter()
                .any(|at| at % PAGE != 0)
        {
            return Err(Error::Pages { address, size });
        }
        let failed = |source| Error::Map { address, source };
        let found = fstatfs(file).map_err(|error| failed(error.into()))?.f_type;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() || ![TMPFS, HUGETLBFS].contains(&found) {
            return Err(Error::Kind { address });
        }
        let len = metadata.len();
        let end = offset.checked_add(size);
        if end.is_none_or(|end| end > len) {
            return Err(Error::PastTheEnd { address, len });
        }
        let bytes = usize::try_from(size).map_err(|_| Error::Pages { address, size })?;
        let mapping = Mapping::new(file, offset, bytes, connection.clone()).map_err(failed)?;
        Ok(Self {
            guest: address,
            user,
            size,
            mapping,
        })
    }
}

/// All regions.
#[derive(Default)]
pub(super) struct Memory {
    regions: Vec<Region>,
    /// Made of the regions when it is asked for.
    guest: Option<Arc<GuestMemory>>,
}

impl Memory {
    /// Maps regions, each with its file.
    pub(super) fn map(
        regions: Vec<(message::Region, OwnedFd)>,
        connection: &Arc<UnixStream>,
    ) -> Result<Self, Error> {
        let regions = regions.into_iter();
        Ok(Self {
            regions: regions
                .map(|(region, file)| Region::map(&region, &file.into(), connection))
                .collect::<Result<_, _>>()?,
            guest: None,
        })
    }

    /// The guest physical address of what the front end has at `address`.
    pub(super) fn translate(&self, address: u64) -> Result<u64, Error> {
        let found = self.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.user)?;
            (offset < region.size).then(|| region.guest + offset)
        });
        found.ok_or(Error::Untranslated { address })
    }

    /// The regions as guest memory.
    pub(super) fn guest(&mut self) -> Result<Arc<GuestMemory>, Error> {
        if let Some(guest) = &self.guest {
            return Ok(guest.clone());
        }
        let mut regions: Vec<_> = self.regions.iter().collect();
        regions.sort_by_key(|region| region.guest);
        let regions = regions.iter().map(|region| {
            let address = region.guest;
            // SAFETY: mappings are dropped only when nobody has the guest
            // memory any more, or never.
            let mapped = unsafe { region.mapping.region() };
            let mapped = mapped.map_err(|source| Error::Map { address, source })?;
            let past_the_end = || Error::Pages {
                address,
                size: region.size,
            };
            GuestRegionMmap::new(mapped, GuestAddress(address)).ok_or_else(past_the_end)
        });
        let regions = regions.collect::<Result<Vec<_>, _>>()?;
        let guest = Arc::new(GuestMemory::from_regions(regions).map_err(Error::Layout)?);
        self.guest = Some(guest.clone());
        Ok(guest)
    }
}

impl Drop for Memory {
    /// Drops the guest memory before the mappings. Whoever it was lent to must
    /// have dropped it; otherwise the mappings stay for ever.
    fn drop(&mut self) {
        if let Some(guest) = self.guest.take()
            && Arc::try_unwrap(guest).is_err()
        {
            tracing::error!("a front end's memory is in use after its rings were stopped");
            std::mem::forget(std::mem::take(&mut self.regions));
        }
    }
}
