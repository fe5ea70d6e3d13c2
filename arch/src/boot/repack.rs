//! A bzImage with its payload unpacked, for whoever boots a kernel often:
//! unpacking is most of what a boot costs its host.

use std::ops::Range;

use super::bzimage::BzImage;
use super::elf::Elf;
use super::payload::{Compression, Payload};
use super::{Error, index};

/// Fields of the setup header, by their place in the file.
const SYSSIZE: Range<usize> = 0x1F4..0x1F8;
const PAYLOAD_OFFSET: Range<usize> = 0x248..0x24C;
const PAYLOAD_LENGTH: Range<usize> = 0x24C..0x250;

/// The protected-mode code is counted in paragraphs of so many bytes.
const PARAGRAPH: usize = 16;

/// A bzImage that can be written again with its payload as it is.
///
/// The result holds the setup code with its header, and then the kernel's ELF
/// in place of the decompressor: [`load_kernel`](super::load_kernel) takes it,
/// and nothing else does.
pub struct Repack<'a> {
    setup: &'a [u8],
    payload: Payload<'a>,
}

impl<'a> Repack<'a> {
    /// Looks at a kernel. `None` if there is nothing to gain: it is no
    /// bzImage, is unpacked already, or its format is not known.
    ///
    /// # Errors
    /// If it is a bzImage, and damaged.
    pub fn new(image: &'a [u8]) -> Result<Option<Self>, Error> {
        if !super::bzimage::is_bzimage(image) {
            return Ok(None);
        }
        let bz = BzImage::parse(image)?;
        let payload =
            Payload::parse(bz.payload).filter(|payload| payload.compression != Compression::Stored);
        Ok(payload.map(|payload| Self {
            setup: bz.setup,
            payload,
        }))
    }

    /// The result's size in bytes.
    pub fn size(&self) -> usize {
        self.setup.len() + self.code_size()
    }

    fn code_size(&self) -> usize {
        index(self.payload.unpacked_size.into()).next_multiple_of(PARAGRAPH)
    }

    /// Writes the result to `out`, which holds [`Repack::size`] zeroes.
    ///
    /// # Errors
    /// If the payload is damaged or holds no kernel.
    pub fn write(&self, out: &mut [u8]) -> Result<(), Error> {
        let (setup, code) = out.split_at_mut(self.setup.len());
        setup.copy_from_slice(self.setup);
        let size = self.payload.unpacked_size;
        let code = &mut code[..index(size.into())];
        self.payload.unpack(code)?;
        // Anything else would pass for a decompressor when it is loaded.
        Elf::parse_64(code).map_err(|error| Error::PayloadNotElf(Box::new(error)))?;
        let paragraphs = size.div_ceil(16);
        for (field, value) in [
            (SYSSIZE, paragraphs),
            (PAYLOAD_OFFSET, 0),
            (PAYLOAD_LENGTH, size),
        ] {
            setup[field].copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }
}
