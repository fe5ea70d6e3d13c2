//! What can be measured. Each row's doc comment is also what `nestling bench list`
//! prints: what it measures, how, and what it can't.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name that no row has.
#[derive(Debug, Error)]
#[error("no row is called `{0}`; `nestling bench list` names them all")]
pub struct Unknown(String);

/// What kind of thing a row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// One operation of the processor, the kernel or a device.
    Micro,
    /// Something that should cost the same at every level: it tells how far the
    /// others can be trusted.
    Control,
    /// Work such as programs do.
    Macro,
}

/// What a row's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Nanoseconds for one operation: less is better.
    Time,
    /// Bytes in a second: more is better.
    Throughput,
}

impl Quantity {
    /// The unit, as it is written.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Time => "ns",
            Self::Throughput => "B/s",
        }
    }

    /// What it is called.
    pub fn word(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Throughput => "throughput",
        }
    }

    /// Which is better: `more` or `less`.
    pub fn better(self) -> &'static str {
        match self {
            Self::Time => "less",
            Self::Throughput => "more",
        }
    }
}

/// Declares [`Row`] so that its documentation is there at run time as well.
macro_rules! rows {
    ($($(#[doc = $line:literal])+ $row:ident = $name:literal, $family:ident, $quantity:ident;)+) => {
        /// Something that `nestling bench` measures at every level.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Row {
            $($(#[doc = $line])+ $row,)+
        }

        impl Row {
            /// All rows, in the order in which they are shown.
            pub const ALL: &[Self] = &[$(Self::$row),+];

            /// The name by which the row is chosen.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$row => $name,)+
                }
            }

            /// What kind of row it is.
            pub fn family(self) -> Family {
                match self {
                    $(Self::$row => Family::$family,)+
                }
            }

            /// What its figures are.
            pub fn quantity(self) -> Quantity {
                match self {
                    $(Self::$row => Quantity::$quantity,)+
                }
            }

            fn text(self) -> &'static str {
                match self {
                    $(Self::$row => concat!($($line, "\n"),+),)+
                }
            }
        }
    };
}

