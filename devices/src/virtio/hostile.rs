//! Drivers that write anything into their rings: no device panics, hangs, or
//! writes where it was not told to, and each works again after a reset.

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::block::{Block, BlockConfig, RawDisk};
use super::console::{Console, ConsoleConfig, PortBackend, VIRTIO_CONSOLE_F_MULTIPORT};
use super::device::VirtioDevice;
use super::net::loopback::Loopback;
use super::net::tests::{frame, nic};
use super::net::{Net, NetConfig};
use super::rng::Rng;
use super::testing::{Driver, INDIRECT, MEMORY, NEXT, WRITE, wait_for, write_descriptor};
use crate::net::mac::MacAddress;
use crate::net::port::Offloads;

/// Where device-writable buffers are, up to the end of memory or beyond.
const WRITABLE: u64 = 3 << 20;
/// Where device-readable buffers are, and, after them, indirect tables.
const READABLE: u64 = 2 << 20;
const TABLES: u64 = READABLE + 0x1000;
/// Entries of each ring, and of each indirect table.
const ENTRIES: u16 = 16;

/// A descriptor as a hostile driver writes it. Addresses are relative to the
/// region that its direction has, so that what a device may write is known.
#[derive(Clone, Debug)]
struct Descriptor {
    writable: bool,
    indirect: bool,
    next: Option<u16>,
    offset: u64,
    length: u32,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let offset = prop_oneof![
        6 => 0u64..0x2000,
        1 => (MEMORY as u64 - WRITABLE - 64)..(MEMORY as u64 - WRITABLE + 64),
        1 => any::<u64>(),
    ];
    let length = prop_oneof![
        4 => prop::sample::select(vec![0u32, 1, 8, 12, 16, 24, 64, 512, 513, 4096]),
        1 => 0u32..0x10000,
        1 => any::<u32>(),
    ];
    let next = prop::option::weighted(0.6, 0..ENTRIES + 2);
    (
        any::<bool>(),
        prop::bool::weighted(0.1),
        next,
        offset,
        length,
    )
        .prop_map(|(writable, indirect, next, offset, length)| Descriptor {
            writable,
            indirect,
            next,
            offset,
            length,
        })
}

impl Descriptor {
    fn write(&self, driver: &Driver, at: u64) {
        let (base, direction) = if self.writable {
            (WRITABLE, WRITE)
        } else {
            (READABLE, 0)
        };
        // Tables stay where no device writes: else anything could follow.
        let (base, offset) = if self.indirect {
            (TABLES, self.offset % 0x100)
        } else {
            (base, self.offset)
        };
        let flags = direction
            | if self.next.is_some() { NEXT } else { 0 }
            | if self.indirect { INDIRECT } else { 0 };
        let address = base.saturating_add(offset);
        let next = self.next.unwrap_or(0);
        write_descriptor(&driver.memory, at, address, self.length, flags, next);
    }
}

/// What a driver does to one queue.
#[derive(Clone, Debug)]
struct Attack {
    table: Vec<Descriptor>,
    /// Heads in the available ring.
    heads: Vec<u16>,
    /// How far the available index goes.
    available: u16,
    flags: u16,
    used_event: u16,
}

/// A lie in otherwise honest rings.
#[derive(Clone, Debug)]
enum Lie {
    Descriptor(usize, Descriptor),
    Head(usize, u16),
    Available(u16),
}

fn lie() -> impl Strategy<Value = Lie> {
    let slot = 0..usize::from(ENTRIES);
    prop_oneof![
        6 => (slot.clone(), descriptor()).prop_map(|(slot, lie)| Lie::Descriptor(slot, lie)),
        2 => (slot, 0..ENTRIES + 2).prop_map(|(slot, head)| Lie::Head(slot, head)),
        1 => any::<u16>().prop_map(Lie::Available),
    ]
}

/// What a queue's honest chains look like.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A command, then room for the answer.
    Request,
    /// Bytes for the device.
    Out,
    /// Room for the device.
    In,
}

/// The buffers of a well-formed chain, readable ones first.
fn chain(shape: Shape) -> impl Strategy<Value = Vec<Descriptor>> {
    let (readable_count, writable_count) = match shape {
        Shape::Request => (1..3, 1..3),
        Shape::Out => (1..3, 0..1),
        Shape::In => (0..1, 1..3),
    };
    let lengths = prop::sample::select(vec![16u32, 16, 16, 24, 512, 528]);
    let readable = prop::collection::vec((0u64..64, lengths), readable_count);
    let lengths = prop::sample::select(vec![16u32, 20, 64, 512, 513, 4096]);
    let writable = prop::collection::vec((0u64..512, lengths), writable_count);
    (readable, writable).prop_map(|(readable, writable)| {
        let readable = readable.into_iter().map(|part| (false, part));
        let writable = writable.into_iter().map(|part| (true, part));
        let chain = readable
            .chain(writable)
            .map(|(writable, (slot, length))| Descriptor {
                writable,
                indirect: false,
                next: None,
                offset: 16 * slot,
                length,
            });
        chain.collect()
    })
}

