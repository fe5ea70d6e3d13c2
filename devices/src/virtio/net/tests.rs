use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use super::*;
use crate::net::port::FRAME_HEADER;
use crate::scatter::ScatterList;
use crate::virtio::testing::{Buffer, Driver, wait_for};

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const MULTIQUEUE: u64 = 1 << VIRTIO_NET_F_MQ;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// What a NIC asked of its port.
#[derive(Default)]
struct Asked {
    accepted: Offloads,
    active: bool,
}

/// A port whose other side is a socket in the test.
struct Wire {
    socket: UnixDatagram,
    offloads: Offloads,
    asked: Arc<Mutex<Asked>>,
}

impl Port for Wire {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn mtu(&self) -> Option<u16> {
        Some(1500)
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.asked.lock().unwrap().accepted = offloads;
        Ok(())
    }

    fn set_active(&mut self, active: bool) -> io::Result<()> {
        self.asked.lock().unwrap().active = active;
        Ok(())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, frame: &ScatterList) -> io::Result<()> {
        frame.send_to(&self.socket).map(|_| ())
    }

    fn receive(&mut self, buffers: &ScatterList) -> io::Result<usize> {
        // An empty datagram stands for a port that has failed.
        match buffers.read_from(&self.socket)? {
            0 => Err(io::ErrorKind::BrokenPipe.into()),
            length => Ok(length),
        }
    }
}

/// The test's side of a port.
pub(crate) struct Peer {
    pub(crate) socket: UnixDatagram,
    asked: Arc<Mutex<Asked>>,
}

pub(crate) fn nic(pairs: usize, offloads: Offloads) -> (Net, Vec<Peer>) {
    let mut ports: Vec<Box<dyn Port>> = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..pairs {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let asked = Arc::<Mutex<Asked>>::default();
        ports.push(Box::new(Wire {
            socket: theirs,
            offloads,
            asked: asked.clone(),
        }));
        peers.push(Peer {
            socket: ours,
            asked,
        });
    }
    let config = NetConfig {
        number: 0,
        mac: MacAddress::new(MAC).unwrap(),
    };
    (Net::new(ports, &config).unwrap(), peers)
}

fn start(net: &mut Net, features: u64) -> Driver {
    let driver = Driver::of(net);
    net.activate(driver.activation(features)).unwrap();
    driver
}

/// A frame with its header, of `length` bytes in all.
pub(crate) fn frame(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| {
            if at < FRAME_HEADER {
                0
            } else {
                at.to_le_bytes()[0]
            }
        })
        .collect()
}

#[test]
fn features_follow_the_port() {
    for (offload, host, guest) in OFFLOAD_FEATURES {
        let (net, _peers) = nic(1, offload);
        for (other, other_host, other_guest) in OFFLOAD_FEATURES {
            let expected = if other == offload {
                other_host | other_guest
            } else {
                0
            };
            assert_eq!(net.features() & (other_host | other_guest), expected);
        }
        assert_eq!((host | guest) & MULTIQUEUE, 0);
    }
    assert_eq!(nic(1, Offloads::all()).0.features() & MULTIQUEUE, 0);
    assert_ne!(nic(2, Offloads::all()).0.features() & MULTIQUEUE, 0);
}

#[test]
fn the_port_learns_what_the_guest_does() {
    let all = OFFLOAD_FEATURES
        .iter()
        .fold(0, |all, (_, _, guest)| all | guest);
    let cases = [
        (0, Offloads::empty()),
        (all, Offloads::all()),
        (1 << VIRTIO_NET_F_GUEST_CSUM, Offloads::CHECKSUM),
        // What needs a checksum is nothing without it.
        (1 << VIRTIO_NET_F_GUEST_TSO4, Offloads::empty()),
        (
            1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_ECN,
            Offloads::CHECKSUM,
        ),
        (
            1 << VIRTIO_NET_F_GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_USO4,
            Offloads::CHECKSUM,
        ),
    ];
    let (mut net, peers) = nic(1, Offloads::all());
    for (features, expected) in cases {
        let _driver = start(&mut net, features);
        assert_eq!(
            peers[0].asked.lock().unwrap().accepted,
            expected,
            "{features:#x}"
        );
        net.reset();
    }
}

#[test]
fn the_configuration_space() {
    let (net, _peers) = nic(3, Offloads::empty());
    let mut space = [0xFF; 16];
    net.read_config(0, &mut space);
    let mtu = 1500u16.to_le_bytes();
    assert_eq!(
        space,
        [2, 0, 0, 0, 0, 7, 1, 0, 3, 0, mtu[0], mtu[1], 0, 0, 0, 0]
    );
}

