//! Multiboot kernels of a few instructions on this host's KVM: what they are told,
//! and the devices that they expect of a machine.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::process::Output;

use nestling_tests::payload::Code;
use nestling_tests::{binary, hypervisor, or_skip, skip};

/// Runs a Multiboot image with further arguments.
fn run(image: &[u8], arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("a kernel");
    fs::write(&kernel, image).unwrap();
    binary::command()
        .args(["run", "--no-reboot", "--memory", "16M", "--kernel"])
        .arg(&kernel)
        .args(arguments)
        .output()
        .unwrap()
}

/// What `code` shows before it powers off.
fn shows(code: Code, arguments: &[&str]) -> Vec<u8> {
    let output = run(&code.power_off().multiboot(), arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    output.stdout
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The text at an address, up to its zero.
fn text(address: u32, arguments: &[&str]) -> String {
    let bytes = shows(Code::new().show_memory(address, 64), arguments);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

#[test]
fn a_kernel_is_told_of_memory_modules_and_its_command_line() {
    or_skip!(skip::needs_kvm());
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("module");
    fs::write(&module, b"the module's bytes").unwrap();
    let module = format!("{},a=1,b c", module.display());
    let arguments = ["--cmdline", "x y", "--module", &module];
    let registers = shows(Code::new().show_registers(), &arguments);
    assert_eq!(word(&registers, 0), 0x2bad_b002);
    let information = word(&registers, 4);
    let information = shows(Code::new().show_memory(information, 88), &arguments);
    let field = |at| word(&information, at);
    assert_eq!(field(0) & 0b100_1101, 0b100_1101, "flags");
    assert_eq!((field(4), field(8)), (640, 15 << 10), "memory in KiB");
    assert_eq!(text(field(16), &arguments), "a_kernel x y");
    assert_eq!(field(20), 1, "modules");
    let list = shows(Code::new().show_memory(field(24), 16), &arguments);
    let (start, end) = (word(&list, 0), word(&list, 4));
    assert_eq!((start % 0x1000, end - start), (0, 18));
    let bytes = shows(Code::new().show_memory(start, 18), &arguments);
    assert_eq!(bytes, b"the module's bytes");
    assert_eq!(text(word(&list, 8), &arguments), "module a=1,b c");
    let map = shows(Code::new().show_memory(field(48), field(44)), &arguments);
    assert_eq!(
        (word(&map, 0), word(&map, 12), word(&map, 20)),
        (20, 0xa_0000, 1)
    );
}

#[test]
fn a_debug_exit_is_the_exit_code_if_it_is_asked_for() {
    or_skip!(skip::needs_kvm());
    for (value, code) in [(0, 1), (1, 3), (0x10, 33), (0x7f, 255)] {
        let image = Code::new()
            .say("end")
            .out32(0xf4, value)
            .power_off()
            .multiboot();
        let output = run(&image, &["--debug-exit"]);
        assert_eq!(output.status.code(), Some(code), "{value}");
        assert_eq!(
            (&output.stdout[..], &output.stderr[..]),
            (&b"end"[..], &b""[..])
        );
        // Without it there is nothing at the port.
        assert_eq!(run(&image, &[]).status.code(), Some(0));
    }
}

#[test]
fn the_word_shutdown_powers_off() {
    or_skip!(skip::needs_kvm());
    let code = "Shutdown"
        .bytes()
        .fold(Code::new().say("end"), |code, byte| code.out(0x8900, byte));
    let output = run(&code.triple_fault().multiboot(), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"end");
}

#[test]
fn the_timer_of_the_fadt_counts() {
    or_skip!(skip::needs_kvm());
    let area = shows(Code::new().show_memory(0xe_0000, 0x1000), &[]);
    let find = |signature: &[u8], step: usize| {
        let mut places = (0..area.len() - 8).step_by(step);
        places
            .find(|at| area[*at..].starts_with(signature))
            .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(signature)))
    };
    // As a kernel finds it: at a multiple of 16, with a sum of zero.
    let root = &area[find(b"RSD PTR ", 16)..][..20];
    assert_eq!(
        root.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
        0
    );
    let fadt = find(b"FACP", 1);
    let port = u16::try_from(word(&area, fadt + 76)).unwrap();
    assert_eq!((port, area[fadt + 91]), (0x608, 4));
    let counts = shows(Code::new().show_port32(port).show_port32(port), &[]);
    assert!(word(&counts, 4) > word(&counts, 0), "{counts:?}");
}

#[test]
fn where_there_is_no_device_all_ones_are_read_and_nothing_ends() {
    or_skip!(skip::needs_kvm());
    let bytes = shows(
        Code::new()
            // Bus 0, device 31; bus 255.
            .out32(0xcf8, 0x8000_f800)
            .show_port32(0xcfc)
            .out32(0xcf8, 0x80ff_0000)
            .show_port32(0xcfc)
            .show_port(0x1234)
            .show_port32(0x500)
            .out(0x80, 1)
            .out(0xe9, 2)
            .out32(0xfffc, 3)
            .say("on"),
        &[],
    );
    assert_eq!(bytes, [&[0xff; 13][..], b"on"].concat());
}

#[test]
fn serial_port_and_interrupt_controllers_are_a_pcs() {
    or_skip!(skip::needs_kvm());
    let bytes = shows(
        Code::new()
            .show_port(0x3fd)
            // The PIC's mask; the PIT's mode 2, set and read back.
            .out(0x21, 0x5a)
            .show_port(0x21)
            .out(0x43, 0x34)
            .out(0x43, 0xe2)
            .show_port(0x40)
            // The I/O APIC's version, by index and data; the local APIC's.
            .store32(0xfec0_0000, 1)
            .show32(0xfec0_0010)
            .show32(0xfee0_0030),
        &[],
    );
    assert_eq!(bytes[0] & 0x60, 0x60, "the transmitter is empty");
    assert_eq!(bytes[1], 0x5a);
    assert_eq!(bytes[2] & 0x3f, 0x34);
    assert_eq!(word(&bytes, 3) >> 16 & 0xff, 23, "pins");
    assert_eq!(word(&bytes, 7) & 0xf0, 0x10, "an integrated APIC");
}

#[test]
fn the_hypervisor_says_so_where_it_can_host_nobody() {
    or_skip!(skip::needs_kvm());
    let arguments = ["--nested", "off", "--debug-exit"];
    let output = run(&hypervisor::image(), &arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "neither SVM nor VMX is here\n");
    assert_eq!(output.status.code(), Some(hypervisor::NO_SUPPORT.into()));
}
