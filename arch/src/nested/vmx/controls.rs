//! The table of VMX's controls (SDM vol. 3C, 25.6 to 25.8; vol. 3D, appendix A).
//!
//! KVM gives guests neither tertiary controls nor secondary VM-exit controls,
//! so those that these activate aren't here.

use super::super::control::{Control, Group, Place};
use crate::cpuid::{Feature, feature::*};
use crate::msr::*;

/// A pin-based VM-execution control.
const fn pin(bit: u32, name: &'static str, needs: &'static [&'static str]) -> Control {
    setting(IA32_VMX_TRUE_PINBASED_CTLS, bit, name, needs)
}

/// A primary processor-based VM-execution control.
const fn primary(bit: u32, name: &'static str, needs: &'static [&'static str]) -> Control {
    setting(IA32_VMX_TRUE_PROCBASED_CTLS, bit, name, needs)
}

/// A secondary processor-based VM-execution control.
const fn secondary(bit: u32, name: &'static str, needs: &'static [&'static str]) -> Control {
    setting(IA32_VMX_PROCBASED_CTLS2, bit, name, needs)
}

/// A primary VM-exit control.
const fn exit(bit: u32, name: &'static str, needs: &'static [&'static str]) -> Control {
    setting(IA32_VMX_TRUE_EXIT_CTLS, bit, name, needs)
}

/// A VM-entry control.
const fn entry(bit: u32, name: &'static str, needs: &'static [&'static str]) -> Control {
    setting(IA32_VMX_TRUE_ENTRY_CTLS, bit, name, needs)
}

const fn setting(
    msr: u32,
    bit: u32,
    name: &'static str,
    needs: &'static [&'static str],
) -> Control {
    at(Place::Setting { msr, bit }, name, needs)
}

const fn capability(
    msr: u32,
    bit: u32,
    name: &'static str,
    needs: &'static [&'static str],
) -> Control {
    at(Place::Capability { msr, bit }, name, needs)
}

const fn at(place: Place, name: &'static str, needs: &'static [&'static str]) -> Control {
    Control {
        name,
        place,
        needs,
        instructions: &[],
    }
}

const fn basic(bit: u32, name: &'static str) -> Control {
    capability(IA32_VMX_BASIC, bit, name, &[])
}

const fn misc(bit: u32, name: &'static str) -> Control {
    capability(IA32_VMX_MISC, bit, name, &[])
}

const fn ept(bit: u32, name: &'static str, needs: &'static [&'static str]) -> Control {
    capability(IA32_VMX_EPT_VPID_CAP, bit, name, needs)
}

impl Control {
    /// It is about one of these instructions.
    const fn about(mut self, instructions: &'static [Feature]) -> Self {
        self.instructions = instructions;
        self
    }
}

/// What every secondary control needs.
const SECONDARY: &[&str] = &["secondary_controls"];
const EPT: &[&str] = &["ept"];
const INVEPT: &[&str] = &["invept"];
const INVVPID: &[&str] = &["invvpid"];

/// The controls. Each stands behind those that it needs.
#[rustfmt::skip]
pub(in super::super) const CONTROLS: &[Control] = &[
    // IA32_VMX_BASIC (A.1).
    basic(49, "dual_monitor_treatment"),
    basic(54, "ins_outs_information"),
    basic(55, "true_controls"),

    // Primary processor-based VM-execution controls (table 25-6), with those
    // that the pin-based ones need among them.
    primary(2, "interrupt_window_exiting", &[]),
    primary(3, "tsc_offsetting", &[]),
    primary(7, "hlt_exiting", &[]),
    primary(9, "invlpg_exiting", &[]),
    primary(10, "mwait_exiting", &[]),
    primary(11, "rdpmc_exiting", &[]),
    primary(12, "rdtsc_exiting", &[]),
    primary(15, "cr3_load_exiting", &[]),
    primary(16, "cr3_store_exiting", &[]),
    primary(19, "cr8_load_exiting", &[]),
    primary(20, "cr8_store_exiting", &[]),
    primary(21, "tpr_shadow", &[]),
    primary(23, "mov_dr_exiting", &[]),
    primary(24, "unconditional_io_exiting", &[]),
    primary(25, "io_bitmaps", &[]),
    primary(27, "monitor_trap_flag", &[]),
    primary(28, "msr_bitmaps", &[]),
    primary(29, "monitor_exiting", &[]),
    primary(30, "pause_exiting", &[]),
    primary(31, "secondary_controls", &[]),

    // Pin-based VM-execution controls (table 25-5; their checks: 27.2.1.1).
    pin(0, "external_interrupt_exiting", &[]),
    pin(3, "nmi_exiting", &[]),
    pin(5, "virtual_nmis", &["nmi_exiting"]),
    primary(22, "nmi_window_exiting", &["virtual_nmis"]),
    pin(6, "preemption_timer", &[]),

    // IA32_VMX_MISC (A.6).
    misc(5, "store_lma"),
    misc(6, "activity_hlt"),
    misc(7, "activity_shutdown"),
    misc(8, "activity_wait_for_sipi"),
    misc(14, "pt_in_vmx"),
    misc(15, "rdmsr_smbase"),
    misc(28, "smm_monitor_vmxoff"),
    misc(29, "vmwrite_any_field"),
    misc(30, "inject_zero_length"),

    // VM-exit controls (table 25-13).
    exit(2, "exit_save_debug_controls", &[]),
    exit(9, "exit_host_address_space_size", &[]),
    exit(12, "exit_load_perf_global_ctrl", &[]),
    exit(15, "exit_acknowledge_interrupt", &[]),
    exit(18, "exit_save_pat", &[]),
    exit(19, "exit_load_pat", &[]),
    exit(20, "exit_save_efer", &[]),
    exit(21, "exit_load_efer", &[]),
    exit(22, "exit_save_preemption_timer", &["preemption_timer"]),
    exit(23, "exit_clear_bndcfgs", &[]),
    exit(24, "exit_conceal_vmx_from_pt", &[]),
    exit(25, "exit_clear_rtit_ctl", &[]),
    exit(26, "exit_clear_lbr_ctl", &[]),
    exit(27, "exit_clear_uinv", &[]),
    exit(28, "exit_load_cet", &[]),
    exit(29, "exit_load_pkrs", &[]),
    exit(30, "exit_save_perf_global_ctrl", &[]),

    // VM-entry controls (table 25-15).
    entry(2, "entry_load_debug_controls", &[]),
    entry(9, "entry_ia32e_mode_guest", &[]),
    entry(10, "entry_to_smm", &[]),
    entry(11, "entry_deactivate_dual_monitor", &[]),
    entry(13, "entry_load_perf_global_ctrl", &[]),
    entry(14, "entry_load_pat", &[]),
    entry(15, "entry_load_efer", &[]),
    entry(16, "entry_load_bndcfgs", &[]),
    entry(17, "entry_conceal_vmx_from_pt", &[]),
    entry(18, "entry_load_rtit_ctl", &[]),
    entry(19, "entry_load_uinv", &[]),
    entry(20, "entry_load_cet", &[]),
    entry(21, "entry_load_lbr_ctl", &[]),
    entry(22, "entry_load_pkrs", &[]),

    // Secondary processor-based VM-execution controls (table 25-7; their checks:
    // 27.2.1.1), EPT and VPID capabilities (A.10) beside what has them.
    secondary(0, "virtualize_apic_accesses", SECONDARY),
    secondary(2, "descriptor_table_exiting", SECONDARY),
    secondary(3, "rdtscp", SECONDARY).about(&[RDTSCP, RDPID]),
    secondary(4, "virtualize_x2apic_mode", &["secondary_controls", "tpr_shadow"]),
    secondary(6, "wbinvd_exiting", SECONDARY),
    secondary(8, "apic_register_virtualization", &["secondary_controls", "tpr_shadow"]),
    secondary(9, "virtual_interrupt_delivery",
        &["secondary_controls", "tpr_shadow", "external_interrupt_exiting"]),
    pin(7, "posted_interrupts", &["virtual_interrupt_delivery", "exit_acknowledge_interrupt"]),
    secondary(10, "pause_loop_exiting", SECONDARY),
    secondary(11, "rdrand_exiting", SECONDARY).about(&[RDRAND]),
    secondary(12, "invpcid", SECONDARY).about(&[INVPCID]),
    secondary(13, "vmfunc", SECONDARY),
    secondary(14, "shadow_vmcs", SECONDARY),
    secondary(15, "encls_exiting", SECONDARY),
    secondary(16, "rdseed_exiting", SECONDARY).about(&[RDSEED]),
    secondary(19, "conceal_vmx_from_pt", SECONDARY),
    secondary(20, "xsaves", SECONDARY).about(&[XSAVES]),
    secondary(21, "pasid_translation", SECONDARY),
    secondary(25, "tsc_scaling", SECONDARY),
    secondary(26, "user_wait_pause", SECONDARY).about(&[WAITPKG]),
    secondary(27, "pconfig", SECONDARY),
    secondary(28, "enclv_exiting", SECONDARY),
    secondary(30, "bus_lock_detection", SECONDARY),
    secondary(31, "instruction_timeout", SECONDARY),

    secondary(1, "ept", SECONDARY),
    ept(0, "ept_execute_only", EPT),
    ept(6, "ept_walk_4", EPT),
    ept(7, "ept_walk_5", EPT),
    ept(8, "ept_uncacheable", EPT),
    ept(14, "ept_write_back", EPT),
    ept(16, "ept_2m_pages", EPT),
    ept(17, "ept_1g_pages", EPT),
    ept(20, "invept", EPT),
    ept(25, "invept_single_context", INVEPT),
    ept(26, "invept_all_contexts", INVEPT),
    ept(21, "ept_accessed_dirty", EPT),
    ept(22, "ept_exit_information", EPT),
    ept(23, "ept_supervisor_shadow_stack", EPT),
    secondary(7, "unrestricted_guest", &["ept", "store_lma"]),
    secondary(17, "pml", &["ept_accessed_dirty"]),
    secondary(18, "ept_violation_ve", EPT),
    secondary(22, "mode_based_execute", EPT),
    secondary(23, "sub_page_write", EPT),
    secondary(24, "pt_guest_physical", EPT),
    // VM functions (A.11).
    capability(IA32_VMX_VMFUNC, 0, "eptp_switching", &["vmfunc", "ept"]),

    secondary(5, "vpid", SECONDARY),
    ept(32, "invvpid", &["vpid"]),
    ept(40, "invvpid_individual_address", INVVPID),
    ept(41, "invvpid_single_context", INVVPID),
    ept(42, "invvpid_all_contexts", INVVPID),
    ept(43, "invvpid_single_context_retaining_globals", INVVPID),
];

/// Intel's own words for controls that go together.
pub(in super::super) const GROUPS: &[Group] = &[
    Group {
        name: "flexpriority",
        members: &["tpr_shadow", "virtualize_apic_accesses"],
    },
    Group {
        name: "apicv",
        members: &[
            "apic_register_virtualization",
            "virtual_interrupt_delivery",
            "posted_interrupts",
        ],
    },
];
