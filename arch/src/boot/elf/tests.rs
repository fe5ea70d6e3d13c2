use proptest::prelude::*;

use super::super::load_kernel;
use super::super::synthetic::{Program, add_pvh_note, elf, elf32, memory, pattern, put, read};
use super::*;

const MIB: u64 = 1 << 20;

fn load_elf(file: &[u8]) -> Result<LoadedKernel, Error> {
    load_kernel(&memory(16 << 20), file)
}

#[test]
fn segments_land_at_their_physical_addresses() {
    let programs = [
        Program::load(0x1000, 2 * MIB, 0x1000, 0x1000),
        Program::load(0x2000, 3 * MIB, 0x800, 0x2000),
    ];
    let file = elf(2 * MIB + 16, &programs, 0x3000);
    let mem = memory(16 << 20);
    let kernel = load_kernel(&mem, &file).unwrap();
    assert_eq!(kernel.entry.0, 2 * MIB + 16);
    assert_eq!(kernel.protocol, Protocol::Linux64);
    assert_eq!(kernel.end.0, 3 * MIB + 0x2000);
    assert_eq!(kernel.unpacked, Unpacked::Plain);
    assert!(read(&mem, 2 * MIB, 0x1000) == file[0x1000..0x2000]);
    assert!(read(&mem, 3 * MIB, 0x800) == file[0x2000..0x2800]);
    assert!(
        read(&mem, 3 * MIB + 0x800, 0x1800)
            .iter()
            .all(|&byte| byte == 0)
    );
}

#[test]
fn pvh_is_preferred_where_its_note_is() {
    let programs = [
        Program::load(0x1000, 2 * MIB, 0x1000, 0x1000),
        Program::load(0, 0, 0, 0),
    ];
    let mut file = elf(2 * MIB, &programs, 0x2000);
    add_pvh_note(&mut file, 1, 0x1800, 0x20_0040);
    let kernel = load_elf(&file).unwrap();
    assert_eq!(kernel.protocol, Protocol::Pvh);
    assert_eq!(kernel.entry.0, 0x20_0040);

    add_pvh_note(&mut file, 1, 0x1800, 0x30_0000);
    assert!(matches!(
        load_elf(&file),
        Err(Error::EntryOutside { entry: 0x30_0000 })
    ));
}

#[test]
fn a_32_bit_elf_is_entered_by_pvh_alone() {
    let mem = memory(16 << 20);
    let kernel = load_kernel(&mem, &elf32(0x20_0000, &[7; 0x180], Some(0x20_0040))).unwrap();
    assert_eq!(kernel.protocol, Protocol::Pvh);
    assert_eq!((kernel.entry.0, kernel.end.0), (0x20_0040, 0x20_0180));
    assert_eq!(read(&mem, 0x20_017f, 2), [7, 0]);
    let error = load_elf(&elf32(0x20_0000, &[7; 16], None)).unwrap_err();
    assert!(matches!(error, Error::NoEntry), "{error}");
    let truncated = elf32(0x20_0000, &[7; 16], None);
    for len in 4..truncated.len() {
        let error = load_elf(&truncated[..len]).unwrap_err();
        assert!(matches!(error, Error::Truncated { .. }), "{len}: {error}");
    }
}

#[test]
fn notes_are_walked_with_their_padding() {
    let note = |name: &[u8], kind: u32, descriptor: &[u8]| {
        let mut note = Vec::new();
        for value in [name.len(), descriptor.len()] {
            note.extend(u32::try_from(value).unwrap().to_le_bytes());
        }
        note.extend(kind.to_le_bytes());
        for part in [name, descriptor] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    };
    let other = note(b"GNU\0\0", 18, b"build");
    let kind = note(b"Xen\0", 17, &7u32.to_le_bytes());
    let short = note(b"Xen\0", 18, &0x20_0000u32.to_le_bytes());
    let long = note(b"Xen\0", 18, &0x1_0020_0000u64.to_le_bytes());
    let find = |notes: &[&[u8]]| find_pvh_entry(&notes.concat(), 4);
    assert_eq!(find(&[&other, &kind, &short]), Some(0x20_0000));
    assert_eq!(find(&[&other, &long]), Some(0x1_0020_0000));
    assert_eq!(find(&[&other, &kind]), None);
    assert_eq!(find(&[&short[..14]]), None);
    assert_eq!(find(&[&[0xff; 40]]), None);
}

#[test]
fn wrong_headers_are_named() {
    let good = elf(2 * MIB, &[Program::load(0x1000, 2 * MIB, 16, 16)], 0x2000);
    assert!(load_elf(&good).is_ok());
    for (at, value, message) in [
        (
            4,
            3,
            "ELF class is 3, a kernel for this machine has 1 (32-bit) or 2 (64-bit)",
        ),
        (
            4,
            1,
            "ELF machine is 62, a kernel for this machine has 3 (80386)",
        ),
        (
            5,
            2,
            "ELF byte order is 2, a kernel for this machine has 1 (little endian)",
        ),
        (
            16,
            3,
            "ELF type is 3, a kernel for this machine has 2 (executable)",
        ),
        (
            18,
            183,
            "ELF machine is 183, a kernel for this machine has 62 (x86-64)",
        ),
        (
            54,
            32,
            "ELF program header size is 32, a kernel for this machine has 56",
        ),
        (56, 0, "ELF has 0 loadable segments, a kernel has 1 to 64"),
    ] {
        let mut file = good.clone();
        file[at] = value;
        assert_eq!(load_elf(&file).unwrap_err().to_string(), message);
    }
}

