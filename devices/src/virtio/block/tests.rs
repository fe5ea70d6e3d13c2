use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::*;
use crate::virtio::testing::{Buffer, Driver, wait_for};

const SECTORS: u64 = 64;
const OK: u8 = VIRTIO_BLK_S_OK.to_le_bytes()[0];
const IOERR: u8 = VIRTIO_BLK_S_IOERR.to_le_bytes()[0];
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP.to_le_bytes()[0];
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

/// What each byte of a sector holds in a fresh image: its number plus one.
fn fill(sector: u64) -> u8 {
    u8::try_from(sector + 1).unwrap()
}

/// A disk image whose sectors tell themselves apart by [`fill`].
fn image() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for sector in 0..SECTORS {
        file.write_all(&[fill(sector); 512]).unwrap();
    }
    file
}

fn config(queues: u16) -> BlockConfig {
    BlockConfig {
        number: 0,
        queues,
        serial: "a serial number of 27 bytes".into(),
    }
}

fn block(file: &tempfile::NamedTempFile, readonly: bool) -> Block {
    Block::new(RawDisk::open(file.path(), readonly).unwrap(), &config(1))
}

fn start(block: &mut Block) -> Driver {
    let driver = Driver::of(block);
    block.activate(driver.activation(FLUSH)).unwrap();
    driver
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

/// Sends a request with `data` after its header; returns the status.
#[track_caller]
fn write(driver: &mut Driver, kind: u32, sector: u64, data: &[u8]) -> u8 {
    let header = header(kind, sector);
    driver
        .call(0, &[Buffer::Out(&header), Buffer::Out(data), Buffer::In(1)])
        .1[0]
}

/// Sends a request with room for `length` bytes; returns the used length, the
/// data and the status.
#[track_caller]
fn read(driver: &mut Driver, kind: u32, sector: u64, length: usize) -> (u32, Vec<u8>, u8) {
    let header = header(kind, sector);
    let buffers = [Buffer::Out(&header), Buffer::In(length), Buffer::In(1)];
    let (used, mut data) = driver.call(0, &buffers);
    let status = data.pop().unwrap();
    (used, data, status)
}

fn sector(file: &File, number: u64) -> Vec<u8> {
    let mut data = vec![0; 512];
    file.read_exact_at(&mut data, number * 512).unwrap();
    data
}

#[test]
fn reads() {
    let file = image();
    let mut block = block(&file, true);
    let mut driver = start(&mut block);
    let cases = [
        ("the first sector", 0, 512, OK),
        ("several", 3, 4 * 512, OK),
        ("the last", SECTORS - 1, 512, OK),
        ("nothing", 0, 0, OK),
        ("nothing at the end", SECTORS, 0, OK),
        ("past the end", SECTORS, 512, IOERR),
        ("across the end", SECTORS - 1, 1024, IOERR),
        ("a sector that overflows", u64::MAX, 512, IOERR),
        ("an offset that overflows", u64::MAX / 512, 1024, IOERR),
        ("no whole sector", 0, 511, IOERR),
    ];
    for (what, first, length, expected) in cases {
        let (used, data, status) = read(&mut driver, VIRTIO_BLK_T_IN, first, length);
        assert_eq!(status, expected, "{what}");
        if status == OK {
            assert_eq!(used as usize, length + 1, "{what}");
            let expected: Vec<u8> = (0..length as u64)
                .map(|at| fill(first + at / 512))
                .collect();
            assert_eq!(data, expected, "{what}");
        } else {
            assert_eq!(used, 1, "{what}");
        }
    }
}

#[test]
fn writes() {
    let file = image();
    let mut block = block(&file, false);
    let mut driver = start(&mut block);
    let cases = [
        ("one sector", 5, 512, OK),
        ("several", 7, 1536, OK),
        ("past the end", SECTORS, 512, IOERR),
        ("across the end", SECTORS - 1, 1024, IOERR),
        ("no whole sector", 20, 100, IOERR),
    ];
    for (what, first, length, expected) in cases {
        let status = write(&mut driver, VIRTIO_BLK_T_OUT, first, &vec![0xEE; length]);
        assert_eq!(status, expected, "{what}");
    }
    assert_eq!(read(&mut driver, VIRTIO_BLK_T_FLUSH, 0, 0).2, OK);
    let file = file.as_file();
    for number in 0..SECTORS {
        let written = number == 5 || (7..10).contains(&number);
        let expected = if written { 0xEE } else { fill(number) };
        assert_eq!(sector(file, number), [expected; 512], "sector {number}");
    }
}

#[test]
fn buffers_need_not_be_sectors() {
    let file = image();
    let mut block = block(&file, false);
    let mut driver = start(&mut block);
    let header = header(VIRTIO_BLK_T_OUT, 2);
    let data = vec![0xAB; 512];
    let (first, rest) = header.split_at(5);
    let buffers = [first, rest, &data[..100], &data[100..]]
        .map(Buffer::Out)
        .into_iter()
        .chain([Buffer::In(1)]);
    let (_, status) = driver.call(0, &buffers.collect::<Vec<_>>());
    assert_eq!((status, sector(file.as_file(), 2)), (vec![OK], data));
    // The status may share a buffer with the data.
    let buffers = [
        Buffer::Out(&header[..0]),
        Buffer::Out(&self::header(0, 2)),
        Buffer::In(513),
    ];
    let (used, data) = driver.call(0, &buffers);
    assert_eq!((used, data[511], data[512]), (513, 0xAB, OK));
}

#[test]
fn a_readonly_disk_refuses_changes() {
    let file = image();
    let mut block = block(&file, true);
    assert_ne!(block.features() & 1 << VIRTIO_BLK_F_RO, 0);
    let changes = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    assert_eq!(block.features() & changes, 0);
    let mut driver = start(&mut block);
    assert_eq!(write(&mut driver, VIRTIO_BLK_T_OUT, 0, &[0; 512]), IOERR);
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(write(&mut driver, kind, 0, &range(0, 1, 0)), IOERR);
    }
    assert_eq!(read(&mut driver, VIRTIO_BLK_T_FLUSH, 0, 0).2, OK);
    assert_eq!(sector(file.as_file(), 0), [1; 512]);
}

