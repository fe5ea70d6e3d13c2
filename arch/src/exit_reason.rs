//! Why a processor left its guest, by the manuals' names.

use crate::nested::Extension;

/// VMX's basic exit reasons (SDM 3, appendix C), from 0 on.
const VMX: [&str; 78] = [
    "EXCEPTION_NMI",
    "EXTERNAL_INTERRUPT",
    "TRIPLE_FAULT",
    "INIT_SIGNAL",
    "SIPI_SIGNAL",
    "IO_SMI",
    "OTHER_SMI",
    "INTERRUPT_WINDOW",
    "NMI_WINDOW",
    "TASK_SWITCH",
    "CPUID",
    "GETSEC",
    "HLT",
    "INVD",
    "INVLPG",
    "RDPMC",
    "RDTSC",
    "RSM",
    "VMCALL",
    "VMCLEAR",
    "VMLAUNCH",
    "VMPTRLD",
    "VMPTRST",
    "VMREAD",
    "VMRESUME",
    "VMWRITE",
    "VMXOFF",
    "VMXON",
    "CR_ACCESS",
    "DR_ACCESS",
    "IO_INSTRUCTION",
    "RDMSR",
    "WRMSR",
    "INVALID_GUEST_STATE",
    "MSR_LOADING",
    "",
    "MWAIT",
    "MONITOR_TRAP_FLAG",
    "",
    "MONITOR",
    "PAUSE",
    "MACHINE_CHECK",
    "",
    "TPR_BELOW_THRESHOLD",
    "APIC_ACCESS",
    "VIRTUALIZED_EOI",
    "GDTR_IDTR_ACCESS",
    "LDTR_TR_ACCESS",
    "EPT_VIOLATION",
    "EPT_MISCONFIGURATION",
    "INVEPT",
    "RDTSCP",
    "PREEMPTION_TIMER",
    "INVVPID",
    "WBINVD",
    "XSETBV",
    "APIC_WRITE",
    "RDRAND",
    "INVPCID",
    "VMFUNC",
    "ENCLS",
    "RDSEED",
    "PML_FULL",
    "XSAVES",
    "XRSTORS",
    "PCONFIG",
    "SPP",
    "UMWAIT",
    "TPAUSE",
    "LOADIWKEY",
    "ENCLV",
    "",
    "ENQCMD_PASID",
    "ENQCMDS_PASID",
    "BUS_LOCK",
    "NOTIFY",
    "SEAMCALL",
    "TDCALL",
];

/// SVM's exit codes from 0x60 to 0x8f (APM 2, appendix C).
const SVM: [&str; 48] = [
    "INTR",
    "NMI",
    "SMI",
    "INIT",
    "VINTR",
    "CR0_SEL_WRITE",
    "IDTR_READ",
    "GDTR_READ",
    "LDTR_READ",
    "TR_READ",
    "IDTR_WRITE",
    "GDTR_WRITE",
    "LDTR_WRITE",
    "TR_WRITE",
    "RDTSC",
    "RDPMC",
    "PUSHF",
    "POPF",
    "CPUID",
    "RSM",
    "IRET",
    "SWINT",
    "INVD",
    "PAUSE",
    "HLT",
    "INVLPG",
    "INVLPGA",
    "IOIO",
    "MSR",
    "TASK_SWITCH",
    "FERR_FREEZE",
    "SHUTDOWN",
    "VMRUN",
    "VMMCALL",
    "VMLOAD",
    "VMSAVE",
    "STGI",
    "CLGI",
    "SKINIT",
    "RDTSCP",
    "ICEBP",
    "WBINVD",
    "MONITOR",
    "MWAIT",
    "MWAIT_CONDITIONAL",
    "XSETBV",
    "RDPRU",
    "EFER_WRITE_TRAP",
];
const SVM_FIRST: u32 = 0x60;

/// The name of an exit reason: the VMCS's, of which the lower 16 bits are the
/// basic reason, or the lower half of the VMCB's exit code. None for one that the
/// manuals don't have.
#[must_use]
pub fn name(extension: Extension, reason: u32) -> Option<&'static str> {
    match extension {
        Extension::Vmx => entry(&VMX, reason & 0xFFFF),
        Extension::Svm => svm(reason),
    }
}

fn svm(code: u32) -> Option<&'static str> {
    Some(match code {
        0x00..=0x0F => "CR_READ",
        0x10..=0x1F => "CR_WRITE",
        0x20..=0x2F => "DR_READ",
        0x30..=0x3F => "DR_WRITE",
        0x40..=0x5F => "EXCEPTION",
        0x90..=0x9F => "CR_WRITE_TRAP",
        0xA0 => "INVLPGB",
        0xA1 => "INVLPGB_ILLEGAL",
        0xA2 => "INVPCID",
        0xA3 => "MCOMMIT",
        0xA4 => "TLBSYNC",
        0xA5 => "BUSLOCK",
        0xA6 => "IDLE_HLT",
        0x400 => "NPF",
        0x401 => "AVIC_INCOMPLETE_IPI",
        0x402 => "AVIC_NOACCEL",
        0x403 => "VMGEXIT",
        0xFFFF_FFFF => "INVALID",
        _ => return entry(&SVM, code.checked_sub(SVM_FIRST)?),
    })
}

fn entry(table: &[&'static str], index: u32) -> Option<&'static str> {
    let name = table.get(usize::try_from(index).ok()?)?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_manuals_numbers() {
        for (extension, reason, expected) in [
            (Extension::Vmx, 0, Some("EXCEPTION_NMI")),
            (Extension::Vmx, 10, Some("CPUID")),
            (Extension::Vmx, 18, Some("VMCALL")),
            (Extension::Vmx, 24, Some("VMRESUME")),
            (Extension::Vmx, 35, None),
            (Extension::Vmx, 48, Some("EPT_VIOLATION")),
            (Extension::Vmx, 52, Some("PREEMPTION_TIMER")),
            (Extension::Vmx, 55, Some("XSETBV")),
            (Extension::Vmx, 62, Some("PML_FULL")),
            (Extension::Vmx, 75, Some("NOTIFY")),
            (Extension::Vmx, 77, Some("TDCALL")),
            (Extension::Vmx, 78, None),
            // A failed VM entry (SDM 3, 25.9.1).
            (Extension::Vmx, 0x8000_0021, Some("INVALID_GUEST_STATE")),
            (Extension::Svm, 0x04, Some("CR_READ")),
            (Extension::Svm, 0x4E, Some("EXCEPTION")),
            (Extension::Svm, 0x60, Some("INTR")),
            (Extension::Svm, 0x72, Some("CPUID")),
            (Extension::Svm, 0x78, Some("HLT")),
            (Extension::Svm, 0x7B, Some("IOIO")),
            (Extension::Svm, 0x80, Some("VMRUN")),
            (Extension::Svm, 0x81, Some("VMMCALL")),
            (Extension::Svm, 0x8D, Some("XSETBV")),
            (Extension::Svm, 0x8F, Some("EFER_WRITE_TRAP")),
            (Extension::Svm, 0x400, Some("NPF")),
            (Extension::Svm, 0x500, None),
            (Extension::Svm, u32::MAX, Some("INVALID")),
        ] {
            assert_eq!(name(extension, reason), expected, "{extension} {reason:#x}");
        }
    }
}
