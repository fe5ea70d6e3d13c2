use std::net::UdpSocket;
use std::sync::Arc;

use nestling_arch::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::net::link::Routing;

pub(super) const NAME: &str = "nestling-test";

/// Runs `test` in a network namespace of its own, where this host allows it.
#[allow(clippy::print_stderr)] // A skipped test says why.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: unshare changes only the calling thread, which ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            eprintln!(
                "skipped: no network namespace: {}",
                io::Error::last_os_error()
            );
        } else if let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
            eprintln!("skipped: {DEVICE}: {error}");
        } else {
            test();
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Gives the interface 10.0.0.1 and brings it up.
fn bring_up(name: &str) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap(),
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([10, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    };
    let mut request = interface(name);
    // SAFETY: both are plain bytes of one size.
    request.ifr_ifru.ifru_addr =
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) };
    // SAFETY: SIOCSIFADDR reads an ifreq.
    unsafe { ioctl(&socket, libc::SIOCSIFADDR, &mut request) }.unwrap();
    let mut request = interface(name);
    request.ifr_ifru.ifru_flags = flags(libc::IFF_UP);
    // SAFETY: SIOCSIFFLAGS reads an ifreq.
    unsafe { ioctl(&socket, libc::SIOCSIFFLAGS, &mut request) }.unwrap();
}

pub(super) fn list(memory: &Arc<GuestMemory>, ranges: &[(u64, usize)]) -> ScatterList {
    let mut list = ScatterList::new(memory.clone());
    for (address, length) in ranges {
        list.push(GuestAddress(*address), *length).unwrap();
    }
    list
}

/// Who has 10.0.0.1, asks 10.0.0.2 (RFC 826).
pub(super) fn arp_request() -> Vec<u8> {
    let station = [2, 0, 0, 0, 0, 2];
    let mut frame = vec![0; FRAME_HEADER];
    frame.extend([0xFF; 6]);
    frame.extend(station);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(station);
    frame.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    frame
}

#[test]
fn carries_frames() {
    in_namespace(|| {
        let mut tap = Tap::open(NAME, 1).unwrap().pop().unwrap();
        assert_eq!(tap.mtu(), Some(1500));
        assert!(
            tap.offloads()
                .contains(Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6)
        );
        tap.accept(Offloads::all() & tap.offloads()).unwrap();
        bring_up(NAME);
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let memory = Arc::new(memory);
        let request = arp_request();
        memory.write_slice(&request, GuestAddress(0)).unwrap();
        tap.send(&list(&memory, &[(0, 20), (20, request.len() - 20)]))
            .unwrap();
        // The kernel may talk on its own before it answers.
        let reply = loop {
            let buffers = list(&memory, &[(0x1000, 30), (0x2000, 2000)]);
            match tap.receive(&buffers) {
                Ok(length) => {
                    let mut frame = vec![0; length];
                    buffers.peek(&mut frame);
                    if frame[FRAME_HEADER + 12..][..2] == [8, 6] {
                        break frame;
                    }
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
            }
        };
        assert_eq!(reply[FRAME_HEADER + 20..][..2], [0, 2], "an ARP reply");
        assert_eq!(reply[FRAME_HEADER + 28..][..4], [10, 0, 0, 1]);
    });
}

#[test]
fn a_tap_has_one_user_unless_it_has_several_queues() {
    in_namespace(|| {
        let first = Tap::open(NAME, 1).unwrap();
        let error = Tap::open(NAME, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tap nestling-test is in use by another process"
        );
        assert!(matches!(
            Tap::open(NAME, 2),
            Err(Error::Kind { queues: 2, .. } | Error::InUse { .. })
        ));
        drop(first);
        let mut queues = Tap::open(NAME, 3).unwrap();
        assert_eq!(queues.len(), 3);
        for active in [false, false, true, true] {
            queues[2].set_active(active).unwrap();
        }
    });
}

#[test]
fn a_tap_that_persists_is_found_by_its_name() {
    in_namespace(|| {
        let tap = Tap::open(NAME, 1).unwrap().pop().unwrap();
        let index = || Routing::open().unwrap().find(NAME).unwrap().index;
        let before = index();
        tap.persist().unwrap();
        drop(tap);
        assert_eq!(index(), before);
        let tap = Tap::open(NAME, 1).unwrap();
        assert_eq!((tap.len(), index()), (1, before));
    });
}

#[test]
fn an_interface_of_another_kind_is_refused() {
    in_namespace(|| {
        let error = Tap::open("lo", 1).unwrap_err().to_string();
        assert!(
            error.contains("interface lo exists, but is not a tap"),
            "{error}"
        );
    });
}

#[test]
fn takes_a_descriptor_over() {
    in_namespace(|| {
        let tap = Tap::open(NAME, 1).unwrap().pop().unwrap();
        let fd = OwnedFd::from(tap.file);
        let tap = Tap::from_fd(fd).unwrap();
        assert_eq!((tap.mtu(), tap.multi_queue), (Some(1500), false));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .unwrap();
        assert!(matches!(
            Tap::from_fd(file.into()),
            Err(Error::NotATap { .. })
        ));
    });
}

#[test]
fn a_descriptor_of_something_else_is_refused() {
    let error = Tap::from_fd(File::open("/dev/null").unwrap().into())
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not a tap's"), "{error}");
}

#[test]
fn bad_names_are_refused() {
    for name in [
        "",
        "sixteen-letters-",
        "a/b",
        "tap%d",
        "a b",
        ".",
        "..",
        "a:b",
        "täp",
    ] {
        assert!(
            matches!(Tap::open(name, 1), Err(Error::Name { .. })),
            "{name:?}"
        );
    }
}