/// Honest chains and a few lies, or nothing but lies.
fn attack(shape: Shape) -> impl Strategy<Value = Attack> {
    let entries = usize::from(ENTRIES);
    let lies = prop_oneof![
        6 => Just(Vec::new()),
        3 => prop::collection::vec(lie(), 1..3),
        1 => prop::collection::vec(lie(), 2 * entries),
    ];
    let chains = prop::collection::vec(chain(shape), 0..8);
    (chains, lies, 0u16..2, any::<u16>()).prop_map(move |(chains, lies, flags, used_event)| {
        let mut attack = Attack {
            table: Vec::new(),
            heads: Vec::new(),
            available: 0,
            flags,
            used_event,
        };
        for mut chain in chains {
            let head = attack.table.len();
            if chain.is_empty() || head + chain.len() > usize::from(ENTRIES) {
                continue;
            }
            let (_, linked) = chain.split_last_mut().unwrap();
            for (number, descriptor) in linked.iter_mut().enumerate() {
                descriptor.next = u16::try_from(head + number + 1).ok();
            }
            attack.table.extend(chain);
            attack.heads.push(u16::try_from(head).unwrap());
            attack.available += 1;
        }
        for lie in lies {
            match lie {
                Lie::Descriptor(slot, lie) => {
                    let slot = slot.min(attack.table.len());
                    attack
                        .table
                        .splice(slot..(slot + 1).min(attack.table.len()), [lie]);
                }
                Lie::Head(slot, head) => {
                    let slot = slot.min(attack.heads.len());
                    attack
                        .heads
                        .splice(slot..(slot + 1).min(attack.heads.len()), [head]);
                }
                Lie::Available(index) => attack.available = index,
            }
        }
        attack.table.truncate(entries);
        attack.heads.truncate(entries);
        attack
    })
}