#[test]
fn write_zeroes() {
    let file = image();
    let mut block = block(&file, false);
    let mut driver = start(&mut block);
    let many = range(0, 1, 0).repeat(MAX_RANGES as usize + 1);
    let two = [range(8, 1, 0), range(10, 1, 1)].concat();
    let cases = [
        ("by writing", range(1, 2, 0), OK),
        ("by unmapping", range(5, 1, 1), OK),
        ("two ranges", two, OK),
        ("an unknown flag", range(20, 1, 2), UNSUPP),
        ("no sectors", range(20, 0, 0), IOERR),
        ("past the end", range(SECTORS - 1, 2, 0), IOERR),
        ("overflow", range(u64::MAX, 1, 0), IOERR),
        (
            "too long a range",
            range(0, MAX_RANGE_SECTORS + 1, 0),
            IOERR,
        ),
        ("too many ranges", many, IOERR),
        ("no range", vec![], IOERR),
        ("half a range", vec![0; 24], IOERR),
    ];
    for (what, data, expected) in cases {
        assert_eq!(
            write(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, 0, &data),
            expected,
            "{what}"
        );
    }
    for number in 0..SECTORS {
        let zeroed = [1, 2, 5, 8, 10].contains(&number);
        let expected = if zeroed { 0 } else { fill(number) };
        assert_eq!(
            sector(file.as_file(), number),
            [expected; 512],
            "sector {number}"
        );
    }
}

#[test]
fn discard_takes_no_flags_and_keeps_the_size() {
    let file = image();
    let mut block = block(&file, false);
    let supported = block.features() & 1 << VIRTIO_BLK_F_DISCARD != 0;
    let mut driver = start(&mut block);
    let status = write(&mut driver, VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 0));
    assert_eq!(status, if supported { OK } else { UNSUPP });
    assert_eq!(
        write(&mut driver, VIRTIO_BLK_T_DISCARD, 0, &range(16, 8, 1)),
        UNSUPP
    );
    assert_eq!(sector(file.as_file(), 16), [17; 512]);
    assert_eq!(
        file.as_file().seek(SeekFrom::End(0)).unwrap(),
        SECTORS * 512
    );
}

#[test]
fn identity_is_cut_or_padded() {
    let file = image();
    let mut block = block(&file, false);
    let mut driver = start(&mut block);
    let id = b"a serial number of 27 bytes";
    for length in [20, 8, 32] {
        let (used, data, status) = read(&mut driver, VIRTIO_BLK_T_GET_ID, 0, length);
        let valid = length.min(20);
        assert_eq!((status, used as usize), (OK, valid + 1));
        assert_eq!(data[..valid], id[..valid]);
    }
}

#[test]
fn unknown_requests_are_unsupported() {
    let file = image();
    let mut block = block(&file, false);
    let mut driver = start(&mut block);
    for kind in [2, 3, 5, 14, 15, 0xFF, u32::MAX] {
        assert_eq!(read(&mut driver, kind, 0, 512).2, UNSUPP, "type {kind}");
    }
}

