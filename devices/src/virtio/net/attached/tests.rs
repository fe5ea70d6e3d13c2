use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::net::attachment::Plug;
use crate::net::attachment::testing::Standing;
use crate::net::mac::Mac;
use crate::net::switch::ReceiveModes;
use crate::virtio::device::VirtioDevice;
use crate::virtio::net::tests::frame;
use crate::virtio::net::{Net, NetConfig};
use crate::virtio::testing::{Buffer, Driver};

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const MULTIQUEUE: u64 = 1 << VIRTIO_NET_F_MQ;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// A place on a network whose thread is the test.
#[derive(Clone, Default)]
struct Place(Arc<Mutex<Option<Box<dyn Attachment>>>>);

impl Plug for Place {
    fn offloads(&self) -> Offloads {
        Offloads::all()
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn plug(&mut self, attachment: Box<dyn Attachment>) -> io::Result<()> {
        let before = self.0.lock().unwrap().replace(attachment);
        assert!(before.is_none(), "the place is free");
        Ok(())
    }

    fn unplug(&mut self) {
        let before = self.0.lock().unwrap().take();
        assert!(before.is_some(), "the place is taken");
    }
}

impl Place {
    fn with<T>(&self, work: impl FnOnce(&mut dyn Attachment) -> T) -> T {
        let mut place = self.0.lock().unwrap();
        work(&mut **place.as_mut().expect("a NIC is plugged in"))
    }

    fn ready(&self, token: u8) -> News {
        self.with(|nic| nic.ready(token, &mut Watched::default()))
    }

    fn receive(&self) -> Option<Frame> {
        self.with(|nic| nic.receive())
    }

    fn send(&self, headers: &[u8], content: &dyn Payload) -> Sent {
        self.with(|nic| nic.send(headers, Content::Payload(content)))
    }

    /// Sends a frame of `length` bytes.
    fn send_whole(&self, length: usize) -> Sent {
        let frame = frame(length);
        let (headers, content) = frame.split_at(FRAME_HEADER);
        self.send(headers, &content)
    }

    fn release(&self, frame: Frame) {
        self.with(|nic| nic.release(frame));
    }

    fn flush(&self) -> News {
        self.with(|nic| nic.flush())
    }

    fn settings(&self) -> Settings {
        self.with(|nic| nic.settings())
    }

    /// Carries a command of the driver's out.
    fn command(&self, driver: &mut Driver, queue: usize, header: [u8; 2], data: &[u8]) -> u8 {
        let buffers = [Buffer::Out(&header), Buffer::Out(data), Buffer::In(1)];
        let request = driver.send(queue, &buffers);
        assert_eq!(self.ready(CONTROL), News::SETTINGS);
        driver.wait_used(queue);
        driver.contents(&request)[0]
    }
}

#[derive(Default)]
struct Watched(Vec<(i32, u8)>);

impl Watch for Watched {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u8, _writable: bool) -> io::Result<()> {
        self.0.push((fd.as_raw_fd(), token));
        Ok(())
    }

    fn remove(&mut self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// A payload of which nobody knows where it lies.
struct Hidden<'a>(&'a [u8]);

impl Payload for Hidden<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
        self.0.read_at(offset, data)
    }
}

fn nic(pairs: u16) -> (Net, Place) {
    let place = Place::default();
    let config = NetConfig {
        number: 0,
        mac: MacAddress::new(MAC).unwrap(),
    };
    let net = Net::on_network(Box::new(place.clone()), pairs, &config).unwrap();
    (net, place)
}

fn start(net: &mut Net, features: u64) -> Driver {
    let driver = Driver::of(net);
    net.activate(driver.activation(features)).unwrap();
    driver
}

fn bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes = vec![0; Payload::len(frame)];
    frame.read_at(0, &mut bytes);
    bytes
}

/// The flags of a queue's used ring.
fn used_flags(driver: &Driver, queue: usize) -> u16 {
    let ring = GuestAddress(driver.queues[queue].used);
    driver.memory.load(ring, Ordering::SeqCst).unwrap()
}

/// Whether the driver sees used buffers that it hasn't taken.
fn used(driver: &Driver, queue: usize) -> u16 {
    driver.queues[queue].used_index(&driver.memory)
}

