//! Option strings as on the command line: `path=disk.img,readonly=on`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// Why an option string can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A part without `=` where none may stand.
    #[error("`{part}` is no key=value; the keys are {known}")]
    NoValue {
        /// The part.
        part: String,
        /// The keys there are.
        known: String,
    },
    /// A key that doesn't exist.
    #[error("there is no key `{key}`; the keys are {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The keys there are.
        known: String,
    },
    /// A key twice.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// A key that must be there and isn't.
    #[error("`{0}=` is missing")]
    Missing(&'static str),
    /// A value of the wrong kind.
    #[error("`{key}={value}`: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Why the value can't be.
        reason: String,
    },
}

/// A parsed option string, from which values are taken by key.
#[derive(Debug)]
pub struct Options(BTreeMap<&'static str, String>);

impl Options {
    /// Splits `text` at commas. The first part may leave out its key, which
    /// then is `keys[0]`.
    pub fn parse(text: &str, keys: &[&'static str]) -> Result<Self, OptionError> {
        let known = || keys.join(", ");
        let mut values = BTreeMap::new();
        for (index, part) in text.split(',').enumerate() {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, value),
                None if index == 0 && !part.is_empty() => (keys[0], part),
                None => {
                    return Err(OptionError::NoValue {
                        part: part.into(),
                        known: known(),
                    });
                }
            };
            let Some(key) = keys.iter().find(|k| **k == key) else {
                return Err(OptionError::UnknownKey {
                    key: key.into(),
                    known: known(),
                });
            };
            if values.insert(*key, value.to_owned()).is_some() {
                return Err(OptionError::Twice((*key).into()));
            }
        }
        Ok(Self(values))
    }

    /// Takes the value of `key`, if it is there.
    pub fn take<T>(&mut self, key: &'static str) -> Result<Option<T>, OptionError>
    where
        T: FromStr<Err: Display>,
    {
        let Some(value) = self.0.remove(key) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(parsed) => Ok(Some(parsed)),
            Err(error) => Err(OptionError::Value {
                key,
                value,
                reason: error.to_string(),
            }),
        }
    }

    /// Takes the value of `key`, which must be there.
    pub fn require<T>(&mut self, key: &'static str) -> Result<T, OptionError>
    where
        T: FromStr<Err: Display>,
    {
        self.take(key)?.ok_or(OptionError::Missing(key))
    }

    /// Takes an on/off switch; off where it isn't there.
    pub fn switch(&mut self, key: &'static str) -> Result<bool, OptionError> {
        Ok(self.switch_if_given(key)?.unwrap_or(false))
    }

    /// Takes an on/off switch, if it is there.
    pub fn switch_if_given(&mut self, key: &'static str) -> Result<Option<bool>, OptionError> {
        match self.0.remove(key).as_deref() {
            None => Ok(None),
            Some("off" | "false" | "no") => Ok(Some(false)),
            Some("on" | "true" | "yes") => Ok(Some(true)),
            Some(value) => Err(OptionError::Value {
                key,
                value: value.into(),
                reason: "write on or off".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[&str] = &["path", "readonly", "queues"];

    #[test]
    fn takes_values_by_key_and_the_first_without() {
        for text in [
            "path=a.img,readonly=on,queues=2",
            "a.img,queues=2,readonly=yes",
        ] {
            let mut options = Options::parse(text, KEYS).expect(text);
            assert_eq!(options.require::<String>("path"), Ok("a.img".into()));
            assert_eq!(options.switch("readonly"), Ok(true));
            assert_eq!(options.take::<u16>("queues"), Ok(Some(2)));
            assert_eq!(options.take::<u16>("queues"), Ok(None));
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            (
                "a,b",
                "`b` is no key=value; the keys are path, readonly, queues",
            ),
            (
                "",
                "`` is no key=value; the keys are path, readonly, queues",
            ),
            (
                "a,size=3",
                "there is no key `size`; the keys are path, readonly, queues",
            ),
            ("a,path=b", "`path` is given twice"),
        ] {
            assert_eq!(
                Options::parse(text, KEYS).expect_err(text).to_string(),
                message
            );
        }
        let mut options = Options::parse("queues=x,readonly=maybe", KEYS).expect("parses");
        assert_eq!(
            options.take::<u16>("queues").expect_err("x").to_string(),
            "`queues=x`: invalid digit found in string"
        );
        assert_eq!(
            options.switch("readonly").expect_err("maybe").to_string(),
            "`readonly=maybe`: write on or off"
        );
        assert_eq!(
            options.require::<String>("path"),
            Err(OptionError::Missing("path"))
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text: String) {
            let _ = Options::parse(&text, KEYS);
        }
    }
}
