//! Templates as text: the schema of a template's file, in JSON or TOML.
//!
//! docs/cpu-templates.md describes it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::{Rule, Template, Unnamed, catalogue, msrs};
use crate::cpuid::{self, Key, Register, Vendor, names};

/// The schema that this version reads and writes.
const VERSION: u32 = 1;

/// Why a text is no template.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TextError {
    /// Another schema.
    #[error("schema version {0} isn't known; this nestling reads version {VERSION}")]
    Version(u32),
    /// Nothing to call it by.
    #[error("name: it is empty; write a word that names the template in messages")]
    NoName,
    /// A vendor without processors.
    #[error("vendor: `other` has no processors; write intel or amd, or leave it out")]
    Vendor,
    /// A key that is no leaf.
    #[error("cpuid.\"{0}\": it is no CPUID leaf; write one such as \"0x00000001\" or \"0x7.0\"")]
    NoLeaf(String),
    /// A leaf that a template can't decide about.
    #[error("cpuid.\"{key}\": {why}")]
    Leaf {
        /// The key.
        key: String,
        /// Why not.
        why: &'static str,
    },
    /// The same leaf in two ways of writing it.
    #[error("cpuid.\"{0}\": the leaf is there twice")]
    Twice(String),
    /// A register whose value isn't the template's.
    #[error("cpuid.\"{key}\".{register}: {why}; leave it out")]
    Register {
        /// The key.
        key: String,
        /// The register.
        register: Register,
        /// Why not.
        why: &'static str,
    },
    /// A string that is no number, or too large for its place.
    #[error("{place}: `{text}` is no hexadecimal number of at most {bits} bits, such as 0x20")]
    Number {
        /// Where.
        place: String,
        /// What stands there.
        text: String,
        /// How wide it may be.
        bits: u32,
    },
    /// A leaf's string that isn't four registers.
    #[error(
        "cpuid.\"{key}\": `{text}` is not EAX, EBX, ECX and EDX as four hexadecimal numbers of 32 \
         bits"
    )]
    Registers {
        /// The key.
        key: String,
        /// What stands there.
        text: String,
    },
    /// A name that no feature has.
    #[error(
        "{list}: no feature is called `{name}`; the names are those of the SDM and the APM, such \
         as AVX2 or SSE4A"
    )]
    Feature {
        /// `hide` or `require`.
        list: &'static str,
        /// The name.
        name: String,
    },
    /// A feature that is both, or whose bit has a rule already.
    #[error("{0}: its bit is decided in two ways; write it in one of cpuid, hide and require")]
    Decided(String),
    /// An MSR that a template can't decide about.
    #[error("msrs.\"{key}\": it is no feature MSR that KVM lets a machine set; there are {known}")]
    Msr {
        /// The key.
        key: String,
        /// Those that there are.
        known: String,
    },
    /// A string that names no baseline.
    #[error("there is no template `{name}`; there are {known}, or a file's path")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
}

/// A template's file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    version: u32,
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vendor: Option<Vendor>,
    #[serde(default)]
    unnamed: Unnamed,
    #[serde(default, skip_serializing)]
    hide: Vec<String>,
    #[serde(default, skip_serializing)]
    require: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    cpuid: BTreeMap<String, LeafForm>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    msrs: BTreeMap<String, RuleForm>,
}

/// A leaf: four values as in a dump, or a rule for each register.
#[derive(Clone)]
enum LeafForm {
    Values(String),
    Rules(Box<RuleForms>),
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleForms {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eax: Option<RuleForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ebx: Option<RuleForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ecx: Option<RuleForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edx: Option<RuleForm>,
}

/// A register: its value on any host, or a rule.
#[derive(Clone)]
enum RuleForm {
    Value(String),
    Rule(MaskForm),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaskForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set: Option<String>,
}

/// Reads and writes what is a string in its short form and a map in its long one.
macro_rules! string_or_map {
    ($form:ident, $short:ident, $long:ident, $what:literal) => {
        impl Serialize for $form {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::$short(text) => text.serialize(serializer),
                    Self::$long(map) => map.serialize(serializer),
                }
            }
        }

