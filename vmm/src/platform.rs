//! The machine around the vCPUs: buses, legacy devices, PCI and virtio.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nestling_arch::layout;
use nestling_devices::bus::{Bus, SharedDevice, lock};
use nestling_devices::host::Host;
use nestling_devices::legacy::acpi_pm::AcpiPm;
use nestling_devices::legacy::exit_ports::{
    DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, DebugExit, SHUTDOWN_PORT, ShutdownPort,
};
use nestling_devices::legacy::reset::{KEYBOARD_COMMAND_PORT, KeyboardReset};
use nestling_devices::legacy::rtc::Rtc;
use nestling_devices::legacy::serial::Serial;
use nestling_devices::net::mac::MacAddress;
use nestling_devices::net::port::Port;
use nestling_devices::net::ports::tap::Tap;
use nestling_devices::pci::bus::{Access, PciRoot, Windows};
use nestling_devices::pci::pvpanic::{PanicEvent, Pvpanic};
use nestling_devices::virtio::block::{Block, BlockConfig, RawDisk};
use nestling_devices::virtio::console::{Console, ConsoleConfig, ConsoleHandle, PortBackend};
use nestling_devices::virtio::device::VirtioDevice;
use nestling_devices::virtio::net::{self, Net};
use nestling_devices::virtio::pci::VirtioPciFunction;
use nestling_devices::virtio::rng::Rng;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::builder::BuildError;
use crate::channel::MonitorEvent;
use crate::config::{ConsoleMode, NetConfig, VmConfig, Wire};
use crate::console::input::{Input, Sink};
use crate::console::output::Output;
use crate::console::streams::{self, Streams, duplicate};
use crate::console::terminal;
use crate::exit::Buses;
use crate::network::{Place, Places};
use crate::session::EventLog;
use crate::vm::Vm;

/// Everything a vCPU's accesses reach, and the handles on it that the
/// monitor keeps.
pub struct Platform {
    /// What the vCPUs' accesses reach.
    pub buses: Buses,
    /// The serial port.
    pub serial: Arc<Mutex<Serial>>,
    /// The power button's owner.
    pub pm: Arc<Mutex<AcpiPm>>,
    /// The virtio console, if there is one.
    pub console: Option<ConsoleHandle>,
    /// Where keys go.
    pub input: Input,
    /// Whether the guest's kernel has reported a panic.
    pub panicked: Arc<AtomicBool>,
    /// Set to drop output that nobody takes.
    pub ending: Arc<AtomicBool>,
}

impl Platform {
    /// Puts the devices of `config` on their buses. `pci_high` is the window
    /// for 64-bit BARs, `access` the way to PCI's configuration spaces.
    pub fn new(
        config: &VmConfig,
        vm: &Arc<Vm>,
        streams: &Streams,
        places: &Places,
        events: &EventLog,
        pci_high: Range<u64>,
        access: Access,
    ) -> Result<Self, BuildError> {
        let (mut pio, mut mmio) = (Bus::new(), Bus::new());
        let room = event()?;
        let ending = Arc::new(AtomicBool::new(false));
        let serial = serial(vm, streams, &room, &ending)?;
        let pm = power_management(vm)?;
        add_legacy(&mut pio, &serial, &pm, config.debug_exit)?;

        let panicked = Arc::new(AtomicBool::new(false));
        let mut pci = PciBuilder {
            root: PciRoot::new(Windows {
                low: layout::PCI_MMIO32,
                high: pci_high,
            })?,
            vm,
        };
        pci.root.add(Box::new(pvpanic(events, &panicked)?))?;
        let (console, keys) = pci.add_console(config, streams)?;
        pci.add("rng", Box::new(Rng::new()))?;
        for (number, disk) in config.disks.iter().enumerate() {
            let queues = disk
                .queues
                .unwrap_or(u16::try_from(config.cpus).unwrap_or(u16::MAX));
            let block = BlockConfig {
                number,
                queues,
                serial: format!("disk{number}"),
            };
            let raw = RawDisk::open(&disk.path, disk.readonly)?;
            pci.add(
                &format!("disk {}", disk.path.display()),
                Box::new(Block::new(raw, &block)),
            )?;
        }
        for (number, (net, tap)) in config.nets.iter().zip(&streams.taps).enumerate() {
            pci.add_net(number, net, tap.as_ref(), places.of(number))?;
        }
        let pci = pci.root.build();
        pci.attach(access, &mut mmio, &mut pio)?;
        let host: Arc<dyn Host> = vm.clone();
        pci.show(&host).map_err(|source| BuildError::Host {
            what: "copies of the configuration spaces",
            source,
        })?;

        let sink = match keys {
            Some(pipe) => Sink::Console(pipe),
            None if config.serial == ConsoleMode::Tty => Sink::Serial(Arc::clone(&serial), room),
            None => Sink::None,
        };
        let buses = Buses {
            pio: Arc::new(pio),
            mmio: Arc::new(mmio),
        };
        Ok(Self {
            buses,
            serial,
            pm,
            console,
            input: Input::new(sink),
            panicked,
            ending,
        })
    }
}

