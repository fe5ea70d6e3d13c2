//! Boot data: what a kernel finds in memory besides itself.

use std::ops::Range;
use std::path::Path;

use linux_loader::loader::bootparam::{
    E820_MAX_ENTRIES_ZEROPAGE, boot_e820_entry, boot_params, setup_header,
};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::memory_map::memory_map;
use super::modules::{Module, write_list};
use super::{Error, LoadedKernel, Protocol, Unpacked, multiboot};
use crate::GuestMemory;
use crate::layout::{COMMAND_LINE, COMMAND_LINE_ROOM, MODULES, PVH_START_INFO, ZERO_PAGE};
use crate::paging::write_identity_map;
use crate::regs::write_gdt;

/// "No assigned identifier" (boot.rst, `type_of_loader`).
const LOADER_UNDEFINED: u8 = 0xff;
/// `loadflags`: the kernel is at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// `loadflags`: the decompressor has moved the kernel at random.
const KASLR_FLAG: u8 = 1 << 1;

/// The memory map follows the start info in its page.
const PVH_MEMORY_MAP: GuestAddress = GuestAddress(PVH_START_INFO.0 + 0x80);
/// Entries of 24 bytes up to the end of the page.
const PVH_MEMORY_MAP_MAX: usize = (0x1000 - 0x80) / 24;

/// What the machine tells its kernel.
#[derive(Clone, Debug)]
pub struct BootParams<'a> {
    /// Command line, as [`command_line`] gives it: ASCII without NUL.
    pub cmdline: &'a str,
    /// What [`load_initrd`](super::load_initrd) returned. To PVH and Multiboot it is
    /// the first module.
    pub initrd: Option<Range<u64>>,
    /// What [`load_module`](super::load_module) returned, for PVH and Multiboot.
    pub modules: &'a [Module],
    /// What [`acpi::build`](crate::acpi::build) returned.
    pub rsdp: GuestAddress,
}

impl BootParams<'_> {
    /// All modules of a protocol for which the initrd is the first.
    pub(super) fn all_modules(&self) -> Vec<Module> {
        let initrd = self.initrd.iter().map(|range| Module {
            range: range.clone(),
            cmdline: String::new(),
        });
        initrd.chain(self.modules.iter().cloned()).collect()
    }
}

/// `text` as `kernel` expects a command line: Multiboot's begin with the name of
/// the file, which kernels skip.
#[must_use]
pub fn command_line(kernel: &LoadedKernel, file: &Path, text: &str) -> String {
    if kernel.protocol != Protocol::Multiboot {
        return text.to_owned();
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let word = name.replace(|c: char| !c.is_ascii_graphic(), "_");
    format!("{word} {text}").trim_end().to_owned()
}

/// Writes the command line; for Linux the zero page, with the memory map, and
/// page tables; for PVH the start info, and for Multiboot its information, with the
/// same map; and the GDT.
///
/// # Errors
/// If the command line is not acceptable, or RAM is missing or in too many
/// pieces.
pub fn write_boot_data(
    mem: &GuestMemory,
    kernel: &LoadedKernel,
    params: &BootParams<'_>,
) -> Result<(), Error> {
    write_command_line(mem, kernel, params.cmdline)?;
    let write = |what| move |source| Error::Write { what, source };
    write_gdt(mem, kernel.protocol).map_err(write("the GDT"))?;
    match kernel.protocol {
        Protocol::Linux64 => {
            write_identity_map(mem).map_err(write("page tables"))?;
            let page = zero_page(mem, kernel, params)?;
            mem.write_obj(page, ZERO_PAGE)
                .map_err(write("the zero page"))
        }
        Protocol::Pvh => write_start_info(mem, params),
        Protocol::Multiboot => multiboot::info::write(mem, params),
    }
}

fn write_command_line(mem: &GuestMemory, kernel: &LoadedKernel, text: &str) -> Result<(), Error> {
    check_text(text)?;
    let max = kernel.max_cmdline.min(COMMAND_LINE_ROOM - 1);
    if text.len() > max {
        return Err(Error::CommandLineTooLong {
            length: text.len(),
            max,
        });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    mem.write_slice(&bytes, COMMAND_LINE)
        .map_err(|source| Error::Write {
            what: "the command line",
            source,
        })
}

/// Succeeds if `text` can be a command line.
pub(super) fn check_text(text: &str) -> Result<(), Error> {
    match text.bytes().position(|byte| byte == 0 || !byte.is_ascii()) {
        Some(position) => Err(Error::CommandLineByte {
            byte: text.as_bytes()[position],
            position,
        }),
        None => Ok(()),
    }
}

/// The zero page: the kernel's own setup header, completed, and the rest.
fn zero_page(
    mem: &GuestMemory,
    kernel: &LoadedKernel,
    params: &BootParams<'_>,
) -> Result<boot_params, Error> {
    let mut page = boot_params {
        hdr: kernel.setup_header.unwrap_or_else(elf_setup_header),
        acpi_rsdp_addr: params.rsdp.0,
        ..boot_params::default()
    };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.loadflags |= LOADED_HIGH;
    if kernel.unpacked != Unpacked::ByKernel {
        page.hdr.loadflags &= !KASLR_FLAG;
    }
    (page.hdr.cmd_line_ptr, page.ext_cmd_line_ptr) = split(COMMAND_LINE.0);
    if let Some(initrd) = &params.initrd {
        (page.hdr.ramdisk_image, page.ext_ramdisk_image) = split(initrd.start);
        (page.hdr.ramdisk_size, page.ext_ramdisk_size) = split(initrd.end - initrd.start);
    }
    let map = memory_map(mem);
    let mut table = [boot_e820_entry::default(); E820_MAX_ENTRIES_ZEROPAGE];
    page.e820_entries = match u8::try_from(map.len()) {
        Ok(count) if map.len() <= table.len() => count,
        _ => {
            return Err(Error::MemoryMapTooLong {
                count: map.len(),
                max: table.len(),
            });
        }
    };
    for (slot, entry) in table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: entry.start,
            size: entry.end - entry.start,
            r#type: entry.kind.number(),
        };
    }
    page.e820_table = table;
    Ok(page)
}

