//! 64-bit ELF kernels: their headers, checked, and their way into memory.
//!
//! Formats: System V gABI chapters 4 and 5; the PVH entry is a note of Xen's
//! (xen/include/public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).

use std::ops::Range;

use linux_loader::elf::{EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE};
use vm_memory::{Bytes, GuestAddress};

use super::{
    DEFAULT_MAX_COMMAND_LINE, Error, LoadedKernel, Protocol, Unpacked, check_ram, field, index,
    len_u64,
};
use crate::GuestMemory;

/// A kernel has about five.
const MAX_SEGMENTS: usize = 64;

/// Size of an ELF64 program header.
const PROGRAM_HEADER_SIZE: u16 = 56;

/// The note that holds PVH's 32-bit entry point.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// A loadable segment. All sums of its fields are known not to overflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes of the file.
    pub(super) file: Range<usize>,
    /// Where they and the zeroes after them go, guest-physical.
    pub(super) memory: Range<u64>,
}

/// What of an ELF file matters here. The segments are in ascending order of
/// address, not empty, and disjoint; the file has all their bytes.
#[derive(Debug)]
pub(super) struct Elf {
    pub(super) entry: u64,
    pub(super) pvh_entry: Option<u64>,
    pub(super) segments: Vec<Segment>,
}

/// Whether the image starts like an ELF file.
pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

/// Loads a plain ELF kernel.
pub(super) fn load(mem: &GuestMemory, image: &[u8]) -> Result<LoadedKernel, Error> {
    let elf = Elf::parse(image)?;
    let (entry, protocol) = match elf.pvh_entry {
        Some(entry) => (entry, Protocol::Pvh),
        None => (elf.entry, Protocol::Linux64),
    };
    elf.check_ram(mem)?;
    elf.check_entry(entry)?;
    elf.copy(mem, image)?;
    Ok(LoadedKernel {
        entry: GuestAddress(entry),
        protocol,
        end: GuestAddress(elf.memory().end),
        setup_header: None,
        max_cmdline: DEFAULT_MAX_COMMAND_LINE,
        unpacked: Unpacked::Plain,
    })
}

impl Elf {
    /// Reads and checks the headers of an ELF file.
    pub(super) fn parse(image: &[u8]) -> Result<Self, Error> {
        let header = FileHeader::parse(image)?;
        let table = header.program_headers(image)?;
        let mut segments = Vec::new();
        let mut count = 0;
        let mut pvh_entry = None;
        for entry in table.chunks_exact(usize::from(PROGRAM_HEADER_SIZE)) {
            let program = ProgramHeader::parse(entry);
            if program.kind == PT_LOAD && program.file_size.max(program.memory_size) > 0 {
                count += 1;
                if count <= MAX_SEGMENTS {
                    segments.push(program.segment(image)?);
                }
            } else if program.kind == PT_NOTE && pvh_entry.is_none() {
                pvh_entry = find_pvh_entry(&image[program.file_range(image)?], program.align);
            }
        }
        if count == 0 || count > MAX_SEGMENTS {
            return Err(Error::SegmentCount {
                count,
                max: MAX_SEGMENTS,
            });
        }
        segments.sort_by_key(|segment| segment.memory.start);
        for pair in segments.windows(2) {
            if pair[1].memory.start < pair[0].memory.end {
                return Err(Error::SegmentsOverlap {
                    first: pair[0].memory.clone(),
                    second: pair[1].memory.clone(),
                });
            }
        }
        Ok(Self {
            entry: header.entry,
            pvh_entry,
            segments,
        })
    }

    /// From the first segment's start to the last one's end.
    pub(super) fn memory(&self) -> Range<u64> {
        let start = self
            .segments
            .first()
            .map_or(0, |segment| segment.memory.start);
        let end = self.segments.last().map_or(0, |segment| segment.memory.end);
        start..end
    }

    /// Succeeds if there is RAM for every segment.
    pub(super) fn check_ram(&self, mem: &GuestMemory) -> Result<(), Error> {
        // The highest first: that one tells how much is needed.
        let mut segments = self.segments.iter().rev();
        segments.try_for_each(|segment| check_ram(mem, &segment.memory))
    }

    /// Copies the segments from the file to their places.
    pub(super) fn copy(&self, mem: &GuestMemory, image: &[u8]) -> Result<(), Error> {
        self.segments.iter().try_for_each(|segment| {
            let bytes = &image[segment.file.clone()];
            mem.write_slice(bytes, GuestAddress(segment.memory.start))
                .map_err(|source| Error::Write {
                    what: "the kernel",
                    source,
                })
        })
    }

    /// Succeeds if `entry` is in a segment, and below 4 GiB: no more is mapped
    /// when the kernel starts.
    pub(super) fn check_entry(&self, entry: u64) -> Result<(), Error> {
        let inside = self
            .segments
            .iter()
            .any(|segment| segment.memory.contains(&entry));
        if inside && entry <= u64::from(u32::MAX) {
            Ok(())
        } else {
            Err(Error::EntryOutside { entry })
        }
    }

