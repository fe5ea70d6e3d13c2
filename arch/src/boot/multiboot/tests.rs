use proptest::prelude::*;

use super::super::synthetic::{Program, elf, elf32, memory, put, read};
use super::super::{
    BootParams, Error as BootError, Module, boot_registers, command_line, load_kernel,
    write_boot_data,
};
use super::*;

const MIB: u64 = 1 << 20;
/// Where the images' code is linked.
const BASE: u32 = 0x20_0000;

/// A header with these flags, and the words that follow it.
fn header(flags: u32, rest: &[u32]) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    let words = [&[MAGIC, flags, checksum], rest].concat();
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A flat image of 0x200 bytes with its header at 0x40: `fields` are header_addr,
/// load_addr, load_end_addr, bss_end_addr, entry_addr.
fn flat(fields: [u32; 5]) -> Vec<u8> {
    let mut image = vec![0x90; 0x200];
    put(&mut image, 0x40, &header(ADDRESSES, &fields));
    image
}

/// The fields of an image that is loaded whole and has 0x100 zeroes behind it.
const GOOD: [u32; 5] = [BASE + 0x40, BASE, BASE + 0x200, BASE + 0x300, BASE + 0x80];

fn load(image: &[u8]) -> Result<LoadedKernel, BootError> {
    load_kernel(&memory(16 << 20), image)
}

fn refusal(image: &[u8]) -> String {
    load(image).unwrap_err().to_string()
}

#[test]
fn a_flat_image_goes_where_its_header_says() {
    let mem = memory(16 << 20);
    let image = flat(GOOD);
    let kernel = load_kernel(&mem, &image).unwrap();
    assert_eq!(kernel.protocol, Protocol::Multiboot);
    assert_eq!((kernel.entry.0, kernel.end.0), (0x20_0080, 0x20_0300));
    assert_eq!(read(&mem, 2 * MIB, 0x200), image);
    assert_eq!(boot_registers(&kernel).regs.rip, 0x20_0080);
}

#[test]
fn a_flat_image_may_leave_out_its_head_its_end_and_its_zeroes() {
    let mem = memory(16 << 20);
    let [header, load, _, _, entry] = GOOD;
    // From byte 0x20 of the file on, to its end.
    let image = flat([header, load + 0x20, 0, 0, entry]);
    let kernel = load_kernel(&mem, &image).unwrap();
    assert_eq!(kernel.end.0, 0x20_0200);
    assert_eq!(read(&mem, 0x20_0020, 0x1e0), image[0x20..]);
    assert_eq!(read(&mem, 0x20_001f, 1), [0]);
}

#[test]
fn bad_addresses_are_refused_with_their_values() {
    let [header, load, end, bss, entry] = GOOD;
    for (fields, message) in [
        (
            [load - 4, load, end, bss, entry],
            "its header_addr 0x1ffffc is below its load_addr 0x200000",
        ),
        (
            [header, load - 4, end, bss, entry],
            "its header is at byte 0x40 of the file, and load_addr 0x1ffffc is further than \
             that below header_addr 0x200040",
        ),
        (
            [header, load, load, bss, entry],
            "its load_end_addr 0x200000 isn't between its load_addr 0x200000 and the file's \
             end at 0x200200",
        ),
        (
            [header, load, end + 1, bss, entry],
            "its load_end_addr 0x200201 isn't between its load_addr 0x200000 and the file's \
             end at 0x200200",
        ),
        (
            [header, load, end, end - 1, entry],
            "its bss_end_addr 0x2001ff is below the end of what is loaded, 0x200200",
        ),
        (
            [header, load, end, bss, load - 1],
            "its entry_addr 0x1fffff is outside of what is loaded, 0x200000..0x200200",
        ),
        (
            // Among the zeroes.
            [header, load, end, bss, end],
            "its entry_addr 0x200200 is outside of what is loaded, 0x200000..0x200200",
        ),
    ] {
        let wanted = format!("the Multiboot image: {message}");
        assert_eq!(refusal(&flat(fields)), wanted);
    }
}

#[test]
fn an_image_without_ram_for_it_is_refused() {
    let at = |load: u32, bss: u32| flat([load + 0x40, load, 0, bss, load]);
    assert!(matches!(
        load(&at(0x7000, 0)).unwrap_err(),
        BootError::LowMemory { range } if range == (0x7000..0x7200)
    ));
    assert!(matches!(
        load(&at(BASE, u32::MAX)).unwrap_err(),
        BootError::OutsideRam { range, .. } if range == (0x20_0000..0xffff_ffff)
    ));
    // From the last addresses around to the first.
    assert!(matches!(
        load(&at(u32::MAX - 0x40, 0)).unwrap_err(),
        BootError::OutsideRam { range, .. } if range.end == 0x1_0000_01bf
    ));
}

