mod front;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::FromBytes;

use super::message::{Header, MAX_REGIONS, Request};
use crate::virtio::eventfd::as_fd;
use crate::virtio::testing::{Buffer, MEMORY, wait_for};
use front::*;

#[test]
fn frames_move_both_ways_and_rings_go_on_where_they_stopped() {
    let served = Served::start();
    let mut guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    guest.find_gateway();
    // A buffer that waits for a frame isn't lost.
    let waiting = guest.driver.send(0, &[Buffer::In(2048)]);
    front.set(SET_VRING_ENABLE, &state(0, 0), &[]);
    assert!(!served.is_plugged());
    for ring in [0, 1] {
        let base = front.get(GET_VRING_BASE, &state(ring, 0)).unwrap();
        assert_eq!(base, state(ring, 1));
    }
    guest.start(&mut front, [1, 1]);
    assert!(served.is_plugged());
    guest.driver.send(1, &[Buffer::Out(&arp_request())]);
    assert_eq!(guest.driver.wait_used(0).0, waiting.head);
}

#[test]
fn rings_may_be_paused() {
    let served = Served::start();
    let mut guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    for _ in 0..3 {
        guest.find_gateway();
        for enable in [0, 1] {
            front.set(SET_VRING_ENABLE, &state(1, enable), &[]);
            assert_eq!(served.is_plugged(), enable == 1);
        }
    }
}

#[test]
fn front_ends_follow_each_other() {
    let served = Served::start();
    for _ in 0..3 {
        let mut guest = Guest::new();
        let mut front = served.connect();
        front.negotiate();
        guest.start(&mut front, [0, 0]);
        guest.find_gateway();
        drop(front);
        wait_for("the link to go down", || !served.is_plugged());
    }
}

#[test]
fn dropping_the_port_leaves_the_front_end() {
    let served = Served::start();
    let guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    let Served {
        server, network, ..
    } = served;
    drop(server);
    assert!(front.is_left());
    let status = network.handle().status().unwrap();
    assert!(
        status
            .ports
            .iter()
            .all(|port| port.name != "test" || !port.plugged)
    );
}

#[test]
fn a_network_that_has_stopped_serves_nobody() {
    let served = Served::start();
    let guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    let Served {
        server, network, ..
    } = served;
    drop(network);
    front.send(SET_VRING_ENABLE, &state(0, 0), &[]);
    assert!(front.is_left());
    drop(server);
}

#[test]
fn the_front_end_may_ask_what_the_guest_is_to_be_told() {
    let served = Served::start();
    let mut front = served.connect();
    front.negotiate();
    assert_eq!(front.get_value(GET_QUEUE_NUM), Some(16));
    let head = [0, 12, 0].map(u32::to_ne_bytes).concat();
    let space = front.get(GET_CONFIG, &[head.clone(), vec![0; 12]].concat());
    let space = space.unwrap();
    assert_eq!(space[..12], head);
    assert_eq!(space[12..18], MAC);
    assert_eq!(
        space[18..],
        [1, 0, 8, 0, 0xDC, 5],
        "link up, 8 pairs, MTU 1500"
    );
}

/// Memory that its owner takes away costs only the owner something.
#[test]
fn memory_may_vanish() {
    let served = Served::start();
    let mut guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    guest.find_gateway();
    let kick = guest.driver.queues[1].activate(0).doorbell;
    ftruncate(&guest.file, 0).unwrap();
    kick.write(1).unwrap();
    assert!(front.is_left());
    wait_for("the link to go down", || !served.is_plugged());
    let mut guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    guest.find_gateway();
}

