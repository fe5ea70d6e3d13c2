//! What an x86 machine is: memory layout, CPUID, MSRs, boot protocols, ACPI.
//!
//! Pure data and functions: nothing here opens a file descriptor, so all of it
//! is tested on any host.

pub mod acpi;
pub mod boot;
pub mod cpuid;
pub mod exit_reason;
pub mod hyperv;
pub mod layout;
pub mod msr;
pub mod nested;
pub mod paging;
pub mod regs;
pub mod template;

/// Guest memory as every crate of nestling sees it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
