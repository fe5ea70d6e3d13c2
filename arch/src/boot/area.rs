//! Guest memory as plain bytes, for decoders that write where they also read.
#![allow(unsafe_code)]

use std::ops::Range;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{Error, check_ram, index};
use crate::GuestMemory;

/// Runs `work` on the bytes of `range`.
///
/// Decoders copy from what they have written before, so they need a slice
/// rather than volatile accesses.
///
/// # Errors
/// If `range` is not within one piece of RAM above 1 MiB.
pub(super) fn with_bytes<R>(
    mem: &GuestMemory,
    range: Range<u64>,
    work: impl FnOnce(&mut [u8]) -> R,
) -> Result<R, Error> {
    check_ram(mem, &range)?;
    let len = index(range.end - range.start);
    let slice = mem
        .get_slice(GuestAddress(range.start), len)
        .map_err(|source| Error::Write {
            what: "the kernel",
            source,
        })?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: `get_slice` has checked that `len` bytes from this pointer are
    // within one mapping, which `mem` keeps alive; a mapping's bytes are always
    // initialised, and u8 needs no alignment. Nobody else refers to them while
    // `work` runs: this is called only by `load_kernel`, whose contract is that
    // no vCPU runs yet (so neither does a device), and `work` is given no guest
    // memory. The reference does not outlive the call.
    let bytes = unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), len) };
    Ok(work(bytes))
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn bytes_are_guest_memory() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        with_bytes(&mem, 0x10_1000..0x10_1010, |bytes| bytes.fill(7)).unwrap();
        let mut read = [0; 18];
        mem.read_slice(&mut read, GuestAddress(0x10_0fff)).unwrap();
        assert_eq!(read[0], 0);
        assert_eq!(read[1..17], [7; 16]);
        assert_eq!(read[17], 0);
    }

    #[test]
    fn ranges_outside_ram_are_refused() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        for range in [0x10_0000..0x20_0001, 0x40_0000..0x50_0000] {
            assert!(matches!(
                with_bytes(&mem, range, |_| ()),
                Err(Error::OutsideRam { .. })
            ));
        }
        assert!(matches!(
            with_bytes(&mem, 0x1000..0x2000, |_| ()),
            Err(Error::LowMemory { .. })
        ));
    }
}
