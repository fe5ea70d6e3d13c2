//! The host's KVM: opened with a clear word where it can't be, and asked for
//! what a machine needs.

use std::path::Path;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm};
use nestling_arch::cpuid::Cpuid;

/// Where KVM is found.
pub const DEVICE: &str = "/dev/kvm";

/// The API version since Linux 2.6.22; there is no other (KVM API, 4.1).
pub const API_VERSION: i32 = 12;

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
#[error("{}{}", self.what(), self.remedy().map(|remedy| format!(": {remedy}")).unwrap_or_default())]
pub enum KvmError {
    /// There is no device node.
    Absent,
    /// The device node is there and closed to us.
    Permission,
    /// Opening failed otherwise.
    Open(kvm_ioctls::Error),
    /// The device isn't KVM's, or of another age.
    ApiVersion(i32),
    /// Things a machine needs aren't there; by their names.
    Capabilities(Vec<&'static str>),
    /// KVM's CPUID contradicts itself.
    Cpuid(nestling_arch::cpuid::Error),
    /// An ioctl on the system descriptor failed.
    Ioctl {
        /// The ioctl's name.
        call: &'static str,
        /// What the kernel said.
        source: kvm_ioctls::Error,
    },
}

impl KvmError {
    /// What is wrong, and where.
    pub fn what(&self) -> String {
        match self {
            Self::Absent => format!("there is no {DEVICE}"),
            Self::Permission => format!("no permission to open {DEVICE}"),
            Self::Open(error) => format!("can't open {DEVICE}: {error}"),
            Self::ApiVersion(version) => {
                format!("{DEVICE} speaks API version {version}, not {API_VERSION}")
            }
            Self::Capabilities(names) => format!("the host's KVM lacks {}", names.join(", ")),
            Self::Cpuid(error) => format!("KVM_GET_SUPPORTED_CPUID can't be used: {error}"),
            Self::Ioctl { call, source } => format!("{call} failed on {DEVICE}: {source}"),
        }
    }

    /// What to do about it, where anything is known to help.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Absent => Some(
                "turn on VT-x or AMD-V in the firmware, then load the module \
                 (`modprobe kvm_intel` or `modprobe kvm_amd`)",
            ),
            Self::Permission => {
                Some("join its group (`sudo usermod -aG kvm $USER`), then log in anew")
            }
            Self::ApiVersion(_) | Self::Capabilities(_) => Some("use a newer kernel"),
            Self::Open(_) | Self::Cpuid(_) | Self::Ioctl { .. } => None,
        }
    }
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
    let lacking: Vec<&str> = REQUIRED
        .iter()
        .filter(|(cap, _)| !kvm.check_extension(*cap))
        .map(|(_, name)| *name)
        .collect();
    if lacking.is_empty() {
        Ok(kvm)
    } else {
        Err(KvmError::Capabilities(lacking))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_where_anything_helps() {
        for (error, said) in [
            (
                KvmError::Permission,
                "no permission to open /dev/kvm: join its group \
                 (`sudo usermod -aG kvm $USER`), then log in anew",
            ),
            (
                KvmError::Capabilities(vec!["KVM_CAP_IRQFD", "KVM_CAP_IOEVENTFD"]),
                "the host's KVM lacks KVM_CAP_IRQFD, KVM_CAP_IOEVENTFD: use a newer kernel",
            ),
            (
                KvmError::ApiVersion(11),
                "/dev/kvm speaks API version 11, not 12: use a newer kernel",
            ),
            (
                KvmError::Ioctl {
                    call: "KVM_GET_SUPPORTED_CPUID",
                    source: kvm_ioctls::Error::new(libc::E2BIG),
                },
                "KVM_GET_SUPPORTED_CPUID failed on /dev/kvm: Argument list too long (os error 7)",
            ),
        ] {
            assert_eq!(error.to_string(), said);
        }
    }
}
