//! One epoll(7) for all that the network's thread waits for.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::table::Token;
use crate::net::attachment::{Attachment, Watch};
use crate::net::time::Time;

/// The most events of one wait. What is beyond is told by the next.
const EVENTS: usize = 128;

/// The number of the descriptor that wakes. The numbers of attachments'
/// descriptors are below it, those of sockets above: see [`Token`].
const WAKE: u64 = 1 << 16;
/// The number of the timer.
const TIMER: u64 = WAKE + 1;

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
    ) -> Result<(), Errno> {
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
    ) -> Result<(), Errno> {
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

/// What is to be done before a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// The deadline is over: there is only a look at what has happened.
    Look,
    /// The timer ends the wait soon enough.
    Sleep,
    /// The timer is to be set to this time from now.
    Set(Duration),
}

/// When the timer goes off.
///
/// A time-out of epoll_wait(2) sets a timer of the kernel with each wait, and
/// takes it back when something happens before; in a virtual machine, that may
/// be two exits. So the wait ends by a timer of its own (timerfd_create(2)),
/// which is left as it is where a deadline is put off: it goes off early then,
/// and is set again.
#[derive(Debug)]
struct Alarm(Time);

impl Alarm {
    fn plan(&mut self, until: Time, now: impl FnOnce() -> Time) -> Plan {
        if until >= self.0 {
            return Plan::Sleep;
        }
        let left = until.since(now());
        if left.is_zero() {
            return Plan::Look;
        }
        self.0 = until;
        Plan::Set(left)
    }

    fn went_off(&mut self) {
        self.0 = Time::NEVER;
    }
}

/// Waits for sockets, attachments, other threads and the time.
pub struct Poller {
    registry: Registry,
    wake: EventFd,
    timer: TimerFd,
    alarm: Alarm,
    /// The start of the clock that deadlines are told by.
    start: Instant,
    /// What happened; kept for its capacity.
    events: Vec<Event>,
}

impl Poller {
    /// A poller with nothing to wait for but its wakers. Its clock starts now.
    pub fn new() -> io::Result<Self> {
        let registry = Registry(Arc::new(epoll::create(CreateFlags::CLOEXEC)?));
        let wake = EventFd::new(EFD_NONBLOCK)?;
        let timer = TimerFd::new().map_err(io::Error::from)?;
        // Each write to the one and each time that the other goes off is an
        // edge, so that they needn't be read.
        let interest = EventFlags::IN | EventFlags::ET;
        for (fd, number) in [(wake.as_raw_fd(), WAKE), (timer.as_raw_fd(), TIMER)] {
            // SAFETY: `wake` and `timer` own the descriptors and outlive the
            // borrow.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            epoll::add(&registry.0, fd, EventData::new_u64(number), interest)?;
        }
        Ok(Self {
            registry,
            wake,
            timer,
            alarm: Alarm(Time::NEVER),
            start: Instant::now(),
            events: Vec::with_capacity(EVENTS),
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

    /// The time on the poller's clock.
    pub fn now(&self) -> Time {
        Time::ZERO + self.start.elapsed()
    }

    /// Waits until something happens, or until the given time: not at all if
    /// that is over, [`Time::NEVER`] for as long as it takes. What happened is
    /// told once (edge-triggered). A signal ends the wait, too, and so does a
    /// deadline that was given before and put off since; then nothing has
    /// happened.
    pub fn wait(&mut self, until: Time) -> io::Result<impl Iterator<Item = Event> + use<'_>> {
        const NO_TIME: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let start = self.start;
        let timeout = match self.alarm.plan(until, || Time::ZERO + start.elapsed()) {
            Plan::Look => Some(&NO_TIME),
            Plan::Sleep => None,
            Plan::Set(left) => {
                self.timer.reset(left, None).map_err(io::Error::from)?;
                None
            }
        };
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        let events = match epoll::wait(&self.registry.0, &mut room, timeout) {
            Err(Errno::INTR) => &[][..],
            events => events?.0,
        };
        self.events.clear();
        for event in events {
            match decode(event) {
                Some(event) => self.events.push(event),
                None => self.alarm.went_off(),
            }
        }
        Ok(self.events.iter().copied())
    }
}

/// What an event tells to others than the poller: nothing if it is the timer's.
fn decode(event: &epoll::Event) -> Option<Event> {
    let number = event.data.u64();
    if number == TIMER {
        return None;
    }
    if number == WAKE {
        return Some(Event::Wake);
    }
    Some(match u16::try_from(number) {
        Ok(number) => {
            let [port, token] = number.to_be_bytes();
            Event::Attachment { port, token }
        }
        Err(_) => Event::Socket(SocketEvent {
            token: Token::from(number),
            flags: event.flags,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn events(poller: &mut Poller) -> Vec<Event> {
        poller.wait(Time::ZERO).unwrap().collect()
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
                poller.wait(Time::NEVER).unwrap().collect::<Vec<_>>(),
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

    /// The deadline of each wait, what is done, and whether the timer has
    /// gone off before the next; the time is 100 + the wait's number.
    #[test]
    fn the_timer_is_set_only_to_go_off_earlier() {
        const NEVER: u64 = u64::MAX;
        let set = |nanos| Plan::Set(Duration::from_nanos(nanos));
        let mut alarm = Alarm(Time::NEVER);
        for (number, (until, expected, went_off)) in (100..).zip([
            (NEVER, Plan::Sleep, false),
            (200, set(99), false),
            // Put off, taken back, and the same again.
            (300, Plan::Sleep, false),
            (NEVER, Plan::Sleep, false),
            (200, Plan::Sleep, false),
            // Earlier, or over.
            (150, set(45), false),
            (0, Plan::Look, false),
            (107, Plan::Look, false),
            // It went off for a deadline that was put off.
            (300, Plan::Sleep, true),
            (300, set(191), true),
            (NEVER, Plan::Sleep, false),
        ]) {
            let plan = alarm.plan(Time(until), || Time(number));
            assert_eq!(plan, expected, "wait {number}");
            if went_off {
                alarm.went_off();
            }
        }
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let mut poller = Poller::new().unwrap();
        for _ in 0..2 {
            let until = poller.now() + Duration::from_micros(1500);
            while poller.now() < until {
                assert_eq!(poller.wait(until).unwrap().count(), 0);
            }
            assert_eq!(events(&mut poller), []);
        }
        let late = poller.now() + Duration::from_secs(3600);
        poller.waker().unwrap().wake();
        assert_eq!(poller.wait(late).unwrap().count(), 1);
    }
}
