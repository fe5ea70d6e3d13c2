//! The back end of vhost-user: a guest of another virtual machine monitor, such
//! as QEMU, Cloud Hypervisor or crosvm, whose NIC's rings are served here
//! (QEMU's docs/interop/vhost-user.rst).
//!
//! The front end says over a socket where its guest's memory and rings are. Its
//! messages are handled in a thread of the port; frames move in the network's
//! thread, straight between the guest's memory and all else, as they do for a
//! NIC of our own.
//!
//! The front end isn't trusted: what it says is checked, and what it shares may
//! change or go at any time. It is one process at a time, and another may
//! follow when it is gone.

mod connection;
mod mapping;
mod memory;
mod message;
mod session;
mod vring;

use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::bus::lock;
use crate::net::mac::MacAddress;
use crate::net::network::Handle;
use crate::net::ports::pcap::{InterfaceId, Recording};
use crate::net::switch::PortId;
use crate::ratelimit::RateLimit;
use session::Session;

/// The most queue pairs of a front end: one for each vCPU of a usual guest. One
/// thread serves all.
const MAX_PAIRS: u16 = 8;

/// The thread's name.
const THREAD: &str = "nestling-vhost";

/// How long to wait when no connection can be taken, for descriptors to become
/// free.
const RETRY: Duration = Duration::from_millis(200);

/// A front end may come, fail and come again at will.
static EVENTS: RateLimit = RateLimit::new(10, Duration::from_secs(60));

/// A port that front ends join.
pub struct VhostUserConfig {
    /// Its name in log lines.
    pub name: String,
    /// The network, and the port of its switch that they are plugged into.
    pub network: Handle,
    /// See `network`.
    pub port: PortId,
    /// The NIC's address, for a front end that asks for it.
    pub mac: MacAddress,
    /// The longest packet without the Ethernet header.
    pub mtu: u16,
    /// Where to record frames.
    pub recording: Option<(Recording, InterfaceId)>,
}

/// A port at work. Dropping it ends the conversation with its front end.
pub struct VhostUser {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

struct Server {
    listener: UnixListener,
    config: Arc<VhostUserConfig>,
    /// The conversation that is under way.
    connection: Mutex<Option<Arc<UnixStream>>>,
    stopping: AtomicBool,
}

impl VhostUser {
    /// Lets front ends join at `listener`, one at a time.
    pub fn start(listener: UnixListener, config: VhostUserConfig) -> io::Result<Self> {
        let server = Arc::new(Server {
            listener,
            config: Arc::new(config),
            connection: Mutex::default(),
            stopping: AtomicBool::new(false),
        });
        let run = server.clone();
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || run.run())?;
        Ok(Self {
            server,
            thread: Some(thread),
        })
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        self.server.stop();
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Server {
    fn run(&self) {
        while !self.stopping.load(Ordering::SeqCst) {
            match self.listener.accept() {
                Ok((connection, _)) => self.converse(connection),
                Err(_) if self.stopping.load(Ordering::SeqCst) => {}
                Err(error) => {
                    if let Some(suppressed) = EVENTS.admit() {
                        let name = &self.config.name;
                        tracing::warn!(%error, suppressed, "{name}: no front end can join");
                    }
                    thread::sleep(RETRY);
                }
            }
        }
    }

    /// Serves a front end until it goes.
    fn converse(&self, connection: UnixStream) {
        let name = &self.config.name;
        let connection = Arc::new(connection);
        *lock(&self.connection) = Some(connection.clone());
        // Who stops this looks for a connection after saying so.
        if !self.stopping.load(Ordering::SeqCst) {
            let session = Session::new(self.config.clone(), connection.clone());
            let ended = connection::serve(&connection, session);
            if let Some(suppressed) = EVENTS.admit() {
                match ended {
                    Ok(()) => tracing::info!(suppressed, "{name}: the front end left"),
                    Err(error) => {
                        tracing::warn!(%error, suppressed, "{name}: the front end failed")
                    }
                }
            }
        }
        *lock(&self.connection) = None;
    }

    /// Ends the thread as soon as it can.
    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Either fails only where there is nobody to be woken.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(connection) = &*lock(&self.connection) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests;
