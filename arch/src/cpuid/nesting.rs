//! Shows the guest VMX or SVM, or neither.

use super::{Cpuid, CpuidContext, Error, feature::*};
use crate::nested::{Exposure, Extension, SVM_LEAF};

pub(super) fn apply(cpuid: &mut Cpuid, context: &CpuidContext) -> Result<(), Error> {
    let shown = shown(context.exposure);
    if let Some(feature) = shown.filter(|feature| !cpuid.has(*feature)) {
        return Err(Error::NotSupported { feature });
    }
    for feature in hidden(context.exposure) {
        cpuid.clear(*feature);
    }
    if context.exposure != Exposure::Svm {
        cpuid.remove_leaf(SVM_LEAF);
    }
    Ok(())
}

/// The bit that an exposure shows.
pub(super) fn shown(exposure: Exposure) -> Option<Feature> {
    exposure.extension().map(Extension::feature)
}

/// The bits that an exposure hides. A guest that cannot run one of its own
/// has no use for KVM's page faults as nested exits, and would be told by them
/// that its host can nest.
pub(super) fn hidden(exposure: Exposure) -> &'static [Feature] {
    match exposure {
        Exposure::Off => &[VMX, SVM, KVM_ASYNC_PF_VMEXIT],
        Exposure::Vmx => &[SVM],
        Exposure::Svm => &[VMX],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Registers, dumps};
    use super::*;

    fn context(exposure: Exposure) -> CpuidContext {
        CpuidContext {
            vcpu: 0,
            vcpus: 1,
            exposure,
            tsc_deadline: true,
        }
    }

    #[test]
    fn each_exposure_shows_its_extension() {
        // Leaf 1 ECX, leaf 0x80000001 ECX, leaf 0x8000000A EDX.
        let cases = [
            ("intel-skylake-sp", Exposure::Vmx, [0x76FA_B223, 0x121, 0]),
            ("intel-skylake-sp", Exposure::Off, [0x76FA_B203, 0x121, 0]),
            (
                "intel-skylake-sp-nested-off",
                Exposure::Off,
                [0x76FA_B203, 0x121, 0],
            ),
            (
                "amd-milan",
                Exposure::Svm,
                [0x76FA_3203, 0x00C0_03F7, 0x1001_947B],
            ),
            ("amd-milan", Exposure::Off, [0x76FA_3203, 0x00C0_03F3, 0]),
            (
                "amd-milan-nested-off",
                Exposure::Off,
                [0x76FA_3203, 0x00C0_03F3, 0],
            ),
        ];
        for (name, exposure, expected) in cases {
            let mut cpuid = dumps::named(name).facts.supported;
            apply(&mut cpuid, &context(exposure)).unwrap();
            let seen = [
                cpuid.get(0x1, 0).ecx,
                cpuid.get(0x8000_0001, 0).ecx,
                cpuid.get(0x8000_000A, 0).edx,
            ];
            assert_eq!(seen, expected, "{name} {exposure}");
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
