//! Whose processor it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Cpuid;

/// The processor's vendor, from CPUID leaf 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// `GenuineIntel`: VMX.
    Intel,
    /// `AuthenticAMD`, and `HygonGenuine`, which is AMD's Zen: SVM.
    Amd,
    /// Any other.
    Other,
}

impl Vendor {
    /// The vendor of this set.
    pub fn of(cpuid: &Cpuid) -> Self {
        let leaf0 = cpuid.get(0, 0);
        let mut name = [0; 12];
        for (part, value) in name
            .chunks_exact_mut(4)
            .zip([leaf0.ebx, leaf0.edx, leaf0.ecx])
        {
            part.copy_from_slice(&value.to_le_bytes());
        }
        match &name {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Self::Amd,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intel => "Intel",
            Self::Amd => "AMD",
            Self::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registers;
    use super::*;

    #[test]
    fn vendors_by_their_signature() {
        let cases = [
            (b"GenuineIntel", Vendor::Intel),
            (b"AuthenticAMD", Vendor::Amd),
            (b"HygonGenuine", Vendor::Amd),
            (b"CentaurHauls", Vendor::Other),
        ];
        for (name, vendor) in cases {
            let at = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
            let mut cpuid = Cpuid::default();
            cpuid.insert(
                0,
                None,
                Registers {
                    eax: 1,
                    ebx: at(0),
                    edx: at(4),
                    ecx: at(8),
                },
            );
            assert_eq!(Vendor::of(&cpuid), vendor);
        }
        assert_eq!(Vendor::of(&Cpuid::default()), Vendor::Other);
    }
}
