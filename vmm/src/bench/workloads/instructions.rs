//! Single instructions: nothing, SYSCALL, VMCALL or VMMCALL, CPUID.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__cpuid;
use std::hint::black_box;

use super::{Error, Session};
use crate::bench::results::Measured;

/// CPUID.1:ECX bit 31: a hypervisor runs.
const HYPERVISOR: u32 = 1 << 31;

pub(super) fn nop(session: &mut Session<'_>) -> Result<Measured, Error> {
    session.take(usize::MAX, 1, || Ok(()))
}

pub(super) fn syscall(session: &mut Session<'_>) -> Result<Measured, Error> {
    session.take(usize::MAX, 1, || {
        // SAFETY: getppid takes no argument and has no effect.
        black_box(unsafe { libc::syscall(libc::SYS_getppid) });
        Ok(())
    })
}

/// A hypercall that nobody has (KVM answers -EPERM to user space whatever its number).
pub(super) fn hypercall(session: &mut Session<'_>) -> Result<Measured, Error> {
    // Without a hypervisor the instruction is an invalid one.
    if session.level == 0 || __cpuid(1).ecx & HYPERVISOR == 0 {
        return Err(Error::NoHypervisor);
    }
    // "ntel" of GenuineIntel, as ECX has it. The other vendor's instruction would make
    // KVM write into this program.
    let intel = __cpuid(0).ecx == u32::from_le_bytes(*b"ntel");
    session.take(usize::MAX, 1, || {
        let result: u64;
        if intel {
            // SAFETY: leaves the guest and comes back with a result in RAX (KVM's
            // hypercall ABI); nothing else changes.
            unsafe {
                asm!("vmcall", inlateout("rax") u64::MAX => result, in("rcx") 0, in("rdx") 0)
            };
        } else {
            // SAFETY: as above.
            unsafe {
                asm!("vmmcall", inlateout("rax") u64::MAX => result, in("rcx") 0, in("rdx") 0)
            };
        }
        black_box(result);
        Ok(())
    })
}

pub(super) fn cpuid(session: &mut Session<'_>) -> Result<Measured, Error> {
    session.take(usize::MAX, 1, || {
        black_box(__cpuid(0));
        Ok(())
    })
}
