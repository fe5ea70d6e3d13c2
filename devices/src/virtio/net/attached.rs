//! A NIC that is plugged into the virtual network, whose thread moves frames
//! straight between its queues and all else.

use std::io;
use std::sync::Arc;

use nestling_arch::GuestMemory;

use super::Active;
use super::control::Control;
use super::shared::Shared;
use super::steering::{self, Steering};
use super::window::{Room, Window};
use crate::net::attachment::{Attachment, Content, Frame, News, Sent, Settings, Watch};
use crate::net::mac::MacAddress;
use crate::net::payload::{Payload, Place};
use crate::net::port::{FRAME_HEADER, MAX_FRAME, Offloads};
use crate::net::switch::ReceiveFilter;
use crate::scatter::ScatterList;
use crate::virtio::device::Interrupt;
use crate::virtio::eventfd::as_fd;
use crate::virtio::queue::{Chain, Malformed, VirtQueue};
use crate::virtio::worker::report;

/// The most queue pairs: each queue has a token.
pub(super) const MAX_PAIRS: u16 = 64;

/// Tokens of what is watched; receive and transmit queues take turns from
/// `QUEUES` on.
const CONTROL: u8 = 0;
const WAKE: u8 = 1;
const QUEUES: u8 = 2;

/// Bytes copied at a time from who doesn't show where they lie.
const CHUNK: usize = 4096;

/// A queue pair.
struct Pair {
    receive: VirtQueue,
    transmit: VirtQueue,
    window: Window,
    /// Whether the transmit queue may hold frames, and its doorbell is off.
    waiting: bool,
    /// Frames that are out.
    out: u16,
    /// Whether the driver is to see used buffers of each queue.
    received: bool,
    transmitted: bool,
}

/// A NIC's queues in the hands of the network's thread.
pub(super) struct Attached {
    pairs: Vec<Pair>,
    control: Option<Control>,
    /// The pair whose turn it is to be received from.
    turn: usize,
    steering: Steering,
    outgoing: Chain,
    /// Lists of frames that came back.
    spare: Vec<ScatterList>,
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn Interrupt>,
    /// Its name in log lines.
    name: String,
    mac: MacAddress,
    mtu: u16,
    /// What its driver does with received frames itself.
    offloads: Offloads,
    shared: Arc<Shared>,
    /// The driver broke the protocol: nothing happens until a reset.
    broken: bool,
    /// What the next flush tells.
    news: News,
}

impl Attached {
    pub(super) fn new(active: Active, mac: MacAddress, mtu: u16) -> Self {
        let (queues, memory) = (active.queues, active.memory);
        let pairs = queues.pairs.into_iter().map(|(receive, transmit)| Pair {
            receive,
            transmit,
            window: Window::new(memory.clone(), active.features),
            waiting: true,
            out: 0,
            received: false,
            transmitted: false,
        });
        Self {
            pairs: pairs.collect(),
            control: queues.control,
            turn: 0,
            steering: Steering::new(),
            outgoing: Chain::new(&memory),
            spare: Vec::new(),
            memory,
            interrupt: active.interrupt,
            name: active.name,
            mac,
            mtu,
            offloads: active.offloads,
            shared: active.shared,
            broken: false,
            news: News::empty(),
        }
    }

    /// Falls silent, because the driver broke the protocol.
    fn fail(&mut self, error: &Malformed) {
        report(&self.name, error, &*self.interrupt);
        self.broken = true;
        self.news |= News::SETTINGS;
    }

    fn follow(&mut self, token: u8) -> Result<News, Malformed> {
        match token {
            CONTROL => {
                self.control.as_mut().map_or(Ok(()), Control::serve)?;
                Ok(News::SETTINGS)
            }
            WAKE => Ok(News::SETTINGS | News::ROOM),
            _ => {
                let queue = usize::from(token.saturating_sub(QUEUES));
                let Some(pair) = self.pairs.get_mut(queue / 2) else {
                    return Ok(News::empty());
                };
                if queue % 2 == 0 {
                    pair.receive.disable_doorbell()?;
                    return Ok(News::ROOM);
                }
                pair.transmit.disable_doorbell()?;
                pair.waiting = true;
                Ok(News::FRAMES)
            }
        }
    }

