//! Where things are: guest-physical addresses, ports and interrupt numbers.
//!
//! Everything that two parts of the machine must agree on (ACPI tables and
//! devices, boot data and registers) is named here once.
//!
//! ```text
//! 0x0000_0000  RAM: real-mode vectors, GDT, start info, zero page, page tables, texts
//! 0x000a_0000  reserved, as on a PC; ACPI tables from 0xe0000
//! 0x0010_0000  RAM: kernel, initrd
//! 0xc000_0000  32-bit window for PCI BARs
//! 0xe000_0000  ECAM of PCI bus 0
//! 0xfec0_0000  I/O APIC, local APICs, pages KVM needs for itself
//! 4 GiB        the rest of RAM
//! above RAM    64-bit window for PCI BARs
//! ```

use std::ops::Range;

use vm_memory::GuestAddress;

/// Most vCPUs a machine can have.
pub const MAX_VCPUS: u32 = 64;

/// Least RAM of a machine, in bytes: the kernel is linked at 16 MiB, and what
/// is below that alone boots nothing.
pub const MIN_RAM_SIZE: u64 = 16 << 20;

/// The GDT that the boot registers refer to.
pub const GDT: GuestAddress = GuestAddress(0x500);

/// `hvm_start_info` and its memory map (PVH); one page.
pub const PVH_START_INFO: GuestAddress = GuestAddress(0x6000);

/// `struct boot_params` (Linux 64-bit boot protocol); one page.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);

/// The Multiboot information, with its memory map; one page.
pub const MULTIBOOT_INFO: GuestAddress = GuestAddress(0x8000);

/// Page tables which map the first 4 GiB to themselves; six pages.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);

/// The kernel's command line, NUL-terminated.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);

/// Room for the command line with its NUL, in bytes.
pub const COMMAND_LINE_ROOM: usize = 0x1_0000;

/// The list of modules, with their command lines behind it.
pub const MODULES: GuestAddress = GuestAddress(0x3_0000);

/// Room for both, in bytes.
pub const MODULES_ROOM: u64 = 0x2_0000;

/// End of conventional memory.
pub const LOW_RAM_END: u64 = 0xA_0000;

/// ACPI tables, the RSDP first.
pub const ACPI_TABLES: Range<u64> = 0xE_0000..0x10_0000;

/// From here kernels and initrds are loaded.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// End of RAM below 4 GiB; more RAM continues at [`HIGH_MEMORY_START`].
pub const PCI_HOLE_START: u64 = 0xC000_0000;

/// Window for 32-bit PCI BARs.
pub const PCI_MMIO32: Range<u64> = 0xC000_0000..0xE000_0000;

/// Enhanced configuration access (PCI Express Base Specification 7.2.2).
pub const ECAM_BASE: u64 = 0xE000_0000;

/// Size of the ECAM: bus 0 only, so that a guest scans no other.
pub const ECAM_SIZE: u64 = 1 << 20;

/// Registers of the I/O APIC.
pub const IOAPIC: u64 = 0xFEC0_0000;

/// Registers of each vCPU's local APIC; writes from devices are MSIs.
pub const LOCAL_APIC: u64 = 0xFEE0_0000;

/// Page for `KVM_SET_IDENTITY_MAP_ADDR`.
pub const KVM_IDENTITY_MAP: u64 = 0xFFFB_C000;

/// Three pages for `KVM_SET_TSS_ADDR`.
pub const KVM_TSS: u64 = 0xFFFB_D000;

/// Both of KVM's own ranges, which the guest must leave alone.
pub const KVM_PAGES: Range<u64> = KVM_IDENTITY_MAP..KVM_TSS + 0x3000;

/// RAM that has no room below [`PCI_HOLE_START`] starts here.
pub const HIGH_MEMORY_START: u64 = 1 << 32;

/// First serial port.
pub const COM1_PORT: u16 = 0x3F8;
/// Ports of a 16550.
pub const COM1_PORTS: u8 = 8;
/// Interrupt of the first serial port; edge triggered.
pub const COM1_IRQ: u32 = 4;

/// Index port of the MC146818 clock; the data port follows.
pub const RTC_PORT: u16 = 0x70;
/// Index and data.
pub const RTC_PORTS: u8 = 2;
/// Interrupt of the clock; edge triggered.
pub const RTC_IRQ: u32 = 8;

/// Interrupt of ACPI events; active high and edge triggered, as the MADT says.
pub const SCI_IRQ: u32 = 9;

/// The timer's interrupt, ISA 0, arrives at this I/O APIC pin, as on every PC
/// and as the MADT says. KVM's PIT raises GSI 0: its route leads here.
pub const PIT_IOAPIC_PIN: u32 = 2;

/// I/O APIC pins, which are GSIs 0 to 23.
pub const IOAPIC_PINS: u32 = 24;

/// MSIs take the GSIs from here up.
pub const FIRST_MSI_GSI: u32 = IOAPIC_PINS;

