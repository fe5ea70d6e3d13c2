//! MSI-X (PCI 3.0, 6.8.2): a function's interrupts as messages.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::host::{Host, MsiMessage};
use crate::ratelimit::{RateLimit, warn_limited};

/// The capability's number.
pub const MSIX_CAPABILITY: u8 = 0x11;

/// The offset of the message control register in the capability.
pub const MSIX_CONTROL_OFFSET: usize = 2;

/// Bytes a vector takes up in the table.
pub const MSIX_ENTRY_SIZE: u64 = 16;

const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const CONTROL_ENABLE: u16 = 1 << 15;

const ENTRY_MASK: u32 = 1;
const ADDRESS_LOW_WRITABLE: u32 = !3;

/// The vectors as those who raise interrupts see them: without a lock.
pub struct MsixVectors {
    enabled: AtomicBool,
    vectors: Vec<Vector>,
}

struct Vector {
    interrupt: EventFd,
    /// Whether signalling `interrupt` delivers the message: the vector is
    /// unmasked and routed.
    live: AtomicBool,
    pending: AtomicBool,
}

impl MsixVectors {
    /// Whether the guest uses MSI-X.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Sends the message of `vector`, or holds it pending while the vector is
    /// masked. Nothing happens if there is no such vector or MSI-X is off.
    pub fn signal(&self, vector: u16) {
        let Some(vector) = self.vectors.get(usize::from(vector)) else {
            return;
        };
        if vector.live.load(Ordering::SeqCst) {
            vector.send();
        } else if self.enabled() {
            vector.pending.store(true, Ordering::SeqCst);
            // If it was unmasked in between, either this or the unmasking sees
            // the pending bit: each writes its own flag before it reads the
            // other's.
            if vector.live.load(Ordering::SeqCst) {
                vector.send_pending();
            }
        }
    }
}

impl Vector {
    fn send(&self) {
        // It fails only if the counter is at its end, with a message pending.
        let _ = self.interrupt.write(1);
    }

    fn send_pending(&self) {
        if self.pending.swap(false, Ordering::SeqCst) {
            self.send();
        }
    }
}

/// A vector as the guest programs it.
struct Entry {
    message: MsiMessage,
    masked: bool,
    /// The interrupt line, once the vector has been unmasked.
    gsi: Option<u32>,
    /// The message the line has.
    routed: Option<MsiMessage>,
}

impl Entry {
    const RESET: Self = Self {
        message: MsiMessage {
            address: 0,
            data: 0,
        },
        masked: true,
        gsi: None,
        routed: None,
    };

    fn image(&self) -> [u8; 16] {
        let mut image = [0; 16];
        image[0..8].copy_from_slice(&self.message.address.to_le_bytes());
        image[8..12].copy_from_slice(&self.message.data.to_le_bytes());
        image[12] = u8::from(self.masked);
        image
    }

    fn write(&mut self, dword: u64, value: u32) {
        let address = self.message.address;
        match dword {
            0 => {
                let low = u64::from(value & ADDRESS_LOW_WRITABLE);
                self.message.address = (address & !0xffff_ffff) | low;
            }
            1 => self.message.address = (address & 0xffff_ffff) | u64::from(value) << 32,
            2 => self.message.data = value,
            _ => self.masked = value & ENTRY_MASK != 0,
        }
    }
}

/// A function's MSI-X table, pending bits and control register.
///
/// Routing a message makes the kernel wait for a grace period, so a vector gets
/// a line and a message only when it is unmasked, and a new message only if it
/// has changed by then. Masking is a store: the line stays until MSI-X is
/// turned off.
pub struct Msix {
    host: Arc<dyn Host>,
    shared: Arc<MsixVectors>,
    entries: Vec<Entry>,
    function_mask: bool,
    refused: RateLimit,
}

impl Msix {
    /// A table of `vectors` vectors, between 1 and 2048, all masked.
    pub fn new(vectors: u16, host: Arc<dyn Host>) -> io::Result<Self> {
        let vector = |_| {
            Ok(Vector {
                interrupt: EventFd::new(EFD_NONBLOCK)?,
                live: AtomicBool::new(false),
                pending: AtomicBool::new(false),
            })
        };
        let shared = MsixVectors {
            enabled: AtomicBool::new(false),
            vectors: (0..vectors).map(vector).collect::<io::Result<_>>()?,
        };
        Ok(Self {
            host,
            shared: Arc::new(shared),
            entries: (0..vectors).map(|_| Entry::RESET).collect(),
            function_mask: false,
            refused: RateLimit::new(3, Duration::from_secs(60)),
        })
    }

    /// The vectors, to raise interrupts by.
    pub fn vectors(&self) -> Arc<MsixVectors> {
        self.shared.clone()
    }

