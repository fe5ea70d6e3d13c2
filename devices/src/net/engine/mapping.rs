//! Static mappings: outer ports that lead to inner ones.

use super::{Engine, World};
use crate::net::nat::flows::Endpoint;
use crate::net::nat::mappings::{Mapping, MappingError, Transport};
use crate::net::nat::sockets::{SocketError, SocketId, Sockets};
use crate::net::nat::tcp::streams::Streams;

/// Why a mapping isn't made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// It can't be one, or it contradicts another.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    /// The host refuses an outer port.
    #[error("cannot map {mapping}: {transport} port {at}: {source}")]
    Host {
        /// The mapping.
        mapping: Mapping,
        /// The protocol.
        transport: Transport,
        /// The outer address and port.
        at: Endpoint,
        /// What the host said.
        source: SocketError,
    },
    /// There is no such mapping.
    #[error("no mapping of {transport} port {at}: list them with 'nestling net list'")]
    Unknown {
        /// The protocol.
        transport: Transport,
        /// The outer address and first port.
        at: Endpoint,
    },
}

/// A mapping and the sockets that it holds, one for each port.
#[derive(Debug)]
pub(super) struct Held {
    mapping: Mapping,
    sockets: Vec<SocketId>,
}

impl Engine {
    /// Makes a mapping, with all its ports or none; returns it with the outer
    /// port that was chosen.
    pub fn map<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        mapping: Mapping,
    ) -> Result<Mapping, MapError> {
        self.mappings.check(&mapping)?;
        let mut sockets = Vec::new();
        let mut made = mapping;
        for (outer, inner) in mapping.pairs() {
            let opened = match mapping.transport {
                Transport::Tcp => self.tcp.map(outer, inner, world.host),
                Transport::Udp => self.udp.map(outer, inner, world.host),
            };
            match opened {
                Ok((socket, port)) => {
                    sockets.push(socket);
                    if outer.port == 0 {
                        made = mapping.with_outer_port(port);
                    }
                }
                Err(source) => {
                    self.close_mapping(world, mapping.transport, &sockets);
                    return Err(MapError::Host {
                        mapping,
                        transport: mapping.transport,
                        at: outer,
                        source,
                    });
                }
            }
        }
        if let Err(error) = self.mappings.add(made) {
            self.close_mapping(world, mapping.transport, &sockets);
            return Err(error.into());
        }
        self.mapped.push(Held {
            mapping: made,
            sockets,
        });
        Ok(made)
    }

    /// Ends the mapping whose first outer port this is. Its connections live
    /// on.
    pub fn unmap<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        transport: Transport,
        at: Endpoint,
    ) -> Result<Mapping, MapError> {
        let removed = self.mappings.remove(transport, at);
        let removed = removed.ok_or(MapError::Unknown { transport, at })?;
        let held = self.mapped.iter().position(|held| held.mapping == removed);
        if let Some(held) = held.map(|at| self.mapped.swap_remove(at)) {
            self.close_mapping(world, transport, &held.sockets);
        }
        Ok(removed)
    }

    /// All mappings, in the order in which they were made.
    pub fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter()
    }

    fn close_mapping<S: Sockets + Streams>(
        &mut self,
        world: &mut World<'_, S>,
        transport: Transport,
        sockets: &[SocketId],
    ) {
        for &socket in sockets {
            match transport {
                Transport::Tcp => self.tcp.unmap(socket, world.host),
                Transport::Udp => self.udp.unmap(socket, world.host),
            };
        }
    }
}
