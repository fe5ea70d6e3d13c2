use vm_memory::GuestMemoryBackend;

use super::*;

fn machine(cpus: u32) -> (GuestMemory, GuestAddress) {
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
    let config = AcpiConfig {
        cpus,
        pm_timer: cpus > 1,
        pci_ports: cpus > 1,
        mmio32: 0xC000_0000..0xE000_0000,
        mmio64: 1 << 40..1 << 41,
    };
    let rsdp = build(&mem, &config).unwrap();
    (mem, rsdp)
}

fn bytes(mem: &GuestMemory, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn length(bytes: &[u8]) -> usize {
    u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize
}

fn table(mem: &GuestMemory, address: u64) -> Vec<u8> {
    let header = bytes(mem, address, 36);
    bytes(mem, address, length(&header))
}

/// The tables that the XSDT leads to, by signature.
fn tables(mem: &GuestMemory, rsdp: GuestAddress) -> std::collections::BTreeMap<String, Vec<u8>> {
    let rsdp = bytes(mem, rsdp.0, 36);
    let xsdt = table(mem, word(&rsdp, 24));
    let mut found: std::collections::BTreeMap<_, _> = xsdt[36..]
        .chunks_exact(8)
        .map(|entry| table(mem, word(entry, 0)))
        .map(|table| (String::from_utf8_lossy(&table[..4]).into_owned(), table))
        .collect();
    let dsdt = table(mem, word(&found["FACP"], 140));
    found.insert("DSDT".into(), dsdt);
    found.insert("XSDT".into(), xsdt);
    found
}

#[test]
fn every_table_is_reachable_and_sums_to_zero() {
    for cpus in [1, 2, 64] {
        let (mem, rsdp) = machine(cpus);
        let root = bytes(&mem, rsdp.0, 36);
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
        let tables = tables(&mem, rsdp);
        let names: Vec<&str> = tables.keys().map(String::as_str).collect();
        assert_eq!(names, ["APIC", "DSDT", "FACP", "MCFG", "XSDT"]);
        for (name, table) in &tables {
            assert_eq!(sum(table), 0, "{name} with {cpus} vCPUs");
        }
    }
}

#[test]
fn the_madt_names_every_processor_once() {
    let (mem, rsdp) = machine(64);
    let madt = &tables(&mem, rsdp)["APIC"];
    let (mut rest, mut ids, mut overrides) = (&madt[44..], Vec::new(), Vec::new());
    while let [kind, length, ..] = *rest {
        let (structure, next) = rest.split_at(usize::from(length));
        match kind {
            0 => ids.push(structure[3]),
            2 => overrides.push((structure[3], structure[4], structure[8])),
            _ => {}
        }
        rest = next;
    }
    assert_eq!(ids, (0..64).collect::<Vec<u8>>());
    // The PIT on pin 2; the SCI on its own pin, high and by edge.
    assert_eq!(overrides, [(0, 2, 0), (9, 9, 5)]);
}

#[test]
fn the_fadt_names_the_registers_and_no_keyboard_controller() {
    let (mem, rsdp) = machine(1);
    let fadt = &tables(&mem, rsdp)["FACP"];
    let dword = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap());
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9, "SCI_INT");
    assert_eq!(dword(48), 0, "SMI_CMD: ACPI mode is always on");
    assert_eq!((dword(56), dword(64)), (0x600, 0x604), "PM1a blocks");
    assert_eq!(dword(76), 0, "no PM timer");
    assert_eq!(fadt[109] & 0b10, 0, "no 8042");
    let flags = dword(112);
    assert_eq!(flags & 1 << 4, 0, "the power button is the fixed one");
    assert_ne!(flags & 1 << 10, 0, "RESET_REG is there");
    assert_eq!((word(fadt, 120), fadt[128]), (0xCF9, 6), "what resets");
    let facs = word(fadt, 132);
    assert_eq!((&bytes(&mem, facs, 4)[..], facs % 64), (&b"FACS"[..], 0));
}

#[test]
fn the_fadt_names_a_pm_timer_if_asked_to() {
    let (mem, rsdp) = machine(2);
    let fadt = &tables(&mem, rsdp)["FACP"];
    let dword = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().unwrap());
    assert_eq!((dword(76), fadt[91]), (0x608, 4), "PM_TMR_BLK");
    assert_ne!(dword(112) & 1 << 8, 0, "32 bits wide");
    // X_PM_TMR_BLK: in port space, 32 bits, read as such.
    assert_eq!(fadt[208..212], [1, 32, 0, 3]);
    assert_eq!(word(fadt, 212), 0x608);
}

#[test]
fn the_dsdt_holds_the_windows() {
    let (mem, rsdp) = machine(1);
    let dsdt = &tables(&mem, rsdp)["DSDT"];
    for (what, needle) in [
        (
            "32-bit window",
            &[0, 0, 0, 0xC0, 0xFF, 0xFF, 0xFF, 0xDF][..],
        ),
        (
            "64-bit window",
            &[
                0, 0, 0, 0, 0, 1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0,
            ],
        ),
        ("S5", b"_S5_\x12"),
        ("ECAM", &[0, 0, 0, 0xE0, 0, 0, 0x10, 0]),
    ] {
        assert!(
            dsdt.windows(needle.len()).any(|window| window == needle),
            "{what}"
        );
    }
}

#[test]
fn the_dsdt_names_the_configuration_ports_where_they_are() {
    // An I/O port descriptor (6.4.2.5): decoding 16 bits, twice 0xCF8, 8 of them.
    let ports = [0x47, 1, 0xF8, 0x0C, 0xF8, 0x0C, 1, 8];
    for (cpus, named) in [(1, false), (2, true)] {
        let (mem, rsdp) = machine(cpus);
        let dsdt = &tables(&mem, rsdp)["DSDT"];
        assert_eq!(dsdt.windows(8).any(|window| window == ports), named);
    }
}

#[test]
fn memory_that_ends_below_is_refused() {
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 512 << 10)]).unwrap();
    assert_eq!(mem.num_regions(), 1);
    let config = AcpiConfig {
        cpus: 1,
        pm_timer: false,
        pci_ports: false,
        mmio32: 0..1,
        mmio64: 0..1,
    };
    assert!(matches!(build(&mem, &config), Err(Error::Memory { .. })));
}
