//! Kernels that are compressed as a whole file, as Debian ships Xen: boot loaders
//! unpack them before they look at them, and so is it done here.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;

use super::{Error, len_u64};

/// Magic number and compression method (RFC 1952, 2.3.1).
const MAGIC: [u8; 3] = [0x1F, 0x8B, 8];

/// More than any kernel has: a small file must not fill the host's memory.
const MAX_SIZE: u64 = 256 << 20;

/// What is in `image`, if it is a gzip file.
///
/// # Errors
/// If it is, and is damaged or has too much in it.
pub(super) fn unpack(image: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    unpack_at_most(MAX_SIZE, image)
}

fn unpack_at_most(limit: u64, image: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    if !image.starts_with(&MAGIC) {
        return Ok(None);
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(image)
        .take(limit + 1)
        .read_to_end(&mut unpacked)
        .map_err(Error::Gzip)?;
    if len_u64(unpacked.len()) > limit {
        return Err(Error::Gzip(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(unpacked))
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{elf32, memory, pack};
    use super::super::{Compression, load_kernel};
    use super::*;

    #[test]
    fn a_kernel_loads_as_it_would_unpacked() {
        let image = elf32(1 << 20, &[0x90; 16], Some(1 << 20));
        let packed = pack(Compression::Gzip, &image);
        let kernels = [image, packed].map(|image| {
            let kernel = load_kernel(&memory(4 << 20), &image).unwrap();
            (kernel.entry, kernel.end, kernel.protocol)
        });
        assert_eq!(kernels[0], kernels[1]);
    }

    #[test]
    fn a_damaged_file_or_one_with_too_much_in_it_is_refused() {
        let packed = pack(Compression::Gzip, &[0; 4096]);
        let error = load_kernel(&memory(4 << 20), &packed[..20]).unwrap_err();
        assert!(error.to_string().starts_with("cannot unpack"), "{error}");
        assert!(unpack_at_most(4096, &packed).unwrap().is_some());
        assert!(matches!(unpack_at_most(4095, &packed), Err(Error::Gzip(_))));
    }

    #[test]
    fn what_is_no_gzip_file_is_left_alone() {
        assert!(unpack(b"\x7fELF").unwrap().is_none());
        assert!(unpack(&[]).unwrap().is_none());
    }
}
