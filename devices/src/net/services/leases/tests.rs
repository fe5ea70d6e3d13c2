use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

type Table = Leases<Ipv4Addr, u8>;

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn mac(last: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, last]).unwrap()
}

fn asker(port: PortNumber, client: u8) -> Asker<u8> {
    Asker {
        port,
        mac: mac(client),
        client,
    }
}

fn table(total: usize, per_port: usize) -> Table {
    Leases::new(
        address(10)..=address(19),
        [address(12)],
        HashMap::from([(mac(200), address(14))]),
        Limits { total, per_port },
    )
}

const NOW: Time = Time(1_000_000_000_000);

fn after(seconds: u64) -> Time {
    NOW + Duration::from_secs(seconds)
}

#[test]
fn addresses_come_in_order_without_those_excluded() {
    let mut table = table(100, 100);
    let given: Vec<_> = (0..9)
        .map(|client| table.acquire(NOW, after(60), &asker(1, client), None))
        .collect();
    let expected = [10, 11, 13, 15, 16, 17, 18, 19].map(|last| Some(address(last)));
    assert_eq!(given[..8], expected);
    assert_eq!(given[8], None);
}

#[test]
fn no_port_gets_a_whole_pool() {
    for (last, share) in [(10, 1), (12, 3), (13, 3), (19, 8), (109, 75)] {
        let limits = Limits::default().sharing(&(address(10)..=address(last)));
        assert_eq!(limits.per_port, share, "{last}");
        assert_eq!(limits.total, Limits::default().total);
    }
    let limits = Limits::default().sharing(&(Ipv4Addr::UNSPECIFIED..=Ipv4Addr::BROADCAST));
    assert_eq!(limits, Limits::default());
}

#[test]
fn a_client_keeps_its_address_and_may_wish_for_one() {
    let mut table = table(100, 100);
    let wish = table.acquire(NOW, after(60), &asker(1, 1), Some(address(17)));
    assert_eq!(wish, Some(address(17)));
    // Taken, outside, excluded, reserved.
    for last in [17, 30, 12, 14] {
        let given = table.acquire(NOW, after(60), &asker(1, last), Some(address(last)));
        assert_ne!(given, Some(address(last)));
    }
    // What it has goes before what it wants, also when it has expired.
    let again = table.acquire(after(600), after(660), &asker(1, 1), Some(address(18)));
    assert_eq!(again, Some(address(17)));
}

#[test]
fn a_name_is_worth_nothing_behind_another_port() {
    let mut table = table(100, 100);
    let first = table.acquire(NOW, after(60), &asker(1, 1), None);
    let second = table.acquire(NOW, after(60), &asker(2, 1), None);
    assert_ne!(first, second);
    assert_eq!(table.held_by(NOW, &asker(1, 1)), first);
    assert_eq!(table.held_by(NOW, &asker(2, 1)), second);
}

#[test]
fn a_reservation_goes_before_all_else() {
    let mut table = table(100, 1);
    let mut reserved = asker(1, 200);
    assert_eq!(
        table.acquire(NOW, after(60), &reserved, Some(address(18))),
        Some(address(14))
    );
    table.bind(address(14), after(3600), None);
    // The same machine by another name, as after a reinstallation.
    reserved.client = 201;
    assert_eq!(
        table.acquire(NOW, after(60), &reserved, None),
        Some(address(14))
    );
    assert_eq!(table.leases[&address(14)].client, 201);
    // Declined, it isn't offered until the quarantine ends.
    table.decline(address(14), after(600));
    let other = table.acquire(NOW, after(60), &reserved, None);
    assert_eq!(other, None, "the port has its one lease");
    assert_eq!(
        table.acquire(after(600), after(660), &reserved, None),
        Some(address(14))
    );
}

#[test]
fn a_port_has_its_share_only() {
    let mut table = table(100, 3);
    for client in 0..3 {
        assert!(
            table
                .acquire(NOW, after(60), &asker(1, client), None)
                .is_some()
        );
    }
    assert_eq!(table.acquire(NOW, after(60), &asker(1, 9), None), None);
    assert!(table.acquire(NOW, after(60), &asker(2, 9), None).is_some());
    // Declining doesn't help.
    for address in [address(10), address(11), address(13)] {
        table.decline(address, after(600));
    }
    assert_eq!(table.acquire(NOW, after(60), &asker(1, 0), None), None);
    // Expired ones are replaced.
    assert!(
        table
            .acquire(after(600), after(660), &asker(1, 9), None)
            .is_some()
    );
    assert_eq!(table.iter().count(), 4);
}

#[test]
fn the_table_has_an_end_and_forgets_the_oldest() {
    let mut table = table(2, 100);
    let first = table.acquire(NOW, after(60), &asker(1, 1), None).unwrap();
    table.bind(first, after(100), None);
    let second = table.acquire(NOW, after(60), &asker(2, 2), None).unwrap();
    table.bind(second, after(200), None);
    assert_eq!(
        table.acquire(after(50), after(110), &asker(3, 3), None),
        None
    );
    let third = table.acquire(after(150), after(210), &asker(3, 3), None);
    assert_eq!(third, Some(first));
    assert_eq!(table.address_of(&asker(1, 1)), None);
    assert_eq!(table.address_of(&asker(2, 2)), Some(second));
}

