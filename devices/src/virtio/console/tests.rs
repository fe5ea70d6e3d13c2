use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use zerocopy::IntoBytes;

use super::control::{self, Message};
use super::*;
use crate::virtio::testing::{Buffer, Driver, Request, wait_for};

const ALL: u64 = 1 << VIRTIO_CONSOLE_F_SIZE | 1 << VIRTIO_CONSOLE_F_MULTIPORT;

/// A console whose ports are sockets, and their other ends.
fn console(channel: bool) -> (Console, UnixStream, Option<UnixStream>) {
    let pair = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (PortBackend::duplex(OwnedFd::from(theirs)).unwrap(), ours)
    };
    let (console, terminal) = pair();
    let (channel, peer) = channel.then(pair).unzip();
    let config = ConsoleConfig {
        console,
        channel,
        size: (80, 25),
    };
    (Console::new(config).unwrap(), terminal, peer)
}

fn message(port: u32, event: u16, value: u16) -> Vec<u8> {
    let message = Message {
        port: port.into(),
        event: event.into(),
        value: value.into(),
    };
    message.as_bytes().to_vec()
}

/// Says something on the control queue.
fn say(driver: &mut Driver, port: u32, event: u16, value: u16) {
    driver.call(3, &[Buffer::Out(&message(port, event, value))]);
}

/// Offers a buffer for a control message.
fn listen(driver: &mut Driver) -> Request {
    driver.send(2, &[Buffer::In(64)])
}

/// Waits for the next control message.
fn hear(driver: &mut Driver) -> Vec<u8> {
    let request = listen(driver);
    let (_, length) = driver.wait_used(2);
    driver.contents(&request)[..length as usize].to_vec()
}

fn start(console: &mut Console, features: u64) -> Driver {
    let driver = Driver::of(console);
    console.activate(driver.activation(features)).unwrap();
    driver
}

/// Goes through the protocol until both ports are open.
fn open_ports(driver: &mut Driver) {
    say(driver, 0, control::DEVICE_READY, 1);
    for port in 0..2 {
        assert_eq!(hear(driver), message(port, control::PORT_ADD, 1));
    }
    say(driver, 0, control::PORT_READY, 1);
    assert_eq!(hear(driver), message(0, control::CONSOLE_PORT, 1));
    let size = [message(0, control::RESIZE, 1), vec![80, 0, 25, 0]].concat();
    assert_eq!(hear(driver), size);
    assert_eq!(hear(driver), message(0, control::PORT_OPEN, 1));
    say(driver, 1, control::PORT_READY, 1);
    let name = [&message(1, control::PORT_NAME, 1), CHANNEL_NAME.as_bytes()].concat();
    assert_eq!(hear(driver), name);
    assert_eq!(hear(driver), message(1, control::PORT_OPEN, 1));
    say(driver, 0, control::PORT_OPEN, 1);
    say(driver, 1, control::PORT_OPEN, 1);
}

fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    stream.read_exact(&mut data).unwrap();
    data
}

