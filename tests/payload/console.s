# COM1, polled, and the ports that end the machine.

.set COM1, 0x3f8
.set LINE_STATUS, COM1 + 5
.set TRANSMITTER_EMPTY, 0x20
.set DEBUG_EXIT, 0xf4
.set SHUTDOWN_PORT, 0x8900
.set RESET_PORT, 0xcf9

.code64
# Prints the text at RSI, up to its zero.
print:
    lodsb
    testb %al, %al
    jz 1f
    call print_byte
    jmp print
1:  ret

# Prints AL.
print_byte:
    movb %al, %ah
    movw $LINE_STATUS, %dx
1:  inb %dx, %al
    testb $TRANSMITTER_EMPTY, %al
    jz 1b
    movb %ah, %al
    movw $COM1, %dx
    outb %al, %dx
    ret

# Prints RAX in the base that is in RCX, 10 or 16.
print_number:
    xorl %edx, %edx
    divq %rcx
    pushq %rdx
    testq %rax, %rax
    jz 1f
    call print_number
1:  popq %rax
    leaq digits(%rip), %rdx
    movb (%rdx,%rax), %al
    jmp print_byte

digits:
    .ascii "0123456789abcdef"

# Ends the run with EAX as the debug exit's value; where there is no such port,
# powers off.
finish:
    movw $DEBUG_EXIT, %dx
    outl %eax, %dx
    leaq shutdown(%rip), %rsi
    movw $SHUTDOWN_PORT, %dx
1:  lodsb
    outb %al, %dx
    testb %al, %al
    jnz 1b
2:  cli
    hlt
    jmp 2b

shutdown:
    .asciz "Shutdown"

# Prints the text at RSI, and ends the run with EAX as the debug exit's value; where
# there is no such port, by a reset, so that nobody takes it for success.
fail:
    pushq %rax
    call print
    popq %rax
    movw $DEBUG_EXIT, %dx
    outl %eax, %dx
    movb $6, %al
    movw $RESET_PORT, %dx
    outb %al, %dx
1:  cli
    hlt
    jmp 1b
