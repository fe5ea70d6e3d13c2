use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    total: 20,
    per_guest: 8,
};

fn key(protocol: u8, port: u16) -> FlowKey {
    FlowKey {
        protocol,
        inner: Endpoint::new(Ipv4Addr::new(192, 168, 100, 10), port),
        outer: None,
    }
}

fn table<T>() -> FlowTable<T> {
    FlowTable::new(LIMITS, RandomState::new())
}

#[test]
fn flows_are_found_by_all_of_their_key() {
    let outer = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), 53);
    let six = Endpoint::new(Ipv6Addr::LOCALHOST, 53);
    let keys = [
        key(17, 53),
        key(6, 53),
        key(17, 54),
        FlowKey {
            outer: Some(outer),
            ..key(17, 53)
        },
        FlowKey {
            inner: outer,
            ..key(17, 53)
        },
        FlowKey {
            inner: six,
            ..key(17, 53)
        },
        FlowKey {
            outer: Some(six),
            ..key(17, 53)
        },
    ];
    let mut table = table();
    for (i, key) in keys.into_iter().enumerate() {
        assert_eq!(table.find(&key), None);
        let id = table.insert(Guest(0), key, i).unwrap();
        assert_eq!(table.insert(Guest(1), key, i), Err(FlowError::Exists));
        assert_eq!(table.find(&key), Some(id));
    }
    for (i, key) in keys.into_iter().enumerate() {
        let id = table.find(&key).unwrap();
        assert_eq!((table.get(id), table.key(id)), (Some(&i), Some(&key)));
        assert_eq!(table.remove(id), Some((key, i)));
        assert_eq!((table.find(&key), table.get(id)), (None, None));
    }
    assert!(table.is_empty());
}

#[test]
fn no_guest_takes_more_than_its_share() {
    let mut table = table();
    let mut ports = 1..;
    let mut add = |table: &mut FlowTable<()>, guest| {
        let admitted = table.admit(Guest(guest));
        let inserted = table.insert(Guest(guest), key(17, ports.next().unwrap()), ());
        assert_eq!(admitted.err(), inserted.err());
        inserted
    };
    for _ in 0..LIMITS.per_guest {
        add(&mut table, 1).unwrap();
    }
    assert_eq!(add(&mut table, 1), Err(FlowError::GuestFull(8)));
    for _ in 0..LIMITS.per_guest {
        add(&mut table, 2).unwrap();
    }
    let last: Vec<_> = (0..4).map(|_| add(&mut table, 3).unwrap()).collect();
    assert_eq!(add(&mut table, 3), Err(FlowError::TableFull(20)));
    assert_eq!(table.of(Guest(3)).collect::<Vec<_>>(), last);
    table.remove(last[0]).unwrap();
    assert_eq!(table.count_of(Guest(3)), 3);
    add(&mut table, 3).unwrap();
}

#[test]
fn endpoints_are_written_as_usual() {
    let four = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), 53);
    let six = Endpoint::new(Ipv6Addr::LOCALHOST, 53);
    assert_eq!(four.to_string(), "192.0.2.1:53");
    assert_eq!(format!("{six:?}"), "[::1]:53");
    assert_eq!(Endpoint::from(SocketAddr::from(six)), six);
}

#[test]
fn keys_are_small() {
    assert!(size_of::<FlowKey>() <= 42, "{}", size_of::<FlowKey>());
}

proptest! {
    #[test]
    fn a_table_is_a_bounded_map(
        operations in prop::collection::vec((any::<bool>(), 0u32..4, 0u16..30), 0..200),
    ) {
        let mut table = table();
        let mut model: HashMap<u16, (u32, FlowId)> = HashMap::new();
        for (add, guest, port) in operations {
            let key = key(6, port);
            if add {
                let share = model.values().filter(|(of, _)| *of == guest).count();
                match table.insert(Guest(guest), key, port) {
                    Ok(id) => {
                        prop_assert!(model.insert(port, (guest, id)).is_none());
                    }
                    Err(FlowError::Exists) => prop_assert!(model.contains_key(&port)),
                    Err(FlowError::TableFull(_)) => prop_assert_eq!(model.len(), 20),
                    Err(FlowError::GuestFull(_)) => prop_assert_eq!(share, 8),
                }
            } else if let Some((_, id)) = model.remove(&port) {
                prop_assert_eq!(table.remove(id), Some((key, port)));
                prop_assert_eq!(table.remove(id), None);
            } else {
                prop_assert_eq!(table.find(&key), None);
            }
            prop_assert_eq!(table.len(), model.len());
        }
        for (port, (guest, id)) in &model {
            prop_assert_eq!(table.find(&key(6, *port)), Some(*id));
            prop_assert_eq!(table.guest(*id), Some(Guest(*guest)));
        }
        prop_assert_eq!(table.iter().count(), model.len());
    }
}
