//! Kernels of a few instructions, made by hand: enough for a host whose KVM runs
//! no Linux, and for kernels that are broken on purpose.

/// Where a payload is loaded.
pub const ADDRESS: u64 = 0x10_0000;
/// Where the program headers of an ELF begin.
pub const PROGRAM_HEADERS: usize = 64;
/// The size of one program header.
pub const PROGRAM_HEADER_SIZE: usize = 56;

/// 32-bit protected-mode code, built instruction by instruction.
#[derive(Debug, Clone, Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// No instructions yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `mov dx, port; mov al, value; out dx, al`
    #[must_use]
    pub fn out(mut self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.0.extend([0x66, 0xba, low, high, 0xb0, value, 0xee]);
        self
    }

    /// Prints `text` on COM1, and then writes the interrupt enable register as
    /// Linux's driver does after each burst, which makes nestling show it at once.
    #[must_use]
    pub fn say(self, text: &str) -> Self {
        text.bytes()
            .fold(self, |code, byte| code.out(0x3f8, byte))
            .out(0x3f9, 0)
    }

    /// `mov dx, port; mov eax, value; out dx, eax`
    #[must_use]
    pub fn out32(mut self, port: u16, value: u32) -> Self {
        let [low, high] = port.to_le_bytes();
        self.0.extend([0x66, 0xba, low, high, 0xb8]);
        self.0.extend(value.to_le_bytes());
        self.0.push(0xef);
        self
    }

    /// `mov dword ptr [address], value`
    #[must_use]
    pub fn store32(mut self, address: u32, value: u32) -> Self {
        self.0.extend([0xc7, 0x05]);
        self.0.extend(address.to_le_bytes());
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Shows EAX and EBX as they are, four bytes each on COM1. What the kernel was
    /// entered with, if it comes first.
    #[must_use]
    pub fn show_registers(mut self) -> Self {
        self = self.show_eax();
        self.0.extend([0x89, 0xd8]); // mov eax, ebx
        self.show_eax()
    }

    /// Shows the four bytes of a port.
    #[must_use]
    pub fn show_port32(mut self, port: u16) -> Self {
        let [low, high] = port.to_le_bytes();
        // mov dx, port; in eax, dx
        self.0.extend([0x66, 0xba, low, high, 0xed]);
        self.show_eax()
    }

    /// Shows the byte of a port.
    #[must_use]
    pub fn show_port(mut self, port: u16) -> Self {
        let [low, high] = port.to_le_bytes();
        // mov dx, port; in al, dx; mov dx, 0x3f8; out dx, al
        self.0
            .extend([0x66, 0xba, low, high, 0xec, 0x66, 0xba, 0xf8, 0x03, 0xee]);
        self
    }

    /// Shows the four bytes at an address, read at once.
    #[must_use]
    pub fn show32(mut self, address: u32) -> Self {
        self.0.push(0xa1); // mov eax, [address]
        self.0.extend(address.to_le_bytes());
        self.show_eax()
    }

    /// Shows so many bytes from an address on.
    #[must_use]
    pub fn show_memory(mut self, address: u32, length: u32) -> Self {
        self.0.push(0xbe); // mov esi, address
        self.0.extend(address.to_le_bytes());
        self.0.push(0xb9); // mov ecx, length
        self.0.extend(length.to_le_bytes());
        // mov dx, 0x3f8; again: lodsb; out dx, al; loop again
        self.0
            .extend([0x66, 0xba, 0xf8, 0x03, 0xac, 0xee, 0xe2, 0xfc]);
        self
    }

    fn show_eax(mut self) -> Self {
        self.0.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, 0x3f8
        for _ in 0..4 {
            self.0.extend([0xee, 0xc1, 0xe8, 0x08]); // out dx, al; shr eax, 8
        }
        self
    }

    /// Powers off: SLP_TYP 5 and SLP_EN (ACPI 4.8.3.2.1) to the PM1a control port.
    #[must_use]
    pub fn power_off(mut self) -> Self {
        let [low, high] = ((5_u16 << 10) | (1 << 13)).to_le_bytes();
        // mov dx, 0x604; mov ax, value; out dx, ax
        self.0
            .extend([0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, low, high, 0x66, 0xef]);
        self.halt()
    }

    /// Resets by the port at 0xcf9.
    #[must_use]
    pub fn reset(self) -> Self {
        self.out(0xcf9, 6).halt()
    }

    /// Triple-faults: an exception with an empty interrupt descriptor table.
    #[must_use]
    pub fn triple_fault(mut self) -> Self {
        // sub esp, 8; and two zeroes there; lidt [esp]; ud2
        self.0.extend([0x31, 0xc0, 0xbc, 0x00, 0x00, 0x08, 0x00]); // xor eax, eax; mov esp, 0x80000
        self.0.extend([0x50, 0x50]); // push eax; push eax
        self.0.extend([0x0f, 0x01, 0x1c, 0x24]); // lidt [esp]
        self.0.extend([0x0f, 0x0b]); // ud2
        self
    }

    /// Sends what COM1 receives back to it, for ever.
    #[must_use]
    pub fn echo(mut self) -> Self {
        // again: mov dx, 0x3fd; in al, dx; test al, 1; jz again
        self.0
            .extend([0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7]);
        // mov dx, 0x3f8; in al, dx; out dx, al
        self.0.extend([0x66, 0xba, 0xf8, 0x03, 0xec, 0xee]);
        // mov dx, 0x3f9; mov al, 0; out dx, al; jmp again
        self.0
            .extend([0x66, 0xba, 0xf9, 0x03, 0xb0, 0x00, 0xee, 0xeb, 0xe8]);
        self
    }

    /// Halts for good: `cli; hlt; jmp` back.
    #[must_use]
    pub fn halt(mut self) -> Self {
        self.0.extend([0xfa, 0xf4, 0xeb, 0xfd]);
        self
    }

    /// The code in a flat Multiboot image, behind its header.
    #[must_use]
    pub fn multiboot(&self) -> Vec<u8> {
        let base = u32::try_from(ADDRESS).expect("it is low");
        multiboot(1 << 16, [base, base, 0, 0, base + 32], &self.0)
    }

    /// The code in an ELF64 file with a PVH entry: headers, note, code.
    #[must_use]
    pub fn elf(&self) -> Vec<u8> {
        elf(&[(
            ADDRESS,
            &self.0,
            u64::try_from(self.0.len()).expect("code is short"),
        )])
    }
}

