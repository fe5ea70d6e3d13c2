//! The thread in which an activated device lives.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::ratelimit::RateLimit;
use crate::virtio::device::{ActivateError, Interrupt};
use crate::virtio::queue::Malformed;

/// Enough for a device's calls and a formatted log line.
const STACK_SIZE: usize = 128 * 1024;
/// A device has a handful of descriptors; more events wait for the next round.
const READY_EVENTS: usize = 16;

/// A driver may reset a device and break the protocol again at will.
static MALFORMED: RateLimit = RateLimit::new(5, Duration::from_secs(60));

/// Says that the driver broke the protocol: to it, and in the log.
pub(crate) fn report(device: &str, error: &Malformed, interrupt: &dyn Interrupt) {
    if let Some(suppressed) = MALFORMED.admit() {
        tracing::warn!(device, %error, suppressed, "driver error: device stopped until reset");
    }
    interrupt.needs_reset();
}

/// What runs in a worker: a device's queues and its back end.
///
/// Descriptors are watched edge-triggered: the doorbell is never read, which
/// saves a system call a ring, and what isn't drained at once is remembered
/// by the handler or rung again.
pub(crate) trait Handler: Send + 'static {
    /// Watches the handler's descriptors.
    fn watch(&mut self, watch: &mut Watch<'_, '_>) -> io::Result<()>;

    /// Handles the readiness of the descriptor watched under `token`.
    fn ready(&mut self, token: u32, watch: &mut Watch<'_, '_>) -> Result<(), Malformed>;

    /// Finishes what the driver was promised, before the worker ends.
    fn finish(&mut self) -> Result<(), Malformed> {
        Ok(())
    }

    /// The device's name in log lines, and the way to its driver.
    fn identity(&self) -> (&str, &dyn Interrupt);
}

/// The descriptors that a handler waits for.
pub(crate) struct Watch<'a, 'b>(&'a mut EventOps<'b>);

impl Watch<'_, '_> {
    /// Waits for `fd` to become ready as `events` say. False if the descriptor
    /// can't be waited for because it is always ready, as a regular file is.
    pub(crate) fn add(
        &mut self,
        fd: &impl std::os::fd::AsRawFd,
        token: u32,
        events: EventSet,
    ) -> io::Result<bool> {
        let events = Events::with_data(fd, token, events | EventSet::EDGE_TRIGGERED);
        match self.0.add(events) {
            Ok(()) => Ok(true),
            Err(event_manager::Error::Epoll(errno)) if errno.errno() == libc::EPERM => Ok(false),
            Err(event_manager::Error::Epoll(errno)) => {
                Err(io::Error::from_raw_os_error(errno.errno()))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// A running worker. Dropping it stops it.
pub(crate) struct Worker<H: Handler> {
    stop: EventFd,
    thread: Option<JoinHandle<H>>,
}

/// A worker that could not start, and the handler that it was given.
pub(crate) struct SpawnError<H> {
    /// What was to run.
    pub(crate) handler: H,
    /// Why it doesn't.
    pub(crate) error: ActivateError,
}

impl<H: Handler> Worker<H> {
    /// Moves `handler` into a thread called `name` (15 bytes at most).
    pub(crate) fn spawn(name: &str, handler: H) -> Result<Self, SpawnError<H>> {
        let prepared = prepare::<H>(name);
        let (stop, thread, sender) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err(SpawnError { handler, error }),
        };
        // The thread waits for its handler, so that a thread which could not
        // start doesn't take the handler with it.
        sender
            .send(handler)
            .expect("the thread lives until it has received its handler");
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops the worker and brings its handler home.
    pub(crate) fn stop(mut self) -> H {
        self.join()
            .expect("a worker is joined once, here or when dropped")
    }

    fn join(&mut self) -> Option<H> {
        let thread = self.thread.take()?;
        // Only a counter at its limit could make this fail, and nobody else
        // writes it.
        let _ = self.stop.write(1);
        Some(
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    }
}

impl<H: Handler> Drop for Worker<H> {
    fn drop(&mut self) {
        self.join();
    }
}

type Prepared<H> = (EventFd, JoinHandle<H>, mpsc::SyncSender<H>);

fn prepare<H: Handler>(name: &str) -> Result<Prepared<H>, ActivateError> {
    let host = |what| move |source| ActivateError::Host { what, source };
    let stop =
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("create an event descriptor"))?;
    let stopped = stop
        .try_clone()
        .map_err(host("duplicate an event descriptor"))?;
    let manager = EventManager::new_with_capacity(READY_EVENTS)
        .map_err(|error| host("create an event loop")(io::Error::other(error)))?;
    let (sender, receiver) = mpsc::sync_channel::<H>(1);
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_SIZE)
        .spawn(move || {
            let handler = receiver.recv().expect("the spawner sends a handler");
            run(manager, handler, stopped)
        })
        .map_err(host("start a thread"))?;
    Ok((stop, thread, sender))
}

fn run<H: Handler>(mut manager: EventManager<Loop<H>>, handler: H, stop: EventFd) -> H {
    let id = manager.add_subscriber(Loop {
        handler,
        stop,
        state: State::Running,
    });
    loop {
        let subscriber = manager
            .subscriber_mut(id)
            .expect("the only subscriber stays");
        if subscriber.state == State::Stopped {
            break;
        }
        if let Err(error) = manager.run() {
            // epoll_wait fails only for arguments that this loop never has.
            tracing::error!(%error, "the event loop of a virtio device failed");
            break;
        }
    }
    manager
        .remove_subscriber(id)
        .expect("the only subscriber stays")
        .handler
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// The driver broke the protocol: nothing happens until a reset.
    Broken,
    Stopped,
}

struct Loop<H> {
    handler: H,
    stop: EventFd,
    state: State,
}

/// The token of the stop descriptor; handlers number theirs from zero.
const STOP: u32 = u32::MAX;

impl<H: Handler> Loop<H> {
    fn settle(&mut self, outcome: Result<(), Malformed>) {
        if let Err(error) = outcome {
            let (device, interrupt) = self.handler.identity();
            report(device, &error, interrupt);
            self.state = State::Broken;
        }
    }
}

impl<H: Handler> MutEventSubscriber for Loop<H> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut watch = Watch(ops);
        let watched = watch
            .add(&self.stop, STOP, EventSet::IN)
            .and_then(|_| self.handler.watch(&mut watch));
        if let Err(error) = watched {
            let (device, interrupt) = self.handler.identity();
            tracing::error!(device, %error, "cannot wait for the device's events");
            interrupt.needs_reset();
            // Whether a stop would be noticed isn't known: go home at once.
            self.state = State::Stopped;
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.data() == STOP {
            if self.state == State::Running {
                let outcome = self.handler.finish();
                self.settle(outcome);
            }
            self.state = State::Stopped;
        } else if self.state == State::Running {
            let outcome = self.handler.ready(events.data(), &mut Watch(ops));
            self.settle(outcome);
        }
    }
}
