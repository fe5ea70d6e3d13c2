use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    total: 1 << 20,
    per_guest: 1 << 18,
};
const GUEST: Guest = Guest(1);

fn four(identification: u16, offset: u16, more: bool) -> IpHeader {
    IpHeader::V4(Ip4Header {
        identification,
        fragment_offset: offset,
        more_fragments: more,
        dont_fragment: false,
        ..Ip4Header::new(
            Ipv4Addr::new(192, 168, 100, 10),
            Ipv4Addr::new(192, 0, 2, 1),
            Protocol::UDP,
        )
    })
}

fn six(identification: u32, offset: u16, more: bool) -> IpHeader {
    let destination = "2001:db8::1".parse().unwrap();
    IpHeader::V6(Ip6Header {
        fragment: Some(Fragment {
            identification,
            offset,
            more,
        }),
        ..Ip6Header::new(Ipv6Addr::LOCALHOST, destination, Protocol::UDP)
    })
}

/// Takes a fragment of a packet whose byte at each place is the place's, of
/// 0..len.
fn take(
    fragments: &mut Fragments,
    header: &IpHeader,
    len: usize,
) -> Result<Option<Whole>, DropReason> {
    let offset = usize::from(header.fragment().unwrap().offset);
    let payload = &content(offset + len)[offset..];
    fragments.insert(Time::ZERO, GUEST, header, &payload)
}

fn content(len: usize) -> Vec<u8> {
    (0..=u8::MAX).cycle().take(len).collect()
}

#[test]
fn fragments_make_a_packet_in_any_order() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        for new in [|o, m| four(7, o, m), |o, m| six(7, o, m)] {
            let parts = [
                (new(0, true), 1480),
                (new(1480, true), 1480),
                (new(2960, false), 101),
            ];
            let mut fragments = Fragments::new(LIMITS);
            let mut whole = None;
            for at in order {
                assert_eq!(whole, None);
                let (header, len) = &parts[at];
                whole = take(&mut fragments, header, *len).unwrap();
            }
            let whole = whole.unwrap();
            assert_eq!(whole.payload, content(3061));
            assert_eq!(whole.header.payload_len(), 3061);
            assert_eq!(whole.header.fragment(), None);
            assert_eq!((fragments.bytes(), fragments.next_deadline()), (0, None));
        }
    }
}

#[test]
fn packets_are_told_apart() {
    let mut fragments = Fragments::new(LIMITS);
    let elsewhere = |header: IpHeader| match header {
        IpHeader::V4(header) => IpHeader::V4(Ip4Header {
            destination: Ipv4Addr::new(192, 0, 2, 2),
            ..header
        }),
        IpHeader::V6(header) => IpHeader::V6(header),
    };
    let icmp = |header: IpHeader| header.with_payload(Protocol::ICMP, 8);
    for header in [
        four(1, 8, false),
        four(2, 8, false),
        elsewhere(four(1, 8, false)),
        icmp(four(1, 8, false)),
        six(1, 8, false),
    ] {
        assert_eq!(take(&mut fragments, &header, 3), Ok(None), "{header:?}");
    }
    let other = fragments.insert(Time::ZERO, Guest(2), &four(1, 0, true), &[0; 8].as_slice());
    assert_eq!(other, Ok(None));
    let whole = take(&mut fragments, &four(2, 0, true), 8).unwrap().unwrap();
    assert_eq!(whole.payload, content(11));
    // The first fragment's protocol counts in IPv6.
    let tcp = six(1, 0, true).with_payload(Protocol::TCP, 8);
    let whole = take(&mut fragments, &tcp, 8).unwrap().unwrap();
    assert_eq!(whole.header.protocol(), Protocol::TCP);
}