#[test]
fn impossible_segments_are_refused_with_their_values() {
    let load = Program::load;
    for (programs, message) in [
        (
            vec![
                load(0x1000, 2 * MIB, 0x100, 0x2000),
                load(0x1000, 2 * MIB + 0x1fff, 1, 1),
            ],
            "ELF segments overlap: 0x200000..0x202000 and 0x201fff..0x202000",
        ),
        (
            vec![load(0x1000, 2 * MIB, 0x200, 0x100)],
            "ELF segment at 0x200000 is oversized: 0x200 bytes in the file, 0x100 in memory",
        ),
        (
            vec![load(0x1000, 2 * MIB, 0x200, 0)],
            "ELF segment at 0x200000 is oversized: 0x200 bytes in the file, 0x0 in memory",
        ),
        (
            vec![load(0x1000, u64::MAX, 0, 2)],
            "ELF segment at 0xffffffffffffffff is oversized: 0x0 bytes in the file, 0x2 in memory",
        ),
        (
            vec![load(0x1000, 2 * MIB, 0x1001, 0x1001)],
            "truncated kernel: an ELF segment ends at byte 8193, the file has 8192; \
             copy or download it again",
        ),
        (
            vec![load(u64::MAX, 2 * MIB, 16, 16)],
            "truncated kernel: an ELF segment ends at byte 18446744073709551615, \
             the file has 8192; copy or download it again",
        ),
        (
            vec![load(0x1000, 15 * MIB, 16, MIB + 1)],
            "the kernel needs RAM at 0xf00000..0x1000001, the machine has \
             0x100000..0x1000000; give it more memory",
        ),
        (
            vec![load(0x1000, 0x8000, 16, 16)],
            "the kernel occupies 0x8000..0x8010, below 1 MiB, where the machine keeps \
             its own tables; link it at 1 MiB or higher",
        ),
        (
            vec![load(0x1000, 3 * MIB, 16, 16)],
            "the kernel's entry point 0x200000 is outside its segments",
        ),
    ] {
        let file = elf(2 * MIB, &programs, 0x2000);
        assert_eq!(load_elf(&file).unwrap_err().to_string(), message);
    }
}

#[test]
fn segments_are_limited_in_number() {
    let programs: Vec<_> = (0..65)
        .map(|index| Program::load(0, 2 * MIB + index * 16, 16, 16))
        .collect();
    let file = elf(2 * MIB, &programs, 0);
    assert!(matches!(
        load_elf(&file),
        Err(Error::SegmentCount { count: 65, max: 64 })
    ));
    assert!(load_elf(&elf(2 * MIB, &programs[..64], 0)).is_ok());
}

#[test]
fn truncation_anywhere_is_an_error() {
    let file = elf(2 * MIB, &[Program::load(64, 2 * MIB, 0x80, 0x80)], 0);
    for len in 4..file.len() {
        assert!(
            matches!(load_elf(&file[..len]), Err(Error::Truncated { .. })),
            "{len}"
        );
    }
}

/// What `arrange` must come to, by copying each segment from the file.
fn expected(elf: &Elf, file: &[u8], base: u64, area: &mut [u8]) {
    for segment in &elf.segments {
        let start = index(segment.memory.start - base);
        let end = index(segment.memory.end - base);
        area[start..end].fill(0);
        area[start..start + segment.file.len()].copy_from_slice(&file[segment.file.clone()]);
    }
}

/// Parts of an unpacked file at disjoint places, and where the file is.
fn arrangements() -> impl Strategy<Value = (Vec<Segment>, usize)> {
    let part = (0usize..200, 0usize..60, 0u64..40, 0u64..60);
    (prop::collection::vec(part, 1..8), 0usize..300).prop_map(|(parts, file_start)| {
        let mut next = 0;
        let segments = parts
            .into_iter()
            .map(|(from, len, gap, bss)| {
                let start = next + gap;
                next = start + len_u64(len) + bss;
                Segment {
                    file: from..from + len,
                    memory: start..next,
                    linked: start,
                }
            })
            .collect();
        (segments, file_start)
    })
}

proptest! {
    #[test]
    fn segments_are_arranged_whatever_overlaps((segments, file_start) in arrangements()) {
        let file = pattern(5, 260);
        let elf = Elf { wide: true, entry: 0, pvh_entry: None, segments };
        let mut area = vec![0; 1400];
        put(&mut area, file_start, &file);
        elf.arrange(&mut area, 0, file_start..file_start + file.len());
        let mut wanted = area.clone();
        expected(&elf, &file, 0, &mut wanted);
        prop_assert_eq!(area, wanted);
    }
}

#[test]
fn segments_that_wait_for_each_other_are_swapped() {
    let file = pattern(5, 64);
    let swap = |from: Range<usize>, to: u64| Segment {
        memory: to..to + len_u64(from.len()),
        file: from,
        linked: to,
    };
    let elf = Elf {
        wide: true,
        entry: 0,
        pvh_entry: None,
        segments: vec![swap(32..64, 0), swap(0..32, 32)],
    };
    let mut area = file.clone();
    elf.arrange(&mut area, 0, 0..64);
    assert_eq!(area[..32], file[32..]);
    assert_eq!(area[32..], file[..32]);
}
