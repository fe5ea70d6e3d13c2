//! A set of CPUID answers, ordered by leaf and subleaf.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use super::{Error, Feature, Register};

/// Most entries that KVM_SET_CPUID2 takes (KVM_MAX_CPUID_ENTRIES in the
/// kernel's asm/kvm_host.h). A buffer for KVM_GET_SUPPORTED_CPUID needs no more.
pub const MAX_ENTRIES: usize = 256;

/// What CPUID answers for one leaf and subleaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl Registers {
    /// An answer of nothing, as for a leaf that does not exist.
    pub const ZERO: Self = Self {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };

    /// The register's value.
    pub const fn get(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }

    /// The register, to be changed.
    pub const fn get_mut(&mut self, register: Register) -> &mut u32 {
        match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        }
    }
}

/// Where an answer stands: the leaf, and the subleaf if the leaf has any
/// (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
pub type Key = (u32, Option<u32>);

/// A set of CPUID answers, ordered by leaf and subleaf.
///
/// A leaf has either one answer or one for each subleaf, never both. What is
/// not in the set reads as zeros, as KVM has it for leaves in range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpuid {
    entries: BTreeMap<Key, Registers>,
}

impl Cpuid {
    /// The set that a list of KVM's holds, as from KVM_GET_SUPPORTED_CPUID.
    ///
    /// # Errors
    /// When the list answers the same leaf and subleaf twice.
    pub fn from_entries(list: &[kvm_cpuid_entry2]) -> Result<Self, Error> {
        let mut cpuid = Self::default();
        for entry in list {
            let indexed = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
            let registers = Registers {
                eax: entry.eax,
                ebx: entry.ebx,
                ecx: entry.ecx,
                edx: entry.edx,
            };
            cpuid.insert_new((entry.function, indexed.then_some(entry.index)), registers)?;
        }
        Ok(cpuid)
    }

