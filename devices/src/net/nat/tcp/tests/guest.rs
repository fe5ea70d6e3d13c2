//! A guest's TCP: a second, simpler implementation that keeps all data and
//! counts positions in 64 bits, so that it shares no code and no mistakes
//! with the translator.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::net::time::Time;
use crate::net::wire::tcp::{TcpFlags, TcpHeader, TcpOptions};

/// A frame from the guest, or to it.
pub(crate) type Frame = (TcpHeader, Vec<u8>);

/// How the guest behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) iss: u32,
    pub(crate) mss: u16,
    pub(crate) scale: Option<u8>,
    /// Its receive buffer.
    pub(crate) buffer: usize,
    /// Whether it keeps what arrives out of order.
    pub(crate) reassembles: bool,
    /// The most payload it puts into one frame.
    pub(crate) burst: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    SynSent,
    Listen,
    SynReceived,
    Open,
    Reset,
}

#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) stage: Stage,
    habits: Habits,
    /// What it sends: the SYN is at position 0, byte n at n + 1, the FIN last.
    data: Vec<u8>,
    una: u64,
    next: u64,
    max: u64,
    /// The right edge it was shown.
    edge: u64,
    scale: u8,
    duplicates: u32,
    irs: u32,
    /// The next position it expects.
    expected: u64,
    early: BTreeMap<u64, Vec<u8>>,
    fin: Option<u64>,
    pub(crate) received: Vec<u8>,
    pub(crate) read: usize,
    shown: u64,
    ack_due: bool,
    timer: Time,
    backoff: u32,
}

impl Guest {
    pub(crate) fn new(habits: Habits, data: Vec<u8>, listens: bool) -> Self {
        Self {
            stage: if listens {
                Stage::Listen
            } else {
                Stage::SynSent
            },
            habits,
            data,
            una: 0,
            next: 0,
            max: 0,
            edge: 0,
            scale: 0,
            duplicates: 0,
            irs: 0,
            expected: 0,
            early: BTreeMap::new(),
            fin: None,
            received: Vec::new(),
            read: 0,
            shown: 0,
            ack_due: false,
            timer: Time::NEVER,
            backoff: 0,
        }
    }

    pub(crate) fn deadline(&self) -> Time {
        self.timer
    }

    /// Both streams have ended and both ends know.
    pub(crate) fn is_finished(&self) -> bool {
        self.una == self.end() && self.fin.is_some_and(|fin| self.expected == fin + 1)
    }

    /// The position after the FIN.
    fn end(&self) -> u64 {
        self.data.len() as u64 + 2
    }

    fn window(&self) -> u64 {
        let held = self.received.len() - self.read;
        self.habits.buffer.saturating_sub(held) as u64
    }

    fn header(&mut self, position: u64, flags: TcpFlags) -> TcpHeader {
        let syn = flags.contains(TcpFlags::SYN);
        let scales = !syn && self.scale != u8::MAX;
        let shift = self.habits.scale.filter(|_| scales).unwrap_or(0);
        let window = u16::try_from(self.window() >> shift).unwrap_or(u16::MAX);
        self.shown = self.expected + (u64::from(window) << shift);
        let ack = flags.contains(TcpFlags::ACK);
        TcpHeader {
            seq: self.habits.iss.wrapping_add(position as u32),
            ack: if ack {
                self.irs.wrapping_add(self.expected as u32)
            } else {
                0
            },
            flags,
            window,
            options: TcpOptions {
                mss: syn.then_some(self.habits.mss),
                window_scale: self.habits.scale.filter(|_| syn && self.scale != u8::MAX),
                ..TcpOptions::default()
            },
            ..TcpHeader::default()
        }
    }

    /// Its application has read some.
    pub(crate) fn reads(&mut self, count: usize) {
        self.read = (self.read + count).min(self.received.len());
        let grown = (self.expected + self.window()).saturating_sub(self.shown);
        if self.irs_known() && grown >= (self.habits.buffer as u64 / 2).clamp(1, 1460) {
            self.ack_due = true;
        }
    }

