//! The DSDT: the PCI root, the serial port, the clock, and the sleep state
//! that powers the machine off.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    Package, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{
    COM1_IRQ, COM1_PORT, COM1_PORTS, ECAM_BASE, ECAM_SIZE, PCI_CONFIG_PORT, PCI_CONFIG_PORTS,
    RTC_PORT, RTC_PORTS, SLEEP_TYPE_S5,
};

/// A table's header (ACPI 6.5, 5.2.6).
const HEADER_LENGTH: u32 = 36;
/// Integers have 64 bits from this revision on.
const REVISION: u8 = 2;

pub(super) fn dsdt(config: &AcpiConfig) -> Sdt {
    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_LENGTH,
        REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    let mut body = Vec::new();
    Scope::new(
        "_SB_".into(),
        vec![&PciRoot(config), &SerialPort, &Clock, &Motherboard],
    )
    .to_aml_bytes(&mut body);
    // SLP_TYPa for S5; the other elements mean nothing here (7.4.2).
    let values = Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &values).to_aml_bytes(&mut body);
    table.append_slice(&body);
    table
}

struct PciRoot<'a>(&'a AcpiConfig);

impl Aml for PciRoot<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let AcpiConfig {
            pci_ports,
            mmio32,
            mmio64,
            ..
        } = self.0;
        let low = |address: u64| u32::try_from(address).expect("the hole lies below 4 GiB");
        let window32 = memory(low(mmio32.start), low(mmio32.end - 1));
        // One bus, so that the guest scans no other.
        let buses = AddressSpace::new_bus_number(0u16, 0u16);
        let config = IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 1, PCI_CONFIG_PORTS);
        let mut resources: Vec<&dyn Aml> = vec![&buses, &window32];
        if *pci_ports {
            resources.push(&config);
        }
        // With few address bits there is no room for it.
        let window64 = (!mmio64.is_empty()).then(|| memory(mmio64.start, mmio64.end - 1));
        resources.extend(window64.as_ref().map(|window| window as &dyn Aml));
        Device::new(
            "PCI0".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
                &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new("_SEG".into(), &ZERO),
                &Name::new("_BBN".into(), &ZERO),
                // Coherent DMA, by CPU caches as in every PC.
                &Name::new("_CCA".into(), &acpi_tables::aml::ONE),
                &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
            ],
        )
        .to_aml_bytes(sink);
    }
}

fn memory<T: Default>(first: T, last: T) -> AddressSpace<T> {
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None)
}

struct SerialPort;

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        Device::new(
            "COM1".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &IO::new(COM1_PORT, COM1_PORT, 1, COM1_PORTS),
                        &Interrupt::new(true, true, false, false, COM1_IRQ),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The clock, without an interrupt: it offers no alarms.
struct Clock;

impl Aml for Clock {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        Device::new(
            "RTC_".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&IO::new(RTC_PORT, RTC_PORT, 1, RTC_PORTS)]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// What the board itself takes: kernels use ECAM only where something
/// reserves it (PCI Firmware 3.3, 4.1.2).
struct Motherboard;

impl Aml for Motherboard {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let low = |value: u64| u32::try_from(value).expect("ECAM lies below 4 GiB");
        Device::new(
            "MBRD".into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &ZERO),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![&Memory32Fixed::new(
                        true,
                        low(ECAM_BASE),
                        low(ECAM_SIZE),
                    )]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}
