//! Kernels made up for tests: ELF files and bzImages with nothing to run.

use std::io::Write;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::Compression;
use crate::GuestMemory;

/// Size of the ELF header, after which program headers follow.
const ELF_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

pub(super) fn memory(size: usize) -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), size)]).unwrap()
}

pub(super) fn read(mem: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// Bytes that are not zero, and differ from those around them.
pub(super) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (1..=251).cycle().skip(seed).take(len).collect()
}

/// One program header and what it describes.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) kind: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
}

impl Program {
    pub(super) fn load(offset: u64, address: u64, file_size: u64, memory_size: u64) -> Self {
        Self {
            kind: 1,
            offset,
            address,
            file_size,
            memory_size,
        }
    }
}

/// An ELF file of `size` patterned bytes with these headers.
pub(super) fn elf(entry: u64, programs: &[Program], size: usize) -> Vec<u8> {
    let mut file = pattern(3, size.max(ELF_HEADER + programs.len() * PROGRAM_HEADER));
    file[..ELF_HEADER].fill(0);
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[16] = 2;
    file[18] = 62;
    put(&mut file, 24, &entry.to_le_bytes());
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 54, &56u16.to_le_bytes());
    let count = u16::try_from(programs.len()).unwrap();
    put(&mut file, 56, &count.to_le_bytes());
    for (index, program) in programs.iter().enumerate() {
        let at = ELF_HEADER + index * PROGRAM_HEADER;
        put(&mut file, at, &program.kind.to_le_bytes());
        let fields = [
            program.offset,
            program.address,
            program.address,
            program.file_size,
            program.memory_size,
            4,
        ];
        for (field, value) in fields.iter().enumerate() {
            put(&mut file, at + 8 + field * 8, &value.to_le_bytes());
        }
    }
    file
}

/// An ELF file of 32 bits with one segment, of `code`, at `address`, and Xen's
/// note with this 32-bit entry point, if any.
pub(super) fn elf32(address: u32, code: &[u8], pvh_entry: Option<u32>) -> Vec<u8> {
    const CODE: u32 = 0x100;
    let mut file = vec![0; 0x100];
    put(&mut file, 0, b"\x7fELF\x01\x01");
    file[16] = 2;
    file[18] = 3;
    put(&mut file, 24, &address.to_le_bytes());
    put(&mut file, 28, &52u32.to_le_bytes());
    put(&mut file, 42, &32u16.to_le_bytes());
    file[44] = 2;
    let size = u32::try_from(code.len()).unwrap();
    let load = [1, CODE, address, address, size, size, 7, 4];
    let note = [4, 0x80, 0, 0, 20, 20, 4, 4];
    for (index, value) in load.iter().chain(&note).enumerate() {
        put(&mut file, 52 + index * 4, &value.to_le_bytes());
    }
    let kind = if pvh_entry.is_some() { 18 } else { 0 };
    let xen = u32::from_le_bytes(*b"Xen\0");
    for (index, value) in [4, 4, kind, xen, pvh_entry.unwrap_or(0)].iter().enumerate() {
        put(&mut file, 0x80 + index * 4, &value.to_le_bytes());
    }
    file.extend_from_slice(code);
    file
}

/// Adds Xen's note with a 32-bit entry point at `offset`, and fills in the
/// program header `index` to name it.
pub(super) fn add_pvh_note(file: &mut [u8], index: usize, offset: usize, entry: u32) {
    let note = [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry];
    for (word, value) in note.iter().enumerate() {
        put(file, offset + word * 4, &value.to_le_bytes());
    }
    let at = ELF_HEADER + index * PROGRAM_HEADER;
    put(file, at, &4u32.to_le_bytes());
    put(file, at + 8, &u64::try_from(offset).unwrap().to_le_bytes());
    put(file, at + 32, &20u64.to_le_bytes());
}

pub(super) fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A setup header as of protocol 2.15, for a kernel linked at 4 MiB.
pub(super) fn header() -> setup_header {
    setup_header {
        setup_sects: 1,
        boot_flag: 0xaa55,
        jump: 0x6aeb,
        header: u32::from_le_bytes(*b"HdrS"),
        version: 0x20f,
        loadflags: 1,
        xloadflags: 0x7f,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 2047,
        pref_address: 4 << 20,
        init_size: 3 << 20,
        payload_offset: 0x400,
        ..setup_header::default()
    }
}

/// A bzImage with this header, its sizes filled in, and this payload.
pub(super) fn bzimage(mut header: setup_header, payload: &[u8]) -> Vec<u8> {
    let mut code = pattern(9, 0x400);
    code.extend_from_slice(payload);
    code.resize(code.len().next_multiple_of(16), 0);
    header.syssize = u32::try_from(code.len() / 16).unwrap();
    header.payload_length = u32::try_from(payload.len()).unwrap();
    let mut file = vec![0; 1024];
    put(&mut file, 0x1f1, header.as_slice());
    file.extend_from_slice(&code);
    file
}

/// Packs as the kernel's build does.
pub(super) fn pack(compression: Compression, plain: &[u8]) -> Vec<u8> {
    let mut packed = match compression {
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(plain).unwrap();
            return encoder.finish().unwrap();
        }
        Compression::Stored => return plain.to_vec(),
        Compression::Lz4 => {
            let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
            for block in plain.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
                frame.extend(block);
            }
            frame
        }
        Compression::Lzma => {
            let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
            let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::bulk::compress(plain, 1).unwrap(),
    };
    packed.extend(u32::try_from(plain.len()).unwrap().to_le_bytes());
    packed
}