    fn irs_known(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::SynReceived)
    }

    pub(crate) fn segment(&mut self, frame: Frame, out: &mut Vec<Frame>) {
        let (header, payload) = frame;
        match self.stage {
            Stage::Reset => Self::reset_stranger(&header, out),
            Stage::Listen => self.on_first_syn(&header),
            Stage::SynSent => self.on_answer(&header, out),
            Stage::SynReceived | Stage::Open => self.on_segment(&header, payload),
        }
    }

    /// It has forgotten the connection (RFC 9293, 3.10.7.1).
    fn reset_stranger(header: &TcpHeader, out: &mut Vec<Frame>) {
        if header.flags.contains(TcpFlags::ACK) && !header.flags.contains(TcpFlags::RST) {
            let reset = TcpHeader {
                seq: header.ack,
                flags: TcpFlags::RST,
                ..TcpHeader::default()
            };
            out.push((reset, Vec::new()));
        }
    }

    /// Its application resets the connection.
    pub(crate) fn reset(&mut self, out: &mut Vec<Frame>) {
        if self.irs_known() {
            let header = self.header(self.max, TcpFlags::RST | TcpFlags::ACK);
            out.push((header, Vec::new()));
        }
        self.stage = Stage::Reset;
        self.timer = Time::NEVER;
    }

    fn on_first_syn(&mut self, header: &TcpHeader) {
        if header.flags == TcpFlags::SYN {
            self.take_syn(header);
            self.stage = Stage::SynReceived;
            self.next = 0;
        }
    }

    fn take_syn(&mut self, header: &TcpHeader) {
        self.irs = header.seq;
        self.expected = 1;
        self.edge = self.una + u64::from(header.window);
        match header.options.window_scale {
            Some(scale) if self.habits.scale.is_some() => self.scale = scale,
            // Either end lacks it: neither scales.
            _ => self.scale = u8::MAX,
        }
        assert!(header.options.mss.is_some());
    }

    fn on_answer(&mut self, header: &TcpHeader, out: &mut Vec<Frame>) {
        let acks = header.ack == self.habits.iss.wrapping_add(1) && self.max == 1;
        if header.flags.contains(TcpFlags::ACK) && !acks {
            if !header.flags.contains(TcpFlags::RST) {
                let mut reset = self.header(0, TcpFlags::RST);
                reset.seq = header.ack;
                out.push((reset, Vec::new()));
            }
        } else if header.flags.contains(TcpFlags::RST) {
            self.stage = Stage::Reset;
        } else if header.flags.contains(TcpFlags::SYN | TcpFlags::ACK) {
            self.una = 1;
            self.take_syn(header);
            self.stage = Stage::Open;
            self.timer = Time::NEVER;
            self.backoff = 0;
            self.ack_due = true;
        }
    }

    /// A sequence number of the peer's as a position near the expected one.
    fn position(&self, seq: u32) -> i64 {
        let from = self.irs.wrapping_add(self.expected as u32);
        self.expected as i64 + i64::from(seq.wrapping_sub(from) as i32)
    }

    fn on_segment(&mut self, header: &TcpHeader, payload: Vec<u8>) {
        let position = self.position(header.seq);
        if header.flags.contains(TcpFlags::RST) {
            // In TIME-WAIT resets are ignored (RFC 1337, 3).
            if position == self.expected as i64 && !self.is_finished() {
                self.stage = Stage::Reset;
            }
            return;
        }
        if header.flags.contains(TcpFlags::SYN) {
            self.ack_due = true;
            if self.stage == Stage::SynReceived {
                self.next = 0;
            }
            return;
        }
        let length = payload.len() as i64 + i64::from(header.flags.contains(TcpFlags::FIN));
        let shown = self.shown.max(self.expected) as i64;
        let outside = position + length < self.expected as i64
            || (length > 0 && position + length == self.expected as i64)
            || position > shown;
        if outside {
            self.ack_due = true;
            return;
        }
        self.on_ack(header, length == 0);
        if length > 0 {
            self.on_text(position, payload, header.flags.contains(TcpFlags::FIN));
            self.ack_due = true;
        }
    }

    fn on_ack(&mut self, header: &TcpHeader, empty: bool) {
        let from = self.habits.iss.wrapping_add(self.una as u32);
        let ack = self.una as i64 + i64::from(header.ack.wrapping_sub(from) as i32);
        if ack < 0 || ack as u64 > self.max {
            self.ack_due = true;
            return;
        }
        let ack = ack as u64;
        if self.stage == Stage::SynReceived && ack >= 1 {
            self.stage = Stage::Open;
        }
        let shift = if self.scale == u8::MAX { 0 } else { self.scale };
        let edge = ack + (u64::from(header.window) << shift);
        if ack > self.una {
            self.una = ack;
            self.next = self.next.max(ack);
            self.duplicates = 0;
            self.backoff = 0;
            self.timer = Time::NEVER;
        } else if ack == self.una && empty && edge == self.edge && self.max > self.una {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.next = self.una;
            }
        }
        if ack == self.una && edge > self.edge {
            if self.una == self.max || self.edge == self.una {
                self.next = self.una;
                self.timer = Time::NEVER;
            }
            self.edge = edge;
        }
    }

    fn on_text(&mut self, position: i64, payload: Vec<u8>, fin: bool) {
        let room = self.expected + self.window();
        let skip = (self.expected as i64 - position).max(0) as usize;
        let end = position + payload.len() as i64;
        let start = position + skip as i64;
        let take = end.min(room as i64) - start;
        if fin && end <= room as i64 {
            self.fin = Some(end as u64);
        }
        if take > 0 && (start == self.expected as i64 || self.habits.reassembles) {
            let text = payload[skip..skip + take as usize].to_vec();
            let kept = self.early.entry(start as u64).or_default();
            if kept.len() < text.len() {
                *kept = text;
            }
        }
        while let Some(entry) = self.early.first_entry() {
            let start = *entry.key();
            if start > self.expected {
                break;
            }
            let text = entry.remove();
            let skip = (self.expected - start) as usize;
            if skip < text.len() {
                self.received.extend_from_slice(&text[skip..]);
                self.expected = start + text.len() as u64;
            }
        }
        if self.fin == Some(self.expected) {
            self.expected += 1;
        }
    }

    /// The retransmission and the probe of a closed window.
    pub(crate) fn tick(&mut self, now: Time, out: &mut Vec<Frame>) {
        if self.timer > now {
            return;
        }
        self.timer = Time::NEVER;
        self.backoff = (self.backoff + 1).min(5);
        self.next = self.una;
        if self.stage == Stage::Open && self.edge <= self.una && self.una < self.end() {
            let from = self.una as usize - 1;
            let byte = self.data.get(from..from + 1).unwrap_or_default().to_vec();
            let mut flags = TcpFlags::ACK;
            flags.set(TcpFlags::FIN, byte.is_empty());
            let header = self.header(self.una, flags);
            out.push((header, byte));
            self.max = self.max.max(self.una + 1);
            self.next = self.una + 1;
            self.arm(now);
        }
    }

    fn arm(&mut self, now: Time) {
        if self.timer == Time::NEVER {
            self.timer = now + Duration::from_millis(250 << self.backoff);
        }
    }

    /// Sends what it may.
    pub(crate) fn output(&mut self, now: Time, out: &mut Vec<Frame>) {
        match self.stage {
            Stage::Reset | Stage::Listen => return,
            Stage::SynSent | Stage::SynReceived => {
                if self.next == 0 {
                    let mut flags = TcpFlags::SYN;
                    flags.set(TcpFlags::ACK, self.stage == Stage::SynReceived);
                    let header = self.header(0, flags);
                    out.push((header, Vec::new()));
                    self.next = 1;
                    self.max = self.max.max(1);
                    self.arm(now);
                }
                return;
            }
            Stage::Open => {}
        }
        self.next = self.next.max(1);
        let last = self.data.len() as u64 + 1;
        while self.next < self.end() {
            let usable = self.edge.saturating_sub(self.next).min(last - self.next);
            let len = (usable as usize).min(self.habits.burst);
            let fin = self.next + len as u64 == last;
            if len == 0 && !fin {
                break;
            }
            let from = self.next as usize - 1;
            let mut flags = TcpFlags::ACK;
            flags.set(TcpFlags::FIN, fin);
            let header = self.header(self.next, flags);
            out.push((header, self.data[from..from + len].to_vec()));
            self.next += len as u64 + u64::from(fin);
            self.max = self.max.max(self.next);
            self.ack_due = false;
        }
        if self.una < self.end() {
            self.arm(now);
        }
        if self.ack_due {
            self.ack_due = false;
            let header = self.header(self.max, TcpFlags::ACK);
            out.push((header, Vec::new()));
        }
    }
}
