use std::time::Duration;

use super::*;
use crate::net::wire::arp::{Arp, Operation};
use crate::net::wire::ether::ethertype;
use crate::net::wire::vnet::VnetHeader;

const STATIONS_PER_PORT: usize = 4;
const START: Time = Time(7_000_000_000);
const GATEWAY: u8 = 0xFE;

pub(super) fn station(number: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, number]).unwrap()
}

pub(super) fn new_switch(stations_per_port: usize) -> Switch {
    Switch::new(&SwitchConfig {
        gateway: station(GATEWAY),
        gateway_addresses: vec!["192.168.100.1".parse().unwrap()],
        stations_per_port,
        seed: [0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210],
    })
}

fn own(number: u8) -> PortConfig {
    PortConfig {
        addresses: vec![station(number)],
        ..PortConfig::default()
    }
}

fn spoofing(number: u8) -> PortConfig {
    PortConfig {
        spoofing: true,
        ..own(number)
    }
}

/// A switch with ports of these configurations.
fn switch<const N: usize>(ports: [PortConfig; N]) -> (Switch, [PortId; N]) {
    let mut switch = new_switch(STATIONS_PER_PORT);
    let ids = ports.map(|config| switch.add_port(config).unwrap());
    (switch, ids)
}

fn ether(source: impl Into<Mac>, destination: impl Into<Mac>) -> EtherHeader {
    EtherHeader {
        source: source.into(),
        destination: destination.into(),
        ethertype: ethertype::IPV4,
        vlan: None,
    }
}

/// Sends a frame of 100 bytes between numbered stations.
fn send(
    switch: &mut Switch,
    from: PortId,
    now: Time,
    source: u8,
    destination: u8,
) -> Result<Egress, DropReason> {
    let header = ether(station(source), station(destination));
    switch.ingress(from, now, &header, 100)
}

fn broadcast(switch: &mut Switch, from: PortId, source: u8) -> Result<Vec<PortId>, DropReason> {
    let header = ether(station(source), Mac::BROADCAST);
    let egress = switch.ingress(from, START, &header, 100)?;
    Ok(egress.ports().collect())
}

fn many<const N: usize>(ports: [PortId; N]) -> Result<Egress, DropReason> {
    let mut set = PortSet::default();
    ports.into_iter().for_each(|port| set.insert(port));
    Ok(Egress::Many(set))
}

#[test]
fn without_spoofing_a_port_is_its_own_station_only() {
    let (mut switch, [a, b]) = switch([own(1), own(2)]);
    assert_eq!(send(&mut switch, a, START, 1, 2), Ok(Egress::One(b)));
    assert_eq!(
        send(&mut switch, b, START, 2, GATEWAY),
        Ok(Egress::One(PortId::GATEWAY))
    );
    assert_eq!(
        send(&mut switch, PortId::GATEWAY, START, GATEWAY, 1),
        Ok(Egress::One(a))
    );
    // What is bridged to it gets nothing out, and nothing in.
    assert_eq!(
        send(&mut switch, a, START, 9, 2),
        Err(DropReason::SpoofedSource)
    );
    assert_eq!(
        send(&mut switch, b, START, 2, 9),
        Err(DropReason::UnknownDestination)
    );
    assert_eq!(
        switch
            .counters(a)
            .unwrap()
            .dropped(DropReason::SpoofedSource),
        1
    );
    assert_eq!(switch.find(station(9), START), None);
    assert_eq!(broadcast(&mut switch, a, 1), Ok(vec![PortId::GATEWAY, b]));
}

#[test]
fn with_spoofing_nested_stations_are_full_members() {
    let (mut switch, [a, b, c]) = switch([spoofing(1), own(2), spoofing(3)]);
    // Asked for before it was heard, it may be behind any port with spoofing.
    assert_eq!(send(&mut switch, b, START, 2, 9), many([a, c]));
    assert_eq!(send(&mut switch, a, START, 9, 2), Ok(Egress::One(b)));
    assert_eq!(send(&mut switch, b, START, 2, 9), Ok(Egress::One(a)));
    assert_eq!(
        send(&mut switch, PortId::GATEWAY, START, GATEWAY, 9),
        Ok(Egress::One(a))
    );
    assert_eq!(send(&mut switch, a, START, 1, 9), Err(DropReason::SamePort));
    assert!(switch.stations(a, START).eq([station(9)]));
    assert_eq!(switch.stations(b, START).count(), 0);
}

