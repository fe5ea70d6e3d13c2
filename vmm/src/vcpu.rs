//! A vCPU and the thread that runs it.

#![allow(unsafe_code)]

mod view;

use std::cell::Cell;
use std::io;
use std::iter;
use std::ptr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};

use kvm_bindings::{
    CpuId, KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, Msrs, kvm_msr_entry,
    kvm_run,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nestling_arch::cpuid::{Cpuid, MAX_ENTRIES};
use nestling_arch::hyperv::Enlightenments;
use nestling_arch::regs;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::exit::{self, Buses, End, Next, UserExits};
use crate::guest::sys;
use crate::hyperv;
use crate::stats::Counts;
use crate::vm::{Vm, VmError, ioctl};
use view::STOP;

pub use view::View;

/// Why a vCPU could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused a call.
    #[error("vCPU {vcpu}: {source}")]
    Kvm {
        /// The vCPU's index.
        vcpu: u32,
        /// The call and its error.
        source: VmError,
    },
    /// KVM refused a value of an MSR.
    #[error("vCPU {vcpu}: KVM refuses {value:#x} in MSR {index:#x}")]
    Msr {
        /// The vCPU's index.
        vcpu: u32,
        /// The register.
        index: u32,
        /// The value.
        value: u64,
    },
    /// KVM took a value of an MSR, and has another.
    #[error(
        "vCPU {vcpu}: KVM was given {value:#x} for MSR {index:#x} and has {}",
        .kept.map_or("none".to_owned(), |kept| format!("{kept:#x}"))
    )]
    MsrChanged {
        /// The vCPU's index.
        vcpu: u32,
        /// The register.
        index: u32,
        /// The value written.
        value: u64,
        /// The value read back, if any.
        kept: Option<u64>,
    },
    /// The vCPU's CPUID can't be told to KVM, or isn't as KVM was told.
    #[error("vCPU {vcpu}: {source}")]
    Cpuid {
        /// The vCPU's index.
        vcpu: u32,
        /// Why.
        source: nestling_arch::cpuid::Error,
    },
    /// The host gave no thread.
    #[error("vCPU {vcpu}: can't start a thread: {source}")]
    Thread {
        /// The vCPU's index.
        vcpu: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// A vCPU that doesn't run yet.
pub struct Vcpu {
    index: u32,
    fd: VcpuFd,
    affinity: Option<u32>,
}

/// The local APIC's LINT0 and LINT1 registers (SDM 3, 11.5.1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery modes of a local vector table entry.
const MODE_NMI: u32 = 0b100 << 8;
const MODE_EXTINT: u32 = 0b111 << 8;

impl Vcpu {
    /// Creates vCPU `index`, which is also its APIC id.
    pub fn new(vm: &Vm, index: u32) -> Result<Self, VcpuError> {
        let fd = ioctl("KVM_CREATE_VCPU", vm.fd().create_vcpu(index.into())).map_err(|source| {
            VcpuError::Kvm {
                vcpu: index,
                source,
            }
        })?;
        Ok(Self {
            index,
            fd,
            affinity: None,
        })
    }

    /// Lets it run on processor `affinity` of this host alone.
    pub fn pin(&mut self, affinity: u32) {
        self.affinity = Some(affinity);
    }

    fn kvm<T>(
        &self,
        call: &'static str,
        result: Result<T, kvm_ioctls::Error>,
    ) -> Result<T, VcpuError> {
        ioctl(call, result).map_err(|source| VcpuError::Kvm {
            vcpu: self.index,
            source,
        })
    }

    /// KVM's descriptor of the vCPU.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Lets the guest use these enlightenments, and no others. Comes before CPUID.
    pub fn enable_hyperv(
        &self,
        kvm: &Kvm,
        enlightenments: &Enlightenments,
    ) -> Result<(), VcpuError> {
        let enabled = hyperv::enable(kvm, &self.fd, enlightenments);
        self.kvm("KVM_ENABLE_CAP for Hyper-V", enabled)
    }

    /// Sets what CPUID tells the guest. Comes first: KVM checks later state
    /// against it.
    pub fn set_cpuid(&self, cpuid: &Cpuid) -> Result<(), VcpuError> {
        let refused = |source| VcpuError::Cpuid {
            vcpu: self.index,
            source,
        };
        let entries = cpuid.to_entries().map_err(refused)?;
        let entries = CpuId::from_entries(&entries).expect("as many as the set allows");
        self.kvm("KVM_SET_CPUID2", self.fd.set_cpuid2(&entries))
    }

    /// Reads back what CPUID tells the guest, and fails where KVM keeps something
    /// else than it was told.
    pub fn verify_cpuid(&self, cpuid: &Cpuid) -> Result<(), VcpuError> {
        let refused = |source| VcpuError::Cpuid {
            vcpu: self.index,
            source,
        };
        let kept = self.kvm("KVM_GET_CPUID2", self.fd.get_cpuid2(MAX_ENTRIES))?;
        let kept = Cpuid::from_entries(kept.as_slice()).map_err(refused)?;
        cpuid.verify_kept(&kept).map_err(refused)
    }

    /// Writes MSRs in this order, all of them or an error that names the one
    /// refused, and reads them back.
    pub fn set_msrs(&self, msrs: &[(u32, u64)]) -> Result<(), VcpuError> {
        let entries: Vec<kvm_msr_entry> = msrs
            .iter()
            .map(|&(index, data)| kvm_msr_entry {
                index,
                data,
                ..Default::default()
            })
            .collect();
        let mut list = Msrs::from_entries(&entries).expect("a boot list is far below KVM's limit");
        let written = self.kvm("KVM_SET_MSRS", self.fd.set_msrs(&list))?;
        if let Some(&(index, value)) = msrs.get(written) {
            return Err(VcpuError::Msr {
                vcpu: self.index,
                index,
                value,
            });
        }
        let read = self.kvm("KVM_GET_MSRS", self.fd.get_msrs(&mut list))?;
        let kept = list.as_slice().iter().take(read).map(|entry| entry.data);
        let kept = kept.map(Some).chain(iter::repeat(None));
        match msrs
            .iter()
            .zip(kept)
            .find(|((_, value), kept)| Some(*value) != *kept)
        {
            Some((&(index, value), kept)) => Err(VcpuError::MsrChanged {
                vcpu: self.index,
                index,
                value,
                kept,
            }),
            None => Ok(()),
        }
    }

    /// Leaves the local APIC as firmware would: LINT0 takes the PIC's
    /// interrupts, LINT1 the NMI (MP 1.4, 3.6.2.2).
    pub fn set_lint(&self) -> Result<(), VcpuError> {
        let mut apic = self.kvm("KVM_GET_LAPIC", self.fd.get_lapic())?;
        for (register, mode) in [(LVT_LINT0, MODE_EXTINT), (LVT_LINT1, MODE_NMI)] {
            // The field is of c_char, whatever its sign.
            for (slot, byte) in apic.regs[register..].iter_mut().zip(mode.to_le_bytes()) {
                *slot = libc::c_char::from_ne_bytes([byte]);
            }
        }
        self.kvm("KVM_SET_LAPIC", self.fd.set_lapic(&apic))
    }

    /// Puts the boot processor at the kernel's entry, in the state `state`
    /// describes.
    pub fn set_entry(&self, state: &regs::BootRegisters) -> Result<(), VcpuError> {
        let mut special = self.kvm("KVM_GET_SREGS", self.fd.get_sregs())?;
        state.apply(&mut special);
        self.kvm("KVM_SET_SREGS", self.fd.set_sregs(&special))?;
        self.kvm("KVM_SET_REGS", self.fd.set_regs(&state.regs))
    }

    /// Starts the vCPU on a thread of its own.
    pub fn start(self, buses: Buses, ends: Ends) -> Result<VcpuThread, VcpuError> {
        register_kick();
        let index = self.index;
        let view = Arc::new(View::new(index, &self.fd));
        let shared = Arc::clone(&view);
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .stack_size(256 << 10)
            .spawn(move || self.run(&buses, &ends, &shared))
            .map_err(|source| VcpuError::Thread {
                vcpu: index,
                source,
            })?;
        Ok(VcpuThread { view, thread })
    }

    fn run(mut self, buses: &Buses, ends: &Ends, view: &View) -> Finished {
        let page: *mut kvm_run = self.fd.get_kvm_run();
        // SAFETY: the page is mapped for as long as the descriptor lives; only the field's
        // address is taken.
        KICK.set(unsafe { &raw mut (*page).immediate_exit });
        let _guard = ReportPanic(ends);
        view.begin();
        let end = match self.affinity.map_or(Ok(()), |cpu| self.move_to(cpu)) {
            Ok(()) => self.enter(buses, view),
            Err(error) => Some(End::Failed(error)),
        };
        view.end();
        KICK.set(ptr::null_mut());
        if let Some(end) = end {
            ends.report(end);
        }
        Finished {
            index: self.index,
            counts: view.read().counts,
            user_exits: view.exits().get(),
        }
    }

    /// Enters the guest, again and again, until it ends or is to be left.
    fn enter(&mut self, buses: &Buses, view: &View) -> Option<End> {
        let page: *mut kvm_run = self.fd.get_kvm_run();
        loop {
            match view.requests() {
                0 => {}
                requests if requests & STOP != 0 => return None,
                _ => self.look(view),
            }
            match self.fd.run() {
                Ok(VcpuExit::InternalError) => {
                    view.exits().count_other();
                    return Some(End::Failed(internal_error(self.fd.get_kvm_run())));
                }
                Ok(VcpuExit::Hyperv) => {
                    view.exits().count_other();
                    hyperv::answer(self.fd.get_kvm_run());
                }
                Ok(exit) => {
                    // SAFETY: called only for an exit by port I/O, for which `io` is the field
                    // of the union that KVM has filled; nobody writes it until the next entry.
                    let width = || usize::from(unsafe { (*page).__bindgen_anon_1.io.size });
                    match exit::handle(exit, buses, view.exits(), width) {
                        Next::Enter => {}
                        Next::Stop(end) => return Some(end),
                    }
                }
                Err(error) => match error.errno() {
                    libc::EINTR => {
                        view.exits().count_other();
                        self.fd.set_kvm_immediate_exit(0);
                    }
                    libc::EAGAIN => {}
                    _ => return Some(End::Failed(format!("KVM_RUN failed: {error}"))),
                },
            }
        }
    }

    /// Pins the calling thread.
    fn move_to(&self, cpu: u32) -> Result<(), String> {
        let moved = usize::try_from(cpu)
            .map_err(io::Error::other)
            .and_then(sys::move_to);
        moved.map_err(|error| {
            format!(
                "vCPU {} can't run on processor {cpu}: {error}; --cpu-affinity takes processors \
                 that are online and allowed (taskset -p)",
                self.index
            )
        })
    }

    /// Says whether the guest has turned virtualization on.
    fn look(&self, view: &View) {
        // KVM refuses only where the vCPU's state is protected from the monitor.
        let special = self.fd.get_sregs();
        view.answer_look(special.is_ok_and(|special| regs::runs_hypervisor(&special)));
    }
}

/// What KVM says of an internal error (KVM API, 5, `internal`).
fn internal_error(run: &kvm_run) -> String {
    // SAFETY: called only after KVM_EXIT_INTERNAL_ERROR, for which `internal` is the field of
    // the union that KVM has filled.
    let internal = unsafe { &run.__bindgen_anon_1.internal };
    let what = match internal.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that it can't emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "two exceptions at once",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an event that it can't deliver",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit for a reason it doesn't know",
        _ => "a state that it can't handle",
    };
    let words = usize::try_from(internal.ndata)
        .unwrap_or(0)
        .min(internal.data.len());
    format!(
        "KVM met {what} (KVM_EXIT_INTERNAL_ERROR, suberror {}, data {:x?})",
        internal.suberror,
        &internal.data[..words],
    )
}

