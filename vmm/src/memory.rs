//! Guest memory: where it comes from, and whether the host has it.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::FromRawFd;

use nestling_arch::{GuestMemory, layout};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap};

use crate::config::{HugePages, MemoryConfig};
use crate::size::Size;

/// Why a guest got no memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host has less memory than the guest would use.
    #[error(
        "the guest's {wanted} of memory don't fit: the host has {available} available; \
         lower --memory or free memory"
    )]
    Short {
        /// What the guest was to get.
        wanted: Size,
        /// `MemAvailable`, or the free huge pages.
        available: Size,
    },
    /// Too few huge pages are reserved.
    #[error(
        "the guest's {wanted} of memory need {pages} huge pages of {page_size}, and {free} are \
         free; reserve them in /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"
    )]
    HugePages {
        /// What the guest was to get.
        wanted: Size,
        /// How many pages that is.
        pages: u64,
        /// How large a page is.
        page_size: Size,
        /// How many are free.
        free: u64,
        /// The page size in KiB, as the path spells it.
        kib: u64,
    },
    /// The kernel gave no memory.
    #[error("can't {what} {size} of guest memory: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// For how much.
        size: Size,
        /// What the kernel said.
        source: io::Error,
    },
    /// The regions could not be joined to one address space.
    #[error("can't lay out {0} of guest memory: {1}")]
    Layout(Size, String),
}

/// Allocates the memory that `config` describes, at the addresses of
/// [`layout::ram_ranges`].
///
/// Private memory is anonymous, so that the host can back it with transparent
/// huge pages: a nested guest pays for each first touch of a page at every
/// level. Shared and huge-page memory comes from a memfd.
pub fn allocate(config: &MemoryConfig) -> Result<GuestMemory, MemoryError> {
    check_available(config)?;
    let file = backing_file(config)?;
    let mut offset = 0;
    let mut regions = Vec::new();
    for (start, length) in layout::ram_ranges(config.size.bytes()) {
        regions.push(map_region(config, file.as_ref(), start, length, offset)?);
        offset += length;
    }
    GuestMemory::from_regions(regions)
        .map_err(|error| MemoryError::Layout(config.size, error.to_string()))
}

fn backing_file(config: &MemoryConfig) -> Result<Option<File>, MemoryError> {
    let huge = match config.hugepages {
        HugePages::Off if !config.shared => return Ok(None),
        HugePages::Off => 0,
        HugePages::Size2M => libc::MFD_HUGETLB | libc::MFD_HUGE_2MB,
        HugePages::Size1G => libc::MFD_HUGETLB | libc::MFD_HUGE_1GB,
    };
    let failed = |what| {
        move |source| MemoryError::Host {
            what,
            size: config.size,
            source,
        }
    };
    // SAFETY: the name is a NUL-terminated constant; the call touches no other memory.
    let fd = unsafe { libc::memfd_create(c"guest-memory".as_ptr(), libc::MFD_CLOEXEC | huge) };
    if fd < 0 {
        return Err(failed("create a memfd for")(io::Error::last_os_error()));
    }
    // SAFETY: memfd_create returned this descriptor just now, and nothing else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(config.size.bytes())
        .map_err(failed("reserve"))?;
    Ok(Some(file))
}

fn map_region(
    config: &MemoryConfig,
    file: Option<&File>,
    start: GuestAddress,
    length: u64,
    offset: u64,
) -> Result<GuestRegionMmap, MemoryError> {
    let failed = |what| {
        move |source| MemoryError::Host {
            what,
            size: Size(length),
            source,
        }
    };
    let size = usize::try_from(length)
        .map_err(|_| MemoryError::Layout(config.size, "larger than the address space".into()))?;
    let sharing = if config.shared {
        libc::MAP_SHARED
    } else {
        libc::MAP_PRIVATE
    };
    let huge = config.hugepages != HugePages::Off;
    let mut builder = MmapRegionBuilder::new(size)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_hugetlbfs(huge);
    builder = match file {
        None => builder.with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | sharing),
        Some(file) => {
            let file = file.try_clone().map_err(failed("map"))?;
            builder
                .with_file_offset(FileOffset::new(file, offset))
                // Huge pages are reserved now: their pool may be empty at first touch.
                .with_mmap_flags(sharing | if huge { 0 } else { libc::MAP_NORESERVE })
        }
    };
    let region: MmapRegion<()> = builder
        .build()
        .map_err(|error| failed("map")(io::Error::other(error)))?;
    if !huge {
        // Without the advice the guest works as well, on smaller pages.
        let _ = advise(&region, libc::MADV_HUGEPAGE);
    }
    // A crash of the monitor shouldn't spill the guest's memory into a core file.
    let _ = advise(&region, libc::MADV_DONTDUMP);
    if config.prefault {
        advise(&region, libc::MADV_POPULATE_WRITE).map_err(failed("prefault"))?;
    }
    GuestRegionMmap::new(region, start)
        .ok_or_else(|| MemoryError::Layout(config.size, format!("nothing fits at {start:?}")))
}