#[test]
fn the_header_is_searched_at_words_of_the_first_8192_bytes() {
    for (at, found) in [
        (0, true),
        (4, true),
        (8180, true),
        (2, false),
        (8184, false),
        (8192, false),
    ] {
        let mut image = vec![0; 3 * SEARCHED];
        put(&mut image, at, &header(0, &[]));
        assert_eq!(Header::find(&image).is_some(), found, "{at}");
    }
    let mut wrong = header(0, &[]);
    wrong[8] ^= 1;
    assert!(Header::find(&wrong).is_none());
    for length in 0..SIZE {
        assert!(Header::find(&header(0, &[])[..length]).is_none());
    }
}

#[test]
fn demands_that_cannot_be_met_are_refused() {
    for (flags, message) in [
        (
            4,
            "it demands a video mode (flag 2), and the machine has no screen; build it without",
        ),
        (
            8,
            "it demands what Multiboot 1 doesn't define (flags 0x8); only flags 0, 1 and 16 \
             can be met",
        ),
        (
            0x1_000c,
            "it demands what Multiboot 1 doesn't define (flags 0x1000c); only flags 0, 1 and \
             16 can be met",
        ),
        (
            3,
            "it has no address fields (flag 16) and is no ELF; link it as an ELF, or set them",
        ),
        (
            0x1_0000,
            "its address fields end at byte 32, the file has 12",
        ),
    ] {
        let wanted = format!("the Multiboot image: {message}");
        assert_eq!(refusal(&header(flags, &[])), wanted);
    }
    // A boot loader may ignore the upper flags.
    let mut image = flat(GOOD);
    put(&mut image, 0x40, &header(0xfff1_0003, &GOOD));
    load(&image).unwrap();
}

#[test]
fn an_elf_of_32_bits_is_loaded_by_its_segments() {
    let mut code = vec![0x90; 0x100];
    put(&mut code, 0x10, &header(3, &[]));
    let kernel = load(&elf32(BASE, &code, None)).unwrap();
    assert_eq!(kernel.protocol, Protocol::Multiboot);
    assert_eq!((kernel.entry.0, kernel.end.0), (0x20_0000, 0x20_0100));
    // PVH tells more, so it comes first.
    let both = load(&elf32(BASE, &code, Some(BASE + 4))).unwrap();
    assert_eq!(both.protocol, Protocol::Pvh);
}

#[test]
fn a_virtual_entry_point_is_entered_where_it_is_loaded() {
    let virtual_base = 0xffff_8000_0000_0000u64;
    let load = Program::load(0x400, 2 * MIB, 0x100, 0x100);
    let mut image = elf(virtual_base + 0x20, &[load], 0x800);
    put(&mut image, 64 + 16, &virtual_base.to_le_bytes());
    put(&mut image, 0x440, &header(0, &[]));
    let kernel = load_kernel(&memory(16 << 20), &image).unwrap();
    assert_eq!(kernel.protocol, Protocol::Multiboot);
    assert_eq!(kernel.entry.0, 0x20_0020);
    // Outside of its segments, virtual or physical.
    put(&mut image, 24, &(virtual_base + 0x100).to_le_bytes());
    let error = load_kernel(&memory(16 << 20), &image).unwrap_err();
    assert!(matches!(error, BootError::EntryOutside { .. }), "{error}");
}

#[test]
fn address_fields_win_over_a_damaged_elf() {
    let mut image = flat(GOOD);
    put(&mut image, 0, b"\x7fELF\x09");
    assert_eq!(load(&image).unwrap().entry.0, 0x20_0080);
    // Without them the ELF's own error is the one to tell.
    put(&mut image, 0x40, &header(0, &[]));
    assert!(refusal(&image).starts_with("ELF class is 9"));
}

fn dword(bytes: &[u8], at: usize) -> u64 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).into()
}

