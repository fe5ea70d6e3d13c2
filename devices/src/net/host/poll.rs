//! One epoll(7) for all that the network's thread waits for.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use libc::{c_int, c_long};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::table::Token;
use crate::net::attachment::{Attachment, Watch};

/// The most events of one wait. What is beyond is told by the next.
const EVENTS: u16 = 128;

/// The number of the descriptor that wakes. The numbers of attachments'
/// descriptors are below it, those of sockets above: see [`Token`].
const WAKE: u64 = 1 << 16;

/// What [`Poller::wait`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something happened at a socket: [`Host::news`](super::Host::news) says
    /// at which, and what.
    Socket(SocketEvent),
    /// An attachment's descriptor is ready
    /// ([`Attachment::ready`](crate::net::attachment::Attachment::ready)).
    Attachment {
        /// The port, as [`Registry::port`] was told.
        port: u8,
        /// The attachment's name for the descriptor.
        token: u8,
    },
    /// A [`Waker`] was used, once or more.
    Wake,
}

/// What happened at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketEvent {
    pub(super) token: Token,
    pub(super) flags: EventFlags,
}

/// Where descriptors are registered to be waited for.
#[derive(Clone, Debug)]
pub struct Registry(Arc<OwnedFd>);

impl Registry {
    /// For the descriptors of the attachment at a port.
    pub fn port(&self, port: u8) -> PortWatch<'_> {
        PortWatch {
            registry: self,
            port,
        }
    }

    /// Watches a socket, edge-triggered, for as long as it is open.
    pub(super) fn add(
        &self,
        fd: impl AsFd,
        token: Token,
        interest: EventFlags,
    ) -> Result<(), rustix::io::Errno> {
        let data = EventData::new_u64(token.into());
        epoll::add(&self.0, fd, data, interest | EventFlags::ET)
    }

    /// Watches a socket for something else. What is the case already is told
    /// again.
    pub(super) fn modify(
        &self,
        fd: impl AsFd,
        token: Token,
        interest: EventFlags,
    ) -> Result<(), rustix::io::Errno> {
        let data = EventData::new_u64(token.into());
        epoll::modify(&self.0, fd, data, interest | EventFlags::ET)
    }
}

/// Where an attachment registers its descriptors.
#[derive(Debug)]
pub struct PortWatch<'a> {
    registry: &'a Registry,
    port: u8,
}

impl PortWatch<'_> {
    /// Forgets the descriptors that an attachment has had watched: it names
    /// them again. One that was closed meanwhile is forgotten already.
    pub fn forget(self, attachment: &mut dyn Attachment) {
        let _ = attachment.watch(&mut Forget(self.registry));
    }
}

/// Forgets what it is told to watch.
struct Forget<'a>(&'a Registry);

impl Watch for Forget<'_> {
    fn add(&mut self, fd: BorrowedFd<'_>, _token: u8, _writable: bool) -> io::Result<()> {
        self.remove(fd)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let _ = epoll::delete(&self.0.0, fd);
        Ok(())
    }
}

impl Watch for PortWatch<'_> {
    fn add(&mut self, fd: BorrowedFd<'_>, token: u8, writable: bool) -> io::Result<()> {
        let mut interest = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        interest.set(EventFlags::OUT, writable);
        let data = EventData::new_u64(u64::from(u16::from_be_bytes([self.port, token])));
        Ok(epoll::add(&self.registry.0, fd, data, interest)?)
    }

    fn remove(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.registry.0, fd)?)
    }
}

/// Ends the wait of the network's thread, from any other.
#[derive(Debug)]
pub struct Waker(EventFd);

impl Waker {
    /// Has [`Poller::wait`] return, now or when it is next called.
    pub fn wake(&self) {
        // Fails only if 2^64 - 2 others came before.
        let _counted = self.0.write(1);
    }
}

/// Waits for sockets, attachments and other threads.
pub struct Poller {
    registry: Registry,
    wake: EventFd,
    events: Box<[libc::epoll_event; EVENTS as usize]>,
    /// Whether the kernel takes time-outs in nanoseconds (Linux 5.11).
    precise: bool,
}