#[test]
fn what_can_t_be_ends_the_conversation() {
    let served = Served::start();
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, MEMORY as u64).unwrap();
    let null = File::open("/dev/null").unwrap();
    // A file, but of a file system whose pages may take their time.
    let proc = File::open("/proc/self/status").unwrap();
    let (file, null, proc) = (file.as_fd(), null.as_fd(), proc.as_fd());
    let memory = MEMORY as u64;
    let overlapping = [
        state(2, 0),
        words(&[0, 8192, USER, 0]),
        words(&[4096, 8192, USER, 0]),
    ]
    .concat();
    let cases: &[(&str, u32, Vec<u8>, Vec<BorrowedFd<'_>>)] = &[
        ("unknown", 99, Vec::new(), vec![]),
        ("a payload where none is", GET_FEATURES, vec![0; 8], vec![]),
        ("features", SET_FEATURES, words(&[1 << 63]), vec![]),
        ("protocol", SET_PROTOCOL_FEATURES, words(&[1 << 63]), vec![]),
        ("no file", SET_MEM_TABLE, table(memory), vec![]),
        ("two files", SET_MEM_TABLE, table(memory), vec![file; 2]),
        ("64 files", SET_MEM_TABLE, table(memory), vec![file; 64]),
        (
            "past the end",
            SET_MEM_TABLE,
            table(memory + 4096),
            vec![file],
        ),
        ("a huge region", SET_MEM_TABLE, table(!4095), vec![file]),
        ("no region", SET_MEM_TABLE, table(0), vec![file]),
        ("part of a page", SET_MEM_TABLE, table(100), vec![file]),
        ("a device", SET_MEM_TABLE, table(memory), vec![null]),
        ("a file elsewhere", SET_MEM_TABLE, table(memory), vec![proc]),
        ("a lying count", SET_MEM_TABLE, state(9, 0), vec![]),
        (
            "a cut table",
            SET_MEM_TABLE,
            table(memory)[..39].into(),
            vec![file],
        ),
        ("ring", SET_VRING_NUM, state(16, 16), vec![]),
        ("size", SET_VRING_NUM, state(0, 1 << 16), vec![]),
        ("base", SET_VRING_BASE, state(0, 1 << 16), vec![]),
        ("no kick", SET_VRING_KICK, words(&[0x100]), vec![]),
        ("no descriptor", SET_VRING_CALL, words(&[0]), vec![]),
        ("not an event", SET_VRING_CALL, words(&[0]), vec![null]),
        ("ring to call", SET_VRING_CALL, words(&[0x110]), vec![]),
        ("enabled how", SET_VRING_ENABLE, state(0, 2), vec![]),
        (
            "a log",
            SET_VRING_ADDR,
            [state(0, 1), vec![0; 32]].concat(),
            vec![],
        ),
        ("too long", SET_MEM_TABLE, vec![0; 4096], vec![]),
        (
            "a long space",
            GET_CONFIG,
            [0, 4096, 0].map(u32::to_ne_bytes).concat(),
            vec![],
        ),
    ];
    for (what, code, payload, descriptors) in cases {
        let mut front = served.connect();
        front.negotiate();
        let answer = front.ask(*code, payload, descriptors);
        assert_ne!(answer, Some(true), "{what}");
        assert!(front.is_left(), "{what}");
    }
    // Only when rings are served is it known whether the memory is any.
    let guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    assert_eq!(
        front.ask(SET_MEM_TABLE, &overlapping, &[file; 2]),
        Some(false)
    );
    assert!(front.is_left());
    let mut front = served.connect();
    assert!(front.get_value(GET_FEATURES).is_some());
}

#[test]
fn rings_that_can_t_be_are_refused() {
    let served = Served::start();
    let cases: [(&str, u32, Vec<u8>); 4] = [
        ("size", SET_VRING_NUM, state(1, 3)),
        (
            "outside",
            SET_VRING_ADDR,
            [state(1, 0), words(&[0, 0, 0, 0])].concat(),
        ),
        (
            "misaligned",
            SET_VRING_ADDR,
            [state(1, 0), words(&[USER + 8, USER, USER, 0])].concat(),
        ),
        (
            "the end",
            SET_VRING_ADDR,
            [
                state(1, 0),
                words(&[USER + MEMORY as u64 - 16, USER, USER, 0]),
            ]
            .concat(),
        ),
    ];
    for (what, code, payload) in cases {
        let guest = Guest::new();
        let mut front = served.connect();
        front.negotiate();
        guest.start(&mut front, [0, 0]);
        assert_eq!(front.ask(code, &payload, &[]), Some(false), "{what}");
        assert!(front.is_left(), "{what}");
    }
}

