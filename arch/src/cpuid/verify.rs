//! Holds a finished CPUID against the host and the request.

use super::{Cpuid, CpuidContext, Error, Register, Vendor, feature::*, nesting};
use crate::nested::{Exposure, SVM_LEAF, SvmCapabilities};

pub(super) fn verify(
    cpuid: &Cpuid,
    supported: &Cpuid,
    context: &CpuidContext,
) -> Result<(), Error> {
    expect(cpuid, HYPERVISOR, true)?;
    expect(cpuid, X2APIC, true)?;
    expect(cpuid, TSC_DEADLINE, context.tsc_deadline)?;
    exposure(cpuid, &context.exposure)?;
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

/// The guest sees of its extension what it is shown, and of the other nothing
/// on any answer.
fn exposure(cpuid: &Cpuid, exposure: &Exposure) -> Result<(), Error> {
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
    match exposure {
        Exposure::Svm(expected) if *expected != SvmCapabilities::of(cpuid) => {
            Err(Error::WrongCapabilities {
                expected: *expected,
                found: SvmCapabilities::of(cpuid),
            })
        }
        Exposure::Vmx(_) | Exposure::Off if cpuid.has_leaf(SVM_LEAF) => {
            Err(Error::NotEmpty { leaf: SVM_LEAF })
        }
        _ => Ok(()),
    }
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

impl Cpuid {
    /// Holds what KVM keeps of this set against it, but for what KVM itself
    /// brings up to date with the vCPU's state.
    ///
    /// # Errors
    /// The first register that differs.
    pub fn verify_kept(&self, kept: &Self) -> Result<(), Error> {
        let places = self.iter().chain(kept.iter()).map(|(key, _)| key);
        for (leaf, subleaf) in places {
            let index = subleaf.unwrap_or(0);
            let (set, found) = (self.get(leaf, index), kept.get(leaf, index));
            for register in Register::ALL {
                let compared = !of_the_state(leaf, index, register);
                let (expected, found) = (set.get(register), found.get(register));
                if (expected ^ found) & compared != 0 {
                    return Err(Error::NotKept {
                        leaf,
                        subleaf,
                        register,
                        expected,
                        found,
                    });
                }
            }
        }
        Ok(())
    }
}

/// The bits that KVM changes with the vCPU's state.
fn of_the_state(leaf: u32, subleaf: u32, register: Register) -> u32 {
    match (leaf, subleaf, register) {
        (0x1, _, Register::Ecx) => OSXSAVE.mask() | MONITOR.mask(),
        // The local APIC is enabled.
        (0x1, _, Register::Edx) => 1 << 9,
        (0x7, 0, Register::Ecx) => OSPKE.mask(),
        // Sizes for the states that are enabled.
        (0xD, 0 | 1, Register::Ebx) => u32::MAX,
        _ => 0,
    }
}

/// No bit is set that KVM does not list, save what the passes are there to
/// fill in.
fn within_host(cpuid: &Cpuid, supported: &Cpuid) -> Result<(), Error> {
    let amd = Vendor::of(cpuid) == Vendor::Amd;
    for ((leaf, subleaf), registers) in cpuid.iter() {
        let host = supported.get(leaf, subleaf.unwrap_or(0));
        for register in Register::ALL {
            let allowed = host.get(register) | filled_in(leaf, register, amd);
            let bits = beyond(leaf, register, registers.get(register), allowed);
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

/// What a register has beyond what it may have.
fn beyond(leaf: u32, register: Register, value: u32, allowed: u32) -> u32 {
    match (leaf, register) {
        // How many address space identifiers there are, not bits.
        (SVM_LEAF, Register::Ebx) if value <= allowed => 0,
        _ => value & !allowed,
    }
}

/// The bits of a register that are the machine's own and not the host's.
pub(crate) fn filled_in(leaf: u32, register: Register, amd: bool) -> u32 {
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

#[cfg(test)]
mod tests {
    use super::super::{Registers, dumps, guest_cpuid};
    use super::*;
    use crate::nested::{SvmFeatures, resolve};

    /// A sound result for a host that nests, its host, and the context.
    fn sound(name: &str, request: &str) -> (Cpuid, Cpuid, CpuidContext) {
        let facts = dumps::named(name).facts;
        let exposure = resolve(&request.parse().unwrap(), &facts).unwrap();
        let supported = facts.supported;
        let context = CpuidContext {
            vcpu: 1,
            vcpus: 2,
            exposure,
            tsc_deadline: true,
        };
        (
            guest_cpuid(&supported, &context).unwrap(),
            supported,
            context,
        )
    }

    #[test]
    fn a_wrong_bit_is_found() {
        for (name, shown) in [("intel-skylake-sp", VMX), ("amd-milan", SVM)] {
            for feature in [HYPERVISOR, X2APIC, TSC_DEADLINE, shown] {
                let (mut cpuid, supported, context) = sound(name, "on");
                cpuid.clear(feature);
                let error = Error::WrongFeature {
                    feature,
                    expected: true,
                };
                assert_eq!(verify(&cpuid, &supported, &context), Err(error), "{name}");
            }
            for &feature in nesting::hidden(&Exposure::Off) {
                let (mut cpuid, supported, context) = sound(name, "off");
                cpuid.set(feature);
                let error = Error::WrongFeature {
                    feature,
                    expected: false,
                };
                assert_eq!(verify(&cpuid, &supported, &context), Err(error), "{name}");
            }
            let (mut cpuid, supported, context) = sound(name, "off");
            cpuid.insert(SVM_LEAF, None, Registers::ZERO);
            let error = Error::NotEmpty { leaf: SVM_LEAF };
            assert_eq!(verify(&cpuid, &supported, &context), Err(error), "{name}");
        }
    }

    #[test]
    fn fewer_address_space_identifiers_pass_and_more_do_not() {
        for asids in 2..=8 {
            sound("amd-milan", &format!("svm,asids={asids}"));
        }
        let (mut cpuid, supported, mut context) = sound("amd-milan", "svm");
        cpuid.get_mut(SVM_LEAF, None).unwrap().ebx = 9;
        context.exposure = Exposure::Svm(SvmCapabilities::of(&cpuid));
        let error = Error::NotOnHost {
            leaf: SVM_LEAF,
            subleaf: None,
            register: Register::Ebx,
            bits: 1,
        };
        assert_eq!(verify(&cpuid, &supported, &context), Err(error));
    }

    #[test]
    fn another_exposure_of_svm_is_found() {
        let (mut cpuid, supported, context) = sound("amd-milan", "svm,-npt");
        let Exposure::Svm(expected) = context.exposure else {
            panic!("the host has SVM");
        };
        cpuid.get_mut(SVM_LEAF, None).unwrap().edx |= SvmFeatures::NP.bits();
        let found = SvmCapabilities::of(&cpuid);
        let error = Error::WrongCapabilities { expected, found };
        assert_eq!(verify(&cpuid, &supported, &context), Err(error));
    }

    #[test]
    fn a_wrong_apic_id_is_found() {
        let cases = [
            ("intel-skylake-sp", 0x1, None, Register::Ebx),
            ("intel-skylake-sp", 0xB, Some(1), Register::Edx),
            ("amd-epyc-pvm", 0x1, None, Register::Ebx),
            ("amd-epyc-pvm", 0xB, Some(0), Register::Edx),
            ("amd-epyc-pvm", 0x8000_001E, None, Register::Eax),
        ];
        for (name, leaf, subleaf, register) in cases {
            let (mut cpuid, supported, context) = sound(name, "off");
            *cpuid.get_mut(leaf, subleaf).unwrap().get_mut(register) = 0;
            let error = Error::WrongApicId {
                leaf,
                expected: 1,
                found: 0,
            };
            assert_eq!(
                verify(&cpuid, &supported, &context),
                Err(error),
                "{name} {leaf:#x}"
            );
        }
    }

    #[test]
    fn what_kvm_keeps_is_compared() {
        let (set, _, _) = sound("intel-skylake-sp", "on");
        let mut kept = set.clone();
        kept.set(OSXSAVE);
        kept.get_mut(0xD, Some(0)).unwrap().ebx = 576;
        assert_eq!(set.verify_kept(&kept), Ok(()));
        let changed = |leaf, subleaf, expected, found| Error::NotKept {
            leaf,
            subleaf,
            register: Register::Eax,
            expected,
            found,
        };
        kept.get_mut(0x1, None).unwrap().eax = 7;
        assert_eq!(
            set.verify_kept(&kept),
            Err(changed(0x1, None, 0x0005_0654, 7))
        );
        let mut more = set.clone();
        let zmm = Registers {
            eax: 1,
            ..Registers::ZERO
        };
        more.insert(0x1E, Some(0), zmm);
        assert_eq!(set.verify_kept(&more), Err(changed(0x1E, Some(0), 0, 1)));
        assert_eq!(more.verify_kept(&set), Err(changed(0x1E, Some(0), 1, 0)));
    }

    #[test]
    fn what_the_host_lacks_is_found() {
        let cases = [
            // SMX, LA57, and a whole leaf.
            ("intel-skylake-sp", 0x1, None, Register::Ecx, 1 << 6),
            ("intel-skylake-sp", 0x7, Some(0), Register::Ecx, 1 << 16),
            ("intel-skylake-sp", 0x8000_0001, None, Register::Ecx, 1 << 1),
            ("amd-milan", 0x8000_0001, None, Register::Ecx, 1 << 12),
            ("amd-milan", 0x8000_0021, None, Register::Eax, 1 << 31),
        ];
        for (name, leaf, subleaf, register, bits) in cases {
            let (mut cpuid, supported, context) = sound(name, "off");
            *cpuid.get_mut(leaf, subleaf).unwrap().get_mut(register) |= bits;
            let error = Error::NotOnHost {
                leaf,
                subleaf,
                register,
                bits,
            };
            assert_eq!(
                verify(&cpuid, &supported, &context),
                Err(error),
                "{name} {leaf:#x}"
            );
        }
    }
}
