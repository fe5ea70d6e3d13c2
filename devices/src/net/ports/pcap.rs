//! Recording frames to a file that Wireshark reads.

mod attachment;
mod format;

pub use attachment::Recorded;
pub use format::{Direction, InterfaceId};

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use crate::bus::lock;
use crate::net::payload::Payload;

/// Bytes that are handed to the writer at a time.
const BUFFER: usize = 256 << 10;
/// Buffers that wait for the writer at most.
const WAITING: usize = 16;

/// A recording, which any number of ports share.
///
/// It never makes a port wait: a thread of its own writes, and frames that come
/// faster than it writes are dropped and counted, in the recording too.
#[derive(Clone)]
pub struct Recording(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    dropped: AtomicU64,
}

struct State {
    /// What is handed over next; `None` once the recording has ended.
    buffer: Option<Vec<u8>>,
    interfaces: u32,
    /// Frames dropped since the last one that was recorded.
    lost: u64,
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl Recording {
    /// Begins a recording in `file`.
    pub fn start(file: impl Write + Send + 'static) -> io::Result<Self> {
        let (full, written) = sync_channel(WAITING);
        let (returned, empty) = sync_channel(WAITING);
        let writer = thread::Builder::new()
            .name("nestling-pcap".to_owned())
            .spawn(move || write(file, &written, &returned))?;
        let mut buffer = Vec::with_capacity(BUFFER);
        format::section(&mut buffer);
        let state = State {
            buffer: Some(buffer),
            interfaces: 0,
            lost: 0,
            full,
            empty,
            writer: Some(writer),
        };
        Ok(Self(Arc::new(Inner {
            state: Mutex::new(state),
            dropped: AtomicU64::new(0),
        })))
    }

    /// Adds a port by the name that is to be shown for it.
    pub fn add(&self, name: &str) -> InterfaceId {
        let mut state = lock(&self.0.state);
        let id = InterfaceId(state.interfaces);
        state.interfaces += 1;
        // A port that nobody is told of would make the file unreadable, so this
        // is kept in any case; it is short, and ports are few.
        if let Some(buffer) = &mut state.buffer {
            format::interface(buffer, name);
        }
        id
    }

    /// Records a frame of a port, from Ethernet on, which consists of `parts`.
    pub fn record(&self, port: InterfaceId, direction: Direction, parts: &[&dyn Payload]) {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let packet = format::Packet {
            port,
            direction,
            time: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            lost: 0,
        };
        if !lock(&self.0.state).record(packet, parts) {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over what was recorded, unless the writer is busy: at the end of
    /// each batch.
    pub fn flush(&self) {
        lock(&self.0.state).hand_over();
    }

    /// The frames that weren't recorded.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Ends the recording and waits until all is written; what is recorded
    /// from here on is dropped. Without this, the end may be missing.
    pub fn finish(&self) -> io::Result<()> {
        let (rest, full, writer) = {
            let mut state = lock(&self.0.state);
            let Some(writer) = state.writer.take() else {
                return Ok(());
            };
            // A channel that nobody reads stands in for the writer's.
            let full = std::mem::replace(&mut state.full, sync_channel(0).0);
            (state.buffer.take(), full, writer)
        };
        // Fails only if the writer has failed, which says why itself.
        let _ = full.send(rest.unwrap_or_default());
        drop(full);
        writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl State {
    /// Records a frame, if there is room.
    fn record(&mut self, packet: format::Packet, parts: &[&dyn Payload]) -> bool {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let waits = self.buffer.as_ref().map_or(0, Vec::len);
        if waits + format::packet_room(length) > BUFFER {
            self.hand_over();
        }
        let Some(buffer) = &mut self.buffer else {
            return false;
        };
        if buffer.len() + format::packet_room(length) > BUFFER {
            self.lost += 1;
            return false;
        }
        let lost = std::mem::take(&mut self.lost);
        format::packet(buffer, &format::Packet { lost, ..packet }, parts);
        true
    }

    fn hand_over(&mut self) {
        let Some(buffer) = self.buffer.take_if(|buffer| !buffer.is_empty()) else {
            return;
        };
        self.buffer = Some(match self.full.try_send(buffer) {
            Ok(()) => self
                .empty
                .try_recv()
                .unwrap_or_else(|_| Vec::with_capacity(BUFFER)),
            Err(TrySendError::Full(buffer) | TrySendError::Disconnected(buffer)) => buffer,
        });
    }
}

/// Writes what comes until there is no more, or until writing fails.
fn write(
    mut file: impl Write,
    full: &Receiver<Vec<u8>>,
    empty: &SyncSender<Vec<u8>>,
) -> io::Result<()> {
    for mut buffer in full {
        file.write_all(&buffer).inspect_err(|error| {
            tracing::warn!(%error, "recording of frames ends: cannot write");
        })?;
        buffer.clear();
        // If enough are there already, this one goes.
        let _ = empty.try_send(buffer);
    }
    file.flush()
}

#[cfg(test)]
mod tests;
