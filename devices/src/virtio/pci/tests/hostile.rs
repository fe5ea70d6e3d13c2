//! A driver that does anything at all.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Config(u64, Vec<u8>),
    Bar(u64, Vec<u8>),
    Read(u64, usize),
    /// A correct start, so that what follows meets a running device.
    Start,
    Interrupt(u8),
    Refuse(bool),
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![1usize, 2, 4, 8])
        .prop_flat_map(|len| prop::collection::vec(prop_oneof![any::<u8>(), 0u8..16], len))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..0x100, bytes()).prop_map(|(offset, data)| Step::Config(offset, data)),
        3 => (0u64..0x40, bytes()).prop_map(|(offset, data)| Step::Bar(offset, data)),
        2 => (0u64..0x20, any::<u32>())
            .prop_map(|(field, data)| Step::Bar(TABLE + field * 4, data.to_le_bytes().to_vec())),
        2 => (0u64..0x8000, bytes()).prop_map(|(offset, data)| Step::Bar(offset, data)),
        1 => (0u64..0x8000, 1usize..9).prop_map(|(offset, len)| Step::Read(offset, len)),
        2 => Just(Step::Start),
        2 => any::<u8>().prop_map(Step::Interrupt),
        1 => any::<bool>().prop_map(Step::Refuse),
    ]
}

fn take(m: &Machine, step: Step) {
    match step {
        Step::Config(offset, data) => {
            m.bus.write(ECAM + (1 << 15) + offset, &data);
        }
        Step::Bar(offset, data) => {
            m.bus.write(m.bar + offset, &data);
        }
        Step::Read(offset, len) => {
            let mut data = vec![0; len];
            m.bus.read(m.bar + offset, &mut data);
            m.bus.read(ECAM + (1 << 15) + offset % 0x1000, &mut data);
        }
        Step::Start => {
            m.set(STATUS, 0u8);
            m.negotiate(1 << 32);
            m.set_up_queue(0, 0x1_0000);
            m.set(STATUS, RUNNING);
        }
        Step::Interrupt(kind) => {
            let life = lock(&m.life);
            let Some(activation) = &life.activation else {
                return;
            };
            match kind % 4 {
                0 => activation.interrupt.needs_reset(),
                1 => activation.interrupt.config_changed(),
                _ => activation.interrupt.queue_used(u16::from(kind / 4)),
            }
        }
        Step::Refuse(refuse) => m.host.refuse(refuse),
    }
}

proptest! {
    /// The recorder, the device and the assertions here hold the transport to
    /// its promises: no panic, no two doorbells at one address or two lines for
    /// one eventfd, no activation of a running device, and what can't be
    /// written stays.
    #[test]
    fn nothing_a_driver_does_breaks_the_transport(steps in prop::collection::vec(step(), 0..50)) {
        let m = machine();
        let capabilities = m.capabilities();
        for step in steps {
            take(&m, step);

            let decoding = m.config::<u16>(4) & 2 != 0;
            let bar = m.config::<u64>(0x10) & !0xf;
            let running = lock(&m.life).activation.is_some();
            let lent = m.host.lent();
            if !running || !decoding {
                prop_assert!(lent.doorbells.is_empty());
            }
            for address in lent.doorbells.keys() {
                prop_assert!((bar + NOTIFY..bar + NOTIFY + 12).contains(address));
            }
            prop_assert!(lent.lines.len() <= 4);
            if decoding && bar == m.bar {
                let status: u8 = m.get(STATUS);
                prop_assert!(status & 4 == 0 || status & 8 != 0, "status {status:#x}");
                prop_assert!(!running || status & 4 != 0, "status {status:#x}");
            }
        }
        prop_assert_eq!(m.capabilities(), capabilities);
        prop_assert_eq!(m.config::<u32>(0), 0x1043_1af4);
        m.pci.reset();
        let lent = m.host.lent();
        prop_assert!(lent.doorbells.is_empty() && lent.lines.is_empty());
        prop_assert!(lock(&m.life).activation.is_none());
        m.host.refuse(false);
        m.set_config(4, 2u16);
        prop_assert_eq!(m.start(), RUNNING, "it works again after a reset");
    }
}
