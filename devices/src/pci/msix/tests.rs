use proptest::prelude::*;

use super::*;
use crate::testing::Recorder;

const ENABLE: u16 = CONTROL_ENABLE;
const ENABLE_MASKED: u16 = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;

const MESSAGE: MsiMessage = MsiMessage {
    address: 0xfee0_1000,
    data: 0x4041,
};

fn fixture(vectors: u16) -> (Msix, Arc<Recorder>) {
    let host = Arc::new(Recorder::default());
    (Msix::new(vectors, host.clone()).unwrap(), host)
}

fn program(msix: &mut Msix, vector: u64, message: MsiMessage) {
    let entry = vector * MSIX_ENTRY_SIZE;
    msix.write_table(entry, &message.address.to_le_bytes());
    msix.write_table(entry + 8, &message.data.to_le_bytes());
}

fn mask(msix: &mut Msix, vector: u64, masked: bool) {
    msix.write_table(
        vector * MSIX_ENTRY_SIZE + 12,
        &u32::from(masked).to_le_bytes(),
    );
}

fn signals(msix: &Msix, vector: usize) -> u64 {
    msix.shared.vectors[vector].interrupt.read().unwrap_or(0)
}

fn pending(msix: &Msix) -> u64 {
    let mut bits = [0; 8];
    msix.read_pending(0, &mut bits);
    u64::from_le_bytes(bits)
}

#[test]
fn a_message_is_routed_when_unmasked_and_not_before() {
    let (mut msix, host) = fixture(3);
    msix.set_control(ENABLE_MASKED);
    program(&mut msix, 1, MESSAGE);
    mask(&mut msix, 1, false);
    assert_eq!(host.lent().routings, 0, "the function is masked");
    msix.set_control(ENABLE);
    let lent = host.lent();
    assert_eq!(lent.routings, 1);
    assert_eq!(
        lent.lines
            .values()
            .map(|line| line.message)
            .collect::<Vec<_>>(),
        [Some(MESSAGE)]
    );
}

#[test]
fn masking_and_unmasking_costs_the_host_nothing() {
    let (mut msix, host) = fixture(1);
    msix.set_control(ENABLE);
    program(&mut msix, 0, MESSAGE);
    for _ in 0..10 {
        mask(&mut msix, 0, false);
        mask(&mut msix, 0, true);
    }
    assert_eq!((host.lent().routings, host.lent().lines.len()), (1, 1));
    let moved = MsiMessage {
        data: 0x55,
        ..MESSAGE
    };
    program(&mut msix, 0, moved);
    program(&mut msix, 0, MESSAGE);
    program(&mut msix, 0, moved);
    mask(&mut msix, 0, false);
    assert_eq!((host.lent().routings, host.lent().lines.len()), (2, 1));
}

#[test]
fn a_masked_vector_is_pending_until_unmasked() {
    let (mut msix, _host) = fixture(2);
    let vectors = msix.vectors();
    vectors.signal(1);
    assert_eq!(pending(&msix), 0, "MSI-X is off");
    msix.set_control(ENABLE);
    program(&mut msix, 1, MESSAGE);
    vectors.signal(1);
    vectors.signal(1);
    assert_eq!((pending(&msix), signals(&msix, 1)), (2, 0));
    mask(&mut msix, 1, false);
    assert_eq!((pending(&msix), signals(&msix, 1)), (0, 1));
    vectors.signal(1);
    assert_eq!((pending(&msix), signals(&msix, 1)), (0, 1));
    msix.set_control(ENABLE_MASKED);
    vectors.signal(1);
    assert_eq!((pending(&msix), signals(&msix, 1)), (2, 0));
    msix.set_control(ENABLE);
    assert_eq!((pending(&msix), signals(&msix, 1)), (0, 1));
}

#[test]
fn turning_off_gives_the_lines_back() {
    let (mut msix, host) = fixture(2);
    msix.set_control(ENABLE);
    for vector in 0..2 {
        mask(&mut msix, vector, false);
    }
    assert_eq!(host.lent().lines.len(), 2);
    msix.set_control(0);
    assert!(host.lent().lines.is_empty());
    msix.vectors().signal(0);
    assert_eq!((pending(&msix), signals(&msix, 0)), (0, 0));
    msix.set_control(ENABLE);
    assert_eq!(host.lent().lines.len(), 2, "the table keeps what it held");
    msix.reset();
    msix.set_control(ENABLE);
    assert!(host.lent().lines.is_empty(), "all are masked");
}

