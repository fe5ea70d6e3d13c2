//! Holds a finished CPUID against the host and the request.

use super::{Cpuid, CpuidContext, Error, Register, Vendor, feature::*, nesting};
use crate::nested::{Exposure, SVM_LEAF};

pub(super) fn verify(
    cpuid: &Cpuid,
    supported: &Cpuid,
    context: &CpuidContext,
) -> Result<(), Error> {
    expect(cpuid, HYPERVISOR, true)?;
    expect(cpuid, X2APIC, true)?;
    expect(cpuid, TSC_DEADLINE, context.tsc_deadline)?;
    exposure(cpuid, context.exposure)?;
    apic_ids(cpuid, context.vcpu)?;
    within_host(cpuid, supported)
}

fn expect(cpuid: &Cpuid, feature: Feature, expected: bool) -> Result<(), Error> {
    if cpuid.has(feature) == expected {
        Ok(())
    } else {
        Err(Error::WrongFeature { feature, expected })
    }
}

/// The guest sees its extension, and of the other nothing on any answer.
fn exposure(cpuid: &Cpuid, exposure: Exposure) -> Result<(), Error> {
    if let Some(feature) = nesting::shown(exposure) {
        expect(cpuid, feature, true)?;
    }
    for &feature in nesting::hidden(exposure) {
        let mut answers = cpuid.iter().filter(|((leaf, _), _)| *leaf == feature.leaf);
        if answers.any(|(_, registers)| registers.get(feature.register) & feature.mask() != 0) {
            return Err(Error::WrongFeature {
                feature,
                expected: false,
            });
        }
    }
    if exposure != Exposure::Svm && cpuid.has_leaf(SVM_LEAF) {
        return Err(Error::NotEmpty { leaf: SVM_LEAF });
    }
    Ok(())
}

/// Every leaf that has the APIC id has the same.
fn apic_ids(cpuid: &Cpuid, expected: u32) -> Result<(), Error> {
    let id = |leaf, found| {
        if found == expected {
            Ok(())
        } else {
            Err(Error::WrongApicId {
                leaf,
                expected,
                found,
            })
        }
    };
    for ((leaf, _), registers) in cpuid.iter() {
        match leaf {
            0x1 => id(leaf, registers.ebx >> 24)?,
            0xB => id(leaf, registers.edx)?,
            0x8000_001E => id(leaf, registers.eax)?,
            _ => {}
        }
    }
    Ok(())
}

/// No bit is set that KVM does not list, save what the passes are there to
/// fill in.
fn within_host(cpuid: &Cpuid, supported: &Cpuid) -> Result<(), Error> {
    let amd = Vendor::of(cpuid) == Vendor::Amd;
    for ((leaf, subleaf), registers) in cpuid.iter() {
        let host = supported.get(leaf, subleaf.unwrap_or(0));
        for register in [Register::Eax, Register::Ebx, Register::Ecx, Register::Edx] {
            let allowed = host.get(register) | filled_in(leaf, register, amd);
            let bits = registers.get(register) & !allowed;
            if bits != 0 {
                return Err(Error::NotOnHost {
                    leaf,
                    subleaf,
                    register,
                    bits,
                });
            }
        }
    }
    Ok(())
}

/// The bits of a register that are the machine's own and not the host's.
fn filled_in(leaf: u32, register: Register, amd: bool) -> u32 {
    use Register::{Eax, Ebx, Ecx, Edx};
    match (leaf, register) {
        (0x1, Ebx) => 0xFFFF_0000,
        (0x1, Ecx) => HYPERVISOR.mask() | X2APIC.mask() | TSC_DEADLINE.mask(),
        (0x1, Edx) => HTT.mask(),
        (0x4, Eax) => 0xFFFF_C000,
        (0xB, _) => u32::MAX,
        (0x8000_0001, Ecx) if amd => CMP_LEGACY.mask(),
        (0x8000_0008, Ecx) if amd => 0xFFFF,
        (0x8000_001D, Eax) => 0x03FF_C000,
        (0x8000_001E, Eax | Ebx) if amd => u32::MAX,
        _ => 0,
    }
}