fn advise(region: &MmapRegion<()>, advice: i32) -> io::Result<()> {
    // SAFETY: the region is mapped for as long as `region` lives, and no advice used
    // here drops or moves its content.
    match unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Refuses a guest that would drive the host out of memory.
fn check_available(config: &MemoryConfig) -> Result<(), MemoryError> {
    let wanted = config.size;
    let page_size = match config.hugepages {
        HugePages::Off => {
            let available = available_memory().unwrap_or(Size(u64::MAX));
            return if wanted > available {
                Err(MemoryError::Short { wanted, available })
            } else {
                Ok(())
            };
        }
        HugePages::Size2M => Size::mib(2),
        HugePages::Size1G => Size::mib(1024),
    };
    let kib = page_size.bytes() >> 10;
    let free = fs::read_to_string(format!(
        "/sys/kernel/mm/hugepages/hugepages-{kib}kB/free_hugepages"
    ))
    .ok()
    .and_then(|text| text.trim().parse().ok())
    .unwrap_or(0);
    let pages = wanted.bytes().div_ceil(page_size.bytes());
    if pages > free {
        return Err(MemoryError::HugePages {
            wanted,
            pages,
            page_size,
            free,
            kib,
        });
    }
    Ok(())
}

/// What the kernel estimates can be had without swapping: `MemAvailable` of
/// proc(5). `None` where it isn't told.
pub fn available_memory() -> Option<Size> {
    parse_available(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<Size> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    // In whole MiB, which is how people read it.
    kib.checked_mul(1024).map(|bytes| Size(bytes >> 20 << 20))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    fn config(size: Size) -> MemoryConfig {
        MemoryConfig {
            size,
            ..MemoryConfig::default()
        }
    }

    #[test]
    fn memory_of_every_kind_is_zero_and_writable() {
        for shared in [false, true] {
            let memory = allocate(&MemoryConfig {
                shared,
                ..config(Size::mib(16))
            })
            .expect("16 MiB");
            let last = GuestAddress((16 << 20) - 8);
            assert_eq!(memory.read_obj::<u64>(last).expect("inside"), 0);
            memory.write_obj(7u64, last).expect("inside");
            assert_eq!(memory.read_obj::<u64>(last).expect("inside"), 7);
            assert_eq!(memory.iter().all(|r| r.file_offset().is_some()), shared);
        }
    }

    #[test]
    fn memory_past_the_hole_continues_at_4_gib() {
        let memory = allocate(&config(Size(4 << 30))).expect("reserved, not touched");
        let starts: Vec<u64> = memory.iter().map(|r| r.start_addr().0).collect();
        assert_eq!(starts, [0, 4 << 30]);
        assert_eq!(
            memory.iter().map(GuestMemoryRegion::len).sum::<u64>(),
            4 << 30
        );
    }

    #[test]
    fn more_than_the_host_has_is_refused_with_both_numbers() {
        let wanted = Size(1 << 46);
        let error = allocate(&config(wanted)).expect_err("64 TiB");
        assert!(
            matches!(error, MemoryError::Short { wanted: w, .. } if w == wanted),
            "{error}"
        );
    }

    #[test]
    fn finds_the_line_in_meminfo() {
        let text = "MemTotal: 9000 kB\nMemAvailable:   4200 kB\n";
        assert_eq!(parse_available(text), Some(Size::mib(4)));
        assert_eq!(parse_available("MemTotal: 100 kB\n"), None);
    }
}
