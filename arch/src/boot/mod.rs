//! Boot protocols: how a kernel gets into guest memory and is entered.
//!
//! What an image is, and how it is entered, by what comes first of these:
//!
//! 1. an ELF with a PVH note: PVH;
//! 2. a bzImage: Linux's 64-bit protocol;
//! 3. an image with a Multiboot header, an ELF or not: Multiboot;
//! 4. an ELF of 64 bits: Linux's 64-bit protocol.
//!
//! So an ELF with both, as Xen may be built, is entered by PVH, which tells it more.
//! An image comes as bytes, which the caller may have mapped from a file. The steps,
//! in order: [`load_kernel`], [`load_initrd`], [`load_module`],
//! [`write_boot_data`], [`boot_registers`].
//!
//! All of it runs before the first vCPU does, on memory that is fresh from the
//! host: what a kernel expects to be zero and this module has not written is
//! not written.
//!
//! A bzImage's payload is unpacked here rather than by the kernel's own
//! decompressor in the guest, which takes a third of such a kernel's boot. The
//! kernel then runs at the address it is linked at: there is no KASLR of the
//! physical or virtual base, since the decompressor would have done that.

mod area;
mod bzimage;
mod elf;
mod gzip;
mod memory_map;
mod modules;
pub mod multiboot;
mod params;
mod payload;
mod repack;
#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

use std::ops::Range;

use linux_loader::loader::bootparam::setup_header;
use thiserror::Error;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, ReadVolatile,
};

use crate::GuestMemory;
use crate::layout::{HIGH_RAM_START, PCI_HOLE_START};
pub use crate::regs::{BootRegisters, Protocol};
use elf::Elf;

pub use modules::{Module, load_module, module_room};
pub use params::{BootParams, command_line, write_boot_data};
pub use payload::Compression;
pub use repack::Repack;

/// Longest command line of a kernel that does not say: Linux's
/// `COMMAND_LINE_SIZE` on x86 less the NUL.
const DEFAULT_MAX_COMMAND_LINE: usize = 2047;

/// Initrds start at multiples of this.
const PAGE: u64 = 0x1000;

