//! A function's configuration space (PCI 3.0, chapter 6).

/// Bytes of configuration space that a conventional function has.
const CONVENTIONAL_SIZE: usize = 256;

/// Bytes of configuration space that each function takes up in the ECAM; those
/// past the first 256 read as zero: no extended capabilities.
pub const CONFIG_SPACE_SIZE: usize = 4096;

/// Bits of an address in the ECAM below the device number: eight functions'
/// spaces (PCIe 5.0, 7.2.2).
pub(crate) const ECAM_SLOT_SHIFT: u32 = 15;

/// The number of BARs of a type 0 function.
pub const BAR_COUNT: usize = 6;

const VENDOR_ID: usize = 0x00;
const DEVICE_ID: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE_SIZE: usize = 0x0c;
const BAR0: usize = 0x10;
const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
const SUBSYSTEM_ID: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u8 = 1 << 1;
/// Memory, bus master and INTx disable. No function has I/O BARs.
const COMMAND_WRITABLE: u16 = 0x0406;
const STATUS_CAPABILITIES: u8 = 1 << 4;

const BAR_64_BIT: u8 = 1 << 2;
const BAR_PREFETCHABLE: u8 = 1 << 3;

/// What a function says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The vendor's number.
    pub vendor: u16,
    /// The vendor's number for the device.
    pub device: u16,
    /// Base class, subclass and programming interface, from the high byte down:
    /// 24 bits.
    pub class: u32,
    /// The device's revision.
    pub revision: u8,
    /// The vendor's number of the board.
    pub subsystem_vendor: u16,
    /// The number of the board.
    pub subsystem: u16,
}

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its size in bytes: a power of two from 16 on.
    pub size: u64,
    /// Whether it can be anywhere, and takes two registers.
    pub is_64_bit: bool,
    /// Whether reads have no side effects.
    pub prefetchable: bool,
}

/// Where a BAR answers: its address and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) base: u64,
    pub(crate) size: u64,
}

/// The configuration space of a type 0 function, with a mask of what software
/// can write.
#[derive(Clone)]
pub struct ConfigSpace {
    bytes: [u8; CONVENTIONAL_SIZE],
    writable: [u8; CONVENTIONAL_SIZE],
    bars: [Option<(Bar, u64)>; BAR_COUNT],
    /// The register that holds the offset of the next capability.
    link: usize,
    end: usize,
}

