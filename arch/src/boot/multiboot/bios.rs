//! What a kernel that goes back to real mode finds in a BIOS's place: how much
//! conventional memory there is, and a vector for each interrupt, by which every
//! call fails. Xen asks so for the memory map, the disks and the screen, and then
//! believes its boot loader.

use vm_memory::{Bytes, GuestAddress};

use super::super::Error;
use crate::GuestMemory;
use crate::layout::LOW_RAM_END;

/// The interrupt vectors: offset, then segment (SDM volume 3A, 21.1.4).
const VECTORS: GuestAddress = GuestAddress(0);
const VECTOR_COUNT: usize = 256;

/// The BIOS data area's word for the end of conventional memory, in KiB.
const MEMORY_SIZE: GuestAddress = GuestAddress(0x413);

/// The handler of all vectors, in what the BIOS data area leaves to programs.
const HANDLER: u16 = 0x4F0;

/// Sets the caller's carry flag, the sign of a call that failed:
/// `push bp; mov bp, sp; or byte [bp + 6], 1; pop bp; iret`.
const CODE: [u8; 9] = [0x55, 0x89, 0xE5, 0x80, 0x4E, 0x06, 0x01, 0x5D, 0xCF];

/// Writes all of it.
pub(super) fn write(mem: &GuestMemory) -> Result<(), Error> {
    let [low, high] = HANDLER.to_le_bytes();
    let vectors = [low, high, 0, 0].repeat(VECTOR_COUNT);
    let kib = u16::try_from(LOW_RAM_END >> 10).expect("real mode addresses 1 MiB");
    for (bytes, address) in [
        (&vectors[..], VECTORS),
        (&CODE, GuestAddress(HANDLER.into())),
        (&kib.to_le_bytes(), MEMORY_SIZE),
    ] {
        mem.write_slice(bytes, address)
            .map_err(|source| Error::Write {
                what: "real-mode vectors",
                source,
            })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::synthetic::{memory, read};
    use super::*;

    #[test]
    fn every_vector_leads_to_the_handler() {
        let mem = memory(1 << 20);
        write(&mem).unwrap();
        let vectors = read(&mem, 0, 4 * VECTOR_COUNT);
        assert!(vectors.chunks_exact(4).all(|v| v == [0xF0, 0x04, 0, 0]));
        assert_eq!(read(&mem, 0x4F0, CODE.len()), CODE);
    }

    #[test]
    fn conventional_memory_ends_at_640_kib() {
        let mem = memory(1 << 20);
        write(&mem).unwrap();
        assert_eq!(read(&mem, 0x413, 2), 640u16.to_le_bytes());
    }
}
