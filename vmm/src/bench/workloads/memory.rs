//! Pages touched for the first time, loads that miss the TLB, and copies.

#![allow(unsafe_code)]

use std::arch::asm;
use std::ffi::CStr;
use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use super::{Error, Session};
use crate::bench::results::Measured;
use crate::bench::statistics::Random;

const PAGE: usize = 4 << 10;
const LARGE_PAGE: usize = 2 << 20;
/// Large pages touched: 32 MiB, so that a level of 256 MiB has as many.
const MOST_LARGE_PAGES: usize = 16;
/// Pages of 4 KiB touched: 16 MiB.
const MOST_PAGES: usize = 4096;
/// What is chased through: 64 MiB.
const CHASED: usize = 64 << 20;
/// One load for each eight pages: their entries of the page table share a cache line, and
/// where KVM shadows one of them, it shadows all (`pte_prefetch` in `paging_tmpl.h`).
const STRIDE: usize = 8 * PAGE;
/// Loads in one sample, so that reading the time is little of it.
const LOADS: usize = 16;
/// What is copied from, and as much to.
const COPIED: usize = 32 << 20;
/// What is copied at a time.
const COPY: usize = 1 << 20;
const WORD: usize = size_of::<u64>();

pub(super) fn touch_4k(session: &mut Session<'_>) -> Result<Measured, Error> {
    touch(session, PAGE, MOST_PAGES, libc::MADV_NOHUGEPAGE)
}

pub(super) fn touch_2m(session: &mut Session<'_>) -> Result<Measured, Error> {
    // Kept, so that no sample is given its memory.
    let _first = large_page()?;
    touch(session, LARGE_PAGE, MOST_LARGE_PAGES, libc::MADV_HUGEPAGE)
}

fn touch(
    session: &mut Session<'_>,
    page: usize,
    most: usize,
    advice: libc::c_int,
) -> Result<Measured, Error> {
    let pages = session.samples.min(most);
    let memory = Region::fresh(pages * page, advice)?;
    let mut index = 0;
    session.take(pages, 1, || {
        memory.write(index * page, 1);
        index += 1;
        Ok(())
    })
}

/// A page of 2 MiB, if the kernel gives one: by default it gives none where there are less
/// than 512 MiB of memory.
fn large_page() -> Result<Region, Error> {
    let path = "/proc/self/smaps_rollup";
    let kib = || {
        let text = fs::read_to_string(path).map_err(|source| Error::Missing {
            path: path.to_owned(),
            source,
        })?;
        let mut lines = text.lines();
        let kib = lines.find_map(|line| line.strip_prefix("AnonHugePages:"));
        let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok::<_, Error>(kib.unwrap_or(0))
    };
    let before = kib()?;
    let page = Region::fresh(LARGE_PAGE, libc::MADV_HUGEPAGE)?;
    page.write(0, 1);
    match kib()? > before {
        true => Ok(page),
        false => Err(Error::NoLargePages),
    }
}

/// Each place is loaded from once: a hypervisor that shadows page tables has to fill its
/// own at that load.
pub(super) fn pointer_chase(session: &mut Session<'_>) -> Result<Measured, Error> {
    const PLACES: usize = CHASED / STRIDE;
    let file = memory_file(c"pointer-chase", CHASED)?;
    // A random cycle through all places (Sattolo's algorithm).
    let mut next: Vec<usize> = (0..PLACES).collect();
    let mut random = Random::new(1);
    for last in (1..PLACES).rev() {
        next.swap(last, random.below(last));
    }
    // Each place is on a cache line of its own number, so that they spread over all sets
    // of the caches.
    let offset = |place: usize| place * STRIDE + place % 64 * 64;
    for (place, next) in next.into_iter().enumerate() {
        file.write_all_at(&offset(next).to_ne_bytes(), offset(place) as u64)?;
    }
    let memory = Region::of(&file, CHASED)?;
    let mut at = offset(0);
    session.take(PLACES / LOADS, LOADS as u64, || {
        for _ in 0..LOADS {
            at = memory.read(at);
        }
        black_box(at);
        Ok(())
    })
}

/// A file of `length` in memory (memfd_create(2)).
fn memory_file(name: &CStr, length: usize) -> io::Result<File> {
    // SAFETY: the name ends in NUL and outlives the call.
    let file = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel returned this descriptor just now, and nothing else owns it.
    let file = unsafe { File::from_raw_fd(file) };
    file.set_len(length as u64)?;
    Ok(file)
}

/// Copies one part after another from the first half of a buffer to the second.
pub(super) fn copy(session: &mut Session<'_>) -> Result<Measured, Error> {
    let mut buffer = vec![1u64; 2 * COPIED / WORD];
    let (from, to) = buffer.split_at_mut(COPIED / WORD);
    let mut start = 0;
    session.take(usize::MAX, COPY as u64, || {
        let part = start..start + COPY / WORD;
        start = part.end % from.len();
        copy_words(&from[part.clone()], &mut to[part]);
        Ok(())
    })
}

/// The same instruction at every level: which ones the C library takes, it decides by
/// what CPUID tells.
fn copy_words(from: &[u64], to: &mut [u64]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: both are as long as RCX says, and the direction is up, as always between
    // calls (System V ABI, 3.2.1).
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") from.len() => _,
            inout("rsi") from.as_ptr() => _,
            inout("rdi") to.as_mut_ptr() => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Mapped memory.
struct Region {
    mapping: NonNull<libc::c_void>,
    mapped: usize,
    start: NonNull<u8>,
    length: usize,
}

impl Region {
    /// Private anonymous memory, aligned to large pages, and untouched.
    fn fresh(length: usize, advice: libc::c_int) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mut region = Self::map(length + LARGE_PAGE, access, kind, -1)?;
        let offset = region.start.align_offset(LARGE_PAGE);
        // SAFETY: the offset is below the large page by which the mapping is longer.
        region.start = unsafe { region.start.add(offset) };
        region.length = length;
        // SAFETY: the range is inside the mapping, and advice changes no content.
        match unsafe { libc::madvise(region.start.as_ptr().cast(), length, advice) } {
            0 => Ok(region),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// What `file` holds, to be read: this process's page tables are complete.
    fn of(file: &File, length: usize) -> io::Result<Self> {
        let kind = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(length, libc::PROT_READ, kind, file.as_raw_fd())
    }

    fn map(
        length: usize,
        access: libc::c_int,
        kind: libc::c_int,
        file: libc::c_int,
    ) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let mapping = unsafe { libc::mmap(ptr::null_mut(), length, access, kind, file, 0) };
        NonNull::new(mapping)
            .filter(|mapping| mapping.as_ptr() != libc::MAP_FAILED)
            .map(|mapping| Self {
                mapping,
                mapped: length,
                start: mapping.cast(),
                length,
            })
            .ok_or_else(io::Error::last_os_error)
    }

    fn at(&self, offset: usize) -> NonNull<usize> {
        assert!(
            offset.is_multiple_of(align_of::<usize>())
                && offset + size_of::<usize>() <= self.length
        );
        // SAFETY: the offset is inside the mapping.
        unsafe { self.start.add(offset) }.cast()
    }

    #[inline(always)]
    fn read(&self, offset: usize) -> usize {
        // SAFETY: `at` has checked bounds and alignment; nobody else writes the memory.
        unsafe { self.at(offset).read_volatile() }
    }

    #[inline(always)]
    fn write(&self, offset: usize, value: usize) {
        // SAFETY: as for `read`; only regions that may be written to are.
        unsafe { self.at(offset).write_volatile(value) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.mapping.as_ptr(), self.mapped) };
    }
}
