//! A kernel image without its compression, for machines on which unpacking is
//! most of the boot: the same kernel, entered by a stub instead of by the
//! kernel's own decompressor. Under Bochs that saves half of the way to `/init`.
//!
//! The setup code stays as it is and asks the firmware what it always asks. What
//! follows it, loaded at 1 MiB, is: the stub with its descriptors, page tables
//! that map the first 4 GiB as they are, and the kernel as it stands in memory.
//! The stub moves the kernel to the address it was linked at, enters long mode
//! and jumps, as `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol", has
//! it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nestling_arch::GuestMemory;
use nestling_arch::boot::{self, LoadedKernel, Protocol, Unpacked};
use vm_memory::{Bytes, GuestAddress};

/// Enough to unpack any distribution's kernel in.
const MEMORY: usize = 256 << 20;
/// Where a boot loader puts what follows the setup code, unless it is told
/// that any place will do.
const LOADED_AT: u32 = 0x10_0000;
const PAGE: u32 = 0x1000;
/// One page of stub, one PML4, one page directory pointer table and four page
/// directories come before the kernel.
const HEAD: u32 = 7 * PAGE;
const TABLES_AT: u32 = LOADED_AT + PAGE;
/// The descriptors stand in the stub's page.
const DESCRIPTORS_AT: u32 = LOADED_AT + 0x800;
/// Linux's `__BOOT_CS` and `__BOOT_DS`.
const CODE: u16 = 0x10;
const DATA: u8 = 0x18;

/// Why a kernel can't be stored unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel could not be read.
    #[error("cannot read {path:?}: {source}")]
    Read {
        /// The kernel.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The result could not be written.
    #[error("cannot write {path:?}: {source}")]
    Write {
        /// The new kernel.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel could not be unpacked.
    #[error("cannot unpack kernel {path:?}: {source}")]
    Unpack {
        /// The kernel.
        path: PathBuf,
        /// Why.
        source: boot::Error,
    },
    /// It is of a form that this can't be done with.
    #[error("kernel {path:?} cannot be stored unpacked: {reason}")]
    Unsuitable {
        /// The kernel.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
}

/// Writes `kernel`, a bzImage, unpacked to `path`.
///
/// # Errors
/// [`Error::Unpack`] or [`Error::Unsuitable`] for a kernel this can't be done
/// with, or the file that failed.
pub fn write(kernel: &Path, path: &Path) -> Result<(), Error> {
    let unsuitable = |reason| Error::Unsuitable {
        path: kernel.to_owned(),
        reason,
    };
    let image = fs::read(kernel).map_err(|source| Error::Read {
        path: kernel.to_owned(),
        source,
    })?;
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|_| unsuitable("no memory to unpack it in"))?;
    let loaded = boot::load_kernel(&memory, &image).map_err(|source| Error::Unpack {
        path: kernel.to_owned(),
        source,
    })?;
    let setup = loaded
        .setup_header
        .ok_or_else(|| unsuitable("it is not a bzImage"))?;
    if !matches!(loaded.unpacked, Unpacked::Natively(_)) || loaded.protocol != Protocol::Linux64 {
        return Err(unsuitable("its compression is unknown"));
    }
    let place = Place::of(&loaded, setup.pref_address)
        .ok_or_else(|| unsuitable("it does not run where it would be put"))?;
    let mut body = vec![0; place.length()];
    memory
        .read_slice(&mut body, GuestAddress(place.start.into()))
        .map_err(|_| unsuitable("it is larger than the memory it was unpacked in"))?;
    // What follows is cleared by the stub.
    let used = body
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    body.truncate(used.next_multiple_of(16));

    let sectors = match setup.setup_sects {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let mut start = image
        .get(..(sectors + 1) * 512)
        .ok_or_else(|| unsuitable("its setup code is cut short"))?
        .to_vec();
    let length = u32::try_from(body.len()).map_err(|_| unsuitable("it is too large"))?;
    describe(&mut start, length);
    let head = head(&place, length);
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut file = File::create(path).map_err(failed)?;
    for part in [&start, &head, &body] {
        file.write_all(part).map_err(failed)?;
    }
    Ok(())
}

/// Where the kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u32,
    /// The end of all it claims.
    end: u32,
    entry: u32,
}

impl Place {
    /// None where the addresses are below what the stub occupies or too high.
    fn of(kernel: &LoadedKernel, preferred: u64) -> Option<Self> {
        let start = u32::try_from(preferred).ok()?;
        let end = u32::try_from(kernel.end.0).ok()?;
        let entry = u32::try_from(kernel.entry.0).ok()?;
        // Moved upward, so that it can be moved from its end.
        (start >= LOADED_AT + HEAD && (start..end).contains(&entry)).then_some(Self {
            start,
            end,
            entry,
        })
    }

    fn length(self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }
}

/// Corrects the setup header's fields, at their offsets in `boot.rst`.
fn describe(setup: &mut [u8], body: u32) {
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = setup.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0x1f4, &((HEAD + body) / 16).to_le_bytes()); // syssize
    put(0x214, &LOADED_AT.to_le_bytes()); // code32_start
    put(0x234, &[0]); // relocatable_kernel
    put(0x236, &[0, 0]); // xloadflags: no 64-bit entry in this file
    put(0x248, &[0; 8]); // payload_offset, payload_length: none
}

