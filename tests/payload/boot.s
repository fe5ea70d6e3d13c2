# A hypervisor of a few hundred instructions: it enters one L2 by VMRUN or VMLAUNCH,
# counts that guest's exits, reports them on COM1 and ends the machine.
#
# This part is the Multiboot header, and the way into 64-bit mode. The files are
# assembled one behind the other into one flat image; where one needs an absolute
# address it takes the distance from the image's start and adds BASE.

# Where the image is loaded, and the memory that it uses behind itself.
.set BASE,            0x100000
.set PAGE_TABLES,     0x110000      # six pages
.set NPT_TABLES,      0x116000      # six pages
.set EPT_TABLES,      0x11c000      # six pages
.set CONTROL,         0x122000      # one page: the VMCB or the VMCS
.set HOST,            0x123000      # one page: the host save area or the VMXON region
.set IO_PERMISSIONS,  0x124000      # three pages (APM 2, 15.10.1)
.set TSS,             0x127000      # one page
.set STACK_END,       0x129000
.set GUEST_STACK_END, 0x12a000
.set MEMORY_END,      0x12a000

.set HEADER_MAGIC, 0x1badb002
.set HEADER_FLAGS, 0x10002          # memory information; address fields
.set BOOT_MAGIC,   0x2badb002
.set INFO_COMMAND_LINE, 16

.set CODE_SELECTOR, 0x08
.set DATA_SELECTOR, 0x10
.set TSS_SELECTOR,  0x18

.set EFER,     0xc0000080
.set EFER_LME, 1 << 8
.set CR0_PG,   1 << 31
.set CR4_PAE,  1 << 5

.code32
image:
    .long HEADER_MAGIC, HEADER_FLAGS, -(HEADER_MAGIC + HEADER_FLAGS)
    .long BASE                              # header_addr
    .long BASE                              # load_addr
    .long image_end - image + BASE          # load_end_addr
    .long MEMORY_END                        # bss_end_addr
    .long start - image + BASE              # entry_addr

start:
    movl $STACK_END, %esp
    cmpl $BOOT_MAGIC, %eax
    jne stop
    movl INFO_COMMAND_LINE(%ebx), %ebp

    # Present, writable, and for users, as NPT's must be (APM 2, 15.25.5). NPT has
    # tables of its own: as it walks the guest's it needs the right to write to them,
    # which whoever shadows NPT's takes away.
    movl $PAGE_TABLES, %edi
    movl $0x87, %eax
    call map_4_gib
    movl $NPT_TABLES, %edi
    movl $0x87, %eax
    call map_4_gib
    # In EPT: readable, writable, executable, write-back (SDM 3, 29.3.2).
    movl $EPT_TABLES, %edi
    movl $0xb7, %eax
    call map_4_gib

    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $PAGE_TABLES, %eax
    movl %eax, %cr3
    movl $EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    orl $CR0_PG, %eax
    movl %eax, %cr0
    lgdt gdt_pointer - image + BASE
    ljmp $CODE_SELECTOR, $(start_64 - image + BASE)

stop:
    cli
    hlt
    jmp stop

# Maps the first 4 GiB to themselves. EDI: six pages of zeroes; EAX: the flags of
# a 2 MiB page. The flags of a table are 7 in both formats.
map_4_gib:
    leal 0x1007(%edi), %edx
    movl %edx, (%edi)
    addl $0x1000, %edx
    xorl %ecx, %ecx
1:  movl %edx, 0x1000(%edi,%ecx,8)
    addl $0x1000, %edx
    incl %ecx
    cmpl $4, %ecx
    jne 1b
    xorl %ecx, %ecx
2:  movl %eax, 0x2000(%edi,%ecx,8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jne 2b
    ret

.balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff                # 64-bit code
    .quad 0x00cf93000000ffff                # data
    .quad 0x0000890000000067 + (TSS << 16)  # a TSS, which VMX wants to be there
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt - image + BASE