#[test]
fn a_client_finds_its_lease_behind_another_port_once_its_own_is_gone() {
    let mut table = table(100, 100);
    table.acquire(NOW, after(60), &asker(9, 9), None);
    let had = table.acquire(NOW, after(60), &asker(1, 1), None).unwrap();
    table.bind(had, after(3600), Some("one".into()));
    table.forget_port(1);
    assert_eq!(table.held_by(NOW, &asker(2, 1)), None);
    assert_eq!(table.leases[&had].port, None);
    assert_eq!(table.acquire(NOW, after(60), &asker(2, 1), None), Some(had));
    let lease = &table.leases[&had];
    assert_eq!((lease.port, lease.state), (Some(2), State::Offered));
}

#[test]
fn a_client_that_extends_its_lease_keeps_its_name() {
    let mut table = table(100, 100);
    let one = asker(1, 1);
    let had = table.acquire(NOW, after(60), &one, None).unwrap();
    for (name, known) in [
        (None, None),
        (Some("one"), Some("one")),
        (None, Some("one")),
        (Some("two"), Some("two")),
    ] {
        let bound = table.bind(had, after(100), name.map(String::from));
        assert_eq!(bound.as_deref(), known);
    }
    table.release(after(1), had);
    table.acquire(after(2), after(60), &one, None);
    assert_eq!(table.bind(had, after(100), None), None);
    // It ends unheard, and the client comes back.
    table.bind(had, after(100), Some("one".into()));
    table.acquire(after(200), after(260), &one, None);
    assert_eq!(table.bind(had, after(300), None), None);
}

#[derive(Clone, Debug)]
enum Step {
    Acquire {
        port: u32,
        client: u8,
        wanted: Option<u8>,
    },
    Bind {
        port: u32,
        client: u8,
    },
    Release {
        port: u32,
        client: u8,
    },
    Decline {
        port: u32,
        client: u8,
    },
    Forget {
        port: u32,
    },
    Wait {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let client = (0..4u32, 0..8u8);
    prop_oneof![
        4 => (client.clone(), proptest::option::of(5..25u8)).prop_map(|((port, client), wanted)| {
            Step::Acquire { port, client, wanted }
        }),
        3 => client.clone().prop_map(|(port, client)| Step::Bind { port, client }),
        1 => client.clone().prop_map(|(port, client)| Step::Release { port, client }),
        1 => client.prop_map(|(port, client)| Step::Decline { port, client }),
        1 => (0..4u32).prop_map(|port| Step::Forget { port }),
        1 => (1..300u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

fn check(table: &Table, now: Time) {
    assert!(table.leases.len() <= table.limits.total);
    assert_eq!(table.ages.len(), table.leases.len());
    assert_eq!(table.port_ages.len(), table.leases.len());
    let owned = table
        .leases
        .values()
        .filter(|lease| lease.state != State::Declined)
        .count();
    assert_eq!(table.clients.len(), owned);
    for (key, address) in &table.clients {
        let lease = &table.leases[address];
        assert_eq!(key, &(lease.port, lease.client));
    }
    for (address, lease) in &table.leases {
        assert!(table.ages.contains(&(lease.expires, *address)));
        assert!(
            table
                .port_ages
                .contains(&(lease.port, lease.expires, *address))
        );
        assert!(table.pool.contains(address) && !table.excluded.contains(address));
        assert!(lease.state != State::Free || lease.expires <= now);
    }
    for address in &table.returned {
        assert!(!table.leases.contains_key(address));
        assert!(table.fresh.is_none_or(|fresh| *address < fresh));
    }
    for port in 0..4 {
        let of_port = table
            .leases
            .values()
            .filter(|lease| lease.port == Some(port));
        assert!(of_port.count() <= table.limits.per_port);
    }
}

proptest! {
    #[test]
    fn no_two_clients_hold_one_address(steps in proptest::collection::vec(step(), 1..120)) {
        let mut table = table(6, 3);
        let mut now = NOW;
        // What each client was told last, and until when it may rely on it.
        let mut told: BTreeMap<(u32, u8), (Ipv4Addr, Time)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Acquire { port, client, wanted } => {
                    let until = now + Duration::from_secs(60);
                    let asker = asker(port, client);
                    let held = table.held_by(now, &asker);
                    let given = table.acquire(now, until, &asker, wanted.map(address));
                    if held.is_some() {
                        prop_assert_eq!(given, held);
                    }
                    if let Some(given) = given {
                        prop_assert_eq!(table.held_by(now, &asker), Some(given));
                    }
                }
                Step::Bind { port, client } => {
                    if let Some(held) = table.held_by(now, &asker(port, client)) {
                        let until = now + Duration::from_secs(200);
                        table.bind(held, until, None);
                        told.insert((port, client), (held, until));
                    }
                }
                Step::Release { port, client } => {
                    if let Some(held) = table.held_by(now, &asker(port, client)) {
                        table.release(now, held);
                        told.remove(&(port, client));
                    }
                }
                Step::Decline { port, client } => {
                    if let Some(held) = table.held_by(now, &asker(port, client)) {
                        table.decline(held, now + Duration::from_secs(100));
                        told.remove(&(port, client));
                    }
                }
                Step::Forget { port } => {
                    table.forget_port(port);
                    told.retain(|(of, _), _| *of != port);
                }
                Step::Wait { seconds } => now = now + Duration::from_secs(seconds),
            }
            told.retain(|_, (_, until)| *until > now);
            check(&table, now);
            for (&(port, client), &(address, _)) in &told {
                prop_assert_eq!(table.held_by(now, &asker(port, client)), Some(address));
            }
        }
    }
}
