//! Multiboot 1: the header by which a hypervisor or a test kernel says how it is
//! loaded, and its way into memory. What such a kernel is told is in [`info`].
//!
//! The Multiboot Specification, version 0.6.96, names every field used here.

mod bios;
pub(super) mod info;
#[cfg(test)]
mod tests;

use std::ops::Range;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use super::elf::Elf;
use super::{LoadedKernel, Protocol, Unpacked, check_ram, field, index, len_u64};
use crate::GuestMemory;
use crate::layout::COMMAND_LINE_ROOM;

/// First word of the header.
const MAGIC: u32 = 0x1BAD_B002;

/// The header lies whole in so many bytes from the image's start (3.1).
const SEARCHED: usize = 8192;

/// Size of the part of the header that is always there: magic, flags, checksum.
const SIZE: usize = 12;

/// Flags of the header (3.1.2). Modules always begin at pages, and memory is
/// always told of: the first two ask for no more than that.
const PAGE_ALIGNED_MODULES: u32 = 1;
const MEMORY_INFORMATION: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const ADDRESSES: u32 = 1 << 16;
/// A boot loader that doesn't know one of these must refuse the image.
const DEMANDS: u32 = 0xffff;

/// What is wrong with a Multiboot image.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// It wants a screen.
    #[error("it demands a video mode (flag 2), and the machine has no screen; build it without")]
    VideoMode,
    /// It wants what the specification doesn't define.
    #[error(
        "it demands what Multiboot 1 doesn't define (flags {flags:#x}); only flags 0, 1 and 16 can be met"
    )]
    Demands {
        /// The header's flags.
        flags: u32,
    },
    /// The flag for address fields is set, and they aren't there.
    #[error("its address fields end at byte {end}, the file has {size}")]
    HeaderTruncated {
        /// Where they should end.
        end: u64,
        /// Size of the image.
        size: u64,
    },
    /// Nothing says where it is to be loaded.
    #[error("it has no address fields (flag 16) and is no ELF; link it as an ELF, or set them")]
    NoFormat,
    /// The header isn't among what is loaded.
    #[error("its header_addr {header:#x} is below its load_addr {load:#x}")]
    HeaderBelowLoad {
        /// `header_addr`.
        header: u32,
        /// `load_addr`.
        load: u32,
    },
    /// What is loaded begins before the file.
    #[error(
        "its header is at byte {offset:#x} of the file, and load_addr {load:#x} is further than that below header_addr {header:#x}"
    )]
    LoadBeforeFile {
        /// Where the header is in the file.
        offset: u64,
        /// `header_addr`.
        header: u32,
        /// `load_addr`.
        load: u32,
    },
    /// What is loaded ends before it begins, or after the file.
    #[error(
        "its load_end_addr {end:#x} isn't between its load_addr {load:#x} and the file's end at {limit:#x}"
    )]
    LoadEnd {
        /// `load_end_addr`.
        end: u32,
        /// `load_addr`.
        load: u32,
        /// Where the file's last byte would be, and one more.
        limit: u64,
    },
    /// The zeroes end before they begin.
    #[error("its bss_end_addr {bss:#x} is below the end of what is loaded, {end:#x}")]
    BssEnd {
        /// `bss_end_addr`.
        bss: u32,
        /// End of what is loaded.
        end: u64,
    },
    /// It starts outside of what is loaded.
    #[error("its entry_addr {entry:#x} is outside of what is loaded, {:#x}..{:#x}", loaded.start, loaded.end)]
    EntryOutside {
        /// `entry_addr`.
        entry: u32,
        /// What is loaded, without the zeroes.
        loaded: Range<u64>,
    },
}

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header {
    /// Where it is in the file.
    offset: usize,
    flags: u32,
}

impl Header {
    /// Finds the header: at a multiple of four, its three words adding up to zero.
    pub(super) fn find(image: &[u8]) -> Option<Self> {
        let searched = &image[..image.len().min(SEARCHED)];
        let last = searched.len().checked_sub(SIZE)?;
        (0..=last).step_by(4).find_map(|offset| {
            let word = |at: usize| field(searched, offset + at).map(u32::from_le_bytes);
            let (magic, flags, checksum) = (word(0)?, word(4)?, word(8)?);
            let sum = magic.wrapping_add(flags).wrapping_add(checksum);
            (magic == MAGIC && sum == 0).then_some(Self { offset, flags })
        })
    }