/// Something like a request's start, whatever the device.
fn header() -> impl Strategy<Value = [u8; 16]> {
    prop_oneof![
        // A disk request: type, reserved, sector.
        4 => (prop::sample::select(vec![0u8, 1, 4, 8, 11, 13, 14]), 0u8..3, any::<u8>()).prop_map(
            |(kind, high, low)| [kind, 0, 0, 0, 0, 0, 0, 0, low, high, 0, 0, 0, 0, 0, 0],
        ),
        // A console's control message: port, event, value.
        2 => (0u8..3, 0u8..8, 0u8..2).prop_map(
            |(port, event, value)| [port, 0, 0, 0, event, 0, value, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        // A discard's or write-zeroes' range.
        1 => (any::<u8>(), any::<u8>(), 0u8..3).prop_map(
            |(sector, sectors, flags)| [sector, 0, 0, 0, 0, 0, 0, 0, sectors, 0, 0, 0, flags, 0, 0, 0],
        ),
        1 => any::<[u8; 16]>(),
    ]
}

impl Attack {
    fn write(&self, driver: &Driver, queue: usize) {
        let ring = &driver.queues[queue];
        for (index, descriptor) in (0u64..).zip(&self.table) {
            descriptor.write(driver, ring.descriptors + 16 * index);
        }
        let put = |at: u64, value: u16| driver.memory.write_obj(value, GuestAddress(at)).unwrap();
        put(ring.available, self.flags);
        for (slot, head) in (0u64..).zip(&self.heads) {
            put(ring.available + 4 + 2 * slot, *head);
        }
        put(ring.available + 4 + 2 * u64::from(ENTRIES), self.used_event);
        put(ring.available + 2, self.available);
    }
}

/// A driver's whole attack: its queues, what its readable buffers hold, and
/// the features that it negotiated.
#[derive(Clone, Debug)]
struct Scenario {
    queues: Vec<Attack>,
    /// Request headers, more or less, at the start of the readable region.
    readable: Vec<u8>,
    tables: Vec<Descriptor>,
    features: u64,
}

/// A driver for a device whose queues have these shapes.
fn scenario(shapes: &[Shape]) -> impl Strategy<Value = Scenario> {
    (
        shapes
            .iter()
            .map(|shape| attack(*shape))
            .collect::<Vec<_>>(),
        prop::collection::vec(header(), 64),
        prop::collection::vec(descriptor(), usize::from(ENTRIES)),
        any::<u64>(),
    )
        .prop_map(|(queues, readable, tables, features)| Scenario {
            queues,
            readable: readable.concat(),
            tables,
            features,
        })
}

/// The bytes that no device may change: all but the used rings and what lies
/// in the writable region.
fn guarded(driver: &Driver) -> Vec<u8> {
    let mut memory = vec![0; usize::try_from(WRITABLE).unwrap()];
    driver
        .memory
        .read_slice(&mut memory, GuestAddress(0))
        .unwrap();
    for queue in &driver.queues {
        let used = usize::try_from(queue.used).unwrap();
        memory[used..used + 6 + 8 * usize::from(ENTRIES)].fill(0);
    }
    memory
}

/// Lets the driver of `scenario` loose on `device`. `answering` are the queues
/// whose every valid chain must come back.
fn assault(device: &mut dyn VirtioDevice, scenario: &Scenario, answering: &[usize]) {
    let sizes: Vec<_> = device.queue_sizes().iter().map(|_| ENTRIES).collect();
    let driver = Driver::new(&sizes);
    for (index, descriptor) in (0u64..).zip(&scenario.tables) {
        descriptor.write(&driver, TABLES + 16 * index);
    }
    driver
        .memory
        .write_slice(&scenario.readable, GuestAddress(READABLE))
        .unwrap();
    for queue in 0..sizes.len() {
        scenario.queues[queue].write(&driver, queue);
    }
    let before = guarded(&driver);
    let features = scenario.features & device.features();
    device.activate(driver.activation(features)).unwrap();
    wait_for("an answer or a demand for a reset", || {
        driver.recorder.broken()
            || answering.iter().all(|queue| {
                let used = driver.queues[*queue].used_index(&driver.memory);
                used == scenario.queues[*queue].available
            })
    });
    device.reset();
    assert!(
        guarded(&driver) == before,
        "the device wrote where it was not told to"
    );
    for queue in &driver.queues {
        let used = driver
            .memory
            .load::<u16>(GuestAddress(queue.used + 2), Ordering::SeqCst)
            .unwrap();
        assert!(used <= ENTRIES, "more chains returned than there can be");
        let heads: HashSet<u32> = (0..u64::from(used))
            .map(|slot| {
                driver
                    .memory
                    .read_obj(GuestAddress(queue.used + 4 + 8 * slot))
                    .unwrap()
            })
            .collect();
        assert!(heads.iter().all(|head| *head < u32::from(ENTRIES)));
    }
}

fn disk() -> RawDisk {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    RawDisk::open(file.path(), false).unwrap()
}

fn null() -> PortBackend {
    let output = File::options()
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into();
    PortBackend {
        input: Some(File::open("/dev/zero").unwrap().into()),
        output,
    }
}

const BLOCK: [Shape; 2] = [Shape::Request; 2];
const RNG: [Shape; 1] = [Shape::In];
const CONSOLE: [Shape; 6] = [
    Shape::In,
    Shape::Out,
    Shape::In,
    Shape::Out,
    Shape::In,
    Shape::Out,
];
const NET: [Shape; 5] = [Shape::In, Shape::Out, Shape::In, Shape::Out, Shape::Request];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn block_survives(scenarios in prop::collection::vec(scenario(&BLOCK), 1..3)) {
        let config = BlockConfig { number: 0, queues: 2, serial: String::new() };
        let mut device = Block::new(disk(), &config);
        for scenario in &scenarios {
            assault(&mut device, scenario, &[0, 1]);
        }
    }

    #[test]
    fn rng_survives(scenarios in prop::collection::vec(scenario(&RNG), 1..3)) {
        let mut device = Rng::new();
        for scenario in &scenarios {
            assault(&mut device, scenario, &[0]);
        }
    }

    #[test]
    fn console_survives(scenarios in prop::collection::vec(scenario(&CONSOLE), 1..3)) {
        let config = ConsoleConfig { console: null(), channel: Some(null()), size: (80, 25) };
        let mut device = Console::new(config).unwrap();
        for scenario in &scenarios {
            let multiport = scenario.features & 1 << VIRTIO_CONSOLE_F_MULTIPORT != 0;
            assault(&mut device, scenario, if multiport { &[1, 3, 5] } else { &[1] });
        }
    }

    #[test]
    fn net_survives(scenarios in prop::collection::vec(scenario(&NET), 1..3)) {
        let (mut device, peers) = nic(2, Offloads::all());
        for peer in &peers {
            for length in [12, 60, 1000, 20_000] {
                peer.socket.send(&frame(length)).unwrap();
            }
        }
        // What is sent to nobody is lost, and so never holds a queue up.
        drop(peers);
        for scenario in &scenarios {
            assault(&mut device, scenario, &[1]);
        }
    }

    #[test]
    fn net_on_a_network_survives(scenarios in prop::collection::vec(scenario(&NET), 1..3)) {
        let config = NetConfig { number: 0, mac: MacAddress::random() };
        let mut device = Net::on_network(Box::new(Loopback::default()), 2, &config).unwrap();
        for scenario in &scenarios {
            assault(&mut device, scenario, &[1]);
        }
    }
}