/// A broken ring stops its guest, which the front end is told.
#[test]
fn a_broken_ring_is_reported() {
    const SET_VRING_ERR: u32 = 14;
    let served = Served::start();
    let mut guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    let error = EventFd::new(EFD_NONBLOCK).unwrap();
    front.set(SET_VRING_ERR, &words(&[1]), &[as_fd(&error)]);
    guest.start(&mut front, [0, 0]);
    guest.driver.send(1, &[Buffer::Out(&[0; 4])]);
    wait_for("the front end to be told", || error.read().is_ok());
    // Other front ends have their turn after that.
    drop(front);
    let mut guest = Guest::new();
    let mut front = served.connect();
    front.negotiate();
    guest.start(&mut front, [0, 0]);
    guest.find_gateway();
}

/// A message as a hostile front end may send it.
#[derive(Clone, Debug)]
struct Hostile {
    code: u32,
    flags: u32,
    payload: Vec<u8>,
    descriptors: Vec<usize>,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let number = prop_oneof![
        Just(0u64),
        Just(1),
        Just(16),
        Just(4096),
        Just(USER),
        Just(USER + 0x8000),
        Just(MEMORY as u64),
        Just(u64::MAX),
        any::<u64>()
    ];
    let structured = prop::collection::vec(number, 0..6).prop_map(|numbers| words(&numbers));
    let payload = prop_oneof![
        structured,
        (0..18u32, 0..20u32).prop_map(|(ring, value)| state(ring, value)),
        Just(table(MEMORY as u64)),
        prop::collection::vec(any::<u8>(), 0..400),
    ];
    let flags = prop_oneof![8 => Just(1u32), 2 => Just(9), 1 => any::<u32>()];
    let descriptors = prop::collection::vec(0..5usize, 0..3);
    (0..40u32, flags, payload, descriptors).prop_map(|(code, flags, payload, descriptors)| {
        Hostile {
            code,
            flags,
            payload,
            descriptors,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_hostile_front_end_harms_nobody(
        messages in prop::collection::vec(hostile(), 1..12),
        after_start: bool,
    ) {
        let served = Served::start();
        let guest = Guest::new();
        let mut front = served.connect();
        if after_start {
            front.negotiate();
            guest.start(&mut front, [0, 0]);
        }
        let (reader, _writer) = io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let kick = guest.driver.queues[0].activate(0).doorbell;
        let descriptors = [
            guest.file.as_fd(),
            null.as_fd(),
            reader.as_fd(),
            as_fd(&kick),
            as_fd(&guest.calls[0]),
        ];
        for message in &messages {
            let sent: Vec<_> = message.descriptors.iter().map(|&index| descriptors[index]).collect();
            front.send_with([message.code, message.flags], &message.payload, &sent);
        }
        drop(front);
        let mut guest = Guest::new();
        let mut front = served.connect();
        front.negotiate();
        guest.start(&mut front, [0, 0]);
        guest.find_gateway();
    }
}

proptest! {
    #[test]
    fn any_message_is_a_request_or_refused(
        header: [u8; 12],
        code in 0..40u32,
        payload in prop::collection::vec(any::<u8>(), 0..200),
        descriptors in 0..4usize,
    ) {
        let header = Header::read_from_bytes(&header).unwrap();
        let null = File::open("/dev/null").unwrap();
        for header in [header, Header { code, flags: 1, ..header }] {
            let descriptors = (0..descriptors).map(|_| null.try_clone().unwrap().into());
            let request = Request::parse(&header, &payload, descriptors.collect());
            if let Ok(Request::SetMemory(regions)) = request {
                prop_assert!(regions.len() <= MAX_REGIONS);
                prop_assert_eq!(payload.len(), 8 + 32 * regions.len());
            }
        }
    }
}
