//! The bzImage loader: any setup header, or a good one before any payload.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;

/// Setup sectors, before the protected-mode code.
const SETUP: usize = 1024;

/// Payload formats by their first bytes.
const MAGICS: [&[u8]; 6] = [
    b"\x1f\x8b\x08\0",
    b"\x02\x21\x4c\x18",
    b"\x5d\0\0\x80",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x7fELF",
];

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    let image = match usize::from(kind) {
        // A header and all that follows as they come.
        kind if kind >= 192 => {
            let mut image = vec![0; 0x1f1];
            image.extend_from_slice(data);
            put(&mut image, 0x202, b"HdrS");
            image
        }
        // An ELF, packed well.
        kind if kind >= 128 => bzimage(&gzip(data)),
        // Anything behind a magic number, even its length.
        kind => {
            let mut payload = MAGICS[kind % MAGICS.len()].to_vec();
            payload.extend_from_slice(data);
            bzimage(&payload)
        }
    };
    nestling_fuzz::boot::load(&image);
});

/// An ELF of `data` behind the magic number, as gzip; the trailer is its size.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"\x7fELF").expect("into memory");
    encoder.write_all(data).expect("into memory");
    encoder.finish().expect("into memory")
}

/// A bzImage with `payload`, by protocol 2.15.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; SETUP];
    image.extend_from_slice(payload);
    image.resize(image.len().next_multiple_of(16), 0);
    let paragraphs = u32::try_from((image.len() - SETUP) / 16).expect("inputs are small");
    let length = u32::try_from(payload.len()).expect("inputs are small");
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &paragraphs.to_le_bytes());
    put(&mut image, 0x200, &[0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20fu16.to_le_bytes());
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x24c, &length.to_le_bytes());
    put(&mut image, 0x258, &(16u64 << 20).to_le_bytes());
    put(&mut image, 0x260, &(1u32 << 20).to_le_bytes());
    image
}

/// Overwrites what of `bytes` at `offset` is there.
fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    for (target, byte) in image.iter_mut().skip(offset).zip(bytes) {
        *target = *byte;
    }
}
