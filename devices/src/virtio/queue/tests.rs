use std::sync::atomic::Ordering;

use vm_memory::Bytes;

use super::*;
use crate::virtio::testing::{
    BUFFERS, Buffer, Driver, INDIRECT, MEMORY, NEXT, WRITE, write_descriptor,
};

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

fn queue(driver: &Driver, features: u64) -> VirtQueue {
    let active = driver.queues[0].activate(0);
    VirtQueue::new(
        active,
        features,
        driver.memory.clone(),
        driver.recorder.clone(),
    )
}

/// A descriptor as the driver writes it: address, length, flags, next.
type Descriptor = (u64, u32, u16, u16);

/// Writes `descriptors` at the start of the table, and offers chain 0.
fn offer(driver: &mut Driver, descriptors: &[Descriptor]) {
    let memory = driver.memory.clone();
    for (index, (address, length, flags, next)) in (0..).zip(descriptors) {
        driver.queues[0].descriptor(&memory, index, *address, *length, *flags, *next);
    }
    driver.queues[0].offer(&memory, 0);
}

/// Pops the only chain: its readable and writable bytes, or what is wrong.
fn pop(driver: &Driver) -> Result<(usize, usize), Malformed> {
    let mut chain = Chain::new(&driver.memory);
    assert!(queue(driver, 0).pop(&mut chain)?);
    Ok((chain.readable.len(), chain.writable.len()))
}

