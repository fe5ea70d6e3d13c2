//! Streams for tests of attachments.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::tcp::streams::{Connection, LocalPort, Source, Streams, Waiting};
use crate::net::payload::Payload;
use crate::scatter::ScatterList;

/// One socket, where these bytes wait.
pub(crate) struct Standing(pub(crate) Vec<u8>);

impl Standing {
    /// All its bytes.
    pub(crate) fn source(&self) -> Source {
        Source {
            socket: SocketId(0),
            offset: 0,
            len: u32::try_from(self.0.len()).unwrap(),
            mss: 1460,
        }
    }

    fn bytes(&self, content: Source) -> &[u8] {
        &self.0[content.offset as usize..][..content.len as usize]
    }
}

impl Streams for Standing {
    fn view(
        &mut self,
        content: Source,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), SocketError> {
        let bytes = self.bytes(content);
        let (first, second) = bytes.split_at(bytes.len() / 3);
        with(&[IoSlice::new(first), IoSlice::new(second)]);
        Ok(())
    }

    fn fill(
        &mut self,
        content: Source,
        buffers: &ScatterList,
        at: usize,
    ) -> Result<(), SocketError> {
        buffers.write_at(at, self.bytes(content));
        Ok(())
    }

    fn connect(&mut self, _to: SocketAddr, _from: LocalPort) -> Result<Connection, SocketError> {
        Err(SocketError::Refused)
    }

    fn listen(&mut self, _at: SocketAddr) -> Result<(SocketId, u16), SocketError> {
        Err(SocketError::Refused)
    }

    fn accept(&mut self, _listener: SocketId) -> Result<(SocketId, SocketAddr), SocketError> {
        Err(SocketError::WouldBlock)
    }

    fn error(&mut self, _socket: SocketId) -> Option<SocketError> {
        None
    }

    fn send(
        &mut self,
        _socket: SocketId,
        _payload: &dyn Payload,
        _range: Range<usize>,
    ) -> Result<usize, SocketError> {
        Err(SocketError::WouldBlock)
    }

    fn want_room(&mut self, _: SocketId) {}

    fn send_room(&mut self, _socket: SocketId) -> u32 {
        0
    }

    fn peek(&mut self, _socket: SocketId, offset: u32, most: u32) -> Result<Waiting, SocketError> {
        let len = self.source().len.saturating_sub(offset).min(most);
        Ok(Waiting { len, end: false })
    }

    fn discard(&mut self, _socket: SocketId, _count: u32) {}

    fn shutdown(&mut self, _socket: SocketId) {}

    fn close(&mut self, _socket: SocketId) {}

    fn abort(&mut self, _socket: SocketId) {}
}
