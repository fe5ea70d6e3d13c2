//! The first vCPU's registers when the kernel starts, and the GDT they name.
//!
//! Pure: the caller reads `kvm_sregs` from the vCPU, has it changed here, and
//! writes it back. What is not mentioned (FPU, debug registers, APIC base) is
//! right as KVM resets it. Other vCPUs need nothing: they wait for a SIPI.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::GuestMemory;
use crate::layout::{GDT, MULTIBOOT_INFO, PAGE_TABLES, PVH_START_INFO, ZERO_PAGE};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// VMX enable (SDM 3, 2.5) and secure virtual machine enable (APM 2, 3.1.7).
const CR4_VMXE: u64 = 1 << 13;
const EFER_SVME: u64 = 1 << 12;
/// The bit of RFLAGS that is always set; interrupts are off.
const RFLAGS_RESERVED: u64 = 1 << 1;

/// Selectors that boot.rst demands: `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Segment types (SDM volume 3A, 3.4.5.1 and 3.5).
const CODE_EXECUTE_READ: u8 = 0b1011;
const DATA_READ_WRITE: u8 = 0b0011;
const BUSY_TSS: u8 = 0b1011;

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Linux's 64-bit boot protocol: long mode, first 4 GiB mapped to
    /// themselves, RSI holds the zero page's address (boot.rst).
    Linux64,
    /// PVH: 32-bit protected mode without paging, EBX holds the address of
    /// `hvm_start_info` (Xen, docs/misc/pvh.pandoc).
    Pvh,
    /// Multiboot 1: as PVH, but EBX holds the address of the Multiboot information,
    /// and EAX a magic number (Multiboot Specification 0.6.96, 3.2).
    Multiboot,
}

/// EAX of a kernel that a Multiboot loader has loaded.
const MULTIBOOT_MAGIC: u64 = 0x2BAD_B002;

/// Whether a vCPU with these registers has VMX or SVM turned on: a hypervisor
/// runs in the guest, or is about to. While a guest of the guest runs they are
/// that one's, which has the bit set as well: VM entry demands it (SDM 3, 24.8 and
/// 27.3.1.1; APM 2, 15.5.1).
#[must_use]
pub const fn runs_hypervisor(special: &kvm_sregs) -> bool {
    special.cr4 & CR4_VMXE != 0 || special.efer & EFER_SVME != 0
}

/// Registers of the vCPU that enters the kernel.
#[derive(Clone, Copy, Debug)]
pub struct BootRegisters {
    /// For `KVM_SET_REGS`.
    pub regs: kvm_regs,
    protocol: Protocol,
}

impl BootRegisters {
    /// Registers that enter at `entry` in the way `protocol` says.
    #[must_use]
    pub fn new(protocol: Protocol, entry: GuestAddress) -> Self {
        let mut regs = kvm_regs {
            rip: entry.0,
            rflags: RFLAGS_RESERVED,
            ..kvm_regs::default()
        };
        match protocol {
            Protocol::Linux64 => regs.rsi = ZERO_PAGE.0,
            Protocol::Pvh => regs.rbx = PVH_START_INFO.0,
            Protocol::Multiboot => {
                regs.rax = MULTIBOOT_MAGIC;
                regs.rbx = MULTIBOOT_INFO.0;
            }
        }
        Self { regs, protocol }
    }

    /// Changes segments, control registers and EFER as the kernel expects
    /// them; the rest of `sregs` stays as KVM gave it.
    pub fn apply(&self, sregs: &mut kvm_sregs) {
        let long = self.protocol == Protocol::Linux64;
        let data = segment(DATA_SELECTOR, DATA_READ_WRITE);
        sregs.cs = kvm_segment {
            l: u8::from(long),
            db: u8::from(!long),
            ..segment(CODE_SELECTOR, CODE_EXECUTE_READ)
        };
        sregs.ds = data;
        sregs.es = data;
        sregs.fs = data;
        sregs.gs = data;
        sregs.ss = data;
        sregs.tr = kvm_segment {
            limit: 0x67,
            s: 0,
            db: 0,
            g: 0,
            ..segment(TASK_SELECTOR, BUSY_TSS)
        };
        sregs.gdt.base = GDT.0;
        sregs.gdt.limit = GDT_LIMIT;
        sregs.idt.base = 0;
        sregs.idt.limit = 0;
        if long {
            sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
            sregs.cr3 = PAGE_TABLES.0;
            sregs.cr4 = CR4_PAE;
            sregs.efer = EFER_LME | EFER_LMA;
        } else {
            sregs.cr0 = CR0_PE | CR0_ET;
            sregs.cr3 = 0;
            sregs.cr4 = 0;
            sregs.efer = 0;
        }
    }
}