#[test]
fn it_is_plugged_in_while_the_driver_uses_it() {
    let (mut net, place) = nic(2);
    for _ in 0..2 {
        let _driver = start(&mut net, MULTIQUEUE);
        let mut watched = Watched::default();
        place.with(|nic| {
            assert_eq!((nic.mac(), nic.mtu()), (MacAddress::new(MAC), 1500));
            nic.watch(&mut watched).unwrap();
        });
        let tokens: Vec<_> = watched.0.iter().map(|(_, token)| *token).collect();
        assert_eq!(tokens, [WAKE, 2, 3, 4, 5, CONTROL]);
        net.reset();
        assert!(place.0.lock().unwrap().is_none());
    }
    let _driver = start(&mut net, 0);
    drop(net);
    assert!(place.0.lock().unwrap().is_none());
    let config = NetConfig {
        number: 0,
        mac: MacAddress::random(),
    };
    for pairs in [0, MAX_PAIRS + 1] {
        assert!(Net::on_network(Box::new(place.clone()), pairs, &config).is_err());
    }
}

#[test]
fn settings_follow_the_features() {
    let (mut net, place) = nic(1);
    let features = net.features();
    for (features, expected) in [(features, Offloads::all()), (0, Offloads::empty())] {
        let _driver = start(&mut net, features);
        assert_eq!(place.settings().offloads, expected);
        assert!(place.settings().link);
        net.reset();
    }
}

#[test]
fn frames_are_returned_in_any_order() {
    let (mut net, place) = nic(1);
    let mut driver = start(&mut net, 0);
    let heads = [60, 1000, 50_000].map(|length| {
        let frame = frame(length);
        let (first, second) = frame.split_at(20);
        driver
            .send(1, &[Buffer::Out(first), Buffer::Out(second)])
            .head
    });
    assert_eq!(place.ready(3), News::FRAMES);
    let mut frames: Vec<_> = std::iter::from_fn(|| place.receive()).collect();
    for (received, length) in frames.iter().zip([60, 1000, 50_000]) {
        assert_eq!(bytes(received), frame(length));
    }
    assert_eq!(used(&driver, 1), 0);
    place.release(frames.pop().unwrap());
    place.release(frames.remove(0));
    assert_eq!(used(&driver, 1), 0, "before the batch ends");
    assert_eq!(place.flush(), News::empty());
    assert_eq!(driver.wait_used(1), (heads[2], 0));
    assert_eq!(driver.wait_used(1), (heads[0], 0));
    place.release(frames.remove(0));
    place.flush();
    assert_eq!(driver.wait_used(1), (heads[1], 0));
    assert_eq!(*driver.recorder.used.lock().unwrap(), [1, 1], "one a batch");
}

#[test]
fn doorbells_are_off_while_there_is_work() {
    let (mut net, place) = nic(1);
    let mut driver = start(&mut net, MERGEABLE);
    driver.send(1, &[Buffer::Out(&frame(60))]);
    place.ready(3);
    assert_eq!(used_flags(&driver, 1), 1);
    let frame = place.receive().unwrap();
    place.release(frame);
    assert_eq!(used_flags(&driver, 1), 1);
    assert!(place.receive().is_none());
    assert_eq!(used_flags(&driver, 1), 0);
    place.ready(2);
    assert_eq!(used_flags(&driver, 0), 1);
    assert_eq!(place.send_whole(100), Sent::Full);
    assert_eq!(used_flags(&driver, 0), 0);
}

#[test]
fn content_comes_from_anywhere() {
    let (mut net, place) = nic(1);
    let mut driver = start(&mut net, MERGEABLE);
    let content: Vec<u8> = (0..=255).cycle().take(1234).collect();
    let headers = [7; FRAME_HEADER + 54];
    let source = GuestAddress(3 << 20);
    driver.memory.write_slice(&content, source).unwrap();
    let mut list = ScatterList::new(driver.memory.clone());
    list.push(source, 1000).unwrap();
    list.push(GuestAddress(source.0 + 1000), 234).unwrap();
    let mut streams = Standing(content.clone());
    let waiting = streams.source();
    let contents = [
        Content::Payload(&content),
        Content::Payload(&list),
        Content::Payload(&Hidden(&content)),
        Content::Waiting(&mut streams, waiting),
    ];
    for shown in contents {
        let requests = [500, 600, 700].map(|room| driver.send(0, &[Buffer::In(room)]));
        let before = used(&driver, 0);
        assert_eq!(place.with(|nic| nic.send(&headers, shown)), Sent::Yes);
        assert_eq!(used(&driver, 0), before, "before the batch ends");
        place.flush();
        let mut received = Vec::<u8>::new();
        for request in &requests {
            let (head, written) = driver.wait_used(0);
            assert_eq!(head, request.head);
            received.extend(&driver.contents(request)[..written as usize]);
        }
        assert_eq!(received[..10], [7; 10]);
        assert_eq!(received[10..12], [3, 0], "buffers");
        assert_eq!(received[12..headers.len()], headers[12..]);
        assert!(received[headers.len()..] == content);
    }
}