    /// Loads the image: by the header's addresses where it has them, else as the
    /// ELF that it must be then.
    pub(super) fn load(
        &self,
        mem: &GuestMemory,
        image: &[u8],
        elf: Option<Result<Elf, super::Error>>,
    ) -> Result<LoadedKernel, super::Error> {
        self.check_demands()?;
        let kernel = if self.flags & ADDRESSES != 0 {
            self.addresses(image)?.load(mem, image)?
        } else {
            let elf = elf.ok_or(Error::NoFormat)??;
            elf.load(mem, image, elf.physical_entry(), Protocol::Multiboot)?
        };
        Ok(LoadedKernel {
            max_cmdline: COMMAND_LINE_ROOM - 1,
            ..kernel
        })
    }

    fn check_demands(&self) -> Result<(), Error> {
        let unmet = self.flags & DEMANDS & !(PAGE_ALIGNED_MODULES | MEMORY_INFORMATION);
        match unmet {
            0 => Ok(()),
            VIDEO_MODE => Err(Error::VideoMode),
            _ => Err(Error::Demands { flags: self.flags }),
        }
    }

    /// Reads and checks the address fields (3.1.3).
    fn addresses(&self, image: &[u8]) -> Result<Addresses, Error> {
        let file_size = len_u64(image.len());
        let word = |at: usize| {
            field(image, self.offset + at)
                .map(u32::from_le_bytes)
                .ok_or(Error::HeaderTruncated {
                    end: len_u64(self.offset + 32),
                    size: file_size,
                })
        };
        let (header, load, load_end) = (word(12)?, word(16)?, word(20)?);
        let (bss, entry) = (word(24)?, word(28)?);
        let before = header
            .checked_sub(load)
            .ok_or(Error::HeaderBelowLoad { header, load })?;
        let offset = len_u64(self.offset);
        let start = offset
            .checked_sub(before.into())
            .ok_or(Error::LoadBeforeFile {
                offset,
                header,
                load,
            })?;
        let limit = u64::from(load) + (file_size - start);
        // Zero stands for the end of the file.
        let end = match load_end {
            0 => limit,
            end => end.into(),
        };
        if end <= u64::from(load) || end > limit {
            return Err(Error::LoadEnd {
                end: load_end,
                load,
                limit,
            });
        }
        // And here for no zeroes.
        if bss != 0 && u64::from(bss) < end {
            return Err(Error::BssEnd { bss, end });
        }
        let loaded = u64::from(load)..end;
        if !loaded.contains(&entry.into()) {
            return Err(Error::EntryOutside { entry, loaded });
        }
        Ok(Addresses {
            file: index(start)..index(start + (end - loaded.start)),
            memory: loaded.start..end.max(bss.into()),
            entry: entry.into(),
        })
    }
}

/// Where an image is loaded by its address fields: the file has all the bytes, and
/// the memory is as long or longer.
struct Addresses {
    file: Range<usize>,
    memory: Range<u64>,
    entry: u64,
}

impl Addresses {
    fn load(&self, mem: &GuestMemory, image: &[u8]) -> Result<LoadedKernel, super::Error> {
        check_ram(mem, &self.memory)?;
        mem.write_slice(&image[self.file.clone()], GuestAddress(self.memory.start))
            .map_err(|source| super::Error::Write {
                what: "the kernel",
                source,
            })?;
        Ok(LoadedKernel {
            entry: GuestAddress(self.entry),
            protocol: Protocol::Multiboot,
            end: GuestAddress(self.memory.end),
            setup_header: None,
            max_cmdline: 0,
            unpacked: Unpacked::Plain,
        })
    }
}

impl Elf {
    /// Where the entry point is in memory. Linkers of kernels that run elsewhere
    /// than they are loaded give it as a virtual address.
    fn physical_entry(&self) -> u64 {
        self.segments
            .iter()
            .find_map(|segment| {
                let into = self.entry.checked_sub(segment.linked)?;
                let length = segment.memory.end - segment.memory.start;
                (into < length).then(|| segment.memory.start + into)
            })
            .unwrap_or(self.entry)
    }
}