    /// The set as a list for KVM_SET_CPUID2.
    ///
    /// # Errors
    /// When the list is longer than KVM takes ([`MAX_ENTRIES`]).
    pub fn to_entries(&self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(Error::TooManyEntries {
                count: self.entries.len(),
            });
        }
        let entry = |((leaf, subleaf), registers): (Key, Registers)| kvm_cpuid_entry2 {
            function: leaf,
            index: subleaf.unwrap_or(0),
            flags: subleaf.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
            eax: registers.eax,
            ebx: registers.ebx,
            ecx: registers.ecx,
            edx: registers.edx,
            ..Default::default()
        };
        Ok(self.iter().map(entry).collect())
    }

    /// What the processor answers to `leaf` in EAX and `subleaf` in ECX.
    pub fn get(&self, leaf: u32, subleaf: u32) -> Registers {
        let plain = self.entries.get(&(leaf, None));
        plain
            .or_else(|| self.entries.get(&(leaf, Some(subleaf))))
            .copied()
            .unwrap_or_default()
    }

    /// The answer at exactly this place, to be changed.
    pub fn get_mut(&mut self, leaf: u32, subleaf: Option<u32>) -> Option<&mut Registers> {
        self.entries.get_mut(&(leaf, subleaf))
    }

    /// All answers of one leaf, by subleaf, to be changed.
    pub fn leaf_mut(
        &mut self,
        leaf: u32,
    ) -> impl Iterator<Item = (Option<u32>, &mut Registers)> + '_ {
        self.entries
            .range_mut((leaf, None)..=(leaf, Some(u32::MAX)))
            .map(|(key, registers)| (key.1, registers))
    }

    /// Whether any answer of the leaf is there.
    pub fn has_leaf(&self, leaf: u32) -> bool {
        self.entries
            .range((leaf, None)..=(leaf, Some(u32::MAX)))
            .next()
            .is_some()
    }

    /// The leaves of a range that have any answer.
    pub fn leaves(&self, range: RangeInclusive<u32>) -> BTreeSet<u32> {
        let (first, last) = range.into_inner();
        self.entries
            .range((first, None)..=(last, Some(u32::MAX)))
            .map(|(key, _)| key.0)
            .collect()
    }

    /// Puts an answer in place of what stood there. An answer without subleaf
    /// takes the place of the whole leaf, and the other way round.
    pub fn insert(&mut self, leaf: u32, subleaf: Option<u32>, registers: Registers) {
        match subleaf {
            None => self.remove_leaf(leaf),
            Some(_) => drop(self.entries.remove(&(leaf, None))),
        }
        self.entries.insert((leaf, subleaf), registers);
    }

    /// Takes all answers of a leaf out.
    pub fn remove_leaf(&mut self, leaf: u32) {
        self.entries.retain(|key, _| key.0 != leaf);
    }

    /// Takes out what says nothing: an absent answer reads as the same zeros,
    /// and KVM walks the list on every CPUID exit.
    pub fn remove_zeros(&mut self) {
        self.entries
            .retain(|_, registers| *registers != Registers::ZERO);
    }

    /// Whether the feature's bit is set.
    pub fn has(&self, feature: Feature) -> bool {
        let registers = self.get(feature.leaf, feature.subleaf.unwrap_or(0));
        registers.get(feature.register) & feature.mask() != 0
    }

    /// Sets the feature's bit. A leaf that is not there comes to be.
    pub fn set(&mut self, feature: Feature) {
        let Feature {
            leaf,
            subleaf,
            register,
            ..
        } = feature;
        let mut registers = self.get(leaf, subleaf.unwrap_or(0));
        *registers.get_mut(register) |= feature.mask();
        self.insert(leaf, subleaf, registers);
    }

    /// Clears the feature's bit: on every answer of the leaf, if the feature
    /// belongs to no subleaf.
    pub fn clear(&mut self, feature: Feature) {
        for (subleaf, registers) in self.leaf_mut(feature.leaf) {
            if feature.subleaf.is_none() || subleaf.is_none() || subleaf == feature.subleaf {
                *registers.get_mut(feature.register) &= !feature.mask();
            }
        }
    }

    /// Sets or clears the feature's bit.
    pub fn assign(&mut self, feature: Feature, on: bool) {
        if on {
            self.set(feature)
        } else {
            self.clear(feature)
        }
    }

    /// All answers in order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Registers)> + '_ {
        self.entries
            .iter()
            .map(|(key, registers)| (*key, *registers))
    }

    /// Inserts where nothing may stand yet.
    pub(super) fn insert_new(&mut self, key: Key, registers: Registers) -> Result<(), Error> {
        let (leaf, subleaf) = key;
        let taken = match subleaf {
            None => self.has_leaf(leaf),
            Some(_) => self.entries.contains_key(&(leaf, None)) || self.entries.contains_key(&key),
        };
        if taken {
            return Err(Error::Duplicate { leaf, subleaf });
        }
        self.entries.insert(key, registers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::feature::*;
    use super::*;

    fn entry(function: u32, index: u32, flags: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            flags,
            eax: 1,
            ebx: 2,
            ecx: 3,
            edx: 4,
            ..Default::default()
        }
    }

    #[test]
    fn an_index_counts_only_where_the_flag_says_so() {
        let cpuid = Cpuid::from_entries(&[entry(1, 7, 0), entry(7, 0, 1), entry(7, 1, 1)]).unwrap();
        let keys: Vec<Key> = cpuid.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [(1, None), (7, Some(0)), (7, Some(1))]);
        let answer = Registers {
            eax: 1,
            ebx: 2,
            ecx: 3,
            edx: 4,
        };
        // A leaf without subleaves answers alike to any ECX.
        assert_eq!([cpuid.get(1, 0), cpuid.get(1, 9)], [answer; 2]);
        assert_eq!(
            [cpuid.get(7, 1), cpuid.get(7, 2)],
            [answer, Registers::ZERO]
        );
    }

    #[test]
    fn two_answers_to_one_question_are_refused() {
        let cases = [
            ([entry(1, 0, 0), entry(1, 1, 0)], 1, None),
            ([entry(7, 1, 1), entry(7, 1, 1)], 7, Some(1)),
            ([entry(7, 0, 0), entry(7, 1, 1)], 7, Some(1)),
            ([entry(7, 1, 1), entry(7, 0, 0)], 7, None),
        ];
        for (list, leaf, subleaf) in cases {
            assert_eq!(
                Cpuid::from_entries(&list),
                Err(Error::Duplicate { leaf, subleaf })
            );
        }
    }

    #[test]
    fn a_list_is_as_long_as_kvm_takes() {
        let mut cpuid = Cpuid::default();
        for subleaf in 0..256 {
            cpuid.insert(4, Some(subleaf), Registers::ZERO);
        }
        assert_eq!(cpuid.to_entries().unwrap().len(), MAX_ENTRIES);
        cpuid.insert(1, None, Registers::ZERO);
        assert_eq!(
            cpuid.to_entries(),
            Err(Error::TooManyEntries { count: 257 })
        );
    }

    #[test]
    fn a_leaf_has_one_answer_or_one_a_subleaf() {
        let mut cpuid = Cpuid::default();
        cpuid.insert(7, Some(0), Registers::ZERO);
        cpuid.insert(7, Some(1), Registers::ZERO);
        cpuid.insert(8, Some(0), Registers::ZERO);
        cpuid.insert(7, None, Registers::ZERO);
        let keys = |cpuid: &Cpuid| cpuid.iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(&cpuid), [(7, None), (8, Some(0))]);
        cpuid.insert(7, Some(2), Registers::ZERO);
        assert_eq!(keys(&cpuid), [(7, Some(2)), (8, Some(0))]);
    }

    #[test]
    fn a_feature_is_one_bit() {
        let mut cpuid = Cpuid::default();
        for feature in [VMX, SVM, SGX, XTILEDATA, HTT] {
            assert!(!cpuid.has(feature), "{feature}");
            cpuid.set(feature);
            assert!(cpuid.has(feature), "{feature}");
        }
        assert_eq!(
            cpuid.get(0x1, 0),
            Registers {
                ecx: 1 << 5,
                edx: 1 << 28,
                ..Registers::ZERO
            }
        );
        assert_eq!(
            cpuid.get(0x7, 0),
            Registers {
                ebx: 1 << 2,
                ..Registers::ZERO
            }
        );
        cpuid.assign(VMX, false);
        assert_eq!(
            cpuid.get(0x1, 0),
            Registers {
                edx: 1 << 28,
                ..Registers::ZERO
            }
        );
        // Another subleaf's bit is another feature.
        cpuid.insert(
            0x7,
            Some(1),
            Registers {
                ebx: u32::MAX,
                ..Registers::ZERO
            },
        );
        cpuid.clear(SGX);
        assert_eq!(
            [cpuid.get(0x7, 0).ebx, cpuid.get(0x7, 1).ebx],
            [0, u32::MAX]
        );
        assert_eq!(VMX.to_string(), "VMX (CPUID.1H:ECX[5])");
        assert_eq!(SGX.to_string(), "SGX (CPUID.7H.0:EBX[2])");
    }
}