impl ConfigSpace {
    /// A space without BARs or capabilities.
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONVENTIONAL_SIZE],
            writable: [0; CONVENTIONAL_SIZE],
            bars: [None; BAR_COUNT],
            link: CAPABILITIES,
            end: FIRST_CAPABILITY,
        };
        space.set(VENDOR_ID, &identity.vendor.to_le_bytes());
        space.set(DEVICE_ID, &identity.device.to_le_bytes());
        space.set(REVISION, &[identity.revision]);
        space.set(CLASS, &identity.class.to_le_bytes()[..3]);
        space.set(
            SUBSYSTEM_VENDOR_ID,
            &identity.subsystem_vendor.to_le_bytes(),
        );
        space.set(SUBSYSTEM_ID, &identity.subsystem.to_le_bytes());
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        space.writable[CACHE_LINE_SIZE] = 0xff;
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    /// Adds a BAR, at address 0 until one is assigned.
    ///
    /// # Panics
    ///
    /// If the BAR's size isn't a power of two from 16 on, or it has no register
    /// of its own: what BARs a device has is part of its program.
    pub fn add_bar(&mut self, index: usize, bar: Bar) {
        assert!(
            bar.size.is_power_of_two() && bar.size >= 16,
            "BAR of {:#x} bytes",
            bar.size
        );
        let taken = |index: usize| index >= BAR_COUNT || self.address_mask(index) != 0;
        assert!(
            !(taken(index) || (bar.is_64_bit && taken(index + 1))),
            "BAR {index} is taken"
        );
        assert!(
            bar.is_64_bit || bar.size < 1 << 32,
            "32-bit BAR of {:#x} bytes",
            bar.size
        );
        let register = BAR0 + 4 * index;
        let mask = (!(bar.size - 1)).to_le_bytes();
        let width = if bar.is_64_bit { 8 } else { 4 };
        self.writable[register..register + width].copy_from_slice(&mask[..width]);
        self.bytes[register] = if bar.is_64_bit { BAR_64_BIT } else { 0 }
            | if bar.prefetchable {
                BAR_PREFETCHABLE
            } else {
                0
            };
        self.bars[index] = Some((bar, 0));
    }

    /// The BARs there are, with their indices.
    pub fn bars(&self) -> impl Iterator<Item = (usize, Bar)> {
        self.bars
            .iter()
            .enumerate()
            .filter_map(|(index, bar)| Some((index, (*bar)?.0)))
    }

    /// Gives a BAR the address it has at power-on.
    pub fn assign_bar(&mut self, index: usize, address: u64) {
        if let Some((_, assigned)) = &mut self.bars[index] {
            *assigned = address;
            self.write_assigned(index);
        }
    }

    /// Appends a capability (PCI 3.0, 6.7): its `id` and link are put before
    /// `body`. A set bit of `writable` is one that software can write; it is as
    /// long as `body`. Returns the capability's offset.
    ///
    /// # Panics
    ///
    /// If there is no room: what capabilities a device has is part of its
    /// program.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        assert_eq!(body.len(), writable.len(), "capability {id:#x}");
        let offset = self.end;
        let end = offset + 2 + body.len();
        assert!(end <= CONVENTIONAL_SIZE, "no room for capability {id:#x}");
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        self.writable[offset + 2..end].copy_from_slice(writable);
        self.bytes[self.link] = u8::try_from(offset).expect("it ends within 256 bytes");
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.link = offset + 1;
        self.end = end.next_multiple_of(4);
        offset
    }

    /// Reads; what lies past the conventional 256 bytes is zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (position, byte) in (offset..).zip(data) {
            *byte = self.bytes.get(position).copied().unwrap_or(0);
        }
    }

    /// Writes the bits that can be written.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (position, &byte) in (offset..).zip(data) {
            if let Some(&mask) = self.writable.get(position) {
                self.bytes[position] = (self.bytes[position] & !mask) | (byte & mask);
            }
        }
    }

    /// Returns what software has written to its state at power-on.
    pub fn reset(&mut self) {
        for (byte, mask) in self.bytes.iter_mut().zip(&self.writable) {
            *byte &= !mask;
        }
        for index in 0..BAR_COUNT {
            self.write_assigned(index);
        }
    }

    /// Sets bytes whatever software may write.
    pub(crate) fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Where the BARs answer, by index, while memory decoding is on.
    pub(crate) fn decoded(&self) -> [Option<Decoded>; BAR_COUNT] {
        let memory = self.bytes[COMMAND] & COMMAND_MEMORY != 0;
        std::array::from_fn(|index| {
            let (bar, _) = self.bars[index].filter(|_| memory)?;
            let base = self.quad_at(BAR0 + 4 * index) & self.address_mask(index);
            Some(Decoded {
                base,
                size: bar.size,
            })
        })
    }

    fn write_assigned(&mut self, index: usize) {
        if let Some((bar, address)) = self.bars[index] {
            let width = if bar.is_64_bit { 8 } else { 4 };
            self.write(BAR0 + 4 * index, &address.to_le_bytes()[..width]);
        }
    }

    /// The bits of BAR `index` that hold its address: none if the register
    /// belongs to no BAR.
    fn address_mask(&self, index: usize) -> u64 {
        let register = BAR0 + 4 * index;
        let mut mask = [0; 8];
        let width = match self.bars[index] {
            Some((bar, _)) if bar.is_64_bit => 8,
            _ => 4,
        };
        mask[..width].copy_from_slice(&self.writable[register..register + width]);
        u64::from_le_bytes(mask)
    }

    fn quad_at(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1234,
        device: 0x5678,
        class: 0x02_03_04,
        revision: 9,
        subsystem_vendor: 0xabcd,
        subsystem: 0xef01,
    };

    fn bar(size: u64, is_64_bit: bool) -> Bar {
        Bar {
            size,
            is_64_bit,
            prefetchable: false,
        }
    }

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(&IDENTITY);
        space.add_bar(0, bar(0x1000, false));
        space.add_bar(1, bar(0x8000, true));
        space.add_bar(4, bar(1 << 33, true));
        space.add_capability(0x11, &[7, 0, 1], &[0, 0xc0, 0]);
        space.add_capability(0x09, &[1, 2, 3, 4], &[0; 4]);
        space
    }

    fn read32(space: &ConfigSpace, offset: usize) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// Capability ids and offsets in the order of the list.
    fn capabilities(space: &ConfigSpace) -> Vec<(u8, usize)> {
        let mut found = Vec::new();
        let mut next = space.bytes[CAPABILITIES];
        while next != 0 && found.len() < 64 {
            let offset = usize::from(next);
            found.push((space.bytes[offset], offset));
            next = space.bytes[offset + 1];
        }
        found
    }

    #[test]
    fn the_header_says_what_the_function_is() {
        let space = space();
        assert_eq!(read32(&space, 0x00), 0x5678_1234);
        assert_eq!(read32(&space, 0x08), 0x0203_0409);
        assert_eq!(read32(&space, 0x2c), 0xef01_abcd);
        assert_eq!(
            read32(&space, 0x04),
            0x0010_0000,
            "capabilities, nothing enabled"
        );
        assert_eq!(read32(&space, 0x100), 0, "no extended capabilities");
    }

    #[test]
    fn the_capability_list_is_linked_in_order() {
        assert_eq!(capabilities(&space()), [(0x11, 0x40), (0x09, 0x48)]);
    }

    #[test]
    fn sizing_reads_back_the_size() {
        let cases: &[(usize, u32)] = &[
            (0x10, 0xffff_f000),
            (0x14, 0xffff_8004),
            (0x18, 0xffff_ffff),
            (0x1c, 0),
            (0x20, 0x0000_0004),
            (0x24, 0xffff_fffe),
            (0x30, 0),
        ];
        let mut space = space();
        for &(register, expected) in cases {
            space.write(register, &[0xff; 4]);
            assert_eq!(read32(&space, register), expected, "register {register:#x}");
        }
    }

    #[test]
    fn bars_decode_where_software_puts_them() {
        let mut space = space();
        space.assign_bar(0, 0xc000_0000);
        assert_eq!(space.decoded(), [None; BAR_COUNT], "memory is disabled");
        space.write(COMMAND, &[2]);
        assert_eq!(
            space.decoded()[0],
            Some(Decoded {
                base: 0xc000_0000,
                size: 0x1000
            })
        );
        space.write(0x14, &0x1234_5678u32.to_le_bytes());
        space.write(0x18, &0x9au32.to_le_bytes());
        assert_eq!(
            space.decoded()[1],
            Some(Decoded {
                base: 0x9a_1234_0000,
                size: 0x8000
            })
        );
        assert_eq!(space.decoded()[2], None, "the upper half is no BAR");
        space.reset();
        assert_eq!(read32(&space, 0x10), 0xc000_0000);
        assert_eq!(read32(&space, 0x18), 0);
        assert_eq!(space.decoded(), [None; BAR_COUNT]);
    }

    #[test]
    #[should_panic(expected = "BAR 2 is taken")]
    fn the_upper_half_of_a_bar_is_taken() {
        space().add_bar(2, bar(0x1000, false));
    }

    proptest! {
        /// Nothing that software writes changes a bit that it can't, and every
        /// width at every offset has a result.
        #[test]
        fn writes_change_only_what_is_writable(
            writes in prop::collection::vec(
                (0..CONFIG_SPACE_SIZE, prop::collection::vec(any::<u8>(), 1..9)), 0..64),
        ) {
            let fresh = space();
            let mut space = fresh.clone();
            for (offset, data) in writes {
                space.write(offset, &data);
                let mut back = vec![0; data.len()];
                space.read(offset, &mut back);
            }
            for (position, mask) in space.writable.iter().enumerate() {
                prop_assert_eq!((space.bytes[position] ^ fresh.bytes[position]) & !mask, 0);
            }
            prop_assert_eq!(capabilities(&space), capabilities(&fresh));
            for (index, decoded) in space.decoded().iter().enumerate() {
                if let Some(decoded) = decoded {
                    prop_assert!(space.bars[index].is_some());
                    prop_assert_eq!(decoded.base % decoded.size, 0);
                }
            }
            space.reset();
            prop_assert_eq!(space.bytes, fresh.bytes);
        }
    }
}
