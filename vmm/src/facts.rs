//! What the monitor finds out about its host before it decides anything.

use std::path::Path;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm};
use nestling_arch::cpuid::{Cpuid, Registers, Vendor, feature};
use nestling_arch::msr::MsrSet;
use nestling_arch::nested::{CAPABILITY_MSRS, HostFacts, VmxCapabilities};
use nestling_arch::template;

use crate::kvm::{self, KvmError};
use crate::sysfs;

/// Gathers what the exposure policy needs to know.
pub fn gather(kvm: &Kvm) -> Result<HostFacts, KvmError> {
    let supported = kvm::supported_cpuid(kvm)?;
    let vendor = Vendor::of(&supported);
    let module = Path::new("/sys/module").join(module_name(vendor));
    Ok(HostFacts {
        processor: processor_has_extension(vendor),
        module: module.exists(),
        nested_parameter: sysfs::switch(&module.join("parameters/nested")),
        nested_state: u32::try_from(kvm.check_extension_int(Cap::NestedState)).unwrap_or(0),
        vmx: if vendor == Vendor::Intel {
            vmx_capabilities(kvm)
        } else {
            VmxCapabilities::default()
        },
        msrs: feature_msrs(kvm, |msr| {
            !CAPABILITY_MSRS.contains(&msr) && template::feature_msrs().any(|known| known == msr)
        }),
        supported,
    })
}

/// The name of the kernel module that drives the vendor's extension.
pub fn module_name(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Amd => "kvm_amd",
        Vendor::Intel | Vendor::Other => "kvm_intel",
    }
}

/// How many bits of physical address the guest's processor has (CPUID leaf
/// 0x80000008, EAX 7:0); 36 where the leaf isn't there.
pub fn physical_address_bits(supported: &Cpuid) -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    match supported.get(ADDRESS_SIZES, 0).eax.to_le_bytes()[0] {
        0 => 36,
        bits => bits,
    }
}

fn processor_has_extension(vendor: Vendor) -> bool {
    let extension = match vendor {
        Vendor::Intel => feature::VMX,
        Vendor::Amd => feature::SVM,
        Vendor::Other => return false,
    };
    let raw = std::arch::x86_64::__cpuid(extension.leaf);
    let registers = Registers {
        eax: raw.eax,
        ebx: raw.ebx,
        ecx: raw.ecx,
        edx: raw.edx,
    };
    let mut own = Cpuid::default();
    own.insert(extension.leaf, None, registers);
    own.has(extension)
}

/// The VMX capabilities that KVM can show, as far as it tells (KVM API, 4.45).
fn vmx_capabilities(kvm: &Kvm) -> VmxCapabilities {
    let msrs = feature_msrs(kvm, |msr| CAPABILITY_MSRS.contains(&msr));
    msrs.iter().collect()
}

/// The feature MSRs that are `wanted`, as far as KVM tells.
fn feature_msrs(kvm: &Kvm, wanted: impl Fn(u32) -> bool) -> MsrSet {
    let Ok(list) = kvm.get_msr_feature_index_list() else {
        return MsrSet::default();
    };
    list.as_slice()
        .iter()
        .filter(|index| wanted(**index))
        .filter_map(|&index| {
            let entry = kvm_msr_entry {
                index,
                ..Default::default()
            };
            let mut msrs = Msrs::from_entries(&[entry]).ok()?;
            (kvm.get_msrs(&mut msrs).ok()? == 1).then(|| (index, msrs.as_slice()[0].data))
        })
        .collect()
}
