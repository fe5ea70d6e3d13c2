//! A bare-metal hypervisor of the project's own, as a kernel: a Multiboot image of
//! a few hundred instructions that enters one L2 by VMRUN or VMLAUNCH, has it exit
//! as often as its command line asks (`cpuid=1000`), and reports the counts.
//!
//! Its source is in `tests/payload`. It is assembled into this program, since that
//! takes no other compiler or linker than the tests', and copied out from there.

#![allow(unsafe_code)]

use std::arch::global_asm;

use crate::nest::Life;

/// The exit code of `run --debug-exit` when it has done its work.
pub const DONE: u8 = 0x10 << 1 | 1;
/// The exit code when the processor shows it neither SVM nor VMX.
pub const NO_SUPPORT: u8 = 2 << 1 | 1;

global_asm!(
    r#".pushsection .rodata.hypervisor, "a", @progbits"#,
    ".globl nestling_hypervisor_start, nestling_hypervisor_end",
    ".balign 16",
    "nestling_hypervisor_start:",
    include_str!("../payload/boot.s"),
    include_str!("../payload/console.s"),
    include_str!("../payload/main.s"),
    include_str!("../payload/svm.s"),
    include_str!("../payload/vmx.s"),
    "image_end:",
    "nestling_hypervisor_end:",
    ".popsection",
    options(att_syntax, raw)
);

unsafe extern "C" {
    static nestling_hypervisor_start: u8;
    static nestling_hypervisor_end: u8;
}

/// The image, a kernel for `nestling run`.
///
/// # Panics
/// Never: the image's end is behind its start.
#[must_use]
pub fn image() -> Vec<u8> {
    let (start, end) = (
        &raw const nestling_hypervisor_start,
        &raw const nestling_hypervisor_end,
    );
    let length = end.addr() - start.addr();
    // SAFETY: both symbols are in one section of constants, the second one behind all of the
    // image's bytes.
    unsafe { std::slice::from_raw_parts(start, length) }.to_vec()
}

/// Asserts that a machine which booted the image, with `cpuid=1000` and under the
/// name of its result, entered its guest by `instruction` and saw all of its exits,
/// and that the level below counted as many.
///
/// # Panics
/// If it isn't so.
pub fn hosts_l2(life: &Life<'_>, name: &str, instruction: &str) {
    let output = life.output(name);
    let entered = format!("L2 is entered by {instruction}\n");
    let counts = "L2 exited: cpuid x1000, io x1, hypercall x1, hlt x1\n";
    assert_eq!(output, entered + counts);
    assert_eq!((life.fault(), life.how()), (None, "debug-exit"));
    let entries = &life.exits()["nested_run"];
    assert!(entries.as_u64() >= Some(1003), "{entries}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_has_its_header_first_and_leaves_its_memory_alone() {
        let image = image();
        let word = |index: usize| {
            u32::from_le_bytes(image[index * 4..][..4].try_into().expect("four bytes"))
        };
        assert_eq!(word(0), 0x1bad_b002);
        assert_eq!(word(0).wrapping_add(word(1)).wrapping_add(word(2)), 0);
        let length = u32::try_from(image.len()).expect("it is short");
        assert_eq!(word(5), 0x10_0000 + length, "load_end_addr");
        // Its page tables begin at 0x110000.
        assert!(length <= 0x1_0000, "{length:#x}");
    }
}
