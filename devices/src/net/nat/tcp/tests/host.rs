//! A host with one connected socket, whose peer reads and writes as it likes.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;

use crate::net::nat::sockets::{SocketError, SocketId};
use crate::net::nat::tcp::streams::{Connection, LocalPort, Source, Streams, Waiting};
use crate::net::payload::Payload;
use crate::scatter::ScatterList;

pub(crate) const SOCKET: SocketId = SocketId(7);

/// How the socket was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Closed,
    Aborted,
}

#[derive(Debug, Default)]
pub(crate) struct Host {
    /// What the guest's stream has brought.
    pub(crate) taken: Vec<u8>,
    /// How much of it the peer has read.
    pub(crate) drained: usize,
    /// The send buffer.
    pub(crate) capacity: usize,
    /// How much more room is promised than there is.
    pub(crate) boast: usize,
    /// A send came short or room is wanted, so that WRITABLE is owed.
    pub(crate) owes_writable: bool,
    /// All that the peer sends.
    pub(crate) data: Vec<u8>,
    /// How much of it is here.
    pub(crate) arrived: usize,
    /// The guest has acknowledged so much.
    pub(crate) discarded: usize,
    /// The peer ends its stream after its data.
    pub(crate) ended: bool,
    pub(crate) shut: bool,
    pub(crate) ending: Option<Ending>,
    pub(crate) error: Option<SocketError>,
}

impl Host {
    pub(crate) fn room(&self) -> usize {
        self.capacity
            .saturating_sub(self.taken.len() - self.drained)
    }

    /// The bytes of a segment to the guest.
    pub(crate) fn read(&self, offset: u32, len: u32) -> Vec<u8> {
        let start = self.discarded + offset as usize;
        let end = start + len as usize;
        assert!(end <= self.arrived, "more than there is");
        self.data[start..end].to_vec()
    }
}

impl Streams for Host {
    fn connect(&mut self, _: SocketAddr, _: LocalPort) -> Result<Connection, SocketError> {
        Err(SocketError::Refused)
    }

    fn listen(&mut self, _: SocketAddr) -> Result<(SocketId, u16), SocketError> {
        Err(SocketError::Unsupported)
    }

    fn accept(&mut self, _: SocketId) -> Result<(SocketId, SocketAddr), SocketError> {
        Err(SocketError::WouldBlock)
    }

    fn error(&mut self, _: SocketId) -> Option<SocketError> {
        self.error.take()
    }

    fn send(
        &mut self,
        socket: SocketId,
        payload: &dyn Payload,
        range: Range<usize>,
    ) -> Result<usize, SocketError> {
        assert_eq!(socket, SOCKET);
        assert_eq!(self.ending, None);
        assert!(!self.shut, "data after the end");
        let count = range.len().min(self.room());
        self.owes_writable |= count < range.len();
        if count == 0 {
            return Err(SocketError::WouldBlock);
        }
        let mut bytes = vec![0; count];
        assert_eq!(payload.read_at(range.start, &mut bytes), count);
        self.taken.extend_from_slice(&bytes);
        Ok(count)
    }

    fn send_room(&mut self, _: SocketId) -> u32 {
        u32::try_from(self.room() + self.boast).unwrap()
    }

    fn want_room(&mut self, _: SocketId) {
        self.owes_writable = true;
    }

    fn peek(&mut self, _: SocketId, offset: u32, most: u32) -> Result<Waiting, SocketError> {
        assert_eq!(self.ending, None);
        let start = self.discarded + offset as usize;
        assert!(start <= self.arrived, "beyond what there is");
        let len = (self.arrived - start).min(most as usize);
        Ok(Waiting {
            len: u32::try_from(len).unwrap(),
            end: self.ended && start + len == self.data.len(),
        })
    }

    fn view(
        &mut self,
        content: Source,
        with: &mut dyn FnMut(&[IoSlice<'_>]),
    ) -> Result<(), SocketError> {
        with(&[IoSlice::new(&self.read(content.offset, content.len))]);
        Ok(())
    }

    fn fill(&mut self, _: Source, _: &ScatterList, _: usize) -> Result<(), SocketError> {
        Err(SocketError::Unsupported)
    }

    fn discard(&mut self, _: SocketId, count: u32) {
        self.discarded += count as usize;
        assert!(self.discarded <= self.arrived, "more than there is");
    }

    fn shutdown(&mut self, _: SocketId) {
        assert!(!self.shut, "ended twice");
        self.shut = true;
    }

    fn close(&mut self, _: SocketId) {
        assert_eq!(self.ending, None);
        self.shut = true;
        self.ending = Some(Ending::Closed);
    }

    fn abort(&mut self, _: SocketId) {
        assert_eq!(self.ending, None);
        self.ending = Some(Ending::Aborted);
    }
}