/// The stub and its tables.
fn head(place: &Place, body: u32) -> Vec<u8> {
    let mut head = stub(place, body);
    resize(&mut head, DESCRIPTORS_AT - LOADED_AT);
    let descriptors: [u64; 4] = [
        0,
        0,
        0x00af_9a00_0000_ffff, // CODE: 64-bit
        0x00cf_9200_0000_ffff, // DATA: flat
    ];
    for descriptor in descriptors {
        head.extend(descriptor.to_le_bytes());
    }
    head.extend(31u16.to_le_bytes()); // The limit, then the base, for LGDT.
    head.extend(DESCRIPTORS_AT.to_le_bytes());
    resize(&mut head, PAGE);
    // Present and writable; in a page directory also a page of 2 MiB.
    const TABLE: u64 = 0x3;
    const LARGE: u64 = 0x83;
    let next = u64::from(TABLES_AT + PAGE);
    head.extend((next | TABLE).to_le_bytes());
    resize(&mut head, 2 * PAGE);
    for directory in 1..=4 {
        head.extend(((next + directory * u64::from(PAGE)) | TABLE).to_le_bytes());
    }
    resize(&mut head, 3 * PAGE);
    for large in 0..4 * 512u64 {
        head.extend((large << 21 | LARGE).to_le_bytes());
    }
    resize(&mut head, HEAD);
    head
}

fn resize(bytes: &mut Vec<u8>, length: u32) {
    bytes.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
}

