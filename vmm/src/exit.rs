//! From a vCPU's exit to its next entry.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::VcpuExit;
use nestling_devices::Action;
use nestling_devices::bus::Bus;

/// What a vCPU's accesses reach.
#[derive(Clone)]
pub struct Buses {
    /// Port I/O.
    pub pio: Arc<Bus>,
    /// Memory-mapped I/O.
    pub mmio: Arc<Bus>,
}

/// What follows an exit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Back into the guest.
    Enter,
    /// The machine ends.
    Stop(End),
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest ended the run with this exit status.
    DebugExit(u8),
    /// The guest reset the machine.
    Reset,
    /// The guest's processor shut down (SDM 3, 6.15: a triple fault).
    TripleFault,
    /// The user, or a signal, ended it.
    Stopped,
    /// KVM can't go on; with the reason.
    Failed(String),
}

/// Kinds of exits to user space, counted apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserExits {
    /// IN from a port.
    pub port_reads: u64,
    /// OUT to a port.
    pub port_writes: u64,
    /// Reads of memory-mapped I/O.
    pub mmio_reads: u64,
    /// Writes to memory-mapped I/O.
    pub mmio_writes: u64,
    /// All else, signals included.
    pub other: u64,
}

impl UserExits {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.port_reads + self.port_writes + self.mmio_reads + self.mmio_writes + self.other
    }
}

impl Add for UserExits {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            port_reads: self.port_reads + other.port_reads,
            port_writes: self.port_writes + other.port_writes,
            mmio_reads: self.mmio_reads + other.mmio_reads,
            mmio_writes: self.mmio_writes + other.mmio_writes,
            other: self.other + other.other,
        }
    }
}

/// The exits of one vCPU to user space while they are being counted: its own
/// thread counts, and any may read. A cache line of their own keeps readers and
/// other vCPUs' threads off the path of an exit.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct LiveExits {
    port_reads: AtomicU64,
    port_writes: AtomicU64,
    mmio_reads: AtomicU64,
    mmio_writes: AtomicU64,
    other: AtomicU64,
}

impl LiveExits {
    /// Counts an exit that is none of an access.
    pub fn count_other(&self) {
        count(&self.other);
    }

    /// What has been counted so far.
    pub fn get(&self) -> UserExits {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UserExits {
            port_reads: of(&self.port_reads),
            port_writes: of(&self.port_writes),
            mmio_reads: of(&self.mmio_reads),
            mmio_writes: of(&self.mmio_writes),
            other: of(&self.other),
        }
    }
}

/// One more. Only the vCPU's thread counts, so a plain load and store do.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Carries out what the guest asked for. Reads leave their result in the exit,
/// from where the next entry delivers it. `width` tells the size of one port
/// access: a string instruction brings several at once.
pub fn handle(
    exit: VcpuExit<'_>,
    buses: &Buses,
    counts: &LiveExits,
    width: impl FnOnce() -> usize,
) -> Next {
    match exit {
        VcpuExit::IoIn(port, data) => {
            count(&counts.port_reads);
            for access in data.chunks_mut(width().max(1)) {
                buses.pio.read(port.into(), access);
            }
            Next::Enter
        }
        VcpuExit::IoOut(port, data) => {
            count(&counts.port_writes);
            let mut accesses = data.chunks(width().max(1));
            let actions = accesses
                .by_ref()
                .map(|access| buses.pio.write(port.into(), access));
            actions.reduce(Action::then).unwrap_or(Action::None).into()
        }
        VcpuExit::MmioRead(address, data) => {
            count(&counts.mmio_reads);
            buses.mmio.read(address, data);
            Next::Enter
        }
        VcpuExit::MmioWrite(address, data) => {
            count(&counts.mmio_writes);
            buses.mmio.write(address, data).into()
        }
        other => {
            count(&counts.other);
            rare(&other)
        }
    }
}

/// Exits that end the machine, or shouldn't happen at all.
fn rare(exit: &VcpuExit<'_>) -> Next {
    match exit {
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => Next::Enter,
        VcpuExit::Shutdown => Next::Stop(End::TripleFault),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Next::Stop(End::PowerOff),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Next::Stop(End::Reset),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => {
            Next::Stop(End::Failed("the guest reported a crash".into()))
        }
        VcpuExit::FailEntry(reason, cpu) => Next::Stop(End::Failed(format!(
            "the processor refused to enter the guest on host CPU {cpu}: hardware reason \
             {reason:#x}"
        ))),
        VcpuExit::InternalError => Next::Stop(End::Failed(
            "KVM met an instruction or a state it can't emulate (KVM_EXIT_INTERNAL_ERROR)".into(),
        )),
        unexpected => Next::Stop(End::Failed(format!(
            "KVM left the guest with {unexpected:?}"
        ))),
    }
}

