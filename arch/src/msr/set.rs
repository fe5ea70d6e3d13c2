//! MSRs and their values, in the program and as text.
//!
//! As text a set is a map from number to value, both in hexadecimal:
//! `{ "0x3a": "0x0000000000000005" }`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// MSRs and their values, ordered by number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct MsrSet(BTreeMap<u32, u64>);

impl MsrSet {
    /// The MSR's value, if it is in the set.
    pub fn get(&self, msr: u32) -> Option<u64> {
        self.0.get(&msr).copied()
    }

    /// Puts a value in, in place of the MSR's former one.
    pub fn insert(&mut self, msr: u32, value: u64) {
        self.0.insert(msr, value);
    }

    /// How many MSRs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().map(|(msr, value)| (*msr, *value))
    }
}

impl FromIterator<(u32, u64)> for MsrSet {
    fn from_iter<I: IntoIterator<Item = (u32, u64)>>(msrs: I) -> Self {
        Self(msrs.into_iter().collect())
    }
}

impl Extend<(u32, u64)> for MsrSet {
    fn extend<I: IntoIterator<Item = (u32, u64)>>(&mut self, msrs: I) {
        self.0.extend(msrs);
    }
}

impl From<MsrSet> for BTreeMap<String, String> {
    fn from(set: MsrSet) -> Self {
        let text = |(msr, value)| (format!("{msr:#x}"), format!("{value:#018x}"));
        set.0.into_iter().map(text).collect()
    }
}

impl TryFrom<BTreeMap<String, String>> for MsrSet {
    type Error = String;

    fn try_from(text: BTreeMap<String, String>) -> Result<Self, String> {
        let hex = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
        text.iter()
            .map(|(msr, value)| {
                let index = hex(msr).and_then(|index| u32::try_from(index).ok());
                index
                    .zip(hex(value))
                    .ok_or_else(|| format!("{msr} = {value} is no MSR with its value"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_and_written() {
        let set: MsrSet = [(0xC000_0080, u64::MAX), (0x3A, 5)].into_iter().collect();
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(
            text,
            r#"{"0x3a":"0x0000000000000005","0xc0000080":"0xffffffffffffffff"}"#
        );
        assert_eq!(serde_json::from_str::<MsrSet>(&text).unwrap(), set);
    }

    #[test]
    fn what_is_no_msr_is_refused() {
        for text in [
            r#"{"3a": "0x0"}"#,
            r#"{"0x3a": "5"}"#,
            r#"{"0x100000000": "0x0"}"#,
            r#"{"0x3a": "0x10000000000000000"}"#,
        ] {
            assert!(serde_json::from_str::<MsrSet>(text).is_err(), "{text}");
        }
    }
}
