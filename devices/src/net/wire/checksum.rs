//! The internet checksum (RFC 1071).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ip::Protocol;
use crate::net::payload::{Payload, Place};

/// Bytes that are summed at once in independent lanes, which the compiler
/// turns into vector additions.
const BLOCK: usize = 64;
const LANES: usize = BLOCK / 4;

/// Bytes copied at once from a payload that isn't in memory of our own.
const COPY: usize = 4096;

/// A ones' complement sum of 16-bit words, in the making.
///
/// The sum is kept in the machine's byte order, which the sum doesn't mind
/// (RFC 1071, 2 B), and folded at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    sum: u64,
    /// Whether an odd number of bytes was added: the next byte is the second
    /// of its word.
    odd: bool,
}

impl Sum {
    /// The sum of the pseudo header of IPv4 before `length` bytes of
    /// `protocol` (RFC 9293, 3.1).
    pub fn pseudo4(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: Protocol,
        length: usize,
    ) -> Self {
        let addresses = words(&source.octets()) + words(&destination.octets());
        Self::pseudo(addresses, protocol, length)
    }

    /// The sum of the pseudo header of IPv6 before `length` bytes of
    /// `protocol` (RFC 8200, 8.1).
    pub fn pseudo6(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: Protocol,
        length: usize,
    ) -> Self {
        let addresses = words(&source.octets()) + words(&destination.octets());
        Self::pseudo(addresses, protocol, length)
    }

    /// Both pseudo headers. They differ in the lengths of their fields, which
    /// doesn't change the sum.
    fn pseudo(addresses: u64, protocol: Protocol, length: usize) -> Self {
        let length = (length as u64).to_be_bytes();
        Self {
            sum: addresses + words(&[0, 0, 0, protocol.0]) + words(&length),
            odd: false,
        }
    }

    /// Adds `bytes` as if they followed those added before.
    pub fn add(&mut self, bytes: &[u8]) {
        let sum = fold(raw_sum(bytes));
        // A byte's place in its word decides which half it adds to
        // (RFC 1071, 2 B).
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        self.sum += u64::from(sum);
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// Adds the bytes of a payload.
    pub fn add_payload(&mut self, payload: &dyn Payload) {
        if let Place::Slice(slice) = payload.place() {
            return self.add(slice);
        }
        let mut buffer = [0; COPY];
        let mut offset = 0;
        loop {
            let count = payload.read_at(offset, &mut buffer);
            if count == 0 {
                return;
            }
            self.add(&buffer[..count]);
            offset += count;
        }
    }

    /// The sum in 16 bits: what a checksum field holds that its receiver
    /// completes, if the sum is that of the pseudo header.
    pub fn partial(self) -> u16 {
        u16::from_be(fold(self.sum))
    }

    /// The checksum: the complement of the sum. Zero over bytes that include
    /// their right checksum.
    pub fn checksum(self) -> u16 {
        !self.partial()
    }

    /// The checksum as UDP sends it: zero would mean none (RFC 768), and its
    /// other form means the same to TCP.
    pub fn transport_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xFFFF,
            checksum => checksum,
        }
    }
}

/// The checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = Sum::default();
    sum.add(bytes);
    sum.checksum()
}

/// A checksum after the bytes `old`, which stood at an even offset from the
/// first summed byte, became `new`, of the same length (RFC 1624, 3, eqn. 3).
#[must_use]
pub fn update(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let mut was = Sum::default();
    was.add(old);
    let mut sum = Sum::default();
    sum.add(new);
    // HC' = ~(~HC + ~m + m')
    let total = u32::from(!checksum) + u32::from(!was.partial()) + u32::from(sum.partial());
    let mut wide = Sum::default();
    wide.add(&total.to_be_bytes());
    wide.checksum()
}

/// Adds 16-bit words as they lie in memory, a last odd byte as a word's first.
fn raw_sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; LANES];
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    // No payload is so long that this could overflow: that takes 16 GiB.
    let mut sum: u64 = lanes.into_iter().sum();
    let (whole, tail) = tail.as_chunks::<4>();
    sum += words(whole.as_flattened());
    sum + match *tail {
        [] => 0,
        [a] => words(&[a, 0, 0, 0]),
        [a, b] => words(&[a, b, 0, 0]),
        [a, b, c, ..] => words(&[a, b, c, 0]),
    }
}