#[test]
fn silent_stations_are_forgotten() {
    let (mut switch, [a, b]) = switch([spoofing(1), spoofing(2)]);
    let nearly_silent = |start: Time| {
        [
            start + (AGEING_TIME - Duration::from_nanos(1)),
            start + AGEING_TIME,
        ]
    };
    send(&mut switch, a, START, 9, 2).unwrap();
    let [known, aged] = nearly_silent(START);
    assert_eq!(switch.find(station(9), known), Some(a));
    assert_eq!(switch.find(station(9), aged), None);
    assert_eq!(switch.stations(a, aged).count(), 0);
    // Being heard again starts the time anew.
    send(&mut switch, a, known, 9, 2).unwrap();
    let [known, aged] = nearly_silent(known);
    assert_eq!(
        send(&mut switch, b, known, 9, 1),
        Err(DropReason::StolenSource)
    );
    assert_eq!(send(&mut switch, b, aged, 9, 1), Ok(Egress::One(a)));
    assert_eq!(switch.find(station(9), aged), Some(b));
    assert_eq!(switch.stations(a, aged).count(), 0);
}

#[test]
fn a_station_is_noted_once_a_second() {
    let (mut switch, [a, _]) = switch([spoofing(1), own(2)]);
    let second = Duration::from_secs(1);
    for pause in [Duration::ZERO, second / 2, second - Duration::from_nanos(1)] {
        send(&mut switch, a, START + pause, 9, 2).unwrap();
    }
    assert_eq!(switch.find(station(9), START + AGEING_TIME), None);
    send(&mut switch, a, START + second, 9, 2).unwrap();
    assert_eq!(switch.find(station(9), START + AGEING_TIME), Some(a));
}

#[test]
fn nobody_takes_the_address_of_another() {
    let (mut switch, [a, b]) = switch([spoofing(1), spoofing(2)]);
    send(&mut switch, a, START, 9, 2).unwrap();
    assert_eq!(
        send(&mut switch, b, START, 9, 1),
        Err(DropReason::StolenSource)
    );
    assert_eq!(
        send(&mut switch, b, START, 1, GATEWAY),
        Err(DropReason::StolenSource)
    );
    for from in [a, b] {
        assert_eq!(
            send(&mut switch, from, START, GATEWAY, 9),
            Err(DropReason::GatewayAddress)
        );
    }
    assert_eq!(
        send(&mut switch, PortId::GATEWAY, START, 9, 2),
        Err(DropReason::SpoofedSource)
    );
    assert_eq!(switch.find(station(9), START), Some(a));
    assert_eq!(switch.find(station(GATEWAY), START), Some(PortId::GATEWAY));
}

#[test]
fn a_flood_of_addresses_harms_its_own_port_only() {
    let (mut switch, [a, b]) = switch([spoofing(1), spoofing(2)]);
    send(&mut switch, b, START, 250, 1).unwrap();
    let learned = (10..200).filter(|&source| send(&mut switch, a, START, source, 2).is_ok());
    assert_eq!(learned.count(), STATIONS_PER_PORT);
    let counters = switch.counters(a).unwrap();
    assert_eq!(counters.dropped(DropReason::TooManyStations), 190 - 4);
    // Its own, what was learned and other ports go on; silence makes room.
    assert!(send(&mut switch, a, START, 1, 2).is_ok());
    assert!(send(&mut switch, a, START, 10, 2).is_ok());
    assert!(send(&mut switch, b, START, 251, 1).is_ok());
    let later = START + AGEING_TIME;
    assert!(send(&mut switch, a, later, 199, 2).is_ok());
    assert!(switch.stations(a, later).eq([station(199)]));
}

