use super::*;
use nestling_arch::nested::When;
use proptest::prelude::*;

fn leaf(level: u8) -> Order {
    Order {
        version: VERSION,
        level,
        modules: vec!["virtio_blk".into()],
        kvm: Some(Kvm {
            common: "min_timer_period_us=20000".into(),
            intel: "enable_apicv=0".into(),
            amd: String::new(),
        }),
        network: None,
        steps: vec![Step::Workload(Workload::Hello)],
    }
}

fn nest(order: Order) -> Step {
    Step::Nest(Nest {
        name: "first".into(),
        machine: Machine {
            cpus: 1,
            cpu_affinity: Vec::new(),
            memory_mib: 256,
            nested: Request::plain(When::On),
            cpu_template: None,
            hyperv: hyperv::Request::Off,
            cmdline: "console=ttyS0".into(),
            disks: vec![],
            nets: Vec::new(),
            network: String::new(),
            forwards: Vec::new(),
        },
        monitor: "qemu-q35".parse().ok(),
        limits: Limits {
            boot_s: 60,
            silence_s: 30,
            total_s: 300,
        },
        sample_s: Some(5),
        trace: true,
        raw_console: false,
        fetch: None,
        order: Box::new(order),
    })
}

fn workload() -> impl Strategy<Value = Workload> {
    prop_oneof![
        Just(Workload::Hello),
        Just(Workload::Shell),
        Just(Workload::Probe),
        Just(Workload::OutOfMemory),
        (
            prop::collection::vec(".*", 1..4),
            prop::collection::btree_map(".*", ".*", 0..3)
        )
            .prop_map(|(argv, env)| Workload::Program { argv, env }),
        (any::<u64>(), any::<u64>()).prop_map(|(length, seed)| Workload::DiskWrite {
            device: "/dev/vda".into(),
            length,
            seed
        }),
    ]
}

#[test]
fn another_system_is_a_step_with_a_kernel() {
    let text = r#"{
        "version": 1, "level": 0, "steps": [{
            "step": "run", "name": "xen", "kernel": "/xen", "total_s": 600,
            "modules": ["/nestling/kernel,console=hvc0"],
            "machine": {
                "cpus": 1, "memory_mib": 1024, "nested": "on", "cmdline": "com1"
            }
        }]
    }"#;
    let order = Order::parse(text.as_bytes()).unwrap();
    let [Step::Run(run)] = &order.steps[..] else {
        panic!("{order:?}")
    };
    assert_eq!((run.kernel.as_str(), run.initrd.as_ref()), ("/xen", None));
    assert_eq!(run.modules, ["/nestling/kernel,console=hvc0"]);
    let again = serde_json::to_vec(&order).unwrap();
    assert_eq!(Order::parse(&again).unwrap(), order);
    // The level above the highest has no machine either.
    let high = text.replace("\"level\": 0", "\"level\": 7");
    let error = Order::parse(high.as_bytes()).unwrap_err();
    assert!(matches!(error, Error::Level { found: 8, .. }), "{error}");
}

proptest! {
    #[test]
    fn an_order_survives_its_file(
        works in prop::collection::vec(workload(), 0..4),
        first in 0u8..4,
        depth in 0u8..4,
    ) {
        let mut order = leaf(first + depth);
        order.steps = works.into_iter().map(Step::Workload).collect();
        for level in (first..first + depth).rev() {
            order = Order { steps: vec![nest(order)], ..leaf(level) };
        }
        let bytes = serde_json::to_vec(&order).unwrap();
        prop_assert_eq!(Order::parse(&bytes).unwrap(), order);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Order::parse(&bytes).is_err());
    }
}

#[test]
fn a_later_version_is_named_before_its_fields_are_judged() {
    let error = Order::parse(br#"{"version": 2, "layers": []}"#).unwrap_err();
    assert!(matches!(error, Error::Version { found: 2 }));
}

#[test]
fn a_level_that_does_not_follow_is_refused() {
    let order = Order {
        steps: vec![nest(leaf(3))],
        ..leaf(1)
    };
    let bytes = serde_json::to_vec(&order).unwrap();
    let error = Order::parse(&bytes).unwrap_err();
    assert!(matches!(
        error,
        Error::Level {
            found: 3,
            expected: 2
        }
    ));
}

#[test]
fn the_segment_holds_the_order_under_its_path() {
    let order = leaf(1);
    let segment = order.segment().unwrap();
    assert_eq!(segment.len() % 4, 0);
    let mut input = segment.as_slice();
    let mut names = Vec::new();
    loop {
        let mut reader = cpio::NewcReader::new(input).unwrap();
        let entry = reader.entry().clone();
        if entry.is_trailer() {
            break;
        }
        let mut body = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut body).unwrap();
        if entry.name() == "etc/nestling/order.json" {
            assert_eq!(Order::parse(&body).unwrap(), order);
        }
        names.push(entry.name().to_owned());
        input = reader.finish().unwrap();
    }
    assert_eq!(names, ["etc", "etc/nestling", "etc/nestling/order.json"]);
}

#[test]
fn patterns_differ_by_seed_and_by_place() {
    assert_ne!(pattern(1, 0), pattern(2, 0));
    assert_ne!(pattern(1, 0), pattern(1, 1));
    assert_eq!(pattern(0, 0), 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
}
