//! The transport as drivers use it: a fair one, and a hostile one.

mod hostile;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nestling_arch::layout;
use virtio_queue::QueueT;
use vm_memory::GuestAddress;

use super::*;
use crate::bus::{Bus, lock};
use crate::pci::bus::{PciBus, PciRoot, Windows};
use crate::testing::Recorder;
use crate::virtio::pci::signals::NO_VECTOR;

const ECAM: u64 = layout::ECAM_BASE;
const MEMORY_SIZE: usize = 0x10_0000;

const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;

const STATUS: u64 = COMMON + 20;
const QUEUE_SELECT: u64 = COMMON + 22;

const FEATURES_OK: u8 = 0x0b;
const RUNNING: u8 = 0x0f;

/// What a device has been through.
#[derive(Default)]
struct Life {
    activation: Option<Activation>,
    refuse: bool,
    resets: usize,
}

/// A device with three queues that does nothing by itself.
struct Fake {
    features: u64,
    config: [u8; 8],
    life: Arc<Mutex<Life>>,
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

struct Machine {
    bus: Bus,
    pci: Arc<PciBus>,
    host: Arc<Recorder>,
    life: Arc<Mutex<Life>>,
    bar: u64,
}

/// A machine with a device in slot 1, in whose BAR memory decoding is on.
fn machine_with(device: Box<dyn VirtioDevice>, life: Arc<Mutex<Life>>) -> Machine {
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
    pci.attach(&mut bus, &mut Bus::new()).unwrap();
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

fn machine() -> Machine {
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
trait Word: Sized {
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
    fn config<T: Word>(&self, offset: u64) -> T {
        T::load(&self.bus, ECAM + (1 << 15) + offset)
    }

    fn set_config<T: Word>(&self, offset: u64, value: T) {
        value.store(&self.bus, ECAM + (1 << 15) + offset);
    }

    fn get<T: Word>(&self, offset: u64) -> T {
        T::load(&self.bus, self.bar + offset)
    }

    fn set<T: Word>(&self, offset: u64, value: T) {
        value.store(&self.bus, self.bar + offset);
    }

    /// Ids, virtio types (else 0) and offsets of the capabilities.
    fn capabilities(&self) -> Vec<(u8, u8, u64)> {
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

    fn msix_capability(&self) -> u64 {
        self.capabilities()
            .iter()
            .find(|(id, ..)| *id == 0x11)
            .unwrap()
            .2
    }

    /// Turns MSI-X on, with each vector's message unmasked.
    fn enable_msix(&self) {
        self.set_config(self.msix_capability() + 2, 0x8000u16);
        for vector in 0..4u64 {
            let entry = TABLE + vector * 16;
            self.set(entry, 0xfee0_0000u64);
            self.set(entry + 8, 0x30 + u32::try_from(vector).unwrap());
            self.set(entry + 12, 0u32);
        }
    }

    fn negotiate(&self, features: u64) -> u8 {
        self.set(STATUS, 1u8);
        self.set(STATUS, 3u8);
        for (select, half) in [(0u32, features), (1, features >> 32)] {
            self.set(COMMON + 8, select);
            self.set(COMMON + 12, u32::try_from(half & 0xffff_ffff).unwrap());
        }
        self.set(STATUS, FEATURES_OK);
        self.get(STATUS)
    }

    fn set_up_queue(&self, queue: u16, at: u64) {
        self.set(QUEUE_SELECT, queue);
        self.set(COMMON + 26, queue + 1);
        self.set(COMMON + 32, at);
        self.set(COMMON + 40, u32::try_from(at + 0x1000).unwrap());
        self.set(COMMON + 44, 0u32);
        self.set(COMMON + 48, at + 0x2000);
        self.set(COMMON + 28, 1u16);
    }

    fn start(&self) -> u8 {
        assert_eq!(self.negotiate(1 << 32 | 1 << 29), FEATURES_OK);
        self.set(COMMON + 16, 0u16);
        self.set_up_queue(0, 0x1_0000);
        self.set_up_queue(1, 0x2_0000);
        self.set(STATUS, RUNNING);
        self.get(STATUS)
    }

    /// Signals of an eventfd that the host was given.
    fn signals(&self, vector: u32) -> u64 {
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

#[test]
fn the_function_says_what_it_is() {
    let m = machine();
    assert_eq!(m.config::<u32>(0), 0x1043_1af4);
    assert_eq!(m.config::<u32>(8), 0x0780_0001);
    assert_eq!(m.config::<u8>(0x3d), 0, "no INTx");
    let kinds: Vec<_> = m
        .capabilities()
        .iter()
        .map(|&(id, kind, _)| (id, kind))
        .collect();
    assert_eq!(kinds[0].0, 0x11);
    assert_eq!(kinds[1..], [(9, 1), (9, 3), (9, 4), (9, 2), (9, 5)]);
    for (_, kind, at) in &m.capabilities()[1..5] {
        let page = [0, 0x0000, 0x3000, 0x1000, 0x2000][usize::from(*kind)];
        assert_eq!((m.config::<u8>(at + 4), m.config::<u32>(at + 8)), (0, page));
    }
    let notify = m.capabilities()[4].2;
    assert_eq!(
        (m.config::<u32>(notify + 12), m.config::<u32>(notify + 16)),
        (12, 4)
    );
}

#[test]
fn registers_read_as_they_should_at_the_start() {
    let m = machine();
    assert_eq!(m.get::<u16>(COMMON + 18), 3, "queues");
    assert_eq!(m.get::<u16>(COMMON + 16), NO_VECTOR);
    for (queue, size) in [(0u16, 256u16), (1, 64), (2, 1), (3, 0), (0xffff, 0)] {
        m.set(QUEUE_SELECT, queue);
        assert_eq!(m.get::<u16>(COMMON + 24), size);
    }
    let features = [0u32, 1, 2, 0xffff_ffff].map(|select| {
        m.set(COMMON, select);
        m.get::<u32>(COMMON + 4)
    });
    assert_eq!(
        features,
        [1 << 29 | 1 << 5, 1, 0, 0],
        "VERSION_1, but no ring reset"
    );
    assert_eq!(m.get::<u64>(0x38), 0, "past the structure");
    assert_eq!(m.get::<u32>(0x6000), 0, "past all structures");
}

#[test]
fn features_are_refused_unless_offered_and_modern() {
    for (features, accepted) in [
        (1 << 32, true),
        (1 << 32 | 1 << 29 | 1 << 5, true),
        (0, false),
        (1 << 29, false),
        (1 << 32 | 1 << 6, false),
        (1 << 32 | 1 << 40, false),
    ] {
        let m = machine();
        assert_eq!(
            m.negotiate(features),
            if accepted { FEATURES_OK } else { 3 },
            "{features:#x}"
        );
    }
    let m = machine();
    m.set(COMMON + 8, 2u32);
    m.set(COMMON + 12, 1u32);
    assert_eq!(m.negotiate(1 << 32), 3, "a feature past the 64 there are");
}

#[test]
fn a_driver_gets_the_device_running() {
    let m = machine();
    m.enable_msix();
    assert!(m.host.lent().doorbells.is_empty());
    assert_eq!(m.start(), RUNNING);
    let life = lock(&m.life);
    let activation = life.activation.as_ref().unwrap();
    assert_eq!(activation.features, 1 << 32 | 1 << 29);
    let queues: Vec<_> = activation
        .queues
        .iter()
        .map(|q| {
            (
                q.index,
                q.queue.size(),
                q.queue.desc_table(),
                q.queue.avail_ring(),
            )
        })
        .collect();
    assert_eq!(
        queues,
        [(0, 256, 0x1_0000, 0x1_1000), (1, 64, 0x2_0000, 0x2_1000)]
    );
    assert!(activation.queues[0].queue.event_idx_enabled());
    let addresses: Vec<_> = m.host.lent().doorbells.into_keys().collect();
    assert_eq!(addresses, [m.bar + NOTIFY, m.bar + NOTIFY + 4]);

    // By way of an exit, as before the host has the doorbell.
    m.set(NOTIFY + 4, 1u16);
    assert_eq!(activation.queues[1].doorbell.read().unwrap(), 1);
    assert!(activation.queues[0].doorbell.read().is_err());
    m.set(NOTIFY + 8, 2u16); // not enabled
    m.set(NOTIFY + 2, 0u16); // between two
}

#[test]
fn interrupts_go_to_the_vectors_the_driver_chose() {
    let m = machine();
    m.enable_msix();
    m.start();
    let interrupt = lock(&m.life).activation.as_ref().unwrap().interrupt.clone();
    interrupt.queue_used(1);
    assert_eq!([0, 1, 2, 3].map(|vector| m.signals(vector)), [0, 0, 1, 0]);
    let generation: u8 = m.get(COMMON + 21);
    interrupt.config_changed();
    assert_eq!([0, 1, 2, 3].map(|vector| m.signals(vector)), [1, 0, 0, 0]);
    assert_ne!(m.get::<u8>(COMMON + 21), generation);
    assert_eq!(m.get::<u8>(ISR), 0, "MSI-X is in use");

    m.set(TABLE + 2 * 16 + 12, 1u32);
    interrupt.queue_used(1);
    assert_eq!((m.signals(2), m.get::<u64>(0x5000)), (0, 4));
    m.set(TABLE + 2 * 16 + 12, 0u32);
    assert_eq!((m.signals(2), m.get::<u64>(0x5000)), (1, 0));

    m.set(QUEUE_SELECT, 1u16);
    m.set(COMMON + 26, NO_VECTOR);
    interrupt.queue_used(1);
    interrupt.queue_used(77);
    assert_eq!([0, 1, 2, 3].map(|vector| m.signals(vector)), [0; 4]);
    m.set(COMMON + 26, 4u16);
    assert_eq!(
        m.get::<u16>(COMMON + 26),
        NO_VECTOR,
        "there is no such vector"
    );
}

#[test]
fn without_msix_a_driver_can_poll_the_interrupt_status() {
    let m = machine();
    m.start();
    let interrupt = lock(&m.life).activation.as_ref().unwrap().interrupt.clone();
    interrupt.queue_used(0);
    interrupt.config_changed();
    assert_eq!([m.get::<u8>(ISR), m.get::<u8>(ISR)], [3, 0]);
    assert!(m.host.lent().lines.is_empty());
}

#[test]
fn driver_ok_needs_features_ok() {
    let m = machine();
    m.set(STATUS, RUNNING);
    assert_eq!(m.get::<u8>(STATUS), 3);
    assert!(lock(&m.life).activation.is_none());
}

#[test]
fn a_reset_brings_everything_back_and_the_device_runs_again() {
    let m = machine();
    m.enable_msix();
    for round in 1..=3 {
        assert_eq!(m.start(), RUNNING);
        m.set(STATUS, 0u8);
        assert_eq!(m.get::<u8>(STATUS), 0);
        assert_eq!(lock(&m.life).resets, round);
        assert!(m.host.lent().doorbells.is_empty());
        m.set(QUEUE_SELECT, 0u16);
        assert_eq!(m.get::<u64>(COMMON + 32), 0);
        assert_eq!(
            (m.get::<u16>(COMMON + 26), m.get::<u16>(COMMON + 28)),
            (NO_VECTOR, 0)
        );
    }
    m.set(STATUS, 0u8);
    assert_eq!(lock(&m.life).resets, 3, "nothing ran");
}

#[test]
fn queues_that_cannot_work_need_a_reset() {
    let memory_end = u64::try_from(MEMORY_SIZE).unwrap();
    let cases: &[(&str, u16, u64)] = &[
        ("size zero", 0, 0x1_0000),
        ("size not a power of two", 3, 0x1_0000),
        ("size too large", 512, 0x1_0000),
        ("misaligned", 256, 0x1_0008),
        ("across the end of memory", 256, memory_end - 16),
        ("outside memory", 256, 0x4000_0000_0000),
        ("at the end of the address space", 256, u64::MAX - 15),
    ];
    for &(what, size, descriptors) in cases {
        let m = machine();
        m.enable_msix();
        m.negotiate(1 << 32);
        m.set(COMMON + 16, 0u16);
        m.set(QUEUE_SELECT, 0u16);
        m.set(COMMON + 24, size);
        m.set(COMMON + 32, descriptors);
        m.set(COMMON + 40, 0x2_0000u64);
        m.set(COMMON + 48, 0x3_0000u64);
        m.set(COMMON + 28, 1u16);
        m.set(STATUS, RUNNING);
        assert_eq!(m.get::<u8>(STATUS), RUNNING | 0x40, "{what}");
        assert_eq!(m.signals(0), 1, "{what}: a configuration interrupt");
        assert!(lock(&m.life).activation.is_none() && m.host.lent().doorbells.is_empty());
        m.set(STATUS, 0u8);
        assert_eq!(m.start(), RUNNING, "{what}: works after a reset");
    }
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let m = machine();
    lock(&m.life).refuse = true;
    assert_eq!(m.start(), RUNNING | 0x40);
    lock(&m.life).refuse = false;
    m.set(STATUS, 0u8);
    assert_eq!(m.start(), RUNNING);
}

#[test]
fn a_running_device_that_gives_up_says_so_once() {
    let m = machine();
    m.enable_msix();
    m.start();
    let interrupt = lock(&m.life).activation.as_ref().unwrap().interrupt.clone();
    interrupt.needs_reset();
    interrupt.needs_reset();
    assert_eq!(m.get::<u8>(STATUS), RUNNING | 0x40);
    assert_eq!(m.signals(0), 1);
    m.set(STATUS, RUNNING);
    assert_eq!(
        m.get::<u8>(STATUS),
        RUNNING | 0x40,
        "only a reset clears it"
    );
    m.set(STATUS, 0u8);
    interrupt.needs_reset();
    assert_eq!(m.get::<u8>(STATUS), 0, "it doesn't run");
}

#[test]
fn what_is_agreed_on_cannot_change_while_running() {
    let m = machine();
    m.start();
    m.set(QUEUE_SELECT, 2u16);
    m.set(COMMON + 32, 0x9000u64);
    m.set(COMMON + 28, 1u16);
    assert_eq!(
        (m.get::<u64>(COMMON + 32), m.get::<u16>(COMMON + 28)),
        (0, 0)
    );
    m.set(COMMON + 8, 0u32);
    m.set(COMMON + 12, 0xffu32);
    assert_eq!(m.get::<u32>(COMMON + 12), 1 << 29);
}

#[test]
fn doorbells_follow_the_bar() {
    let m = machine();
    m.start();
    m.set_config(4, 4u16);
    assert!(m.host.lent().doorbells.is_empty(), "memory decoding is off");
    m.set_config(0x10, 0x10u32 << 16 | 4);
    m.set_config(0x14, 0x11u32);
    m.set_config(4, 6u16);
    let moved = 0x11_0010_0000;
    let addresses: Vec<_> = m.host.lent().doorbells.into_keys().collect();
    assert_eq!(addresses, [moved + NOTIFY, moved + NOTIFY + 4]);
    assert_eq!(
        u8::load(&m.bus, moved + STATUS),
        RUNNING,
        "it went on running"
    );
    m.pci.reset();
    assert!(m.host.lent().doorbells.is_empty() && m.host.lent().lines.is_empty());
    assert_eq!(lock(&m.life).resets, 1);
}

#[test]
fn a_refused_doorbell_leaves_the_way_by_exits() {
    let m = machine();
    m.host.refuse(true);
    assert_eq!(m.start(), RUNNING);
    assert!(m.host.lent().doorbells.is_empty());
    m.set(NOTIFY, 0u16);
    let life = lock(&m.life);
    assert_eq!(
        life.activation.as_ref().unwrap().queues[0]
            .doorbell
            .read()
            .unwrap(),
        1
    );
}

#[test]
fn a_notification_before_driver_ok_is_forgotten() {
    let m = machine();
    m.set(NOTIFY, 0u16);
    m.start();
    let life = lock(&m.life);
    assert!(
        life.activation.as_ref().unwrap().queues[0]
            .doorbell
            .read()
            .is_err()
    );
}

#[test]
fn the_device_configuration_is_readable_and_writable() {
    let m = machine();
    assert_eq!(m.get::<u32>(DEVICE), 0x0403_0201);
    m.set(DEVICE + 7, 0xaau8);
    assert_eq!(m.get::<u64>(DEVICE + 4), 0xaa07_0605);
    assert_eq!(m.get::<u32>(DEVICE + 0xffe), 0);
}

#[test]
fn the_bar_can_be_reached_through_configuration_space() {
    let m = machine();
    m.set_config(4, 0u16); // needs no memory decoding
    let window = m.capabilities().last().unwrap().2;
    let aim = |bar: u8, offset: u64, len: u32| {
        m.set_config(window + 4, bar);
        m.set_config(window + 8, u32::try_from(offset).unwrap());
        m.set_config(window + 12, len);
    };
    aim(0, DEVICE, 4);
    assert_eq!(m.config::<u32>(window + 16), 0x0403_0201);
    aim(0, STATUS, 1);
    m.set_config(window + 16, 1u8);
    assert_eq!(m.config::<u8>(window + 16), 1);
    aim(0, COMMON + 18, 2);
    assert_eq!(m.config::<u16>(window + 16), 3);
    for (bar, offset, len) in [(1, 0, 4), (0, 2, 4), (0, 0x8000, 4), (0, 0, 8), (0, 0, 0)] {
        aim(bar, offset, len);
        m.set_config(window + 16, 0xffff_ffffu32);
        assert_eq!(m.config::<u32>(window + 16), 0xffff_ffff, "only storage");
    }
}

#[test]
fn impossible_devices_are_refused() {
    struct Odd(u32, Vec<u16>);
    impl VirtioDevice for Odd {
        fn device_type(&self) -> u32 {
            self.0
        }
        fn queue_sizes(&self) -> &[u16] {
            &self.1
        }
        fn features(&self) -> u64 {
            0
        }
        fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
        fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
        fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
            Ok(())
        }
        fn reset(&mut self) {}
    }
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap());
    let make = |device_type, sizes: &[u16]| {
        let device = Box::new(Odd(device_type, sizes.to_vec()));
        VirtioPciFunction::new("odd", device, memory.clone(), Arc::new(Recorder::default())).err()
    };
    assert!(make(4, &[256; 255]).is_none());
    assert!(matches!(
        make(4, &[256; 256]),
        Some(Error::TooManyQueues { count: 256, .. })
    ));
    assert!(matches!(
        make(4, &[256, 100]),
        Some(Error::QueueSize {
            index: 1,
            size: 100,
            ..
        })
    ));
    assert!(matches!(
        make(64, &[256]),
        Some(Error::DeviceType {
            device_type: 64,
            ..
        })
    ));
}

/// A device whose worker uses its interrupt without pause.
struct Busy {
    life: Arc<Mutex<Life>>,
    worker: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

impl VirtioDevice for Busy {
    fn device_type(&self) -> u32 {
        4
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256, 256]
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let worker = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                activation.interrupt.queue_used(0);
                activation.interrupt.config_changed();
                activation.interrupt.needs_reset();
            }
        });
        self.worker = Some((stop, worker));
        Ok(())
    }

    fn reset(&mut self) {
        let (stop, worker) = self.worker.take().unwrap();
        stop.store(true, Ordering::SeqCst);
        worker.join().unwrap();
        lock(&self.life).resets += 1;
    }
}

#[test]
fn a_reset_is_complete_while_the_worker_is_busy() {
    let life = Arc::new(Mutex::new(Life::default()));
    let m = machine_with(
        Box::new(Busy {
            life: life.clone(),
            worker: None,
        }),
        life,
    );
    m.enable_msix();
    for round in 1..=50 {
        assert_eq!(m.start() & RUNNING, RUNNING);
        for masked in [1u32, 0] {
            m.set(TABLE + 16 + 12, masked);
            m.set_config(
                m.msix_capability() + 2,
                if masked == 1 { 0xc000u16 } else { 0x8000 },
            );
        }
        m.set(STATUS, 0u8);
        assert_eq!((m.get::<u8>(STATUS), lock(&m.life).resets), (0, round));
    }
}

#[test]
fn the_host_is_given_the_eventfd_the_device_waits_for() {
    let m = machine();
    m.start();
    m.host.lent().doorbells[&(m.bar + NOTIFY)]
        .eventfd
        .write(1)
        .unwrap();
    let life = lock(&m.life);
    assert_eq!(
        life.activation.as_ref().unwrap().queues[0]
            .doorbell
            .read()
            .unwrap(),
        1
    );
}
