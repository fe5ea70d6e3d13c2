//! The Multiboot information: what a kernel finds behind EBX (3.3).

use vm_memory::{Bytes, GuestAddress};
use zerocopy::{Immutable, IntoBytes};

use super::super::memory_map::{Kind, memory_map};
use super::super::modules::{Module, write_list};
use super::super::{BootParams, Error, len_u64};
use super::bios;
use crate::GuestMemory;
use crate::layout::{COMMAND_LINE, HIGH_RAM_START, LOW_RAM_END, MODULES, MULTIBOOT_INFO};

/// Which fields are there.
const MEMORY: u32 = 1;
const COMMAND: u32 = 1 << 2;
const MODULE_LIST: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const LOADER_NAME: u32 = 1 << 9;

/// The boot loader's name follows the information in its page.
const NAME: &str = concat!("nestling ", env!("CARGO_PKG_VERSION"), "\0");
const NAME_ADDRESS: GuestAddress = GuestAddress(MULTIBOOT_INFO.0 + 0x60);

/// The memory map follows the name.
const MAP_ADDRESS: GuestAddress = GuestAddress(MULTIBOOT_INFO.0 + 0x80);

/// Entries up to the end of the page.
const MAP_MAX: usize = (0x1000 - 0x80) / size_of::<MapEntry>();

/// The information structure. What isn't named is left out by `flags`.
#[repr(C)]
#[derive(Default, Immutable, IntoBytes)]
struct Information {
    flags: u32,
    /// In KiB, from 0.
    mem_lower: u32,
    /// In KiB, from 1 MiB to the first hole.
    mem_upper: u32,
    boot_device: u32,
    cmdline: u32,
    mods_count: u32,
    mods_addr: u32,
    syms: [u32; 4],
    mmap_length: u32,
    mmap_addr: u32,
    drives: [u32; 2],
    config_table: u32,
    boot_loader_name: u32,
    apm_table: u32,
    vbe: [u32; 4],
}

/// An entry of the memory map.
#[repr(C, packed)]
#[derive(Immutable, IntoBytes)]
struct MapEntry {
    /// Of the rest.
    size: u32,
    addr: u64,
    len: u64,
    kind: u32,
}

/// Writes the information, with the modules and the memory map, and what is in a
/// BIOS's place. The initrd is the first module.
pub(in super::super) fn write(mem: &GuestMemory, params: &BootParams<'_>) -> Result<(), Error> {
    bios::write(mem)?;
    let modules = params.all_modules();
    write_modules(mem, &modules)?;
    let map = map(mem)?;
    let information = Information {
        flags: MEMORY | COMMAND | MODULE_LIST | MEMORY_MAP | LOADER_NAME,
        mem_lower: low(LOW_RAM_END >> 10),
        mem_upper: upper_kib(mem),
        cmdline: low(COMMAND_LINE.0),
        mods_count: low(len_u64(modules.len())),
        mods_addr: low(MODULES.0),
        mmap_length: low(len_u64(map.as_bytes().len())),
        mmap_addr: low(MAP_ADDRESS.0),
        boot_loader_name: low(NAME_ADDRESS.0),
        ..Information::default()
    };
    for (bytes, address) in [
        (information.as_bytes(), MULTIBOOT_INFO),
        (NAME.as_bytes(), NAME_ADDRESS),
        (map.as_bytes(), MAP_ADDRESS),
    ] {
        mem.write_slice(bytes, address)
            .map_err(|source| Error::Write {
                what: "the Multiboot information",
                source,
            })?;
    }
    Ok(())
}

/// The module list: start, end, command line and a reserved word of each.
fn write_modules(mem: &GuestMemory, modules: &[Module]) -> Result<(), Error> {
    write_list(mem, modules, |range, line| {
        let fields = [range.start, range.end, line, 0];
        let mut entry = [0; 16];
        for (bytes, field) in entry.chunks_exact_mut(4).zip(fields) {
            bytes.copy_from_slice(&low(field).to_le_bytes());
        }
        entry
    })
}

/// The memory map; its kinds have the same numbers as in e820.
fn map(mem: &GuestMemory) -> Result<Vec<MapEntry>, Error> {
    let map = memory_map(mem);
    if map.len() > MAP_MAX {
        return Err(Error::MemoryMapTooLong {
            count: map.len(),
            max: MAP_MAX,
        });
    }
    let size = low(len_u64(size_of::<MapEntry>() - size_of::<u32>()));
    let entry = |entry: &super::super::memory_map::Entry| MapEntry {
        size,
        addr: entry.start,
        len: entry.end - entry.start,
        kind: entry.kind.number(),
    };
    Ok(map.iter().map(entry).collect())
}

/// RAM from 1 MiB up to where it first ends, in KiB.
fn upper_kib(mem: &GuestMemory) -> u32 {
    let upper = memory_map(mem)
        .into_iter()
        .find(|entry| entry.kind == Kind::Ram && entry.start == HIGH_RAM_START);
    upper.map_or(0, |entry| low((entry.end - entry.start) >> 10))
}

/// An address or a size that the layout keeps below 4 GiB.
fn low(value: u64) -> u32 {
    u32::try_from(value).expect("boot data, modules and the RAM below the PCI hole are low")
}
