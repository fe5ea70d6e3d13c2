//! A machine with a virtio device, and the moves of a driver.

use std::sync::{Arc, Mutex};

use nestling_arch::layout;
use vm_memory::GuestAddress;

use crate::bus::{Bus, lock};
use crate::host::Host;
use crate::pci::bus::{Access, PciBus, PciRoot, Windows};
use crate::testing::Recorder;
use crate::virtio::pci::*;

pub(super) const ECAM: u64 = layout::ECAM_BASE;
pub(super) const MEMORY_SIZE: usize = 0x10_0000;

pub(super) const COMMON: u64 = 0x0000;
pub(super) const ISR: u64 = 0x1000;
pub(super) const DEVICE: u64 = 0x2000;
pub(super) const NOTIFY: u64 = 0x3000;
pub(super) const TABLE: u64 = 0x4000;

pub(super) const STATUS: u64 = COMMON + 20;
pub(super) const QUEUE_SELECT: u64 = COMMON + 22;

pub(super) const FEATURES_OK: u8 = 0x0b;
pub(super) const RUNNING: u8 = 0x0f;

/// What a device has been through.
#[derive(Default)]
pub(super) struct Life {
    pub(super) activation: Option<Activation>,
    pub(super) refuse: bool,
    pub(super) resets: usize,
}

/// A device with three queues that does nothing by itself.
pub(super) struct Fake {
    pub(super) features: u64,
    pub(super) config: [u8; 8],
    pub(super) life: Arc<Mutex<Life>>,
}

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        3
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 64, 1]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (position, byte) in (offset..).zip(data) {
            let position = usize::try_from(position).unwrap();
            *byte = self.config.get(position).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (position, byte) in (offset..).zip(data) {
            if let Some(place) = self.config.get_mut(usize::try_from(position).unwrap()) {
                *place = *byte;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut life = lock(&self.life);
        assert!(life.activation.is_none(), "activated twice");
        if life.refuse {
            return Err(ActivateError::MissingQueues {
                enabled: 0,
                needed: 1,
            });
        }
        life.activation = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        let mut life = lock(&self.life);
        life.activation = None;
        life.resets += 1;
    }
}

pub(super) struct Machine {
    pub(super) bus: Bus,
    pub(super) pci: Arc<PciBus>,
    pub(super) host: Arc<Recorder>,
    pub(super) life: Arc<Mutex<Life>>,
    pub(super) bar: u64,
}

/// A machine with a device in slot 1, in whose BAR memory decoding is on.
pub(super) fn machine_with(device: Box<dyn VirtioDevice>, life: Arc<Mutex<Life>>) -> Machine {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)]).unwrap();
    let host = Arc::new(Recorder::default());
    let function = VirtioPciFunction::new("fake", device, Arc::new(memory), host.clone()).unwrap();
    let windows = Windows {
        low: 0xc000_0000..0xd000_0000,
        high: 0x10_0000_0000..0x20_0000_0000,
    };
    let mut root = PciRoot::new(windows).unwrap();
    root.add(Box::new(function)).unwrap();
    let pci = root.build();
    let mut bus = Bus::new();
    pci.attach(Access::Ecam, &mut bus, &mut Bus::new()).unwrap();
    let shower: Arc<dyn Host> = host.clone();
    pci.show(&shower).unwrap();
    let mut machine = Machine {
        bus,
        pci,
        host,
        life,
        bar: 0,
    };
    machine.bar = machine.config::<u64>(0x10) & !0xf;
    machine.set_config(4, 6u16);
    machine
}

pub(super) fn machine() -> Machine {
    let life = Arc::new(Mutex::new(Life::default()));
    let features = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << bits::VIRTIO_F_RING_RESET | 1 << 5;
    machine_with(
        Box::new(Fake {
            features,
            config: [1, 2, 3, 4, 5, 6, 7, 8],
            life: life.clone(),
        }),
        life,
    )
}

