//! A front end for tests, its guest, and the network that it joins.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nestling_arch::GuestMemory;
use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vm_memory::{FileOffset, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::net::engine::{Config, Network4};
use crate::net::host::Resolvers;
use crate::net::mac::MacAddress;
use crate::net::nat::reach::Reach;
use crate::net::nat::udp::Filtering;
use crate::net::nat::{flows, fragments, tcp};
use crate::net::network::Network;
use crate::net::port::FRAME_HEADER;
use crate::net::ports::vhost_user::{VhostUser, VhostUserConfig};
use crate::net::prefix::Prefix4;
use crate::net::services::{dns, leases};
use crate::net::switch::PortConfig;
use crate::virtio::eventfd::as_fd;
use crate::virtio::testing::{Buffer, Driver, MEMORY, wait_for};

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0A];
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);

/// Where the front end has the guest's memory.
pub(super) const USER: u64 = 0x7F00_0000_0000;

/// VHOST_USER_F_PROTOCOL_FEATURES and VIRTIO_F_VERSION_1.
pub(super) const FEATURES: u64 = 1 << 30 | 1 << 32;
/// REPLY_ACK.
pub(super) const PROTOCOL: u64 = 1 << 3;

pub(super) const GET_FEATURES: u32 = 1;
pub(super) const SET_FEATURES: u32 = 2;
pub(super) const SET_OWNER: u32 = 3;
pub(super) const SET_MEM_TABLE: u32 = 5;
pub(super) const SET_VRING_NUM: u32 = 8;
pub(super) const SET_VRING_ADDR: u32 = 9;
pub(super) const SET_VRING_BASE: u32 = 10;
pub(super) const GET_VRING_BASE: u32 = 11;
pub(super) const SET_VRING_KICK: u32 = 12;
pub(super) const SET_VRING_CALL: u32 = 13;
pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(super) const GET_QUEUE_NUM: u32 = 17;
pub(super) const SET_VRING_ENABLE: u32 = 18;
pub(super) const GET_CONFIG: u32 = 24;

fn network() -> Network {
    let mac = MacAddress::new([2, 0x6E, 0x65, 0x73, 0x74, 1]).unwrap();
    let flows = flows::Limits {
        total: 64,
        per_guest: 32,
    };
    let config = Config {
        mac,
        mtu: 1500,
        v4: Some(Network4 {
            gateway: GATEWAY,
            prefix: Prefix4::new(Ipv4Addr::new(192, 168, 100, 0), 24).unwrap(),
            dhcp: None,
        }),
        v6: None,
        reach: Reach {
            gateway4: Some(GATEWAY),
            gateway6: None,
            host_loopback: false,
            resolver: None,
            host: Vec::new(),
        },
        filtering: Filtering::default(),
        connections: tcp::Limits {
            flows,
            embryonic: 8,
            lingering: 8,
            parked: 8,
        },
        flows,
        dns: dns::Config {
            zone: dns::Zone {
                domain: None,
                prefixes4: Vec::new(),
                prefixes6: Vec::new(),
            },
            limits: leases::Limits {
                total: 8,
                per_port: 8,
            },
            longest_datagram: 1452,
        },
        fragments: fragments::Limits {
            total: 1 << 16,
            per_guest: 1 << 16,
        },
        stations_per_port: 4,
    };
    Network::start(config, Resolvers::Fixed(Vec::new())).unwrap()
}

/// A port that is served, and the network that it is on.
pub(super) struct Served {
    // Dropped before the network that it is a port of.
    pub(super) server: VhostUser,
    pub(super) network: Network,
    path: tempfile::TempDir,
}

impl Served {
    pub(super) fn start() -> Self {
        let network = network();
        let mac = MacAddress::new(MAC).unwrap();
        let port = PortConfig {
            addresses: vec![mac],
            ..PortConfig::default()
        };
        let handle = network.handle().clone();
        let port = handle.add_port("test", port).unwrap();
        let path = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(path.path().join("socket")).unwrap();
        let config = VhostUserConfig {
            name: "test".into(),
            network: handle,
            port,
            mac,
            mtu: 1500,
            recording: None,
        };
        let server = VhostUser::start(listener, config).unwrap();
        Self {
            server,
            network,
            path,
        }
    }

    pub(super) fn connect(&self) -> Front {
        Front(UnixStream::connect(self.path.path().join("socket")).unwrap())
    }

    pub(super) fn is_plugged(&self) -> bool {
        let status = self.network.handle().status().unwrap();
        status
            .ports
            .iter()
            .any(|port| port.name == "test" && port.plugged)
    }
}

/// A front end.
pub(super) struct Front(UnixStream);

impl Front {
    /// Sends a message, unless the other side is gone.
    pub(super) fn send_with(
        &self,
        header: [u32; 2],
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) {
        let [code, flags] = header;
        let size = u32::try_from(payload.len()).unwrap();
        let header: Vec<_> = [code, flags, size].map(u32::to_ne_bytes).concat();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        let _ = sendmsg(&self.0, &parts, &mut control, SendFlags::NOSIGNAL);
    }