/// What is wrong with a kernel, initrd or command line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No magic number is there.
    #[error(
        "not a kernel: no bzImage (\"HdrS\" at 0x202), no ELF, no Multiboot header, {size} bytes"
    )]
    NotAKernel {
        /// Size of the image.
        size: usize,
    },
    /// A gzip file that doesn't unpack.
    #[error("cannot unpack the kernel, a gzip file: {0}")]
    Gzip(std::io::Error),
    /// The file ends early.
    #[error(
        "truncated kernel: {what} ends at byte {end}, the file has {size}; copy or download it again"
    )]
    Truncated {
        /// What is cut off.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Size of the image.
        size: u64,
    },
    /// No 64-bit entry is defined by this protocol version.
    #[error("boot protocol {}.{:02} is too old: 2.12 (Linux 3.8) is the first with a 64-bit entry", version >> 8, version & 0xff)]
    ProtocolTooOld {
        /// Version field of the setup header.
        version: u16,
    },
    /// A 32-bit bzImage.
    #[error(
        "the bzImage has no 64-bit entry (xloadflags {xloadflags:#x}); use a kernel built for x86_64"
    )]
    No64BitEntry {
        /// `xloadflags` of the setup header.
        xloadflags: u16,
    },
    /// The payload does not unpack to what its trailer says.
    #[error("the bzImage's {compression} payload is damaged: {reason}")]
    Payload {
        /// How it is compressed.
        compression: Compression,
        /// What the decoder said.
        reason: String,
    },
    /// The payload unpacked, but to something else.
    #[error("the bzImage's payload holds no kernel")]
    PayloadNotElf(#[source] Box<Error>),
    /// ELF, but of another class, byte order, type or machine.
    #[error("ELF {field} is {found}, a kernel for this machine has {expected}")]
    WrongElf {
        /// Field of the ELF header.
        field: &'static str,
        /// Its value.
        found: u16,
        /// What is needed.
        expected: &'static str,
    },
    /// Nothing to load, or far more than any kernel has.
    #[error("ELF has {count} loadable segments, a kernel has 1 to {max}")]
    SegmentCount {
        /// Number of non-empty `PT_LOAD` headers.
        count: usize,
        /// Limit.
        max: usize,
    },
    /// A segment's sizes contradict each other.
    #[error(
        "ELF segment at {address:#x} is oversized: {file_size:#x} bytes in the file, {memory_size:#x} in memory"
    )]
    SegmentSize {
        /// Physical address.
        address: u64,
        /// Bytes in the file.
        file_size: u64,
        /// Bytes in memory.
        memory_size: u64,
    },
    /// Two segments claim the same memory.
    #[error("ELF segments overlap: {:#x}..{:#x} and {:#x}..{:#x}", first.start, first.end, second.start, second.end)]
    SegmentsOverlap {
        /// The lower one.
        first: Range<u64>,
        /// The higher one.
        second: Range<u64>,
    },
    /// A 32-bit ELF that says nowhere how it is entered.
    #[error(
        "the 32-bit ELF has no PVH entry and no Multiboot header; use a kernel built for x86_64"
    )]
    NoEntry,
    /// A Multiboot image that can't be loaded.
    #[error("the Multiboot image: {0}")]
    Multiboot(#[from] multiboot::Error),
    /// Part of the kernel is where the machine's own tables are.
    #[error("the kernel occupies {:#x}..{:#x}, below 1 MiB, where the machine keeps its own tables; link it at 1 MiB or higher", range.start, range.end)]
    LowMemory {
        /// What the kernel occupies.
        range: Range<u64>,
    },
    /// There is no RAM where the kernel must be.
    #[error("the kernel needs RAM at {:#x}..{:#x}, the machine has {}; give it more memory", range.start, range.end, describe(ram))]
    OutsideRam {
        /// What the kernel occupies.
        range: Range<u64>,
        /// RAM from 1 MiB up.
        ram: Vec<Range<u64>>,
    },
    /// The entry point is not part of the kernel.
    #[error("the kernel's entry point {entry:#x} is outside its segments")]
    EntryOutside {
        /// Physical address.
        entry: u64,
    },
    /// No gap between the kernel and the limit is large enough.
    #[error("the initrd of {size} bytes does not fit between {:#x} and {:#x}; give the machine more memory", room.start, room.end)]
    InitrdTooLarge {
        /// Size of the initrd.
        size: u64,
        /// Where it may be.
        room: Range<u64>,
    },
    /// The initrd could not be read.
    #[error("cannot read {size} bytes of initrd")]
    ReadInitrd {
        /// Size of the initrd.
        size: u64,
        /// What failed.
        #[source]
        source: GuestMemoryError,
    },
    /// Modules for Linux's boot protocol.
    #[error("Linux's boot protocol carries no modules, PVH and Multiboot do; give it an initrd")]
    NoModules,
    /// No gap between the kernel and the limit is large enough.
    #[error("the module of {size} bytes does not fit between {:#x} and {:#x}; give the machine more memory", room.start, room.end)]
    ModuleTooLarge {
        /// Size of the module.
        size: u64,
        /// Where it may be.
        room: Range<u64>,
    },
    /// More modules, or longer command lines of theirs, than there is room for.
    #[error("the modules' list and command lines need {length} bytes, there is room for {max}")]
    ModuleListTooLong {
        /// What they need.
        length: usize,
        /// Room for them.
        max: usize,
    },
    /// The kernel takes no command line of this length.
    #[error("the command line has {length} bytes, this kernel takes {max}")]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// Limit, without the NUL.
        max: usize,
    },
    /// A NUL would end the command line; beyond ASCII nothing is defined.
    #[error(
        "the command line has byte {byte:#04x} at position {position}; only ASCII without NUL may be there"
    )]
    CommandLineByte {
        /// The byte.
        byte: u8,
        /// Its index.
        position: usize,
    },
    /// The machine's RAM comes in more pieces than the protocol can carry.
    #[error("the memory map has {count} entries, the boot protocol takes {max}")]
    MemoryMapTooLong {
        /// Number of entries.
        count: usize,
        /// Limit.
        max: usize,
    },
    /// Boot data could not be written.
    #[error("no RAM for {what}")]
    Write {
        /// Which boot data.
        what: &'static str,
        /// What failed.
        #[source]
        source: GuestMemoryError,
    },
}

fn describe(ram: &[Range<u64>]) -> String {
    if ram.is_empty() {
        return "none above 1 MiB".to_owned();
    }
    let ranges: Vec<_> = ram
        .iter()
        .map(|range| format!("{:#x}..{:#x}", range.start, range.end))
        .collect();
    ranges.join(" and ")
}

/// A kernel in guest memory.
#[derive(Clone, Debug)]
pub struct LoadedKernel {
    /// Guest-physical address of the first instruction.
    pub entry: GuestAddress,
    /// How it is entered.
    pub protocol: Protocol,
    /// First byte after everything the kernel uses before it knows of an
    /// initrd: its image, its bss, and what `init_size` asks for.
    pub end: GuestAddress,
    /// The bzImage's setup header, for the zero page.
    pub setup_header: Option<setup_header>,
    /// Longest command line it takes, in bytes without the NUL.
    pub max_cmdline: usize,
    /// Whether and how its payload was unpacked.
    pub unpacked: Unpacked,
}