/// The code at the 32-bit entry: flat segments, no paging, no interrupts, ESI
/// points to the zero page and stays so.
fn stub(place: &Place, body: u32) -> Vec<u8> {
    let loaded = LOADED_AT + HEAD;
    let number = u32::to_le_bytes;
    let mut code: Vec<u8> = Vec::new();
    let mut add = |bytes: &[&[u8]]| bytes.iter().for_each(|part| code.extend(*part));
    add(&[&[0xfa]]); // cli
    add(&[&[0x89, 0xf3]]); // mov ebx, esi
    // Upward onto itself, thus from the end.
    add(&[&[0xfd]]); // std
    add(&[&[0xbe], &number(loaded + body - 4)]); // mov esi, imm
    add(&[&[0xbf], &number(place.start + body - 4)]); // mov edi, imm
    add(&[&[0xb9], &number(body / 4)]); // mov ecx, imm
    add(&[&[0xf3, 0xa5]]); // rep movsd
    add(&[&[0xfc]]); // cld
    add(&[&[0xbf], &number(place.start + body)]); // mov edi, imm
    add(&[&[0xb9], &number((place.end - place.start - body) / 4)]); // mov ecx, imm
    add(&[&[0x31, 0xc0]]); // xor eax, eax
    add(&[&[0xf3, 0xab]]); // rep stosd
    add(&[&[0x89, 0xde]]); // mov esi, ebx
    // Long mode: SDM volume 3, section 11.8.5.
    add(&[&[0x0f, 0x01, 0x15], &number(DESCRIPTORS_AT + 32)]); // lgdt [imm]
    add(&[&[0x0f, 0x20, 0xe0]]); // mov eax, cr4
    add(&[&[0x83, 0xc8, 0x20]]); // or eax, PAE
    add(&[&[0x0f, 0x22, 0xe0]]); // mov cr4, eax
    add(&[&[0xb8], &number(TABLES_AT)]); // mov eax, imm
    add(&[&[0x0f, 0x22, 0xd8]]); // mov cr3, eax
    add(&[&[0xb9], &number(0xc000_0080)]); // mov ecx, IA32_EFER
    add(&[&[0x0f, 0x32]]); // rdmsr
    add(&[&[0x0f, 0xba, 0xe8, 8]]); // bts eax, LME
    add(&[&[0x0f, 0x30]]); // wrmsr
    add(&[&[0x0f, 0x20, 0xc0]]); // mov eax, cr0
    add(&[&[0x0f, 0xba, 0xe8, 31]]); // bts eax, PG
    add(&[&[0x0f, 0x22, 0xc0]]); // mov cr0, eax
    let target = LOADED_AT + u32::try_from(code.len()).unwrap_or(u32::MAX) + 7;
    let mut add = |bytes: &[&[u8]]| bytes.iter().for_each(|part| code.extend(*part));
    add(&[&[0xea], &number(target), &CODE.to_le_bytes()]); // jmp CODE:target
    // 64-bit from here.
    add(&[&[0xb8, DATA, 0, 0, 0]]); // mov eax, DATA
    add(&[&[0x8e, 0xd8], &[0x8e, 0xc0], &[0x8e, 0xd0]]); // mov ds, es, ss
    add(&[&[0xb8], &number(place.entry)]); // mov eax, imm
    add(&[&[0xff, 0xe0]]); // jmp rax
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        start: 0x100_0000,
        end: 0x400_0000,
        entry: 0x100_0000,
    };

    fn quad(bytes: &[u8], at: u32) -> u64 {
        let at = usize::try_from(at).unwrap();
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// What the processor's walk finds for an address below 4 GiB.
    fn translate(head: &[u8], address: u64) -> u64 {
        let index = |shift: u32| u32::try_from((address >> shift) & 0x1ff).unwrap() * 8;
        let next = |entry: u64| u32::try_from(entry & !0xfff).unwrap() - LOADED_AT;
        let pointers = next(quad(head, PAGE + index(39)));
        let directory = next(quad(head, pointers + index(30)));
        let page = quad(head, directory + index(21));
        assert_eq!(page & 0x83, 0x83);
        (page & !0x1f_ffff) | (address & 0x1f_ffff)
    }

    #[test]
    fn the_first_four_gigabytes_are_mapped_as_they_are() {
        let head = head(&PLACE, 0x200_0000);
        assert_eq!(head.len(), usize::try_from(HEAD).unwrap());
        for address in [
            0,
            0x9_0000,
            0x10_0000,
            0x100_0000,
            0x3fff_ffff,
            0x4000_0000,
            0xffff_f000,
        ] {
            assert_eq!(translate(&head, address), address);
        }
    }

    #[test]
    fn the_stub_keeps_clear_of_its_descriptors() {
        let code = stub(&PLACE, 0x200_0000);
        assert!(code.len() <= usize::try_from(DESCRIPTORS_AT - LOADED_AT).unwrap());
        let head = head(&PLACE, 0x200_0000);
        assert_eq!(
            quad(&head, DESCRIPTORS_AT - LOADED_AT + 0x10),
            0x00af_9a00_0000_ffff
        );
        // The far jump goes to the byte after itself.
        let jump = code.iter().rposition(|&byte| byte == 0xea).unwrap();
        let target = u32::from_le_bytes(code[jump + 1..jump + 5].try_into().unwrap());
        assert_eq!(target, LOADED_AT + u32::try_from(jump).unwrap() + 7);
    }

    #[test]
    fn the_header_says_what_follows_it() {
        let mut setup = vec![0xff; 0x400];
        describe(&mut setup, 0x1000);
        assert_eq!(setup[0x1f4..0x1f8], ((HEAD + 0x1000) / 16).to_le_bytes());
        assert_eq!(setup[0x214..0x218], LOADED_AT.to_le_bytes());
        assert_eq!(setup[0x234], 0);
        describe(&mut [0; 0x100], 0x1000);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (kernel, out) = (root.path().join("kernel"), root.path().join("out"));
        assert!(matches!(write(&kernel, &out), Err(Error::Read { .. })));
        fs::write(&kernel, [0; 4096]).unwrap();
        assert!(matches!(write(&kernel, &out), Err(Error::Unpack { .. })));
        assert!(!out.exists());
    }
}
