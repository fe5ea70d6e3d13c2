//! Pages touched for the first time, and loads that miss the TLB.

#![allow(unsafe_code)]

use std::hint::black_box;
use std::io;
use std::ptr::{self, NonNull};

use super::{Error, Session};
use crate::bench::results::Measured;
use crate::bench::statistics::Random;

const PAGE: usize = 4 << 10;
const LARGE_PAGE: usize = 2 << 20;
/// Memory that the large pages touched may take: 64 of them.
const MOST_LARGE_PAGES: usize = 64;
/// Pages of 4 KiB touched: as much memory.
const MOST_PAGES: usize = MOST_LARGE_PAGES * LARGE_PAGE / PAGE;
/// More pages than any TLB of today has entries (some 4000).
const CHASED_PAGES: usize = 16 << 10;
/// Loads in one sample, so that reading the time is little of it.
const LOADS: u64 = 64;

pub(super) fn touch_4k(session: &mut Session<'_>) -> Result<Measured, Error> {
    touch(session, PAGE, MOST_PAGES, libc::MADV_NOHUGEPAGE)
}

pub(super) fn touch_2m(session: &mut Session<'_>) -> Result<Measured, Error> {
    touch(session, LARGE_PAGE, MOST_LARGE_PAGES, libc::MADV_HUGEPAGE)
}

fn touch(
    session: &mut Session<'_>,
    page: usize,
    most: usize,
    advice: libc::c_int,
) -> Result<Measured, Error> {
    let pages = session.samples.min(most);
    let memory = Region::new(pages * page, advice)?;
    let mut index = 0;
    session.take(pages, 1, || {
        memory.write(index * page, 1);
        index += 1;
        Ok(())
    })
}

pub(super) fn pointer_chase(session: &mut Session<'_>) -> Result<Measured, Error> {
    let memory = Region::new(CHASED_PAGES * PAGE, libc::MADV_NOHUGEPAGE)?;
    // A random cycle through all pages (Sattolo's algorithm).
    let mut next: Vec<usize> = (0..CHASED_PAGES).collect();
    let mut random = Random::new(1);
    for last in (1..CHASED_PAGES).rev() {
        next.swap(last, random.below(last));
    }
    // Each page's pointer is on a cache line of its own number, so that they spread
    // over all sets of the caches.
    let place = |page: usize| page * PAGE + page % 64 * 64;
    for (page, next) in next.into_iter().enumerate() {
        memory.write(place(page), place(next));
    }
    let mut at = place(0);
    session.take(usize::MAX, LOADS, || {
        for _ in 0..LOADS {
            at = memory.read(at);
        }
        black_box(at);
        Ok(())
    })
}

/// Private anonymous memory, aligned to large pages, and untouched.
struct Region {
    mapping: NonNull<libc::c_void>,
    mapped: usize,
    start: NonNull<u8>,
    length: usize,
}

impl Region {
    fn new(length: usize, advice: libc::c_int) -> io::Result<Self> {
        let mapped = length + LARGE_PAGE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let mapping = unsafe { libc::mmap(ptr::null_mut(), mapped, access, kind, -1, 0) };
        let mapping = NonNull::new(mapping)
            .filter(|mapping| mapping.as_ptr() != libc::MAP_FAILED)
            .ok_or_else(io::Error::last_os_error)?;
        let start: NonNull<u8> = mapping.cast();
        let offset = start.align_offset(LARGE_PAGE);
        // SAFETY: the offset is below the large page by which the mapping is longer.
        let start = unsafe { start.add(offset) };
        let region = Self {
            mapping,
            mapped,
            start,
            length,
        };
        // SAFETY: the range is inside the mapping, and advice changes no content.
        match unsafe { libc::madvise(region.start.as_ptr().cast(), length, advice) } {
            0 => Ok(region),
            _ => Err(io::Error::last_os_error()),
        }
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
        // SAFETY: `at` has checked bounds and alignment; the memory is this region's own.
        unsafe { self.at(offset).read_volatile() }
    }

    #[inline(always)]
    fn write(&self, offset: usize, value: usize) {
        // SAFETY: as for `read`.
        unsafe { self.at(offset).write_volatile(value) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.mapping.as_ptr(), self.mapped) };
    }
}
