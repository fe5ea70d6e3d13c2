//! CPUID as text: in recorded hosts, and in what `nestling doctor` prints.
//!
//! A set is a map with one line for each answer, from leaf (and subleaf) to
//! EAX, EBX, ECX and EDX, all in hexadecimal:
//!
//! ```json
//! { "0x00000000": "0000000d 68747541 444d4163 69746e65",
//!   "0x00000007.0": "00000000 219c07ab 00000000 00000000" }
//! ```

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{Cpuid, Registers, set::Key};

impl Serialize for Cpuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, registers)| {
            let Registers { eax, ebx, ecx, edx } = registers;
            (
                format_key(key),
                format!("{eax:08x} {ebx:08x} {ecx:08x} {edx:08x}"),
            )
        }))
    }
}

impl<'de> Deserialize<'de> for Cpuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CpuidVisitor)
    }
}

struct CpuidVisitor;

impl<'de> Visitor<'de> for CpuidVisitor {
    type Value = Cpuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from leaf, or leaf.subleaf, to the four registers in hexadecimal")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cpuid, A::Error> {
        let mut cpuid = Cpuid::default();
        while let Some((place, values)) = map.next_entry::<String, String>()? {
            let key = parse_key(&place).ok_or_else(|| {
                de::Error::custom(format!(
                    "\"{place}\" is no CPUID leaf such as \"0x00000007.0\""
                ))
            })?;
            let registers = parse_registers(&values).ok_or_else(|| {
                de::Error::custom(format!(
                    "CPUID leaf {place}: \"{values}\" is not four hexadecimal numbers"
                ))
            })?;
            cpuid
                .insert_new(key, registers)
                .map_err(de::Error::custom)?;
        }
        Ok(cpuid)
    }
}

/// The leaf, and the subleaf if it has any, as text.
pub(crate) fn format_key((leaf, subleaf): Key) -> String {
    match subleaf {
        None => format!("{leaf:#010x}"),
        Some(subleaf) => format!("{leaf:#010x}.{subleaf}"),
    }
}

/// The leaf, and the subleaf if it has any, from text.
pub(crate) fn parse_key(text: &str) -> Option<Key> {
    let (leaf, subleaf) = match text.split_once('.') {
        None => (text, None),
        Some((leaf, subleaf)) => (leaf, Some(subleaf.parse().ok()?)),
    };
    Some((parse_hex(leaf.strip_prefix("0x")?)?, subleaf))
}

/// EAX, EBX, ECX and EDX from text.
pub(crate) fn parse_registers(text: &str) -> Option<Registers> {
    let mut values = text.split_ascii_whitespace().map(parse_hex);
    let mut next = || values.next().flatten();
    let registers = Registers {
        eax: next()?,
        ebx: next()?,
        ecx: next()?,
        edx: next()?,
    };
    values.next().is_none().then_some(registers)
}

fn parse_hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_a_line() {
        let mut cpuid = Cpuid::default();
        cpuid.insert(
            0x8000_0001,
            None,
            Registers {
                eax: 1,
                ebx: 2,
                ecx: 3,
                edx: u32::MAX,
            },
        );
        cpuid.insert(7, Some(1), Registers::ZERO);
        assert_eq!(
            serde_json::to_string(&cpuid).unwrap(),
            r#"{"0x00000007.1":"00000000 00000000 00000000 00000000","#.to_owned()
                + r#""0x80000001":"00000001 00000002 00000003 ffffffff"}"#
        );
    }

    #[test]
    fn what_is_no_cpuid_is_refused() {
        let cases = [
            (r#"{"7": "0 0 0 0"}"#, "\"7\" is no CPUID leaf"),
            (r#"{"0x7.": "0 0 0 0"}"#, "\"0x7.\" is no CPUID leaf"),
            (r#"{"0x7.x": "0 0 0 0"}"#, "\"0x7.x\" is no CPUID leaf"),
            (
                r#"{"0x100000000": "0 0 0 0"}"#,
                "\"0x100000000\" is no CPUID leaf",
            ),
            (r#"{"0x7": "0 0 0"}"#, "leaf 0x7: \"0 0 0\" is not four"),
            (
                r#"{"0x7": "0 0 0 0 0"}"#,
                "leaf 0x7: \"0 0 0 0 0\" is not four",
            ),
            (r#"{"0x7": "0 0 0 g"}"#, "leaf 0x7: \"0 0 0 g\" is not four"),
            (
                r#"{"0x7": "0 0 0 0", "0x7.1": "0 0 0 0"}"#,
                "is answered twice",
            ),
            (r#"{"0x7": 7}"#, "expected a string"),
            ("[]", "expected a map from leaf"),
        ];
        for (text, reason) in cases {
            let error = serde_json::from_str::<Cpuid>(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