    /// The capability's body and the bits of it that software can write, for a
    /// table and pending bits at offsets into `bar` that are multiples of 8.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 10]) {
        let last = u16::try_from(self.entries.len() - 1).unwrap_or(0x7ff) & 0x7ff;
        let mut body = [0; 10];
        body[0..2].copy_from_slice(&last.to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..10].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        let mut writable = [0; 10];
        writable[0..2].copy_from_slice(&(CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes());
        (body, writable)
    }

    /// Takes the message control register's new value.
    pub fn set_control(&mut self, control: u16) {
        let enabled = control & CONTROL_ENABLE != 0;
        self.function_mask = control & CONTROL_FUNCTION_MASK != 0;
        self.shared.enabled.store(enabled, Ordering::SeqCst);
        for index in 0..self.entries.len() {
            if enabled {
                self.update(index);
            } else {
                self.release(index);
            }
        }
    }

    /// Reads the table; zero past its end.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (position, byte) in (offset..).zip(data) {
            let (index, byte_of_entry) = split(position, MSIX_ENTRY_SIZE);
            *byte = self
                .entries
                .get(index)
                .map_or(0, |entry| entry.image()[byte_of_entry]);
        }
    }

    /// Writes the table, by aligned double or quad words as software must; any
    /// other write is ignored.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let (dwords, rest) = data.as_chunks::<4>();
        let aligned = u64::try_from(data.len()).is_ok_and(|len| offset.is_multiple_of(len));
        if !aligned || !rest.is_empty() {
            return;
        }
        let (index, _) = split(offset, MSIX_ENTRY_SIZE);
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        for (dword, value) in (offset % MSIX_ENTRY_SIZE / 4..).zip(dwords) {
            entry.write(dword, u32::from_le_bytes(*value));
        }
        self.update(index);
    }

    /// Reads the pending bits; zero past their end. They can't be written.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (position, byte) in (offset..).zip(data) {
            let first = usize::try_from(position).map_or(usize::MAX, |p| p.saturating_mul(8));
            let vectors = self.shared.vectors.iter().skip(first).take(8).enumerate();
            *byte = vectors.fold(0, |bits, (bit, vector)| {
                bits | u8::from(vector.pending.load(Ordering::SeqCst)) << bit
            });
        }
    }

    /// Returns to the state at power-on: off, and all vectors masked.
    pub fn reset(&mut self) {
        self.set_control(0);
        self.entries.fill_with(|| Entry::RESET);
    }

    /// Makes the vector live or not, as its mask and the function's are, while
    /// MSI-X is on.
    fn update(&mut self, index: usize) {
        if !self.shared.enabled() {
            return;
        }
        let masked = self.function_mask || self.entries[index].masked;
        let live = !masked
            && match self.route(index) {
                Ok(()) => true,
                Err(error) => {
                    warn_limited!(
                        self.refused,
                        "no interrupt for MSI-X vector {index}: {error}"
                    );
                    false
                }
            };
        let vector = &self.shared.vectors[index];
        vector.live.store(live, Ordering::SeqCst);
        if live {
            vector.send_pending();
        }
    }

    /// Gives the vector's line its message, and the vector a line if it has
    /// none.
    fn route(&mut self, index: usize) -> io::Result<()> {
        let interrupt = &self.shared.vectors[index].interrupt;
        let entry = &mut self.entries[index];
        let gsi = match entry.gsi {
            Some(gsi) => gsi,
            None => {
                // A signal left from before would be an interrupt at once.
                let _ = interrupt.read();
                *entry.gsi.insert(self.host.allocate_msi(interrupt)?)
            }
        };
        if entry.routed != Some(entry.message) {
            entry.routed = None;
            self.host.route_msi(gsi, entry.message)?;
            entry.routed = Some(entry.message);
        }
        Ok(())
    }

    fn release(&mut self, index: usize) {
        let vector = &self.shared.vectors[index];
        vector.live.store(false, Ordering::SeqCst);
        vector.pending.store(false, Ordering::SeqCst);
        let entry = &mut self.entries[index];
        entry.routed = None;
        if let Some(gsi) = entry.gsi.take()
            && let Err(error) = self.host.free_msi(gsi, &vector.interrupt)
        {
            warn_limited!(
                self.refused,
                "the line of MSI-X vector {index} stays taken: {error}"
            );
        }
    }
}

/// The element that `position` lies in and the offset into it.
fn split(position: u64, size: u64) -> (usize, usize) {
    let index = usize::try_from(position / size).unwrap_or(usize::MAX);
    (index, usize::try_from(position % size).unwrap_or(0))
}

#[cfg(test)]
mod tests;
