//! The switch against its rules, each written down as plainly as can be: whole
//! scans of everything that was ever heard.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::tests::{new_switch, station};
use super::*;

const LIMIT: usize = 3;
const GATEWAY: u8 = 0xFE;
/// Numbers of the stations in play.
const STATIONS: [u8; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, GATEWAY];
const GROUP: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const RESERVED: Mac = Mac([0x01, 0x80, 0xC2, 0, 0, 0]);

#[derive(Clone, Debug)]
enum Step {
    Add(PortConfig),
    Remove(Index),
    Link(Index, bool),
    Spoofing(Index, bool),
    Filter(Index, ReceiveModes),
    Frame(Index, EtherHeader),
    /// Whole seconds: shorter ones may not be noted.
    Wait(u64),
}

fn port_config() -> impl Strategy<Value = PortConfig> {
    let addresses = subsequence(STATIONS.to_vec(), 0..3);
    let vlans = subsequence(vec![5, 6], 0..=2);
    (addresses, vlans, any::<[bool; 2]>()).prop_map(|(addresses, vlans, [spoofing, isolated])| {
        PortConfig {
            addresses: addresses.into_iter().map(station).collect(),
            vlans: VlanSet::new(vlans).unwrap(),
            spoofing,
            isolated,
            ..PortConfig::default()
        }
    })
}

