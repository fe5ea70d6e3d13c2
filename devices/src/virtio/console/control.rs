//! The control queues' protocol (virtio 1.3, 5.3.6): what ports there are and
//! in what state.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, LE, U16, U32};

/// The driver is ready for control messages.
pub(super) const DEVICE_READY: u16 = 0;
pub(super) const PORT_ADD: u16 = 1;
/// The driver made a port, or failed to.
pub(super) const PORT_READY: u16 = 3;
pub(super) const CONSOLE_PORT: u16 = 4;
pub(super) const RESIZE: u16 = 5;
pub(super) const PORT_OPEN: u16 = 6;
pub(super) const PORT_NAME: u16 = 7;

/// A control message's fixed part.
#[derive(FromBytes, IntoBytes, Immutable, Default, Debug)]
#[repr(C)]
pub(super) struct Message {
    /// The port's number.
    pub(super) port: U32<LE>,
    /// What it is about.
    pub(super) event: U16<LE>,
    /// Its argument.
    pub(super) value: U16<LE>,
}

bitflags! {
    /// What the driver is yet to be told of a port, in the order of telling.
    ///
    /// Facts, not messages, are what waits: however often the driver asks,
    /// nothing grows.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Notices: u8 {
        /// The port exists.
        const ADD = 1 << 0;
        /// It is a console.
        const CONSOLE = 1 << 1;
        /// Its name.
        const NAME = 1 << 2;
        /// The console's size.
        const SIZE = 1 << 3;
        /// Whether somebody is at its host side.
        const OPEN = 1 << 4;
    }
}

impl Notices {
    /// Takes the notice that is to be told first.
    pub(super) fn take_first(&mut self) -> Option<Self> {
        let first = self.iter().next()?;
        self.remove(first);
        Some(first)
    }
}

/// What a port is to the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// Its number.
    pub(super) port: u32,
    /// Its name, for ports that aren't consoles.
    pub(super) name: &'a str,
    /// Columns and rows.
    pub(super) size: (u16, u16),
    /// Whether the host side is open.
    pub(super) open: bool,
}

/// Writes the message that tells `notice` to `buffer`.
pub(super) fn encode(notice: Notices, facts: Facts<'_>, buffer: &mut Vec<u8>) {
    let (event, value) = match notice {
        Notices::ADD => (PORT_ADD, 1),
        Notices::CONSOLE => (CONSOLE_PORT, 1),
        Notices::NAME => (PORT_NAME, 1),
        Notices::SIZE => (RESIZE, 1),
        _ => (PORT_OPEN, u16::from(facts.open)),
    };
    let message = Message {
        port: facts.port.into(),
        event: event.into(),
        value: value.into(),
    };
    buffer.clear();
    buffer.extend_from_slice(message.as_bytes());
    match notice {
        Notices::NAME => buffer.extend_from_slice(facts.name.as_bytes()),
        Notices::SIZE => {
            // Columns first, as the specification has it. Linux read rows
            // first until commit 5326ab737a47 (6.15, and stable kernels of
            // that time); no order suits both.
            buffer.extend_from_slice(&facts.size.0.to_le_bytes());
            buffer.extend_from_slice(&facts.size.1.to_le_bytes());
        }
        _ => {}
    }
}
