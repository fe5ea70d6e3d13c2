//! The virtual network at work: the thread that owns the engine, the host's
//! sockets and all who are plugged in.
//!
//! Nobody shares anything with it. Others ask it by a [`Handle`], and it
//! answers between two batches of frames.

mod run;
mod slots;
mod status;

use std::io;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use run::Loop;
pub use status::{Flows, LeaseStatus, PortStatus, Status};

use crate::net::attachment::Attachment;
use crate::net::engine::{Config, ConfigError, MapError};
use crate::net::host::{Host, Limits, Poller, Resolvers, Waker};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::mappings::{Mapping, Transport};
use crate::net::switch::{self, PortConfig, PortId};

/// The thread's name.
const THREAD: &str = "nestling-net";

/// Why the network can't be had, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be as it is configured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host refuses something that the network needs.
    #[error("the virtual network cannot {what}: {source}")]
    Host {
        /// What it needs to do.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The switch refuses a change.
    #[error(transparent)]
    Switch(#[from] switch::Error),
    /// A mapping can't be made or ended.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The thread has ended.
    #[error("the virtual network has stopped")]
    Stopped,
}

/// What the thread does for others.
type Command = Box<dyn FnOnce(&mut Loop) + Send>;

/// A network at work. Dropping it stops it.
pub struct Network {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

/// A way to ask the network for something.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    waker: Arc<Waker>,
}

impl Network {
    /// Starts the network, whose queries of DNS go to `resolvers`.
    pub fn start(config: Config, resolvers: Resolvers) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Host { what, source };
        let poller = Poller::new().map_err(failed("wait for events"))?;
        let waker = Arc::new(poller.waker().map_err(failed("be woken"))?);
        let registry = poller.registry().clone();
        let host = Host::new(Limits::default(), registry).map_err(failed("use sockets"))?;
        let (commands, receiver) = mpsc::channel();
        let network = Loop::new(config, poller, host, resolvers, receiver)?;
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || network.run())
            .map_err(failed("start a thread"))?;
        Ok(Self {
            handle: Handle { commands, waker },
            thread: Some(thread),
        })
    }

    /// A way to ask it for something.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let stopped = self.handle.call(Loop::stop);
        if let Some(thread) = self.thread.take()
            && let (Err(panic), Ok(())) = (thread.join(), stopped)
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Handle {
    /// Has the thread do something, and waits for what comes of it.
    fn call<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Loop) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = mpsc::sync_channel(1);
        let command: Command = Box::new(move |network| {
            // Who asked waits, unless it was ended meanwhile.
            let _ = reply.send(task(network));
        });
        self.commands.send(command).map_err(|_| Error::Stopped)?;
        self.waker.wake();
        answer.recv().map_err(|_| Error::Stopped)
    }

    /// Gives the switch a new port, where nobody is plugged in yet.
    pub fn add_port(&self, name: &str, config: PortConfig) -> Result<PortId, Error> {
        let name = name.to_owned();
        Ok(self.call(|network| network.add_port(name, config))??)
    }

    /// Removes a port, and who is plugged in.
    pub fn remove_port(&self, port: PortId) -> Result<(), Error> {
        Ok(self.call(move |network| network.remove_port(port))??)
    }

    /// Plugs one in at a port; another who was there is unplugged.
    pub fn plug(&self, port: PortId, attachment: Box<dyn Attachment>) -> Result<(), Error> {
        let plugged = self.call(move |network| network.plug(port, attachment))?;
        plugged.map_err(|source| Error::Host {
            what: "watch a port's descriptors",
            source,
        })
    }

    /// Unplugs the one at a port. When this returns, the thread does nothing
    /// with it any more.
    pub fn unplug(&self, port: PortId) -> Result<Option<Box<dyn Attachment>>, Error> {
        self.call(move |network| network.unplug(port))
    }

    /// Turns MAC address spoofing on or off at a port.
    pub fn set_spoofing(&self, port: PortId, on: bool) -> Result<(), Error> {
        Ok(self.call(move |network| network.set_spoofing(port, on))??)
    }

    /// Makes a static mapping; returns it with the outer port that was chosen.
    pub fn map(&self, mapping: Mapping) -> Result<Mapping, Error> {
        Ok(self.call(move |network| network.map(mapping))??)
    }

    /// Ends the mapping whose first outer port this is.
    pub fn unmap(&self, transport: Transport, at: Endpoint) -> Result<Mapping, Error> {
        Ok(self.call(move |network| network.unmap(transport, at))??)
    }

    /// What the network is doing.
    pub fn status(&self) -> Result<Status, Error> {
        self.call(|network| network.status())
    }
}