/// A flat 4 GiB segment.
fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Entries of the GDT: two unused, code, data, and a TSS, which in long mode
/// takes two (SDM volume 3A, 7.2.3).
const GDT_ENTRIES: u16 = 6;
const GDT_LIMIT: u16 = GDT_ENTRIES * 8 - 1;

/// Writes the GDT that [`BootRegisters::apply`] refers to.
///
/// # Errors
/// If the table's place is not RAM.
pub fn write_gdt(mem: &GuestMemory, protocol: Protocol) -> Result<(), GuestMemoryError> {
    let mut sregs = kvm_sregs::default();
    BootRegisters::new(protocol, GuestAddress(0)).apply(&mut sregs);
    let table = [
        0,
        0,
        descriptor(&sregs.cs),
        descriptor(&sregs.ds),
        descriptor(&sregs.tr),
        0,
    ];
    let bytes: Vec<u8> = table
        .iter()
        .flat_map(|entry: &u64| entry.to_le_bytes())
        .collect();
    mem.write_slice(&bytes, GDT)
}

/// A segment as a descriptor (SDM volume 3A, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let base = segment.base;
    let limit = if segment.g == 0 {
        u64::from(segment.limit)
    } else {
        u64::from(segment.limit >> 12)
    };
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(protocol: Protocol) -> kvm_sregs {
        let mut sregs = kvm_sregs {
            cr0: 0x6000_0010,
            apic_base: 0xfee0_0900,
            ..kvm_sregs::default()
        };
        BootRegisters::new(protocol, GuestAddress(0x100_0000)).apply(&mut sregs);
        sregs
    }

    #[test]
    fn linux_is_entered_in_long_mode() {
        let boot = BootRegisters::new(Protocol::Linux64, GuestAddress(0x100_0b53));
        assert_eq!(boot.regs.rip, 0x100_0b53);
        assert_eq!(boot.regs.rsi, 0x7000);
        assert_eq!(boot.regs.rflags, 2);
        let sregs = applied(Protocol::Linux64);
        assert_eq!(sregs.cr0, 0x8000_0011);
        assert_eq!(sregs.cr4, 0x20);
        assert_eq!(sregs.efer, 0x500);
        assert_eq!(sregs.cr3, 0x9000);
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ds.selector, sregs.ss.selector), (0x18, 0x18));
        assert_eq!(sregs.apic_base, 0xfee0_0900);
    }

    #[test]
    fn pvh_is_entered_in_protected_mode() {
        let boot = BootRegisters::new(Protocol::Pvh, GuestAddress(0x100_0000));
        assert_eq!(boot.regs.rbx, 0x6000);
        let sregs = applied(Protocol::Pvh);
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        assert_eq!((sregs.cs.l, sregs.cs.db), (0, 1));
        assert_eq!((sregs.tr.type_, sregs.tr.limit), (0b1011, 0x67));
    }

    #[test]
    fn multiboot_is_entered_as_pvh_is_with_a_magic_number() {
        let boot = BootRegisters::new(Protocol::Multiboot, GuestAddress(0x10_0020));
        let regs = boot.regs;
        assert_eq!(
            (regs.rip, regs.rax, regs.rbx),
            (0x10_0020, 0x2bad_b002, 0x8000)
        );
        let (pvh, multiboot) = (applied(Protocol::Pvh), applied(Protocol::Multiboot));
        assert_eq!(multiboot, pvh);
    }

    #[test]
    fn descriptors_match_known_values() {
        let long = applied(Protocol::Linux64);
        assert_eq!(descriptor(&long.cs), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&long.ds), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&long.tr), 0x0000_8b00_0000_0067);
        assert_eq!(
            descriptor(&applied(Protocol::Pvh).cs),
            0x00cf_9b00_0000_ffff
        );
    }

    #[test]
    fn gdt_holds_what_selectors_name() {
        let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        write_gdt(&mem, Protocol::Linux64).unwrap();
        let at = |selector: u16| -> u64 {
            mem.read_obj(GuestAddress(GDT.0 + u64::from(selector)))
                .unwrap()
        };
        assert_eq!(at(0), 0);
        assert_eq!(at(CODE_SELECTOR), 0x00af_9b00_0000_ffff);
        assert_eq!(at(DATA_SELECTOR), 0x00cf_9300_0000_ffff);
        assert_eq!(u64::from(GDT_LIMIT), u64::from(TASK_SELECTOR) + 15);
    }
}
