//! Devices against a driver that writes anything into its rings.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use nestling_arch::GuestMemory;
use nestling_devices::virtio::device::{Activation, ActiveQueue};
use nestling_fuzz::device::{self, Broken};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Guest memory: one region, so that its end is near.
const MEMORY: usize = 0x1_0000;
/// Entries of each queue.
const SIZE: u16 = 8;
/// Room for one queue's rings: descriptors, then both rings.
const QUEUE: u64 = 0x200;
const AVAILABLE: u64 = 0x80;
const USED: u64 = 0x100;
/// Looks at the rings until then; what a device still does is cut off.
const PATIENCE: u32 = 40;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Block,
    Rng,
    Console,
}

#[derive(Arbitrary, Debug)]
struct Descriptor {
    address: u32,
    length: u16,
    /// Where it is somewhere else altogether.
    far: Option<(u64, u32)>,
    flags: u8,
    next: u8,
}

#[derive(Arbitrary, Debug)]
enum Step {
    /// Writes a descriptor of a queue.
    Describe(u8, u8, Descriptor),
    /// Offers a chain.
    Offer(u8, u8),
    /// Moves the available index.
    Jump(u8, u16),
    /// Writes a request's start: a disk's, or a control message.
    Request(u16, u8, u32, u16),
    /// Writes anything.
    Poke(u16, [u8; 8]),
    /// Lets the device work.
    Ring,
    /// Resets the device and starts it again.
    Restart(u64),
}

#[derive(Arbitrary, Debug)]
struct Attack {
    kind: Kind,
    features: u64,
    steps: Vec<Step>,
}

struct Driver {
    memory: Arc<GuestMemory>,
    queues: u16,
    doorbells: Vec<EventFd>,
    broken: Arc<Broken>,
}

impl Driver {
    fn put<T: vm_memory::ByteValued>(&self, at: u64, value: T) {
        let _ = self.memory.write_obj(value, GuestAddress(at));
    }

    fn get(&self, at: u64) -> u16 {
        self.memory.read_obj(GuestAddress(at)).unwrap_or(0)
    }

    fn base(&self, queue: u8) -> u64 {
        QUEUE * u64::from(u16::from(queue) % self.queues)
    }

    fn activation(&mut self, features: u64) -> Activation {
        self.broken = Arc::default();
        self.doorbells.clear();
        let queues = (0..self.queues).map(|index| {
            let base = u32::from(index) * QUEUE as u32;
            let mut queue = Queue::new(SIZE).expect("a power of two");
            queue.set_desc_table_address(Some(base), None);
            queue.set_avail_ring_address(Some(base + AVAILABLE as u32), None);
            queue.set_used_ring_address(Some(base + USED as u32), None);
            queue.set_ready(true);
            let doorbell = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
            self.doorbells
                .push(doorbell.try_clone().expect("an eventfd"));
            ActiveQueue {
                index,
                queue,
                doorbell,
            }
        });
        Activation {
            memory: self.memory.clone(),
            features,
            queues: queues.collect(),
            interrupt: self.broken.clone(),
        }
    }

    fn work(&self) {
        for doorbell in &self.doorbells {
            let _ = doorbell.write(1);
        }
        for _ in 0..PATIENCE {
            let busy = (0..u64::from(self.queues)).any(|queue| {
                let base = QUEUE * queue;
                self.get(base + AVAILABLE + 2) != self.get(base + USED + 2)
            });
            if !busy || self.broken.get() {
                return;
            }
            std::thread::sleep(Duration::from_micros(5));
        }
    }

    fn step(&self, step: &Step) {
        match *step {
            Step::Describe(queue, index, ref descriptor) => {
                let at = self.base(queue) + 16 * u64::from(index % SIZE as u8);
                let near = (
                    u64::from(descriptor.address) % (MEMORY as u64 + 64),
                    descriptor.length.into(),
                );
                let (address, length) = descriptor.far.unwrap_or(near);
                self.put(at, address);
                self.put(at + 8, length);
                self.put(at + 12, u16::from(descriptor.flags & 7));
                self.put(at + 14, u16::from(descriptor.next) % (SIZE + 1));
            }
            Step::Offer(queue, head) => {
                let available = self.base(queue) + AVAILABLE;
                let index = self.get(available + 2);
                let slot = available + 4 + 2 * u64::from(index % SIZE);
                self.put(slot, u16::from(head) % (SIZE + 1));
                self.put(available + 2, index.wrapping_add(1));
            }
            Step::Jump(queue, index) => self.put(self.base(queue) + AVAILABLE + 2, index),
            Step::Request(at, kind, sector, value) => {
                self.put(at.into(), u32::from(kind % 16));
                self.put(u64::from(at) + 4, value);
                self.put(u64::from(at) + 6, u16::from(kind / 128));
                self.put(u64::from(at) + 8, u64::from(sector));
            }
            Step::Poke(at, bytes) => self.put(at.into(), bytes),
            Step::Ring => self.work(),
            Step::Restart(_) => {}
        }
    }
}

fuzz_target!(|attack: Attack| {
    let mut device = match attack.kind {
        Kind::Block => device::block(),
        Kind::Rng => device::rng(),
        Kind::Console => device::console(),
    };
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("64 KiB");
    let mut driver = Driver {
        memory: Arc::new(memory),
        queues: u16::try_from(device.queue_sizes().len()).expect("a few"),
        doorbells: Vec::new(),
        broken: Arc::default(),
    };
    let activation = driver.activation(attack.features & device.features());
    device.activate(activation).expect("all queues are there");
    for step in &attack.steps {
        if let Step::Restart(features) = *step {
            device.reset();
            for queue in 0..u64::from(driver.queues) {
                driver.put(QUEUE * queue + AVAILABLE, 0u32);
                driver.put(QUEUE * queue + USED, 0u32);
            }
            let activation = driver.activation(features & device.features());
            device.activate(activation).expect("all queues are there");
        }
        driver.step(step);
    }
    driver.work();
    device.reset();
});
