//! Frames that wait until it is known whose address they are for (RFC 1122,
//! 2.3.2.2; RFC 4861, 7.2.2).

use std::collections::HashMap;
use std::net::IpAddr;

use crate::net::mac::Mac;
use crate::net::payload::Payload;
use crate::net::port::FRAME_HEADER;

/// The most frames for one address: a newer one takes the oldest's place.
const PER_ADDRESS: usize = 4;

/// The most bytes of all.
const MAX_BYTES: usize = 1 << 20;

/// The frames, whole, each without its destination.
#[derive(Default)]
pub(super) struct Pending {
    frames: HashMap<IpAddr, Vec<Vec<u8>>>,
    bytes: usize,
}

impl Pending {
    /// Keeps a frame for `to`. False says that it, or the oldest one for `to`,
    /// is dropped: too much waits.
    pub(super) fn keep(&mut self, to: IpAddr, headers: &[u8], payload: &dyn Payload) -> bool {
        let len = headers.len() + payload.len();
        if self.bytes + len > MAX_BYTES {
            return false;
        }
        let mut frame = headers.to_vec();
        frame.resize(len, 0);
        payload.read_at(0, &mut frame[headers.len()..]);
        let frames = self.frames.entry(to).or_default();
        let full = frames.len() == PER_ADDRESS;
        if full {
            self.bytes -= frames.remove(0).len();
        }
        self.bytes += len;
        frames.push(frame);
        !full
    }

    /// The frames for `to`, which is the station `mac`'s, in order.
    pub(super) fn take(&mut self, to: IpAddr, mac: Mac) -> Vec<Vec<u8>> {
        let mut frames = self.frames.remove(&to).unwrap_or_default();
        for frame in &mut frames {
            self.bytes -= frame.len();
            frame[FRAME_HEADER..FRAME_HEADER + mac.0.len()].copy_from_slice(&mac.0);
        }
        frames
    }

    /// Drops the frames for `to`, as nobody has the address; returns how many.
    pub(super) fn drop(&mut self, to: IpAddr) -> usize {
        let frames = self.frames.remove(&to).unwrap_or_default();
        self.bytes -= frames.iter().map(Vec::len).sum::<usize>();
        frames.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn the_newest_are_kept_in_order() {
        let mut pending = Pending::default();
        let headers = [0; FRAME_HEADER + 14];
        for number in 0..6u8 {
            let kept = pending.keep(address(1), &headers, &[number]);
            assert_eq!(kept, number < 4);
        }
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let frames = pending.take(address(1), mac);
        let numbers: Vec<_> = frames.iter().filter_map(|frame| frame.last()).collect();
        assert_eq!(numbers, [&2, &3, &4, &5]);
        assert_eq!(frames[0][FRAME_HEADER..FRAME_HEADER + 6], mac.0);
        assert_eq!(pending.bytes, 0);
        assert!(pending.take(address(1), mac).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut pending = Pending::default();
        let payload = vec![0; 60_000];
        let kept = (0..=u8::MAX).filter(|n| pending.keep(address(*n), &[0; 26], &payload));
        assert_eq!(kept.count(), MAX_BYTES / 60_026);
        assert!(pending.bytes <= MAX_BYTES);
        let dropped: usize = (0..=u8::MAX).map(|n| pending.drop(address(n))).sum();
        assert_eq!(dropped, MAX_BYTES / 60_026);
        assert_eq!(pending.bytes, 0);
    }
}
