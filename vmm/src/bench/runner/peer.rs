//! The benchmark's peer on this host, where this host is L0.

use std::io;
use std::net::SocketAddr;

use crate::bench::server::Server;
use crate::nest::network::HostServer;

/// A server that runs as long as it is kept.
#[derive(Debug)]
pub(super) struct Peer {
    address: SocketAddr,
    _server: HostServer,
}

impl Peer {
    /// Serves at the first of this host's addresses that guests reach.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::AddrNotAvailable`] if this host has no
    /// such address.
    pub(super) fn serve() -> io::Result<Self> {
        let server = Server::listen(HostServer::address()?).map_err(io::Error::other)?;
        let address = server.address();
        let served = HostServer::start("nestling-peer", move |ended| {
            // It ends with the pipe's other end.
            let _ = server.serve(ended);
        })?;
        Ok(Self {
            address,
            _server: served,
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
