use std::collections::BTreeSet;

use super::*;
use crate::bench::results::Settings;
use proptest::prelude::*;

const PEER: &str = "192.168.7.7:4000";

fn plan(metal: Metal, levels: &[u8], rows: &[Row]) -> Plan {
    Plan {
        metal: metal.to_string(),
        emulated: metal != Metal::Host,
        levels: levels.to_vec(),
        rows: rows.to_vec(),
        boots: 8,
        exposures: vec!["on".to_owned()],
        monitors: vec![Monitor::default()],
        seed: 1,
        settings: Settings {
            samples: 100,
            cpus: 2,
            memory_mib: Some(256),
            timeout_s: 300,
            ..Settings::default()
        },
    }
}

fn planned(plan: &Plan, number: usize) -> Result<Boot, Error> {
    planned_with(plan, number, 30)
}

/// With an image of so many MiB.
fn planned_with(plan: &Plan, number: usize, image_mib: u32) -> Result<Boot, Error> {
    let metal = match plan.metal.as_str() {
        "host" => Metal::Host,
        "svm" => Metal::Svm,
        _ => Metal::Vmx,
    };
    let ground = Ground {
        metal,
        image_mib,
        memory_limit_mib: 16384,
        peer: Some(PEER.parse().unwrap()),
        disk: "/tmp/x/disk".into(),
    };
    let configuration = plan.configuration(number).unwrap();
    Boot::new(plan, number, &configuration, &ground)
}

fn boot(plan: &Plan, number: usize) -> Boot {
    planned(plan, number).unwrap()
}

/// Every level that is booted, the lowest first.
fn nests(boot: &Boot) -> Vec<&Nest> {
    let mut nests: Vec<&Nest> = boot.nest.iter().collect();
    while let Some(next) = nests.last().and_then(|nest| next(nest)) {
        nests.push(next);
    }
    nests
}

fn next(nest: &Nest) -> Option<&Nest> {
    let mut steps = nest.order.steps.iter();
    steps.find_map(|step| match step {
        Step::Nest(next) => Some(next),
        _ => None,
    })
}

/// What every level that measures does, in its order.
fn works(boot: &Boot) -> BTreeMap<u8, Vec<&Work>> {
    let host = boot
        .host
        .iter()
        .map(|(works, _)| (0, works.iter().collect()));
    let booted = nests(boot).into_iter().map(|nest| {
        let steps = nest.order.steps.iter();
        let works = steps.filter_map(|step| match step {
            Step::Workload(Workload::Bench(work)) => Some(work),
            _ => None,
        });
        (nest.order.level, works.collect())
    });
    host.chain(booted)
        .filter(|(_, works): &(u8, Vec<&Work>)| !works.is_empty())
        .collect()
}

fn turns(works: &[&Work]) -> Vec<Turn> {
    works.iter().flat_map(|work| work.turns.clone()).collect()
}

#[test]
fn memory_is_touched_first_and_small_pages_before_large_ones() {
    for metal in [Metal::Host, Metal::Svm, Metal::Vmx] {
        let plan = plan(metal, &[0, 1, 2], Row::ALL);
        for number in 0..8 {
            for (level, works) in works(&boot(&plan, number)) {
                let turns = turns(&works);
                let first: Vec<Row> = turns[..2].iter().map(|turn| turn.row).collect();
                assert_eq!(first, [Row::PageTouch4k, Row::PageTouch2m], "L{level}");
                let again = turns[2..].iter().filter(|turn| first.contains(&turn.row));
                assert_eq!(again.count(), 0, "L{level}");
            }
        }
    }
}

