//! What a segment costs: system calls, frames and wake-ups.

use std::time::Duration;

use super::table::{ACK, LIMITS, Net, leg};
use crate::net::nat::tcp::Outcome;

#[test]
fn a_request_and_its_response_take_one_frame_and_one_look() {
    let mut net = Net::new(LIMITS);
    let (mut client, socket) = net.open(&leg(0, 5000));
    let mut transact = |net: &mut Net| {
        let before = (net.hosts.peeks, net.hosts.rooms);
        assert_eq!(net.segment(&client, ACK, b"?"), Outcome::Done);
        client.seq += 1;
        let mut frames = net.flush();
        net.peer_sends(socket, b"!", false);
        frames.extend(net.flush());
        let last = frames.last().unwrap();
        assert_eq!(
            (last.payload.as_slice(), last.header.ack),
            (b"!".as_slice(), client.seq)
        );
        client.ack += 1;
        let looks = net.hosts.peeks - before.0;
        (frames.len(), looks, net.hosts.rooms - before.1)
    };
    // The SYN's window isn't scaled: the first segment shows the whole one.
    assert_eq!(transact(&mut net), (2, 1, 1));
    for _ in 1..3 {
        // It isn't known yet that an answer will carry the acknowledgement.
        assert_eq!(transact(&mut net), (2, 1, 0));
    }
    for _ in 0..1000 {
        assert_eq!(transact(&mut net), (1, 1, 0));
    }
    // A request that isn't answered is acknowledged nevertheless, and soon;
    // and so is the next one, at once.
    assert_eq!(net.segment(&client, ACK, b"?"), Outcome::Done);
    client.seq += 1;
    assert_eq!(net.flush().len(), 0);
    let late = net.wait(Duration::from_millis(3));
    assert_eq!((late.len(), late[0].header.ack), (1, client.seq));
    assert_eq!(net.segment(&client, ACK, b"?"), Outcome::Done);
    assert_eq!(net.flush().len(), 1);
}

#[test]
fn a_batch_of_data_is_acknowledged_once() {
    let mut net = Net::new(LIMITS);
    net.hosts.capacity = 4 << 20;
    let (mut client, socket) = net.open(&leg(0, 5000));
    let frame = vec![3; 64_000];
    // The SYN's window isn't scaled: the first segment shows the whole one.
    assert_eq!(net.segment(&client, ACK, b"!"), Outcome::Done);
    client.seq += 1;
    assert_eq!(net.flush().len(), 1);
    net.hosts.peeks = 0;
    for _ in 0..4 {
        net.hosts.rooms = 0;
        for _ in 0..10 {
            assert_eq!(net.segment(&client, ACK, &frame), Outcome::Done);
            client.seq += 64_000;
        }
        let sent = net.flush();
        assert_eq!((sent.len(), sent[0].header.ack), (1, client.seq));
        assert_eq!(net.hosts.rooms, 1);
        // The window is no wider than the room.
        let room = net.hosts.socket(socket).host.room();
        assert!(usize::from(sent[0].header.window) << 7 <= room.next_multiple_of(128));
    }
    assert_eq!(net.hosts.peeks, 0);
}

#[test]
fn a_socket_that_was_full_says_when_it_has_room() {
    let mut net = Net::new(LIMITS);
    net.hosts.capacity = 60_000;
    let (mut client, socket) = net.open(&leg(0, 5000));
    assert_eq!(net.segment(&client, ACK, &[1; 60_000]), Outcome::Done);
    client.seq += 60_000;
    let sent = net.flush();
    assert_eq!((sent[0].header.ack, sent[0].header.window), (client.seq, 0));
    let host = &mut net.hosts.socket(socket).host;
    assert!(host.owes_writable);
    host.drained = 30_000;
    net.news(socket);
    let sent = net.flush();
    assert_eq!((sent.len(), sent[0].header.window), (1, 30_000 >> 7));
}

#[test]
fn data_for_the_guest_takes_a_look_a_frame() {
    let mut net = Net::new(LIMITS);
    let (mut client, socket) = net.open(&leg(0, 5000));
    net.peer_sends(socket, &vec![9; 8 << 20], false);
    (net.hosts.peeks, net.hosts.rooms) = (0, 0);
    let (mut frames, mut batches, mut received) = (0, 0, 0);
    while received < 8 << 20 {
        let sent = net.flush();
        let bytes: usize = sent.iter().map(|sent| sent.payload.len()).sum();
        frames += sent.len();
        batches += 1;
        received += bytes;
        client.ack = client.ack.wrapping_add(bytes as u32);
        assert_eq!(net.segment(&client, ACK, &[]), Outcome::Done);
    }
    // 44 full segments fit a frame, and windows end where they do.
    assert!(frames <= (8 << 20) / (44 * 1460) + 1 + batches);
    assert_eq!(net.hosts.peeks, frames as u64);
    // Only the first: the SYN's window isn't scaled, and this one is.
    assert_eq!(net.hosts.rooms, 1);
    assert_eq!(net.flush().len(), 0);
    // Once it is silent, a few timers go off and none after them.
    let before = net.hosts.peeks;
    assert_eq!(net.wait(Duration::from_secs(60)).len(), 0);
    assert!(net.hosts.peeks <= before + 1);
}
