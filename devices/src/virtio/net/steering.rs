//! Which queue pair a frame to the guest goes to: the one on which the guest
//! last sent in the same flow, so that one processor of its has all of a flow
//! (virtio 1.3, 5.1.6.5.5, automatic receive steering).

use crate::net::wire::ether::ethertype;
use crate::net::wire::ip::Protocol;

/// The bytes after the frame header that tell a flow: Ethernet, IPv4 with
/// options or IPv6, and two ports.
pub(super) const HEAD: usize = 14 + 60 + 4;

const ETHER: usize = 14;
const IP6: usize = 40;

/// The pairs that flows were last sent on. Flows that share an entry share a
/// pair, which costs no more than that.
pub(super) struct Steering([u8; 256]);

impl Steering {
    /// All flows are at the first pair.
    pub(super) fn new() -> Self {
        Self([0; 256])
    }

    /// Learns that the guest sent the frame that starts with `head` on `pair`.
    pub(super) fn sent(&mut self, head: &[u8], pair: u8) {
        self.0[bucket(head)] = pair;
    }

    /// The pair for the frame that starts with `head`.
    pub(super) fn pair(&self, head: &[u8]) -> u8 {
        self.0[bucket(head)]
    }
}

/// The entry of a flow, the same in both directions. A frame that isn't IP
/// belongs to the first.
fn bucket(head: &[u8]) -> usize {
    let Some(sum) = flow(head) else { return 0 };
    // Multiplicative hashing (Knuth, The Art of Computer Programming, 6.4).
    let [first, ..] = sum.wrapping_mul(0x9E37_79B9).to_be_bytes();
    first.into()
}

/// The sum of both ends' addresses and ports.
fn flow(head: &[u8]) -> Option<u32> {
    let kind = u16::from_be_bytes(*head.get(12..)?.first_chunk()?);
    let ip = head.get(ETHER..)?;
    let (addresses, protocol, ports) = match kind {
        ethertype::IPV4 => {
            let [version, _, _, _, _, _, high, low, _, protocol, ..] = *ip else {
                return None;
            };
            let whole = u16::from_be_bytes([high & 0x3F, low]) == 0;
            let ports = whole.then_some(4 * usize::from(version & 0xF));
            (ip.get(12..20)?, protocol, ports)
        }
        ethertype::IPV6 => (ip.get(8..IP6)?, *ip.get(6)?, Some(IP6)),
        _ => return None,
    };
    let has_ports = [Protocol::TCP.0, Protocol::UDP.0].contains(&protocol);
    let ports = ports
        .filter(|_| has_ports)
        .and_then(|at| ip.get(at..)?.first_chunk::<4>());
    let sum = |bytes: &[u8], width: usize| {
        let words = bytes.chunks_exact(width).map(|word| {
            word.iter()
                .fold(0u32, |value, byte| value << 8 | u32::from(*byte))
        });
        words.fold(0, u32::wrapping_add)
    };
    let ports = ports.map_or(0, |ports| sum(ports, 2));
    Some(sum(addresses, 4).wrapping_add(ports.wrapping_mul(0x0101)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp4(from: [u8; 4], to: [u8; 4], ports: [u8; 4]) -> Vec<u8> {
        let mut head = vec![0; 12];
        head.extend([8, 0, 0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0]);
        head.extend(from);
        head.extend(to);
        head.extend(ports);
        head
    }

    fn udp6(from: u8, to: u8, ports: [u8; 4]) -> Vec<u8> {
        let mut head = vec![0; 12];
        head.extend([0x86, 0xDD, 0x60, 0, 0, 0, 0, 20, 17, 64]);
        for last in [from, to] {
            head.extend([0xFD; 15]);
            head.push(last);
        }
        head.extend(ports);
        head
    }

    #[test]
    fn both_directions_are_one_flow() {
        let [a, b] = [[10, 0, 0, 2], [10, 0, 0, 1]];
        let pairs = [
            (tcp4(a, b, [1, 2, 3, 4]), tcp4(b, a, [3, 4, 1, 2])),
            (udp6(2, 1, [1, 2, 3, 4]), udp6(1, 2, [3, 4, 1, 2])),
        ];
        for (there, back) in pairs {
            let mut steering = Steering::new();
            steering.sent(&there, 3);
            assert_eq!(steering.pair(&back), 3);
        }
    }

    #[test]
    fn flows_spread() {
        let mut used = [false; 256];
        for port in 0..=255 {
            used[bucket(&tcp4([10, 0, 0, 2], [10, 0, 0, 1], [0x80, port, 0, 80]))] = true;
            used[bucket(&udp6(2, 1, [port, 0, 0, 53]))] = true;
        }
        let used = used.iter().filter(|used| **used).count();
        assert!(used > 128, "{used} of 256");
    }

    #[test]
    fn fragments_of_a_packet_are_one_flow() {
        let mut first = tcp4([10, 0, 0, 2], [10, 0, 0, 1], [1, 2, 3, 4]);
        first[20] = 0x20;
        let mut second = tcp4([10, 0, 0, 2], [10, 0, 0, 1], [9, 9, 9, 9]);
        second[20..22].copy_from_slice(&[0, 0xB9]);
        assert_eq!(flow(&first), flow(&second));
        assert!(flow(&first).is_some());
    }

    #[test]
    fn what_is_cut_off_belongs_somewhere() {
        for head in [
            tcp4([1; 4], [2; 4], [3; 4]),
            udp6(1, 2, [3; 4]),
            vec![0xFF; HEAD],
        ] {
            for length in 0..head.len() {
                assert!(bucket(&head[..length]) < 256);
            }
        }
    }
}