/// An access by its width.
pub(super) trait Word: Sized {
    fn load(bus: &Bus, address: u64) -> Self;
    fn store(self, bus: &Bus, address: u64);
}

macro_rules! word {
    ($($word:ty),+) => {$(
        impl Word for $word {
            fn load(bus: &Bus, address: u64) -> Self {
                let mut data = [0; size_of::<$word>()];
                bus.read(address, &mut data);
                Self::from_le_bytes(data)
            }

            fn store(self, bus: &Bus, address: u64) {
                bus.write(address, &self.to_le_bytes());
            }
        }
    )+};
}
word!(u8, u16, u32, u64);

impl Machine {
    pub(super) fn config<T: Word>(&self, offset: u64) -> T {
        T::load(&self.bus, ECAM + (1 << 15) + offset)
    }

    pub(super) fn set_config<T: Word>(&self, offset: u64, value: T) {
        value.store(&self.bus, ECAM + (1 << 15) + offset);
    }

    pub(super) fn get<T: Word>(&self, offset: u64) -> T {
        T::load(&self.bus, self.bar + offset)
    }

    pub(super) fn set<T: Word>(&self, offset: u64, value: T) {
        value.store(&self.bus, self.bar + offset);
    }

    /// Ids, virtio types (else 0) and offsets of the capabilities.
    pub(super) fn capabilities(&self) -> Vec<(u8, u8, u64)> {
        let mut found = Vec::new();
        let mut next = self.config::<u8>(0x34);
        while next != 0 && found.len() < 32 {
            let at = u64::from(next);
            let id: u8 = self.config(at);
            found.push((id, if id == 9 { self.config(at + 3) } else { 0 }, at));
            next = self.config(at + 1);
        }
        found
    }

    pub(super) fn msix_capability(&self) -> u64 {
        self.capabilities()
            .iter()
            .find(|(id, ..)| *id == 0x11)
            .unwrap()
            .2
    }

    /// Turns MSI-X on, with each vector's message unmasked.
    pub(super) fn enable_msix(&self) {
        self.set_config(self.msix_capability() + 2, 0x8000u16);
        for vector in 0..4u64 {
            let entry = TABLE + vector * 16;
            self.set(entry, 0xfee0_0000u64);
            self.set(entry + 8, 0x30 + u32::try_from(vector).unwrap());
            self.set(entry + 12, 0u32);
        }
    }

    pub(super) fn negotiate(&self, features: u64) -> u8 {
        self.set(STATUS, 1u8);
        self.set(STATUS, 3u8);
        for (select, half) in [(0u32, features), (1, features >> 32)] {
            self.set(COMMON + 8, select);
            self.set(COMMON + 12, u32::try_from(half & 0xffff_ffff).unwrap());
        }
        self.set(STATUS, FEATURES_OK);
        self.get(STATUS)
    }

    pub(super) fn set_up_queue(&self, queue: u16, at: u64) {
        self.set(QUEUE_SELECT, queue);
        self.set(COMMON + 26, queue + 1);
        self.set(COMMON + 32, at);
        self.set(COMMON + 40, u32::try_from(at + 0x1000).unwrap());
        self.set(COMMON + 44, 0u32);
        self.set(COMMON + 48, at + 0x2000);
        self.set(COMMON + 28, 1u16);
    }

    pub(super) fn start(&self) -> u8 {
        assert_eq!(self.negotiate(1 << 32 | 1 << 29), FEATURES_OK);
        self.set(COMMON + 16, 0u16);
        self.set_up_queue(0, 0x1_0000);
        self.set_up_queue(1, 0x2_0000);
        self.set(STATUS, RUNNING);
        self.get(STATUS)
    }

    /// Signals of an eventfd that the host was given.
    pub(super) fn signals(&self, vector: u32) -> u64 {
        let lent = self.host.lent();
        let line = lent.lines.values().find(|line| {
            line.message
                .is_some_and(|message| message.data == 0x30 + vector)
        });
        line.expect("the vector is routed")
            .interrupt
            .eventfd
            .read()
            .unwrap_or(0)
    }
}