    /// Puts an unpacked file's segments in their places, within one area.
    ///
    /// `area` is guest memory from address `base` on and covers every segment;
    /// the file is at `file` in it, and may overlap the segments' places.
    /// Segments that are where they belong are not touched. Memory outside of
    /// `file` must be zero.
    pub(super) fn arrange(&self, area: &mut [u8], base: u64, file: Range<usize>) {
        let moves = self.segments.iter().map(|segment| Move {
            from: file.start + segment.file.start..file.start + segment.file.end,
            to: index(segment.memory.start - base),
        });
        let mut pending: Vec<Move> = moves
            .filter(|m| m.from.start != m.to && !m.from.is_empty())
            .collect();
        let mut aside = Vec::new();
        while !pending.is_empty() {
            // One whose target holds no bytes that others still need goes next.
            let free = (0..pending.len()).find(|&index| {
                let target = pending[index].target();
                pending
                    .iter()
                    .enumerate()
                    .all(|(other, m)| other == index || !overlap(&m.from, &target))
            });
            match free {
                Some(index) => {
                    let next = pending.swap_remove(index);
                    area.copy_within(next.from, next.to);
                }
                // They wait for each other in a circle, as no kernel's do:
                // take one out of it.
                None => {
                    if let Some(next) = pending.pop() {
                        aside.push((area[next.from].to_vec(), next.to));
                    }
                }
            }
        }
        for (bytes, to) in aside {
            area[to..to + bytes.len()].copy_from_slice(&bytes);
        }
        for segment in &self.segments {
            let bss = index(segment.memory.start - base) + segment.file.len()
                ..index(segment.memory.end - base);
            let dirty = bss.start.max(file.start)..bss.end.min(file.end);
            if dirty.start < dirty.end {
                area[dirty].fill(0);
            }
        }
    }
}

/// Bytes on their way within an area.
struct Move {
    from: Range<usize>,
    to: usize,
}

impl Move {
    fn target(&self) -> Range<usize> {
        self.to..self.to + self.from.len()
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The fields of an ELF64 file header that lead on.
struct FileHeader {
    entry: u64,
    table_offset: u64,
    table_entries: u16,
}

impl FileHeader {
    fn parse(image: &[u8]) -> Result<Self, Error> {
        let truncated = || truncated("the ELF header", 64, image);
        let half = |offset| {
            field(image, offset)
                .map(u16::from_le_bytes)
                .ok_or_else(truncated)
        };
        let xword = |offset| {
            field(image, offset)
                .map(u64::from_le_bytes)
                .ok_or_else(truncated)
        };
        let [_, _, _, _, class, data] = field(image, 0).ok_or_else(truncated)?;
        let wrong = |field, found, expected| {
            Err(Error::WrongElf {
                field,
                found,
                expected,
            })
        };
        if class != 2 {
            return wrong("class", class.into(), "2 (64-bit)");
        }
        if data != 1 {
            return wrong("byte order", data.into(), "1 (little endian)");
        }
        if half(16)? != ET_EXEC {
            return wrong("type", half(16)?, "2 (executable)");
        }
        if half(18)? != EM_X86_64 {
            return wrong("machine", half(18)?, "62 (x86-64)");
        }
        if half(54)? != PROGRAM_HEADER_SIZE {
            return wrong("program header size", half(54)?, "56");
        }
        Ok(Self {
            entry: xword(24)?,
            table_offset: xword(32)?,
            table_entries: half(56)?,
        })
    }

    fn program_headers<'a>(&self, image: &'a [u8]) -> Result<&'a [u8], Error> {
        let size = u64::from(self.table_entries) * u64::from(PROGRAM_HEADER_SIZE);
        slice_range("the program header table", self.table_offset, size, image)
            .map(|range| &image[range])
    }
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

impl ProgramHeader {
    /// `bytes` is one whole header.
    fn parse(bytes: &[u8]) -> Self {
        let xword = |offset| field(bytes, offset).map_or(0, u64::from_le_bytes);
        Self {
            kind: field(bytes, 0).map_or(0, u32::from_le_bytes),
            offset: xword(8),
            address: xword(24),
            file_size: xword(32),
            memory_size: xword(40),
            align: xword(48),
        }
    }

    fn file_range(&self, image: &[u8]) -> Result<Range<usize>, Error> {
        slice_range("an ELF segment", self.offset, self.file_size, image)
    }

    fn segment(&self, image: &[u8]) -> Result<Segment, Error> {
        let end = self.address.checked_add(self.memory_size);
        match end {
            Some(end) if self.file_size <= self.memory_size => Ok(Segment {
                file: self.file_range(image)?,
                memory: self.address..end,
            }),
            _ => Err(Error::SegmentSize {
                address: self.address,
                file_size: self.file_size,
                memory_size: self.memory_size,
            }),
        }
    }
}

/// Indices of `size` bytes at `offset`, if the file has them.
fn slice_range(
    what: &'static str,
    offset: u64,
    size: u64,
    image: &[u8],
) -> Result<Range<usize>, Error> {
    let end = offset.saturating_add(size);
    if end <= len_u64(image.len()) {
        Ok(index(offset)..index(end))
    } else {
        Err(truncated(what, end, image))
    }
}

fn truncated(what: &'static str, end: u64, image: &[u8]) -> Error {
    Error::Truncated {
        what,
        end,
        size: len_u64(image.len()),
    }
}

/// Finds Xen's note with the 32-bit entry point: name size, descriptor size,
/// type, then both padded to the segment's alignment.
fn find_pvh_entry(mut notes: &[u8], align: u64) -> Option<u64> {
    let align = if align == 8 { 8 } else { 4 };
    loop {
        let word = |offset| field(notes, offset).map(u32::from_le_bytes);
        let name_size = index(word(0)?.into());
        let size = index(word(4)?.into());
        let kind = word(8)?;
        let start = (12 + name_size).next_multiple_of(align);
        let name = notes.get(12..12 + name_size)?;
        let descriptor = notes.get(start..start + size)?;
        if name == b"Xen\0" && kind == NOTE_PHYS32_ENTRY {
            return field(descriptor, 0)
                .map(u64::from_le_bytes)
                .or_else(|| field(descriptor, 0).map(|word| u64::from(u32::from_le_bytes(word))));
        }
        notes = notes.get((start + size).next_multiple_of(align)..)?;
    }
}

#[cfg(test)]
mod tests;
