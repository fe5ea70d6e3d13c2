//! Reading a kernel module file: decompression and its `.modinfo` section.
//!
//! A module is an ELF64 relocatable object; `.modinfo` holds `key=value` strings
//! separated by NUL bytes (kernel: include/linux/moduleinfo.h).

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The largest module accepted once decompressed, in bytes.
const MAX_IMAGE: u64 = 64 << 20;

/// Why a module file can't be used.
#[derive(Debug, Error)]
pub enum Error {
    /// It couldn't be read or decompressed.
    #[error("cannot read module {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the decompressor said.
        source: io::Error,
    },
    /// Not a little-endian ELF64 file with intact section headers.
    #[error("module is no intact ELF64 file: {0}")]
    Elf(&'static str),
}

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modinfo {
    /// Its name, in [`canonical`] form; empty if it doesn't say.
    pub name: String,
    /// The modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Modules to be loaded before it if they are there.
    pub pre: Vec<String>,
    /// Firmware files it may ask for.
    pub firmware: Vec<String>,
}

/// A module name with `-` written as `_`, as the kernel reports it.
#[must_use]
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module name that a file name stands for: `kvm-amd.ko.xz` is `kvm_amd`.
#[must_use]
pub fn name_of(file_name: &str) -> Option<String> {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .find_map(|suffix| file_name.strip_suffix(suffix))
        .filter(|stem| !stem.is_empty())
        .map(canonical)
}

/// Reads a module file and undoes its compression, which its first bytes tell.
///
/// # Errors
/// [`Error::Read`], also for a file above the size limit.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path)
        .and_then(|bytes| decompress(&bytes))
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })
}

fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let reader: Box<dyn Read + '_> = match bytes {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(liblzma::read::XzDecoder::new(bytes)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::new(bytes)?),
        [0x1f, 0x8b, ..] => Box::new(flate2::read::GzDecoder::new(bytes)),
        _ => Box::new(bytes),
    };
    let mut image = Vec::new();
    let read = reader.take(MAX_IMAGE + 1).read_to_end(&mut image)?;
    if u64::try_from(read).map_err(io::Error::other)? > MAX_IMAGE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "module exceeds 64 MiB",
        ));
    }
    Ok(image)
}