#[test]
fn overlaps_spoil_the_packet() {
    for (offset, len) in [(0, 24), (8, 16), (16, 16), (8, 8), (24, 8)] {
        let mut fragments = Fragments::new(LIMITS);
        take(&mut fragments, &four(1, 8, true), 24).unwrap();
        take(&mut fragments, &four(1, 48, false), 8).unwrap();
        let overlap = take(&mut fragments, &four(1, offset, true), len);
        assert_eq!(overlap, Err(DropReason::Overlap), "{offset}");
        for (offset, len, more) in [(0, 8, true), (8, 40, true), (48, 8, false)] {
            let late = take(&mut fragments, &four(1, offset, more), len);
            assert_eq!(late, Err(DropReason::Overlap));
        }
        assert_eq!(fragments.drops().of(DropReason::Overlap), 4);
        assert_eq!(fragments.bytes(), PACKET_COST);
        fragments.expire(Time::ZERO + TIMEOUT, |_, _, _| panic!("nobody is told"));
        assert_eq!(fragments.bytes(), 0);
    }
}

#[test]
fn repeated_fragments_are_taken_once() {
    let mut fragments = Fragments::new(LIMITS);
    take(&mut fragments, &four(1, 8, true), 24).unwrap();
    let bytes = fragments.bytes();
    assert_eq!(take(&mut fragments, &four(1, 8, true), 24), Ok(None));
    assert_eq!(fragments.bytes(), bytes);
    // The same place with other content is an overlap.
    let other = fragments.insert(Time::ZERO, GUEST, &four(1, 8, true), &[9; 24].as_slice());
    assert_eq!(other, Err(DropReason::Overlap));
}

#[test]
fn contradictions_are_refused() {
    let bad = Err(DropReason::BadFragment);
    let mut fragments = Fragments::new(LIMITS);
    assert_eq!(take(&mut fragments, &four(1, 0, true), 0), bad);
    assert_eq!(take(&mut fragments, &four(1, 0, true), 9), bad);
    assert_eq!(take(&mut fragments, &four(1, 65512, false), 4), bad);
    assert_eq!(take(&mut fragments, &six(1, 65528, false), 8), bad);
    assert_eq!(fragments.bytes(), 0);
    assert_eq!(take(&mut fragments, &four(1, 65512, false), 3), Ok(None));
    // Two ends, one before what came, one before what comes.
    take(&mut fragments, &four(2, 8, false), 8).unwrap();
    assert_eq!(take(&mut fragments, &four(2, 16, false), 8), bad);
    take(&mut fragments, &four(3, 24, true), 8).unwrap();
    assert_eq!(take(&mut fragments, &four(3, 8, false), 8), bad);
    take(&mut fragments, &four(4, 8, false), 8).unwrap();
    assert_eq!(take(&mut fragments, &four(4, 16, true), 8), bad);
    let whole = fragments.insert(Time::ZERO, GUEST, &four(1, 0, false), &[0; 8].as_slice());
    assert_eq!(whole, bad);
}

#[test]
fn time_ends_and_the_sender_is_told() {
    let second = |s| Time::ZERO + Duration::from_secs(s);
    let mut fragments = Fragments::new(LIMITS);
    let payload = content(16);
    let headers = [four(1, 0, true), four(2, 16, true), four(3, 0, true)];
    for (at, header) in (0..).zip(&headers) {
        let inserted = fragments.insert(second(at), GUEST, header, &payload.as_slice());
        assert_eq!(inserted, Ok(None));
    }
    assert_eq!(fragments.next_deadline(), Some(second(60)));
    let mut told = Vec::new();
    let mut tell = |guest, header: &IpHeader, start: &[u8]| {
        assert_eq!((guest, start), (GUEST, payload.as_slice()));
        told.push(*header);
    };
    fragments.expire(second(59), &mut tell);
    fragments.expire(second(61), &mut tell);
    assert_eq!(told, [headers[0]]);
    assert_eq!(fragments.drops().of(DropReason::FragmentsLate), 2);
    assert_eq!(fragments.next_deadline(), Some(second(62)));
}

