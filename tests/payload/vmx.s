# VT-x: the VMCS, and the guest's entry and exits (SDM 3, chapters 25 to 28 and
# appendices A to C).

.set FEATURE_CONTROL, 0x3a
.set FEATURE_CONTROL_ON, 0b101              # locked, with VMX outside of SMX
.set VMX_BASIC,  0x480
.set VMX_FIXED,  0x486                      # of CR0: 0, 1; of CR4: 0, 1
.set CR4_VMXE,   1 << 13
# The MSRs of the controls: those that tell the truth are so far behind the others.
.set TRUE_CONTROLS, 0x48d - 0x481

.set HOST_RSP,    0x6c14
.set HOST_RIP,    0x6c16
.set GUEST_VMX_RIP, 0x681e
.set EXIT_REASON, 0x4402
.set EXIT_LENGTH, 0x440c
.set INSTRUCTION_ERROR, 0x4400

.code64
# Turns VMX on, and fills the VMCS for a guest in this processor's own state.
vmx_set_up:
    movl $FEATURE_CONTROL, %ecx
    rdmsr
    andl $FEATURE_CONTROL_ON, %eax
    cmpl $FEATURE_CONTROL_ON, %eax
    leaq vmx_locked(%rip), %rsi
    jne vmx_failed

    # Bits that VMX wants set are in the first of each pair, those that it lets be
    # set in the second.
    movl $VMX_FIXED, %ecx
    movq %cr0, %rbx
    call vmx_fix
    movq %rbx, %cr0
    movq %cr4, %rbx
    orl $CR4_VMXE, %ebx
    call vmx_fix
    movq %rbx, %cr4

    movl $VMX_BASIC, %ecx
    rdmsr
    movl %eax, CONTROL                      # the VMCS revision
    movl %eax, HOST
    xorl %r12d, %r12d
    btl $55 - 32, %edx
    jnc 1f
    movl $TRUE_CONTROLS, %r12d
1:  leaq vmx_refused(%rip), %rsi
    vmxon host_pointer(%rip)
    jbe vmx_failed
    vmclear control_pointer(%rip)
    jbe vmx_failed
    vmptrld control_pointer(%rip)
    jbe vmx_failed

    leaq vmx_controls(%rip), %rsi
    movl $4, %ebx
2:  addl %r12d, 4(%rsi)
    call vmx_write_control
    decl %ebx
    jnz 2b
    call vmx_write_control                  # the secondary ones have one MSR

    leaq vmx_constants(%rip), %rsi
3:  lodsq
    movq %rax, %rdx
    lodsq
    vmwrite %rax, %rdx
    cmpq $0, (%rsi)
    jne 3b

    leaq vmx_state(%rip), %rsi
    movq %cr0, %rax
    call vmx_write_pair
    movq %cr3, %rax
    call vmx_write_pair
    movq %cr4, %rax
    call vmx_write_pair
    leaq guest(%rip), %rax
    movl $GUEST_VMX_RIP, %edx
    vmwrite %rax, %rdx
    leaq vmx_exited(%rip), %rax
    movl $HOST_RIP, %edx
    vmwrite %rax, %rdx
    ret

# Fixes the bits of RBX by the MSR in ECX and the next.
vmx_fix:
    rdmsr
    orl %eax, %ebx
    incl %ecx
    rdmsr
    andl %eax, %ebx
    incl %ecx
    ret

# Writes the control at RSI: its field, its MSR and what is wanted of it. The MSR
# says which bits must be set and which may be.
vmx_write_control:
    movl 4(%rsi), %ecx
    rdmsr
    orl 8(%rsi), %eax
    andl %edx, %eax
    movl (%rsi), %edx
    vmwrite %rax, %rdx
    addq $12, %rsi
    ret

# Writes RAX to the two fields at RSI.
vmx_write_pair:
    movl (%rsi), %edx
    vmwrite %rax, %rdx
    movl 4(%rsi), %edx
    vmwrite %rax, %rdx
    addq $8, %rsi
    ret

# Enters the guest once, and has it behind the instruction that made it exit.
# Answers the exit's kind in EAX.
vmx_enter:
    movl $HOST_RSP, %edx
    vmwrite %rsp, %rdx
    btsl $0, launched(%rip)
    jc 1f
    vmlaunch
    jmp 2f
1:  vmresume
2:  movl $INSTRUCTION_ERROR, %edx
    vmread %rdx, %rax
    pushq %rax
    leaq vmx_not_entered(%rip), %rsi
    call print
    popq %rax
    jmp unexpected