impl Poller {
    /// A poller with nothing to wait for but its wakers.
    pub fn new() -> io::Result<Self> {
        let registry = Registry(Arc::new(epoll::create(CreateFlags::CLOEXEC)?));
        let wake = EventFd::new(EFD_NONBLOCK)?;
        // Each write to it is an edge, so that it needn't be read.
        let interest = EventFlags::IN | EventFlags::ET;
        // SAFETY: `wake` owns the descriptor and outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(wake.as_raw_fd()) };
        epoll::add(&registry.0, fd, EventData::new_u64(WAKE), interest)?;
        Ok(Self {
            registry,
            wake,
            events: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS as usize]),
            precise: true,
        })
    }

    /// Where descriptors are registered.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// One more waker.
    pub fn waker(&self) -> io::Result<Waker> {
        Ok(Waker(self.wake.try_clone()?))
    }

    /// Waits until something happens, or for the given time. What happened is
    /// told once (edge-triggered). A signal ends the wait, too, and nothing
    /// has happened.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = Event> + use<'_>> {
        let count = match self.wait_for_events(timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        Ok(self.events[..count].iter().map(|event| decode(*event)))
    }

    fn wait_for_events(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        if self.precise {
            match self.wait_precisely(timeout) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => self.precise = false,
                result => return result,
            }
        }
        // Rounded up, so that what is waited for is over then.
        let millis = timeout.map_or(-1, |timeout| {
            c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
        });
        let (epoll, events) = (self.registry.0.as_raw_fd(), self.events.as_mut_ptr());
        // SAFETY: `events` has room for EVENTS events.
        let count = unsafe { libc::epoll_wait(epoll, events, c_int::from(EVENTS), millis) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// epoll_pwait2(2), which glibc has only since 2.35.
    fn wait_precisely(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let until: *const libc::timespec = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        let (epoll, events) = (self.registry.0.as_raw_fd(), self.events.as_mut_ptr());
        let no_mask = ptr::null::<libc::sigset_t>();
        // SAFETY: `events` has room for EVENTS events; `until` is null or
        // points to a time that lives until the call is over.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                epoll,
                events,
                c_long::from(EVENTS),
                until,
                no_mask,
                0usize,
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

fn decode(event: libc::epoll_event) -> Event {
    let number = event.u64;
    if number == WAKE {
        return Event::Wake;
    }
    match u16::try_from(number) {
        Ok(number) => {
            let [port, token] = number.to_be_bytes();
            Event::Attachment { port, token }
        }
        Err(_) => Event::Socket(SocketEvent {
            token: Token::from(number),
            flags: EventFlags::from_bits_retain(event.events),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn events(poller: &mut Poller) -> Vec<Event> {
        poller.wait(NOW).unwrap().collect()
    }

    #[test]
    fn a_waker_wakes_without_being_read() {
        let mut poller = Poller::new().unwrap();
        assert_eq!(events(&mut poller), []);
        let waker = poller.waker().unwrap();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    waker.wake();
                    waker.wake();
                });
            });
            assert_eq!(
                poller.wait(None).unwrap().collect::<Vec<_>>(),
                [Event::Wake]
            );
            assert_eq!(events(&mut poller), []);
        }
    }

    #[test]
    fn attachments_descriptors_are_told_apart() {
        let mut poller = Poller::new().unwrap();
        let registry = poller.registry().clone();
        let (mut near, far) = UnixStream::pair().unwrap();
        let (quiet, _other) = UnixStream::pair().unwrap();
        registry.port(255).add(far.as_fd(), 255, false).unwrap();
        registry.port(7).add(quiet.as_fd(), 3, true).unwrap();
        let writable = Event::Attachment { port: 7, token: 3 };
        assert_eq!(events(&mut poller), [writable]);
        let readable = Event::Attachment {
            port: 255,
            token: 255,
        };
        for _ in 0..2 {
            near.write_all(b"x").unwrap();
            assert_eq!(events(&mut poller), [readable]);
            assert_eq!(events(&mut poller), []);
        }
        registry.port(255).remove(far.as_fd()).unwrap();
        near.write_all(b"x").unwrap();
        assert_eq!(events(&mut poller), []);
        let again = registry.port(255).remove(far.as_fd()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn both_ways_of_waiting_take_the_time_asked_for() {
        for precise in [true, false] {
            let mut poller = Poller::new().unwrap();
            poller.precise = precise;
            let (start, timeout) = (Instant::now(), Duration::from_micros(1500));
            assert_eq!(poller.wait(Some(timeout)).unwrap().count(), 0);
            assert!(start.elapsed() >= timeout);
            poller.waker().unwrap().wake();
            assert_eq!(poller.wait(Some(Duration::MAX)).unwrap().count(), 1);
        }
    }
}
