//! What a virtio device shows in its configuration space, and where its
//! structures are.

use virtio_bindings::virtio_ids as ids;

use crate::pci::config::{Bar, ConfigSpace, Identity};
use crate::virtio::pci::doorbells::NOTIFY_STEP;

/// The BAR with all of the device's structures.
pub(super) const BAR_NUMBER: u8 = 0;
pub(super) const BAR_INDEX: usize = BAR_NUMBER as usize;
pub(super) const BAR: Bar = Bar {
    size: 0x8000,
    is_64_bit: true,
    prefetchable: false,
};
pub(super) const PAGE_SIZE: u64 = 0x1000;

/// A capability of vendor-defined layout (PCI 3.0, appendix H).
const VENDOR_CAPABILITY: u8 = 0x09;

// Capability types (virtio 1.3, 4.1.4).
const COMMON_CONFIG: u8 = 1;
const NOTIFY_CONFIG: u8 = 2;
const ISR_CONFIG: u8 = 3;
const DEVICE_CONFIG: u8 = 4;
const PCI_CONFIG: u8 = 5;

const COMMON_CONFIG_LEN: u32 = 56;
const ISR_LEN: u32 = 1;
const DEVICE_CONFIG_LEN: u32 = 0x1000;

/// Fields of a virtio capability, from its start.
const CAPABILITY_BAR_OFFSET: usize = 4;
const CAPABILITY_OFFSET_OFFSET: usize = 8;
const CAPABILITY_LENGTH_OFFSET: usize = 12;
/// The data of the PCI configuration access capability, from its start.
pub(super) const WINDOW_DATA_OFFSET: usize = 16;

const VIRTIO_VENDOR: u16 = 0x1af4;
const FIRST_DEVICE_ID: u16 = 0x1040;
const LAST_DEVICE_TYPE: u16 = 0x3f;

/// A page of the BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    Common,
    InterruptStatus,
    Device,
    Notify,
    MsixTable,
    MsixPending,
}

impl Region {
    /// The structure in the page that `offset` is in.
    pub(super) fn at(offset: u64) -> Option<Self> {
        Some(match offset / PAGE_SIZE {
            0 => Self::Common,
            1 => Self::InterruptStatus,
            2 => Self::Device,
            3 => Self::Notify,
            4 => Self::MsixTable,
            5 => Self::MsixPending,
            _ => return None,
        })
    }

    /// The offset of the structure's page.
    pub(super) const fn offset(self) -> u32 {
        match self {
            Self::Common => 0x0000,
            Self::InterruptStatus => 0x1000,
            Self::Device => 0x2000,
            Self::Notify => 0x3000,
            Self::MsixTable => 0x4000,
            Self::MsixPending => 0x5000,
        }
    }
}

/// The configuration space of a device of a type, without capabilities; `None`
/// if there is no PCI device number for it (virtio 1.3, 4.1.2).
pub(super) fn config_space(device_type: u32) -> Option<ConfigSpace> {
    let number = u16::try_from(device_type)
        .ok()
        .filter(|number| *number <= LAST_DEVICE_TYPE)?;
    let device = FIRST_DEVICE_ID + number;
    let mut config = ConfigSpace::new(&Identity {
        vendor: VIRTIO_VENDOR,
        device,
        class: class(device_type),
        revision: 1,
        subsystem_vendor: VIRTIO_VENDOR,
        subsystem: device,
    });
    config.add_bar(BAR_INDEX, BAR);
    Some(config)
}

/// The PCI class of a device type (PCI Code and ID Assignment 1.11).
fn class(device_type: u32) -> u32 {
    match device_type {
        ids::VIRTIO_ID_NET => 0x02_00_00,     // Ethernet controller
        ids::VIRTIO_ID_BLOCK => 0x01_80_00,   // other mass storage
        ids::VIRTIO_ID_CONSOLE => 0x07_80_00, // other communication
        _ => 0xff_00_00,                      // of no class
    }
}

/// Adds the capabilities that lead to the structures, and returns the offset of
/// the one for access by configuration space.
pub(super) fn add_virtio_capabilities(config: &mut ConfigSpace, queues: usize) -> usize {
    let notify_len = NOTIFY_STEP * u32::try_from(queues).expect("there are at most 255");
    let mut add = |kind, region: Region, len, rest: &[u8], writable: &[u8]| {
        let body = capability(kind, region.offset(), len, rest);
        let mut mask = vec![0; body.len() - writable.len()];
        mask.extend_from_slice(writable);
        config.add_capability(VENDOR_CAPABILITY, &body, &mask)
    };
    add(COMMON_CONFIG, Region::Common, COMMON_CONFIG_LEN, &[], &[]);
    add(ISR_CONFIG, Region::InterruptStatus, ISR_LEN, &[], &[]);
    add(DEVICE_CONFIG, Region::Device, DEVICE_CONFIG_LEN, &[], &[]);
    add(
        NOTIFY_CONFIG,
        Region::Notify,
        notify_len,
        &NOTIFY_STEP.to_le_bytes(),
        &[],
    );
    // The driver chooses BAR, offset and length, and gives or takes the data.
    let mut writable = [0xff; 16];
    writable[1..4].fill(0);
    add(PCI_CONFIG, Region::Common, 0, &[0; 4], &writable)
}

/// A capability after its id and link (virtio 1.3, 4.1.4).
fn capability(kind: u8, offset: u32, len: u32, rest: &[u8]) -> Vec<u8> {
    let total = u8::try_from(16 + rest.len()).expect("the longest has 20 bytes");
    let mut body = vec![total, kind, BAR_NUMBER, 0, 0, 0];
    body.extend_from_slice(&offset.to_le_bytes());
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(rest);
    body
}

/// Where the capability for access by configuration space points to: an offset
/// into the BAR and a length. `None` unless it is an aligned access inside the
/// BAR that there is.
pub(super) fn window_target(config: &ConfigSpace, capability: usize) -> Option<(u64, usize)> {
    let field = |at: usize, len: usize| {
        let mut bytes = [0; 4];
        config.read(capability + at, &mut bytes[..len]);
        u32::from_le_bytes(bytes)
    };
    let bar = field(CAPABILITY_BAR_OFFSET, 1);
    let offset = u64::from(field(CAPABILITY_OFFSET_OFFSET, 4));
    let len = field(CAPABILITY_LENGTH_OFFSET, 4);
    let valid = bar == u32::from(BAR_NUMBER)
        && matches!(len, 1 | 2 | 4)
        && offset.is_multiple_of(u64::from(len))
        && offset < BAR.size;
    valid.then_some((offset, usize::try_from(len).ok()?))
}
