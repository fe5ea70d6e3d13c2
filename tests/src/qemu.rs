//! Debian's QEMU in an image, as the monitor of a level.

use std::path::Path;

/// QEMU with all that Debian builds in.
pub const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
/// The same for KVM and a few machines only, a quarter in size.
pub const SMALL_PROGRAM: &str = "/usr/bin/qemu-system-x86_64-microvm";

/// What both need besides their libraries to boot a kernel on a PC, and on a microvm.
const FIRMWARE: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/qboot.rom:/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/kvmvapic.bin",
];

/// Arguments of `nestling nest` that take `program` into the image.
#[must_use]
pub fn image_arguments(program: &str) -> Vec<&str> {
    let firmware = FIRMWARE.iter().flat_map(|file| ["--add", file]);
    ["--program", program].into_iter().chain(firmware).collect()
}

/// Whether `program` is installed.
///
/// # Errors
/// The reason for a skip.
pub fn needs(program: &str) -> Result<(), String> {
    if Path::new(program).exists() {
        Ok(())
    } else {
        Err(format!("{program} is not installed"))
    }
}