#[test]
fn shape_follows_the_channel() {
    for (channel, queues, ports) in [(false, 4, 1), (true, 6, 2)] {
        let (console, _terminal, _peer) = console(channel);
        assert_eq!(console.queue_sizes().len(), queues);
        let mut space = [0xFF; 16];
        console.read_config(0, &mut space);
        assert_eq!(
            space,
            [80, 0, 25, 0, ports, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}

#[test]
fn both_ports_carry_bytes_both_ways() {
    let (mut console, mut terminal, peer) = console(true);
    let mut peer = peer.unwrap();
    let mut driver = start(&mut console, ALL);
    open_ports(&mut driver);
    for (stream, receive, transmit) in [(&mut terminal, 0, 1), (&mut peer, 4, 5)] {
        driver.call(transmit, &[Buffer::Out(b"one "), Buffer::Out(b"two ")]);
        driver.call(transmit, &[Buffer::Out(b"three")]);
        assert_eq!(read(stream, 13), b"one two three");
        stream.write_all(b"answer").unwrap();
        let (length, data) = driver.call(receive, &[Buffer::In(3), Buffer::In(61)]);
        assert_eq!((length, &data[..6]), (6, &b"answer"[..]));
    }
}

#[test]
fn output_keeps_its_order_under_backpressure() {
    let (mut console, mut terminal, _) = console(false);
    let mut driver = start(&mut console, 0);
    let chunk = |number: usize| format!("{number:016}").repeat(1024).into_bytes();
    let reader = std::thread::spawn(move || read(&mut terminal, 64 * 16 * 1024));
    for number in 0..64 {
        driver.call(1, &[Buffer::Out(&chunk(number))]);
    }
    assert_eq!(
        reader.join().unwrap(),
        (0..64).flat_map(chunk).collect::<Vec<_>>()
    );
}

#[test]
fn a_blocked_output_blocks_neither_the_other_port_nor_a_reset() {
    let (mut console, terminal, peer) = console(true);
    let mut driver = start(&mut console, ALL);
    open_ports(&mut driver);
    // More than a socket holds, and nobody reads.
    for _ in 0..15 {
        driver.send(1, &[Buffer::Out(&[b'x'; 64 * 1024])]);
    }
    driver.call(5, &[Buffer::Out(b"report")]);
    assert_eq!(read(&mut peer.unwrap(), 6), b"report");
    console.reset();
    drop(terminal);
}

#[test]
fn input_waits_for_the_port_to_be_opened() {
    let (mut console, _terminal, peer) = console(true);
    let mut driver = start(&mut console, ALL);
    peer.unwrap().write_all(b"early").unwrap();
    driver.send(4, &[Buffer::In(64)]);
    say(&mut driver, 0, control::DEVICE_READY, 1);
    say(&mut driver, 1, control::PORT_READY, 1);
    assert_eq!(driver.queues[4].used_index(&driver.memory), 0);
    say(&mut driver, 1, control::PORT_OPEN, 1);
    assert_eq!(driver.wait_used(4).1, 5);
}

#[test]
fn a_closed_back_end_closes_the_port_and_output_is_dropped() {
    let (mut console, _terminal, peer) = console(true);
    let mut driver = start(&mut console, ALL);
    open_ports(&mut driver);
    let mut peer = peer.unwrap();
    peer.write_all(b"last words").unwrap();
    drop(peer);
    assert_eq!(hear(&mut driver), message(1, control::PORT_OPEN, 0));
    assert_eq!(driver.call(4, &[Buffer::In(64)]).0, 10);
    driver.call(5, &[Buffer::Out(b"to nobody")]);
    driver.call(5, &[Buffer::Out(b"to nobody")]);
}

#[test]
fn a_resize_is_told() {
    let (mut console, _terminal, _peer) = console(true);
    let handle = console.handle();
    let mut driver = start(&mut console, ALL);
    open_ports(&mut driver);
    handle.resize(132, 50);
    let expected = [message(0, control::RESIZE, 1), vec![132, 0, 50, 0]].concat();
    assert_eq!(hear(&mut driver), expected);
    let mut space = [0; 4];
    console.read_config(0, &mut space);
    assert_eq!(space, [132, 0, 50, 0]);
}

#[test]
fn a_driver_without_multiport_has_the_console() {
    let (mut console, mut terminal, _peer) = console(true);
    let handle = console.handle();
    let mut driver = start(&mut console, 1 << VIRTIO_CONSOLE_F_SIZE);
    driver.call(1, &[Buffer::Out(b"out")]);
    assert_eq!(read(&mut terminal, 3), b"out");
    terminal.write_all(b"in").unwrap();
    assert_eq!(driver.call(0, &[Buffer::In(8)]).0, 2);
    let before = driver.recorder.config_changes.load(Ordering::SeqCst);
    handle.resize(1, 2);
    wait_for("the new size", || {
        driver.recorder.config_changes.load(Ordering::SeqCst) > before
    });
}

#[test]
fn works_again_after_a_reset() {
    let (mut console, mut terminal, _peer) = console(true);
    for _ in 0..3 {
        let mut driver = start(&mut console, ALL);
        open_ports(&mut driver);
        driver.call(1, &[Buffer::Out(b"again")]);
        assert_eq!(read(&mut terminal, 5), b"again");
        driver.reset(&mut console);
    }
}

#[test]
fn malformed_requests_stop_the_device() {
    let cases: [(&str, usize, &[Buffer<'_>]); 4] = [
        ("a control message cut short", 3, &[Buffer::Out(&[0; 7])]),
        ("no room for a control message", 2, &[Buffer::In(4)]),
        ("a receive buffer without room", 0, &[Buffer::Out(&[1])]),
        (
            "readable after writable",
            1,
            &[Buffer::In(4), Buffer::Out(&[1])],
        ),
    ];
    for (what, queue, buffers) in cases {
        let (mut console, mut terminal, _peer) = console(true);
        let mut driver = start(&mut console, ALL);
        terminal.write_all(b"input").unwrap();
        say(&mut driver, 0, control::DEVICE_READY, 1);
        say(&mut driver, 0, control::PORT_OPEN, 1);
        driver.send(queue, buffers);
        wait_for(what, || driver.recorder.broken());
        driver.reset(&mut console);
        console.activate(driver.activation(ALL)).unwrap();
        say(&mut driver, 0, control::DEVICE_READY, 1);
    }
}

#[test]
fn missing_queues_are_refused_and_the_ports_kept() {
    let (mut console, _terminal, _peer) = console(true);
    let driver = Driver::of(&console);
    let mut activation = driver.activation(ALL);
    activation.queues.remove(3);
    let error = console.activate(activation).unwrap_err();
    assert!(
        matches!(
            error,
            ActivateError::MissingQueues {
                enabled: 5,
                needed: 6
            }
        ),
        "{error}"
    );
    let mut driver = start(&mut console, ALL);
    open_ports(&mut driver);
}

#[test]
fn files_and_pipes_serve_as_back_ends() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    let backend = |input: File, output| PortBackend {
        input: Some(input.into()),
        output,
    };
    let config = ConsoleConfig {
        console: backend(
            File::open("/dev/null").unwrap(),
            file.reopen().unwrap().into(),
        ),
        channel: Some(backend(File::open("/dev/null").unwrap(), writer.into())),
        size: (0, 0),
    };
    let mut console = Console::new(config).unwrap();
    let mut driver = start(&mut console, ALL);
    driver.call(1, &[Buffer::Out(b"to a file")]);
    driver.call(5, &[Buffer::Out(b"to a pipe")]);
    drop(console);
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to a file");
    text.clear();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to a pipe");
}