fn qword(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn the_information_says_what_the_specification_lists() {
    let mem = memory(16 << 20);
    let kernel = load_kernel(&mem, &flat(GOOD)).unwrap();
    let cmdline = command_line(&kernel, "/boot/my kernel".as_ref(), "a=1 b");
    let modules = [Module {
        range: 0x30_0000..0x30_0003,
        cmdline: command_line(&kernel, "/boot/guest".as_ref(), ""),
    }];
    let params = BootParams {
        cmdline: &cmdline,
        initrd: Some(0xc0_0000..0xc0_1234),
        modules: &modules,
        rsdp: GuestAddress(0xe_0000),
    };
    write_boot_data(&mem, &kernel, &params).unwrap();
    let info = read(&mem, boot_registers(&kernel).regs.rbx, 88);
    assert_eq!(dword(&info, 0), 0b10_0100_1101, "flags");
    assert_eq!((dword(&info, 4), dword(&info, 8)), (640, 15 << 10));
    assert_eq!(read(&mem, dword(&info, 16), 16), b"my_kernel a=1 b\0");
    assert_eq!(dword(&info, 20), 2, "modules");
    let list = read(&mem, dword(&info, 24), 32);
    let entry = |at: usize| [0, 4, 8, 12].map(|field| dword(&list, at + field));
    assert_eq!(entry(0), [0xc0_0000, 0xc0_1234, 0, 0]);
    assert_eq!(entry(16)[..2], [0x30_0000, 0x30_0003]);
    assert_eq!(read(&mem, entry(16)[2], 6), b"guest\0");
    assert_eq!(read(&mem, dword(&info, 64), 9), b"nestling ");
    let map = read(
        &mem,
        dword(&info, 48),
        usize::try_from(dword(&info, 44)).unwrap(),
    );
    let entries: Vec<_> = map
        .chunks_exact(24)
        .map(|entry| {
            assert_eq!(dword(entry, 0), 20);
            (qword(entry, 4), qword(entry, 12), dword(entry, 20))
        })
        .collect();
    assert_eq!(entries.len(), 6);
    assert_eq!(entries[0], (0, 0xa_0000, 1));
    assert_eq!(entries[2], (0xe_0000, 0x2_0000, 3));
    assert_eq!(entries[3], (0x10_0000, 15 << 20, 1));
}

#[test]
fn a_machine_without_upper_memory_says_so() {
    let mem = memory(1 << 20);
    let params = BootParams {
        cmdline: "",
        initrd: None,
        modules: &[],
        rsdp: GuestAddress(0xe_0000),
    };
    info::write(&mem, &params).unwrap();
    let info = read(&mem, 0x8000, 88);
    assert_eq!((dword(&info, 8), dword(&info, 20)), (0, 0));
}

#[test]
fn more_pieces_of_ram_than_fit_are_refused() {
    let ranges: Vec<_> = (0..200u64)
        .map(|index| (GuestAddress(index * (2 << 20)), 1 << 20))
        .collect();
    let mem = GuestMemory::from_ranges(&ranges).unwrap();
    let params = BootParams {
        cmdline: "",
        initrd: None,
        modules: &[],
        rsdp: GuestAddress(0xe_0000),
    };
    assert!(matches!(
        info::write(&mem, &params),
        Err(BootError::MemoryMapTooLong { max: 165, .. })
    ));
}

proptest! {
    /// Whatever the address fields say, what is loaded is the file's bytes at
    /// `load_addr`, zeroes behind them, and nothing else.
    #[test]
    fn address_fields_are_followed_or_refused(
        fields in prop::array::uniform5(prop_oneof![
            any::<u32>(),
            (BASE - 0x100)..(BASE + 0x400),
            Just(0),
        ]),
    ) {
        let mem = memory(4 << 20);
        let image = flat(fields);
        if let Ok(kernel) = load_kernel(&mem, &image) {
            let [header, load, end, bss, entry] = fields;
            let start = usize::try_from(load + 0x40 - header).unwrap();
            let size = match end {
                0 => image.len() - start,
                end => usize::try_from(end - load).unwrap(),
            };
            prop_assert_eq!(read(&mem, load.into(), size), &image[start..start + size]);
            prop_assert_eq!(kernel.entry.0, u64::from(entry));
            let loaded = u64::from(load) + len_u64(size);
            prop_assert_eq!(kernel.end.0, loaded.max(bss.into()));
            let rest = read(&mem, loaded, index(kernel.end.0 - loaded));
            prop_assert!(rest.iter().all(|byte| *byte == 0));
            prop_assert!(read(&mem, 0, 1 << 20).iter().all(|byte| *byte == 0));
        }
    }
}