/// Reports a vCPU whose thread panics as the machine's end.
struct ReportPanic<'a>(&'a Ends);

impl Drop for ReportPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0
                .report(End::Failed("a vCPU's thread panicked".into()));
        }
    }
}

/// Where vCPUs say that the machine has ended.
#[derive(Clone)]
pub struct Ends {
    /// Takes how it ended.
    pub sender: Sender<End>,
    /// Wakes whoever waits for it.
    pub wake: Arc<EventFd>,
}

impl Ends {
    /// Reports `end`; the first report counts.
    pub fn report(&self, end: End) {
        // Without a receiver the machine has ended already.
        let _ = self.sender.send(end);
        let _ = self.wake.write(1);
    }
}

/// A running vCPU.
pub struct VcpuThread {
    view: Arc<View>,
    thread: JoinHandle<Finished>,
}

/// What is left of a vCPU when it has stopped.
#[derive(Debug)]
pub struct Finished {
    /// The vCPU's index.
    pub index: u32,
    /// KVM's counts for it.
    pub counts: Counts,
    /// Exits that reached the monitor.
    pub user_exits: UserExits,
}

impl VcpuThread {
    /// The vCPU as other threads may look at it.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Asks the vCPU to stop before its next entry.
    pub fn ask_to_stop(&self) {
        self.view.ask_to_stop();
    }

    /// Waits for the vCPU to stop. `None` if its thread panicked.
    pub fn join(self) -> Option<Finished> {
        self.thread.join().ok()
    }
}

thread_local! {
    /// The running vCPU's `immediate_exit`, for the signal handler.
    static KICK: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Makes the kick signal end KVM_RUN, also one that is about to begin: a
/// signal that arrives before the entry sets `immediate_exit` (KVM API, 5).
fn register_kick() {
    extern "C" fn kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        let flag = KICK.get();
        if !flag.is_null() {
            // SAFETY: the pointer leads into this thread's own kvm_run page, set while the vCPU
            // runs and cleared before the page is unmapped; KVM reads the byte, nobody else.
            unsafe { flag.write_volatile(1) };
        }
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        register_signal_handler(SIGRTMIN(), kick).expect("SIGRTMIN may be handled");
    });
}
