//! From a vCPU's exit to its next entry.

use std::ops::Add;
use std::sync::Arc;

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

/// Carries out what the guest asked for. Reads leave their result in the exit,
/// from where the next entry delivers it.
pub fn handle(exit: VcpuExit<'_>, buses: &Buses, counts: &mut UserExits) -> Next {
    match exit {
        VcpuExit::IoIn(port, data) => {
            counts.port_reads += 1;
            buses.pio.read(port.into(), data);
            Next::Enter
        }
        VcpuExit::IoOut(port, data) => {
            counts.port_writes += 1;
            buses.pio.write(port.into(), data).into()
        }
        VcpuExit::MmioRead(address, data) => {
            counts.mmio_reads += 1;
            buses.mmio.read(address, data);
            Next::Enter
        }
        VcpuExit::MmioWrite(address, data) => {
            counts.mmio_writes += 1;
            buses.mmio.write(address, data).into()
        }
        other => {
            counts.other += 1;
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
        }
    }
}
