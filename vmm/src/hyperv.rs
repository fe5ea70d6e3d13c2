//! KVM's Hyper-V interface: what there is of it, and switching it on.

#![allow(unsafe_code)]

use std::io;

use kvm_bindings::{
    CpuId, KVM_CAP_HYPERV_ENFORCE_CPUID, KVM_CAP_HYPERV_ENLIGHTENED_VMCS, KVM_CAP_HYPERV_SYNIC2,
    KVM_CAP_SYS_HYPERV_CPUID, KVM_EXIT_HYPERV_HCALL, KVMIO, kvm_enable_cap, kvm_run,
};
use kvm_ioctls::{Kvm, VcpuFd};
use nestling_arch::cpuid::{Cpuid, MAX_ENTRIES};
use nestling_arch::hyperv::Enlightenments;
use vmm_sys_util::ioctl::{_IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_mut_ptr};

use crate::kvm::KvmError;

/// The ioctl that kvm-ioctls lacks; a `kvm_cpuid2` has 8 bytes before its entries.
const KVM_GET_SUPPORTED_HV_CPUID: libc::c_ulong =
    ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, 0xC1, 8);

/// HV_STATUS_INVALID_HYPERCALL_CODE (Hyper-V TLFS, "Hypercall Status Codes").
const INVALID_HYPERCALL_CODE: u64 = 2;

/// What KVM has of Hyper-V's interface (KVM API, 4.118); nothing before Linux
/// 5.11, which tells it for vCPUs alone.
pub fn supported(kvm: &Kvm) -> Result<Cpuid, KvmError> {
    if kvm.check_extension_raw(KVM_CAP_SYS_HYPERV_CPUID.into()) <= 0 {
        return Ok(Cpuid::default());
    }
    let mut list = CpuId::new(MAX_ENTRIES).expect("as many as KVM allows");
    // SAFETY: the ioctl writes at most as many entries as the list says that it has room for,
    // and how many it wrote.
    let result = unsafe {
        ioctl_with_mut_ptr(
            kvm,
            KVM_GET_SUPPORTED_HV_CPUID,
            list.as_mut_fam_struct_ptr(),
        )
    };
    if result < 0 {
        return Err(KvmError::Ioctl {
            call: "KVM_GET_SUPPORTED_HV_CPUID",
            source: io::Error::last_os_error().into(),
        });
    }
    Cpuid::from_entries(list.as_slice()).map_err(KvmError::Cpuid)
}

/// Lets a vCPU use what `enlightenments` show it and no more. Comes before its
/// CPUID is set.
pub fn enable(
    kvm: &Kvm,
    vcpu: &VcpuFd,
    enlightenments: &Enlightenments,
) -> Result<(), kvm_ioctls::Error> {
    let mut capability = kvm_enable_cap::default();
    // Before Linux 5.14 a guest may use what it isn't shown.
    if kvm.check_extension_raw(KVM_CAP_HYPERV_ENFORCE_CPUID.into()) > 0 {
        capability.cap = KVM_CAP_HYPERV_ENFORCE_CPUID;
        capability.args[0] = 1;
        vcpu.enable_cap(&capability)?;
    }
    if enlightenments.has("synic") {
        capability.cap = KVM_CAP_HYPERV_SYNIC2;
        capability.args[0] = 0;
        vcpu.enable_cap(&capability)?;
    }
    if enlightenments.has("evmcs") {
        // KVM writes the versions here that it has; they are those of the CPUID leaf.
        let mut versions = 0u16;
        capability.cap = KVM_CAP_HYPERV_ENLIGHTENED_VMCS;
        capability.args[0] = (&raw mut versions).expose_provenance() as u64;
        vcpu.enable_cap(&capability)?;
    }
    Ok(())
}

/// Answers a hypercall that KVM left to the monitor: those are for devices of
/// Hyper-V's, of which the machine has none. Other exits need no answer.
pub fn answer(run: &mut kvm_run) {
    // SAFETY: called only after KVM_EXIT_HYPERV, for which `hyperv` is the field of the union
    // that KVM has filled, and `hcall` that of its own union for this type.
    unsafe {
        let exit = &mut run.__bindgen_anon_1.hyperv;
        if exit.type_ == KVM_EXIT_HYPERV_HCALL {
            exit.u.hcall.result = INVALID_HYPERCALL_CODE;
        }
    }
}