#[test]
fn there_is_room_when_the_driver_says_so() {
    let (mut net, place) = nic(1);
    let mut driver = start(&mut net, MERGEABLE);
    driver.send(0, &[Buffer::In(100)]);
    assert_eq!(place.send_whole(150), Sent::Full);
    assert_eq!(place.send_whole(150), Sent::Full);
    driver.send(0, &[Buffer::In(100)]);
    assert_eq!(place.ready(2), News::ROOM);
    assert_eq!(place.send_whole(150), Sent::Yes);
    place.flush();
    assert_eq!(driver.wait_used(0).1, 100);
    assert_eq!(driver.wait_used(0).1, 50);
    assert_eq!(*driver.recorder.used.lock().unwrap(), [0]);
    // More than half of the ring, and still too little.
    for _ in 0..9 {
        driver.send(0, &[Buffer::In(100)]);
    }
    assert_eq!(place.send_whole(1000), Sent::Refused);
    assert_eq!(place.send_whole(MAX_FRAME + 1), Sent::Refused);
    assert_eq!(place.send_whole(800), Sent::Yes);
}

#[test]
fn without_merging_a_frame_takes_one_buffer() {
    let (mut net, place) = nic(1);
    let mut driver = start(&mut net, 0);
    let request = driver.send(0, &[Buffer::In(12), Buffer::In(1500)]);
    driver.send(0, &[Buffer::In(2000)]);
    assert_eq!(place.send_whole(1513), Sent::Refused);
    assert_eq!(place.send_whole(1512), Sent::Yes);
    place.flush();
    assert_eq!(driver.wait_used(0), (request.head, 1512));
    let received = driver.contents(&request);
    assert_eq!(received[FRAME_HEADER - 2..FRAME_HEADER], [1, 0]);
    assert_eq!(received[FRAME_HEADER..], frame(1512)[FRAME_HEADER..]);
}

#[test]
fn the_driver_chooses_what_it_receives() {
    let (mut net, place) = nic(1);
    let mut driver = start(&mut net, 0);
    assert_eq!(place.settings().filter.clone(), {
        let own = [Mac(MAC)];
        ReceiveFilter::new(ReceiveModes::PROMISCUOUS, &own, &[])
    });
    let stations = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
    let groups = [[0x33, 0x33, 0, 0, 0, 1]];
    let table = [
        &2u32.to_le_bytes()[..],
        stations.as_flattened(),
        &1u32.to_le_bytes(),
        groups.as_flattened(),
    ]
    .concat();
    let own = [2, 0, 0, 0, 0, 9];
    for (header, data) in [
        ([0, 0], &[0][..]),
        ([0, 1], &[1]),
        ([0, 5], &[1]),
        ([1, 0], &table),
        ([1, 1], &own),
    ] {
        assert_eq!(place.command(&mut driver, 2, header, data), 0);
    }
    let modes = ReceiveModes::ALL_MULTICAST | ReceiveModes::NO_BROADCAST;
    let unicast = [own, stations[0], stations[1]].map(Mac);
    let expected = ReceiveFilter::new(modes, &unicast, &groups.map(Mac));
    assert_eq!(place.settings().filter, expected);
    // What is refused changes nothing.
    assert_eq!(place.command(&mut driver, 2, [1, 0], &table[..20]), 1);
    assert_eq!(place.settings().filter, expected);
    // A table too long for a filter wants all.
    let long = [&100u32.to_le_bytes()[..], &[2; 600], &[0; 4]].concat();
    assert_eq!(place.command(&mut driver, 2, [1, 0], &long), 0);
    let all = ReceiveFilter::new(modes | ReceiveModes::ALL_UNICAST, &[], &[]);
    assert_eq!(place.settings().filter, all);
}

