//! Whatever the image holds, loading it ends in a kernel or an error.

use proptest::prelude::*;

use super::synthetic::{
    Program, add_pvh_note, bzimage, elf, elf32, header, memory, pack, put, read,
};
use super::*;

const MIB: u64 = 1 << 20;

fn plain() -> Vec<u8> {
    let programs = [
        Program::load(0x400, 4 * MIB, 0x200, 0x200),
        Program::load(0x600, 4 * MIB + 0x200, 0x100, 0x1000),
        Program::load(0, 0, 0, 0),
    ];
    let mut file = elf(4 * MIB, &programs, 0x800);
    add_pvh_note(&mut file, 2, 0x700, 0x40_0010);
    file
}

/// A Multiboot image: an ELF of 32 bits, with address fields in its header or not.
fn multiboot(flags: u32) -> Vec<u8> {
    let mut code = vec![0x90; 0x100];
    let checksum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(flags);
    let words = [
        0x1bad_b002,
        flags,
        checksum,
        0x40_0020,
        0x40_0000,
        0x40_0100,
        0x40_2000,
        0x40_0040,
    ];
    for (index, word) in words.iter().enumerate() {
        put(&mut code, 0x20 + index * 4, &word.to_le_bytes());
    }
    elf32(0x40_0000, &code, None)
}

fn packed(compression: Compression) -> Vec<u8> {
    bzimage(header(), &pack(compression, &plain()))
}

/// Loads and boots as the monitor does, and checks what it is promised.
fn boot(mem: &GuestMemory, image: &[u8]) {
    let Ok(kernel) = load_kernel(mem, image) else {
        return;
    };
    assert!(
        ram_from_1_mib(mem)
            .iter()
            .any(|ram| ram.contains(&kernel.entry.0))
    );
    if let Ok(initrd) = load_initrd(mem, &kernel, &mut &[1u8; 0x3000][..], 0x3000) {
        assert!(initrd.start >= kernel.end.0);
    }
    let mut room = module_room(mem, &kernel, None);
    let module = load_module(mem, &kernel, &mut room, &[1; 0x1001], "module").ok();
    if let Some(module) = &module {
        assert!(module.range.start >= kernel.end.0);
    }
    let params = BootParams {
        cmdline: "",
        initrd: None,
        modules: module.as_slice(),
        rsdp: GuestAddress(0xe_0000),
    };
    write_boot_data(mem, &kernel, &params).unwrap();
    assert_eq!(boot_registers(&kernel).regs.rip, kernel.entry.0);
}

#[test]
fn other_files_are_not_kernels() {
    let mem = memory(16 << 20);
    for image in [&b""[..], b"#!/bin/sh", &[0; 4096]] {
        assert!(matches!(
            load_kernel(&mem, image),
            Err(Error::NotAKernel { size }) if size == image.len()
        ));
    }
}

#[test]
fn nothing_lands_on_the_machines_own_tables() {
    use crate::layout;
    for start in [
        layout::GDT.0,
        layout::PVH_START_INFO.0,
        layout::ZERO_PAGE.0,
        layout::PAGE_TABLES.0,
        layout::COMMAND_LINE.0,
        layout::ACPI_TABLES.start,
        HIGH_RAM_START - 1,
    ] {
        let programs = [
            Program::load(0x400, 4 * MIB, 0x200, 0x200),
            Program::load(0x600, start, 0x100, 0x100),
        ];
        let file = elf(4 * MIB, &programs, 0x800);
        for image in [bzimage(header(), &file), file] {
            let mem = memory(8 << 20);
            let error = load_kernel(&mem, &image).unwrap_err();
            assert!(matches!(error, Error::LowMemory { .. }), "{error}");
            assert!(read(&mem, 0, 1 << 20) == vec![0; 1 << 20], "{start:#x}");
        }
    }
}

/// What a decoder writes is bounded by the trailer, and that by RAM.
#[test]
fn a_payload_that_lies_about_its_size_is_refused() {
    let bomb = elf(4 * MIB, &[Program::load(0, 4 * MIB, 1, 1)], 4 << 20);
    for compression in [
        Compression::Gzip,
        Compression::Lz4,
        Compression::Lzma,
        Compression::Xz,
        Compression::Zstd,
    ] {
        for (claim, message) in [
            (u32::MAX, "the kernel needs RAM at 0x200000..0x1001fffff,"),
            ((4 << 20) + 1, "the bzImage's "),
            (0x1000, "the bzImage's "),
            (0, "the bzImage's "),
        ] {
            let mut payload = pack(compression, &bomb);
            payload.splice(payload.len() - 4.., u32::to_le_bytes(claim));
            let image = bzimage(header(), &payload);
            let error = load_kernel(&memory(8 << 20), &image).unwrap_err();
            assert!(error.to_string().starts_with(message), "{claim}: {error}");
        }
    }
}

#[test]
fn a_dictionary_larger_than_any_kernels_is_refused() {
    // Properties, a dictionary of 2 GiB, a size that is not known.
    let mut payload = vec![0x5d, 0, 0, 0, 0x80];
    payload.extend([0xff; 8]);
    payload.extend([0; 64]);
    payload.extend(0x1000u32.to_le_bytes());
    let error = load_kernel(&memory(8 << 20), &bzimage(header(), &payload)).unwrap_err();
    assert!(matches!(error, Error::Payload { .. }), "{error}");
}

#[test]
fn only_a_kernel_is_written_again() {
    for (plain, kernel) in [(plain(), true), (pack(Compression::Zstd, &plain()), false)] {
        let image = bzimage(header(), &pack(Compression::Gzip, &plain));
        let repack = Repack::new(&image).unwrap().unwrap();
        let mut out = vec![0; repack.size()];
        match repack.write(&mut out) {
            Ok(()) => assert!(kernel && load_kernel(&memory(8 << 20), &out).is_ok()),
            Err(error) => assert!(!kernel && matches!(error, Error::PayloadNotElf(_))),
        }
    }
}

fn images() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(plain()),
        Just(multiboot(3)),
        Just(multiboot(0x1_0003)),
        Just(packed(Compression::Stored)),
        Just(packed(Compression::Gzip)),
        Just(packed(Compression::Lz4)),
        Just(packed(Compression::Lzma)),
        Just(packed(Compression::Xz)),
        Just(packed(Compression::Zstd)),
    ]
}

/// Bytes to be put over an image's: in its headers or anywhere.
fn mutations() -> impl Strategy<Value = Vec<(prop::sample::Index, bool, Vec<u8>)>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
    ];
    prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), bytes), 0..6)
}

proptest! {
    #[test]
    fn mutated_images_load_or_fail(
        mut image in images(),
        mutations in mutations(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for (place, in_headers, bytes) in mutations {
            let most = if in_headers { image.len().min(0x270) } else { image.len() };
            let at = place.index(most);
            let end = image.len().min(at + bytes.len());
            image[at..end].copy_from_slice(&bytes[..end - at]);
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len() + 1));
        }
        boot(&memory(8 << 20), &image);
    }
}
