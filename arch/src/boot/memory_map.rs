//! What the guest is told of its memory.

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::GuestMemory;
use crate::layout::{ACPI_TABLES, ECAM_BASE, ECAM_SIZE, HIGH_RAM_START, KVM_PAGES, LOW_RAM_END};

/// Kinds of memory, by their number in e820 and in PVH's memory map alike
/// (ACPI 15, "Address Range Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ram,
    Reserved,
    Acpi,
}

impl Kind {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::Acpi => 3,
        }
    }
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) kind: Kind,
}

/// The map of a machine with this RAM, in ascending order.
///
/// Linux uses the ECAM only if it is reserved here or by a motherboard
/// resource in the DSDT; early in its boot it has but this map.
pub(super) fn memory_map(mem: &GuestMemory) -> Vec<Entry> {
    let entry = |start, end, kind| Entry { start, end, kind };
    let mut map = vec![
        entry(LOW_RAM_END, ACPI_TABLES.start, Kind::Reserved),
        entry(ACPI_TABLES.start, ACPI_TABLES.end, Kind::Acpi),
        entry(ECAM_BASE, ECAM_BASE + ECAM_SIZE, Kind::Reserved),
        entry(KVM_PAGES.start, KVM_PAGES.end, Kind::Reserved),
    ];
    for region in mem.iter() {
        let start = region.start_addr().0;
        let end = start.saturating_add(region.len());
        map.push(entry(start, end.min(LOW_RAM_END), Kind::Ram));
        map.push(entry(start.max(HIGH_RAM_START), end, Kind::Ram));
    }
    map.retain(|entry| entry.start < entry.end);
    map.sort_by_key(|entry| entry.start);
    map
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    #[test]
    fn map_is_that_of_a_pc() {
        let mem = GuestMemory::from_ranges(&[
            (GuestAddress(0), 16 << 20),
            (GuestAddress(1 << 32), 1 << 20),
        ])
        .unwrap();
        let map: Vec<_> = memory_map(&mem)
            .iter()
            .map(|entry| (entry.start, entry.end, entry.kind))
            .collect();
        assert_eq!(
            map,
            [
                (0, 0xa_0000, Kind::Ram),
                (0xa_0000, 0xe_0000, Kind::Reserved),
                (0xe_0000, 0x10_0000, Kind::Acpi),
                (0x10_0000, 0x100_0000, Kind::Ram),
                (0xe000_0000, 0xe010_0000, Kind::Reserved),
                (0xfffb_c000, 0xfffc_0000, Kind::Reserved),
                (0x1_0000_0000, 0x1_0010_0000, Kind::Ram),
            ]
        );
    }
}