#[test]
fn a_flow_is_answered_on_its_pair() {
    let (mut net, place) = nic(3);
    let mut driver = start(&mut net, MULTIQUEUE | MERGEABLE);
    let mut packet = vec![0; FRAME_HEADER + 14];
    packet[FRAME_HEADER + 12] = 8;
    packet.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    packet.extend([10, 0, 0, 2, 10, 0, 0, 1, 0x80, 0, 0, 80]);
    packet.extend([0; 16]);
    for queue in [0, 2, 4] {
        for _ in 0..4 {
            driver.send(queue, &[Buffer::In(2000)]);
        }
    }
    driver.send(5, &[Buffer::Out(&packet)]);
    place.ready(7);
    let sent = place.receive().unwrap();
    place.release(sent);
    for (pairs, queue) in [(1u8, 0), (3, 4), (2, 0)] {
        assert_eq!(place.command(&mut driver, 6, [4, 0], &[pairs, 0]), 0);
        let before = used(&driver, queue);
        let (headers, content) = packet.split_at(FRAME_HEADER);
        assert_eq!(place.send(headers, &content), Sent::Yes);
        place.flush();
        assert_eq!(used(&driver, queue), before + 1, "{pairs} pairs");
    }
}

#[test]
fn pairs_take_turns() {
    let (mut net, place) = nic(2);
    let mut driver = start(&mut net, MULTIQUEUE);
    for queue in [1, 3] {
        for length in [60, 61] {
            driver.send(queue, &[Buffer::Out(&frame(length))]);
        }
    }
    let frames: Vec<_> = std::iter::from_fn(|| place.receive()).collect();
    let order: Vec<_> = frames.iter().map(|frame| frame.token() >> 16).collect();
    assert_eq!(order, [0, 1, 0, 1]);
}

#[test]
fn the_cable_can_be_pulled() {
    let (mut net, place) = nic(1);
    let link = net.link();
    link.set(false);
    let driver = start(&mut net, 0);
    for (number, up) in [true, false, false].into_iter().enumerate() {
        link.set(up);
        assert_eq!(link.is_up(), up);
        assert_eq!(place.ready(WAKE), News::SETTINGS | News::ROOM);
        assert_eq!(place.settings().link, up);
        let mut status = [0xFF; 2];
        net.read_config(6, &mut status);
        assert_eq!(status, [u8::from(up), 0]);
        let changes = driver.recorder.config_changes.load(Ordering::SeqCst);
        assert_eq!(changes, (number + 1).min(2), "only changes are told");
    }
}

#[test]
fn a_malformed_request_silences_it_until_reset() {
    let cases: [(&str, usize, &[Buffer<'_>]); 4] = [
        ("a frame without its header", 1, &[Buffer::Out(&[0; 11])]),
        ("a buffer without room", 0, &[Buffer::Out(&[0; 2000])]),
        ("a buffer shorter than a header", 0, &[Buffer::In(11)]),
        (
            "a command cut short",
            2,
            &[Buffer::Out(&[0]), Buffer::In(1)],
        ),
    ];
    let (mut net, place) = nic(1);
    for (what, queue, buffers) in cases {
        let mut driver = start(&mut net, MERGEABLE);
        driver.send(1, &[Buffer::Out(&frame(60))]);
        let out = place.receive().unwrap();
        driver.send(queue, buffers);
        for token in [0, 2, 3] {
            place.ready(token);
        }
        assert!(place.receive().is_none(), "{what}");
        assert_eq!(place.send_whole(60), Sent::Refused, "{what}");
        assert!(driver.recorder.broken(), "{what}");
        assert!(!place.settings().link);
        place.release(out);
        assert_eq!(place.flush(), News::SETTINGS, "{what}");
        assert_eq!(place.flush(), News::empty());
        assert_eq!(used(&driver, 1), 0, "{what}");
        assert_eq!(place.ready(3), News::empty());
        driver.reset(&mut net);
        net.activate(driver.activation(0)).unwrap();
        driver.send(1, &[Buffer::Out(&frame(80))]);
        let frame = place.receive().unwrap();
        assert_eq!(Payload::len(&frame), 80, "after {what}");
        net.reset();
    }
}

#[test]
fn a_driver_cannot_have_more_out_than_its_ring_holds() {
    let (mut net, place) = nic(1);
    let mut driver = start(&mut net, 0);
    let size = driver.queues[1].size;
    let request = driver.send(1, &[Buffer::Out(&frame(60))]);
    let mut out = Vec::new();
    for _ in 0..size + 4 {
        out.extend(place.receive());
        driver.queues[1].offer(&driver.memory.clone(), request.head);
    }
    assert_eq!(out.len(), usize::from(size));
    assert!(place.receive().is_none());
    place.release(out.pop().unwrap());
    assert!(place.receive().is_some());
    assert!(!driver.recorder.broken());
}