    pub(super) fn send(&self, code: u32, payload: &[u8], descriptors: &[BorrowedFd<'_>]) {
        self.send_with([code, 1], payload, descriptors);
    }

    /// The next reply's payload; none if the other side has gone.
    pub(super) fn reply(&mut self, code: u32) -> Option<Vec<u8>> {
        let mut header = [0; 12];
        self.0.read_exact(&mut header).ok()?;
        let (words, _) = header.as_chunks::<4>();
        let [found, flags, size] = [0, 1, 2].map(|word| u32::from_ne_bytes(words[word]));
        assert_eq!((found, flags), (code, 1 | 4));
        let mut payload = vec![0; size.try_into().unwrap()];
        self.0.read_exact(&mut payload).ok()?;
        Some(payload)
    }

    pub(super) fn get(&mut self, code: u32, payload: &[u8]) -> Option<Vec<u8>> {
        self.send(code, payload, &[]);
        self.reply(code)
    }

    pub(super) fn get_value(&mut self, code: u32) -> Option<u64> {
        let payload = self.get(code, &[])?;
        Some(u64::from_ne_bytes(payload.try_into().unwrap()))
    }

    /// Sends a message that is to be answered; whether it succeeded, or none
    /// if the other side has gone.
    pub(super) fn ask(
        &mut self,
        code: u32,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Option<bool> {
        self.send_with([code, 1 | 8], payload, descriptors);
        Some(self.reply(code)? == [0; 8])
    }

    #[track_caller]
    pub(super) fn set(&mut self, code: u32, payload: &[u8], descriptors: &[BorrowedFd<'_>]) {
        assert_eq!(self.ask(code, payload, descriptors), Some(true), "{code}");
    }

    pub(super) fn negotiate(&mut self) {
        let offered = self.get_value(GET_FEATURES).unwrap();
        assert_eq!(offered & FEATURES, FEATURES);
        let protocol = self.get_value(GET_PROTOCOL_FEATURES).unwrap();
        assert_eq!(protocol & PROTOCOL, PROTOCOL);
        self.send(SET_PROTOCOL_FEATURES, &PROTOCOL.to_ne_bytes(), &[]);
        self.set(SET_OWNER, &[], &[]);
    }

    /// Whether the other side has gone.
    pub(super) fn is_left(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap_or(0) == 0
    }
}

pub(super) fn state(ring: u32, value: u32) -> Vec<u8> {
    [ring, value].map(u32::to_ne_bytes).concat()
}

pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A table of one region, at guest address 0.
pub(super) fn table(size: u64) -> Vec<u8> {
    [state(1, 0), words(&[0, size, USER, 0])].concat()
}

/// A guest with a NIC, whose front end this is.
pub(super) struct Guest {
    pub(super) driver: Driver,
    pub(super) file: File,
    pub(super) calls: [EventFd; 2],
}

impl Guest {
    pub(super) fn new() -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, MEMORY as u64).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(0), MEMORY, Some(offset));
        let memory = GuestMemory::from_ranges_with_files([range]).unwrap();
        Self {
            driver: Driver::over(memory, &[16, 16]),
            file,
            calls: [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap()),
        }
    }

    /// Has the rings served from these entries on.
    pub(super) fn start(&self, front: &mut Front, bases: [u32; 2]) {
        front.set(SET_FEATURES, &FEATURES.to_ne_bytes(), &[]);
        front.set(SET_MEM_TABLE, &table(MEMORY as u64), &[self.file.as_fd()]);
        for (number, queue) in (0..).zip(&self.driver.queues) {
            let at = [queue.descriptors, queue.used, queue.available, 0];
            let [descriptors, used, available, log] = at.map(|address| USER + address);
            let addresses = words(&[descriptors, used, available, log]);
            let index = usize::try_from(number).unwrap();
            let kick = queue.activate(0).doorbell;
            let ring = u64::from(number).to_ne_bytes();
            front.set(SET_VRING_NUM, &state(number, queue.size.into()), &[]);
            front.set(SET_VRING_ADDR, &[state(number, 0), addresses].concat(), &[]);
            front.set(SET_VRING_BASE, &state(number, bases[index]), &[]);
            front.set(SET_VRING_CALL, &ring, &[as_fd(&self.calls[index])]);
            front.set(SET_VRING_KICK, &ring, &[as_fd(&kick)]);
            front.set(SET_VRING_ENABLE, &state(number, 1), &[]);
        }
    }

    /// Asks for the gateway's address, and gets it.
    pub(super) fn find_gateway(&mut self) {
        let buffer = self.driver.send(0, &[Buffer::In(2048)]);
        let request = arp_request();
        self.driver.send(1, &[Buffer::Out(&request)]);
        self.driver.wait_used(1);
        let (head, len) = self.driver.wait_used(0);
        assert_eq!(head, buffer.head);
        let frame = self.driver.contents(&buffer);
        let frame = &frame[..usize::try_from(len).unwrap()];
        let (header, frame) = frame.split_at(FRAME_HEADER);
        assert_eq!(header[10..], [1, 0], "it takes one buffer");
        assert_eq!(frame[..6], MAC);
        assert_eq!(frame[12..14], [8, 6]);
        assert_eq!(frame[20..22], [0, 2], "a reply");
        assert_eq!(frame[28..32], GATEWAY.octets());
        for call in &self.calls {
            wait_for("the driver to be told", || call.read().is_ok());
        }
    }
}

pub(super) fn arp_request() -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER];
    frame.extend([0xFF; 6]);
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend([192, 168, 100, 10]);
    frame.extend([0; 6]);
    frame.extend(GATEWAY.octets());
    frame
}
