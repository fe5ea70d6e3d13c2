use proptest::prelude::*;

use super::*;

fn station(mac: u8, port: PortNumber) -> Station {
    Station {
        mac: MacAddress::new([2, 0, 0, 0, 0, mac]).unwrap(),
        port,
    }
}

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn table() -> Neighbours<u8> {
    Neighbours::new(Limits {
        total: 6,
        per_port: 3,
    })
}

#[test]
fn an_unknown_address_is_asked_for_three_times() {
    let mut table = table();
    assert_eq!(table.next(at(0), 7), Next::Ask);
    assert_eq!(table.next(at(0), 7), Next::Wait);
    assert_eq!(table.deadline(), Some(at(1)));
    assert_eq!(table.timeout(at(0)), None);
    assert_eq!(table.timeout(at(1)), Some(Timeout::Ask(7, None)));
    assert_eq!(table.timeout(at(1)), None);
    assert_eq!(table.timeout(at(2)), Some(Timeout::Ask(7, None)));
    assert_eq!(table.timeout(at(3)), Some(Timeout::Lost(7)));
    assert!(table.is_empty());
    assert_eq!(table.deadline(), None);
}

#[test]
fn an_answer_resolves_and_lasts_until_stale() {
    let mut table = table();
    table.next(at(0), 7);
    let one = station(1, 1);
    assert_eq!(
        table.learn(at(0), 7, one, Evidence::Answer),
        Learned::Resolved
    );
    assert_eq!(table.deadline(), None);
    assert_eq!(table.next(at(29), 7), Next::Send(one));
    assert_eq!(table.next(at(30), 7), Next::SendAndAsk(one));
    assert_eq!(table.next(at(30), 7), Next::Send(one));
    assert_eq!(
        table.learn(at(30), 7, one, Evidence::Answer),
        Learned::Unchanged
    );
    assert_eq!(table.next(at(59), 7), Next::Send(one));
    // Traffic is as good as an answer.
    assert!(table.heard(at(59), 7, one));
    assert_eq!(table.next(at(88), 7), Next::Send(one));
    // Traffic of a stranger isn't.
    assert!(
        table.heard(at(89), 7, station(2, 1)),
        "behind the same port"
    );
    assert!(!table.heard(at(89), 7, station(1, 2)), "behind another");
    assert!(table.heard(at(89), 8, station(1, 2)), "of nobody known");
    assert_eq!(table.next(at(89), 7), Next::SendAndAsk(one));
    for second in [90, 91] {
        let timeout = table.timeout(at(second));
        assert_eq!(timeout, Some(Timeout::Ask(7, Some(one))));
    }
    assert_eq!(table.timeout(at(92)), Some(Timeout::Lost(7)));
    assert_eq!(table.next(at(92), 7), Next::Ask);
}

#[test]
fn an_address_that_was_given_back_is_free_for_others() {
    let mut table = table();
    let (one, other) = (station(1, 1), station(2, 2));
    let claim = Evidence::Claim;
    assert_eq!(table.learn(at(0), 7, one, claim), Learned::Resolved);
    // By somebody else, nothing is given back.
    table.forget(7, 2);
    assert_eq!(table.learn(at(1), 7, other, claim), Learned::Refused);
    table.forget(7, 1);
    table.forget(7, 1);
    assert!(table.is_empty());
    assert_eq!(table.learn(at(1), 7, other, claim), Learned::Resolved);
}

#[test]
fn what_nobody_asked_for_is_entered_only_as_a_claim() {
    let mut table = table();
    for evidence in [Evidence::Answer, Evidence::Hint] {
        assert_eq!(
            table.learn(at(0), 7, station(1, 1), evidence),
            Learned::Refused
        );
    }
    assert_eq!(
        table.learn(at(0), 7, station(1, 1), Evidence::Claim),
        Learned::Resolved
    );
}

#[test]
fn an_address_moves_freely_behind_its_port() {
    let mut table = table();
    table.learn(at(0), 7, station(1, 1), Evidence::Claim);
    let hint = table.learn(at(1), 7, station(2, 1), Evidence::Hint);
    assert_eq!(hint, Learned::Refused);
    let moved = table.learn(at(1), 7, station(2, 1), Evidence::Claim);
    assert_eq!(moved, Learned::Moved);
    assert_eq!(table.next(at(2), 7), Next::Send(station(2, 1)));
}