impl Modinfo {
    /// Reads the `.modinfo` section of a module's image.
    ///
    /// # Errors
    /// [`Error::Elf`] says what isn't as it must be.
    pub fn parse(image: &[u8]) -> Result<Self, Error> {
        let mut info = Self::default();
        for entry in section(image, b".modinfo")?.split(|&byte| byte == 0) {
            let Ok(entry) = std::str::from_utf8(entry) else {
                continue;
            };
            let Some((key, value)) = entry.split_once('=') else {
                continue;
            };
            match key {
                "name" => info.name = canonical(value),
                "depends" => info.depends.extend(
                    value
                        .split(',')
                        .filter(|name| !name.is_empty())
                        .map(canonical),
                ),
                "softdep" => info.pre.extend(soft_dependencies(value)),
                "firmware" => info.firmware.push(value.to_owned()),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// The modules after `pre:` in `pre: a b post: c`.
fn soft_dependencies(value: &str) -> Vec<String> {
    let mut pre = false;
    let mut names = Vec::new();
    for word in value.split_whitespace() {
        match word {
            "pre:" => pre = true,
            "post:" => pre = false,
            name if pre => names.push(canonical(name)),
            _ => {}
        }
    }
    names
}

/// The contents of a section, by name (System V gABI, chapter 4).
fn section<'a>(image: &'a [u8], wanted: &[u8]) -> Result<&'a [u8], Error> {
    const HEADER: u64 = 64;
    if image.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(Error::Elf("wrong magic, class or byte order"));
    }
    let bad = Error::Elf("section header outside the file");
    let (Some(table), Some(size), Some(count), Some(names)) = (
        u64_at(image, 0x28),
        u16_at(image, 0x3a),
        u16_at(image, 0x3c),
        u16_at(image, 0x3e),
    ) else {
        return Err(bad);
    };
    if u64::from(size) != HEADER {
        return Err(Error::Elf("section headers of an unknown size"));
    }
    // Name offset within the string table, and the section's bytes.
    let header = |index: u16| -> Option<(u32, &'a [u8])> {
        let at = table.checked_add(u64::from(index) * HEADER)?;
        let name = u32_at(image, at)?;
        let offset = u64_at(image, at.checked_add(0x18)?)?;
        let length = u64_at(image, at.checked_add(0x20)?)?;
        Some((name, slice(image, offset, length)?))
    };
    let Some((_, strings)) = header(names) else {
        return Err(bad);
    };
    for index in 1..count {
        // A section without bytes in the file (.bss) may point anywhere.
        let Some((name, bytes)) = header(index) else {
            continue;
        };
        let tail = usize::try_from(name)
            .ok()
            .and_then(|name| strings.get(name..));
        if tail
            .and_then(|tail| tail.strip_prefix(wanted))
            .is_some_and(|rest| rest.first() == Some(&0))
        {
            return Ok(bytes);
        }
    }
    Err(Error::Elf("no .modinfo section"))
}

fn slice(image: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = usize::try_from(offset.checked_add(length)?).ok()?;
    image.get(start..end)
}

fn u16_at(image: &[u8], offset: u64) -> Option<u16> {
    Some(u16::from_le_bytes(
        slice(image, offset, 2)?.try_into().ok()?,
    ))
}

fn u32_at(image: &[u8], offset: u64) -> Option<u32> {
    Some(u32::from_le_bytes(
        slice(image, offset, 4)?.try_into().ok()?,
    ))
}

fn u64_at(image: &[u8], offset: u64) -> Option<u64> {
    Some(u64::from_le_bytes(
        slice(image, offset, 8)?.try_into().ok()?,
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A minimal ELF64 object with these modinfo entries.
    pub(crate) fn module(entries: &[&str]) -> Vec<u8> {
        let strings = b"\0.modinfo\0.shstrtab\0";
        let info: Vec<u8> = entries.iter().flat_map(|e| e.bytes().chain([0])).collect();
        let info_at = 64 + strings.len();
        let table = (info_at + info.len()).next_multiple_of(8);
        let mut image = vec![0u8; table + 3 * 64];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        for (at, value) in [(0x3a, 64u16), (0x3c, 3), (0x3e, 2)] {
            image[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        image[64..info_at].copy_from_slice(strings);
        image[info_at..info_at + info.len()].copy_from_slice(&info);
        for (index, name, offset, length) in
            [(1, 1u32, info_at, info.len()), (2, 10, 64, strings.len())]
        {
            let at = table + index * 64;
            image[at..at + 4].copy_from_slice(&name.to_le_bytes());
            image[at + 0x18..at + 0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            image[at + 0x20..at + 0x28].copy_from_slice(&(length as u64).to_le_bytes());
        }
        image
    }

    #[test]
    fn dependencies_are_read() {
        let image = module(&[
            "license=GPL",
            "softdep=pre: crc32c-generic aesni post: late",
            "depends=kvm,rng-core,",
            "name=kvm-amd",
        ]);
        assert_eq!(
            Modinfo::parse(&image).unwrap(),
            Modinfo {
                name: "kvm_amd".into(),
                depends: vec!["kvm".into(), "rng_core".into()],
                pre: vec!["crc32c_generic".into(), "aesni".into()],
                firmware: vec![],
            }
        );
    }

    #[test]
    fn file_names_become_module_names() {
        for (file, name) in [
            ("kvm-amd.ko", Some("kvm_amd")),
            ("virtio_pci.ko.xz", Some("virtio_pci")),
            ("a.ko.zst", Some("a")),
            (".ko", None),
            ("modules.dep", None),
        ] {
            assert_eq!(name_of(file).as_deref(), name, "{file}");
        }
    }

    #[test]
    fn every_compression_is_undone() {
        let image = module(&["depends="]);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&image).unwrap();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&image).unwrap();
        for packed in [
            image.clone(),
            xz.finish().unwrap(),
            gz.finish().unwrap(),
            zstd::stream::encode_all(image.as_slice(), 1).unwrap(),
        ] {
            assert_eq!(decompress(&packed).unwrap(), image);
        }
    }

    #[test]
    fn a_truncated_module_is_an_error_at_every_length() {
        let image = module(&["depends=kvm"]);
        for length in 0..image.len() - 64 {
            assert!(Modinfo::parse(&image[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_module_never_panics(at in 0usize..64, byte in any::<u8>()) {
            let mut image = module(&["depends=kvm", "name=x"]);
            image[at] = byte;
            if let Ok(info) = Modinfo::parse(&image) {
                prop_assert!(info.depends.len() <= 1);
            }
        }
    }
}
