//! Shows the guest VMX or SVM, or neither.

use super::{Cpuid, CpuidContext, Error, feature::*};
use crate::nested::{Exposure, SVM_LEAF};

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
    match exposure {
        Exposure::Off => None,
        Exposure::Vmx => Some(VMX),
        Exposure::Svm => Some(SVM),
    }
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