fn event() -> Result<EventFd, BuildError> {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(|source| BuildError::Host {
        what: "an event descriptor",
        source,
    })
}

fn clone_event(fd: &EventFd) -> Result<EventFd, BuildError> {
    fd.try_clone().map_err(|source| BuildError::Host {
        what: "an event descriptor",
        source,
    })
}

fn serial(
    vm: &Vm,
    streams: &Streams,
    room: &EventFd,
    ending: &Arc<AtomicBool>,
) -> Result<Arc<Mutex<Serial>>, BuildError> {
    let interrupt = event()?;
    vm.connect_irq(&interrupt, layout::COM1_IRQ)?;
    let output: Box<dyn Write + Send> = match &streams.serial {
        Some(fd) => Box::new(Output::new(File::from(duplicate(fd)?), Arc::clone(ending))),
        None => Box::new(io::sink()),
    };
    let room = clone_event(room)?;
    let on_room = Box::new(move || {
        // Only a counter at its limit could make this fail, and then it is signalled anyway.
        let _ = room.write(1);
    });
    Ok(Arc::new(Mutex::new(Serial::new(
        interrupt, output, on_room,
    ))))
}

fn power_management(vm: &Vm) -> Result<Arc<Mutex<AcpiPm>>, BuildError> {
    let interrupt = event()?;
    vm.connect_irq(&interrupt, layout::SCI_IRQ)?;
    Ok(Arc::new(Mutex::new(AcpiPm::new(interrupt))))
}

fn add_legacy(
    pio: &mut Bus,
    serial: &Arc<Mutex<Serial>>,
    pm: &Arc<Mutex<AcpiPm>>,
    debug_exit: bool,
) -> Result<(), BuildError> {
    let pm_end = layout::PM_TIMER_PORT + u16::from(layout::PM_TIMER_PORTS);
    let mut devices: Vec<(u64, u64, SharedDevice, &'static str)> = vec![
        (
            layout::COM1_PORT.into(),
            layout::COM1_PORTS.into(),
            serial.clone(),
            "serial port",
        ),
        (
            layout::RTC_PORT.into(),
            layout::RTC_PORTS.into(),
            shared(Rtc::default()),
            "clock",
        ),
        (
            KEYBOARD_COMMAND_PORT,
            1,
            shared(KeyboardReset),
            "keyboard controller",
        ),
        (
            layout::PM1A_EVENT_PORT.into(),
            u64::from(pm_end - layout::PM1A_EVENT_PORT),
            pm.clone(),
            "power management",
        ),
        (
            SHUTDOWN_PORT,
            1,
            shared(ShutdownPort::default()),
            "shutdown port",
        ),
    ];
    if debug_exit {
        let device = shared(DebugExit);
        devices.push((DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS, device, "debug exit"));
    }
    for (base, length, device, name) in devices {
        pio.insert(base, length, device, name)?;
    }
    Ok(())
}

fn shared<D: nestling_devices::bus::BusDevice + 'static>(device: D) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

