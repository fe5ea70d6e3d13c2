//! The notification register of a virtio device (virtio 1.3, 4.1.4.4).

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use super::{Error, Session};
use crate::bench::results::Measured;

const DEVICES: &str = "/sys/bus/pci/devices";
/// The vendor of virtio devices (virtio 1.3, 4.1.2).
const VIRTIO: [u8; 2] = 0x1AF4u16.to_le_bytes();
/// The entropy device, modern and transitional: its one queue is empty unless
/// somebody reads.
const ENTROPY: [[u8; 2]; 2] = [0x1044u16.to_le_bytes(), 0x1005u16.to_le_bytes()];
/// A vendor's capability (PCI 3.0, appendix H), and VIRTIO_PCI_CAP_NOTIFY_CFG in it.
const VENDOR_CAPABILITY: u8 = 9;
const NOTIFY: u8 = 2;
/// Where the list of capabilities begins, in a header of type 0.
const CAPABILITIES: usize = 0x34;

/// Where a queue is notified.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    bar: u8,
    offset: u32,
}

pub(super) fn notify(session: &mut Session<'_>) -> Result<Measured, Error> {
    let (device, place) = find(Path::new(DEVICES)).ok_or(Error::NoDevice)?;
    let path = device.join(format!("resource{}", place.bar));
    let register = Register::map(&path, place.offset).map_err(|source| {
        let path = path.display().to_string();
        match source.raw_os_error() {
            Some(libc::EINVAL) => Error::Exclusive { path },
            _ => Error::Missing { path, source },
        }
    })?;
    session.take(usize::MAX, 1, || {
        register.write(0);
        Ok(())
    })
}

/// The first device of entropy, and where its queue 0 is notified.
fn find(devices: &Path) -> Option<(PathBuf, Place)> {
    let mut devices: Vec<PathBuf> = fs::read_dir(devices)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    devices.sort();
    devices.into_iter().find_map(|device| {
        let space = fs::read(device.join("config")).ok()?;
        Some((device, notify_place(&space)?))
    })
}

/// Where `space`, the configuration space of a device of entropy, says that its first
/// queue is notified.
fn notify_place(space: &[u8]) -> Option<Place> {
    let entropy = space.get(..2)? == VIRTIO && ENTROPY.iter().any(|id| space[2..].starts_with(id));
    let mut at = usize::from(*space.get(CAPABILITIES)?);
    // As many as there is room for: a list may be a circle.
    for _ in 0..48 {
        let capability = space.get(at..at + 16).filter(|_| entropy && at >= 0x40)?;
        if capability[0] == VENDOR_CAPABILITY && capability[3] == NOTIFY {
            let offset = u32::from_le_bytes(*capability[8..].first_chunk()?);
            return Some(Place {
                bar: capability[4],
                offset,
            });
        }
        at = usize::from(capability[1]);
    }
    None
}

/// A register of a device.
struct Register {
    page: NonNull<libc::c_void>,
    within: usize,
}

const PAGE: usize = 4096;

impl Register {
    fn map(resource: &Path, offset: u32) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(resource)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let (start, within) = (offset / PAGE * PAGE, offset % PAGE);
        if within % 2 != 0 {
            return Err(io::Error::other("the register isn't aligned"));
        }
        let start = libc::off_t::try_from(start).map_err(io::Error::other)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file is open.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                start,
            )
        };
        NonNull::new(page)
            .filter(|page| page.as_ptr() != libc::MAP_FAILED)
            .map(|page| Self { page, within })
            .ok_or_else(io::Error::last_os_error)
    }

    #[inline(always)]
    fn write(&self, value: u16) {
        // SAFETY: the register is inside the page and aligned; a device takes any write
        // to it, and looks into a queue that is empty.
        unsafe {
            self.page
                .byte_add(self.within)
                .cast::<u16>()
                .write_volatile(value)
        }
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.page.as_ptr(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The configuration space of a device with two capabilities, the second of them
    /// for notifications.
    fn space(device: u16) -> Vec<u8> {
        let mut space = vec![0; 256];
        space[..2].copy_from_slice(&VIRTIO);
        space[2..4].copy_from_slice(&device.to_le_bytes());
        space[CAPABILITIES] = 0x40;
        space[0x40..0x50].copy_from_slice(&[9, 0x50, 16, 1, 4, 0, 0, 0, 0, 0, 0, 0, 56, 0, 0, 0]);
        space[0x50..0x60].copy_from_slice(&[9, 0, 20, 2, 4, 0, 0, 0, 0, 0x30, 0, 0, 0, 0x10, 0, 0]);
        space
    }

    #[test]
    fn the_register_is_found_in_the_capabilities() {
        let expected = Place {
            bar: 4,
            offset: 0x3000,
        };
        assert_eq!(notify_place(&space(0x1044)), Some(expected));
        // A disk: its queue may be in use.
        assert_eq!(notify_place(&space(0x1042)), None);
        assert_eq!(notify_place(&space(0x1044)[..0x50]), None);
        assert_eq!(notify_place(&[]), None);
        let mut circle = space(0x1044);
        circle[0x50] = 5;
        circle[0x51] = 0x40;
        assert_eq!(notify_place(&circle), None);
    }

    #[test]
    fn devices_are_looked_at_in_order() {
        let root = tempfile::tempdir().unwrap();
        for (name, device) in [("0000:00:03.0", 0x1044), ("0000:00:02.0", 0x1042)] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("config"), space(device)).unwrap();
        }
        let (device, _) = find(root.path()).unwrap();
        assert!(device.ends_with("0000:00:03.0"));
        assert!(find(&root.path().join("absent")).is_none());
    }
}
