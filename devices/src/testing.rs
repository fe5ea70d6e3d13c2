//! A host for tests that records what devices ask of it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::lock;
use crate::host::{Host, MsiMessage};

/// An eventfd as a device lent it, with a descriptor of its own as KVM has.
#[derive(Clone, Debug)]
pub(crate) struct Lend {
    /// The device's descriptor.
    pub(crate) id: RawFd,
    pub(crate) eventfd: Arc<EventFd>,
}

impl Lend {
    fn new(eventfd: &EventFd) -> io::Result<Self> {
        Ok(Self {
            id: eventfd.as_raw_fd(),
            eventfd: Arc::new(eventfd.try_clone()?),
        })
    }
}

/// An interrupt line as a device has set it up.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) interrupt: Lend,
    pub(crate) message: Option<MsiMessage>,
}

/// Everything a device has of the host at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lent {
    pub(crate) doorbells: BTreeMap<u64, Lend>,
    pub(crate) lines: BTreeMap<u32, Line>,
    /// What the guest reads without an exit, by address.
    pub(crate) shown: BTreeMap<u64, Arc<MmapRegion>>,
    /// How often a message was routed.
    pub(crate) routings: usize,
    next_line: u32,
}

/// Panics where a device breaks a rule that KVM would hold it to.
#[derive(Default)]
pub(crate) struct Recorder {
    lent: Mutex<Lent>,
    refuse: Mutex<bool>,
}

impl Recorder {
    pub(crate) fn lent(&self) -> Lent {
        lock(&self.lent).clone()
    }

    /// Refuses whatever is asked for from now on.
    pub(crate) fn refuse(&self, refuse: bool) {
        *lock(&self.refuse) = refuse;
    }

    fn ask(&self) -> io::Result<()> {
        if *lock(&self.refuse) {
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        } else {
            Ok(())
        }
    }
}

impl Host for Recorder {
    fn add_doorbell(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        self.ask()?;
        let previous = lock(&self.lent).doorbells.insert(address, Lend::new(fd)?);
        assert!(previous.is_none(), "two doorbells at {address:#x}");
        Ok(())
    }

    fn remove_doorbell(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        let removed = lock(&self.lent).doorbells.remove(&address);
        assert_eq!(
            removed.map(|lend| lend.id),
            Some(fd.as_raw_fd()),
            "no such doorbell at {address:#x}"
        );
        Ok(())
    }

    fn allocate_msi(&self, fd: &EventFd) -> io::Result<u32> {
        self.ask()?;
        let mut lent = lock(&self.lent);
        let interrupt = Lend::new(fd)?;
        assert!(
            lent.lines
                .values()
                .all(|line| line.interrupt.id != interrupt.id),
            "two lines, one fd"
        );
        lent.next_line += 1;
        let gsi = 23 + lent.next_line;
        lent.lines.insert(
            gsi,
            Line {
                interrupt,
                message: None,
            },
        );
        Ok(gsi)
    }

    fn route_msi(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        self.ask()?;
        let mut lent = lock(&self.lent);
        lent.routings += 1;
        lent.lines
            .get_mut(&gsi)
            .expect("the line is allocated")
            .message = Some(message);
        Ok(())
    }

    fn free_msi(&self, gsi: u32, fd: &EventFd) -> io::Result<()> {
        let line = lock(&self.lent)
            .lines
            .remove(&gsi)
            .expect("the line is allocated");
        assert_eq!(line.interrupt.id, fd.as_raw_fd());
        Ok(())
    }

    fn show(&self, address: u64, memory: &Arc<MmapRegion>) -> io::Result<()> {
        self.ask()?;
        let previous = lock(&self.lent).shown.insert(address, Arc::clone(memory));
        assert!(
            previous.is_none(),
            "memory is shown at {address:#x} already"
        );
        Ok(())
    }

    fn hide(&self, address: u64) -> io::Result<()> {
        let hidden = lock(&self.lent).shown.remove(&address);
        assert!(hidden.is_some(), "no memory is shown at {address:#x}");
        Ok(())
    }
}