/// An ELF has no setup header; Linux looks at these fields of it.
fn elf_setup_header() -> setup_header {
    setup_header {
        boot_flag: 0xaa55,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20c,
        kernel_alignment: 2 << 20,
        ..setup_header::default()
    }
}

/// Low and high half.
fn split(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

fn write_start_info(mem: &GuestMemory, params: &BootParams<'_>) -> Result<(), Error> {
    let map = memory_map(mem);
    let entries = match u32::try_from(map.len()) {
        Ok(entries) if map.len() <= PVH_MEMORY_MAP_MAX => entries,
        _ => {
            return Err(Error::MemoryMapTooLong {
                count: map.len(),
                max: PVH_MEMORY_MAP_MAX,
            });
        }
    };
    let modules = params.all_modules();
    let count = u32::try_from(modules.len()).unwrap_or(u32::MAX);
    write_modules(mem, &modules)?;
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        nr_modules: count,
        modlist_paddr: if modules.is_empty() { 0 } else { MODULES.0 },
        cmdline_paddr: COMMAND_LINE.0,
        rsdp_paddr: params.rsdp.0,
        memmap_paddr: PVH_MEMORY_MAP.0,
        memmap_entries: entries,
        ..hvm_start_info::default()
    };
    let map: Vec<_> = map
        .iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.end - entry.start,
            type_: entry.kind.number(),
            reserved: 0,
        })
        .collect();
    write_table(mem, &[info], PVH_START_INFO)?;
    write_table(mem, &map, PVH_MEMORY_MAP)
}

fn write_modules(mem: &GuestMemory, modules: &[Module]) -> Result<(), Error> {
    write_list(mem, modules, |range, cmdline_paddr| {
        let entry = hvm_modlist_entry {
            paddr: range.start,
            size: range.end - range.start,
            cmdline_paddr,
            reserved: 0,
        };
        let mut bytes = [0; size_of::<hvm_modlist_entry>()];
        bytes.copy_from_slice(entry.as_slice());
        bytes
    })
}

fn write_table<T: ByteValued>(
    mem: &GuestMemory,
    entries: &[T],
    start: GuestAddress,
) -> Result<(), Error> {
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| entry.as_slice())
        .copied()
        .collect();
    mem.write_slice(&bytes, start)
        .map_err(|source| Error::Write {
            what: "the PVH start info",
            source,
        })
}

#[cfg(test)]
mod tests;