#[test]
fn boots_differ_in_their_order_and_can_be_repeated() {
    let plan = plan(Metal::Host, &[0, 1, 2], Row::ALL);
    let of = |plan: &Plan, number| {
        let boot = boot(plan, number);
        (boot.nest, boot.host)
    };
    for number in 0..8 {
        assert_eq!(of(&plan, number), of(&plan, number));
    }
    let rows: BTreeSet<Vec<Turn>> = (0..8)
        .flat_map(|number| {
            let boot = boot(&plan, number);
            let works = works(&boot);
            works
                .into_values()
                .map(|works| turns(&works))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        rows.len(),
        8 * 3,
        "every level of every boot has an order of its own"
    );
    // Whether L1 measures before it boots L2, and this host before it boots L1.
    let levels: BTreeSet<(bool, bool)> = (0..32)
        .map(|number| {
            let plan = Plan {
                boots: 32,
                ..plan.clone()
            };
            let boot = boot(&plan, number);
            let last = nests(&boot)[0].order.steps.last().unwrap();
            (matches!(last, Step::Nest(_)), boot.host.unwrap().1)
        })
        .collect();
    assert_eq!(levels.len(), 4);
    let other = Plan {
        seed: 2,
        ..plan.clone()
    };
    assert_ne!(of(&plan, 0), of(&other, 0));
}

#[test]
fn levels_that_are_not_measured_are_booted_without_work() {
    let deep = boot(&plan(Metal::Host, &[3], &[Row::Cpuid, Row::Boot]), 0);
    assert_eq!(deep.host, None);
    let levels: Vec<u8> = nests(&deep).iter().map(|nest| nest.order.level).collect();
    assert_eq!(levels, [1, 2, 3]);
    assert_eq!(works(&deep).into_keys().collect::<Vec<u8>>(), [3]);
    assert_eq!(deep.turns.keys().collect::<Vec<_>>(), [&3]);
    // Who boots another needs KVM.
    let kvm: Vec<bool> = nests(&deep)
        .iter()
        .map(|nest| nest.order.kvm.is_some())
        .collect();
    assert!(kvm[0] && kvm[1]);

    let host = boot(&plan(Metal::Host, &[0], &[Row::Cpuid]), 0);
    assert_eq!(host.nest, None);
    let emulated = boot(&plan(Metal::Svm, &[0], &[Row::Cpuid]), 0);
    assert_eq!(emulated.host, None);
    let [l0] = nests(&emulated)[..] else {
        panic!("{emulated:?}")
    };
    assert_eq!((l0.order.level, works(&emulated)[&0].len()), (0, 1));
}

#[test]
fn who_boots_is_measured_by_its_booting() {
    let boots = |metal| {
        let boot = boot(&plan(metal, &[0, 1], &[Row::Nop, Row::Boot]), 0);
        let turns = boot.turns.into_iter();
        let boots = turns.filter(|(_, turns)| turns.iter().any(|turn| turn.row == Row::Boot));
        boots.map(|(level, _)| level).collect::<Vec<u8>>()
    };
    // This host is up already.
    assert_eq!(boots(Metal::Host), [1]);
    assert_eq!(boots(Metal::Svm), [0, 1]);
}

#[test]
fn every_level_has_a_disk_where_rows_need_one_and_memory_for_those_above() {
    for (metal, own) in [
        (Metal::Host, ["/tmp/x/disk.l0", "/dev/vda", "/dev/vda"]),
        (Metal::Svm, ["/dev/vda", "/dev/vda", "/dev/vda"]),
        (Metal::Vmx, ["/dev/sda", "/dev/vda", "/dev/vda"]),
    ] {
        let with = boot(&plan(metal, &[0, 1, 2], &[Row::BlockRandRead]), 0);
        let without = boot(&plan(metal, &[0, 1, 2], &[Row::Cpuid]), 0);
        for (level, works) in works(&with) {
            let disk = works[0].disk.as_deref().and_then(|disk| disk.to_str());
            assert_eq!(disk, Some(own[usize::from(level)]), "{metal} L{level}");
        }
        assert!(
            works(&without)
                .values()
                .all(|works| works[0].disk.is_none())
        );
        for (with, without) in nests(&with).into_iter().zip(nests(&without)) {
            let level = with.order.level;
            let more = with.machine.memory_mib - without.machine.memory_mib;
            assert_eq!(more, DISK_MIB * u32::from(2 - level), "{metal} L{level}");
            let path = match (metal, level) {
                (_, 0) => None,
                (Metal::Host, 1) => Some("/tmp/x/disk"),
                _ => Some(DISK),
            };
            let disks = with.machine.disks.iter().map(|disk| disk.path.as_str());
            assert_eq!(
                disks.collect::<Vec<_>>(),
                Vec::from_iter(path),
                "{metal} L{level}"
            );
            assert!(without.machine.disks.is_empty());
        }
    }
}

#[test]
fn every_level_is_told_of_the_peer_on_l0() {
    for (metal, peer) in [(Metal::Host, PEER), (Metal::Svm, "192.0.2.1:8081")] {
        let plan = plan(metal, &[0, 1, 2], &[Row::NetConnect]);
        let boot = boot(&plan, 0);
        for (level, works) in works(&boot) {
            let server = works[0].server.map(|server| server.to_string());
            assert_eq!(server.as_deref(), Some(peer), "{metal} L{level}");
        }
        for nest in nests(&boot) {
            let level = nest.order.level;
            let served = nest
                .order
                .network
                .as_ref()
                .and_then(|network| network.bench);
            let served = served.map(|served| served.to_string());
            let expected = (level == 0).then(|| peer.to_owned());
            assert_eq!(served, expected, "{metal} L{level}");
            assert!(nest.machine.forwards.is_empty());
            assert_eq!(
                nest.machine.network.is_empty(),
                level == 0,
                "{metal} L{level}"
            );
        }
    }
    let silent = boot(&plan(Metal::Svm, &[0, 1], &[Row::Cpuid]), 0);
    assert!(
        works(&silent)
            .values()
            .all(|works| works[0].server.is_none())
    );
    assert!(
        nests(&silent)
            .iter()
            .all(|nest| nest.machine.network.is_empty())
    );
}

#[test]
fn a_boot_has_the_exposure_and_the_monitor_of_its_configuration() {
    let plan = Plan {
        exposures: vec!["on".to_owned(), "svm".to_owned()],
        monitors: vec![Monitor::default(), "qemu-q35".parse().unwrap()],
        ..plan(Metal::Svm, &[0, 1, 2], &[Row::Cpuid])
    };
    for number in 0..8 {
        let boot = boot(&plan, number);
        let configuration = plan.configuration(number).unwrap();
        let [l0, l1, l2] = nests(&boot)[..] else {
            panic!("{boot:?}")
        };
        assert_eq!(l0.monitor, None);
        for nest in [l1, l2] {
            assert_eq!(nest.machine.nested.to_string(), configuration.exposure);
            let named = nest
                .monitor
                .as_ref()
                .map_or("nestling", |monitor| &monitor.name);
            assert_eq!(named, configuration.monitor);
        }
    }
    for (exposure, said) in [
        ("svn", "the exposure svn: "),
        (
            "svm,-npt",
            "monitor qemu-q35 cannot boot a machine with controls",
        ),
    ] {
        let odd = Plan {
            exposures: vec![exposure.to_owned()],
            ..plan.clone()
        };
        let error = planned(&odd, 1).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn vcpus_are_pinned_where_there_are_processors_to_pin_to() {
    let pinned = |metal| -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
        let mut plan = plan(metal, &[0, 1, 2], &[Row::Cpuid]);
        if metal == Metal::Host {
            plan.settings.pin = vec![4, 6];
        }
        let boot = boot(&plan, 0);
        let machines = nests(&boot).into_iter();
        let machines = machines.map(|nest| nest.machine.cpu_affinity.clone());
        let works = works(&boot).into_values();
        let processors = works.map(|works| works[0].processors.clone());
        (machines.collect(), processors.collect())
    };
    let (machines, processors) = pinned(Metal::Host);
    assert_eq!(machines, [vec![4, 6], vec![0, 1]]);
    assert_eq!(processors, [vec![4, 6], vec![], vec![]]);
    // An emulated L0 has one processor.
    let (machines, processors) = pinned(Metal::Svm);
    assert_eq!(machines, [vec![], vec![], vec![0, 1]]);
    assert!(processors.iter().all(Vec::is_empty));
}

#[test]
fn memory_that_nobody_asks_for_suits_the_image() {
    let mut plan = plan(Metal::Svm, &[0, 1, 2], &[Row::Cpuid]);
    plan.settings.memory_mib = None;
    let deepest = |image_mib| {
        let boot = planned_with(&plan, 0, image_mib).unwrap();
        nests(&boot)[2].machine.memory_mib
    };
    assert_eq!(deepest(30), 256);
    assert!(deepest(200) > 2 * 200);
}

#[test]
fn a_boot_for_which_there_is_no_memory_is_refused() {
    let mut plan = plan(Metal::Svm, &[0, 1, 2], &[Row::Cpuid]);
    plan.settings.memory_mib = Some(16);
    assert!(
        planned(&plan, 0)
            .unwrap_err()
            .to_string()
            .contains("too little")
    );
    plan.settings.memory_mib = Some(16000);
    let error = planned(&plan, 0).unwrap_err().to_string();
    assert!(error.contains("this metal has 16384 MiB"), "{error}");
}

proptest! {
    #[test]
    fn every_level_measures_all_rows(
        rows in prop::sample::subsequence(Row::ALL, 1..=Row::ALL.len()),
        levels in prop::sample::subsequence(vec![0, 1, 2, 3], 1..=4),
        host: bool,
        number in 0usize..8,
        seed: u64,
    ) {
        let metal = if host { Metal::Host } else { Metal::Svm };
        let plan = Plan { seed, ..plan(metal, &levels, &rows) };
        let boot = boot(&plan, number);
        let works = works(&boot);
        prop_assert!(boot.turns.keys().eq(&levels));
        for &level in &levels {
            let mut expected: Vec<Turn> = Vec::new();
            for &row in rows.iter().filter(|&&row| row != Row::Boot) {
                let once = !host || [Row::PageTouch4k, Row::PageTouch2m].contains(&row);
                let passes = if once { 1 } else { 2 };
                expected.extend((0..passes).map(|pass| Turn { row, pass }));
            }
            let mut found = works.get(&level).map_or_else(Vec::new, |works| turns(works));
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(&found, &expected);
            let mut told = boot.turns[&level].clone();
            told.retain(|turn| turn.row != Row::Boot);
            told.sort_unstable();
            prop_assert_eq!(&told, &expected);
        }
        prop_assert!(works.keys().all(|level| levels.contains(level)));
        prop_assert!(works.values().flatten().all(|work| work.tell_samples == host));
    }
}