#[test]
fn configuration_is_stronger_than_learning() {
    let (mut switch, [a]) = switch([spoofing(1)]);
    send(&mut switch, a, START, 9, GATEWAY).unwrap();
    let b = switch.add_port(own(9)).unwrap();
    assert_eq!(send(&mut switch, a, START, 1, 9), Ok(Egress::One(b)));
    assert_eq!(
        send(&mut switch, a, START, 9, GATEWAY),
        Err(DropReason::StolenSource)
    );
    assert_eq!(switch.stations(a, START).count(), 0);
    // And it doesn't age.
    assert_eq!(switch.find(station(9), Time::NEVER), Some(b));
}

#[test]
fn isolated_ports_reach_the_others_only() {
    let isolated = |config| PortConfig {
        isolated: true,
        ..config
    };
    let (mut switch, [a, b, c]) = switch([isolated(own(1)), isolated(spoofing(2)), spoofing(3)]);
    assert_eq!(send(&mut switch, a, START, 1, 2), Err(DropReason::Isolated));
    assert_eq!(send(&mut switch, a, START, 1, 3), Ok(Egress::One(c)));
    assert_eq!(send(&mut switch, c, START, 3, 1), Ok(Egress::One(a)));
    assert_eq!(send(&mut switch, a, START, 1, 9), many([c]));
    assert_eq!(broadcast(&mut switch, a, 1), Ok(vec![PortId::GATEWAY, c]));
    assert_eq!(
        broadcast(&mut switch, c, 3),
        Ok(vec![PortId::GATEWAY, a, b])
    );
}

#[test]
fn tagged_frames_stay_in_their_vlan() {
    let member = |config, vlan| PortConfig {
        vlans: VlanSet::new([vlan]).unwrap(),
        ..config
    };
    let (mut switch, [a, b, c, d]) = switch([
        member(spoofing(1), 5),
        member(spoofing(2), 5),
        member(own(3), 6),
        own(4),
    ]);
    let mut send = |from, source, destination: Mac, vlan, ethertype| {
        let header = EtherHeader {
            vlan,
            ethertype,
            ..ether(station(source), destination)
        };
        switch.ingress(from, START, &header, 100)
    };
    let ip = ethertype::IPV4;
    assert_eq!(send(a, 1, Mac::BROADCAST, Some(5), ip), many([b]));
    assert_eq!(
        send(a, 1, station(2).into(), Some(5), ip),
        Ok(Egress::One(b))
    );
    assert_eq!(
        send(a, 1, station(3).into(), Some(5), ip),
        Err(DropReason::Vlan)
    );
    assert_eq!(
        send(a, 1, station(GATEWAY).into(), Some(5), ip),
        Err(DropReason::Vlan)
    );
    assert_eq!(
        send(a, 1, Mac::BROADCAST, Some(6), ip),
        Err(DropReason::Vlan)
    );
    assert_eq!(
        send(c, 3, Mac::BROADCAST, Some(6), ip),
        Err(DropReason::NoListener)
    );
    assert_eq!(
        send(d, 4, Mac::BROADCAST, Some(5), ip),
        Err(DropReason::Vlan)
    );
    assert_eq!(send(a, 1, station(9).into(), Some(5), ip), many([b]));
    // A priority alone is no VLAN, and hides none.
    assert_eq!(
        send(d, 4, station(1).into(), Some(0), ip),
        Ok(Egress::One(a))
    );
    for vlan in [None, Some(0)] {
        let hidden = send(d, 4, station(1).into(), vlan, ethertype::VLAN);
        assert_eq!(hidden, Err(DropReason::Vlan));
    }
    assert_eq!(
        send(a, 1, Mac::BROADCAST, None, ip),
        many([PortId::GATEWAY, b, c, d])
    );
}

