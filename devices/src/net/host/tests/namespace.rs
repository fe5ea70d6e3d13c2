//! A network of the test's own.
#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Runs `test` in a network namespace of its own, with nothing but loopback,
/// where this host allows it.
#[allow(clippy::print_stderr)] // A skipped test says why.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: unshare changes only the calling thread, which ends with the test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            let error = io::Error::last_os_error();
            eprintln!("skipped: no network namespace: {error}");
            return;
        }
        bring_up_loopback();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn bring_up_loopback() {
    change_loopback(libc::SIOCSIFFLAGS, |request| {
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
    });
}

/// Changes the longest packet of loopback, which is the namespace's own.
pub(super) fn set_loopback_mtu(mtu: i32) {
    change_loopback(libc::SIOCSIFMTU, |request| {
        request.ifr_ifru.ifru_mtu = mtu;
    });
}

fn change_loopback(operation: libc::Ioctl, change: impl FnOnce(&mut libc::ifreq)) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).unwrap();
    }
    change(&mut request);
    // SAFETY: both operations read an ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw mut request) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
