use proptest::prelude::*;
use vm_memory::VolatileMemory;

use super::*;
use crate::Action;
use crate::pci::config::{Bar, ConfigSpace, Identity};
use crate::testing::Recorder;

const ECAM: u64 = layout::ECAM_BASE;

fn windows() -> Windows {
    Windows {
        low: 0xc000_0000..0xe000_0000,
        high: 0x10_0000_0000..0x20_0000_0000,
    }
}

/// Where the BARs of all probes are, as they were told.
type Places = Arc<Mutex<Vec<(u8, usize, u64)>>>;

/// A function with a 32-bit and a 64-bit BAR that reads as its tag.
struct Probe {
    tag: u8,
    config: ConfigSpace,
    places: Places,
}

impl Probe {
    fn boxed(tag: u8, places: &Places) -> Box<dyn PciFunction> {
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1234,
            device: u16::from(tag),
            class: 0xff_00_00,
            revision: 0,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        config.add_bar(
            0,
            Bar {
                size: 0x1000,
                is_64_bit: false,
                prefetchable: false,
            },
        );
        config.add_bar(
            2,
            Bar {
                size: 0x4000,
                is_64_bit: true,
                prefetchable: false,
            },
        );
        Box::new(Self {
            tag,
            config,
            places: places.clone(),
        })
    }
}