impl From<Action> for Next {
    fn from(action: Action) -> Self {
        match action {
            Action::None => Self::Enter,
            Action::Reset => Self::Stop(End::Reset),
            Action::Shutdown => Self::Stop(End::PowerOff),
            Action::Exit(status) => Self::Stop(End::DebugExit(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use nestling_devices::bus::BusDevice;

    use super::*;

    /// Answers reads with its value, and writes with what they ask for.
    struct Probe;

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(0x40 | offset.to_le_bytes()[0]);
        }

        fn write(&mut self, _: u64, data: &[u8]) -> Action {
            match data {
                [1, ..] => Action::Reset,
                [2, ..] => Action::Shutdown,
                [3, ..] => Action::Exit(33),
                _ => Action::None,
            }
        }
    }

    /// The probe at port 0x60 and at address 0x1000, 16 long.
    fn buses() -> Buses {
        let bus = |base| {
            let mut bus = Bus::new();
            let probe = Arc::new(Mutex::new(Probe));
            bus.insert(base, 16, probe, "probe").expect("an empty bus");
            Arc::new(bus)
        };
        Buses {
            pio: bus(0x60),
            mmio: bus(0x1000),
        }
    }

    fn after(exit: VcpuExit<'_>) -> (Next, UserExits) {
        after_accesses(exit, usize::MAX)
    }

    /// What follows port accesses of `width` bytes each.
    fn after_accesses(exit: VcpuExit<'_>, width: usize) -> (Next, UserExits) {
        let counts = LiveExits::default();
        let next = handle(exit, &buses(), &counts, || width);
        let counts = counts.get();
        assert_eq!(counts.total(), 1, "each exit counts once");
        (next, counts)
    }

    #[test]
    fn a_string_instruction_is_several_accesses_of_one_port() {
        let mut data = [0; 6];
        let (next, counts) = after_accesses(VcpuExit::IoIn(0x64, &mut data), 1);
        assert_eq!((next, counts.port_reads, data), (Next::Enter, 1, [0x44; 6]));
        for (data, next) in [
            ([0, 0, 1, 2], Next::Stop(End::Reset)),
            ([0, 2, 0, 1], Next::Stop(End::PowerOff)),
            ([0, 0, 0, 0], Next::Enter),
        ] {
            assert_eq!(after_accesses(VcpuExit::IoOut(0x64, &data), 1).0, next);
        }
    }

    #[test]
    fn reads_are_answered_in_place_and_counted_by_kind() {
        let mut data = [0; 2];
        let (next, counts) = after(VcpuExit::IoIn(0x64, &mut data));
        assert_eq!((next, counts.port_reads, data), (Next::Enter, 1, [0x44; 2]));
        let mut data = [0; 4];
        let (next, counts) = after(VcpuExit::MmioRead(0x1008, &mut data));
        assert_eq!((next, counts.mmio_reads, data), (Next::Enter, 1, [0x48; 4]));
    }

    #[test]
    fn unmapped_reads_are_all_ones() {
        let mut data = [0; 4];
        after(VcpuExit::IoIn(0x10, &mut data));
        assert_eq!(data, [0xFF; 4]);
        let mut data = [0; 8];
        after(VcpuExit::MmioRead(0x1010, &mut data));
        assert_eq!(data, [0xFF; 8]);
    }

    #[test]
    fn a_write_ends_the_machine_if_its_device_says_so() {
        for (byte, next) in [
            (0, Next::Enter),
            (1, Next::Stop(End::Reset)),
            (2, Next::Stop(End::PowerOff)),
            (3, Next::Stop(End::DebugExit(33))),
        ] {
            let (from_port, counts) = after(VcpuExit::IoOut(0x60, &[byte]));
            assert_eq!((&from_port, counts.port_writes), (&next, 1));
            let (from_mmio, counts) = after(VcpuExit::MmioWrite(0x1000, &[byte]));
            assert_eq!((&from_mmio, counts.mmio_writes), (&next, 1));
        }
        assert_eq!(after(VcpuExit::IoOut(0x10, &[1])).0, Next::Enter);
    }

    #[test]
    fn rare_exits_end_as_what_they_are() {
        for (exit, next) in [
            (VcpuExit::Intr, Next::Enter),
            (VcpuExit::IrqWindowOpen, Next::Enter),
            (VcpuExit::Shutdown, Next::Stop(End::TripleFault)),
            (
                VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, &[]),
                Next::Stop(End::PowerOff),
            ),
            (
                VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, &[]),
                Next::Stop(End::Reset),
            ),
        ] {
            let (came, counts) = after(exit);
            assert_eq!((came, counts.other), (next, 1));
        }
    }

    #[test]
    fn what_cannot_go_on_says_why() {
        for (exit, word) in [
            (VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, &[]), "crash"),
            (VcpuExit::SystemEvent(99, &[]), "99"),
            (VcpuExit::FailEntry(0x8000_0021, 3), "host CPU 3"),
            (VcpuExit::FailEntry(0x8000_0021, 3), "0x80000021"),
            (VcpuExit::InternalError, "KVM_EXIT_INTERNAL_ERROR"),
            (VcpuExit::Hlt, "Hlt"),
        ] {
            let (next, _) = after(exit);
            let Next::Stop(End::Failed(reason)) = next else {
                panic!("{word}: {next:?}");
            };
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn counts_add_kind_by_kind() {
        let one = UserExits {
            port_reads: 1,
            port_writes: 2,
            mmio_reads: 3,
            mmio_writes: 4,
            other: 5,
        };
        let sum = one + one;
        assert_eq!((sum.port_reads, sum.mmio_writes), (2, 8));
        assert_eq!(sum.total(), 2 * one.total());
    }
}
