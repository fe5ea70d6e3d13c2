//! Model-specific registers and ports.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__cpuid;
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Error, Session};
use crate::bench::results::Measured;

/// The kernel's way to processor 0's registers (msr(4)): the offset is the register.
const MSR: &str = "/dev/cpu/0/msr";
/// IA32_MISC_ENABLE (SDM 4, table 2-2).
const MISC_ENABLE: u64 = 0x1A0;
/// HWCR (APM 2, appendix A).
const HWCR: u64 = 0xC001_0015;
/// IA32_GS_BASE.
const GS_BASE: u64 = 0xC000_0101;

/// The interrupt mask of the first 8259.
const PIC_MASK: u16 = 0x21;
/// Where firmware shows how far it is: nobody answers reads.
const POST_CODE: u16 = 0x80;

pub(super) fn rdmsr_intercepted(session: &mut Session<'_>) -> Result<Measured, Error> {
    let intel = __cpuid(0).ecx == u32::from_le_bytes(*b"ntel");
    rdmsr(session, if intel { MISC_ENABLE } else { HWCR })
}

pub(super) fn rdmsr_passthrough(session: &mut Session<'_>) -> Result<Measured, Error> {
    rdmsr(session, GS_BASE)
}

fn rdmsr(session: &mut Session<'_>, register: u64) -> Result<Measured, Error> {
    let missing = |source| Error::Missing {
        path: MSR.to_owned(),
        source,
    };
    let file = File::open(MSR).map_err(missing)?;
    let mut value = [0; 8];
    session.take(usize::MAX, 1, || {
        file.read_exact_at(&mut value, register)?;
        black_box(value);
        Ok(())
    })
}

pub(super) fn port_kernel(session: &mut Session<'_>) -> Result<Measured, Error> {
    port(session, PIC_MASK)
}

pub(super) fn port_user(session: &mut Session<'_>) -> Result<Measured, Error> {
    port(session, POST_CODE)
}

fn port(session: &mut Session<'_>, port: u16) -> Result<Measured, Error> {
    // SAFETY: this thread may then use one port, from which it only reads.
    if unsafe { libc::ioperm(port.into(), 1, 1) } != 0 {
        return Err(Error::Missing {
            path: format!("port {port:#x}"),
            source: io::Error::last_os_error(),
        });
    }
    session.take(usize::MAX, 1, || {
        let value: u8;
        // SAFETY: reading the port has no effect, and this thread may.
        unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) };
        black_box(value);
        Ok(())
    })
}