#[test]
fn a_link_that_is_down_carries_nothing() {
    let (mut switch, [a, b, c]) = switch([spoofing(1), own(2), own(3)]);
    send(&mut switch, a, START, 9, 2).unwrap();
    switch.set_link(a, false).unwrap();
    assert_eq!(send(&mut switch, a, START, 1, 2), Err(DropReason::LinkDown));
    assert_eq!(
        send(&mut switch, b, START, 2, 1),
        Err(DropReason::DestinationDown)
    );
    assert_eq!(
        send(&mut switch, b, START, 2, 9),
        Err(DropReason::UnknownDestination)
    );
    assert_eq!(broadcast(&mut switch, b, 2), Ok(vec![PortId::GATEWAY, c]));
    switch.set_link(a, true).unwrap();
    assert_eq!(send(&mut switch, b, START, 2, 1), Ok(Egress::One(a)));
    assert_eq!(send(&mut switch, b, START, 2, 9), many([a]));
}

#[test]
fn filters_narrow_what_policy_allows() {
    let (mut switch, [a, b, c]) = switch([spoofing(1), own(2), own(3)]);
    let all_hosts = Mac::of_group4("224.0.0.1".parse().unwrap());
    let mdns = Mac::of_group4("224.0.0.251".parse().unwrap());
    let quiet = ReceiveFilter::new(ReceiveModes::NO_BROADCAST, &[], &[mdns]);
    switch.set_filter(a, quiet.clone()).unwrap();
    let to = |switch: &mut Switch, group| switch.ingress(b, START, &ether(station(2), group), 100);
    assert_eq!(to(&mut switch, mdns), many([PortId::GATEWAY, a, c]));
    assert_eq!(to(&mut switch, all_hosts), many([PortId::GATEWAY, c]));
    assert_eq!(to(&mut switch, Mac::BROADCAST), many([PortId::GATEWAY, c]));
    // Its own stations' frames come, but no others' until it asks for them.
    send(&mut switch, a, START, 9, 2).unwrap();
    assert_eq!(send(&mut switch, b, START, 2, 9), Ok(Egress::One(a)));
    assert_eq!(
        send(&mut switch, b, START, 2, 8),
        Err(DropReason::UnknownDestination)
    );
    // Promiscuity doesn't replace spoofing.
    switch.set_filter(c, ReceiveFilter::default()).unwrap();
    assert_eq!(
        send(&mut switch, b, START, 2, 8),
        Err(DropReason::UnknownDestination)
    );
    let wanted = ReceiveFilter::new(ReceiveModes::empty(), &[station(8).into()], &[]);
    switch.set_filter(a, wanted).unwrap();
    assert_eq!(send(&mut switch, b, START, 2, 8), many([a]));
    let deaf = ReceiveFilter::new(ReceiveModes::NO_UNICAST, &[], &[]);
    switch.set_filter(a, deaf).unwrap();
    assert_eq!(
        send(&mut switch, b, START, 2, 1),
        Err(DropReason::DestinationDown)
    );
}

#[test]
fn addresses_that_are_none_are_refused() {
    let (mut switch, [a, _]) = switch([spoofing(1), own(2)]);
    let mut send =
        |source: Mac, destination: Mac| switch.ingress(a, START, &ether(source, destination), 100);
    let good = Mac::from(station(1));
    for source in [Mac::default(), Mac::BROADCAST, Mac([1, 0, 0, 0, 0, 1])] {
        assert_eq!(
            send(source, station(2).into()),
            Err(DropReason::InvalidSource)
        );
    }
    assert_eq!(
        send(good, Mac::default()),
        Err(DropReason::InvalidDestination)
    );
    for last in 0..=0x0F {
        let group = Mac([0x01, 0x80, 0xC2, 0, 0, last]);
        assert_eq!(send(good, group), Err(DropReason::ReservedDestination));
    }
    assert!(send(good, Mac([0x01, 0x80, 0xC2, 0, 0, 0x10])).is_ok());
}