#[test]
fn an_address_changes_ports_only_when_its_station_is_silent() {
    let mut table = table();
    let (owner, thief) = (station(1, 1), station(2, 2));
    table.learn(at(0), 7, owner, Evidence::Claim);
    let steal = |table: &mut Neighbours<u8>, now| table.learn(now, 7, thief, Evidence::Claim);
    assert_eq!(steal(&mut table, at(5)), Learned::Refused);
    assert_eq!(steal(&mut table, at(40)), Learned::Contested(owner));
    assert_eq!(steal(&mut table, at(40)), Learned::Refused);
    // The owner answers: it keeps the address.
    table.learn(at(40), 7, owner, Evidence::Answer);
    assert_eq!(steal(&mut table, at(41)), Learned::Refused);
    assert_eq!(table.next(at(42), 7), Next::Send(owner));
    // The owner is gone.
    assert_eq!(steal(&mut table, at(80)), Learned::Contested(owner));
    table.timeout(at(81));
    table.timeout(at(82));
    assert_eq!(table.timeout(at(83)), Some(Timeout::Lost(7)));
    assert_eq!(steal(&mut table, at(84)), Learned::Resolved);
}

#[test]
fn a_port_pushes_out_its_own_only() {
    let mut table = table();
    let other = station(9, 2);
    table.learn(at(0), 100, other, Evidence::Claim);
    for address in 0..50 {
        let now = at(u64::from(address));
        let learned = table.learn(now, address, station(1, 1), Evidence::Claim);
        assert_eq!(learned, Learned::Resolved);
    }
    assert_eq!(table.len(), 4);
    assert_eq!(table.next(at(20), 100), Next::Send(other));
    // In a full table, a new port has no room.
    for address in 101..104 {
        table.learn(at(60), address, other, Evidence::Claim);
    }
    assert_eq!(
        table.learn(at(60), 200, station(3, 3), Evidence::Claim),
        Learned::Refused
    );
    table.forget_port(1);
    assert_eq!(table.len(), 3);
    assert_eq!(
        table.learn(at(60), 200, station(3, 3), Evidence::Claim),
        Learned::Resolved
    );
}

#[test]
fn questions_are_bounded() {
    let mut table = Neighbours::<u16>::new(Limits::default());
    let asked = (0..1000).filter(|&address| table.next(at(0), address) == Next::Ask);
    assert_eq!(asked.count(), MAX_UNKNOWN);
    assert_eq!(table.next(at(0), 2000), Next::Refuse);
    while table.timeout(at(5)).is_some() {}
    assert_eq!(table.next(at(5), 2000), Next::Refuse);
}

proptest! {
    #[test]
    fn the_table_stays_whole(
        steps in proptest::collection::vec((0..5u8, 0..12u8, 1..4u8, 0..4u32, 0..40u64), 1..200),
    ) {
        let mut table = table();
        let mut now = at(0);
        for (what, address, mac, port, wait) in steps {
            now = now + Duration::from_secs(wait);
            let station = station(mac, port);
            match what {
                0 => drop(table.next(now, address)),
                1 => drop(table.heard(now, address, station)),
                2 => drop(table.learn(now, address, station, Evidence::Claim)),
                3 => drop(table.learn(now, address, station, Evidence::Answer)),
                _ => while table.timeout(now).is_some() {},
            }
            prop_assert!(table.known <= 6);
            prop_assert!(table.by_port.values().all(|of_port| of_port.len() <= 3));
            let known = table.entries.values().filter(|entry| entry.station.is_some());
            prop_assert_eq!(known.count(), table.known);
            prop_assert_eq!(table.by_port.values().map(BTreeSet::len).sum::<usize>(), table.known);
            let asking = table.entries.values().filter(|entry| entry.asking.is_some()).count();
            prop_assert_eq!(table.deadlines.len(), asking);
            // Whatever has no station is being asked for.
            let mut entries = table.entries.values();
            let lost = entries.any(|entry| entry.station.is_none() && entry.asking.is_none());
            prop_assert!(!lost);
        }
    }
}