#[test]
fn chains_that_cannot_be_answered_stop_the_device() {
    let whole = header(VIRTIO_BLK_T_IN, 0);
    let cases: [(&str, &[Buffer<'_>]); 3] = [
        (
            "a header cut short",
            &[Buffer::Out(&[0; 15]), Buffer::In(1)],
        ),
        ("no status", &[Buffer::Out(&whole)]),
        ("an empty status", &[Buffer::Out(&whole), Buffer::In(0)]),
    ];
    for (what, buffers) in cases {
        let file = image();
        let mut block = block(&file, false);
        let mut driver = start(&mut block);
        driver.send(0, buffers);
        wait_for(what, || driver.recorder.broken());
        driver.reset(&mut block);
        block.activate(driver.activation(FLUSH)).unwrap();
        assert_eq!(
            read(&mut driver, VIRTIO_BLK_T_IN, 0, 512).2,
            OK,
            "after {what} and a reset"
        );
    }
}

#[test]
fn each_queue_works() {
    let file = image();
    let mut block = Block::new(RawDisk::open(file.path(), false).unwrap(), &config(4));
    assert_ne!(block.features() & 1 << VIRTIO_BLK_F_MQ, 0);
    let mut driver = start(&mut block);
    for (queue, first) in (0..4).zip(0..) {
        let header = header(VIRTIO_BLK_T_IN, first);
        let (_, data) = driver.call(queue, &[Buffer::Out(&header), Buffer::In(513)]);
        assert_eq!((data[0], data[512]), (fill(first), OK));
    }
}

#[test]
fn the_configuration_space() {
    let file = image();
    let mut block = block(&file, false);
    let mut space = [0xFF; 64];
    block.read_config(0, &mut space);
    let word = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
    assert_eq!(u64::from(word(0)) | u64::from(word(4)) << 32, SECTORS);
    assert_eq!((word(12), word(20)), (SEG_MAX, 512));
    assert_eq!(
        (space[32], u16::from_le_bytes([space[34], space[35]])),
        (1, 1)
    );
    assert_eq!(
        (word(36), word(40), word(44)),
        (MAX_RANGE_SECTORS, MAX_RANGES, 8)
    );
    assert_eq!(
        (word(48), word(52), space[56]),
        (MAX_RANGE_SECTORS, MAX_RANGES, 1)
    );
    assert_eq!(space[60..], [0; 4]);

    let mut writeback = [0xFF];
    for (value, expected) in [(0, 0), (2, 0), (1, 1), (0, 0)] {
        block.write_config(WRITEBACK_OFFSET, &[value]);
        block.read_config(WRITEBACK_OFFSET, &mut writeback);
        assert_eq!(writeback, [expected], "after writing {value}");
    }
    block.write_config(0, &[0xAA; 8]);
    block.write_config(u64::MAX, &[0xAA]);
    block.read_config(0, &mut space[..8]);
    assert_eq!(space[..8], SECTORS.to_le_bytes());
    block.reset();
    block.read_config(WRITEBACK_OFFSET, &mut writeback);
    assert_eq!(writeback, [1]);
}

#[test]
fn a_driver_without_flush_gets_write_through() {
    let file = image();
    let mut block = block(&file, false);
    let mut driver = Driver::of(&block);
    block.activate(driver.activation(0)).unwrap();
    assert!(!block.writeback.load(Ordering::Relaxed));
    assert_eq!(write(&mut driver, VIRTIO_BLK_T_OUT, 0, &[9; 512]), OK);
    assert_eq!(sector(file.as_file(), 0), [9; 512]);
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let file = image();
    let open = |readonly| RawDisk::open(file.path(), readonly);
    let readers = [open(true).unwrap(), open(true).unwrap()];
    assert!(matches!(open(false), Err(Error::InUse { .. })));
    drop(readers);
    let writer = open(false).unwrap();
    for readonly in [true, false] {
        let error = open(readonly).unwrap_err().to_string();
        assert!(error.contains("in use by another process"), "{error}");
    }
    drop(writer);
    open(false).unwrap();
}

#[test]
fn files_that_are_no_disks_are_refused() {
    let mut odd = tempfile::NamedTempFile::new().unwrap();
    assert!(matches!(
        RawDisk::open(odd.path(), false),
        Err(Error::Size { size: 0, .. })
    ));
    odd.write_all(&[0; 700]).unwrap();
    let error = RawDisk::open(odd.path(), true).unwrap_err().to_string();
    assert!(error.contains("700 bytes"), "{error}");
    let missing = RawDisk::open(Path::new("/nonexistent/disk"), false)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("/nonexistent/disk"), "{missing}");
    assert!(matches!(
        RawDisk::open(Path::new("/dev/null"), false),
        Err(Error::NotADisk { .. })
    ));
    assert!(matches!(
        RawDisk::open(Path::new("/"), true),
        Err(Error::NotADisk { .. })
    ));
}