fn pvpanic(events: &EventLog, panicked: &Arc<AtomicBool>) -> Result<Pvpanic, BuildError> {
    let log = events.another().map_err(|source| BuildError::Host {
        what: "a second event log",
        source,
    })?;
    let (log, panicked) = (Mutex::new(log), Arc::clone(panicked));
    Ok(Pvpanic::new(Box::new(move |event| match event {
        PanicEvent::Panicked | PanicEvent::CrashLoaded => {
            if !panicked.swap(true, Ordering::AcqRel) {
                lock(&log).write(&MonitorEvent::Panicked);
            }
        }
    })))
}

/// The PCI bus while devices are added to it.
struct PciBuilder<'a> {
    root: PciRoot,
    vm: &'a Arc<Vm>,
}

impl PciBuilder<'_> {
    fn add(&mut self, name: &str, device: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let host: Arc<dyn Host> = self.vm.clone();
        let function = VirtioPciFunction::new(name, device, Arc::clone(self.vm.memory()), host)?;
        self.root.add(Box::new(function))?;
        Ok(())
    }

    fn add_net(
        &mut self,
        number: usize,
        config: &NetConfig,
        tap: Option<&OwnedFd>,
        place: Option<(Place, MacAddress)>,
    ) -> Result<(), BuildError> {
        let nic = match place {
            Some((place, mac)) => {
                let pairs = config.queues.unwrap_or(1);
                Net::on_network(Box::new(place), pairs, &net::NetConfig { number, mac })
            }
            None => {
                let taps = open_tap(config, tap)?.into_iter();
                let ports = taps.map(|tap| Box::new(tap) as Box<dyn Port>).collect();
                let mac = config.mac.unwrap_or_else(MacAddress::random);
                Net::new(ports, &net::NetConfig { number, mac })
            }
        };
        let nic = nic.map_err(|source| BuildError::Host {
            what: "the network interface",
            source,
        })?;
        self.add(&format!("nic {number}"), Box::new(nic))
    }

    /// Adds the virtio console, where anything is to talk through it. Returns
    /// the handle for its size, and the pipe for keys if they go there.
    fn add_console(
        &mut self,
        config: &VmConfig,
        streams: &Streams,
    ) -> Result<(Option<ConsoleHandle>, Option<File>), BuildError> {
        if streams.console.is_none() && streams.channel.is_none() {
            return Ok((None, None));
        }
        let failed = |what| move |source| BuildError::Host { what, source };
        let (input, keys) = if config.console == ConsoleMode::Tty {
            let (input, keys) = streams::pipe().map_err(failed("a pipe"))?;
            streams::set_nonblocking(&keys).map_err(failed("a pipe"))?;
            (Some(input), Some(File::from(keys)))
        } else {
            (None, None)
        };
        let output = match &streams.console {
            Some(fd) => duplicate(fd)?,
            None => null().map_err(failed("a console without output"))?,
        };
        let channel = match &streams.channel {
            Some(fd) => Some(PortBackend {
                input: Some(duplicate(fd)?),
                output: duplicate(fd)?,
            }),
            None => None,
        };
        let size = terminal::size(&io::stdout()).unwrap_or((0, 0));
        let parts = ConsoleConfig {
            console: PortBackend { input, output },
            channel,
            size,
        };
        let console = Console::new(parts).map_err(failed("the virtio console"))?;
        let handle = console.handle();
        self.add("console", Box::new(console))?;
        Ok((Some(handle), keys))
    }
}

/// The tap's queues, one for each pair of the NIC's.
fn open_tap(config: &NetConfig, inherited: Option<&OwnedFd>) -> Result<Vec<Tap>, BuildError> {
    match (inherited, &config.wire) {
        (Some(fd), _) => Ok(vec![Tap::from_fd(duplicate(fd)?)?]),
        (None, Wire::Tap(name)) => Ok(Tap::open(name, config.queues.unwrap_or(1))?),
        (None, Wire::Fd(_) | Wire::User { .. }) => Ok(Vec::new()),
    }
}

fn null() -> io::Result<OwnedFd> {
    File::options()
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
}