rows! {
    /// The harness's own cost: nothing, timed.
    ///
    /// Two readings of the time-stamp counter with nothing between them, and the
    /// timer's cost subtracted as everywhere.
    ///
    /// It is to show no time and no exit. What it shows is the error of every other row.
    Nop = "nop", Control, Time;

    /// A system call that does nothing.
    ///
    /// getppid by the SYSCALL instruction, not through a library that could remember
    /// the answer.
    ///
    /// It never leaves the guest, so it should cost the same at every level. Kernels
    /// with other mitigations make it cost something else.
    Syscall = "syscall", Control, Time;

    /// A hypercall that does nothing.
    ///
    /// VMCALL or VMMCALL, by the processor's vendor, from user space: KVM answers -EPERM
    /// there, after the whole way to the hypervisor and back. DVH calls this row
    /// Hypercall.
    ///
    /// L0 has nobody to call, so the row begins at L1. The hypervisor's own work is nearly
    /// nothing: a real service costs more.
    Hypercall = "hypercall", Micro, Time;

    /// Telling a device that there is work.
    ///
    /// A write to the notification register of the virtio entropy device, whose queue is
    /// empty, mapped from its BAR. DVH calls this row DevNotify.
    ///
    /// It ends where the write does; what the device then does runs beside it. A level has
    /// the row only where it has such a device, and a kernel that lets programs at it
    /// (iomem=relaxed).
    DeviceNotify = "device-notify", Micro, Time;

    /// Setting the local APIC's timer.
    ///
    /// timerfd_settime with half a millisecond to go, ten times in a millisecond, which
    /// makes the kernel program the TSC deadline or the APIC's counter twice: when it takes
    /// the old time back, and for the new one. DVH calls this row ProgramTimer.
    ///
    /// The system call is part of it. Where the scheduler's tick comes sooner, the kernel
    /// leaves the hardware alone, so that not every operation costs what one costs.
    ProgramTimer = "program-timer", Micro, Time;

    /// An interrupt from one processor to another.
    ///
    /// membarrier with MEMBARRIER_CMD_PRIVATE_EXPEDITED while another thread spins on
    /// another vCPU: the kernel sends it an inter-processor interrupt and waits for the
    /// answer. DVH calls this row SendIPI.
    ///
    /// It takes two vCPUs. The receiver's part and the system call are in it; where the
    /// level below has fewer processors than vCPUs, its scheduler is most of it.
    SendIpi = "send-ipi", Micro, Time;

    /// CPUID, which no guest executes by itself.
    ///
    /// Leaf 0. The processor leaves every guest for it, by VMX always, by SVM as KVM asks.
    ///
    /// The hypervisor's own work is a search in a table, so its length has a share.
    Cpuid = "cpuid", Micro, Time;

    /// Reading a register that the hypervisor keeps.
    ///
    /// RDMSR of IA32_MISC_ENABLE, or of HWCR with AMD, through /dev/cpu/0/msr.
    ///
    /// The kernel's way to the instruction is part of it; `rdmsr-passthrough` is the same
    /// way without the exit, so the difference is what counts.
    RdmsrIntercepted = "rdmsr-intercepted", Micro, Time;

    /// Reading a register that guests may read by themselves.
    ///
    /// RDMSR of IA32_GS_BASE through /dev/cpu/0/msr: KVM takes it out of the bitmap of
    /// intercepted registers.
    ///
    /// A hypervisor in between may intercept it for its guests all the same, and the row
    /// then shows that.
    RdmsrPassthrough = "rdmsr-passthrough", Micro, Time;

    /// A port that KVM itself answers.
    ///
    /// IN from port 0x21, the mask of the 8259 that KVM emulates.
    ///
    /// At L0 the port is the machine's own, or the emulator's. A machine without KVM's 8259
    /// shows what `port-user` shows.
    PortKernel = "port-kernel", Micro, Time;

    /// A port that the monitor answers.
    ///
    /// IN from port 0x80, which no device has: the exit goes through KVM to user space and
    /// back.
    ///
    /// The monitor's search for a device is part of it, and so is the scheduler if its
    /// thread is moved.
    PortUser = "port-user", Micro, Time;

    /// A line on the console.
    ///
    /// 64 bytes to /dev/console, which is then waited for until all of them are out
    /// (tcdrain). They are NULs, which nobody sees.
    ///
    /// It depends on what the console is: a serial port exits for each byte, virtio for
    /// each write, and L0's is the machine's own, or the emulator's. The kernel looks
    /// after a serial port only at every tick of its clock.
    ConsoleWrite = "console-write", Micro, Time;

    /// The first touch of a page of 4 KiB.
    ///
    /// A write to each page of a fresh private mapping with MADV_NOHUGEPAGE.
    ///
    /// The guest kernel's own fault, and the clearing of the page, are part of it. Memory
    /// that the guest has used before costs the levels below nothing: the row shows the
    /// first touch only while there is some that it hasn't.
    PageTouch4k = "page-touch-4k", Micro, Time;

    /// The first touch of a page of 2 MiB.
    ///
    /// A write to each 2 MiB of a fresh, aligned, private mapping with MADV_HUGEPAGE.
    ///
    /// As `page-touch-4k`. The row is left out where the guest kernel gives no such page; if
    /// it has none left after the first, it gives 4 KiB, which the row can't see.
    PageTouch2m = "page-touch-2m", Micro, Time;

    /// A load that misses the TLB.
    ///
    /// A random cycle through 64 MiB: one load in each eight pages of 4 KiB, each address
    /// taken from the load before. The memory has been used before, but not at these
    /// addresses, which the level's page tables already have. With EPT or NPT no load
    /// exits, and two-dimensional page walks show; a hypervisor that shadows page tables
    /// fills its own at each load, eight pages at a time where it is KVM.
    ///
    /// Cache misses are part of it: at L0 it isn't the price of a walk alone. Huge pages at
    /// any level below shorten it.
    PointerChase = "pointer-chase", Micro, Time;

    /// A switch between two processes.
    ///
    /// A byte there and back through two pipes, both ends on one vCPU; half of it is one
    /// switch.
    ///
    /// Two system calls for each switch are part of it.
    ContextSwitch = "context-switch", Micro, Time;

    /// Waking a thread on another vCPU.
    ///
    /// A futex there and back between threads on two vCPUs, both of which sleep in between;
    /// half of it is one wake-up.
    ///
    /// It takes two vCPUs. Halting, waking and the interrupt between are one figure; how
    /// long KVM polls before it halts decides much of it.
    FutexWake = "futex-wake", Micro, Time;

    /// A processor at work.
    ///
    /// SHA-256 over 16 KiB, which fit the first cache, four times.
    ///
    /// It hardly leaves the guest: what it loses it loses to timer ticks and to the clock
    /// frequency that other work leaves. Instructions made for it are used where the level
    /// is shown them.
    Cpu = "cpu", Macro, Throughput;

    /// Memory at work.
    ///
    /// Copies of 1 MiB within 64 MiB, touched before, by REP MOVSQ.
    ///
    /// Huge pages, and which of the host's memory controllers the pages lie at, decide more
    /// than the level does. Where the last cache is larger than that, it has a share.
    Memory = "memory", Macro, Throughput;

    /// A process from its creation to its end.
    ///
    /// vfork (by posix_spawn), execve of this same static binary, which exits at once, and
    /// wait.
    ///
    /// Page faults are most of it, so that paging in two dimensions shows; what a larger
    /// program adds, it doesn't show.
    ForkExec = "fork-exec", Macro, Time;

    /// Reading a disk from its start.
    ///
    /// O_DIRECT reads of 128 KiB, one at a time, of the first 16 MiB, again and again. They
    /// are written before.
    ///
    /// The file behind the disk is in the host's page cache: it is the way that is
    /// measured, not a disk.
    BlockSeqRead = "block-seq-read", Macro, Throughput;

    /// Writing a disk from its start.
    ///
    /// O_DIRECT writes of 128 KiB, one at a time, without a flush, to where
    /// `block-seq-read` reads.
    ///
    /// As `block-seq-read`.
    BlockSeqWrite = "block-seq-write", Macro, Throughput;

    /// Reading a disk here and there.
    ///
    /// O_DIRECT reads of 4 KiB at random places of the first 16 MiB, one at a time: the
    /// time of one.
    ///
    /// As `block-seq-read`; and with one at a time it says nothing of many.
    BlockRandRead = "block-rand-read", Macro, Time;

    /// Sending a stream through the NAT.
    ///
    /// One TCP flow from the level to a server on L0, 128 KiB a write. The receiver
    /// acknowledges as much by a byte, and four more are under way meanwhile.
    ///
    /// Every level adds its own network in between, so an L2 is behind two of them; L0
    /// speaks to itself. One that is acknowledged late makes the next ones look fast.
    NetStreamUp = "net-stream-up", Macro, Throughput;

    /// Receiving a stream through the NAT.
    ///
    /// One TCP flow from a server on L0 to the level, which asks for each 128 KiB by a
    /// byte, and has asked for four more by then.
    ///
    /// As `net-stream-up`.
    NetStreamDown = "net-stream-down", Macro, Throughput;

    /// A question and its answer through the NAT.
    ///
    /// One byte there and one back on an open TCP flow to a server on L0.
    ///
    /// How long processors take to wake is most of it. L0 speaks to itself.
    NetRequestResponse = "net-request-response", Macro, Time;

    /// A connection through the NAT.
    ///
    /// Connect to a server on L0, ask for a service, one byte there and one back, close.
    ///
    /// Connections come one after another; it says nothing of many at once. L0 speaks to
    /// itself.
    NetConnect = "net-connect", Macro, Time;

    /// A kernel's way to init.
    ///
    /// From the kernel's first time stamp to the start of init, by the level's own clock.
    ///
    /// One sample a boot. What the monitor does before the kernel starts isn't in it.
    Boot = "boot", Macro, Time;

    /// The start of a container.
    ///
    /// clone with new mount, PID, network, IPC and UTS namespaces, a tmpfs as its root,
    /// /proc mounted, and execve of this same static binary, until it has exited.
    ///
    /// No image is unpacked and no runtime is started, which cost a real container more
    /// than this. The kernel takes the namespaces apart beside it, later.
    Container = "container", Macro, Time;
}