#[test]
fn a_guest_gives_up_its_own_oldest_packets_only() {
    let mut fragments = Fragments::new(LIMITS);
    let other = Guest(2);
    let first = fragments.insert(Time::ZERO, other, &four(0, 0, true), &[0; 8].as_slice());
    assert_eq!(first, Ok(None));
    for identification in 0..2000 {
        take(&mut fragments, &four(identification, 0, true), 8000).unwrap();
        assert!(fragments.bytes() < LIMITS.per_guest + 1000);
    }
    for identification in 2000..3000 {
        take(&mut fragments, &four(identification, 0, true), 8).unwrap();
    }
    assert_eq!(fragments.guests[&GUEST].packets.len(), MAX_PACKETS);
    let whole = take(&mut fragments, &four(2999, 8, false), 8).unwrap();
    assert_eq!(whole.unwrap().payload, content(16));
    let whole = fragments.insert(Time::ZERO, other, &four(0, 8, false), &[0; 8].as_slice());
    assert_eq!(whole.unwrap().unwrap().payload, [0; 16]);
}

#[test]
fn all_guests_together_are_bounded() {
    let mut fragments = Fragments::new(LIMITS);
    let mut full = 0;
    for guest in 0..100 {
        for identification in 0..30 {
            let header = four(identification, 0, true);
            match fragments.insert(Time::ZERO, Guest(guest), &header, &[0; 8000].as_slice()) {
                Err(reason) => {
                    assert_eq!(reason, DropReason::FragmentsFull);
                    full += 1;
                }
                Ok(whole) => assert_eq!(whole, None),
            }
            let packets = 100 * MAX_PACKETS * PACKET_COST;
            assert!(fragments.bytes() <= LIMITS.total + packets);
        }
    }
    assert!(full > 2000, "{full}");
    assert_eq!(fragments.drops().of(DropReason::FragmentsFull), full);
}

#[test]
fn tiny_fragments_are_bounded() {
    let mut fragments = Fragments::new(LIMITS);
    for at in 0..256 {
        assert_eq!(take(&mut fragments, &four(1, at * 16, true), 8), Ok(None));
    }
    let more = take(&mut fragments, &four(1, 8, true), 8);
    assert_eq!(more, Err(DropReason::FragmentsFull));
    assert_eq!(fragments.bytes(), PACKET_COST);
}

proptest! {
    #[test]
    fn memory_is_what_is_counted(
        arrivals in prop::collection::vec(
            (0u32..3, 0u16..4, 0u16..12, any::<bool>(), 1usize..40, 0u64..20), 0..300),
    ) {
        let limits = Limits { total: 8000, per_guest: 3000 };
        let mut fragments = Fragments::new(limits);
        let mut now = Time::ZERO;
        for (guest, identification, offset, more, len, pause) in arrivals {
            now = now + Duration::from_secs(pause);
            fragments.expire(now, |_, _, _| ());
            let header = four(identification, offset * 8, more);
            let len = if more { len.next_multiple_of(8) } else { len };
            let bytes = content(len);
            if let Ok(Some(whole)) = fragments.insert(now, Guest(guest), &header, &bytes.as_slice()) {
                prop_assert!(whole.payload.len() <= 12 * 8 + 40);
            }
            let cost = |queue: &Queue| {
                let packets = queue.packets.iter();
                let each = packets.map(|p| {
                    PACKET_COST + p.pieces.iter().map(Piece::cost).sum::<usize>()
                });
                each.sum::<usize>()
            };
            let queues = fragments.guests.values();
            prop_assert!(queues.clone().all(|queue| queue.bytes == cost(queue)));
            prop_assert_eq!(queues.map(cost).sum::<usize>(), fragments.bytes());
        }
        fragments.expire(now + TIMEOUT, |_, _, _| ());
        prop_assert_eq!((fragments.bytes(), fragments.guests.len()), (0, 0));
    }
}
