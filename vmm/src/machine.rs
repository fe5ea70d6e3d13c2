//! A machine that runs, and the loop that listens to its user meanwhile.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use nestling_arch::nested::Extension;
use nestling_devices::bus::lock;
use nestling_devices::legacy::acpi_pm::AcpiPm;
use nestling_devices::virtio::console::ConsoleHandle;
use vmm_sys_util::eventfd::EventFd;

use crate::console::input::Input;
use crate::console::keyboard::{HELP, Keyboard, Request};
use crate::console::{streams, terminal};
use crate::cpu::CpuView;
use crate::exit::{End, UserExits};
use crate::platform::Platform;
use crate::signals::Signals;
use crate::stats::live::{Current, Live};
use crate::stats::{self, Counts, Statistics};
use crate::vcpu::{Ends, Finished, Vcpu, VcpuError, VcpuThread};
use crate::vm::Vm;

/// Why a machine could not run on.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A vCPU could not start.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The monitor can't listen to its descriptors.
    #[error("can't wait for events: {0}")]
    Events(String),
}

/// A machine, complete and about to run.
pub struct Machine {
    /// The VM; kept for its memory and its counts.
    pub vm: Arc<Vm>,
    /// All vCPUs, the boot processor first.
    pub vcpus: Vec<Vcpu>,
    /// What each of them tells the guest.
    pub views: Vec<CpuView>,
    /// Where a vCPU's end is reported, and read.
    pub ends: (Ends, Receiver<End>),
    /// All the guest's devices.
    pub platform: Platform,
    /// The virtualization extension that the guest is shown.
    pub extension: Option<Extension>,
}

/// What is known of a machine that has ended.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub end: End,
    /// Whether its kernel had reported a panic.
    pub panicked: bool,
    /// KVM's counts for the whole machine.
    pub vm: Counts,
    /// Each vCPU's counts.
    pub vcpus: Vec<Finished>,
}

impl Report {
    /// KVM's counts of all vCPUs together.
    pub fn vcpu_total(&self) -> Counts {
        let mut total = Counts::new();
        for vcpu in &self.vcpus {
            stats::add(&mut total, &vcpu.counts);
        }
        total
    }

    /// Exits that reached the monitor, of all vCPUs together.
    pub fn user_exits(&self) -> UserExits {
        self.vcpus
            .iter()
            .fold(UserExits::default(), |sum, vcpu| sum + vcpu.user_exits)
    }
}

/// What the user has to say to a machine, over all of its resets.
pub struct Controls {
    /// Signals to the monitor.
    pub signals: Signals,
    /// The user's keys, on their way.
    pub keyboard: Keyboard,
    /// Whether standard input still leads to the guest.
    pub stdin_open: bool,
    /// Whether the machine was asked to end; asked again, it is ended.
    pub asked_to_end: bool,
    /// Where others look at the machine while it runs.
    pub current: Arc<Current>,
}

impl Machine {
    /// Runs the machine to its end.
    pub fn run(self, controls: &mut Controls) -> Result<Report, MachineError> {
        let statistics = Statistics::open(self.vm.fd()).ok();
        let current = Arc::clone(&controls.current);
        let (ends, receiver) = self.ends;
        let wake = Arc::clone(&ends.wake);
        let Platform {
            buses,
            serial,
            pm,
            console,
            input,
            panicked,
            ending,
        } = self.platform;
        let mut threads = Vec::new();
        // Application processors wait for their start-up IPI in the kernel, so the order
        // doesn't matter to the guest.
        let started = self.vcpus.into_iter().try_for_each(|vcpu| {
            threads.push(vcpu.start(buses.clone(), ends.clone())?);
            Ok::<(), VcpuError>(())
        });
        let views = threads.iter().map(|vcpu| Arc::clone(vcpu.view()));
        let live = Arc::new(Live::new(self.extension, statistics, views.collect()));
        current.show(Arc::clone(&live));
        let attended = started.map_err(MachineError::from).and_then(|()| {
            let desk = Desk {
                controls,
                wake,
                receiver,
                pm,
                console,
                input,
                end: None,
            };
            desk.attend()
        });
        if matches!(attended, Ok(End::Stopped) | Err(_)) {
            ending.store(true, Ordering::Release);
        }
        let vcpus = stop_all(threads);
        current.hide();
        // What the guest wrote last may still wait for a newline.
        lock(&serial).flush();
        Ok(Report {
            end: attended?,
            panicked: panicked.load(Ordering::Acquire),
            vm: live.vm().counts,
            vcpus,
        })
    }
}

