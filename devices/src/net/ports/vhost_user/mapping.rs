//! Memory of another process, mapped here.
//!
//! Its owner can take it away at any time by shrinking its file; what touches a
//! page that is gone gets SIGBUS (mmap(2)), which would end this process for
//! all. So SIGBUS is handled: a mapping whose memory is gone becomes empty
//! memory of our own, and the connection to its owner is shut down. System
//! calls that touch such a page fail instead (EFAULT).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use libc::{c_int, c_void};
use vm_memory::MmapRegion;

/// The most mappings of all owners.
const MAX_MAPPINGS: usize = 1024;

const PROTECTION: c_int = libc::PROT_READ | libc::PROT_WRITE;
const FLAGS: c_int = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// A mapping as the handler of SIGBUS sees it.
struct Slot {
    /// Zero if nothing is mapped.
    start: AtomicUsize,
    end: AtomicUsize,
    /// The connection to the memory's owner.
    connection: AtomicI32,
}

static SLOTS: [Slot; MAX_MAPPINGS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        connection: AtomicI32::new(-1),
    }
}; MAX_MAPPINGS];

/// A mapping of a file's part, which other processes map too.
pub(super) struct Mapping {
    start: *mut c_void,
    len: usize,
    slot: &'static Slot,
    /// The connection to the memory's owner, for the handler.
    _connection: Arc<UnixStream>,
}

// SAFETY: a mapping belongs to the process, not to a thread; it is only ever
// accessed as guest memory is, by raw pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset` on, on behalf of the one at the
    /// other end of `connection`.
    pub(super) fn new(
        file: &File,
        offset: u64,
        len: usize,
        connection: Arc<UnixStream>,
    ) -> io::Result<Self> {
        handle_bus_errors()?;
        let offset = libc::off_t::try_from(offset)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        let slot = SLOTS.iter().find(|slot| {
            // The address is set when it is known; none lies at 1.
            let claim = slot
                .start
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
            claim.is_ok()
        });
        let slot = slot.ok_or_else(|| io::Error::other("too much memory of others is mapped"))?;
        // SAFETY: the kernel chooses a free place for the mapping.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                PROTECTION,
                FLAGS,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            slot.start.store(0, Ordering::Release);
            return Err(error);
        }
        slot.connection
            .store(connection.as_raw_fd(), Ordering::Relaxed);
        slot.start.store(start.addr(), Ordering::Relaxed);
        slot.end.store(start.addr() + len, Ordering::Release);
        Ok(Self {
            start,
            len,
            slot,
            _connection: connection,
        })
    }

    /// The mapping as a region of guest memory.
    ///
    /// # Safety
    /// The mapping must outlive the region.
    pub(super) unsafe fn region(&self) -> io::Result<MmapRegion> {
        // SAFETY: `start` and `len` are those of a mapping, which the caller
        // keeps.
        let region =
            unsafe { MmapRegion::build_raw(self.start.cast(), self.len, PROTECTION, FLAGS) };
        region.map_err(io::Error::other)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Nobody touches the memory any more, so that the handler isn't
        // looking for it.
        self.slot.end.store(0, Ordering::Relaxed);
        self.slot.connection.store(-1, Ordering::Relaxed);
        // SAFETY: the mapping is ours, and whoever had a region of it is gone.
        unsafe { libc::munmap(self.start, self.len) };
        self.slot.start.store(0, Ordering::Release);
    }
}

/// Has SIGBUS handled, once for all.
fn handle_bus_errors() -> io::Result<()> {
    static HANDLED: OnceLock<Result<(), c_int>> = OnceLock::new();
    let handled = HANDLED.get_or_init(|| {
        set_action(on_bus_error as *const () as usize)
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    });
    handled.map_err(io::Error::from_raw_os_error)
}

fn set_action(handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sigaction: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `handler` is SIG_DFL, or does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts empty memory in the place of memory that its owner took away.
///
/// It does only what signal-safety(7) allows, and mmap(2), which is a plain
/// system call.
extern "C" fn on_bus_error(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a siginfo_t, which has an address for SIGBUS.
    let address = unsafe { (*info).si_addr() }.addr();
    // SAFETY: errno is the thread's own; the call that it belongs to goes on
    // after this one returns.
    let errno = unsafe { *libc::__errno_location() };
    for slot in &SLOTS {
        let end = slot.end.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        if !(start..end).contains(&address) {
            continue;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let place = ptr::without_provenance_mut(start);
        // SAFETY: the place is that of a mapping that its user, whom this
        // interrupts, keeps; its content is anybody's anyway.
        let mapped = unsafe { libc::mmap(place, end - start, PROTECTION, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            break;
        }
        // SAFETY: the descriptor is open as long as the mapping is there.
        unsafe { libc::shutdown(slot.connection.load(Ordering::Relaxed), libc::SHUT_RDWR) };
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        return;
    }
    // Not one of these: it ends the process when the access is tried again. If
    // that can't be arranged, this runs again and tries again.
    let _ = set_action(libc::SIG_DFL);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vm_memory::{Bytes, VolatileMemory};

    use super::*;

    const LEN: usize = 1 << 20;

    fn file() -> File {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, LEN as u64).unwrap();
        file.into()
    }

    #[test]
    fn memory_is_shared() {
        let file = file();
        let (connection, _peer) = UnixStream::pair().unwrap();
        let mapping = Mapping::new(&file, 4096, LEN - 4096, Arc::new(connection)).unwrap();
        // SAFETY: the mapping is dropped last.
        let region = unsafe { mapping.region() }.unwrap();
        region.as_volatile_slice().write_obj(0x1234u32, 8).unwrap();
        let mut bytes = [0; 4];
        rustix::io::pread(&file, &mut bytes, 4096 + 8).unwrap();
        assert_eq!(bytes, 0x1234u32.to_ne_bytes());
    }

    #[test]
    fn memory_that_is_taken_away_is_replaced_and_its_owner_is_left() {
        let file = file();
        let (connection, mut peer) = UnixStream::pair().unwrap();
        let mapping = Mapping::new(&file, 0, LEN, Arc::new(connection)).unwrap();
        // SAFETY: the mapping is dropped last.
        let region = unsafe { mapping.region() }.unwrap();
        let slice = region.as_volatile_slice();
        slice.write_obj(1u64, 4096).unwrap();
        ftruncate(&file, 4096).unwrap();
        assert_eq!(slice.read_obj::<u64>(8192).unwrap(), 0);
        slice.write_obj(2u64, LEN - 8).unwrap();
        assert_eq!(slice.read_obj::<u64>(LEN - 8).unwrap(), 2);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the connection ended");
    }
}
