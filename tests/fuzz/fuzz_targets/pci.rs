//! The PCI bus with virtio functions, against accesses of any kind.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nestling_arch::{GuestMemory, layout};
use nestling_devices::bus::Bus;
use nestling_devices::host::Host;
use nestling_devices::pci::bus::{Access as ConfigAccess, PciRoot, Windows};
use nestling_devices::pci::pvpanic::Pvpanic;
use nestling_devices::virtio::pci::VirtioPciFunction;
use nestling_fuzz::device::{self, StrictHost};
use vm_memory::{Bytes, GuestAddress};

const MEMORY: usize = 0x1_0000;

/// What a guest does.
#[derive(Arbitrary, Debug)]
enum Access {
    /// Reads or writes a function's configuration space by the ECAM.
    Config {
        slot: u8,
        register: u16,
        value: Option<u64>,
        width: Width,
    },
    /// Reads or writes a port of the configuration mechanism.
    Port {
        port: u8,
        value: Option<u64>,
        width: Width,
    },
    /// Reads or writes a structure in a function's BAR, where it is now.
    Bar {
        slot: u8,
        page: u8,
        offset: u8,
        value: Option<u64>,
        width: Width,
    },
    /// Sets a queue up and enables it.
    Queue { slot: u8, queue: u8, at: u16 },
    /// Takes a function through its status to DRIVER_OK.
    Start { slot: u8, features: u64 },
    /// Reads or writes anywhere on the bus.
    Memory {
        address: u64,
        value: Option<u64>,
        width: Width,
    },
    /// Writes RAM.
    Ram { at: u16, bytes: [u8; 16] },
    /// Resets the machine.
    Reset,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Width {
    One,
    Two,
    Four,
    Eight,
}

impl Width {
    fn bytes(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

const SLOTS: u64 = 6;

struct Machine {
    memory: Bus,
    ports: Bus,
}

impl Machine {
    fn access(bus: &Bus, address: u64, value: Option<u64>, width: Width) -> u64 {
        let mut data = value.unwrap_or(0).to_le_bytes();
        if value.is_some() {
            bus.write(address, &data[..width.bytes()]);
        } else {
            bus.read(address, &mut data[..width.bytes()]);
        }
        u64::from_le_bytes(data)
    }

    fn config(&self, slot: u8, register: u16, value: Option<u64>, width: Width) -> u64 {
        let function = layout::ECAM_BASE + (u64::from(slot) % SLOTS << 15);
        Self::access(
            &self.memory,
            function + u64::from(register & 0xfff),
            value,
            width,
        )
    }

    /// Where the function's first BAR is by its registers.
    fn bar(&self, slot: u8) -> u64 {
        let low = self.config(slot, 0x10, None, Width::Four);
        let high = match low & 4 {
            0 => 0,
            _ => self.config(slot, 0x14, None, Width::Four),
        };
        high << 32 | (low & 0xffff_fff0)
    }

    fn common(&self, slot: u8, offset: u64, value: u64, width: Width) {
        let address = self.bar(slot).wrapping_add(offset);
        Self::access(&self.memory, address, Some(value), width);
    }

    fn start(&self, slot: u8, features: u64) {
        self.config(slot, 4, Some(6), Width::Two);
        for status in [1, 3] {
            self.common(slot, 20, status, Width::One);
        }
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32 | 1)] {
            self.common(slot, 8, select, Width::Four);
            self.common(slot, 12, half, Width::Four);
        }
        for status in [11, 15] {
            self.common(slot, 20, status, Width::One);
        }
    }

    fn queue(&self, slot: u8, queue: u8, at: u16) {
        let at = u64::from(at & 0xf000);
        self.common(slot, 22, u64::from(queue % 8), Width::Two);
        self.common(slot, 24, 8, Width::Two);
        self.common(slot, 32, at, Width::Eight);
        self.common(slot, 40, at + 0x80, Width::Eight);
        self.common(slot, 48, at + 0x100, Width::Eight);
        self.common(slot, 28, 1, Width::Two);
    }
}

fuzz_target!(|accesses: Vec<Access>| {
    let ram = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("64 KiB");
    let ram = Arc::new(ram);
    let host = Arc::new(StrictHost::default());
    let windows = Windows {
        low: layout::PCI_MMIO32,
        high: layout::mmio64_window(MEMORY as u64, 39),
    };
    let mut root = PciRoot::new(windows).expect("two windows");
    for (name, device) in [
        ("disk", device::block()),
        ("rng", device::rng()),
        ("console", device::console()),
    ] {
        let function = VirtioPciFunction::new(name, device, ram.clone(), host.clone());
        root.add(Box::new(function.expect("a function")))
            .expect("room");
    }
    root.add(Box::new(Pvpanic::new(Box::new(|_| ()))))
        .expect("room");
    let bus = root.build();
    let mut machine = Machine {
        memory: Bus::new(),
        ports: Bus::new(),
    };
    bus.attach(
        ConfigAccess::EcamAndPorts,
        &mut machine.memory,
        &mut machine.ports,
    )
    .expect("an empty bus");
    let shower: Arc<dyn Host> = host.clone();
    bus.show(&shower).expect("memory for the copies");
    for access in accesses {
        match access {
            Access::Config {
                slot,
                register,
                value,
                width,
            } => {
                machine.config(slot, register, value, width);
            }
            Access::Port { port, value, width } => {
                let port = u64::from(layout::PCI_CONFIG_PORT) + u64::from(port % 8);
                Machine::access(&machine.ports, port, value, width);
            }
            Access::Bar {
                slot,
                page,
                offset,
                value,
                width,
            } => {
                let offset = u64::from(page % 8) << 12 | u64::from(offset);
                let address = machine.bar(slot).wrapping_add(offset);
                Machine::access(&machine.memory, address, value, width);
            }
            Access::Queue { slot, queue, at } => machine.queue(slot, queue, at),
            Access::Start { slot, features } => machine.start(slot, features),
            Access::Memory {
                address,
                value,
                width,
            } => {
                Machine::access(&machine.memory, address, value, width);
            }
            Access::Ram { at, bytes } => {
                let _ = ram.write_slice(&bytes, GuestAddress(at.into()));
            }
            Access::Reset => bus.reset(),
        }
    }
    // The identity can't be written, whatever happened.
    assert_eq!(machine.config(1, 0, None, Width::Four), 0x1042_1af4);
    bus.reset();
});
