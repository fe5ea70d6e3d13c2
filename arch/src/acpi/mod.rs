//! The ACPI tables (ACPI 6.5), by which the guest's kernel finds processors,
//! interrupt controllers, PCI and the power button.
//!
//! The machine says as little as a kernel needs: what isn't described isn't
//! probed, and each probe of a guest is an exit of its host.

mod dsdt;
mod fixed;
mod interrupts;

use acpi_tables::Aml;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use std::ops::Range;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::GuestMemory;
use crate::layout::{ACPI_TABLES, ECAM_BASE};

const OEM_ID: [u8; 6] = *b"NESTLG";
const OEM_TABLE_ID: [u8; 8] = *b"NESTLING";
const OEM_REVISION: u32 = 1;

/// What of the machine the tables describe beyond the fixed layout.
#[derive(Clone, Debug)]
pub struct AcpiConfig {
    /// How many vCPUs; their APIC ids are 0 up to it.
    pub cpus: u32,
    /// Whether a PM timer is named. A guest that has kvmclock needs none: it would
    /// try it out, and each read of it is an exit.
    pub pm_timer: bool,
    /// Whether PCI is configured by ports too.
    pub pci_ports: bool,
    /// The window for 32-bit BARs.
    pub mmio32: Range<u64>,
    /// The window for 64-bit BARs.
    pub mmio64: Range<u64>,
}

/// Why the tables can't be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// They need more than their place below 1 MiB.
    #[error("the tables end at {end:#x}, past their place up to {limit:#x}", limit = ACPI_TABLES.end)]
    TooLong {
        /// Where they would end.
        end: u64,
    },
    /// There is no RAM at their place.
    #[error("no RAM at {address:#x}: {source}")]
    Memory {
        /// The table's address.
        address: u64,
        /// What guest memory said.
        source: GuestMemoryError,
    },
}

/// Writes the tables below 1 MiB and returns the RSDP's address, which is
/// where a kernel also finds it by searching (5.2.5.1).
///
/// # Errors
/// If the tables don't fit, or there is no RAM for them.
pub fn build(mem: &GuestMemory, config: &AcpiConfig) -> Result<GuestAddress, Error> {
    let rsdp = GuestAddress(ACPI_TABLES.start);
    // The RSDP is written last, when the XSDT's address is known.
    let mut writer = Writer {
        mem,
        next: ACPI_TABLES.start + 64,
    };
    let facs = writer.write(&fixed::facs())?;
    let dsdt = writer.write(&dsdt::dsdt(config))?;
    let fadt = writer.write(&fixed::fadt(facs, dsdt, config.pm_timer))?;
    let madt = writer.write(&interrupts::madt(config.cpus))?;
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM_BASE, 0, 0, 0);
    let mcfg = writer.write(&mcfg)?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    [fadt, madt, mcfg]
        .into_iter()
        .for_each(|table| xsdt.add_entry(table));
    let xsdt = writer.write(&xsdt)?;
    writer.next = rsdp.0;
    writer.write(&Rsdp::new(OEM_ID, xsdt))?;
    Ok(rsdp)
}

/// Puts tables one behind the other.
struct Writer<'a> {
    mem: &'a GuestMemory,
    next: u64,
}

impl Writer<'_> {
    fn write(&mut self, table: &dyn Aml) -> Result<u64, Error> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let address = self.next;
        let end = address + bytes.len() as u64;
        if end > ACPI_TABLES.end {
            return Err(Error::TooLong { end });
        }
        self.mem
            .write_slice(&bytes, GuestAddress(address))
            .map_err(|source| Error::Memory { address, source })?;
        // The FACS must be at a multiple of 64 (5.2.10); the rest doesn't mind.
        self.next = end.next_multiple_of(64);
        Ok(address)
    }
}

#[cfg(test)]
mod tests;
