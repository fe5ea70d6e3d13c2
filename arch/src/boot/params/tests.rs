use super::super::synthetic::{header, memory, read};
use super::super::{Compression, load_initrd};
use super::*;

const RSDP: GuestAddress = GuestAddress(0xe_0000);

fn kernel(protocol: Protocol) -> LoadedKernel {
    LoadedKernel {
        entry: GuestAddress(4 << 20),
        protocol,
        end: GuestAddress(7 << 20),
        setup_header: (protocol == Protocol::Linux64).then(header),
        max_cmdline: 2047,
        unpacked: match protocol {
            Protocol::Linux64 => Unpacked::Natively(Compression::Zstd),
            Protocol::Pvh | Protocol::Multiboot => Unpacked::Plain,
        },
    }
}

fn params(cmdline: &str, initrd: Option<Range<u64>>) -> BootParams<'_> {
    BootParams {
        cmdline,
        initrd,
        modules: &[],
        rsdp: RSDP,
    }
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn qword(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn zero_page_holds_what_linux_reads() {
    let mem = memory(16 << 20);
    let params = params("console=ttyS0", Some(0xc0_0000..0xc0_1234));
    let mut kernel = kernel(Protocol::Linux64);
    let header = kernel.setup_header.as_mut().unwrap();
    header.loadflags = KASLR_FLAG;
    write_boot_data(&mem, &kernel, &params).unwrap();
    // Offsets as in Documentation/arch/x86/zero-page.rst and boot.rst.
    let page = read(&mem, 0x7000, 4096);
    assert_eq!(qword(&page, 0x70), RSDP.0);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!(page[0x210], 0xff, "type_of_loader");
    assert_eq!(page[0x211], 1, "loaded high, not moved at random");
    assert_eq!(dword(&page, 0x228), 0x2_0000, "cmd_line_ptr");
    assert_eq!(
        (dword(&page, 0x218), dword(&page, 0x21c)),
        (0xc0_0000, 0x1234)
    );
    assert_eq!(page[0x1e8], 6, "e820 entries");
    let entry = |index: usize| {
        let at = 0x2d0 + index * 20;
        (
            qword(&page, at),
            qword(&page, at + 8),
            dword(&page, at + 16),
        )
    };
    assert_eq!(entry(0), (0, 0xa_0000, 1));
    assert_eq!(entry(2), (0xe_0000, 0x2_0000, 3));
    assert_eq!(entry(3), (0x10_0000, 15 << 20, 1));
    assert_eq!(entry(4), (0xe000_0000, 1 << 20, 2));
    assert_eq!(read(&mem, 0x2_0000, 14), b"console=ttyS0\0");
    assert_eq!(qword(&read(&mem, 0x9000, 8), 0), 0xa003, "page tables");
    assert_ne!(qword(&read(&mem, 0x510, 8), 0), 0, "code descriptor");
}

#[test]
fn an_elf_without_a_header_gets_a_made_up_one() {
    let mem = memory(16 << 20);
    let kernel = LoadedKernel {
        setup_header: None,
        ..kernel(Protocol::Linux64)
    };
    write_boot_data(&mem, &kernel, &params("", None)).unwrap();
    let page = read(&mem, 0x7000, 4096);
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!((dword(&page, 0x218), dword(&page, 0x21c)), (0, 0));
    assert_eq!(dword(&page, 0x228), 0x2_0000);
}

#[test]
fn start_info_holds_what_pvh_says() {
    let mem = memory(16 << 20);
    let params = params("quiet", Some(0xc0_0000..0xc0_1234));
    write_boot_data(&mem, &kernel(Protocol::Pvh), &params).unwrap();
    // Offsets as in xen/include/public/arch-x86/hvm/start_info.h.
    let info = read(&mem, 0x6000, 56);
    assert_eq!(dword(&info, 0), 0x336e_c578);
    assert_eq!((dword(&info, 4), dword(&info, 12)), (1, 1));
    assert_eq!(qword(&info, 24), 0x2_0000, "command line");
    assert_eq!(qword(&info, 32), RSDP.0);
    let modules = read(&mem, qword(&info, 16), 16);
    assert_eq!(
        (qword(&modules, 0), qword(&modules, 8)),
        (0xc0_0000, 0x1234)
    );
    assert_eq!(dword(&info, 48), 6, "memory map entries");
    let map = read(&mem, qword(&info, 40), 6 * 24);
    assert_eq!((qword(&map, 8), dword(&map, 16)), (0xa_0000, 1));
    assert_eq!((qword(&map, 72), qword(&map, 80)), (0x10_0000, 15 << 20));
}

#[test]
fn modules_follow_the_initrd_in_the_start_info() {
    let mem = memory(16 << 20);
    let modules = [
        Module {
            range: 0x80_0000..0x80_0003,
            cmdline: "one".into(),
        },
        Module {
            range: 0x90_0000..0x90_0001,
            cmdline: String::new(),
        },
    ];
    let params = BootParams {
        modules: &modules,
        ..params("", Some(0xc0_0000..0xc0_1234))
    };
    write_boot_data(&mem, &kernel(Protocol::Pvh), &params).unwrap();
    let info = read(&mem, 0x6000, 56);
    assert_eq!(dword(&info, 12), 3);
    let list = read(&mem, qword(&info, 16), 3 * 32);
    let entry = |number: usize| {
        let at = number * 32;
        [0, 8, 16].map(|field| qword(&list, at + field))
    };
    assert_eq!(entry(0), [0xc0_0000, 0x1234, 0]);
    assert_eq!(entry(1)[..2], [0x80_0000, 3]);
    assert_eq!(read(&mem, entry(1)[2], 4), b"one\0");
    assert_eq!(entry(2), [0x90_0000, 1, 0]);
}

#[test]
fn without_initrd_there_is_no_module() {
    let mem = memory(16 << 20);
    write_boot_data(&mem, &kernel(Protocol::Pvh), &params("", None)).unwrap();
    let info = read(&mem, 0x6000, 56);
    assert_eq!((dword(&info, 12), qword(&info, 16)), (0, 0));
}

#[test]
fn command_lines_are_checked() {
    let mem = memory(16 << 20);
    let kernel = kernel(Protocol::Linux64);
    let fits = "x".repeat(2047);
    assert!(write_boot_data(&mem, &kernel, &params(&fits, None)).is_ok());
    for (cmdline, message) in [
        (
            "x".repeat(2048),
            "the command line has 2048 bytes, this kernel takes 2047",
        ),
        (
            "a\0b".to_owned(),
            "the command line has byte 0x00 at position 1; only ASCII without NUL may be there",
        ),
        (
            "caf\u{e9}".to_owned(),
            "the command line has byte 0xc3 at position 3; only ASCII without NUL may be there",
        ),
    ] {
        let error = write_boot_data(&mem, &kernel, &params(&cmdline, None)).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let boundless = LoadedKernel {
        max_cmdline: usize::MAX,
        ..kernel
    };
    let long = "x".repeat(COMMAND_LINE_ROOM);
    assert!(matches!(
        write_boot_data(&mem, &boundless, &params(&long, None)),
        Err(Error::CommandLineTooLong { max: 0xffff, .. })
    ));
}

#[test]
fn too_many_pieces_of_ram_are_refused() {
    let ranges: Vec<_> = (0..200u64)
        .map(|index| (GuestAddress(index * (2 << 20)), 1 << 20))
        .collect();
    let mem = GuestMemory::from_ranges(&ranges).unwrap();
    for (protocol, most) in [(Protocol::Linux64, 128), (Protocol::Pvh, 165)] {
        assert!(matches!(
            write_boot_data(&mem, &kernel(protocol), &params("", None)),
            Err(Error::MemoryMapTooLong { max, .. }) if max == most
        ));
    }
}

#[test]
fn initrd_goes_as_high_as_it_may() {
    let mem = memory(16 << 20);
    let mut kernel = kernel(Protocol::Linux64);
    let load = |kernel: &LoadedKernel, size: usize| {
        let bytes = vec![7; size];
        load_initrd(&mem, kernel, &mut &bytes[..], bytes.len() as u64)
    };
    let placed = load(&kernel, 0x1801).unwrap();
    assert_eq!(placed, 0xff_e000..0xff_f801);
    assert_eq!(read(&mem, placed.end - 1, 2), [7, 0]);
    assert_eq!(load(&kernel, 9 << 20).unwrap(), 0x70_0000..0x100_0000);
    assert_eq!(
        load(&kernel, (9 << 20) + 1).unwrap_err().to_string(),
        "the initrd of 9437185 bytes does not fit between 0x700000 and 0x1000000; \
         give the machine more memory"
    );
    kernel.setup_header.as_mut().unwrap().initrd_addr_max = 0xbf_ffff;
    assert_eq!(load(&kernel, 0x1000).unwrap(), 0xbf_f000..0xc0_0000);
    let short = load_initrd(&mem, &kernel, &mut &[1u8; 10][..], 11);
    assert!(matches!(short, Err(Error::ReadInitrd { size: 11, .. })));
}