#[test]
fn malformed_chains() {
    let end = MEMORY as u64;
    let cases: [(&str, &[Descriptor], &str); 10] = [
        ("a loop of one", &[(BUFFERS, 4, NEXT, 0)], "doesn't end"),
        (
            "a loop of two",
            &[(BUFFERS, 4, NEXT, 1), (BUFFERS, 4, NEXT, 0)],
            "doesn't end",
        ),
        (
            "a next outside of the table",
            &[(BUFFERS, 4, NEXT, 16)],
            "doesn't end",
        ),
        (
            "readable after writable",
            &[(BUFFERS, 4, WRITE | NEXT, 1), (BUFFERS, 4, 0, 0)],
            "readable",
        ),
        (
            "a buffer past the end",
            &[(end - 4, 5, WRITE, 0)],
            "guest memory",
        ),
        (
            "an address that wraps",
            &[(u64::MAX - 3, 16, 0, 0)],
            "guest memory",
        ),
        (
            "more than 4 GiB",
            &[(0, u32::MAX, NEXT, 1), (0, 2, 0, 0)],
            "guest memory",
        ),
        (
            "a table of odd length",
            &[(BUFFERS, 17, INDIRECT, 0)],
            "doesn't end",
        ),
        (
            "an empty table",
            &[(BUFFERS, 0, INDIRECT, 0)],
            "doesn't end",
        ),
        (
            "a table outside of memory",
            &[(end, 16, INDIRECT, 0)],
            "doesn't end",
        ),
    ];
    for (what, descriptors, expected) in cases {
        let mut driver = Driver::new(&[16]);
        offer(&mut driver, descriptors);
        let error = pop(&driver).expect_err(what).to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn whole_chains() {
    let cases: [(&[Descriptor], (usize, usize)); 4] = [
        (&[(BUFFERS, 4, 0, 0)], (4, 0)),
        (&[(BUFFERS, 4, WRITE, 0)], (0, 4)),
        (
            &[(BUFFERS, 4, NEXT, 2), (0, 0, 0, 0), (BUFFERS, 5, WRITE, 0)],
            (4, 5),
        ),
        (&[(BUFFERS, 0, NEXT, 1), (BUFFERS, 7, 0, 0)], (7, 0)),
    ];
    for (descriptors, expected) in cases {
        let mut driver = Driver::new(&[16]);
        offer(&mut driver, descriptors);
        assert_eq!(pop(&driver).unwrap(), expected);
    }
}

#[test]
fn an_indirect_table_may_not_lead_to_another() {
    let table = BUFFERS + 0x1000;
    for (flags, valid) in [(NEXT, true), (NEXT | INDIRECT, false)] {
        let mut driver = Driver::new(&[16]);
        write_descriptor(&driver.memory, table, BUFFERS, 16, flags, 1);
        write_descriptor(&driver.memory, table + 16, BUFFERS, 16, WRITE, 0);
        offer(&mut driver, &[(table, 32, INDIRECT, 0)]);
        assert_eq!(pop(&driver).is_ok(), valid);
    }
}

#[test]
fn a_long_indirect_chain_is_bounded() {
    let mut driver = Driver::new(&[16]);
    let table = BUFFERS + 0x1000;
    for index in 0..2000u16 {
        let at = table + 16 * u64::from(index);
        write_descriptor(&driver.memory, at, BUFFERS, 1, NEXT, index + 1);
    }
    offer(&mut driver, &[(table, 2000 * 16, INDIRECT, 0)]);
    let error = pop(&driver).unwrap_err().to_string();
    assert!(error.contains("more than 1024 buffers"), "{error}");
}

#[test]
fn an_available_index_out_of_step_is_malformed() {
    let driver = Driver::new(&[16]);
    let index = GuestAddress(driver.queues[0].available + 2);
    driver.memory.store(17u16, index, Ordering::SeqCst).unwrap();
    let mut chain = Chain::new(&driver.memory);
    let error = queue(&driver, 0).pop(&mut chain).unwrap_err();
    assert!(matches!(error, Malformed::Ring { queue: 0, .. }), "{error}");
}

#[test]
fn a_batch_is_one_interrupt_where_the_driver_wants_it() {
    // Features, available flags, used_event, expected interrupts.
    let cases = [
        (0, 0, 0, 1),
        (0, 1, 0, 0),
        (EVENT_IDX, 0, 2, 1),
        (EVENT_IDX, 0, 5, 0),
    ];
    for (features, flags, used_event, expected) in cases {
        let mut driver = Driver::new(&[16]);
        for _ in 0..4 {
            driver.send(0, &[Buffer::In(8)]);
        }
        let available = driver.queues[0].available;
        driver
            .memory
            .write_obj::<u16>(flags, GuestAddress(available))
            .unwrap();
        driver
            .memory
            .write_obj::<u16>(used_event, GuestAddress(available + 4 + 32))
            .unwrap();
        let mut chain = Chain::new(&driver.memory);
        let pass = queue(&driver, features)
            .serve(&mut chain, 16, |_| Ok(0))
            .unwrap();
        assert_eq!(pass, Pass::Drained);
        assert_eq!(driver.queues[0].used_index(&driver.memory), 4);
        let interrupts = driver.recorder.used.lock().unwrap().len();
        assert_eq!(
            interrupts, expected,
            "features {features:#x}, used_event {used_event}"
        );
    }
}

#[test]
fn a_full_ring_yields_and_comes_back() {
    let mut driver = Driver::new(&[16]);
    for _ in 0..8 {
        driver.send(0, &[Buffer::In(8)]);
    }
    let mut queue = queue(&driver, 0);
    let mut chain = Chain::new(&driver.memory);
    assert_eq!(
        queue.serve(&mut chain, 5, |_| Ok(0)).unwrap(),
        Pass::Yielded
    );
    assert_eq!(driver.queues[0].used_index(&driver.memory), 5);
    assert_eq!(
        queue.serve(&mut chain, 5, |_| Ok(0)).unwrap(),
        Pass::Drained
    );
    assert_eq!(driver.queues[0].used_index(&driver.memory), 8);
}

#[test]
fn a_chain_put_back_comes_again() {
    let mut driver = Driver::new(&[16]);
    let request = driver.send(0, &[Buffer::In(8)]);
    let mut queue = queue(&driver, 0);
    let mut chain = Chain::new(&driver.memory);
    for _ in 0..2 {
        assert!(queue.pop(&mut chain).unwrap());
        assert_eq!(chain.head, request.head);
        queue.unpop();
    }
}
