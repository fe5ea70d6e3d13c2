//! What a segment costs: system calls, frames and wake-ups.

use std::time::Duration;

use super::table::{ACK, Client, FIN, LIMITS, Net, leg};
use crate::net::nat::tcp::Outcome;

#[test]
fn a_request_and_its_response_take_one_frame_and_one_look() {
    let mut net = Net::new(LIMITS);
    let (mut client, socket) = net.open(&leg(0, 5000));
    let transact = |net: &mut Net, client: &mut Client| {
        let before = (net.hosts.peeks, net.hosts.rooms);
        assert_eq!(net.segment(client, ACK, b"?"), Outcome::Done);
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
    assert_eq!(transact(&mut net, &mut client), (1, 1, 1));
    for _ in 0..1000 {
        assert_eq!(transact(&mut net, &mut client), (1, 1, 0));
    }
    // A request that isn't answered is acknowledged nevertheless, and soon.
    assert_eq!(net.segment(&client, ACK, b"?"), Outcome::Done);
    client.seq += 1;
    assert_eq!(net.flush().len(), 0);
    let late = net.wait(Duration::from_millis(3));
    assert_eq!((late.len(), late[0].header.ack), (1, client.seq));
    // The next ones are at once, until it is known again that answers come.
    for frames in [2, 2, 2, 1, 1] {
        assert_eq!(transact(&mut net, &mut client), (frames, 1, 0));
    }
}

#[test]
fn a_connection_with_one_request_takes_three_frames() {
    let mut net = Net::new(LIMITS);
    assert_eq!(net.syn(&leg(0, 5000)), Outcome::Done);
    let socket = net.hosts.ids()[0];
    net.news(socket);
    let sent = net.flush();
    assert_eq!(sent.len(), 1);
    let mut client = Client {
        leg: leg(0, 5000),
        seq: 1000,
        ack: sent[0].header.seq.wrapping_add(1),
    };
    assert_eq!(net.segment(&client, ACK, &[]), Outcome::Done);
    assert_eq!(net.segment(&client, ACK, b"?"), Outcome::Done);
    client.seq += 1;
    assert_eq!(net.flush().len(), 0);
    net.peer_sends(socket, b"!", false);
    let sent = net.flush();
    assert_eq!((sent.len(), sent[0].header.ack), (1, client.seq));
    client.ack = client.ack.wrapping_add(1);
    assert_eq!(net.segment(&client, ACK | FIN, &[]), Outcome::Done);
    client.seq += 1;
    assert_eq!(net.flush().len(), 0);
    net.peer_sends(socket, b"", true);
    let sent = net.flush();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header.flags, ACK | FIN);
    assert_eq!(sent[0].header.ack, client.seq);
    client.ack = client.ack.wrapping_add(1);
    assert_eq!(net.segment(&client, ACK, &[]), Outcome::Done);
    assert_eq!(net.flush().len(), 0);
    net.check_empty();
}

/// How long the guest waits for its acknowledgement, by what it sent.
#[test]
fn no_acknowledgement_waits_that_the_guest_may_wait_for() {
    for (len, fin, at_once) in [
        (1, false, false),
        (1460, false, false),
        (2919, false, false),
        (2920, false, true),
        (64_000, false, true),
        (0, true, false),
        (100, true, false),
        (2920, true, true),
    ] {
        let mut net = Net::new(LIMITS);
        let (mut client, _) = net.open(&leg(0, 5000));
        let flags = if fin { ACK | FIN } else { ACK };
        assert_eq!(net.segment(&client, flags, &vec![5; len]), Outcome::Done);
        client.seq += len as u32 + u32::from(fin);
        let mut sent = net.flush();
        assert_eq!(sent.len(), usize::from(at_once), "{len} {fin}");
        sent.extend(net.wait(Duration::from_millis(3)));
        assert_eq!((sent.len(), sent[0].header.ack), (1, client.seq));
    }
    // Its window is small: less than two full segments, and most is used up.
    let mut net = Net::new(LIMITS);
    net.hosts.capacity = 2000;
    let (mut client, _) = net.open(&leg(0, 5000));
    for (len, frames) in [(1000, 0), (1, 1)] {
        assert_eq!(net.segment(&client, ACK, &vec![5; len]), Outcome::Done);
        client.seq += len as u32;
        assert_eq!(net.flush().len(), frames, "{len}");
    }
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
    assert_eq!(net.wait(Duration::from_millis(3)).len(), 1);
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
