//! Connections, in both ways of keeping their data.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use proptest::prelude::*;

use super::*;
use crate::net::nat::tcp::streams::{LocalPort, Progress, Waiting};

const ANY: LocalPort = LocalPort::Prefer(0);

/// A connection and its other end.
fn pair(world: &mut World) -> (SocketId, TcpStream) {
    let listener = TcpListener::bind(HERE).unwrap();
    let to = listener.local_addr().unwrap();
    let connection = world.host.connect(to, ANY).unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(connection.progress, Progress::Connected);
    (connection.socket, peer)
}

/// Waits until this much can be read at an offset, or the end.
fn wait_for(world: &mut World, socket: SocketId, offset: u32, most: u32) -> Waiting {
    loop {
        let waiting = world.host.peek(socket, offset, most).unwrap();
        if waiting.len == most || waiting.end {
            return waiting;
        }
        world.wait(socket, Readiness::READABLE);
    }
}

#[test]
fn a_request_is_answered() {
    for mut world in World::each() {
        let (socket, mut peer) = pair(&mut world);
        for (round, offset) in (0u8..40).zip((0..).step_by(5)) {
            // Nothing is asked for again that is known not to be there.
            assert_eq!(world.host.peek(socket, 0, 1000), Ok(Waiting::default()));
            assert_eq!(world.host.send(socket, &[round], 0..1), Ok(1));
            let mut request = [0];
            peer.read_exact(&mut request).unwrap();
            assert_eq!(request, [round]);
            peer.write_all(&pattern(offset, 5)).unwrap();
            let waiting = wait_for(&mut world, socket, 0, 5);
            assert_eq!(waiting, Waiting { len: 5, end: false });
            assert_eq!(world.view(socket, 0, 5), pattern(offset, 5));
            world.host.discard(socket, 5);
        }
    }
}

#[test]
fn an_end_comes_right_after_the_data() {
    for mut world in World::each() {
        let (socket, mut peer) = pair(&mut world);
        peer.write_all(b"answer").unwrap();
        wait_for(&mut world, socket, 0, 6);
        drop(peer);
        let waiting = wait_for(&mut world, socket, 6, 1);
        assert_eq!(waiting, Waiting { len: 0, end: true });
        let all = world.host.peek(socket, 0, 100).unwrap();
        assert_eq!(all, Waiting { len: 6, end: true });
        let part = world.host.peek(socket, 0, 5).unwrap();
        assert_eq!(part, Waiting { len: 5, end: false });
        world.host.discard(socket, 6);
        let rest = world.host.peek(socket, 0, 100).unwrap();
        assert_eq!(rest, Waiting { len: 0, end: true });
    }
}

#[test]
fn an_end_without_data_is_an_end() {
    for mut world in World::each() {
        let (socket, peer) = pair(&mut world);
        drop(peer);
        let waiting = wait_for(&mut world, socket, 0, 1);
        assert_eq!(waiting, Waiting { len: 0, end: true });
    }
}

#[test]
fn payloads_are_sent_from_where_they_are() {
    let mut world = World::new();
    let (socket, mut peer) = pair(&mut world);
    let bytes = pattern(0, 20_000);
    let (_memory, list) = scattered(&bytes);
    let payloads: [&dyn Payload; 3] = [&bytes, &list, &Counted(20_000)];
    for payload in payloads {
        for range in [0..20_000, 3000..3003, 19_999..20_000] {
            assert_eq!(
                world.host.send(socket, payload, range.clone()),
                Ok(range.len())
            );
            let mut received = vec![0; range.len()];
            peer.read_exact(&mut received).unwrap();
            assert_eq!(received, bytes[range]);
        }
    }
}

