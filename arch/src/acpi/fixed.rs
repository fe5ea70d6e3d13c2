//! The FADT (ACPI 6.5, 5.2.9) and the FACS (5.2.10).

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{
    PM_TIMER_PORT, PM_TIMER_PORTS, PM1A_CONTROL_PORT, PM1A_CONTROL_PORTS, PM1A_EVENT_PORT,
    PM1A_EVENT_PORTS, RESET_PORT, RESET_VALUE, SCI_IRQ,
};

/// IAPC_BOOT_ARCH (table 5.11): there are devices a bus doesn't announce.
const LEGACY_DEVICES: u16 = 1 << 0;
/// IAPC_BOOT_ARCH: no VGA to be probed.
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// IAPC_BOOT_ARCH: no power management of PCIe links.
const PCIE_ASPM_CONTROLS: u16 = 1 << 4;

/// Where the clock keeps the century, as PCs do.
const CENTURY: u8 = 0x32;

/// Time-outs that say a processor has no C2 and no C3 (table 5.9).
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// The firmware control structure, which nothing but the sleep states that
/// the machine lacks would use; kernels complain where it isn't there.
pub(super) fn facs() -> FACS {
    FACS::new()
}

/// The fixed description: where the power management registers are.
///
/// The PM timer is named if `timer` says so. SMI_CMD is 0, so ACPI mode is on from
/// the start. The power button is the fixed one, as its flag isn't set.
pub(super) fn fadt(facs: u64, dsdt: u64, timer: bool) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_64(facs)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.sci_int = u16::try_from(SCI_IRQ)
        .expect("an ISA interrupt's number is small")
        .into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT_PORT).into();
    fadt.pm1_evt_len = PM1A_EVENT_PORTS;
    fadt.x_pm1a_evt_blk = ports(PM1A_EVENT_PORT, PM1A_EVENT_PORTS, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL_PORT).into();
    fadt.pm1_cnt_len = PM1A_CONTROL_PORTS;
    fadt.x_pm1a_cnt_blk = ports(
        PM1A_CONTROL_PORT,
        PM1A_CONTROL_PORTS,
        AccessSize::WordAccess,
    );
    if timer {
        fadt = fadt.flag(Flags::TmrValExt);
        fadt.pm_tmr_blk = u32::from(PM_TIMER_PORT).into();
        fadt.pm_tmr_len = PM_TIMER_PORTS;
        fadt.x_pm_tmr_blk = ports(PM_TIMER_PORT, PM_TIMER_PORTS, AccessSize::DwordAccess);
    }
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT | PCIE_ASPM_CONTROLS).into();
    fadt.reset_reg = ports(RESET_PORT, 1, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

fn ports(base: u16, count: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8 * count, 0, access, base.into())
}
