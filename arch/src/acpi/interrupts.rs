//! The MADT (ACPI 6.5, 5.2.12): processors and interrupt controllers.

use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::{Aml, AmlSink, aml_as_bytes};
use zerocopy::{Immutable, IntoBytes, LE, U16, U32};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{IOAPIC, LOCAL_APIC, PIT_IOAPIC_PIN, SCI_IRQ};

/// MPS INTI flags (table 5.26): active high, edge-triggered.
const HIGH_EDGE: u16 = 0b0101;

/// An interrupt source override (5.2.12.5).
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct SourceOverride {
    kind: u8,
    length: u8,
    bus: u8,
    source: u8,
    gsi: U32<LE>,
    flags: U16<LE>,
}

aml_as_bytes!(SourceOverride);

impl SourceOverride {
    fn new(source: u8, gsi: u32, flags: u16) -> Self {
        Self {
            kind: 2,
            length: 10,
            bus: 0,
            source,
            gsi: gsi.into(),
            flags: flags.into(),
        }
    }
}

/// A local APIC NMI (5.2.12.7): the pin of every processor that takes NMIs.
#[repr(C, packed)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct LocalApicNmi {
    kind: u8,
    length: u8,
    processor: u8,
    flags: U16<LE>,
    pin: u8,
}

aml_as_bytes!(LocalApicNmi);

impl LocalApicNmi {
    /// LINT1 of all processors.
    fn all() -> Self {
        Self {
            kind: 4,
            length: 6,
            processor: 0xFF,
            flags: 0.into(),
            pin: 1,
        }
    }
}

/// The table for `cpus` processors with APIC ids from 0.
pub(super) fn madt(cpus: u32) -> MADT {
    let below_4_gib = |address| u32::try_from(address).expect("interrupt controllers are low");
    let address = LocalInterruptController::Address(below_4_gib(LOCAL_APIC));
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, address);
    let ids = (0..=u8::MAX).take(usize::try_from(cpus).unwrap_or(usize::MAX));
    for id in ids {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, below_4_gib(IOAPIC), 0));
    // KVM's PIT is on pin 2, as on every PC. The SCI is pulsed, not held.
    madt.add_structure(SourceOverride::new(0, PIT_IOAPIC_PIN, 0));
    let sci = u8::try_from(SCI_IRQ).expect("an ISA interrupt's number is small");
    madt.add_structure(SourceOverride::new(sci, SCI_IRQ, HIGH_EDGE));
    madt.add_structure(LocalApicNmi::all());
    madt
}