#[test]
fn limits_bound_each_direction_for_itself() {
    let frames = |burst| Limits {
        bytes: None,
        frames: Some(Rate {
            per_second: 1,
            burst,
        }),
    };
    let (mut switch, [a, b]) = switch([
        PortConfig {
            ingress: frames(5),
            flood: frames(1),
            ..spoofing(1)
        },
        PortConfig {
            egress: frames(3),
            ..own(2)
        },
    ]);
    assert_eq!(
        send(&mut switch, a, START, 1, 9),
        Err(DropReason::UnknownDestination)
    );
    assert_eq!(
        send(&mut switch, a, START, 1, 9),
        Err(DropReason::FloodLimit)
    );
    for _ in 0..3 {
        assert_eq!(switch.egress_ready(b, START), START);
        assert_eq!(send(&mut switch, a, START, 1, 2), Ok(Egress::One(b)));
    }
    assert_eq!(
        send(&mut switch, a, START, 1, 2),
        Err(DropReason::IngressLimit)
    );
    let ready = START + Duration::from_nanos(1);
    assert_eq!(switch.ingress_ready(a, START), ready);
    assert_eq!(switch.egress_ready(b, START), ready);
    assert_eq!(switch.ingress_ready(b, START), START);
    assert_eq!(
        send(&mut switch, PortId::GATEWAY, START, GATEWAY, 2),
        Err(DropReason::EgressLimit)
    );
    // A copy that a limit takes from a group's frame is no drop of the frame.
    assert_eq!(
        broadcast(&mut switch, PortId::GATEWAY, GATEWAY),
        Ok(vec![a])
    );
    let [a, b, gateway] = [a, b, PortId::GATEWAY].map(|id| *switch.counters(id).unwrap());
    let drops = |counters: &Counters| counters.drops().map(|(_, count)| count).sum::<u64>();
    assert_eq!(
        a.received,
        Traffic {
            frames: 3,
            bytes: 300
        }
    );
    assert_eq!((a.dropped(DropReason::FloodLimit), drops(&a)), (1, 3));
    assert_eq!(
        b.sent,
        Traffic {
            frames: 3,
            bytes: 300
        }
    );
    assert_eq!((b.dropped(DropReason::EgressLimit), drops(&b)), (2, 2));
    assert_eq!(
        gateway.received,
        Traffic {
            frames: 2,
            bytes: 200
        }
    );
    assert_eq!(drops(&gateway), 0);
}

#[test]
fn what_a_port_has_no_room_for_is_not_sent() {
    let (mut switch, [a, b]) = switch([own(1), own(2)]);
    for _ in 0..3 {
        send(&mut switch, a, START, 1, 2).unwrap();
    }
    switch.undelivered(b, 100, DropReason::NoRoom);
    let counters = switch.counters(b).unwrap();
    assert_eq!(
        counters.sent,
        Traffic {
            frames: 2,
            bytes: 200
        }
    );
    assert_eq!(counters.dropped(DropReason::NoRoom), 1);
}

#[test]
fn claims_are_refused_before_their_sender_is_learned() {
    let (mut switch, [a, _]) = switch([spoofing(1), own(2)]);
    let announce = |switch: &mut Switch, sender: &str| {
        let arp = Arp {
            operation: Operation::Reply,
            sender_mac: station(9).into(),
            sender_ip: sender.parse().unwrap(),
            target_mac: Mac::BROADCAST,
            target_ip: sender.parse().unwrap(),
        };
        let header = EtherHeader {
            ethertype: ethertype::ARP,
            ..ether(station(9), Mac::BROADCAST)
        };
        let mut frame = [0; 60];
        let at = header.write(&mut frame).unwrap();
        let bytes = arp.bytes();
        frame[at..at + bytes.len()].copy_from_slice(&bytes);
        let packet = Packet::parse(VnetHeader::default(), &frame, 60).unwrap();
        switch.ingress_inspected(a, START, &packet, 60)
    };
    let claim = announce(&mut switch, "192.168.100.1");
    assert_eq!(claim, Err(DropReason::GatewayClaim));
    assert_eq!(switch.find(station(9), START), None);
    assert!(announce(&mut switch, "192.168.100.2").is_ok());
    assert_eq!(switch.find(station(9), START), Some(a));
}