#[test]
fn the_room_is_no_empty_promise() {
    let mut world = World::new();
    let (socket, mut peer) = pair(&mut world);
    let mut sent = 0;
    let bytes = pattern(0, 1 << 16);
    loop {
        let room = world.host.send_room(socket) as usize;
        if room == 0 {
            break;
        }
        let count = room.min(bytes.len());
        assert_eq!(world.host.send(socket, &bytes, 0..count), Ok(count));
        sent += count;
    }
    // The queue may still take some, but not for ever.
    let refused = loop {
        match world.host.send(socket, &bytes, 0..bytes.len()) {
            Ok(count) => sent += count,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SocketError::WouldBlock);
    assert_eq!(world.host.send_room(socket), 0);
    world.old_news();
    let mut received = vec![0; sent];
    peer.read_exact(&mut received).unwrap();
    world.wait(socket, Readiness::WRITABLE);
    assert!(world.host.send_room(socket) > 0);
}

#[test]
fn rings_have_memory_only_while_they_hold_data() {
    let limits = Limits {
        rings: 1 << 20,
        ..Limits::default()
    };
    let mut world = World::with(limits, |can| can.peek_offset = false);
    let (socket, mut peer) = pair(&mut world);
    let all = pattern(0, 500_000);
    let writer = {
        let all = all.clone();
        std::thread::spawn(move || peer.write_all(&all).map(|()| peer))
    };
    let mut done = 0;
    while done < all.len() {
        let most = u32::try_from(all.len() - done).unwrap();
        let waiting = world.host.peek(socket, 0, most).unwrap();
        // No ring gets more than a quarter of what there is.
        assert!(waiting.len <= 256 << 10);
        assert!(world.host.pool.used() <= 256 << 10);
        if waiting.len == 0 {
            assert_eq!(world.host.pool.used(), 0);
            world.wait(socket, Readiness::READABLE);
            continue;
        }
        let len = waiting.len as usize;
        assert_eq!(world.view(socket, 0, waiting.len), all[done..done + len]);
        world.host.discard(socket, waiting.len);
        assert_eq!(world.host.pool.used(), 0);
        done += len;
    }
    let _peer = writer.join().unwrap().unwrap();
    wait_for(&mut world, socket, 0, 0);
    Streams::abort(&mut world.host, socket);
    assert_eq!(world.host.pool.used(), 0);
}

#[test]
fn a_ring_goes_with_its_socket() {
    let mut world = World::with(Limits::default(), |can| can.peek_offset = false);
    let (socket, mut peer) = pair(&mut world);
    peer.write_all(b"unread").unwrap();
    wait_for(&mut world, socket, 0, 6);
    assert_eq!(world.host.pool.used(), 4096);
    Streams::abort(&mut world.host, socket);
    assert_eq!(world.host.pool.used(), 0);
}

/// What a test does with a stream.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Looks at some of what is there, from a fraction of it on.
    View(u8, u32),
    /// The same, into guest memory.
    Fill(u8, u32),
    /// Sends on from where the last look ended.
    Next(u32),
    /// Discards a fraction of what was seen.
    Discard(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1u32..2000, 2000u32..70_000];
    prop_oneof![
        (any::<u8>(), len.clone()).prop_map(|(at, len)| Step::View(at, len)),
        (any::<u8>(), len.clone()).prop_map(|(at, len)| Step::Fill(at, len)),
        len.prop_map(Step::Next),
        any::<u8>().prop_map(Step::Discard),
        Just(Step::Discard(u8::MAX)),
    ]
}

fn fraction(of: u32, part: u8) -> u32 {
    u32::try_from(u64::from(of) * u64::from(part) / 255).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_shown_is_what_was_sent(
        steps in prop::collection::vec(step(), 1..60),
        writes in prop::collection::vec(1usize..100_000, 1..20),
    ) {
        for mut world in World::each() {
            let (socket, mut peer) = pair(&mut world);
            let total: usize = writes.iter().sum();
            let sizes = writes.clone();
            let writer = std::thread::spawn(move || {
                let mut at = 0;
                for size in sizes {
                    peer.write_all(&pattern(at, size)).unwrap();
                    at += size;
                }
            });
            // Discarded bytes; bytes that were seen from there on.
            let (mut base, mut seen) = (0, 0);
            let mut next = 0;
            // Then to the end, step by step.
            let rest = [Step::Next(50_000), Step::Discard(u8::MAX)];
            for step in steps.iter().chain(rest.iter().cycle()) {
                let (from, len, fill) = match *step {
                    Step::View(at, len) => (fraction(seen, at), len, false),
                    Step::Fill(at, len) => (fraction(seen, at), len, true),
                    Step::Next(len) => (next, len, len % 2 == 0),
                    Step::Discard(part) => {
                        let count = fraction(seen, part);
                        world.host.discard(socket, count);
                        base += count as usize;
                        seen -= count;
                        next = next.saturating_sub(count);
                        continue;
                    }
                };
                let waiting = world.host.peek(socket, from, len).unwrap();
                prop_assert!(waiting.len <= len);
                let start = base + from as usize;
                let expected = pattern(start, waiting.len as usize);
                if waiting.len == 0 {
                    // There is nothing to be shown.
                } else if fill {
                    let (_memory, list) = pieces(waiting.len as usize + 7);
                    let content = content(socket, from, waiting.len);
                    world.host.fill(content, &list, 7).unwrap();
                    let mut filled = vec![0; expected.len()];
                    list.peek_at(7, &mut filled);
                    prop_assert!(filled == expected);
                } else {
                    prop_assert!(world.view(socket, from, waiting.len) == expected);
                }
                next = from + waiting.len;
                seen = seen.max(next);
                let at_end = base + next as usize == total;
                prop_assert!(at_end || !waiting.end);
                if waiting.end {
                    break;
                }
                if waiting.len == 0 {
                    // The ring is full, or nothing more has come.
                    world.host.discard(socket, seen);
                    base += seen as usize;
                    (seen, next) = (0, 0);
                    world.poll(Duration::from_millis(1));
                }
            }
            writer.join().unwrap();
            Streams::close(&mut world.host, socket);
            prop_assert_eq!(world.host.pool.used(), 0);
        }
    }
}
