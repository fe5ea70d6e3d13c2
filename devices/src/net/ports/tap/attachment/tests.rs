use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nestling_arch::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::net::attachment::testing::Standing;
use crate::net::ports::tap::tests::{NAME, arp_request, in_namespace, list};
use crate::net::wire::checksum;

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn config() -> TapConfig {
    TapConfig {
        name: NAME.to_owned(),
        namespace: None,
        link: Some(LinkConfig {
            mac: MacAddress::new(MAC),
            mtu: Some(9000),
            addresses: vec![(KERNEL.into(), 24), ("fd00::1".parse().unwrap(), 64)],
            gateways: vec![OURS.into(), "fd00::2".parse().unwrap()],
        }),
    }
}

/// Counts what it is asked to watch.
#[derive(Default)]
struct Watched(Vec<(i32, u8, bool)>);

impl Watch for Watched {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u8, writable: bool) -> io::Result<()> {
        self.0.push((fd.as_raw_fd(), token, writable));
        Ok(())
    }

    fn remove(&mut self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// A UDP datagram for the kernel: headers and payload.
fn datagram(port: u16, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let udp = u16::try_from(8 + payload.len()).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(OURS.octets());
    ip.extend(KERNEL.octets());
    let sum = checksum::checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut headers = vec![0; 12];
    headers.extend(MAC);
    headers.extend([2, 0, 0, 0, 0, 2, 8, 0]);
    headers.extend(ip);
    for field in [port, port, udp, 0] {
        headers.extend(field.to_be_bytes());
    }
    (headers, payload.to_vec())
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

#[test]
fn sets_its_interface_up() {
    in_namespace(|| {
        let tap = TapAttachment::open(&config()).unwrap();
        assert_eq!((tap.mac(), tap.mtu()), (MacAddress::new(MAC), 9000));
        assert!(tap.settings().link);
        assert!(tap.settings().offloads.contains(Offloads::TSO4));
        for (peer, own) in [("192.0.2.1:9", "10.0.0.1"), ("[2001:db8::1]:9", "fd00::1")] {
            let peer: SocketAddr = peer.parse().unwrap();
            let any = if peer.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(peer).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip().to_string(), own);
        }
    });
}

#[test]
fn carries_frames_both_ways() {
    in_namespace(|| {
        let mut tap = TapAttachment::open(&config()).unwrap();
        let mut watched = Watched::default();
        tap.watch(&mut watched).unwrap();
        assert_eq!(watched.0, [(tap.tap.file.as_raw_fd(), 0, true)]);
        let request = arp_request();
        assert_eq!(tap.send(&request, Content::Payload(&[0; 18])), Sent::Yes);
        // The kernel may talk on its own before it answers.
        loop {
            let Some(frame) = tap.receive() else { continue };
            let mut bytes = vec![0; Payload::len(&frame)];
            frame.read_at(0, &mut bytes);
            tap.release(frame);
            if bytes[24..26] == [8, 6] {
                assert_eq!(
                    bytes[32..44],
                    [&[0, 2][..], &MAC, &KERNEL.octets()].concat()
                );
                break;
            }
        }
        assert_eq!(tap.pool.free.len(), 1, "one buffer served for all");
    });
}

#[test]
fn sends_from_wherever_content_lies() {
    in_namespace(|| {
        let mut tap = TapAttachment::open(&config()).unwrap();
        let socket = UdpSocket::bind((KERNEL, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let bytes: Vec<u8> = (0..=255).cycle().take(1400).collect();
        let (headers, payload) = datagram(port, &bytes);
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let memory = Arc::new(memory);
        memory.write_slice(&payload, GuestAddress(0)).unwrap();
        let scattered = |piece: usize| {
            let starts = (0..payload.len()).step_by(piece);
            let ranges: Vec<_> = starts
                .map(|start| (start as u64, piece.min(payload.len() - start)))
                .collect();
            list(&memory, &ranges)
        };
        let (few, many) = (scattered(500), scattered(7));
        let contents: [&dyn Payload; 4] = [&payload.as_slice(), &few, &many, &Hidden(&payload)];
        let mut streams = Standing(payload.clone());
        let source = streams.source();
        let contents = contents.map(Content::Payload);
        let waiting = Content::Waiting(&mut streams, source);
        for content in contents.into_iter().chain([waiting]) {
            assert_eq!(tap.send(&headers, content), Sent::Yes);
            let mut received = [0; 2000];
            let count = socket.recv(&mut received).unwrap();
            assert_eq!(received[..count], payload[..]);
        }
    });
}

#[test]
fn frames_out_are_bounded() {
    in_namespace(|| {
        let mut tap = TapAttachment::open(&config()).unwrap();
        let socket = UdpSocket::bind((KERNEL, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        for _ in 0..2 * MAX_FRAMES {
            socket.send_to(b"anybody?", "10.0.0.255:9").unwrap();
        }
        let mut out: Vec<_> = std::iter::from_fn(|| tap.receive()).collect();
        assert_eq!(out.len(), MAX_FRAMES);
        assert_eq!(tap.flush(), News::empty());
        tap.release(out.pop().unwrap());
        assert_eq!(tap.flush(), News::FRAMES);
        assert_eq!(tap.flush(), News::empty());
        assert!(tap.receive().is_some());
        assert!(tap.receive().is_none());
    });
}

#[test]
fn a_deleted_interface_is_gone() {
    in_namespace(|| {
        let mut tap = TapAttachment::open(&config()).unwrap();
        let mut routing = Routing::new(Namespace::current().unwrap().routing);
        let index = routing.find(NAME).unwrap().index;
        routing.delete(index).unwrap();
        while tap.receive().is_some() {}
        assert_eq!(tap.flush(), News::GONE);
        assert!(!tap.settings().link);
        let sent = tap.send(&arp_request(), Content::Payload(&[]));
        assert_eq!(sent, Sent::Refused);
        assert!(routing.find(NAME).is_err());
    });
}

/// A process in namespaces of its own, as a rootless container's is.
struct Container(Child);

impl Container {
    fn start() -> Option<Self> {
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        // Once cat answers, it is there.
        let (stdin, stdout) = (child.stdin.as_mut()?, child.stdout.as_mut()?);
        let there = io::Write::write_all(stdin, b"x").is_ok()
            && stdout.read(&mut [0]).is_ok_and(|count| count == 1);
        let container = Self(child);
        there.then_some(container)
    }

    fn file(&self, path: &str) -> PathBuf {
        format!("/proc/{}/{path}", self.0.id()).into()
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.file(path)).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[allow(clippy::print_stderr)] // A skipped test says why.
fn reaches_into_a_rootless_container() {
    if let Err(error) = super::super::open_device() {
        eprintln!("skipped: {error}");
        return;
    }
    let Some(container) = Container::start() else {
        eprintln!("skipped: unshare can't make a user namespace here");
        return;
    };
    let config = TapConfig {
        namespace: Some(container.file("ns/net")),
        ..config()
    };
    let tap = TapAttachment::open(&config).unwrap();
    assert_eq!((tap.mac(), tap.mtu()), (MacAddress::new(MAC), 9000));
    let routes = container.read("net/route");
    let default = format!("{NAME}\t00000000\t0200000A");
    assert!(routes.contains(&default), "{routes}");
    let addresses = container.read("net/if_inet6");
    for address in [
        "fd000000000000000000000000000001",
        "00000000000000000000000000000001",
    ] {
        assert!(addresses.contains(address), "{addresses}");
    }
    let here = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(!here.contains(NAME));
    // It can't be had twice.
    let error = TapAttachment::open(&config).err().unwrap();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    for (path, what) in [
        ("/proc/self/ns/uts", "cannot use it as a network namespace"),
        ("/dev/null", "cannot use it as a network namespace"),
        ("/nowhere", "cannot open it"),
    ] {
        let config = TapConfig {
            namespace: Some(path.into()),
            ..config()
        };
        let error = TapAttachment::open(&config).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    }
}
