//! The ELF loader, with any bytes behind the magic number.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut image = b"\x7fELF".to_vec();
    image.extend_from_slice(data);
    nestling_fuzz::boot::load(&image);
});
