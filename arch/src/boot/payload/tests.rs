use super::super::synthetic::{pack, pattern};
use super::*;

const ALL: [Compression; 6] = [
    Compression::Gzip,
    Compression::Lz4,
    Compression::Lzma,
    Compression::Xz,
    Compression::Zstd,
    Compression::Stored,
];

fn plain() -> Vec<u8> {
    let mut plain = pattern(0, 100_000);
    plain[..4].copy_from_slice(b"\x7fELF");
    plain
}

#[test]
fn every_format_is_recognized_and_unpacks() {
    let plain = plain();
    for compression in ALL {
        let packed = pack(compression, &plain);
        let payload = Payload::parse(&packed).unwrap();
        assert_eq!(payload.compression, compression);
        let mut out = vec![0; usize::try_from(payload.unpacked_size).unwrap()];
        payload.unpack(&mut out).unwrap();
        assert!(out == plain, "{compression}");
    }
}

#[test]
fn lz4_blocks_and_frames_follow_each_other() {
    let plain = pattern(0, LZ4_LEGACY_BLOCK + 1000);
    let mut packed = pack(Compression::Lz4, &plain);
    packed.truncate(packed.len() - 4);
    packed.extend_from_within(..);
    let mut out = vec![0; 2 * plain.len()];
    // The second frame starts where the first one's short block ended.
    assert_eq!(unpack_lz4(&packed, &mut out), Ok(out.len()));
    assert!(out[..plain.len()] == plain && out[plain.len()..] == plain);
}

#[test]
fn another_length_than_promised_is_an_error() {
    let plain = plain();
    for compression in ALL {
        if compression == Compression::Stored {
            continue;
        }
        let packed = pack(compression, &plain);
        let payload = Payload::parse(&packed).unwrap();
        for len in [plain.len() - 1, plain.len() + 1] {
            assert!(
                matches!(
                    payload.unpack(&mut vec![0; len]),
                    Err(Error::Payload { .. })
                ),
                "{compression} into {len}"
            );
        }
    }
}

#[test]
fn unknown_and_short_payloads_are_not_taken() {
    for bytes in [
        &b"BZh9 and so on"[..],
        b"\x89LZO\0\r\n",
        b"",
        b"\x28\xb5\x2f",
    ] {
        assert!(Payload::parse(bytes).is_none());
    }
}

#[test]
fn damage_is_an_error_for_formats_with_a_checksum() {
    let plain = plain();
    for compression in [Compression::Gzip, Compression::Xz] {
        let mut packed = pack(compression, &plain);
        let middle = packed.len() / 2;
        packed[middle] ^= 0x40;
        let payload = Payload::parse(&packed).unwrap();
        let error = payload.unpack(&mut vec![0; plain.len()]).unwrap_err();
        let start = format!("the bzImage's {compression} payload is damaged: ");
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}