fn stop_all(threads: Vec<VcpuThread>) -> Vec<Finished> {
    threads.iter().for_each(VcpuThread::ask_to_stop);
    threads.into_iter().filter_map(VcpuThread::join).collect()
}

/// The loop's state: all that can wake the monitor while its guest runs.
struct Desk<'a> {
    controls: &'a mut Controls,
    wake: Arc<EventFd>,
    receiver: Receiver<End>,
    pm: Arc<Mutex<AcpiPm>>,
    console: Option<ConsoleHandle>,
    input: Input,
    end: Option<End>,
}

const WAKE: u32 = 0;
const SIGNALS: u32 = 1;
const STDIN: u32 = 2;
const ROOM: u32 = 3;

impl Desk<'_> {
    fn attend(self) -> Result<End, MachineError> {
        let failed = |error: event_manager::Error| MachineError::Events(format!("{error:?}"));
        let mut manager = EventManager::new().map_err(failed)?;
        let id = manager.add_subscriber(self);
        loop {
            match manager.run() {
                Ok(_) => {}
                // A signal for this thread, of those that aren't blocked.
                Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
                Err(error) => return Err(failed(error)),
            }
            let desk = manager.subscriber_mut(id).map_err(failed)?;
            if let Some(end) = desk.end.take() {
                return Ok(end);
            }
        }
    }

    fn on_signal(&mut self, number: u32) {
        if i32::try_from(number) == Ok(libc::SIGWINCH) {
            if let (Some(console), Some(size)) = (&self.console, terminal::size(&io::stdout())) {
                console.resize(size.0, size.1);
            }
        } else if self.controls.asked_to_end {
            self.end.get_or_insert(End::Stopped);
        } else {
            self.controls.asked_to_end = true;
            tracing::info!("pressing the guest's power button; signal again to end it now");
            lock(&self.pm).press_power_button();
        }
    }

    fn on_stdin(&mut self, ops: &mut EventOps<'_>) {
        let mut buffer = [0; 256];
        let count = match streams::read(io::stdin().as_fd(), &mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(_) => 0,
        };
        if count == 0 {
            self.controls.stdin_open = false;
            let _ = ops.remove(Events::empty(&io::stdin()));
            return;
        }
        let mut keys = Vec::with_capacity(count);
        match self.controls.keyboard.feed(&buffer[..count], &mut keys) {
            None => {}
            Some(Request::Quit) => {
                self.end.get_or_insert(End::Stopped);
                return;
            }
            Some(Request::PowerButton) => lock(&self.pm).press_power_button(),
            Some(Request::Help) => {
                let _ = io::stderr().write_all(HELP.as_bytes());
            }
        }
        self.input.push(&keys);
        self.watch_stdin(ops);
    }

    /// Listens to the user only while the guest keeps up.
    fn watch_stdin(&mut self, ops: &mut EventOps<'_>) {
        if self.controls.stdin_open {
            let set = if self.input.is_full() {
                EventSet::empty()
            } else {
                EventSet::IN
            };
            let _ = ops.modify(Events::with_data(&io::stdin(), STDIN, set));
        }
        if let Some((fd, set)) = self.input.wants() {
            let _ = ops.modify(Events::with_data_raw(fd, ROOM, set));
        }
    }
}

impl MutEventSubscriber for Desk<'_> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut add = |events| ops.add(events).is_ok();
        add(Events::with_data(&*self.wake, WAKE, EventSet::IN));
        add(Events::with_data(
            &self.controls.signals,
            SIGNALS,
            EventSet::IN,
        ));
        if let Some((fd, set)) = self.input.wants() {
            add(Events::with_data_raw(fd, ROOM, set));
            // A file can't be waited for; it has an end, though.
            self.controls.stdin_open &= add(Events::with_data(&io::stdin(), STDIN, EventSet::IN));
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            WAKE => {
                let _ = self.wake.read();
                if let Ok(end) = self.receiver.try_recv() {
                    self.end.get_or_insert(end);
                }
            }
            SIGNALS => {
                while let Some(number) = self.controls.signals.take() {
                    self.on_signal(number);
                }
            }
            STDIN => self.on_stdin(ops),
            _ => {
                self.input.retry();
                self.watch_stdin(ops);
            }
        }
    }
}
