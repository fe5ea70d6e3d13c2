//! Shows the guest VMX or SVM, or neither.

use super::{Cpuid, CpuidContext, Error, feature::*};
use crate::nested::{Exposure, Extension, SVM_LEAF};

pub(super) fn apply(cpuid: &mut Cpuid, context: &CpuidContext) -> Result<(), Error> {
    let shown = shown(&context.exposure);
    if let Some(feature) = shown.filter(|feature| !cpuid.has(*feature)) {
        return Err(Error::NotSupported { feature });
    }
    for feature in hidden(&context.exposure) {
        cpuid.clear(*feature);
    }
    match &context.exposure {
        Exposure::Svm(capabilities) => {
            for (_, registers) in cpuid.leaf_mut(SVM_LEAF) {
                registers.ebx = registers.ebx.min(capabilities.asids);
                registers.edx &= capabilities.features.bits();
            }
        }
        Exposure::Vmx(_) | Exposure::Off => cpuid.remove_leaf(SVM_LEAF),
    }
    Ok(())
}

/// The bit that an exposure shows.
pub(super) fn shown(exposure: &Exposure) -> Option<Feature> {
    exposure.extension().map(Extension::feature)
}

/// The bits that an exposure hides. A guest that cannot run one of its own
/// has no use for KVM's page faults as nested exits, and would be told by them
/// that its host can nest.
pub(super) fn hidden(exposure: &Exposure) -> &'static [Feature] {
    match exposure {
        Exposure::Off => &[VMX, SVM, KVM_ASYNC_PF_VMEXIT],
        Exposure::Vmx(_) => &[SVM],
        Exposure::Svm(_) => &[VMX],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Registers, dumps};
    use super::*;
    use crate::nested::resolve;

    fn context(exposure: Exposure) -> CpuidContext {
        CpuidContext {
            vcpu: 0,
            vcpus: 1,
            exposure,
            tsc_deadline: true,
        }
    }

    #[test]
    fn each_request_shows_what_it_asks_for() {
        // Leaf 1 ECX, leaf 0x80000001 ECX, leaf 0x8000000A EBX and EDX.
        let cases = [
            ("intel-skylake-sp", "vmx", [0x76FA_B223, 0x121, 0, 0]),
            ("intel-skylake-sp", "vmx,-ept", [0x76FA_B223, 0x121, 0, 0]),
            ("intel-skylake-sp", "off", [0x76FA_B203, 0x121, 0, 0]),
            (
                "intel-skylake-sp-nested-off",
                "auto",
                [0x76FA_B203, 0x121, 0, 0],
            ),
            (
                "amd-milan",
                "svm",
                [0x76FA_3203, 0x00C0_03F7, 8, 0x1001_947B],
            ),
            (
                "amd-milan",
                "svm,-npt,-nrips,asids=3",
                [0x76FA_3203, 0x00C0_03F7, 3, 0x1001_1472],
            ),
            ("amd-milan", "off", [0x76FA_3203, 0x00C0_03F3, 0, 0]),
            (
                "amd-milan-nested-off",
                "auto",
                [0x76FA_3203, 0x00C0_03F3, 0, 0],
            ),
        ];
        for (name, request, expected) in cases {
            let facts = dumps::named(name).facts;
            let exposure = resolve(&request.parse().unwrap(), &facts).unwrap();
            let mut cpuid = facts.supported;
            apply(&mut cpuid, &context(exposure)).unwrap();
            let seen = [
                cpuid.get(0x1, 0).ecx,
                cpuid.get(0x8000_0001, 0).ecx,
                cpuid.get(0x8000_000A, 0).ebx,
                cpuid.get(0x8000_000A, 0).edx,
            ];
            assert_eq!(seen, expected, "{name} {request}");
        }
    }

    #[test]
    fn off_reaches_every_answer_of_a_leaf() {
        let mut cpuid = dumps::named("amd-milan").facts.supported;
        let svm = Registers {
            ecx: SVM.mask(),
            ..Registers::ZERO
        };
        for subleaf in 0..4 {
            cpuid.insert(SVM.leaf, Some(subleaf), svm);
            cpuid.insert(SVM_LEAF, Some(subleaf), svm);
        }
        apply(&mut cpuid, &context(Exposure::Off)).unwrap();
        for subleaf in 0..4 {
            assert_eq!(cpuid.get(SVM.leaf, subleaf), Registers::ZERO);
            assert_eq!(cpuid.get(SVM_LEAF, subleaf), Registers::ZERO);
        }
    }
}