    /// The next frame of any pair, each in its turn.
    fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        for _ in 0..self.pairs.len() {
            let number = self.turn;
            self.turn = (number + 1) % self.pairs.len();
            let popped = self.pairs[number].pop(&mut self.outgoing)?;
            if !popped {
                continue;
            }
            let spare = self.spare.pop();
            let spare = spare.unwrap_or_else(|| ScatterList::new(self.memory.clone()));
            let list = std::mem::replace(&mut self.outgoing.readable, spare);
            let number = u16::try_from(number).expect("at most MAX_PAIRS");
            if self.pairs.len() > 1 {
                let mut head = [0; steering::HEAD];
                let count = list.peek_at(FRAME_HEADER, &mut head);
                let [_, pair] = number.to_be_bytes();
                self.steering.sent(&head[..count], pair);
            }
            let token = u32::from(number) << 16 | u32::from(self.outgoing.head);
            return Ok(Some(Frame::scattered(list, token)));
        }
        Ok(None)
    }

    fn take_back(&mut self, frame: Frame) -> Result<(), Malformed> {
        let [_, number, high, low] = frame.token().to_be_bytes();
        let head = u16::from_be_bytes([high, low]);
        if let Some(pair) = self.pairs.get_mut(usize::from(number)) {
            pair.out -= 1;
            pair.transmit.stage_used(head, 0)?;
            pair.transmitted = true;
        }
        self.spare.extend(frame.into_list());
        Ok(())
    }

    /// The pair for a frame to the guest.
    fn steer(&self, headers: &[u8], content: &Content<'_>) -> usize {
        let active = usize::from(self.shared.active_pairs());
        let active = active.clamp(1, self.pairs.len());
        if active == 1 {
            return 0;
        }
        let mut head = [0; steering::HEAD];
        let headers = headers.get(FRAME_HEADER..).unwrap_or_default();
        let mut count = headers.len().min(head.len());
        head[..count].copy_from_slice(&headers[..count]);
        if let Content::Payload(payload) = content {
            count += payload.read_at(0, &mut head[count..]);
        }
        usize::from(self.steering.pair(&head[..count])) % active
    }

    fn put(&mut self, headers: &[u8], content: Content<'_>) -> Result<Sent, Malformed> {
        let length = headers.len() + content.len();
        if headers.len() < FRAME_HEADER || length > MAX_FRAME {
            return Ok(Sent::Refused);
        }
        let pair = self.steer(headers, &content);
        let pair = &mut self.pairs[pair];
        loop {
            match pair.window.fill(&mut pair.receive, length)? {
                Room::Enough => break,
                Room::Never => return Ok(Sent::Refused),
                Room::Lacking => {
                    if !pair.receive.enable_doorbell()? {
                        return Ok(Sent::Full);
                    }
                }
            }
        }
        let buffers = pair.window.buffers();
        buffers.write_at(0, headers);
        match content {
            Content::Payload(payload) => copy(payload, buffers, headers.len()),
            Content::Waiting(streams, source) => {
                if streams.fill(source, buffers, headers.len()).is_err() {
                    return Ok(Sent::Refused);
                }
            }
        }
        pair.window.deliver(length, &mut pair.receive)?;
        pair.received = true;
        Ok(Sent::Yes)
    }

    /// Shows the driver what was used.
    fn publish(&mut self) -> Result<(), Malformed> {
        for pair in &mut self.pairs {
            for (used, queue) in [
                (&mut pair.received, &mut pair.receive),
                (&mut pair.transmitted, &mut pair.transmit),
            ] {
                if std::mem::take(used) {
                    queue.publish_used()?;
                    queue.signal_used()?;
                }
            }
        }
        Ok(())
    }
}

impl Pair {
    /// Takes the next frame of the driver's; false if there is none, and then
    /// the driver will ring the doorbell.
    fn pop(&mut self, chain: &mut Chain) -> Result<bool, Malformed> {
        while self.waiting {
            // More are out than the ring has entries only if the driver offers
            // again what it hasn't got back: that is to wait.
            if self.out == self.transmit.size() {
                return Ok(false);
            }
            if self.transmit.pop(chain)? {
                if chain.readable.len() < FRAME_HEADER {
                    let what = "too short for a frame header";
                    return Err(self.transmit.bad_request(chain.head, what));
                }
                self.out += 1;
                return Ok(true);
            }
            self.waiting = self.transmit.enable_doorbell()?;
        }
        Ok(false)
    }
}

/// Writes a payload to guest memory.
fn copy(payload: &dyn Payload, buffers: &ScatterList, at: usize) {
    match payload.place() {
        Place::Slice(slice) => buffers.write_at(at, slice),
        Place::Scattered(list, range) => buffers.copy_at(at, list, range),
        Place::Elsewhere => {
            let mut chunk = [0; CHUNK];
            let mut done = 0;
            while done < payload.len() {
                let count = payload.read_at(done, &mut chunk);
                if count == 0 {
                    break;
                }
                buffers.write_at(at + done, &chunk[..count]);
                done += count;
            }
        }
    }
}

impl Attachment for Attached {
    fn mac(&self) -> Option<MacAddress> {
        Some(self.mac)
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn settings(&self) -> Settings {
        let control = self.control.as_ref();
        Settings {
            offloads: self.offloads,
            filter: control.map_or_else(ReceiveFilter::default, Control::filter),
            link: self.shared.link_up() && !self.broken,
        }
    }

    fn watch(&mut self, watch: &mut dyn Watch) -> io::Result<()> {
        for waker in &self.shared.wakers {
            watch.add(as_fd(waker), WAKE, false)?;
        }
        let queues = self
            .pairs
            .iter()
            .flat_map(|pair| [&pair.receive, &pair.transmit]);
        for (token, queue) in (QUEUES..).zip(queues) {
            watch.add(as_fd(queue.doorbell()), token, false)?;
        }
        if let Some(control) = &self.control {
            watch.add(as_fd(control.queue.doorbell()), CONTROL, false)?;
            control.queue.ring_doorbell();
        }
        Ok(())
    }

    fn ready(&mut self, token: u8, _watch: &mut dyn Watch) -> News {
        if self.broken {
            return News::empty();
        }
        self.follow(token).unwrap_or_else(|error| {
            self.fail(&error);
            News::SETTINGS
        })
    }

    fn receive(&mut self) -> Option<Frame> {
        if self.broken {
            return None;
        }
        self.next_frame().unwrap_or_else(|error| {
            self.fail(&error);
            None
        })
    }

    fn release(&mut self, frame: Frame) {
        if self.broken {
            return;
        }
        if let Err(error) = self.take_back(frame) {
            self.fail(&error);
        }
    }

    fn send(&mut self, headers: &[u8], content: Content<'_>) -> Sent {
        if self.broken {
            return Sent::Refused;
        }
        self.put(headers, content).unwrap_or_else(|error| {
            self.fail(&error);
            Sent::Refused
        })
    }

    fn flush(&mut self) -> News {
        if !self.broken
            && let Err(error) = self.publish()
        {
            self.fail(&error);
        }
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests;
