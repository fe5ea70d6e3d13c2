//! Reaching into network namespaces (network_namespaces(7)).
//!
//! A tap's descriptor and a netlink socket belong to the namespace that their
//! opener was in, and serve it from wherever they are used, with the rights that
//! their user has there: all, if it made the namespace (user_namespaces(7)). So
//! whoever wants to work in another namespace needs to be there for two system
//! calls only.
//!
//! A rootless container's network namespace belongs to the container's user
//! namespace, and a process with several threads can't enter that (setns(2)).
//! A forked child can: it has one thread, enters both, opens the two, and hands
//! them back (SCM_RIGHTS, unix(7)). After a fork of several threads a child may
//! do only what is safe in a signal handler (fork(2)), as another thread may
//! have held any lock, the allocator's among them. So all memory is laid out
//! before the fork, and the child makes system calls and nothing else.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::{Error, open_device};

/// Two descriptors of a network namespace.
pub(super) struct Namespace {
    /// The device of taps, not attached to an interface yet.
    pub(super) tun: OwnedFd,
    /// A socket of rtnetlink(7).
    pub(super) routing: OwnedFd,
}

/// What the child does, in this order.
const STEPS: [&str; 4] = [
    "enter the user namespace that owns it",
    "enter it",
    "open /dev/net/tun in it",
    "open a netlink socket in it",
];

/// The step that failed and the system's error number; zeroes for success.
type Report = [u8; 5];

impl Namespace {
    /// The caller's own.
    pub(super) fn current() -> Result<Self, Error> {
        let own = Path::new("/proc/thread-self/ns/net");
        let tun = open_device()?.into();
        let routing = open_routing().map_err(failed(own, STEPS[3]))?;
        Ok(Self { tun, routing })
    }

    /// The one whose file `path` is, with the user namespace that owns it.
    pub(super) fn at(path: &Path) -> Result<Self, Error> {
        let failed = |what| failed(path, what);
        let net = File::open(path).map_err(failed("open it"))?;
        // SAFETY: NS_GET_NSTYPE (ioctl_ns(2)) takes no argument.
        let kind = unsafe { libc::ioctl(net.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(failed("use it as a network namespace")(source));
        }
        let owner = foreign_owner(&net).map_err(failed("find the user namespace that owns it"))?;
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| failed("make a pair of sockets")(error.into()))?;
        // SAFETY: the child only calls `visit`, which is safe there.
        let child = match unsafe { libc::fork() } {
            0 => visit(owner.as_ref().map(AsFd::as_fd), net.as_fd(), theirs.as_fd()),
            -1 => return Err(failed("start a child process")(io::Error::last_os_error())),
            child => child,
        };
        // Without the child's copy, nothing is left if it dies early.
        drop(theirs);
        let answer = receive(&ours);
        reap(child);
        match answer.map_err(failed("hear from the child process"))? {
            (_, Some(namespace)) => Ok(namespace),
            ([step, errno @ ..], None) => {
                let what = STEPS.get(usize::from(step)).unwrap_or(&"enter it");
                let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                Err(failed(what)(source))
            }
        }
    }
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Namespace {
        path: path.to_owned(),
        what,
        source,
    }
}

/// The user namespace that owns `net`, unless it is the caller's own, which
/// can't be entered again.
fn foreign_owner(net: &File) -> io::Result<Option<OwnedFd>> {
    // SAFETY: NS_GET_USERNS (ioctl_ns(2)) takes no argument.
    let owner = unsafe { libc::ioctl(net.as_raw_fd(), libc::NS_GET_USERNS) };
    if owner < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let owner = File::from(unsafe { OwnedFd::from_raw_fd(owner) });
    let (theirs, ours) = (owner.metadata()?, std::fs::metadata("/proc/self/ns/user")?);
    let same = (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino());
    Ok((!same).then(|| owner.into()))
}

/// What the child does, until its end. Nothing here allocates, locks, unwinds
/// or drops.
fn visit(owner: Option<BorrowedFd<'_>>, net: BorrowedFd<'_>, reply: BorrowedFd<'_>) -> ! {
    match open_there(owner, net) {
        Ok(descriptors) => tell(reply, [0; 5], &descriptors),
        Err(step) => {
            // SAFETY: the location of this thread's errno is always valid.
            let [a, b, c, d] = unsafe { *libc::__errno_location() }.to_ne_bytes();
            tell(reply, [step, a, b, c, d], &[]);
        }
    }
    // SAFETY: ends the process without its exit handlers.
    unsafe { libc::_exit(0) }
}

/// Opens the two descriptors of [`Namespace`]; else the step that failed.
fn open_there<'a>(
    owner: Option<BorrowedFd<'_>>,
    net: BorrowedFd<'_>,
) -> Result<[BorrowedFd<'a>; 2], u8> {
    if let Some(owner) = owner {
        // SAFETY: setns changes this process only, which ends soon.
        if unsafe { libc::setns(owner.as_raw_fd(), libc::CLONE_NEWUSER) } < 0 {
            return Err(0);
        }
    }
    // SAFETY: as above.
    if unsafe { libc::setns(net.as_raw_fd(), libc::CLONE_NEWNET) } < 0 {
        return Err(1);
    }
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path is a string that ends with a zero byte.
    let tun = unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) };
    if tun < 0 {
        return Err(2);
    }
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket has no preconditions.
    let routing = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if routing < 0 {
        return Err(3);
    }
    // SAFETY: both are open, and stay so until the process ends.
    Ok(unsafe { [BorrowedFd::borrow_raw(tun), BorrowedFd::borrow_raw(routing)] })
}

/// Sends the parent a report. If that fails, the child's end tells enough.
fn tell(reply: BorrowedFd<'_>, report: Report, descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let _ = sendmsg(
        reply,
        &[IoSlice::new(&report)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    );
}

/// The child's report, and the descriptors if it had success.
fn receive(socket: &OwnedFd) -> io::Result<(Report, Option<Namespace>)> {
    let mut report = Report::default();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut pieces = [IoSliceMut::new(&mut report)];
        match recvmsg(socket, &mut pieces, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            message => break message?,
        }
    };
    if message.bytes < report.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let Some(mut descriptors) = descriptors.next() else {
        return Ok((report, None));
    };
    let namespace = descriptors
        .next()
        .zip(descriptors.next())
        .map(|(tun, routing)| Namespace { tun, routing });
    Ok((report, namespace))
}

/// Waits for the child's end, unless somebody who collects all children does.
fn reap(child: libc::pid_t) {
    let interrupted = || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
    // SAFETY: waitpid may be told to keep the status to itself.
    while unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } < 0 && interrupted() {}
}

fn open_routing() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket has no preconditions.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}