impl Row {
    /// Whether it needs a disk whose content may be overwritten.
    pub fn needs_disk(self) -> bool {
        matches!(
            self,
            Self::BlockSeqRead | Self::BlockSeqWrite | Self::BlockRandRead
        )
    }

    /// Whether it needs a peer on L0.
    pub fn needs_network(self) -> bool {
        matches!(
            self,
            Self::NetStreamUp | Self::NetStreamDown | Self::NetRequestResponse | Self::NetConnect
        )
    }

    /// What it measures, in a sentence.
    pub fn measures(self) -> String {
        self.paragraph(0)
    }

    /// How it is measured.
    pub fn how(self) -> String {
        self.paragraph(1)
    }

    /// What the row can't tell, or what else is in it.
    pub fn limits(self) -> String {
        self.paragraph(2)
    }

    /// A paragraph of the row's documentation, on one line.
    fn paragraph(self, index: usize) -> String {
        let paragraph = self.text().split("\n\n").nth(index).unwrap_or_default();
        let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
        lines.join(" ")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Row {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Self, Unknown> {
        Self::ALL
            .iter()
            .copied()
            .find(|row| row.name() == name)
            .ok_or_else(|| Unknown(name.to_owned()))
    }
}

impl TryFrom<String> for Row {
    type Error = Unknown;

    fn try_from(name: String) -> Result<Self, Unknown> {
        name.parse()
    }
}

impl From<Row> for String {
    fn from(row: Row) -> Self {
        row.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_says_what_it_measures_how_and_what_it_cannot() {
        for row in Row::ALL {
            assert_eq!(row.text().trim().split("\n\n").count(), 3, "{row}");
            for text in [row.measures(), row.how(), row.limits()] {
                assert!(text.ends_with('.') && !text.contains("  "), "{row}: {text}");
            }
            assert!(row.measures().len() < 60, "{row}");
        }
    }

    #[test]
    fn rows_are_found_by_their_names() {
        let names: BTreeSet<&str> = Row::ALL.iter().map(|row| row.name()).collect();
        assert_eq!(names.len(), Row::ALL.len());
        for &row in Row::ALL {
            assert_eq!(row.name().parse::<Row>().unwrap(), row);
            let json = serde_json::to_string(&row).unwrap();
            assert_eq!(json, format!("\"{row}\""));
            assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row);
        }
        let error = "hypercal".parse::<Row>().unwrap_err().to_string();
        assert_eq!(
            error,
            "no row is called `hypercal`; `nestling bench list` names them all"
        );
    }
}