        impl<'de> Deserialize<'de> for $form {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> Visitor<'de> for Either {
                    type Value = $form;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$form, E> {
                        Ok($form::$short(text.to_owned()))
                    }
                    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<$form, M::Error> {
                        Deserialize::deserialize(MapAccessDeserializer::new(map)).map($form::$long)
                    }
                }
                deserializer.deserialize_any(Either)
            }
        }
    };
}

string_or_map!(
    LeafForm,
    Values,
    Rules,
    "four registers in hexadecimal, or a map of registers"
);
string_or_map!(
    RuleForm,
    Value,
    Rule,
    "a hexadecimal number, or a map of mask and set"
);

impl<'de> Deserialize<'de> for Template {
    /// From the name of a baseline, or from a template's file.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrForm;
        impl<'de> Visitor<'de> for NameOrForm {
            type Value = Template;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a template, or the name of one")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Template, E> {
                Template::named(name).map_err(E::custom)
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Template, M::Error> {
                let form = Form::deserialize(MapAccessDeserializer::new(map))?;
                Template::try_from(form).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(NameOrForm)
    }
}

impl TryFrom<Form> for Template {
    type Error = TextError;

    fn try_from(form: Form) -> Result<Self, TextError> {
        if form.version != VERSION {
            return Err(TextError::Version(form.version));
        }
        if form.name.trim().is_empty() {
            return Err(TextError::NoName);
        }
        if form.vendor == Some(Vendor::Other) {
            return Err(TextError::Vendor);
        }
        let mut template = Self::new(form.name, form.unnamed);
        template.description = form.description;
        template.vendor = form.vendor;
        for (key, leaf) in form.cpuid {
            template.read_leaf(&key, leaf)?;
        }
        template.read_features(&form.hide, &form.require)?;
        for (key, rule) in form.msrs {
            let msr = msrs::find(&key).ok_or_else(|| TextError::Msr {
                key: key.clone(),
                known: list(msrs::known().map(msrs::name)),
            })?;
            let rule = rule64(&format!("msrs.\"{key}\""), rule, form.unnamed)?;
            template.msrs.insert(msr, rule);
        }
        Ok(template)
    }
}

impl Template {
    fn read_leaf(&mut self, text: &str, leaf: LeafForm) -> Result<(), TextError> {
        let key = parse_key(text)?;
        if self.cpuid.contains_key(&key) {
            return Err(TextError::Twice(text.to_owned()));
        }
        let rules = match leaf {
            LeafForm::Values(values) => {
                let Some(registers) = cpuid::parse_registers(&values) else {
                    return Err(TextError::Registers {
                        key: text.to_owned(),
                        text: values,
                    });
                };
                self.pin(key, registers);
                return Ok(());
            }
            LeafForm::Rules(rules) => *rules,
        };
        let RuleForms { eax, ebx, ecx, edx } = rules;
        // An answer that is there without any register is there all the same.
        self.cpuid.entry(key).or_default();
        for (register, form) in Register::ALL.into_iter().zip([eax, ebx, ecx, edx]) {
            let Some(form) = form else { continue };
            if let Some(why) = catalogue::why_not_register(key, register) {
                return Err(TextError::Register {
                    key: text.to_owned(),
                    register,
                    why,
                });
            }
            let rule = rule32(&format!("cpuid.\"{text}\".{register}"), form, self.unnamed)?;
            self.set_rule(key, register, rule);
        }
        Ok(())
    }