/// Adds 32-bit words, which make the same sum once it is folded. Their number
/// is that of `bytes` divided by four.
#[inline]
fn words(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<4>();
    let words = words.iter().map(|word| u32::from_ne_bytes(*word));
    words.map(u64::from).sum()
}

/// A sum of words in 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16 & 0xFFFF) + (sum >> 32);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sum as RFC 1071, 1, words it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    /// Bytes that nobody can lend.
    struct Away<'a>(&'a [u8]);

    impl Payload for Away<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn read_at(&self, offset: usize, data: &mut [u8]) -> usize {
            self.0.read_at(offset, data)
        }
    }

    #[test]
    fn rfc_1071_example() {
        // Section 3: the sum of these bytes is 0xddf2.
        let bytes = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7];
        assert_eq!(checksum(&bytes), !0xDDF2);
        assert_eq!(checksum(&[]), 0xFFFF);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: where equation 2 fails.
        assert_eq!(update(0xDD2F, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
    }

    #[test]
    fn all_ones_do_not_overflow() {
        for length in [63, 64, 65, 0xFFFF, 1 << 20] {
            let bytes = vec![0xFF; length];
            assert_eq!(checksum(&bytes), naive(&bytes), "{length}");
        }
    }

    #[test]
    fn udp_never_sends_zero() {
        let mut sum = Sum::default();
        sum.add(&[0xFF, 0xFF]);
        assert_eq!(sum.checksum(), 0);
        assert_eq!(sum.transport_checksum(), 0xFFFF);
    }

    #[test]
    fn pseudo_headers_have_their_fields() {
        let (a, b) = (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(192, 168, 9, 200));
        let bytes = [10, 1, 2, 3, 192, 168, 9, 200, 0, 17, 0x12, 0x34];
        let sum = Sum::pseudo4(a, b, Protocol::UDP, 0x1234);
        assert_eq!(sum.checksum(), naive(&bytes));

        let a: Ipv6Addr = "fe80::1234:5678".parse().unwrap();
        let b: Ipv6Addr = "ff02::1:ffab:cdef".parse().unwrap();
        let mut bytes = [a.octets(), b.octets()].concat();
        bytes.extend([0, 0, 0x12, 0x34, 0, 0, 0, 58]);
        let sum = Sum::pseudo6(a, b, Protocol::ICMPV6, 0x1234);
        assert_eq!(sum.checksum(), naive(&bytes));
    }

    proptest! {
        #[test]
        fn pieces_add_up(
            bytes in prop::collection::vec(any::<u8>(), 0..10_000),
            cuts in prop::collection::vec(0usize..10_000, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < bytes.len()).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut sum, mut away) = (Sum::default(), Sum::default());
            let mut start = 0;
            for end in cuts {
                sum.add(&bytes[start..end]);
                away.add_payload(&Away(&bytes[start..end]));
                start = end;
            }
            prop_assert_eq!(sum.checksum(), naive(&bytes));
            prop_assert_eq!(away.checksum(), naive(&bytes));
            prop_assert_eq!(sum.partial(), !naive(&bytes));
        }

        #[test]
        fn updates_agree_with_a_new_sum(
            mut bytes in prop::collection::vec(any::<u8>(), 8..100),
            new in prop::collection::vec(any::<u8>(), 1..8),
            at in 0usize..50,
        ) {
            let at = (at * 2 % (bytes.len() - new.len())) & !1;
            let before = checksum(&bytes);
            let old = bytes[at..at + new.len()].to_vec();
            bytes[at..at + new.len()].copy_from_slice(&new);
            let updated = update(before, &old, &new);
            // 0 and 0xffff are the same number; only sums of nothing but
            // zeroes tell them apart.
            prop_assert_eq!(updated % 0xFFFF, checksum(&bytes) % 0xFFFF);
        }
    }
}