#[test]
fn sends_frames_in_order_and_whole() {
    let (mut net, peers) = nic(1, Offloads::empty());
    let mut driver = start(&mut net, MERGEABLE);
    for length in [FRAME_HEADER, 60, 1526, 60_000] {
        let frame = frame(length);
        let (header, body) = frame.split_at(FRAME_HEADER);
        driver.call(1, &[Buffer::Out(header), Buffer::Out(body)]);
        let mut received = vec![0; 70_000];
        let count = peers[0].socket.recv(&mut received).unwrap();
        assert_eq!(received[..count], frame);
    }
}

#[test]
fn a_port_that_takes_no_more_is_waited_for() {
    let (mut net, peers) = nic(1, Offloads::empty());
    let mut driver = start(&mut net, MERGEABLE);
    let frames: Vec<_> = (1..=15).map(|number| [number; 30_000]).collect();
    for frame in &frames {
        driver.send(1, &[Buffer::Out(frame)]);
    }
    for frame in &frames {
        let mut received = vec![0; 70_000];
        let count = peers[0].socket.recv(&mut received).unwrap();
        assert_eq!(received[..count], frame[..]);
    }
}

#[test]
fn receives_into_one_buffer() {
    let (mut net, peers) = nic(1, Offloads::empty());
    let mut driver = start(&mut net, 0);
    peers[0].socket.send(&frame(100)).unwrap();
    let (length, data) = driver.call(0, &[Buffer::In(12), Buffer::In(2000)]);
    assert_eq!((length, data[NUM_BUFFERS]), (100, 1));
    assert_eq!(data[FRAME_HEADER..100], frame(100)[FRAME_HEADER..]);
}

/// Where a received frame's header says how many buffers it takes.
const NUM_BUFFERS: usize = 10;

#[test]
fn spreads_a_frame_over_buffers() {
    let (mut net, peers) = nic(1, Offloads::empty());
    let mut driver = start(&mut net, MERGEABLE);
    let requests: Vec<_> = (0..8).map(|_| driver.send(0, &[Buffer::In(512)])).collect();
    let mut requests = requests.into_iter();
    for (length, expected) in [(100, 1), (512, 1), (513, 2), (1400, 3)] {
        peers[0].socket.send(&frame(length)).unwrap();
        let mut received = Vec::<u8>::new();
        for _ in 0..expected {
            let request = requests.next().unwrap();
            let (head, written) = driver.wait_used(0);
            assert_eq!(head, request.head);
            received.extend(&driver.contents(&request)[..written as usize]);
            driver.send(0, &[Buffer::In(512)]);
        }
        assert_eq!(usize::from(received[NUM_BUFFERS]), expected);
        assert_eq!(received[FRAME_HEADER..], frame(length)[FRAME_HEADER..]);
    }
}

#[test]
fn a_frame_too_long_for_all_buffers_is_dropped() {
    let (mut net, peers) = nic(1, Offloads::empty());
    let mut driver = start(&mut net, MERGEABLE);
    for _ in 0..10 {
        driver.send(0, &[Buffer::In(64)]);
    }
    peers[0].socket.send(&frame(1000)).unwrap();
    peers[0].socket.send(&frame(20)).unwrap();
    assert_eq!(driver.wait_used(0), (0, 20));
}

#[test]
fn control_commands() {
    let (mut net, _peers) = nic(2, Offloads::empty());
    let mut driver = start(&mut net, MULTIQUEUE);
    let table = [&[1, 0, 0, 0][..], &[0; 6], &[0; 4]].concat();
    let cases: [(&str, [u8; 2], &[u8], u8); 13] = [
        ("promiscuous", [0, 0], &[1], 0),
        ("no broadcast", [0, 5], &[1], 0),
        ("a mode without its value", [0, 0], &[], 1),
        ("an unknown mode", [0, 6], &[1], 1),
        ("an address", [1, 1], &[2, 0, 0, 0, 0, 9], 0),
        ("a group's address", [1, 1], &[1, 0, 0, 0, 0, 9], 1),
        ("an address cut short", [1, 1], &[2, 0, 0, 0, 0], 1),
        ("a filter table", [1, 0], &table, 0),
        (
            "a table that lies",
            [1, 0],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0, 0],
            1,
        ),
        ("two pairs", [4, 0], &[2, 0], 0),
        ("no pair", [4, 0], &[0, 0], 1),
        ("too many pairs", [4, 0], &[3, 0], 1),
        ("an unknown class", [77, 0], &[0], 1),
    ];
    for (what, header, data, expected) in cases {
        let buffers = [Buffer::Out(&header), Buffer::Out(data), Buffer::In(1)];
        assert_eq!(driver.call(4, &buffers).1, [expected], "{what}");
    }
    let mut mac = [0; 6];
    net.read_config(0, &mut mac);
    assert_eq!(mac, [2, 0, 0, 0, 0, 9]);
    net.reset();
    net.read_config(0, &mut mac);
    assert_eq!(mac, MAC);
}