vmx_exited:
    movl $EXIT_REASON, %edx
    vmread %rdx, %rax
    leaq vmx_exits(%rip), %rsi
    call find_exit
    movl $EXIT_LENGTH, %edx
    vmread %rdx, %rcx
    movl $GUEST_VMX_RIP, %edx
    vmread %rdx, %rbx
    addq %rcx, %rbx
    vmwrite %rbx, %rdx
    ret

vmx_failed:
    movl $FAILED, %eax
    jmp fail

.balign 8
host_pointer:
    .quad HOST
control_pointer:
    .quad CONTROL
launched:
    .long 0

# Field, MSR, what is wanted.
vmx_controls:
    .long 0x4000, 0x481, 0                          # pin-based: nothing
    .long 0x4002, 0x482, 1 << 7 | 1 << 24 | 1 << 31 # HLT, port I/O; the secondary ones
    .long 0x400c, 0x483, 1 << 9                     # exit to 64-bit mode
    .long 0x4012, 0x484, 1 << 9                     # enter in 64-bit mode
    .long 0x401e, 0x48b, 1 << 1                     # EPT

# Fields of the guest and of the host with the same value: CR0, CR3, CR4.
vmx_state:
    .long 0x6800, 0x6c00, 0x6802, 0x6c02, 0x6804, 0x6c04

.balign 8
vmx_constants:
    # Nothing more makes the guest exit, and no MSR is switched.
    .quad 0x4004, 0, 0x4006, 0, 0x4008, 0, 0x400a, 0
    .quad 0x400e, 0, 0x4010, 0, 0x4014, 0, 0x4016, 0
    .quad 0x6000, 0, 0x6002, 0
    # EPT: four levels, write-back. No linked VMCS.
    .quad 0x201a, EPT_TABLES | 3 << 3 | 6
    .quad 0x2800, -1, 0x2802, 0
    # The guest's ES, CS, SS, DS, FS, GS, LDTR, TR: selectors, limits, rights, bases.
    .quad 0x800, DATA_SELECTOR, 0x802, CODE_SELECTOR, 0x804, DATA_SELECTOR
    .quad 0x806, DATA_SELECTOR, 0x808, DATA_SELECTOR, 0x80a, DATA_SELECTOR
    .quad 0x80c, 0, 0x80e, TSS_SELECTOR
    .quad 0x4800, 0xffffffff, 0x4802, 0xffffffff, 0x4804, 0xffffffff
    .quad 0x4806, 0xffffffff, 0x4808, 0xffffffff, 0x480a, 0xffffffff
    .quad 0x480c, 0, 0x480e, 0x67
    .quad 0x4814, 0xc093, 0x4816, 0xa09b, 0x4818, 0xc093
    .quad 0x481a, 0xc093, 0x481c, 0xc093, 0x481e, 0xc093
    .quad 0x4820, 0x10000, 0x4822, 0x8b
    .quad 0x6806, 0, 0x6808, 0, 0x680a, 0, 0x680c, 0, 0x680e, 0, 0x6810, 0
    .quad 0x6812, 0, 0x6814, TSS
    # Its GDTR and IDTR, limits and bases: it loads no segment and takes no interrupt.
    .quad 0x4810, 0, 0x4812, 0, 0x6816, 0, 0x6818, 0
    # Its DR7, RSP, RFLAGS; nothing is pending or blocked; no SYSENTER.
    .quad 0x681a, 0x400, 0x681c, GUEST_STACK_END, 0x6820, 2
    .quad 0x6822, 0, 0x4824, 0, 0x4826, 0
    .quad 0x482a, 0, 0x6824, 0, 0x6826, 0
    # The host's ES, CS, SS, DS, FS, GS, TR, and what they need.
    .quad 0xc00, DATA_SELECTOR, 0xc02, CODE_SELECTOR, 0xc04, DATA_SELECTOR
    .quad 0xc06, DATA_SELECTOR, 0xc08, DATA_SELECTOR, 0xc0a, DATA_SELECTOR
    .quad 0xc0c, TSS_SELECTOR
    .quad 0x6c06, 0, 0x6c08, 0, 0x6c0a, TSS
    .quad 0x6c0c, gdt - image + BASE, 0x6c0e, 0
    .quad 0x4c00, 0, 0x6c10, 0, 0x6c12, 0
    .quad 0

# The instructions' lengths are in the VMCS.
vmx_exits:
    .long 10, CPUID_EXIT, 0
    .long 30, IO_EXIT, 0
    .long 18, HYPERCALL_EXIT, 0
    .long 12, HALT_EXIT, 0
    .long -1

vmx_locked:
    .asciz "VMX is off by IA32_FEATURE_CONTROL\n"
vmx_refused:
    .asciz "VMX can't be turned on\n"
vmx_not_entered:
    .asciz "L2 can't be entered; VM-instruction error: "
