//! The compressed kernel inside a bzImage.
//!
//! Every decoder works in one go from the image into the place it is given,
//! with no copy between; only xz and lzma need memory (their dictionary).

use std::fmt;
use std::io::Read;

use super::{Error, field};

/// Magic number of LZ4's legacy frame, in which kernels are packed
/// (LZ4 frame format, "Legacy frame").
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

/// A block of a legacy frame unpacks to this much, the last one to less.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// Kernels are packed with dictionaries up to 128 MiB, and this bounds what a
/// damaged header can ask for.
const LZMA_MEMORY_LIMIT: u64 = 192 << 20;

/// How a bzImage's payload is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `CONFIG_KERNEL_GZIP`.
    Gzip,
    /// `CONFIG_KERNEL_LZ4`.
    Lz4,
    /// `CONFIG_KERNEL_LZMA`.
    Lzma,
    /// `CONFIG_KERNEL_XZ`.
    Xz,
    /// `CONFIG_KERNEL_ZSTD`.
    Zstd,
    /// The ELF as it is.
    Stored,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Stored => "uncompressed",
        })
    }
}

impl Compression {
    /// Recognizes a payload by its first bytes (as lib/decompress.c of Linux).
    pub(super) fn detect(payload: &[u8]) -> Option<Self> {
        match field(payload, 0)? {
            [0x1f, 0x8b, _, _] => Some(Self::Gzip),
            LZ4_LEGACY_MAGIC => Some(Self::Lz4),
            [0x5d, 0, 0, _] => Some(Self::Lzma),
            [0xfd, b'7', b'z', b'X'] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd] => Some(Self::Zstd),
            [0x7f, b'E', b'L', b'F'] => Some(Self::Stored),
            _ => None,
        }
    }
}

/// A payload whose format is known.
pub(super) struct Payload<'a> {
    pub(super) compression: Compression,
    /// Without the length that follows.
    data: &'a [u8],
    /// Bytes it unpacks to, by what its trailer says.
    pub(super) unpacked_size: u32,
}

impl<'a> Payload<'a> {
    /// Takes a payload as the setup header delimits it. `None` if its format
    /// is not known here.
    ///
    /// The build appends the unpacked size, four bytes; gzip ends in those
    /// anyway (RFC 1952, ISIZE), so there they are part of the data.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let compression = Compression::detect(bytes)?;
        let (data, trailer) = bytes.split_last_chunk()?;
        let unpacked_size = u32::from_le_bytes(*trailer);
        match compression {
            Compression::Gzip => Some(Self {
                compression,
                data: bytes,
                unpacked_size,
            }),
            Compression::Stored => Some(Self {
                compression,
                data: bytes,
                unpacked_size: u32::try_from(bytes.len()).ok()?,
            }),
            _ => Some(Self {
                compression,
                data,
                unpacked_size,
            }),
        }
    }

    /// Unpacks into `out`, which must be as long as `unpacked_size`.
    ///
    /// # Errors
    /// If the data are damaged or unpack to another length.
    pub(super) fn unpack(&self, out: &mut [u8]) -> Result<(), Error> {
        let damaged = |reason: String| Error::Payload {
            compression: self.compression,
            reason,
        };
        let size = match self.compression {
            Compression::Gzip => read_all(flate2::bufread::GzDecoder::new(self.data), out),
            Compression::Lz4 => unpack_lz4(self.data, out),
            Compression::Lzma => liblzma::stream::Stream::new_lzma_decoder(LZMA_MEMORY_LIMIT)
                .map_err(|error| error.to_string())
                .and_then(|stream| unpack_lzma(self.data, stream, out)),
            Compression::Xz => liblzma::stream::Stream::new_stream_decoder(LZMA_MEMORY_LIMIT, 0)
                .map_err(|error| error.to_string())
                .and_then(|stream| unpack_lzma(self.data, stream, out)),
            Compression::Zstd => {
                zstd::bulk::decompress_to_buffer(self.data, out).map_err(|error| error.to_string())
            }
            Compression::Stored => read_all(self.data, out),
        }
        .map_err(damaged)?;
        if size == out.len() {
            Ok(())
        } else {
            Err(damaged(format!(
                "it unpacks to {size} bytes instead of {}",
                out.len()
            )))
        }
    }
}

fn unpack_lzma(
    data: &[u8],
    stream: liblzma::stream::Stream,
    out: &mut [u8],
) -> Result<usize, String> {
    read_all(liblzma::bufread::XzDecoder::new_stream(data, stream), out)
}

/// Reads until `out` is full, and then on to the end, so that a decoder checks
/// its checksum and a longer payload is noticed.
fn read_all(mut reader: impl Read, out: &mut [u8]) -> Result<usize, String> {
    let mut filled = 0;
    while filled < out.len() {
        match reader
            .read(&mut out[filled..])
            .map_err(|error| error.to_string())?
        {
            0 => return Ok(filled),
            count => filled += count,
        }
    }
    let more = reader.read(&mut [0]).map_err(|error| error.to_string())?;
    Ok(filled + more)
}

/// Unpacks one or more legacy frames: the magic number, then blocks, each
/// preceded by its packed size.
fn unpack_lz4(mut data: &[u8], out: &mut [u8]) -> Result<usize, String> {
    let mut filled = 0;
    while let Some((word, rest)) = data.split_first_chunk() {
        data = rest;
        if *word == LZ4_LEGACY_MAGIC {
            continue;
        }
        let packed =
            usize::try_from(u32::from_le_bytes(*word)).map_err(|error| error.to_string())?;
        let (block, rest) = data
            .split_at_checked(packed)
            .ok_or_else(|| format!("a block of {packed} bytes is cut off after {}", data.len()))?;
        let end = out.len().min(filled + LZ4_LEGACY_BLOCK);
        filled += lz4_flex::block::decompress_into(block, &mut out[filled..end])
            .map_err(|error| error.to_string())?;
        data = rest;
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