/// PM1a event block (ACPI 4.8.3.1): status, then enable, two bytes each.
pub const PM1A_EVENT_PORT: u16 = 0x600;
/// Length of the event block in bytes.
pub const PM1A_EVENT_PORTS: u8 = 4;
/// PM1a control block (ACPI 4.8.3.2). `SCI_EN` always reads as one: there is
/// no SMI command port, so the machine is in ACPI mode from the start.
pub const PM1A_CONTROL_PORT: u16 = 0x604;
/// Length of the control block in bytes.
pub const PM1A_CONTROL_PORTS: u8 = 2;
/// PM timer (ACPI 4.8.3.3), 32 bits wide.
pub const PM_TIMER_PORT: u16 = 0x608;
/// Length of the timer in bytes.
pub const PM_TIMER_PORTS: u8 = 4;
/// `SLP_TYP` that means soft off, as the DSDT's `\_S5` says.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Reset register (FADT `RESET_REG`), one byte.
pub const RESET_PORT: u16 = 0xCF9;
/// What, written to [`RESET_PORT`], resets the machine.
pub const RESET_VALUE: u8 = 6;

/// PCI configuration mechanism 1: address at this port, data four above.
pub const PCI_CONFIG_PORT: u16 = 0xCF8;
/// Address and data.
pub const PCI_CONFIG_PORTS: u8 = 8;

const GIB: u64 = 1 << 30;

/// Size of the 64-bit BAR window where the address space allows it.
const MMIO64_SIZE: u64 = 64 * GIB;

/// Most RAM, in bytes, that a processor with so many physical address bits can
/// have here, with 1 GiB left for the 64-bit BAR window.
#[must_use]
pub fn max_ram_size(physical_bits: u8) -> u64 {
    let hole = HIGH_MEMORY_START - PCI_HOLE_START;
    let room = address_limit(physical_bits)
        .saturating_sub(GIB)
        .saturating_sub(hole);
    room.max(PCI_HOLE_START)
}

/// Splits `size` bytes of RAM around the PCI hole: `(start, length)`, in order.
#[must_use]
pub fn ram_ranges(size: u64) -> Vec<(GuestAddress, u64)> {
    let low = size.min(PCI_HOLE_START);
    let mut ranges = vec![(GuestAddress(0), low)];
    if size > low {
        ranges.push((GuestAddress(HIGH_MEMORY_START), size - low));
    }
    ranges
}

/// The 64-bit BAR window: above all RAM, from a multiple of 1 GiB, at most
/// 64 GiB, and empty if the processor can address nothing there.
#[must_use]
pub fn mmio64_window(ram_size: u64, physical_bits: u8) -> Range<u64> {
    let ram_end = HIGH_MEMORY_START.saturating_add(ram_size.saturating_sub(PCI_HOLE_START));
    let limit = address_limit(physical_bits);
    let start = ram_end
        .checked_next_multiple_of(GIB)
        .unwrap_or(limit)
        .min(limit);
    start..start.saturating_add(MMIO64_SIZE).min(limit)
}

/// First address that does not exist. Physical addresses have 32 to 52 bits
/// (SDM volume 3A, 4.1.4); other numbers are clamped.
fn address_limit(physical_bits: u8) -> u64 {
    1 << physical_bits.clamp(32, 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ram_is_split_at_the_hole() {
        assert_eq!(ram_ranges(512 << 20), [(GuestAddress(0), 512 << 20)]);
        assert_eq!(
            ram_ranges(PCI_HOLE_START),
            [(GuestAddress(0), PCI_HOLE_START)]
        );
        assert_eq!(
            ram_ranges(4 * GIB),
            [(GuestAddress(0), 3 * GIB), (GuestAddress(4 * GIB), GIB)]
        );
    }

    #[test]
    fn fixed_areas_follow_each_other() {
        let areas = [
            (GDT.0, 0x100),
            (PVH_START_INFO.0, 0x1000),
            (ZERO_PAGE.0, 0x1000),
            (MULTIBOOT_INFO.0, 0x1000),
            (PAGE_TABLES.0, 0x6000),
            (COMMAND_LINE.0, 0x1_0000),
            (MODULES.0, MODULES_ROOM),
            (ACPI_TABLES.start, ACPI_TABLES.end - ACPI_TABLES.start),
            (PCI_MMIO32.start, PCI_MMIO32.end - PCI_MMIO32.start),
            (ECAM_BASE, ECAM_SIZE),
            (IOAPIC, 0x1000),
            (LOCAL_APIC, 0x1000),
            (KVM_PAGES.start, KVM_PAGES.end - KVM_PAGES.start),
        ];
        for pair in areas.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        const { assert!(KVM_PAGES.end <= HIGH_MEMORY_START) };
    }

    #[test]
    fn window_is_empty_without_address_bits() {
        assert!(mmio64_window(1 << 30, 32).is_empty());
        assert_eq!(mmio64_window(1 << 30, 36), 4 * GIB..64 * GIB);
        assert_eq!(mmio64_window(5 * GIB + 1, 40), 7 * GIB..71 * GIB);
    }

    proptest! {
        #[test]
        fn ram_and_window_stay_apart(size in 1..1u64 << 52, bits in any::<u8>()) {
            let size = size.min(max_ram_size(bits));
            let ranges = ram_ranges(size);
            prop_assert_eq!(ranges.iter().map(|range| range.1).sum::<u64>(), size);
            let (last, len) = ranges[ranges.len() - 1];
            let window = mmio64_window(size, bits);
            prop_assert!(last.0 + len <= window.start);
            prop_assert_eq!(window.start % GIB, 0);
            prop_assert!(window.end <= address_limit(bits));
            if bits >= 36 {
                prop_assert!(!window.is_empty());
            }
        }
    }
}
