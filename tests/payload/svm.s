# AMD-V: the VMCB, and the guest's entry and exits (APM 2, 15 and appendix B).

.set EFER_SVME,   1 << 12
.set VM_HSAVE_PA, 0xc0010117

.set INTERCEPTS_3,   CONTROL + 0x00c
.set INTERCEPTS_4,   CONTROL + 0x010
.set IOPM_BASE_PA,   CONTROL + 0x040
.set GUEST_ASID,     CONTROL + 0x058
.set EXIT_CODE,      CONTROL + 0x070
.set NP_ENABLE,      CONTROL + 0x090
.set N_CR3,          CONTROL + 0x0b0
.set GUEST_ES,       CONTROL + 0x400
.set GUEST_CS,       CONTROL + 0x410
.set GUEST_SS,       CONTROL + 0x420
.set GUEST_DS,       CONTROL + 0x430
.set GUEST_EFER,     CONTROL + 0x4d0
.set GUEST_CR4,      CONTROL + 0x548
.set GUEST_CR3,      CONTROL + 0x550
.set GUEST_CR0,      CONTROL + 0x558
.set GUEST_DR7,      CONTROL + 0x560
.set GUEST_DR6,      CONTROL + 0x568
.set GUEST_RFLAGS,   CONTROL + 0x570
.set GUEST_RIP,      CONTROL + 0x578
.set GUEST_RSP,      CONTROL + 0x5d8
.set GUEST_PAT,      CONTROL + 0x668

# Intercepts: CPUID, HLT, port I/O, shutdown; VMRUN, which must be, and VMMCALL.
.set INTERCEPT_3, 1 << 18 | 1 << 24 | 1 << 27 | 1 << 31
.set INTERCEPT_4, 1 << 0 | 1 << 1

# A segment register: selector, attributes, limit.
.set CODE_SEGMENT, CODE_SELECTOR | 0xa9b << 16
.set DATA_SEGMENT, DATA_SELECTOR | 0xc93 << 16

.code64
# Turns SVM on, and fills the VMCB for a guest in this processor's own state.
svm_set_up:
    movl $EFER, %ecx
    rdmsr
    orl $EFER_SVME, %eax
    wrmsr
    movl %eax, GUEST_EFER
    movl $VM_HSAVE_PA, %ecx
    movl $HOST, %eax
    xorl %edx, %edx
    wrmsr

    # Every port is intercepted.
    movl $IO_PERMISSIONS, %edi
    movl $0x3000, %ecx
    movb $0xff, %al
    rep stosb

    movl $INTERCEPT_3, INTERCEPTS_3
    movl $INTERCEPT_4, INTERCEPTS_4
    movl $IO_PERMISSIONS, IOPM_BASE_PA
    movl $1, GUEST_ASID
    movl $0x8000000a, %eax
    cpuid
    andl $1, %edx
    movl %edx, NP_ENABLE
    movl $NPT_TABLES, N_CR3

    movl $CODE_SEGMENT, GUEST_CS
    movl $-1, GUEST_CS + 4
    movl $DATA_SEGMENT, GUEST_DS
    movl $-1, GUEST_DS + 4
    movl $DATA_SEGMENT, GUEST_ES
    movl $-1, GUEST_ES + 4
    movl $DATA_SEGMENT, GUEST_SS
    movl $-1, GUEST_SS + 4
    movq %cr0, %rax
    movq %rax, GUEST_CR0
    movq %cr3, %rax
    movq %rax, GUEST_CR3
    movq %cr4, %rax
    movq %rax, GUEST_CR4
    movl $0x400, GUEST_DR7
    movl $0xffff0ff0, %eax
    movq %rax, GUEST_DR6
    movl $2, GUEST_RFLAGS
    leaq guest(%rip), %rax
    movq %rax, GUEST_RIP
    movl $GUEST_STACK_END, GUEST_RSP
    movabsq $0x0007040600070406, %rax       # as it is after a reset
    movq %rax, GUEST_PAT
    ret

# Enters the guest once, and has it behind the instruction that made it exit.
# Answers the exit's kind in EAX.
svm_enter:
    movl $CONTROL, %eax
    vmrun
    movl EXIT_CODE, %eax
    leaq svm_exits(%rip), %rsi
    call find_exit
    addq %rdx, GUEST_RIP
    ret

.balign 4
svm_exits:
    .long 0x72, CPUID_EXIT, 2
    .long 0x7b, IO_EXIT, 2
    .long 0x81, HYPERCALL_EXIT, 3
    .long 0x78, HALT_EXIT, 1
    .long -1
