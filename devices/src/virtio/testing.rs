//! The driver's side of virtio, for tests: rings in guest memory, and a
//! recorder of what the device says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Activation, ActiveQueue, Interrupt, VirtioDevice};

/// VIRTQ_DESC_F_NEXT, _WRITE and _INDIRECT (virtio 1.3, 2.7.5).
pub(crate) const NEXT: u16 = flag(VRING_DESC_F_NEXT);
pub(crate) const WRITE: u16 = flag(VRING_DESC_F_WRITE);
pub(crate) const INDIRECT: u16 = flag(VRING_DESC_F_INDIRECT);

/// A flag of the bindings, in the width that descriptors have.
const fn flag(flag: u32) -> u16 {
    let [low, high, _, _] = flag.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Guest memory of a test: rings, then buffers.
pub(crate) const MEMORY: usize = 4 << 20;
/// Where buffers start.
pub(crate) const BUFFERS: u64 = 1 << 20;
/// Room for one queue's rings.
const QUEUE_ROOM: u64 = 0x1_0000;
/// A watchdog, not a measure: long past any scheduling delay.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `condition`, which another thread makes true.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Records what the device says.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) used: Mutex<Vec<u16>>,
    pub(crate) config_changes: AtomicUsize,
    pub(crate) needs_reset: AtomicBool,
}

impl Recorder {
    pub(crate) fn broken(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }
}

impl Interrupt for Recorder {
    fn queue_used(&self, index: u16) {
        self.used.lock().unwrap().push(index);
    }

    fn config_changed(&self) {
        self.config_changes.fetch_add(1, Ordering::SeqCst);
    }

    fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
    }
}

/// A buffer that a driver puts into a chain.
#[derive(Clone, Copy)]
pub(crate) enum Buffer<'a> {
    /// Device-readable bytes.
    Out(&'a [u8]),
    /// Device-writable room.
    In(usize),
}

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: u16,
    /// Address and length of its device-writable buffers.
    pub(crate) writable: Vec<(u64, usize)>,
}

/// A driver with some queues.
pub(crate) struct Driver {
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) queues: Vec<DriverQueue>,
    next_buffer: u64,
}

/// One queue from the driver's side.
pub(crate) struct DriverQueue {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    doorbell: EventFd,
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
}

