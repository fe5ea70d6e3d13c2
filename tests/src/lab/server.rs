//! Small servers. Each serves in the namespace of the thread that starts it,
//! and ends when it is dropped.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::PATIENCE;

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// A server at work.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves each connection to `address` by `serve`, one after another.
    ///
    /// # Panics
    /// If nobody can listen there.
    #[must_use]
    pub fn tcp(
        address: &str,
        mut serve: impl FnMut(TcpStream) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let listener =
            TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        Self::start(address, move || match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("a socket");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                // Whoever breaks off fails its own test.
                let _ = serve(stream);
            }
            Err(_) => thread::sleep(LOOK),
        })
    }

    /// Answers each datagram to `address` by what `answer` returns for it.
    ///
    /// # Panics
    /// If nobody can listen there.
    #[must_use]
    pub fn udp(
        address: &str,
        mut answer: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        socket.set_read_timeout(Some(LOOK)).expect("a socket");
        let address = socket.local_addr().expect("it is bound");
        let mut datagram = vec![0; 65536];
        Self::start(address, move || {
            if let Ok((len, from)) = socket.recv_from(&mut datagram)
                && let Some(reply) = answer(&datagram[..len])
            {
                // As on any link, it may get lost.
                let _ = socket.send_to(&reply, from);
            }
        })
    }

    fn start(address: SocketAddr, mut turn: impl FnMut() + Send + 'static) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                turn();
            }
        });
        Self {
            address,
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked with has been printed.
            let _ = thread.join();
        }
    }
}
