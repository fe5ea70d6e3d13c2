//! ELF kernels of both classes: their headers, checked, and their way into
//! memory.
//!
//! Formats: System V gABI chapters 4 and 5; the PVH entry is a note of Xen's
//! (xen/include/public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).

use std::ops::Range;

use linux_loader::elf::{EM_386, EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE};
use vm_memory::{Bytes, GuestAddress};

use super::{
    DEFAULT_MAX_COMMAND_LINE, Error, LoadedKernel, Protocol, Unpacked, check_ram, field, index,
    len_u64,
};
use crate::GuestMemory;

/// A kernel has about five.
const MAX_SEGMENTS: usize = 64;

/// The note that holds PVH's 32-bit entry point.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// A loadable segment. All sums of its fields are known not to overflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Bytes of the file.
    pub(super) file: Range<usize>,
    /// Where they and the zeroes after them go, guest-physical.
    pub(super) memory: Range<u64>,
    /// Where they are linked to run, virtual.
    pub(super) linked: u64,
}

/// What of an ELF file matters here. The segments are in ascending order of
/// address, not empty, and disjoint; the file has all their bytes.
#[derive(Debug)]
pub(super) struct Elf {
    /// Of 64 bits, or of 32.
    pub(super) wide: bool,
    pub(super) entry: u64,
    pub(super) pvh_entry: Option<u64>,
    pub(super) segments: Vec<Segment>,
}

/// Whether the image starts like an ELF file.
pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(b"\x7fELF")
}

impl Elf {
    /// Loads the kernel, to be entered at `entry` by `protocol`.
    pub(super) fn load(
        &self,
        mem: &GuestMemory,
        image: &[u8],
        entry: u64,
        protocol: Protocol,
    ) -> Result<LoadedKernel, Error> {
        self.check_ram(mem)?;
        self.check_entry(entry)?;
        self.copy(mem, image)?;
        Ok(LoadedKernel {
            entry: GuestAddress(entry),
            protocol,
            end: GuestAddress(self.memory().end),
            setup_header: None,
            max_cmdline: DEFAULT_MAX_COMMAND_LINE,
            unpacked: Unpacked::Plain,
        })
    }

    /// Reads and checks the headers of an ELF file.
    pub(super) fn parse(image: &[u8]) -> Result<Self, Error> {
        let header = FileHeader::parse(image)?;
        let fields = header.fields;
        let table = header.program_headers(image)?;
        let mut segments = Vec::new();
        let mut count = 0;
        let mut pvh_entry = None;
        for entry in table.chunks_exact(usize::from(fields.program_size)) {
            let program = ProgramHeader::parse(fields, entry);
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
            wide: fields.wide,
            entry: header.entry,
            pvh_entry,
            segments,
        })
    }

    /// As [`parse`](Self::parse), for what only a 64-bit kernel can be.
    pub(super) fn parse_64(image: &[u8]) -> Result<Self, Error> {
        let elf = Self::parse(image)?;
        if elf.wide {
            Ok(elf)
        } else {
            Err(wrong("class", 1, "2 (64-bit)"))
        }
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

/// Where a class of ELF has its fields, and what they hold for a kernel of this
/// machine.
#[derive(Debug)]
struct Fields {
    wide: bool,
    machine: u16,
    machine_name: &'static str,
    header_size: u64,
    entry: usize,
    table: usize,
    /// `e_phentsize`; `e_phnum` is next.
    entry_size: usize,
    program_size: u16,
    program_size_name: &'static str,
    offset: usize,
    linked: usize,
    address: usize,
    file_size: usize,
    memory_size: usize,
    align: usize,
}

const ELF32: Fields = Fields {
    wide: false,
    machine: EM_386,
    machine_name: "3 (80386)",
    header_size: 52,
    entry: 24,
    table: 28,
    entry_size: 42,
    program_size: 32,
    program_size_name: "32",
    offset: 4,
    linked: 8,
    address: 12,
    file_size: 16,
    memory_size: 20,
    align: 28,
};

const ELF64: Fields = Fields {
    wide: true,
    machine: EM_X86_64,
    machine_name: "62 (x86-64)",
    header_size: 64,
    entry: 24,
    table: 32,
    entry_size: 54,
    program_size: 56,
    program_size_name: "56",
    offset: 8,
    linked: 16,
    address: 24,
    file_size: 32,
    memory_size: 40,
    align: 48,
};

impl Fields {
    /// Reads an address, offset or size.
    fn word(&self, bytes: &[u8], at: usize) -> Option<u64> {
        if self.wide {
            field(bytes, at).map(u64::from_le_bytes)
        } else {
            field(bytes, at).map(|word| u32::from_le_bytes(word).into())
        }
    }
}

/// The fields of a file header that lead on.
struct FileHeader {
    fields: &'static Fields,
    entry: u64,
    table_offset: u64,
    table_entries: u16,
}

impl FileHeader {
    fn parse(image: &[u8]) -> Result<Self, Error> {
        let [_, _, _, _, class, data] =
            field(image, 0).ok_or_else(|| truncated("the ELF header", 52, image))?;
        let fields = match class {
            1 => &ELF32,
            2 => &ELF64,
            _ => return Err(wrong("class", class.into(), "1 (32-bit) or 2 (64-bit)")),
        };
        let truncated = || truncated("the ELF header", fields.header_size, image);
        let half = |offset| {
            field(image, offset)
                .map(u16::from_le_bytes)
                .ok_or_else(truncated)
        };
        let word = |offset| fields.word(image, offset).ok_or_else(truncated);
        if data != 1 {
            return Err(wrong("byte order", data.into(), "1 (little endian)"));
        }
        for (name, offset, expected, expected_name) in [
            ("type", 16, ET_EXEC, "2 (executable)"),
            ("machine", 18, fields.machine, fields.machine_name),
            (
                "program header size",
                fields.entry_size,
                fields.program_size,
                fields.program_size_name,
            ),
        ] {
            let found = half(offset)?;
            if found != expected {
                return Err(wrong(name, found, expected_name));
            }
        }
        Ok(Self {
            fields,
            entry: word(fields.entry)?,
            table_offset: word(fields.table)?,
            table_entries: half(fields.entry_size + 2)?,
        })
    }

    fn program_headers<'a>(&self, image: &'a [u8]) -> Result<&'a [u8], Error> {
        let size = u64::from(self.table_entries) * u64::from(self.fields.program_size);
        slice_range("the program header table", self.table_offset, size, image)
            .map(|range| &image[range])
    }
}

fn wrong(field: &'static str, found: u16, expected: &'static str) -> Error {
    Error::WrongElf {
        field,
        found,
        expected,
    }
}

struct ProgramHeader {
    kind: u32,
    offset: u64,
    linked: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

impl ProgramHeader {
    /// `bytes` is one whole header.
    fn parse(fields: &Fields, bytes: &[u8]) -> Self {
        let word = |offset| fields.word(bytes, offset).unwrap_or(0);
        Self {
            kind: field(bytes, 0).map_or(0, u32::from_le_bytes),
            offset: word(fields.offset),
            linked: word(fields.linked),
            address: word(fields.address),
            file_size: word(fields.file_size),
            memory_size: word(fields.memory_size),
            align: word(fields.align),
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
                linked: self.linked,
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
