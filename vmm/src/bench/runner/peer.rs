//! The benchmark's peer on this host, where this host is L0.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::thread;

use nestling_devices::net::host;

use crate::bench::server::Server;

/// A server that runs as long as it is kept.
#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    /// Its end ends the server.
    _until: io::PipeWriter,
}

impl Peer {
    /// Serves at the first of this host's addresses that guests reach.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AddrNotAvailable`] if this host has no
    /// such address.
    pub(super) fn serve() -> io::Result<Self> {
        let reached = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(_) => false,
        };
        let address = host::addresses()?.into_iter().find(reached);
        let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let server = Server::listen(SocketAddr::new(address, 0)).map_err(io::Error::other)?;
        let address = server.address();
        let (ended, until) = io::pipe()?;
        thread::Builder::new()
            .name("nestling-peer".into())
            .spawn(move || {
                // It ends with the pipe's other end.
                let _ = server.serve(ended.as_fd());
            })?;
        Ok(Self {
            address,
            _until: until,
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