#[test]
fn a_refusal_leaves_the_interrupt_pending_until_the_host_grants_it() {
    let (mut msix, host) = fixture(1);
    host.refuse(true);
    msix.set_control(ENABLE);
    mask(&mut msix, 0, false);
    msix.vectors().signal(0);
    assert_eq!((pending(&msix), signals(&msix, 0)), (1, 0));
    host.refuse(false);
    mask(&mut msix, 0, false);
    assert_eq!((pending(&msix), signals(&msix, 0)), (0, 1));
}

#[test]
fn the_capability_says_size_and_places() {
    let (msix, _host) = fixture(9);
    let (body, writable) = msix.capability(4, 0x4000, 0x5000);
    assert_eq!(body, [8, 0, 0x04, 0x40, 0, 0, 0x04, 0x50, 0, 0]);
    assert_eq!(writable, [0, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn narrow_and_misaligned_writes_are_ignored() {
    let (mut msix, _host) = fixture(2);
    let image = |msix: &Msix| {
        let mut table = [0; 40];
        msix.read_table(0, &mut table);
        table
    };
    let before = image(&msix);
    msix.write_table(0, &[0xff]);
    msix.write_table(0, &[0xff; 2]);
    msix.write_table(2, &[0xff; 4]);
    msix.write_table(4, &[0xff; 8]);
    msix.write_table(32, &[0xff; 4]);
    assert_eq!(image(&msix), before);
    msix.write_table(0, &[0xff; 8]);
    assert_eq!(
        image(&msix)[..8],
        [0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
    );
}

#[test]
fn no_signal_is_lost_between_masking_and_signalling() {
    let (mut msix, _host) = fixture(1);
    msix.set_control(ENABLE);
    let vectors = msix.vectors();
    let rounds = 2000;
    std::thread::scope(|scope| {
        let (kick, kicks) = std::sync::mpsc::sync_channel(0);
        let (ack, acks) = std::sync::mpsc::sync_channel(0);
        scope.spawn(move || {
            for () in kicks {
                vectors.signal(0);
                ack.send(()).unwrap();
            }
        });
        for _ in 0..rounds {
            mask(&mut msix, 0, true);
            kick.send(()).unwrap();
            mask(&mut msix, 0, false);
            acks.recv().unwrap();
            assert_ne!(signals(&msix, 0), 0);
            assert_eq!(pending(&msix), 0);
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Control(u16),
    Write(u64, Vec<u8>),
    Signal(u16),
    Read(u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u16>().prop_map(Step::Control),
        (0u64..80, prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(offset, data)| Step::Write(offset, data)),
        // Aligned writes, which have an effect.
        (0u64..20, prop::collection::vec(any::<u8>(), 4))
            .prop_map(|(dword, data)| Step::Write(dword * 4, data)),
        (0u16..6).prop_map(Step::Signal),
        (any::<u64>(), 1usize..9).prop_map(|(offset, len)| Step::Read(offset, len)),
    ]
}

proptest! {
    /// Whatever the guest does: a live vector has a line with its message, no
    /// live vector is pending, and without MSI-X there are no lines.
    #[test]
    fn any_sequence_keeps_lines_and_table_in_step(steps in prop::collection::vec(step(), 0..60)) {
        let (mut msix, host) = fixture(4);
        for step in steps {
            match step {
                Step::Control(control) => msix.set_control(control),
                Step::Write(offset, data) => msix.write_table(offset, &data),
                Step::Signal(vector) => msix.vectors().signal(vector),
                Step::Read(offset, len) => {
                    let mut data = vec![0; len];
                    msix.read_table(offset, &mut data);
                    msix.read_pending(offset, &mut data);
                }
            }
            let lent = host.lent();
            if !msix.shared.enabled() {
                prop_assert!(lent.lines.is_empty());
            }
            for (entry, vector) in msix.entries.iter().zip(&msix.shared.vectors) {
                let live = vector.live.load(Ordering::SeqCst);
                let unmasked = msix.shared.enabled() && !msix.function_mask && !entry.masked;
                prop_assert_eq!(live, unmasked);
                if live {
                    prop_assert!(!vector.pending.load(Ordering::SeqCst));
                    let line = &lent.lines[&entry.gsi.unwrap()];
                    prop_assert_eq!(line.message, Some(entry.message));
                }
            }
        }
    }
}
