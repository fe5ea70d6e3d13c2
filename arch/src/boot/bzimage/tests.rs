use super::super::synthetic::{Program, bzimage, elf, header, memory, pack, put, read};
use super::super::{Compression, load_kernel};
use super::*;

const MIB: u64 = 1 << 20;

/// An ELF as in a bzImage: most of it where unpacking puts it, a part to be
/// moved, bss on top of what follows in the file.
fn kernel_elf() -> Vec<u8> {
    let programs = [
        Program::load(2 * MIB, 4 * MIB, 0x2000, 0x2000),
        Program::load(2 * MIB + 0x3000, 4 * MIB + 0x2000, 0x800, 0x3000),
    ];
    elf(4 * MIB + 0x123, &programs, (2 << 20) + 0x5000)
}

#[test]
fn payload_is_unpacked_into_place() {
    let file = kernel_elf();
    for compression in [
        Compression::Gzip,
        Compression::Lz4,
        Compression::Lzma,
        Compression::Xz,
        Compression::Zstd,
        Compression::Stored,
    ] {
        let mem = memory(16 << 20);
        let image = bzimage(header(), &pack(compression, &file));
        let kernel = load_kernel(&mem, &image).unwrap();
        assert_eq!(kernel.unpacked, Unpacked::Natively(compression));
        assert_eq!(kernel.protocol, Protocol::Linux64);
        assert_eq!(kernel.entry.0, 4 * MIB + 0x123);
        assert_eq!(kernel.end.0, 7 * MIB);
        assert_eq!(kernel.max_cmdline, 2047);
        let first = 2 << 20;
        assert!(read(&mem, 4 * MIB, 0x2000) == file[first..first + 0x2000]);
        assert!(read(&mem, 4 * MIB + 0x2000, 0x800) == file[first + 0x3000..first + 0x3800]);
        let bss = read(&mem, 4 * MIB + 0x2800, 0x2800);
        assert!(bss.iter().all(|&byte| byte == 0), "{compression}");
    }
}

#[test]
fn unknown_compression_is_left_to_the_kernel() {
    let mem = memory(16 << 20);
    let image = bzimage(header(), b"BZh91AY&SY, not known here");
    let kernel = load_kernel(&mem, &image).unwrap();
    assert_eq!(kernel.unpacked, Unpacked::ByKernel);
    assert_eq!(kernel.entry.0, 4 * MIB + 0x200);
    assert_eq!(kernel.end.0, 7 * MIB);
    assert!(read(&mem, 4 * MIB, image.len() - 1024) == image[1024..]);

    let small = memory(5 << 20);
    assert_eq!(
        load_kernel(&small, &image).unwrap_err().to_string(),
        "the kernel needs RAM at 0x400000..0x700000, the machine has \
         0x100000..0x500000; give it more memory"
    );
}

#[test]
fn header_is_read_as_far_as_it_goes() {
    let mut image = bzimage(header(), &pack(Compression::Zstd, &kernel_elf()));
    // Up to and with init_size.
    image[0x201] = 0x62;
    put(&mut image, 0x264, &7u32.to_le_bytes());
    let header = read_header(&image).unwrap();
    let (init_size, handover_offset) = (header.init_size, header.handover_offset);
    assert_eq!((init_size, handover_offset), (3 << 20, 0));
}

#[test]
fn unusable_images_are_refused_with_the_reason() {
    let packed = pack(Compression::Zstd, &kernel_elf());
    let with = |change: fn(&mut setup_header)| {
        let mut header = header();
        change(&mut header);
        bzimage(header, &packed)
    };
    let mut damaged = with(|_| ());
    let at = 1024 + 0x400 + packed.len() / 2;
    damaged[at..].fill(0);
    let not_elf = bzimage(header(), &pack(Compression::Zstd, b"no kernel"));
    for (image, message) in [
        (
            with(|header| header.version = 0x206),
            "boot protocol 2.06 is too old",
        ),
        (
            with(|header| header.xloadflags = 0x7e),
            "the bzImage has no 64-bit entry",
        ),
        (
            with(|header| header.payload_offset = u32::MAX),
            "truncated kernel: the payload",
        ),
        (
            with(|header| header.pref_address = 18 * MIB),
            "the kernel needs RAM at 0x1000000..",
        ),
        (
            with(|header| header.pref_address = u64::MAX),
            "the kernel needs RAM at",
        ),
        (damaged, "the bzImage's zstd payload is damaged: "),
        (not_elf, "the bzImage's payload holds no kernel"),
    ] {
        let error = load_kernel(&memory(16 << 20), &image)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn truncation_anywhere_is_an_error() {
    let image = bzimage(header(), &pack(Compression::Zstd, &kernel_elf()));
    let mem = memory(16 << 20);
    for len in (0x206..image.len()).step_by(7) {
        assert!(
            matches!(
                load_kernel(&mem, &image[..len]),
                Err(Error::Truncated { .. })
            ),
            "{len}"
        );
    }
}