#[test]
fn impossible_ports_are_refused() {
    let (mut switch, [a]) = switch([own(1)]);
    let with = |numbers: &[u8]| PortConfig {
        addresses: numbers.iter().copied().map(station).collect(),
        ..PortConfig::default()
    };
    let in_use = |number, port| Error::AddressInUse {
        address: station(number),
        port,
    };
    let too_many: Vec<u8> = (20..=20 + 16).collect();
    for (config, error) in [
        (with(&[]), Error::NoAddress),
        (with(&[5, 1]), in_use(1, a)),
        (with(&[GATEWAY]), in_use(GATEWAY, PortId::GATEWAY)),
        (with(&[5, 6, 5]), Error::Repeated(station(5))),
        (with(&too_many), Error::TooManyAddresses(17)),
    ] {
        assert_eq!(switch.add_port(config), Err(error));
    }
    assert!(switch.add_port(with(&too_many[1..])).is_ok());
    let gateway = PortId::GATEWAY;
    let error = Error::NoSuchPort(gateway);
    assert_eq!(switch.remove_port(gateway), Err(error.clone()));
    assert_eq!(switch.set_link(gateway, false), Err(error.clone()));
    assert_eq!(switch.set_spoofing(gateway, true), Err(error.clone()));
    assert_eq!(
        switch.set_filter(gateway, ReceiveFilter::default()),
        Err(error)
    );
}

#[test]
fn spoofing_is_turned_on_and_off() {
    let (mut switch, [a, b]) = switch([own(1), own(2)]);
    assert_eq!(
        send(&mut switch, a, START, 9, 2),
        Err(DropReason::SpoofedSource)
    );
    switch.set_spoofing(a, true).unwrap();
    assert_eq!(send(&mut switch, a, START, 9, 2), Ok(Egress::One(b)));
    switch.set_spoofing(a, false).unwrap();
    assert_eq!(
        send(&mut switch, b, START, 2, 9),
        Err(DropReason::UnknownDestination)
    );
    let bare = PortConfig {
        spoofing: true,
        ..PortConfig::default()
    };
    let c = switch.add_port(bare).unwrap();
    assert_eq!(switch.set_spoofing(c, false), Err(Error::NoAddress));
}

#[test]
fn a_removed_port_leaves_nothing_behind() {
    let (mut switch, [a, b]) = switch([spoofing(1), own(2)]);
    send(&mut switch, a, START, 9, 2).unwrap();
    let counters = switch.remove_port(a).unwrap();
    assert_eq!(
        counters.received,
        Traffic {
            frames: 1,
            bytes: 100
        }
    );
    assert_eq!(switch.remove_port(a), Err(Error::NoSuchPort(a)));
    assert_eq!(send(&mut switch, a, START, 1, 2), Err(DropReason::LinkDown));
    for gone in [1, 9] {
        assert_eq!(switch.find(station(gone), START), None);
        assert_eq!(
            send(&mut switch, b, START, 2, gone),
            Err(DropReason::UnknownDestination)
        );
    }
    assert!(switch.counters(a).is_none() && switch.config(a).is_none());
    assert!(switch.ports().eq([PortId::GATEWAY, b]));
    // Its identity is the last to be given away again.
    let others: Vec<PortId> = (10..=250)
        .map(|n| switch.add_port(own(n)).unwrap())
        .collect();
    assert!(!others.contains(&a));
    let bare = PortConfig {
        spoofing: true,
        ..PortConfig::default()
    };
    let rest: Vec<PortId> = std::iter::from_fn(|| switch.add_port(bare.clone()).ok()).collect();
    assert_eq!(rest.last(), Some(&a));
    assert_eq!(others.len() + rest.len() + 2, PortId::COUNT);
    assert_eq!(switch.add_port(bare.clone()), Err(Error::TooManyPorts));
    switch.remove_port(a).unwrap();
    assert_eq!(switch.add_port(bare), Ok(a));
}