#[test]
fn the_control_queue_moves_with_multiqueue() {
    let (mut net, _peers) = nic(2, Offloads::empty());
    let mut driver = start(&mut net, 0);
    let buffers = [Buffer::Out(&[0, 0, 1]), Buffer::In(1)];
    assert_eq!(driver.call(2, &buffers).1, [0]);
    let pairs = [Buffer::Out(&[4, 0, 1, 0]), Buffer::In(1)];
    assert_eq!(driver.call(2, &pairs).1, [1], "pairs without multiqueue");
}

#[test]
fn pairs_are_used_when_asked_for() {
    let (mut net, peers) = nic(2, Offloads::empty());
    let mut driver = start(&mut net, MULTIQUEUE);
    let active = |pair: usize| peers[pair].asked.lock().unwrap().active;
    assert_eq!((active(0), active(1)), (true, false));
    for (pairs, expected) in [(2, true), (1, false), (2, true)] {
        driver.call(4, &[Buffer::Out(&[4, 0, pairs, 0]), Buffer::In(1)]);
        wait_for("the second pair", || active(1) == expected);
    }
    peers[1].socket.send(&frame(64)).unwrap();
    assert_eq!(driver.call(2, &[Buffer::In(2000)]).0, 64);
    driver.call(3, &[Buffer::Out(&frame(64))]);
    assert_eq!(peers[1].socket.recv(&mut [0; 100]).unwrap(), 64);
}

#[test]
fn a_port_that_fails_takes_the_link_down() {
    let (mut net, peers) = nic(1, Offloads::empty());
    let mut driver = start(&mut net, 0);
    peers[0].socket.send(&[]).unwrap();
    driver.send(0, &[Buffer::In(2000)]);
    wait_for("the link to go down", || {
        driver.recorder.config_changes.load(Ordering::SeqCst) == 1
    });
    let mut status = [0xFF; 2];
    net.read_config(6, &mut status);
    assert_eq!(status, [0, 0]);
}

#[test]
fn without_its_cable_frames_are_lost() {
    let (mut net, peers) = nic(1, Offloads::empty());
    let link = net.link();
    let mut driver = start(&mut net, 0);
    link.set(false);
    driver.call(1, &[Buffer::Out(&frame(60))]);
    link.set(true);
    driver.call(1, &[Buffer::Out(&frame(70))]);
    assert_eq!(peers[0].socket.recv(&mut [0; 100]).unwrap(), 70);
    peers[0].socket.send(&frame(80)).unwrap();
    assert_eq!(driver.call(0, &[Buffer::In(2000)]).0, 80);
    assert_eq!(driver.recorder.config_changes.load(Ordering::SeqCst), 2);
}

#[test]
fn malformed_requests_stop_the_device_until_reset() {
    let cases: [(&str, usize, &[Buffer<'_>]); 5] = [
        ("a frame without its header", 1, &[Buffer::Out(&[0; 11])]),
        (
            "a receive buffer without room",
            0,
            &[Buffer::Out(&[0; 2000])],
        ),
        (
            "a receive buffer shorter than a header",
            0,
            &[Buffer::In(11)],
        ),
        (
            "a control command cut short",
            4,
            &[Buffer::Out(&[0]), Buffer::In(1)],
        ),
        (
            "a control command without an answer",
            4,
            &[Buffer::Out(&[0, 0, 1])],
        ),
    ];
    let (mut net, peers) = nic(2, Offloads::empty());
    for (what, queue, buffers) in cases {
        let mut driver = start(&mut net, MERGEABLE | MULTIQUEUE);
        driver.send(queue, buffers);
        wait_for(what, || driver.recorder.broken());
        driver.reset(&mut net);
        net.activate(driver.activation(MULTIQUEUE)).unwrap();
        driver.call(1, &[Buffer::Out(&frame(80))]);
        assert_eq!(
            peers[0].socket.recv(&mut [0; 100]).unwrap(),
            80,
            "after {what}"
        );
        net.reset();
    }
}

#[test]
fn missing_queues_are_refused_and_the_ports_kept() {
    let (mut net, _peers) = nic(2, Offloads::empty());
    let driver = Driver::of(&net);
    let mut activation = driver.activation(MULTIQUEUE);
    activation.queues.remove(1);
    let error = net.activate(activation).unwrap_err();
    assert!(
        matches!(error, ActivateError::MissingQueues { needed: 2, .. }),
        "{error}"
    );
    // A driver may leave the second pair out.
    let mut activation = driver.activation(MULTIQUEUE);
    activation.queues.truncate(2);
    net.activate(activation).unwrap();
    net.reset();
    let Backend::Ports(workers) = &net.backend else {
        panic!("made with ports");
    };
    assert_eq!(workers.idle(), 2);
}

#[test]
fn a_nic_has_a_pair() {
    let config = NetConfig {
        number: 0,
        mac: MacAddress::random(),
    };
    let error = Net::new(Vec::new(), &config).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
