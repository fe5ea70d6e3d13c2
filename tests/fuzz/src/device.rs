//! Devices for the targets to attack, and a host that checks what they ask.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nestling_devices::host::{Host, MsiMessage};
use nestling_devices::virtio::block::{Block, BlockConfig, RawDisk};
use nestling_devices::virtio::console::{Console, ConsoleConfig, PortBackend};
use nestling_devices::virtio::device::{Interrupt, VirtioDevice};
use nestling_devices::virtio::rng::Rng;
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::tempfile::TempFile;

/// Size of the disk.
const DISK: u64 = 64 << 10;

/// A disk with two queues, on a file that has no name any more.
///
/// # Panics
/// If the host has no room for it.
pub fn block() -> Box<dyn VirtioDevice> {
    let file = TempFile::new_in(Path::new("/dev/shm")).expect("a temporary file");
    file.as_file().set_len(DISK).expect("room for the disk");
    let disk = RawDisk::open(file.as_path(), false).expect("a raw disk");
    let config = BlockConfig {
        number: 0,
        queues: 2,
        serial: "fuzz".into(),
    };
    Box::new(Block::new(disk, &config))
}

/// A source of entropy.
pub fn rng() -> Box<dyn VirtioDevice> {
    Box::new(Rng::new())
}

/// A console with a channel: endless input, and output that goes nowhere.
///
/// # Panics
/// If there is no /dev/null or no /dev/zero.
pub fn console() -> Box<dyn VirtioDevice> {
    let port = || {
        let mut options = File::options();
        PortBackend {
            input: Some(File::open("/dev/zero").expect("it is there").into()),
            output: options
                .write(true)
                .open("/dev/null")
                .expect("it is there")
                .into(),
        }
    };
    let config = ConsoleConfig {
        console: port(),
        channel: Some(port()),
        size: (80, 25),
    };
    Box::new(Console::new(config).expect("an eventfd"))
}

/// Hears when a device gives up.
#[derive(Default)]
pub struct Broken(AtomicBool);

impl Broken {
    /// Whether the device wants to be reset.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Interrupt for Broken {
    fn queue_used(&self, _index: u16) {}

    fn config_changed(&self) {}

    fn needs_reset(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A host that panics where KVM would refuse.
#[derive(Default)]
pub struct StrictHost {
    doorbells: Mutex<HashSet<u64>>,
    lines: Mutex<HashMap<u32, i32>>,
}

/// GSIs the host has left for messages.
const LINES: u32 = 64;

impl Host for StrictHost {
    fn add_doorbell(&self, address: u64, _fd: &EventFd) -> io::Result<()> {
        let fresh = self
            .doorbells
            .lock()
            .expect("no panic before")
            .insert(address);
        assert!(fresh, "two doorbells at {address:#x}");
        Ok(())
    }

    fn remove_doorbell(&self, address: u64, _fd: &EventFd) -> io::Result<()> {
        let there = self
            .doorbells
            .lock()
            .expect("no panic before")
            .remove(&address);
        assert!(there, "no doorbell at {address:#x}");
        Ok(())
    }

    fn allocate_msi(&self, fd: &EventFd) -> io::Result<u32> {
        let mut lines = self.lines.lock().expect("no panic before");
        let Some(gsi) = (24..24 + LINES).find(|gsi| !lines.contains_key(gsi)) else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        lines.insert(gsi, fd.as_raw_fd());
        Ok(gsi)
    }

    fn show(&self, _address: u64, _memory: &Arc<MmapRegion>) -> io::Result<()> {
        Ok(())
    }

    fn hide(&self, _address: u64) -> io::Result<()> {
        Ok(())
    }

    fn route_msi(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let lines = self.lines.lock().expect("no panic before");
        assert!(lines.contains_key(&gsi), "GSI {gsi} is free");
        // KVM refuses some messages.
        if message.data == u32::MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(())
    }

    fn free_msi(&self, gsi: u32, fd: &EventFd) -> io::Result<()> {
        let owner = self.lines.lock().expect("no panic before").remove(&gsi);
        assert_eq!(owner, Some(fd.as_raw_fd()), "GSI {gsi} is another's");
        Ok(())
    }
}
