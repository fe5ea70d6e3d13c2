//! The Multiboot loader: a header's place and flags, then the image around it. The
//! checksum that makes it a header is filled in.
#![no_main]

const MAGIC: u32 = 0x1BAD_B002;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((place, rest)) = data.split_first_chunk() else {
        return;
    };
    let Some((flags, image)) = rest.split_first_chunk() else {
        return;
    };
    let flags = u32::from_le_bytes(*flags);
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    let header = [MAGIC, flags, checksum].map(u32::to_le_bytes).concat();
    let mut image = image.to_vec();
    let start = usize::from(u16::from_le_bytes(*place)).min(image.len());
    let end = (start + header.len()).min(image.len());
    image.splice(start..end, header);
    nestling_fuzz::boot::load(&image);
});