impl PciFunction for Probe {
    fn name(&self) -> &str {
        "probe"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn read_bar(&mut self, bar: usize, offset: u64, data: &mut [u8]) {
        assert!(offset + u64::try_from(data.len()).unwrap() <= 0x4000);
        data.fill(self.tag << 4 | u8::try_from(bar).unwrap());
    }

    fn write_bar(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn bar_mapped(&mut self, bar: usize, address: Option<u64>) {
        let mut places = lock(&self.places);
        match address {
            Some(address) => {
                assert!(
                    places.iter().all(|&(.., at)| at != address),
                    "two BARs at {address:#x}"
                );
                places.push((self.tag, bar, address));
            }
            None => {
                let place = places
                    .iter()
                    .position(|&(tag, index, _)| (tag, index) == (self.tag, bar));
                places.remove(place.expect("it was mapped"));
            }
        }
    }

    fn reset(&mut self) {
        self.config.reset();
    }
}

struct Machine {
    memory: Bus,
    ports: Bus,
    pci: Arc<PciBus>,
    places: Places,
}

/// A machine with probes 1 to `probes`, at the slots of those numbers.
fn machine(probes: u8) -> Machine {
    machine_with(probes, Access::EcamAndPorts)
}

fn machine_with(probes: u8, access: Access) -> Machine {
    let places = Places::default();
    let mut root = PciRoot::new(windows()).unwrap();
    for tag in 1..=probes {
        assert_eq!(root.add(Probe::boxed(tag, &places)).unwrap(), tag);
    }
    let pci = root.build();
    let (mut memory, mut ports) = (Bus::new(), Bus::new());
    pci.attach(access, &mut memory, &mut ports).unwrap();
    Machine {
        memory,
        ports,
        pci,
        places,
    }
}

impl Machine {
    fn config(&self, slot: u64, register: u64) -> u64 {
        ECAM + (slot << 15) + register
    }

    fn read32(&self, slot: u64, register: u64) -> u32 {
        let mut data = [0; 4];
        self.memory.read(self.config(slot, register), &mut data);
        u32::from_le_bytes(data)
    }

    fn write32(&self, slot: u64, register: u64, value: u32) {
        self.memory
            .write(self.config(slot, register), &value.to_le_bytes());
    }

    fn enable(&self, slot: u64, memory: bool) {
        self.write32(slot, 4, if memory { 2 } else { 0 });
    }

    fn at(&self, address: u64) -> u8 {
        let mut data = [0];
        self.memory.read(address, &mut data);
        data[0]
    }

    fn read_port<const N: usize>(&self, port: u64) -> [u8; N] {
        let mut data = [0; N];
        self.ports.read(port, &mut data);
        data
    }
}

#[test]
fn absent_devices_and_functions_read_all_ones() {
    let m = machine(1);
    assert_eq!(m.read32(0, 0), 0x0008_1b36, "host bridge");
    assert_eq!(m.read32(1, 0), 0x0001_1234);
    assert_eq!(m.read32(2, 0), u32::MAX);
    let mut data = [0; 4];
    m.memory.read(m.config(1, 0) + 0x1000, &mut data);
    assert_eq!(data, [0xff; 4], "function 1");
    assert_eq!(m.read32(1, 0x100), 0, "extended space");
    assert_eq!(
        m.read32(1, 0xffe),
        u32::MAX,
        "crosses into the next function"
    );
}

#[test]
fn both_mechanisms_reach_the_same_registers() {
    let m = machine(2);
    m.ports.write(0xcf8, &0x8000_1000u32.to_le_bytes());
    assert_eq!(m.read_port::<4>(0xcf8), 0x8000_1000u32.to_le_bytes());
    assert_eq!(m.read_port::<4>(0xcfc), 0x0002_1234u32.to_le_bytes());
    assert_eq!(m.read_port::<2>(0xcfe), 2u16.to_le_bytes());
    assert_eq!(m.read_port::<1>(0xcfd), [0x12]);
    m.ports.write(0xcf8, &0x8000_103cu32.to_le_bytes());
    m.ports.write(0xcfc, &[11]);
    assert_eq!(m.read32(2, 0x3c), 11);
    for absent in [0x0000_1000u32, 0x8000_1100, 0x8001_1000, 0x8000_f800] {
        m.ports.write(0xcf8, &absent.to_le_bytes());
        assert_eq!(m.read_port::<4>(0xcfc), [0xff; 4], "{absent:#x}");
    }
}

#[test]
fn the_reset_register_lies_among_the_configuration_ports() {
    for access in [Access::EcamAndPorts, Access::Ecam] {
        let m = machine_with(0, access);
        m.ports.write(0xcf8, &0x8000_0000u32.to_le_bytes());
        assert_eq!(m.ports.write(0xcf9, &[2]), Action::None);
        assert_eq!(m.read_port::<1>(0xcf9), [2]);
        assert_eq!(m.ports.write(0xcf9, &[6]), Action::Reset);
        assert_eq!(
            m.ports.write(0xcf8, &0x8000_0600u32.to_le_bytes()),
            Action::None
        );
    }
}

#[test]
fn a_kernel_that_looks_for_the_ports_finds_none_where_there_are_none() {
    let m = machine_with(1, Access::Ecam);
    // As Linux does (arch/x86/pci/direct.c, pci_check_type1).
    m.ports.write(0xcfb, &[1]);
    m.ports.write(0xcf8, &0x8000_0000u32.to_le_bytes());
    assert_eq!(m.read_port::<4>(0xcf8), [0xff; 4]);
    m.ports.write(0xcf8, &0x8000_0800u32.to_le_bytes());
    assert_eq!(m.read_port::<4>(0xcfc), [0xff; 4]);
    m.ports.write(0xcfc + 4, &[2]);
    assert_eq!(m.read32(1, 0), 0x0001_1234, "the ECAM is there");
}

#[test]
fn bars_have_distinct_addresses_and_appear_with_memory_enable() {
    let m = machine(3);
    assert_eq!(m.at(0xc000_0000), 0xff);
    for slot in 1..=3 {
        m.enable(slot, true);
    }
    for (slot, tag) in (1..=3u64).zip(1u8..) {
        let low = u64::from(m.read32(slot, 0x10));
        let high = u64::from(m.read32(slot, 0x18) & !0xf) | u64::from(m.read32(slot, 0x1c)) << 32;
        assert!(windows().low.contains(&low) && windows().high.contains(&high));
        assert_eq!((m.at(low), m.at(high + 0x3fff)), (tag << 4, tag << 4 | 2));
    }
    assert_eq!(lock(&m.places).len(), 6);
    m.enable(2, false);
    assert_eq!(lock(&m.places).len(), 4);
}

#[test]
fn a_bar_moves_with_its_register() {
    let m = machine(1);
    m.enable(1, true);
    let old = u64::from(m.read32(1, 0x10));
    m.write32(1, 0x10, 0xffff_ffff);
    assert_eq!(m.at(old), 0xff, "while it is being sized");
    assert_eq!(m.read32(1, 0x10), 0xffff_f000);
    m.write32(1, 0x10, 0xd123_4000);
    assert_eq!((m.at(old), m.at(0xd123_4fff)), (0xff, 0x10));
    m.pci.reset();
    assert_eq!(
        (u64::from(m.read32(1, 0x10)), m.at(0xd123_4000)),
        (old, 0xff)
    );
    assert!(lock(&m.places).is_empty());
}

#[test]
fn a_covered_bar_comes_back_when_the_other_moves_away() {
    let m = machine(2);
    m.enable(1, true);
    m.enable(2, true);
    let (first, second) = (m.read32(1, 0x10), m.read32(2, 0x10));
    m.write32(1, 0x10, second);
    assert_eq!(m.at(u64::from(second)), 0x10, "the lower slot wins");
    m.write32(2, 0x10, first);
    assert_eq!(
        (m.at(u64::from(second)), m.at(u64::from(first))),
        (0x10, 0x20)
    );
    m.write32(2, 0x10, second);
    assert_eq!(m.at(u64::from(first)), 0xff);
    m.write32(1, 0x10, first);
    assert_eq!(
        (m.at(u64::from(first)), m.at(u64::from(second))),
        (0x10, 0x20)
    );
}

#[test]
fn a_full_bus_and_a_full_window_are_errors() {
    let places = Places::default();
    let mut root = PciRoot::new(windows()).unwrap();
    for tag in 1..32 {
        root.add(Probe::boxed(tag % 16, &places)).unwrap();
    }
    let full = root.add(Probe::boxed(0, &places)).unwrap_err();
    assert_eq!(
        full,
        Error::Full {
            name: "probe".to_owned()
        }
    );

    let mut root = PciRoot::new(Windows {
        low: 0x1000..0x2000,
        ..windows()
    })
    .unwrap();
    root.add(Probe::boxed(1, &places)).unwrap();
    let none = root.add(Probe::boxed(2, &places)).unwrap_err();
    assert_eq!(
        none,
        Error::NoAddress {
            name: "probe".to_owned(),
            bar: 0,
            size: 0x1000
        }
    );

    let empty = 0x1000..0x1000;
    assert!(
        PciRoot::new(Windows {
            high: empty,
            ..windows()
        })
        .is_err()
    );
}

/// Writes that often hit what matters: command and BAR registers, and
/// addresses at which BARs collide.
fn config_write() -> impl Strategy<Value = (u64, u64, Vec<u8>)> {
    let anywhere = (
        0u64..5,
        0u64..0x1000,
        prop::collection::vec(any::<u8>(), 1..9),
    );
    let command = (1u64..4, Just(4u64), prop::collection::vec(0u8..8, 1..3));
    let low = (1u64..4, 0u32..4).prop_map(|(slot, step)| {
        (
            slot,
            0x10,
            (0xc000_0000 + step * 0x1000).to_le_bytes().to_vec(),
        )
    });
    let high = (1u64..4, 0u64..4).prop_map(|(slot, step)| {
        (
            slot,
            0x18,
            (0x10_0000_0000 + step * 0x4000).to_le_bytes().to_vec(),
        )
    });
    prop_oneof![anywhere, command, low, high]
}

/// Compares what a guest reads in place with what the functions answer.
fn compare(m: &Machine, host: &Recorder) -> Result<(), TestCaseError> {
    let shown = host.lent().shown;
    prop_assert_eq!(shown.len(), 4, "the bridge and three probes");
    for (address, copy) in shown {
        let (mut held, mut seen) = ([0; 4096], [0; 4096]);
        m.memory.read(address, &mut held);
        copy.as_volatile_slice().copy_to(&mut seen);
        prop_assert_eq!(held, seen, "at {:#x}", address);
    }
    Ok(())
}

proptest! {
    /// Whatever is written, and by either mechanism, what the guest reads in place
    /// is what the function would answer.
    #[test]
    fn copies_are_what_the_functions_hold(
        writes in prop::collection::vec((any::<bool>(), config_write()), 0..60),
    ) {
        let m = machine(3);
        let recorder = Arc::new(Recorder::default());
        let host: Arc<dyn Host> = recorder.clone();
        m.pci.show(&host).unwrap();
        for (by_port, (slot, register, data)) in writes {
            if by_port {
                let address = 0x8000_0000 | slot << 11 | register & 0xfc;
                let address = u32::try_from(address).unwrap();
                m.ports.write(0xcf8, &address.to_le_bytes());
                m.ports.write(0xcfc, &data[..data.len().min(4)]);
            } else {
                m.memory.write(m.config(slot, register), &data);
            }
            compare(&m, &recorder)?;
        }
        m.pci.reset();
        compare(&m, &recorder)?;
    }

    /// However BARs are moved about, each is told of exactly the places where
    /// the guest finds it, and no two are at one.
    #[test]
    fn functions_know_where_they_are(writes in prop::collection::vec(config_write(), 0..60)) {
        let m = machine(3);
        for slot in 1..4 {
            m.enable(slot, true);
        }
        for (slot, register, data) in writes {
            m.memory.write(m.config(slot, register), &data);
            for &(tag, bar, address) in lock(&m.places).iter() {
                prop_assert_eq!(m.at(address), tag << 4 | u8::try_from(bar).unwrap());
            }
        }
        let told = lock(&m.places).len();
        let mappings = m.pci.mappings.read().unwrap();
        prop_assert_eq!(mappings.without(&Mappings::default()).count(), told);
    }
}
