# What the hypervisor does, and its guest.
#
# R15 is the guest's loop counter, and R14 says which hypercall it has; nothing on
# the host's side touches either, so they need not be switched.

# What the debug exit is given.
.set DONE,       0x10
.set FAILED,     1
.set NO_SUPPORT, 2

# The guest's exits, by which they are counted.
.set CPUID_EXIT,     0
.set IO_EXIT,        1
.set HYPERCALL_EXIT, 2
.set HALT_EXIT,      3

.code64
start_64:
    movl $DATA_SELECTOR, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $TSS_SELECTOR, %eax
    ltr %ax

    movl %ebp, %esi
    call read_count
    movq %rax, %r15

    # SVM is in the extended leaves, VMX in the first of the others.
    movl $0x80000000, %eax
    cpuid
    cmpl $0x8000000a, %eax
    jb 1f
    movl $0x80000001, %eax
    cpuid
    btl $2, %ecx
    jc use_svm
1:  movl $1, %eax
    cpuid
    btl $5, %ecx
    jc use_vmx
    leaq unsupported(%rip), %rsi
    movl $NO_SUPPORT, %eax
    jmp fail

use_svm:
    movl $1, %r14d
    leaq with_svm(%rip), %rsi
    call print
    call svm_set_up
    leaq svm_enter(%rip), %rbp
    jmp run

use_vmx:
    xorl %r14d, %r14d
    leaq with_vmx(%rip), %rsi
    call print
    call vmx_set_up
    leaq vmx_enter(%rip), %rbp

# Enters the guest until it halts. RBP: what enters it once, and answers the kind of
# its exit in EAX.
run:
    call *%rbp
    leaq counts(%rip), %rdx
    incq (%rdx,%rax,8)
    cmpl $HALT_EXIT, %eax
    jne run

# Prints each count behind its name.
report:
    leaq counts(%rip), %rbx
    leaq names(%rip), %rsi
1:  call print
    movq (%rbx), %rax
    movl $10, %ecx
    call print_number
    addq $8, %rbx
    cmpb $0, (%rsi)
    jne 1b
    movb $10, %al
    call print_byte
    movl $DONE, %eax
    jmp finish

# An exit that the guest has no reason for. EAX: the code of it.
unexpected:
    pushq %rax
    leaq unexpected_exit(%rip), %rsi
    call print
    popq %rax
    movl $16, %ecx
    call print_number
    leaq newline(%rip), %rsi
    movl $FAILED, %eax
    jmp fail

# Finds EAX among the words at RSI, each with a kind and an instruction's length
# behind it. Answers the kind in EAX and the length in EDX.
find_exit:
    cmpl $-1, (%rsi)
    je unexpected
    cmpl (%rsi), %eax
    je 1f
    addq $12, %rsi
    jmp find_exit
1:  movl 4(%rsi), %eax
    movl 8(%rsi), %edx
    ret

# Answers the number behind `cpuid=` in the command line at RSI, or else 1.
read_count:
    cmpb $0, (%rsi)
    je 3f
    movq (%rsi), %rax
    shlq $16, %rax
    movq count_key(%rip), %rdx
    cmpq %rdx, %rax
    je 1f
    incq %rsi
    jmp read_count
1:  addq $6, %rsi
    xorl %eax, %eax
2:  movzbl (%rsi), %edx
    subl $'0', %edx
    cmpl $9, %edx
    ja 4f
    imulq $10, %rax
    addq %rdx, %rax
    incq %rsi
    jmp 2b
4:  testq %rax, %rax
    jnz 5f
3:  movl $1, %eax
5:  ret

# L2: CPUID as often as asked, an access to a port, a hypercall, and a halt.
guest:
    xorl %eax, %eax
    cpuid
    decq %r15
    jnz guest
    outb %al, $0x80
    testl %r14d, %r14d
    jz 1f
    vmmcall
    jmp 2f
1:  vmcall
2:  hlt
    jmp 2b

.balign 8
counts:
    .quad 0, 0, 0, 0
# The six characters in the upper bytes of a quadword.
count_key:
    .ascii "\0\0cpuid="
names:
    .asciz "L2 exited: cpuid x"
    .asciz ", io x"
    .asciz ", hypercall x"
    .asciz ", hlt x"
    .byte 0
with_svm:
    .asciz "L2 is entered by VMRUN\n"
with_vmx:
    .asciz "L2 is entered by VMLAUNCH\n"
unsupported:
    .asciz "neither SVM nor VMX is here\n"
unexpected_exit:
    .asciz "L2 exited unexpectedly: 0x"
newline:
    .asciz "\n"