fn header() -> impl Strategy<Value = EtherHeader> {
    let stations: Vec<Mac> = STATIONS.into_iter().map(|n| station(n).into()).collect();
    let special = vec![Mac::BROADCAST, GROUP, RESERVED, Mac::default()];
    let address = prop_oneof![
        9 => prop::sample::select(stations),
        1 => prop::sample::select(special),
    ];
    let vlan = prop_oneof![4 => Just(None), 1 => (4u16..7).prop_map(Some), 1 => Just(Some(0))];
    (address.clone(), address, vlan).prop_map(|(source, destination, vlan)| EtherHeader {
        source,
        destination,
        ethertype: 0x0800,
        vlan,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let port = || any::<Index>();
    prop_oneof![
        3 => port_config().prop_map(Step::Add),
        1 => port().prop_map(Step::Remove),
        1 => (port(), any::<bool>()).prop_map(|(port, up)| Step::Link(port, up)),
        1 => (port(), any::<bool>()).prop_map(|(port, on)| Step::Spoofing(port, on)),
        1 => (port(), any::<u8>())
            .prop_map(|(port, bits)| Step::Filter(port, ReceiveModes::from_bits_truncate(bits))),
        30 => (port(), header()).prop_map(|(port, header)| Step::Frame(port, header)),
        2 => prop_oneof![1u64..5, 100u64..310].prop_map(Step::Wait),
    ]
}

#[derive(Default)]
struct ModelPort {
    config: PortConfig,
    down: bool,
    modes: Option<ReceiveModes>,
    /// When each station behind it was heard last.
    heard: Vec<(Mac, Time)>,
    offered: u64,
    taken: u64,
}

impl ModelPort {
    fn has(&self, address: Mac) -> bool {
        let mut own = self.config.addresses.iter();
        own.any(|&own| Mac::from(own) == address)
    }

    fn has_heard(&self, address: Mac, now: Time) -> bool {
        let mut recent = self.recent(now);
        recent.any(|heard| heard == address)
    }

    fn recent(&self, now: Time) -> impl Iterator<Item = Mac> + '_ {
        let recent = move |time: Time| now.since(time) < Duration::from_secs(300);
        let heard = self.heard.iter().filter(move |(_, time)| recent(*time));
        heard.map(|(address, _)| *address)
    }

    fn is_in(&self, vlan: Option<u16>) -> bool {
        vlan.is_none_or(|vlan| vlan == 0 || self.config.vlans.contains(vlan))
    }

    fn wants(&self, destination: Mac, known: bool) -> bool {
        use ReceiveModes as M;
        let modes = self.modes.unwrap_or(M::PROMISCUOUS);
        let (yes, no) = match destination {
            Mac::BROADCAST => (M::all(), M::NO_BROADCAST),
            group if group.is_group() => (M::ALL_MULTICAST, M::NO_MULTICAST),
            _ if known => (M::all(), M::NO_UNICAST),
            _ => (M::ALL_UNICAST, M::NO_UNICAST),
        };
        let always = known || destination == Mac::BROADCAST;
        modes.contains(M::PROMISCUOUS) || (always || modes.intersects(yes)) && !modes.intersects(no)
    }
}

struct Model {
    ports: BTreeMap<PortId, ModelPort>,
    now: Time,
}

impl Model {
    fn new() -> Self {
        let config = PortConfig {
            addresses: vec![station(GATEWAY)],
            ..PortConfig::default()
        };
        let gateway = ModelPort {
            config,
            ..ModelPort::default()
        };
        Self {
            ports: BTreeMap::from([(PortId::GATEWAY, gateway)]),
            now: Time::ZERO,
        }
    }

    fn place(&self, address: Mac) -> Option<PortId> {
        let owner = self.ports.iter().find(|(_, port)| port.has(address));
        let hearer = || {
            let mut ports = self.ports.iter();
            ports.find(|(_, port)| port.has_heard(address, self.now))
        };
        owner.or_else(hearer).map(|(&id, _)| id)
    }

    fn may_be_added(&self, config: &PortConfig) -> bool {
        let taken = |address: &MacAddress| {
            let mut ports = self.ports.values();
            ports.any(|port| port.has((*address).into()))
        };
        (config.spoofing || !config.addresses.is_empty()) && !config.addresses.iter().any(taken)
    }

    /// Why the frame may not come from the port.
    fn refusal(&self, from: PortId, header: &EtherHeader) -> Option<DropReason> {
        let port = &self.ports[&from];
        let source = header.source;
        let elsewhere = self.place(source).is_some_and(|place| place != from);
        let full = port.recent(self.now).count() == LIMIT;
        let rules = [
            (port.down, Some(DropReason::LinkDown)),
            (!port.is_in(header.vlan), Some(DropReason::Vlan)),
            (source.station().is_none(), Some(DropReason::InvalidSource)),
            (port.has(source), None),
            (
                source == station(GATEWAY).into(),
                Some(DropReason::GatewayAddress),
            ),
            (!port.config.spoofing, Some(DropReason::SpoofedSource)),
            (elsewhere, Some(DropReason::StolenSource)),
            (port.has_heard(source, self.now), None),
            (full, Some(DropReason::TooManyStations)),
        ];
        rules.into_iter().find(|(applies, _)| *applies)?.1
    }

    /// The ports that a frame goes to which may come from its port.
    fn takers(&self, from: PortId, header: &EtherHeader) -> Vec<PortId> {
        let destination = header.destination;
        if destination == RESERVED || destination == Mac::default() {
            return Vec::new();
        }
        let place = self.place(destination);
        let sender = &self.ports[&from];
        let takes = |id: PortId, port: &ModelPort| {
            let meant = match place {
                _ if destination.is_group() => true,
                Some(place) => place == id,
                None => port.config.spoofing,
            };
            id != from
                && meant
                && !port.down
                && port.is_in(header.vlan)
                && !(sender.config.isolated && port.config.isolated)
                && port.wants(destination, place.is_some())
        };
        let ports = self.ports.iter();
        let takers = ports.filter(|(id, port)| takes(**id, port));
        takers.map(|(&id, _)| id).collect()
    }

    fn frame(&mut self, from: PortId, header: &EtherHeader) -> Result<Vec<PortId>, DropReason> {
        let now = self.now;
        let refusal = self.refusal(from, header);
        let port = self.ports.get_mut(&from).unwrap();
        port.offered += 1;
        if let Some(reason) = refusal {
            return Err(reason);
        }
        if !port.has(header.source) {
            port.heard.retain(|(address, _)| *address != header.source);
            port.heard.push((header.source, now));
        }
        let takers = self.takers(from, header);
        for id in &takers {
            self.ports.get_mut(id).unwrap().taken += 1;
        }
        Ok(takers)
    }

    fn pick(&self, index: Index) -> PortId {
        let ids: Vec<PortId> = self.ports.keys().copied().collect();
        *index.get(&ids)
    }
}

/// Makes a change to both; the gateway's port takes none.
fn change(
    switch: &mut Switch,
    model: &mut Model,
    index: Index,
    act: impl FnOnce(&mut Switch, PortId) -> Result<(), Error>,
    note: impl FnOnce(&mut ModelPort),
) -> Result<(), TestCaseError> {
    let id = model.pick(index);
    let result = act(switch, id);
    if id == PortId::GATEWAY {
        prop_assert_eq!(result, Err(Error::NoSuchPort(id)));
    } else if result.is_ok() {
        note(model.ports.get_mut(&id).unwrap());
    }
    Ok(())
}

fn run(switch: &mut Switch, model: &mut Model, step: Step) -> Result<(), TestCaseError> {
    match step {
        Step::Wait(seconds) => model.now = model.now + Duration::from_secs(seconds),
        Step::Add(config) => {
            let result = switch.add_port(config.clone());
            prop_assert_eq!(result.is_ok(), model.may_be_added(&config));
            let Ok(id) = result else { return Ok(()) };
            for port in model.ports.values_mut() {
                let lost = |address: &Mac| {
                    config
                        .addresses
                        .iter()
                        .any(|own| Mac::from(*own) == *address)
                };
                port.heard.retain(|(address, _)| !lost(address));
            }
            let port = ModelPort {
                config,
                ..ModelPort::default()
            };
            prop_assert!(model.ports.insert(id, port).is_none());
        }
        Step::Remove(index) => {
            let id = model.pick(index);
            let removed = switch.remove_port(id).is_ok();
            prop_assert_eq!(removed, id != PortId::GATEWAY);
            if removed {
                model.ports.remove(&id);
            }
        }
        Step::Link(index, up) => {
            let note = |port: &mut ModelPort| {
                port.down = !up;
                port.heard.retain(|_| up);
            };
            change(
                switch,
                model,
                index,
                |switch, id| switch.set_link(id, up),
                note,
            )?;
        }
        Step::Spoofing(index, on) => {
            let note = |port: &mut ModelPort| {
                port.config.spoofing = on;
                port.heard.retain(|_| on);
            };
            change(
                switch,
                model,
                index,
                |switch, id| switch.set_spoofing(id, on),
                note,
            )?;
        }
        Step::Filter(index, modes) => {
            let filter = ReceiveFilter::new(modes, &[], &[]);
            let note = |port: &mut ModelPort| port.modes = Some(modes);
            change(
                switch,
                model,
                index,
                |switch, id| switch.set_filter(id, filter),
                note,
            )?;
        }
        Step::Frame(index, header) => {
            let from = model.pick(index);
            let expected = model.frame(from, &header);
            let egress = switch.ingress(from, model.now, &header, 64);
            match expected {
                Err(reason) => prop_assert_eq!(egress, Err(reason)),
                Ok(takers) if takers.is_empty() => prop_assert!(egress.is_err()),
                Ok(takers) => {
                    let ports: Vec<_> = egress.unwrap().ports().collect();
                    prop_assert_eq!(ports, takers);
                }
            }
        }
    }
    Ok(())
}

/// What can be seen of the switch is what the model says.
fn compare(switch: &Switch, model: &Model) -> Result<(), TestCaseError> {
    prop_assert!(switch.ports().eq(model.ports.keys().copied()));
    for number in STATIONS {
        let place = model.place(station(number).into());
        prop_assert_eq!(switch.find(station(number), model.now), place);
    }
    for (&id, port) in &model.ports {
        let learned: Vec<Mac> = switch.stations(id, model.now).map(Mac::from).collect();
        prop_assert!(learned.len() <= LIMIT);
        let mut expected: Vec<Mac> = port.recent(model.now).collect();
        let mut sorted = learned.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(sorted, expected);
        let counters = switch.counters(id).unwrap();
        let dropped: u64 = counters.drops().map(|(_, count)| count).sum();
        prop_assert_eq!(counters.received.frames + dropped, port.offered);
        prop_assert_eq!(counters.sent.frames, port.taken);
        prop_assert_eq!(counters.sent.bytes, port.taken * 64);
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_switch_keeps_its_rules(steps in prop::collection::vec(step(), 1..150)) {
        let mut switch = new_switch(LIMIT);
        let mut model = Model::new();
        for step in steps {
            run(&mut switch, &mut model, step)?;
            compare(&switch, &model)?;
        }
    }
}
