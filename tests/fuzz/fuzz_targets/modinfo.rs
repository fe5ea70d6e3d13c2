//! The information in a kernel module's ELF file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut image = b"\x7fELF\x02\x01".to_vec();
    image.extend_from_slice(data);
    let _ = nestling::guest::modinfo::Modinfo::parse(&image);
});