/// An ELF64 file with these segments, (address, bytes, size in memory), and a PVH
/// note whose entry is the first one's start.
#[must_use]
pub fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).expect("a size");
    let entry = segments.first().map_or(ADDRESS, |segment| segment.0);
    let mut note = Vec::new();
    // namesz, descsz, type XEN_ELFNOTE_PHYS32_ENTRY
    for word in [4_u32, 8, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());

    let headers = segments.len() + 1;
    let mut offset = PROGRAM_HEADERS + headers * PROGRAM_HEADER_SIZE;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2_u16.to_le_bytes()); // ET_EXEC
    file.extend(62_u16.to_le_bytes()); // EM_X86_64
    file.extend(1_u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(64_u64.to_le_bytes()); // e_phoff
    file.extend(0_u64.to_le_bytes()); // e_shoff
    file.extend(0_u32.to_le_bytes());
    for half in [64, 56, u16::try_from(headers).expect("few"), 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut program = |kind: u32, flags: u32, address: u64, bytes: &[u8], memory: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [
            u64::try_from(offset).expect("a size"),
            address,
            address,
            length(bytes),
            memory,
            4,
        ] {
            file.extend(word.to_le_bytes());
        }
        offset += bytes.len();
    };
    program(4, 4, 0, &note, length(&note)); // PT_NOTE
    for (address, bytes, memory) in segments {
        program(1, 7, *address, bytes, *memory); // PT_LOAD
    }
    file.extend(note);
    for (_, bytes, _) in segments {
        file.extend(*bytes);
    }
    file
}

/// A Multiboot header with these flags and address fields (header_addr, load_addr,
/// load_end_addr, bss_end_addr, entry_addr), and what follows it.
#[must_use]
pub fn multiboot(flags: u32, addresses: [u32; 5], rest: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    let words = [MAGIC, flags, checksum].into_iter().chain(addresses);
    let mut image: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    image.extend(rest);
    image
}

/// The head of a bzImage: a setup sector whose header says 2.15 with a 64-bit
/// entry, and one that follows it (Documentation/arch/x86/boot.rst).
#[must_use]
pub fn bzimage_head() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1; // setup_sects
    image[0x1f4..0x1f8].copy_from_slice(&0x1_0000_u32.to_le_bytes()); // syssize, 1 MiB
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x211] = 1; // LOADED_HIGH
    image[0x236..0x238].copy_from_slice(&1_u16.to_le_bytes()); // XLF_KERNEL_64
    image[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes()); // cmdline_size
    image[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes()); // pref_address
    image[0x260..0x264].copy_from_slice(&0x200_0000_u32.to_le_bytes()); // init_size
    image
}
