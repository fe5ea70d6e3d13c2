//! bzImage: a setup header, a decompressor, and a packed ELF kernel.
//!
//! Documentation/arch/x86/boot.rst of Linux names every field used here.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::elf::Elf;
use super::payload::{Compression, Payload};
use super::{Error, LoadedKernel, Protocol, Unpacked, area, check_ram, field, index, len_u64};
use crate::GuestMemory;
use crate::layout::HIGH_RAM_START;

/// Where the setup header starts in the file.
const HEADER_OFFSET: usize = 0x1f1;

/// First protocol version with `xloadflags`, thus with a 64-bit entry.
const MIN_VERSION: u16 = 0x20c;

/// Flag in `xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;

/// The 64-bit entry is so far into the protected-mode code.
const ENTRY_64_OFFSET: u64 = 0x200;

/// Size of a sector, in which the setup code is counted.
const SECTOR: usize = 512;

/// Where the kernel's first segment is in its ELF file: the linker aligns it
/// to its largest page. Another kernel is moved after unpacking, no worse.
const FIRST_SEGMENT_OFFSET: u64 = 2 << 20;

/// Whether the image has the setup header's magic number.
pub(super) fn is_bzimage(image: &[u8]) -> bool {
    field(image, 0x202) == Some(*b"HdrS")
}

/// Loads a bzImage: its payload unpacked if possible, else as it is.
pub(super) fn load(mem: &GuestMemory, image: &[u8]) -> Result<LoadedKernel, Error> {
    let bz = BzImage::parse(image)?;
    match Payload::parse(bz.payload) {
        Some(payload) if payload.compression == Compression::Stored => bz.load_stored(mem),
        Some(payload) => bz.load_payload(mem, &payload),
        None => bz.load_packed(mem),
    }
}

/// A bzImage's parts, all of them within the file.
pub(super) struct BzImage<'a> {
    header: setup_header,
    /// The real-mode code, which holds the header.
    pub(super) setup: &'a [u8],
    /// The decompressor and its payload.
    code: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl<'a> BzImage<'a> {
    pub(super) fn parse(image: &'a [u8]) -> Result<Self, Error> {
        let header = read_header(image)?;
        let (version, xloadflags) = (header.version, header.xloadflags);
        if version < MIN_VERSION {
            return Err(Error::ProtocolTooOld { version });
        }
        if xloadflags & XLF_KERNEL_64 == 0 {
            return Err(Error::No64BitEntry { xloadflags });
        }
        // Zero stands for four, for the sake of very old kernels.
        let sectors = match header.setup_sects {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let setup_size = (sectors + 1) * SECTOR;
        let code_size = u64::from(header.syssize) * 16;
        let code = part(image, "the kernel code", setup_size, code_size)?;
        let payload_offset = index(header.payload_offset.into());
        let payload = part(
            code,
            "the payload",
            payload_offset,
            header.payload_length.into(),
        )?;
        Ok(Self {
            header,
            setup: part(image, "the setup code", 0, len_u64(setup_size))?,
            code,
            payload,
        })
    }

    /// Copies the segments of a payload that isn't packed.
    fn load_stored(&self, mem: &GuestMemory) -> Result<LoadedKernel, Error> {
        let elf =
            Elf::parse_64(self.payload).map_err(|error| Error::PayloadNotElf(Box::new(error)))?;
        elf.check_ram(mem)?;
        elf.check_entry(elf.entry)?;
        elf.copy(mem, self.payload)?;
        let unpacked = Unpacked::Natively(Compression::Stored);
        Ok(self.loaded(elf.entry, elf.memory().end, unpacked))
    }

    /// Unpacks the payload to where its segments belong.
    fn load_payload(
        &self,
        mem: &GuestMemory,
        payload: &Payload<'_>,
    ) -> Result<LoadedKernel, Error> {
        let place = self
            .preferred()
            .saturating_sub(FIRST_SEGMENT_OFFSET)
            .max(HIGH_RAM_START);
        let file = place..place.saturating_add(payload.unpacked_size.into());
        let elf = area::with_bytes(mem, file.clone(), |bytes| {
            payload.unpack(bytes)?;
            Elf::parse_64(bytes).map_err(|error| Error::PayloadNotElf(Box::new(error)))
        })??;
        elf.check_entry(elf.entry)?;
        let memory = elf.memory();
        let all = memory.start.min(file.start)..memory.end.max(file.end);
        area::with_bytes(mem, all.clone(), |bytes| {
            let file = index(file.start - all.start)..index(file.end - all.start);
            elf.arrange(bytes, all.start, file);
        })?;
        Ok(self.loaded(
            elf.entry,
            memory.end,
            Unpacked::Natively(payload.compression),
        ))
    }

    /// Loads decompressor and payload, to be entered at the decompressor.
    fn load_packed(&self, mem: &GuestMemory) -> Result<LoadedKernel, Error> {
        let start = self.preferred();
        let size = u64::from(self.header.syssize) * 16;
        let end = start.saturating_add(size.max(self.header.init_size.into()));
        check_ram(mem, &(start..end))?;
        if size <= ENTRY_64_OFFSET {
            return Err(Error::EntryOutside {
                entry: start + ENTRY_64_OFFSET,
            });
        }
        mem.write_slice(self.code, GuestAddress(start))
            .map_err(|source| Error::Write {
                what: "the kernel",
                source,
            })?;
        Ok(self.loaded(start + ENTRY_64_OFFSET, end, Unpacked::ByKernel))
    }

    fn loaded(&self, entry: u64, end: u64, unpacked: Unpacked) -> LoadedKernel {
        let claimed = self
            .preferred()
            .saturating_add(self.header.init_size.into());
        LoadedKernel {
            entry: GuestAddress(entry),
            protocol: Protocol::Linux64,
            end: GuestAddress(end.max(claimed)),
            setup_header: Some(self.header),
            max_cmdline: index(self.header.cmdline_size.into()),
            unpacked,
        }
    }

    /// The address the kernel is linked at.
    fn preferred(&self) -> u64 {
        self.header.pref_address
    }
}

/// Copies the setup header, whose end the jump at its start tells.
fn read_header(image: &[u8]) -> Result<setup_header, Error> {
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    let jump = image.get(0x201).copied().unwrap_or(0);
    let len = (0x202 + usize::from(jump) - HEADER_OFFSET).min(bytes.len());
    bytes[..len].copy_from_slice(part(
        image,
        "the setup header",
        HEADER_OFFSET,
        len_u64(len),
    )?);
    Ok(header)
}

/// `size` bytes at `offset`, if they are there.
fn part<'a>(
    bytes: &'a [u8],
    what: &'static str,
    offset: usize,
    size: u64,
) -> Result<&'a [u8], Error> {
    let end = offset.checked_add(index(size));
    end.and_then(|end| bytes.get(offset..end))
        .ok_or(Error::Truncated {
            what,
            end: len_u64(offset).saturating_add(size),
            size: len_u64(bytes.len()),
        })
}

#[cfg(test)]
mod tests;
