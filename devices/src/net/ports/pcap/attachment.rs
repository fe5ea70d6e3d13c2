//! An attachment whose frames are recorded.

use std::io;

use super::{Direction, InterfaceId, Recording};
use crate::net::attachment::{Attachment, Content, Frame, News, Sent, Settings, Watch};
use crate::net::mac::MacAddress;
use crate::net::payload::{Part, Payload};
use crate::net::port::FRAME_HEADER;

/// Passes all on to another attachment, and records its frames: as they are
/// exchanged with it, so segments that it is left to make are one frame, and
/// checksums that it is left to complete look wrong.
pub struct Recorded {
    inner: Box<dyn Attachment>,
    recording: Recording,
    port: InterfaceId,
}

impl Recorded {
    /// Records the frames of `inner` as those of `port`.
    pub fn new(inner: Box<dyn Attachment>, recording: Recording, port: InterfaceId) -> Self {
        Self {
            port,
            inner,
            recording,
        }
    }

    /// Gives the attachment back, without recording it any longer.
    pub fn into_inner(self) -> Box<dyn Attachment> {
        self.inner
    }

    fn record(&self, direction: Direction, parts: &[&dyn Payload]) {
        self.recording.record(self.port, direction, parts);
    }
}

impl Attachment for Recorded {
    fn mac(&self) -> Option<MacAddress> {
        self.inner.mac()
    }

    fn mtu(&self) -> u16 {
        self.inner.mtu()
    }

    fn settings(&self) -> Settings {
        self.inner.settings()
    }

    fn watch(&mut self, watch: &mut dyn Watch) -> io::Result<()> {
        self.inner.watch(watch)
    }

    fn ready(&mut self, token: u8, watch: &mut dyn Watch) -> News {
        self.inner.ready(token, watch)
    }

    fn receive(&mut self) -> Option<Frame> {
        let frame = self.inner.receive()?;
        let bytes = Part::new(&frame, FRAME_HEADER..frame.len());
        self.record(Direction::Inbound, &[&bytes]);
        Some(frame)
    }

    fn release(&mut self, frame: Frame) {
        self.inner.release(frame);
    }

    fn send(&mut self, headers: &[u8], content: Content<'_>) -> Sent {
        let frame = headers.get(FRAME_HEADER..).unwrap_or_default();
        match content {
            Content::Payload(payload) => {
                let sent = self.inner.send(headers, Content::Payload(payload));
                if sent == Sent::Yes {
                    self.record(Direction::Outbound, &[&frame, payload]);
                }
                sent
            }
            Content::Waiting(streams, source) => {
                let sent = self.inner.send(headers, Content::Waiting(streams, source));
                if sent == Sent::Yes {
                    // It still waits, until the other side acknowledges it.
                    let recorded = streams.view(source, &mut |slices| {
                        let slices: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
                        let mut parts: Vec<&dyn Payload> = vec![&frame];
                        parts.extend(slices.iter().map(|slice| slice as &dyn Payload));
                        self.record(Direction::Outbound, &parts);
                    });
                    if recorded.is_err() {
                        self.record(Direction::Outbound, &[&frame]);
                    }
                }
                sent
            }
        }
    }

    fn flush(&mut self) -> News {
        self.recording.flush();
        self.inner.flush()
    }
}