    fn read_features(&mut self, hide: &[String], require: &[String]) -> Result<(), TextError> {
        let mut decided = Vec::new();
        let by_leaf = self.clone();
        for (list, names, on) in [("hide", hide, false), ("require", require, true)] {
            for name in names {
                let feature = names::find(name).ok_or_else(|| TextError::Feature {
                    list,
                    name: name.clone(),
                })?;
                let key = (feature.leaf, feature.subleaf);
                let register = feature.register;
                if decided.contains(&feature) || by_leaf.names(key, register) {
                    return Err(TextError::Decided(feature.to_string()));
                }
                decided.push(feature);
                let Rule { mask, set } = self.rule(key, register);
                let rule = Rule {
                    mask: mask & !feature.mask(),
                    set: if on { set | feature.mask() } else { set },
                };
                self.set_rule(key, register, rule);
            }
        }
        Ok(())
    }
}

fn parse_key(text: &str) -> Result<Key, TextError> {
    let key = cpuid::parse_key(text).ok_or_else(|| TextError::NoLeaf(text.to_owned()))?;
    if catalogue::kinds(key).is_some() {
        return Ok(key);
    }
    Err(TextError::Leaf {
        key: text.to_owned(),
        why: catalogue::why_not(key),
    })
}

fn number(place: &str, text: &str, bits: u32) -> Result<u64, TextError> {
    text.strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .filter(|value| value.checked_shr(bits).unwrap_or(0) == 0)
        .ok_or_else(|| TextError::Number {
            place: place.to_owned(),
            text: text.to_owned(),
            bits,
        })
}

/// A rule of 64 bits; those of 32 are read as such.
fn rule64(place: &str, form: RuleForm, unnamed: Unnamed) -> Result<Rule<u64>, TextError> {
    read_rule(place, form, unnamed, 64)
}

fn rule32(place: &str, form: RuleForm, unnamed: Unnamed) -> Result<Rule<u32>, TextError> {
    let Rule { mask, set } = read_rule(place, form, unnamed, 32)?;
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(Rule {
        mask: low(mask),
        set: low(set),
    })
}

fn read_rule(
    place: &str,
    form: RuleForm,
    unnamed: Unnamed,
    bits: u32,
) -> Result<Rule<u64>, TextError> {
    let MaskForm { mask, set } = match form {
        RuleForm::Value(text) => return Ok(Rule::<u64>::exactly(number(place, &text, bits)?)),
        RuleForm::Rule(form) => form,
    };
    let part = |name: &str, text: Option<String>, default: u64| match text {
        Some(text) => number(&format!("{place}.{name}"), &text, bits),
        None => Ok(default),
    };
    let all = match unnamed {
        Unnamed::Keep => u64::MAX >> (64 - bits),
        Unnamed::Hide => 0,
    };
    Ok(Rule {
        mask: part("mask", mask, all)?,
        set: part("set", set, 0)?,
    })
}

impl From<Template> for Form {
    fn from(template: Template) -> Self {
        let leaf = |(key, rules): (Key, BTreeMap<Register, Rule<u32>>)| {
            (cpuid::format_key(key), leaf_form(&rules))
        };
        let msr = |(msr, rule): (u32, Rule<u64>)| {
            (format!("{msr:#x}"), rule_form(rule.mask, rule.set, 18))
        };
        Self {
            version: VERSION,
            name: template.name,
            description: template.description,
            vendor: template.vendor,
            unnamed: template.unnamed,
            hide: Vec::new(),
            require: Vec::new(),
            cpuid: template.cpuid.into_iter().map(leaf).collect(),
            msrs: template.msrs.into_iter().map(msr).collect(),
        }
    }
}

fn leaf_form(rules: &BTreeMap<Register, Rule<u32>>) -> LeafForm {
    if rules.len() == Register::ALL.len() && rules.values().all(|rule| rule.mask == 0) {
        let values: Vec<String> = rules
            .values()
            .map(|rule| format!("{:08x}", rule.set))
            .collect();
        return LeafForm::Values(values.join(" "));
    }
    let form = |register| {
        let rule: &Rule<u32> = rules.get(&register)?;
        Some(rule_form(rule.mask.into(), rule.set.into(), 10))
    };
    LeafForm::Rules(Box::new(RuleForms {
        eax: form(Register::Eax),
        ebx: form(Register::Ebx),
        ecx: form(Register::Ecx),
        edx: form(Register::Edx),
    }))
}

fn rule_form(mask: u64, set: u64, width: usize) -> RuleForm {
    let hex = |value| format!("{value:#0width$x}");
    match mask {
        0 => RuleForm::Value(hex(set)),
        _ => RuleForm::Rule(MaskForm {
            mask: Some(hex(mask)),
            set: (set != 0).then(|| hex(set)),
        }),
    }
}

/// Words in a row, for a message.
pub(super) fn list<T: fmt::Display>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    words.join(", ")
}
