//! What a host lacks that a template asks for.

use std::fmt;

use super::{catalogue, msrs};
use crate::cpuid::{Key, Register, feature, names};

/// One thing that a host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A bit of CPUID.
    Bit {
        /// The answer.
        key: Key,
        /// The register.
        register: Register,
        /// The bit, 0 to 31.
        bit: u32,
    },
    /// A register of CPUID whose value only makes sense as a whole, or that
    /// counts what there is.
    Value {
        /// The answer.
        key: Key,
        /// The register.
        register: Register,
        /// What the template asks for.
        wanted: u32,
        /// What the host has.
        host: u32,
    },
    /// A bit of an MSR.
    MsrBit {
        /// The MSR.
        msr: u32,
        /// The bit, 0 to 63.
        bit: u32,
    },
    /// A whole MSR.
    Msr(u32),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bit { key, register, bit } => f.write_str(&names::describe(key, register, bit)),
            Self::Value {
                key,
                register,
                wanted,
                host,
            } => {
                let place = feature::register_name(key, register);
                write!(f, "{place} = {wanted:#x} (it has {host:#x})")
            }
            Self::MsrBit { msr, bit } => f.write_str(&msrs::describe(msr, bit)),
            Self::Msr(msr) => f.write_str(&msrs::name(msr)),
        }
    }
}

/// The lacks of a register of the given kind: what is in `wanted` and can't be
/// seen on a host that has `host`.
pub(super) fn of_register(
    key: Key,
    register: Register,
    kind: catalogue::Kind,
    wanted: u32,
    host: u32,
) -> Vec<Lack> {
    use catalogue::Kind::{Counts, Derived, Features, Identity, Level, Name, State, Whole};
    let whole = |lacks: bool| {
        let lack = Lack::Value {
            key,
            register,
            wanted,
            host,
        };
        lacks.then_some(lack).into_iter().collect()
    };
    match kind {
        Features => {
            let bits = wanted & !host & !catalogue::limits(key, register);
            (0..32)
                .filter(|bit| bits & 1 << bit != 0)
                .map(|bit| Lack::Bit { key, register, bit })
                .collect()
        }
        Counts => {
            let mut bytes = wanted.to_le_bytes().into_iter().zip(host.to_le_bytes());
            whole(bytes.any(|(wanted, host)| wanted > host))
        }
        // Where it isn't shown, nobody looks for its place.
        Whole | State => whole(wanted != host && wanted != 0),
        Level | Identity | Derived | Name => Vec::new(),
    }
}

/// The lacks of an MSR.
pub(super) fn of_msr(msr: u32, kind: msrs::Kind, wanted: u64, host: u64) -> Vec<Lack> {
    let bits = kind.excess(wanted, host);
    (0..64)
        .filter(|bit| bits & 1 << bit != 0)
        .map(|bit| Lack::MsrBit { msr, bit })
        .collect()
}