/// What happened to a kernel's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpacked {
    /// There was none: a plain ELF.
    Plain,
    /// It was unpacked here.
    Natively(Compression),
    /// Its format is not known here: the kernel's own decompressor will run.
    ByKernel,
}

/// Loads a kernel, which may be a gzip file, into guest memory, which must be as
/// fresh from the host (all zeroes) and must have no vCPU running on it yet.
///
/// # Errors
/// If the image is none of those kernels, is damaged, or does not fit. Parts of
/// it may be in guest memory then.
pub fn load_kernel(mem: &GuestMemory, image: &[u8]) -> Result<LoadedKernel, Error> {
    let unpacked = gzip::unpack(image)?;
    let image = unpacked.as_deref().unwrap_or(image);
    let elf = elf::is_elf(image).then(|| Elf::parse(image));
    if let Some(Ok(elf)) = &elf
        && let Some(entry) = elf.pvh_entry
    {
        return elf.load(mem, image, entry, Protocol::Pvh);
    }
    if elf.is_none() && bzimage::is_bzimage(image) {
        return bzimage::load(mem, image);
    }
    if let Some(header) = multiboot::Header::find(image) {
        return header.load(mem, image, elf);
    }
    let elf = elf.ok_or(Error::NotAKernel { size: image.len() })??;
    if elf.wide {
        elf.load(mem, image, elf.entry, Protocol::Linux64)
    } else {
        Err(Error::NoEntry)
    }
}

/// Reads an initrd of `size` bytes into guest memory, as high as the kernel
/// takes it and above everything the kernel uses itself. Returns its range.
///
/// # Errors
/// If there is no room, or `image` ends early or fails.
pub fn load_initrd<R: ReadVolatile>(
    mem: &GuestMemory,
    kernel: &LoadedKernel,
    image: &mut R,
    size: u64,
) -> Result<Range<u64>, Error> {
    let limit = kernel
        .setup_header
        .map_or(u64::from(u32::MAX), |header| {
            u64::from(header.initrd_addr_max)
        })
        .saturating_add(1)
        .min(PCI_HOLE_START);
    let room = room(mem, kernel, limit);
    let start = room
        .end
        .checked_sub(size)
        .map(|start| start & !(PAGE - 1))
        .filter(|start| *start >= room.start);
    let Some(start) = start else {
        return Err(Error::InitrdTooLarge { size, room });
    };
    mem.read_exact_volatile_from(GuestAddress(start), image, index(size))
        .map_err(|source| Error::ReadInitrd { size, source })?;
    Ok(start..start + size)
}

/// Registers of the vCPU that enters `kernel`.
#[must_use]
pub fn boot_registers(kernel: &LoadedKernel) -> BootRegisters {
    BootRegisters::new(kernel.protocol, kernel.entry)
}

/// The last piece of RAM after the kernel and below `limit`; empty if there is
/// none.
fn room(mem: &GuestMemory, kernel: &LoadedKernel, limit: u64) -> Range<u64> {
    ram_from_1_mib(mem)
        .into_iter()
        .map(|ram| ram.start.max(kernel.end.0)..ram.end.min(limit))
        .rfind(|room| room.start < room.end)
        .unwrap_or(kernel.end.0..kernel.end.0)
}

/// Pieces of RAM that kernels and initrds may occupy, in ascending order.
fn ram_from_1_mib(mem: &GuestMemory) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for region in mem.iter() {
        let start = region.start_addr().0.max(HIGH_RAM_START);
        let end = region.start_addr().0.saturating_add(region.len());
        if start < end {
            ranges.push(start..end);
        }
    }
    ranges
}

/// Succeeds if `range` is part of one piece of RAM above 1 MiB.
fn check_ram(mem: &GuestMemory, range: &Range<u64>) -> Result<(), Error> {
    if range.start < HIGH_RAM_START {
        return Err(Error::LowMemory {
            range: range.clone(),
        });
    }
    let ram = ram_from_1_mib(mem);
    if ram
        .iter()
        .any(|ram| ram.start <= range.start && range.end <= ram.end)
    {
        Ok(())
    } else {
        Err(Error::OutsideRam {
            range: range.clone(),
            ram,
        })
    }
}

/// A length as it is written in headers. This crate is for x86-64.
fn len_u64(len: usize) -> u64 {
    u64::try_from(len).expect("usize has 64 bits")
}

/// A length of, or index into, something that is in memory.
fn index(value: u64) -> usize {
    usize::try_from(value).expect("usize has 64 bits")
}

/// Reads a field at `offset`, if the bytes are there.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}