impl Driver {
    /// A driver with one queue for each of `sizes`.
    pub(crate) fn new(sizes: &[u16]) -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        Self::over(memory, sizes)
    }

    /// A driver in `memory`, of which there is as much as in [`Driver::new`].
    pub(crate) fn over(memory: GuestMemory, sizes: &[u16]) -> Self {
        let queues = (0..).zip(sizes).map(|(number, size)| {
            let base = QUEUE_ROOM * number;
            DriverQueue {
                size: *size,
                descriptors: base,
                available: base + 0x8000,
                used: base + 0xC000,
                doorbell: EventFd::new(EFD_NONBLOCK).unwrap(),
                next_descriptor: 0,
                next_available: 0,
                next_used: 0,
            }
        });
        Self {
            queues: queues.collect(),
            memory: Arc::new(memory),
            recorder: Arc::default(),
            next_buffer: BUFFERS,
        }
    }

    /// A driver for all queues of `device`, with small rings.
    pub(crate) fn of(device: &dyn VirtioDevice) -> Self {
        let sizes: Vec<_> = device
            .queue_sizes()
            .iter()
            .map(|size| (*size).min(16))
            .collect();
        Self::new(&sizes)
    }

    /// What the transport gives a device when this driver sets DRIVER_OK.
    pub(crate) fn activation(&self, features: u64) -> Activation {
        let queues = (0..)
            .zip(&self.queues)
            .map(|(index, queue)| queue.activate(index));
        Activation {
            memory: self.memory.clone(),
            features,
            queues: queues.collect(),
            interrupt: self.recorder.clone(),
        }
    }

    /// Resets the device and the rings.
    pub(crate) fn reset(&mut self, device: &mut dyn VirtioDevice) {
        device.reset();
        let sizes: Vec<_> = self.queues.iter().map(|queue| queue.size).collect();
        *self = Self::new(&sizes);
    }

    /// Makes a chain of `buffers` available and rings the doorbell.
    pub(crate) fn send(&mut self, queue: usize, buffers: &[Buffer<'_>]) -> Request {
        let request = self.place(queue, buffers);
        self.queues[queue].offer(&self.memory, request.head);
        request
    }

    /// Writes a chain of `buffers` into the descriptor table.
    fn place(&mut self, queue: usize, buffers: &[Buffer<'_>]) -> Request {
        let mut writable = Vec::new();
        let ring = &mut self.queues[queue];
        let head = ring.next_descriptor;
        for (number, buffer) in buffers.iter().enumerate() {
            let address = self.next_buffer;
            let (length, mut flags) = match buffer {
                Buffer::Out(data) => {
                    self.memory
                        .write_slice(data, GuestAddress(address))
                        .unwrap();
                    (data.len(), 0)
                }
                Buffer::In(length) => {
                    writable.push((address, *length));
                    (*length, WRITE)
                }
            };
            if number + 1 < buffers.len() {
                flags |= NEXT;
            }
            self.next_buffer += length as u64;
            if self.next_buffer > MEMORY as u64 / 2 {
                self.next_buffer = BUFFERS;
            }
            let this = ring.next_descriptor;
            ring.next_descriptor = (this + 1) % ring.size;
            let length = u32::try_from(length).unwrap();
            let next = ring.next_descriptor;
            ring.descriptor(&self.memory, this, address, length, flags, next);
        }
        Request { head, writable }
    }

    /// Waits for the next used element: head and length.
    #[track_caller]
    pub(crate) fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        let (memory, recorder) = (self.memory.clone(), self.recorder.clone());
        let queue = &mut self.queues[queue];
        wait_for("a used buffer", || {
            assert!(!recorder.broken(), "the device asks for a reset");
            queue.used_index(&memory) != queue.next_used
        });
        queue.take_used(&memory)
    }

    /// Sends `buffers`, waits, and returns the used length and what the
    /// device wrote, all writable buffers in a row.
    #[track_caller]
    pub(crate) fn call(&mut self, queue: usize, buffers: &[Buffer<'_>]) -> (u32, Vec<u8>) {
        let request = self.send(queue, buffers);
        let (head, written) = self.wait_used(queue);
        assert_eq!(head, request.head);
        (written, self.contents(&request))
    }

    /// The contents of a request's writable buffers.
    pub(crate) fn contents(&self, request: &Request) -> Vec<u8> {
        let mut data = Vec::new();
        for (address, length) in &request.writable {
            let mut part = vec![0; *length];
            self.memory
                .read_slice(&mut part, GuestAddress(*address))
                .unwrap();
            data.extend(part);
        }
        data
    }
}

impl DriverQueue {
    /// The device's side of the queue.
    pub(crate) fn activate(&self, index: u16) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        let split = |address: u64| (u32::try_from(address).ok(), Some(0));
        let (low, high) = split(self.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = split(self.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = split(self.used);
        queue.set_used_ring_address(low, high);
        queue.set_ready(true);
        ActiveQueue {
            index,
            queue,
            doorbell: self.doorbell.try_clone().unwrap(),
        }
    }

    pub(crate) fn descriptor(
        &self,
        memory: &GuestMemory,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let at = self.descriptors + 16 * u64::from(index);
        write_descriptor(memory, at, address, length, flags, next);
    }

    /// Puts a chain into the available ring and rings the doorbell.
    pub(crate) fn offer(&mut self, memory: &GuestMemory, head: u16) {
        let slot = self.available + 4 + 2 * u64::from(self.next_available % self.size);
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        let index = GuestAddress(self.available + 2);
        memory
            .store(self.next_available, index, Ordering::SeqCst)
            .unwrap();
        self.doorbell.write(1).unwrap();
    }

    pub(crate) fn used_index(&self, memory: &GuestMemory) -> u16 {
        memory
            .load(GuestAddress(self.used + 2), Ordering::SeqCst)
            .unwrap()
    }

    fn take_used(&mut self, memory: &GuestMemory) -> (u16, u32) {
        let slot = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        self.next_used = self.next_used.wrapping_add(1);
        let head: u32 = memory.read_obj(GuestAddress(slot)).unwrap();
        let length = memory.read_obj(GuestAddress(slot + 4)).unwrap();
        (u16::try_from(head).unwrap(), length)
    }
}

pub(crate) fn write_descriptor(
    memory: &GuestMemory,
    at: u64,
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
) {
    memory.write_obj(address, GuestAddress(at)).unwrap();
    memory.write_obj(length, GuestAddress(at + 8)).unwrap();
    memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
    memory.write_obj(next, GuestAddress(at + 14)).unwrap();
}
