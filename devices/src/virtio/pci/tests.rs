//! The transport as drivers use it: a fair one, and a hostile one.

mod harness;
mod hostile;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;
use vm_memory::GuestAddress;

use super::*;
use crate::bus::lock;
use crate::testing::Recorder;
use crate::virtio::pci::signals::NO_VECTOR;
use harness::*;

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
    let shown = || m.host.lent().shown.contains_key(&(ECAM + (1 << 15)));
    assert!(shown(), "the space is read in place");
    aim(0, DEVICE, 4);
    assert!(!shown(), "reads reach the device");
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
        assert!(shown(), "reads do nothing any more");
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
