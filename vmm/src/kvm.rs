//! The host's KVM: opened with a clear word where it can't be, and asked for
//! what a machine needs.

use std::path::Path;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm};
use nestling_arch::cpuid::Cpuid;

/// Where KVM is found.
pub const DEVICE: &str = "/dev/kvm";

/// The API version since Linux 2.6.22; there is no other (KVM API, 4.1).
const API_VERSION: i32 = 12;

/// What a machine can't do without (KVM API, 4.4).
const REQUIRED: [(Cap, &str); 7] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
];

/// Why the host's KVM can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no device node.
    #[error(
        "there is no {DEVICE}: turn on VT-x or AMD-V in the firmware, then load the module \
         (`modprobe kvm_intel` or `modprobe kvm_amd`)"
    )]
    Absent,
    /// The device node is there and closed to us.
    #[error(
        "no permission to open {DEVICE}: join its group (`sudo usermod -aG kvm $USER`), \
         then log in anew"
    )]
    Permission,
    /// Opening failed otherwise.
    #[error("can't open {DEVICE}: {0}")]
    Open(kvm_ioctls::Error),
    /// The device isn't KVM's, or of another age.
    #[error("{DEVICE} speaks API version {0}, and version {API_VERSION} is needed")]
    ApiVersion(i32),
    /// Something a machine needs isn't there.
    #[error("the host's KVM lacks {0}: a newer kernel is needed")]
    Capability(&'static str),
    /// KVM's CPUID contradicts itself.
    #[error("KVM_GET_SUPPORTED_CPUID can't be used: {0}")]
    Cpuid(nestling_arch::cpuid::Error),
    /// An ioctl on the system descriptor failed.
    #[error("{call} failed on {DEVICE}: {source}")]
    Ioctl {
        /// The ioctl's name.
        call: &'static str,
        /// What the kernel said.
        source: kvm_ioctls::Error,
    },
}

/// Opens the host's KVM and checks that machines can be built on it.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT if !Path::new(DEVICE).exists() => KvmError::Absent,
        libc::ENODEV | libc::ENXIO => KvmError::Absent,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::Open(error),
    })?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmError::ApiVersion(version));
    }
    match REQUIRED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(KvmError::Capability(name)),
        None => Ok(kvm),
    }
}

/// What KVM can show a guest (KVM API, 4.46).
pub fn supported_cpuid(kvm: &Kvm) -> Result<Cpuid, KvmError> {
    let entries = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|source| KvmError::Ioctl {
            call: "KVM_GET_SUPPORTED_CPUID",
            source,
        })?;
    Cpuid::from_entries(entries.as_slice()).map_err(KvmError::Cpuid)
}
