//! Page tables for a vCPU that starts in long mode.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::GuestMemory;
use crate::layout::PAGE_TABLES;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// In a page directory's entry: it maps 2 MiB itself.
const LARGE: u64 = 1 << 7;

const PAGE: u64 = 0x1000;
const LARGE_PAGE: u64 = 2 << 20;
const ENTRIES: u64 = 512;
/// Gigabytes mapped: one page directory each.
const DIRECTORIES: u64 = 4;

/// Writes tables at [`PAGE_TABLES`] which map the first 4 GiB to themselves by
/// 2 MiB pages, and returns the value for CR3.
///
/// Linux asks that its image, the zero page and the command line be mapped so
/// (boot.rst, 64-bit boot protocol). Pages of 2 MiB exist on every 64-bit
/// processor, those of 1 GiB do not (SDM volume 3A, 4.5).
///
/// # Errors
/// If the tables' place is not RAM.
pub fn write_identity_map(mem: &GuestMemory) -> Result<u64, GuestMemoryError> {
    let pml4 = PAGE_TABLES;
    let pdpt = table(1);
    write_table(mem, pml4, std::iter::once(pdpt.0 | PRESENT | WRITABLE))?;
    let directories = (0..DIRECTORIES).map(|index| table(2 + index).0 | PRESENT | WRITABLE);
    write_table(mem, pdpt, directories)?;
    for index in 0..DIRECTORIES {
        let first = index * ENTRIES;
        let pages =
            (first..first + ENTRIES).map(|page| (page * LARGE_PAGE) | PRESENT | WRITABLE | LARGE);
        write_table(mem, table(2 + index), pages)?;
    }
    Ok(pml4.0)
}

fn table(index: u64) -> GuestAddress {
    GuestAddress(PAGE_TABLES.0 + index * PAGE)
}

/// Writes a whole page: `entries`, then zeroes.
fn write_table(
    mem: &GuestMemory,
    address: GuestAddress,
    entries: impl Iterator<Item = u64>,
) -> Result<(), GuestMemoryError> {
    let mut page = Vec::with_capacity(4096);
    for entry in entries {
        page.extend_from_slice(&entry.to_le_bytes());
    }
    page.resize(4096, 0);
    mem.write_slice(&page, address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tables as the processor does.
    fn translate(mem: &GuestMemory, cr3: u64, address: u64) -> Option<u64> {
        let mut table = cr3;
        for shift in [39, 30, 21] {
            let index = address >> shift & 0x1ff;
            let entry: u64 = mem.read_obj(GuestAddress(table + index * 8)).unwrap();
            if entry & PRESENT == 0 {
                return None;
            }
            let base = entry & 0x000f_ffff_ffff_f000;
            if entry & LARGE != 0 {
                return Some(base + (address & (LARGE_PAGE - 1)));
            }
            table = base;
        }
        None
    }

    #[test]
    fn first_four_gigabytes_map_to_themselves() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap();
        let cr3 = write_identity_map(&mem).unwrap();
        for address in [0, 0x7000, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(translate(&mem, cr3, address), Some(address), "{address:#x}");
        }
        assert_eq!(translate(&mem, cr3, 1 << 32), None);
        assert_eq!(translate(&mem, cr3, 1 << 39), None);
    }

    #[test]
    fn too_little_memory_is_an_error() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0xA000)]).unwrap();
        assert!(write_identity_map(&mem).is_err());
    }
}
